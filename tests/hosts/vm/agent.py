#!/usr/bin/env python3
"""In the machine: does what each line of JSON on the virtio port asks for, and answers with a line of JSON.

It uses the standard library alone and no other file of the harness: it is copied into the root as it is.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PORT = "/dev/virtio-ports/harness"
DEVICE = "/dev/vport{}p1"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
}


def run(argv: list[str], stdin: str, timeout: float) -> dict[str, Any]:
    """A command, as the harness's `Result` has it; past the timeout it is killed and counts as 124.

    Its output goes to files, not pipes: a pipe would wait for the daemons that it leaves behind.
    """
    with open(os.memfd_create("out"), "w+b") as out, open(os.memfd_create("err"), "w+b") as err:
        try:
            done = subprocess.run(
                argv,
                input=stdin.encode(),
                stdout=out,
                stderr=err,
                timeout=timeout,
                env=ENVIRONMENT,
                cwd="/",
                start_new_session=True,
                check=False,
            )
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = 124
        except OSError as error:
            code = 127
            err.write(f"{error}\n".encode())
        return {"rc": code, "out": _text(out), "err": _text(err)}


def put(path: str, data: str, mode: int) -> dict[str, Any]:
    """Writes a file in place; the folders above are made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(base64.b64decode(data))
    return {}


def get(path: str) -> dict[str, Any]:
    """A file's bytes; none at all where there is no such file."""
    try:
        with open(path, "rb") as file:
            return {"data": base64.b64encode(file.read()).decode()}
    except FileNotFoundError:
        return {"data": None}


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {"run": run, "put": put, "get": get}


def answer(line: bytes) -> dict[str, Any]:
    """One request; whatever goes wrong is an answer too, or the test would wait for its timeout."""
    request = json.loads(line)
    try:
        return {"id": request["id"], **ACTIONS[request["do"]](**request["with"])}
    except Exception as error:  # noqa: BLE001
        return {"id": request["id"], "error": repr(error)}


def serve(port: int) -> None:
    """For ever: reading 0 bytes means only that nobody is connected on the other side."""
    waiting = b""
    while True:
        data = os.read(port, 1 << 16)
        if not data:
            time.sleep(0.05)
        waiting += data
        while b"\n" in waiting:
            line, waiting = waiting.split(b"\n", 1)
            reply = json.dumps(answer(line)).encode() + b"\n"
            while reply:
                reply = reply[os.write(port, reply) :]


def _text(file: Any) -> str:
    file.seek(0)
    return str(file.read().decode(errors="backslashreplace"))


def main() -> int:
    """The init starts it again when there is no port yet."""
    names = [PORT, *(DEVICE.format(number) for number in range(4))]
    found = next((name for name in names if os.path.exists(name)), None)
    if found is None:
        time.sleep(0.5)
        return 1
    serve(os.open(found, os.O_RDWR))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The test run's end of the agent in a machine: one request, one answer."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.hosts import commands
from tests.hosts.commands import Result

_FILES = 300  # seconds for a file to come or go: an emulated processor may have to wait long for the real one


class LinkError(RuntimeError):
    """The agent does not answer, or could not do what it was asked for."""


class Link:
    """One agent. Requests are numbered: an answer that came after its timeout is passed over."""

    def __init__(self, wire: socket.socket, alive: Callable[[], bool]) -> None:
        self._wire = wire
        self._alive = alive
        self._buffer = b""
        self._number = 0

    def run(self, command: str | Sequence[str], timeout: float, stdin: str = "") -> Result:
        """A command as root: a string through /bin/sh, a sequence as it is."""
        argv = commands.argv_of(command)
        return Result(**self._ask("run", timeout + 15, argv=argv, stdin=stdin, timeout=timeout))

    def put(self, path: str, content: bytes, mode: int) -> None:
        """Writes a file."""
        self._ask("put", _FILES, path=path, data=base64.b64encode(content).decode(), mode=mode)

    def get(self, path: str) -> bytes | None:
        """A file's bytes, or None where there is none."""
        data = self._ask("get", _FILES, path=path)["data"]
        return None if data is None else base64.b64decode(data)

    def wait(self, timeout: float) -> None:
        """Until the agent answers at all: while the machine boots nobody hears what is asked."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                self._ask("run", 5, argv=["true"], stdin="", timeout=5)
            except TimeoutError:
                continue
            return
        raise LinkError(f"no agent within {timeout:.0f} s")

    def _ask(self, action: str, patience: float, **arguments: Any) -> dict[str, Any]:
        self._number += 1
        request = {"id": self._number, "do": action, "with": arguments}
        self._wire.settimeout(patience)
        try:
            self._wire.sendall(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise LinkError("the machine ended") from None
        answer = self._answer(time.monotonic() + patience)
        if "error" in answer:
            raise LinkError(f"{action}: {answer['error']}")
        del answer["id"]
        return answer

    def _answer(self, deadline: float) -> dict[str, Any]:
        while True:
            while b"\n" not in self._buffer:
                self._buffer += self._receive(deadline)
            line, self._buffer = self._buffer.split(b"\n", 1)
            answer: dict[str, Any] = json.loads(line)
            if answer["id"] == self._number:
                return answer

    def _receive(self, deadline: float) -> bytes:
        """Looks every second whether qemu is still there: its socket alone would not tell."""
        while True:
            self._wire.settimeout(max(0.01, min(1.0, deadline - time.monotonic())))
            try:
                data = self._wire.recv(1 << 16)
            except TimeoutError:
                if not self._alive():
                    raise LinkError("the machine ended") from None
                if time.monotonic() >= deadline:
                    raise TimeoutError("the agent is silent") from None
                continue
            if not data:
                raise LinkError("the machine ended")
            return data

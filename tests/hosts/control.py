"""The test run's end of one supervisor: starts it, talks to it, reads the console it keeps."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.hosts import cgroups
from tests.hosts.roots import Root
from tests.hosts.supervisor import STAGE, Settings

_ESCAPES = re.compile(r"\x1b(\[[0-9;?!]*[A-Za-z]|[c>=78])|\x1b\][^\x07\x1b]*(\x07|\x1b\\)")  # colours, cursor
_CHECKOUT = Path(__file__).parents[2]


class HostGoneError(RuntimeError):
    """The host or its supervisor ended although the scenario still needs it."""


class Control:
    """One supervisor. Closing the socket ends the host, and so does the end of this process, any end."""

    def __init__(self, root: Root, hostname: str = "dom0") -> None:
        self._console = os.memfd_create("console")
        self._socket, theirs = socket.socketpair()
        self._systemd = root.recipe.init == "systemd"
        settings = Settings(
            root=str(root.path),
            pool=str(root.debs),
            hostname=hostname,
            systemd=self._systemd,
            control=theirs.fileno(),
            console=self._console,
        )
        with theirs:
            self._process = _start(settings)
        self._buffer = b""
        self.expect("ready", 20)

    @property
    def pid(self) -> int:
        """The supervisor's: its network namespace is the LAN."""
        return self._process.pid

    @property
    def merged(self) -> str:
        """The host's root file system, there between two boots as well (without the host's own mounts)."""
        return f"/proc/{self.pid}/root{STAGE}/root"

    @property
    def commands_cgroup(self) -> Path | None:
        """Where a systemd host keeps what is run in it from outside."""
        return cgroups.of(self.pid) / cgroups.COMMANDS if self._systemd else None

    def console(self) -> str:
        """All that was written, as text, to the host's console since it first booted."""
        text = Path(f"/proc/self/fd/{self._console}").read_bytes().decode(errors="replace")
        return _ESCAPES.sub("", text).replace("\r\n", "\n")

    def tell(self, command: str) -> None:
        """`boot` or `kill`."""
        self._socket.sendall(command.encode() + b"\n")

    def expect(self, event: str, timeout: float) -> dict[str, Any]:
        """The next event of that name; others before it are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            *lines, self._buffer = self._buffer.split(b"\n", 1) if b"\n" in self._buffer else (self._buffer,)
            if lines:
                message: dict[str, Any] = json.loads(lines[0])
                if message["event"] == event:
                    return message
                continue
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._socket], [], [], left)[0]:
                raise HostGoneError(f"no {event!r} from the host within {timeout} s\n{self.console()}")
            data = self._socket.recv(4096)
            if not data:
                raise HostGoneError(f"the host's supervisor ended\n{self.console()}")
            self._buffer += data

    def close(self) -> None:
        """Ends the host and waits until it is gone."""
        self._socket.close()
        self._process.wait(30)
        if self._console >= 0:
            os.close(self._console)
            self._console = -1


def _start(settings: Settings) -> subprocess.Popen[bytes]:
    """In its own session: a Ctrl-C at the terminal reaches the test run alone, and the end is orderly."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.hosts.supervisor", json.dumps(asdict(settings))],
        stdin=subprocess.DEVNULL,
        stdout=settings.console,
        stderr=settings.console,
        pass_fds=(settings.control, settings.console),
        cwd=_CHECKOUT,
        start_new_session=True,
    )

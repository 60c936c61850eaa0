"""Commands that run in a host, and what comes back from them."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import inside

ENVIRONMENT = {
    **inside.ENVIRONMENT,
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
}


@dataclass(frozen=True)
class Result:
    """How a command ended and what it said."""

    rc: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Its output, line by line."""
        return self.out.splitlines()


class CommandError(AssertionError):
    """A command failed that a scenario needs; the message shows all it said."""

    def __init__(self, argv: Sequence[str], result: Result) -> None:
        super().__init__(f"{shlex.join(argv)} ended with {result.rc}\n{result.out}{result.err}")
        self.result = result


class Job:
    """A command under way. Its output goes to files: a pipe would wait for the daemons it leaves."""

    def __init__(self, argv: Sequence[str], entry: Sequence[str], stdin: str = "") -> None:
        self.argv = argv
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the job is
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as given:
            given.write(stdin.encode())
            given.seek(0)
            self._process = subprocess.Popen(
                [*entry, *argv],
                stdin=given,
                stdout=self._out,
                stderr=self._err,
                env=ENVIRONMENT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """On this machine: of the command itself on the LAN, of the one that entered for it in a host."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def so_far(self) -> Result:
        """What it has said up to now; the rc is -1 while it runs."""
        rc = self._process.poll()
        return Result(-1 if rc is None else rc, _text(self._out.fileno()), _text(self._err.fileno()))

    def wait(self, timeout: float = 60) -> Result:
        """Its end; past the timeout it is killed and counts as failed with 124, as timeout(1) has it."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            done = self.so_far
            return Result(124, done.out, f"{done.err}still running after {timeout} s\n")
        return self.so_far

    def kill(self) -> None:
        """The command goes with the one that entered the host for it (it asked for its parent's death)."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


def argv_of(command: str | Sequence[str]) -> list[str]:
    """A string is for the shell, a sequence is not."""
    return ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)


def entry_to(init: int, cgroup: Path | None) -> list[str]:
    """Into a host, with no more power than its own init has, and into one of its control groups."""
    enter = ["nsenter", "-t", str(init), "-a", "--", *inside.CONFINE, "--pdeathsig=KILL", "--"]
    if cgroup is None:
        return enter
    return ["/bin/sh", "-c", 'echo 0 >"$0"/cgroup.procs && exec "$@"', str(cgroup), *enter]


def entry_to_lan(supervisor: int) -> list[str]:
    """Into the network at the other end of the cable. Nothing there dies with a pid namespace."""
    return [*dying_with_us(), "nsenter", "-t", str(supervisor), "-n", "--"]


def dying_with_us() -> list[str]:
    """What goes before a command that must not outlive the test run: it asks for its parent's death, and then
    looks whether it came too late to hear of it.
    """
    still_wanted = ["/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
    return ["setpriv", "--pdeathsig=KILL", "--", *still_wanted]


def _text(fd: int) -> str:
    return Path(f"/proc/self/fd/{fd}").read_text(errors="backslashreplace")

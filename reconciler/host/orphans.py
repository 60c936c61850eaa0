"""Stop scripts that an earlier run of ours began and did not see end: found, waited for, and ended when they hang.

Where nothing else ends them with the one that began them (systemd does, by the control group), a daemon that was killed
and started again would begin the same stop beside the first one. What is signalled must be proved to be ours, and no
record of a pid is such a proof: the process itself is asked. It is ours when it leads a session, is the trusted user's
alone, lives in our own pid namespace, began with our mark among its environment, and runs that very script's stop:
only that user could have made it so, and what a script leaves behind runs something else.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

from reconciler.host.waiting import has_ended
from reconciler.model import Outcome, StopService

MARK = ("DOM0_RECONCILER", "stop")
"""In the environment of each stop script that we begin."""


def find(owner: int) -> dict[str, list[int]]:
    """The pids of such scripts that run at this moment, by the script's path."""
    found: dict[str, list[int]] = {}
    for pid in _leaders():
        with suppress(OSError):
            if script := _script_of(pid, owner):
                found.setdefault(script, []).append(pid)
    return found


def adopt(pid: int, action: StopService, script: str, owner: int, times: tuple[float, float]) -> OrphanHandle | None:
    """Wait for it like for one that we began; ``None`` where it has ended meanwhile, whoever has its pid now."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return None
    with suppress(OSError):
        if _script_of(pid, owner) == script and not has_ended(fd):  # so all of that was said of this very process
            return OrphanHandle(action, pid, fd, times)
    os.close(fd)
    return None


class OrphanHandle:
    """Fulfils :class:`~reconciler.host.Handle`. What it leads is signalled by descriptors, while it surely leads it."""

    def __init__(self, action: StopService, pid: int, fd: int, times: tuple[float, float]) -> None:
        """``times``: the seconds until TERM, and those from there to KILL."""
        self.action, self.fd = action, fd
        self._pid, (self._seconds, self._grace), self._sent = pid, times, ""
        self.deadline = time.monotonic() + self._seconds

    def expire(self) -> None:
        """TERM to all but the script, which then may end by itself; KILL to all the next time, to the script last."""
        last = self._sent != ""
        self.deadline = math.inf if last else time.monotonic() + self._grace
        self._sent = "KILL" if last else "TERM"
        if last:  # it would end with what it waits for, and after that nobody can tell whose the rest is
            self._signal(signal.SIGSTOP)
        for pid in _pids():
            self._signal_member(pid, signal.SIGKILL if last else signal.SIGTERM)
        if last:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(OSError):
            signal.pidfd_send_signal(self.fd, number)

    def finish(self) -> Outcome:
        """Whoever reaped it knows its exit status; what it was for is looked at. ``pending`` while it still runs."""
        if not has_ended(self.fd):
            return Outcome("pending", "it still runs")
        os.close(self.fd)
        self.fd = -1
        how = f"not over after {self._seconds:.0f} s, ended by {self._sent}" if self._sent else ""
        words = ": ".join(filter(None, (how, "begun by an earlier run, its exit status is not known")))
        return Outcome("failed" if self._sent else "done", words)

    def _signal_member(self, pid: int, number: int) -> None:
        """As long as the leader has not ended, nobody else can have a session of its number."""
        with suppress(OSError):
            if pid == self._pid or os.getsid(pid) != self._pid:
                return
            fd = os.pidfd_open(pid)
            try:
                if os.getsid(pid) == self._pid and not has_ended(self.fd):
                    signal.pidfd_send_signal(fd, number)
            finally:
                os.close(fd)


def _leaders() -> Iterator[int]:
    for pid in _pids():
        with suppress(OSError):
            if os.getsid(pid) == pid:
                yield pid


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _script_of(pid: int, owner: int) -> str:
    """The script whose stop this process is, as we begin it; "" for any other process. Raises ``OSError``."""
    mine = f"/proc/{pid}"
    arguments = _read(f"{mine}/cmdline").split(b"\0")[:-1]
    if len(arguments) < 2 or arguments[-1] != b"stop":  # noqa: PLR2004  (a script and its word)
        return ""
    if os.getsid(pid) != pid or "=".join(MARK).encode() not in _read(f"{mine}/environ").split(b"\0"):
        return ""
    users = next(line.split()[1:] for line in _read(f"{mine}/status").splitlines() if line.startswith(b"Uid:"))
    if set(users) != {str(owner).encode()} or os.readlink(f"{mine}/ns/pid") != os.readlink("/proc/self/ns/pid"):
        return ""
    return os.fsdecode(arguments[-2])


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

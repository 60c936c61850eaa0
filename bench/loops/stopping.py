"""The least that stops ask of Python besides their records: a fresh look at who lives on what, and a careful start."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from contextlib import suppress

_SCRIPTS = "/etc/init.d"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}
_RESET = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
_LOGINS = ("login", "sshd-session", "sshd-auth", "in.telnetd", "in.rlogind", "in.rshd")
_KERNEL_THREAD = 0x00200000

Begun = tuple[int, int, int]
"""A pidfd, the end of the output that we read, and the pid."""


def processes() -> Iterator[tuple[int, str, int]]:
    """Every process: pid, name and parent, as ``/proc/PID/stat`` has them now."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with suppress(OSError):
                fd = os.open(f"/proc/{name}/stat", os.O_RDONLY)
                head, _, rest = os.read(fd, 4096).rpartition(b")")
                os.close(fd)
                fields = rest.split(None, 8)
                if not int(fields[6]) & _KERNEL_THREAD:
                    yield int(name), os.fsdecode(head.partition(b"(")[2]), int(fields[1])


def lived_on() -> set[str]:
    """The names of all that a login lives on."""
    table = {pid: (name, parent) for pid, name, parent in processes()}
    found: set[str] = set()
    for pid, (name, parent) in table.items():
        if name in _LOGINS or (name == table.get(parent, ("", 0))[0] == "sshd"):
            at = pid
            while at in table and at != 1:
                found.add(table[at][0])
                at = table[at][1]
    return found


def _only_ours(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid == 0 and not others and not stat.S_ISLNK(status.st_mode)


def begin(script: str) -> Begun | None:
    """Start a script's stop as the product does: its own session and group, nothing inherited, its output bounded.

    ``None`` where there is none, or another user could have written it. The folder and the umask are ours: "/" and 022.
    """
    path = f"{_SCRIPTS}/{script}"
    if not all(map(_only_ours, (path, _SCRIPTS, "/etc", "/"))):
        return None
    output, inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, inner, 1),
        (os.POSIX_SPAWN_DUP2, inner, 2),
    ]
    pid = os.posix_spawn(
        path, (path, "stop"), _ENVIRONMENT, file_actions=actions, setsid=True, setsigmask=(), setsigdef=_RESET
    )
    os.close(inner)
    return os.pidfd_open(pid), output, pid


def finish(begun: Begun) -> str:
    """How it ended, reaped, its last words read."""
    fd, output, _ = begun
    ended = os.waitid(os.P_PIDFD, fd, os.WEXITED)
    with suppress(BlockingIOError):
        os.read(output, 65536)
    os.close(output)
    os.close(fd)
    return "done" if ended is not None and ended.si_status == 0 else "failed"

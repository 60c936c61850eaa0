"""Whether dpkg is at work: its maintainer scripts must not find their links and services changed under their hands.

``invoke-rc.d`` lists a script's links, then tests each: an S link that goes between the two makes it exit 102, the
postinst with it, and the package operation fails (measured on every sysvinit host, each time).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from contextlib import suppress

from reconciler.errors import Unobservable
from reconciler.host.files import Root

LOCK = "/var/lib/dpkg/lock"
"""Held by dpkg as long as it runs (``fcntl(2)``), and by apt while dpkg does not: whose it is tells which."""

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64 bit Linux: type, whence, start, len, pid
_BY_NAME = b"dpkg"


class Patience:
    """Asks :func:`at_work`, and no longer heeds a dpkg that goes on for too long.

    A maintainer script that hangs must not keep a service alive. Each dpkg is waited for anew: it is not the last one's
    fault, and between two passes nobody looks.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._seen, self._since = "", 0.0

    def __call__(self, limit: float) -> str:
        """Why what dpkg would stumble over should wait, "" when it need not, or has for ``limit`` seconds."""
        why, now = at_work(self._root), time.monotonic()
        if why != self._seen:
            self._seen, self._since = why, now
        return why if why and now - self._since < limit else ""


def at_work(root: Root) -> str:
    """Why nothing should be changed just now, "" when dpkg runs no script and unpacks nothing.

    A dpkg without a child waits for somebody's answer on a configuration file, maybe for days: that holds nothing up.
    """
    pid = _holder(root)
    if not pid:
        return ""
    with (
        suppress(OSError),
        open(f"/proc/{pid}/comm", "rb") as comm,
        open(f"/proc/{pid}/task/{pid}/children") as children,
    ):
        if comm.read().strip() == _BY_NAME and children.read():
            return f"dpkg (process {pid}) is at work; a change now would make it fail"
    return ""


def _holder(root: Root) -> int:
    """The process that holds dpkg's lock below this root; 0 for none, or where the lock cannot be read."""
    folder, _, name = LOCK.rpartition("/")
    try:
        above = root.held_fd(folder, root.folder_fd)
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
    except (OSError, Unobservable):
        return 0
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
        return 0 if kind == fcntl.F_UNLCK else int(pid)
    except OSError:
        return 0
    finally:
        os.close(fd)

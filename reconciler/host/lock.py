"""Locks of one root: one held only while correcting, one for the single daemon.

``flock(2)``: the kernel frees a lock when its holder dies. Who may open a file may lock it, for reading too: so these
are 0600, or any user could keep every correction from being done.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from reconciler.errors import Busy, ReconcilerError
from reconciler.host.files import Root
from reconciler.host.folders import identity_of

RUN = "/run/dom0-reconciler"
DAEMON = "daemon.lock"
"""Held for life by the single daemon of a root; one of that name below /var/lib too: a folder may be tidied away."""

CORRECTING = "correcting.lock"
"""Held only while something is corrected."""

SWITCH = "network.lock"
"""Held for as long as a change of the network is applied, waited for and reverted: by one process at a time."""


@contextmanager
def held(root: Root, name: str, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of that name below the root's /run. Without ``wait``, ``Busy`` when somebody else has it."""
    fd = _open(root, name)
    try:
        take(fd, f"{RUN}/{name}", wait=wait)
        yield
    finally:
        os.close(fd)


class Correcting:
    """The lock :data:`CORRECTING` of one root, for who takes it often: a context manager whose file stays open.

    A file that was tidied away is another one by now, and so would the lock be: that is looked at once it is taken.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._fd, self._identity, self._taken = -1, (0, 0), False

    def __enter__(self) -> None:
        if self._taken:  # by another descriptor this would wait for ever; by this one the inner end would end both
            raise RuntimeError("the lock is taken already")
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if self._root.identity(f"{RUN}/{CORRECTING}") != self._identity:
                self.close()
        if self._fd < 0:
            self._fd = _open(self._root, CORRECTING)
            self._identity = identity_of(os.fstat(self._fd))
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._taken = True

    def __exit__(self, *_exception: object) -> None:
        self._taken = False
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let the file go, and the lock with it."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def __del__(self) -> None:
        self.close()


def is_held(root: Root, name: str) -> bool:
    """True while somebody holds it."""
    try:
        with held(root, name, wait=False):
            return False
    except Busy:
        return True


def take(fd: int, path: str, *, wait: bool) -> None:
    """Lock an open file until it is closed. Without ``wait``, ``Busy`` when somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(f"another process holds {path}") from error


def _open(root: Root, name: str) -> int:
    folder = root.folder_fd(RUN, create=True)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(name, flags, 0o600, dir_fd=folder)
    except OSError as error:
        raise ReconcilerError(f"{RUN}/{name}: {error.strerror}") from error
    finally:
        os.close(folder)

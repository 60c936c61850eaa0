"""Folders held open below one root, so that a reaction walks to each of them once.

A folder that is held is looked at again by its path before it is used: one ``lstat(2)`` proves that the path still
leads to it. Effects of one batch do without for some seconds. That something was mounted (the same folder, read-only
over itself) no status tells: the kernel does (``poll(2)`` of mountinfo, proc(5)), and then each is opened anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

from reconciler.host.mounts import Mounts
from reconciler.host.walk import close
from reconciler.values import Value

HOLD_SECONDS = 5.0
"""How long an effect takes an open folder to be still the one of that path; a batch is over far sooner."""

HOLD_FOLDERS = 64
"""Folders held open at most, far below any limit on descriptors; those that are lent, our own few, beside them."""

Opener = Callable[[str], int]
"""Gives a readable descriptor of the folder of a path, or raises."""

Check = Callable[[os.stat_result, str], None]
"""Raises where a folder with that status must not be used."""


Identity = tuple[int, int]
"""What a file or a folder is, whatever it is called: its device and inode."""

_NONE: Identity = (-1, -1)


class _Held(Value, frozen=False):
    fd: int
    identity: Identity
    until: float
    status: os.stat_result
    lent: bool = False  # to somebody who may use it while others are opened


def identity_of(status: os.stat_result) -> Identity:
    """Two that are equal are one, as long as either is open."""
    return status.st_dev, status.st_ino


def status_of(root_fd: int, path: str) -> os.stat_result | None:
    """Of whatever the kernel finds by a path below a root: to be compared with what was opened, and no more."""
    try:
        return os.lstat(path.lstrip("/") or ".", dir_fd=root_fd)
    except (OSError, ValueError):
        return None


class HeldFolders:
    """Descriptors that stay this object's; they are closed by :meth:`release`, or where there are too many."""

    def __init__(self, root_fd: int) -> None:
        self._root = root_fd
        self._held: dict[str, _Held] = {}
        self._mounts: Mounts | None = None

    def __len__(self) -> int:
        return len(self._held)

    def lend(self, path: str, opener: Opener, check: Check | None = None) -> int:
        """As :meth:`now`, for who keeps it over other calls: that there are too many is no reason to close this one."""
        fd = self.now(path, opener, check)
        self._held[path].lent = True
        return fd

    def now(self, path: str, opener: Opener, check: Check | None = None) -> int:
        """The folder that a path leads to at this moment. Raises what opening it raises."""
        if self._mounts is None:
            self._mounts = Mounts()
        elif self._mounts.changed():
            for each in self._held.values():  # not closed here: one of them may be in use
                each.identity, each.until = _NONE, 0.0
        held = self._held.get(path)
        if held is not None:
            status = status_of(self._root, path)
            if status is not None and identity_of(status) == held.identity:
                if check is not None:
                    check(status, path)
                held.until, held.status = monotonic() + HOLD_SECONDS, status
                return held.fd
            close(self._held.pop(path).fd)
        return self._hold(path, opener(path), check)

    def lately(self, path: str, opener: Opener) -> int:
        """The folder that the path led to when it was asked last, some seconds ago at most: for a batch of effects."""
        held = self._held.get(path)
        return held.fd if held is not None and monotonic() < held.until else self.now(path, opener)

    def status(self, path: str, opener: Opener) -> os.stat_result:
        """Of the folder that a path leads to at this moment."""
        self.now(path, opener)
        return self._held[path].status

    def doubt(self, path: str) -> None:
        """Somebody looks at the folder of that path by another descriptor: ours is to be proved before it is used."""
        if (held := self._held.get(path)) is not None:
            held.until = 0.0

    def doubt_all(self) -> None:
        """A batch is over."""
        for held in self._held.values():
            held.until = 0.0

    def release(self) -> None:
        """Close them all."""
        while self._held:
            close(self._held.popitem()[1].fd)
        if self._mounts is not None:
            self._mounts.close()
            self._mounts = None

    def _hold(self, path: str, fd: int, check: Check | None) -> int:
        try:
            status = os.fstat(fd)
            if check is not None:
                check(status, path)
        except BaseException:
            close(fd)
            raise
        free = [held for held, each in self._held.items() if not each.lent] if len(self._held) >= HOLD_FOLDERS else []
        for oldest in free[: len(self._held) - HOLD_FOLDERS + 1]:
            close(self._held.pop(oldest).fd)
        self._held[path] = _Held(fd, identity_of(status), monotonic() + HOLD_SECONDS, status)
        return fd

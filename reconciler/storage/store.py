"""Files of our own that must survive a crash: the few system calls that the journal and the quarantine share.

Both live below :data:`HOME`, and what the disk does not take below :data:`SPARE`: folders 0700 and files 0600, for they
hold what configuration files held. Every file
is reached by descriptor through the root's own confinement and opened without following a link, so a link
planted there leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Protocol

from reconciler.errors import JournalError, Unobservable
from reconciler.host import lock
from reconciler.host.caller import may_be_trusted
from reconciler.text import escape

HOME = "/var/lib/dom0-reconciler"
"""What belongs to the product, below the root."""

SPARE = f"{lock.RUN}/spare"
"""Where lines wait while the disk below :data:`HOME` fails: :mod:`reconciler.storage.spare`."""

TEMPORARY = ".dom0-reconciler."
"""How the name of each of our temporaries begins; one that is there at a start belongs to a killed run."""

_CHUNK = 1 << 20
_FULL, _BROKEN = (errno.ENOSPC, errno.EDQUOT), (errno.EROFS, errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODEV)
_DISK = frozenset((*_FULL, *_BROKEN))
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Folders(Protocol):
    """What is asked of the root: descriptors of folders confined below it."""

    def folder_fd(self, path: str, *, create: bool = False, mode: int = 0o755) -> int:
        """``FileNotFoundError`` where there is none, ``Unobservable`` where it cannot be trusted."""
        ...

    def exists(self, path: str) -> bool:
        """Whether anything lies there. Raises ``Unobservable``."""
        ...

    def held_fd(self, path: str, opener: Callable[[str], int], check: Callable[[os.stat_result, str], None]) -> int:
        """The same, not to be closed: it stays open for the next time, where the path still leads to it."""
        ...


def folder(root: Folders, path: str, *, create: bool = False) -> AbstractContextManager[int]:
    """A descriptor of a folder of ours while the block lasts; with ``create`` it is made, 0700.

    Raises what ``root.folder_fd`` raises, and ``Unobservable`` where others may write it, or one above it up to ours.
    Who writes there will soon again: for him the root holds it.
    """
    if create:
        return nullcontext(root.held_fd(path, partial(_made, root), _must_be_ours))
    return _closing(_opened(root, path))


def _made(root: Folders, path: str) -> int:
    """The folders above ours are the system's: made 0755 if an image lacks them."""
    with suppress(FileNotFoundError):
        return _opened(root, path)
    above_ours = os.path.dirname(SPARE if path == SPARE else HOME)
    os.close(root.folder_fd(above_ours, create=True, mode=0o755))
    os.close(root.folder_fd(path, create=True, mode=0o700))
    return _opened(root, path)


def _opened(root: Folders, path: str) -> int:
    fd = root.folder_fd(path)
    try:
        _must_be_ours(os.fstat(fd), path)
        for above in _above(path):
            there = root.folder_fd(above)
            try:
                _must_be_ours(os.fstat(there), above)
            finally:
                os.close(there)
    except BaseException:
        os.close(fd)
        raise
    return fd


@contextmanager
def _closing(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


def _above(path: str) -> Iterator[str]:
    """Our own folders on the way to one of them."""
    while path not in (HOME, lock.RUN) and path.startswith((HOME, lock.RUN)):
        path = os.path.dirname(path)
        yield path


@contextmanager
def folder_in(above: int, name: str) -> Iterator[int]:
    """A descriptor of a folder of ours in an open one, made 0700 and durable where there is none."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=above)
        os.fsync(above)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    try:
        yield fd
    finally:
        os.close(fd)


class failing:  # noqa: N801  (a context manager, called like a function; a generator costs as much as its block)
    """Turn what a system refuses into :class:`JournalError`, whose text says which file and why."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Unobservable):
            raise JournalError(f"{self._what}: {error}") from error
        if isinstance(error, OSError):
            raise JournalError(f"{self._what}: {error.strerror or error}") from error


def trouble(error: BaseException | None) -> str:
    """What the disk refuses, in the system's words; "" where it is not the disk that refuses."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK:
            return error.strerror or str(error)
        error = error.__cause__
    return ""


def open_write(folder_fd: int, name: str, *, flags: int = os.O_APPEND) -> int:
    """Open a regular file of ours for reading and writing, 0600; one that is made has a durable name.

    Raises ``OSError``, also for a name that is a link or no regular file.
    """
    try:
        fd = os.open(name, _FLAGS | flags, dir_fd=folder_fd)
    except FileNotFoundError:
        fd = os.open(name, _FLAGS | flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder_fd)
        os.fsync(folder_fd)
    try:
        _must_be_file(fd, name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _must_be_file(fd: int, name: str) -> None:
    """A regular file of ours with no second name: what is written here must not appear anywhere else."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, f"{name} is no regular file")
    if status.st_nlink > 1:
        raise OSError(errno.EMLINK, f"{name} has a second name somewhere")
    _must_be_ours(status, name, allowed=0o777)
    if status.st_mode & 0o077:  # put there by hand, or by a backup
        os.fchmod(fd, 0o600)


def _must_be_ours(status: os.stat_result, name: str, allowed: int = 0) -> None:
    """Root's or the caller's, and nobody else may write it: who could, would say what was done here."""
    if not may_be_trusted(status.st_uid, status.st_mode & ~allowed):
        raise Unobservable(f"{escape(name)} can be written by another user than root")


def append(fd: int, data: bytes, size: int) -> None:
    """Append ``data`` in one write(2) and make it durable with one fdatasync(2); ``size`` is the file's
    before.

    When that fails (a full disk, a bad one), the file is cut back to ``size`` and the ``OSError`` goes on: a
    reader never finds half a batch that nobody stands by. A short write is asked for its rest once more,
    which makes the system say what is wrong.
    """
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        os.fdatasync(fd)
    except BaseException:
        with suppress(OSError):
            os.ftruncate(fd, size)
        raise


def create(folder_fd: int, name: str, data: bytes) -> None:
    """Make a new file with this content, 0600, durable but for its name. ``FileExistsError`` if there."""
    fd = os.open(name, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder_fd)
    try:
        append(fd, data, 0)
    except BaseException:
        with suppress(OSError):
            os.unlink(name, dir_fd=folder_fd)
        raise
    finally:
        with suppress(OSError):  # what was synced is there, whatever close(2) says
            os.close(fd)


def open_read(folder_fd: int, name: str) -> int:
    """Open a file of ours for reading; ``FileNotFoundError`` if it is not there."""
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)


def content(fd: int, start: int = 0) -> bytes:
    """All bytes of an open file from ``start`` on, wherever its own offset is."""
    parts: list[bytes] = []
    while part := os.pread(fd, _CHUNK, start):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def sweep(folder_fd: int) -> tuple[str, ...]:
    """Remove the temporaries of killed runs from a folder; their names. Folders are left to their owner."""
    left = tuple(name for name in sorted(os.listdir(folder_fd)) if name.startswith(TEMPORARY))
    for name in left:
        with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
            os.unlink(name, dir_fd=folder_fd)
    return left

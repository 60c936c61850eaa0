"""Small files of ours that are replaced whole: a reader, and a crash, find the old one or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from reconciler.errors import JournalError
from reconciler.host import lock
from reconciler.storage import store


def replace(root: store.Folders, name: str, data: bytes, *, home: str = store.HOME) -> None:
    """Replace a file of ours, 0600, durable at the end.

    Writers hold a lock. Raises ``JournalError`` when it cannot; the old one is there then.
    """
    with store.failing(f"{home}/{name}"), store.folder(root, home, create=True) as folder:
        temporary = f"{store.TEMPORARY}{name}.{os.getpid()}"
        with suppress(FileNotFoundError):  # of a killed run that had our number
            os.unlink(temporary, dir_fd=folder)
        store.create(folder, temporary, data)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


@contextmanager
def held(root: store.Folders, name: str) -> Iterator[None]:
    """Hold the lock of that name below :data:`~reconciler.storage.store.HOME`; ``Busy`` when somebody else has it.

    A disk that is full or read-only holds no new file: one that is there can be locked, else there is no such lock.
    """
    fd = _lock_file(root, name)
    try:
        if fd >= 0:
            lock.take(fd, f"{store.HOME}/{name}", wait=False)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _lock_file(root: store.Folders, name: str) -> int:
    """A lock's file, open; -1 where the disk lets us have none."""
    try:
        with store.failing(f"{store.HOME}/{name}"), store.folder(root, store.HOME, create=True) as folder:
            return store.open_write(folder, name, flags=0)
    except JournalError as error:
        if not store.trouble(error):
            raise
    with suppress(JournalError), store.failing(name), store.folder(root, store.HOME) as folder:
        return store.open_read(folder, name)
    return -1


def set_aside(root: store.Folders, name: str, *, home: str = store.HOME) -> None:
    """Rename a file that makes no sense to ``NAME.corrupt``: what is in it may still be of use to somebody."""
    with store.failing(f"{home}/{name}"), store.folder(root, home) as folder, suppress(FileNotFoundError):
        os.rename(name, f"{name}.corrupt", src_dir_fd=folder, dst_dir_fd=folder)


def remove(root: store.Folders, name: str, *, home: str = store.HOME) -> None:
    """Take a file away for good; one that is gone is no error. Raises ``JournalError``."""
    with store.failing(f"{home}/{name}"), store.folder(root, home) as folder, suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
        os.fsync(folder)

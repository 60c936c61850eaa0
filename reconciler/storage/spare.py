"""The spare place: where lines go that the disk does not take, until it takes them again.

Home is below :data:`~reconciler.storage.store.HOME`; this is a folder of the memory (a tmpfs, on a host that runs).
A line that is durable in neither is not written, and what it would vouch for is not done. Here lies one file for each
purpose, bounded together. Whoever finds lines here brings them home first, and takes the file away only then: killed
in between, the lines themselves tell what is at home already.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO

from reconciler.storage import small, store

PLACE = store.SPARE
JOURNAL = "journal.jsonl"
MANIFEST = "manifest.jsonl"
LIMIT = 4 << 20
"""Bytes of all that lies here: it is the host's memory."""


def holds(root: store.Folders, name: str) -> bool:
    """Whether there is anything to be brought home. Raises ``JournalError``."""
    with store.failing(f"{PLACE}/{name}"), suppress(FileNotFoundError):
        if not root.exists(PLACE):  # as on nearly every host, and asked before each full pass
            return False
        with store.folder(root, PLACE) as folder:
            os.stat(name, dir_fd=folder, follow_symlinks=False)
            return True
    return False


def lines(root: store.Folders, name: str) -> list[bytes]:
    """The whole lines of a file here, none without one. Raises ``JournalError``."""
    with store.failing(f"{PLACE}/{name}"), suppress(FileNotFoundError), store.folder(root, PLACE) as folder:
        fd = store.open_read(folder, name)
        try:
            return list(_whole(store.content(fd)))
        finally:
            os.close(fd)
    return []


def _whole(text: bytes) -> Iterator[bytes]:
    """A line that a kill cut off vouches for nothing."""
    return (line for line in BytesIO(text) if line.endswith(b"\n"))


def append(root: store.Folders, name: str, data: bytes) -> None:
    """Add whole lines to a file here. Raises ``JournalError`` where that cannot be; none of them is there then."""
    with store.failing(f"{PLACE}/{name}"), store.folder(root, PLACE, create=True) as folder:
        taken = sum(os.stat(each, dir_fd=folder, follow_symlinks=False).st_size for each in os.listdir(folder))
        if taken + len(data) > LIMIT:
            raise OSError(errno.ENOSPC, f"the {LIMIT >> 20} MiB of the spare place are taken")
        fd = store.open_write(folder, name)
        try:
            size = sum(map(len, _whole(store.content(fd))))
            os.ftruncate(fd, size)
            store.append(fd, data, size)
        finally:
            with suppress(OSError):  # what was synced is there, whatever close(2) says
                os.close(fd)


def replace(root: store.Folders, name: str, data: bytes) -> None:
    """Make these the lines of a file here. Raises ``JournalError``; the old ones are there then."""
    small.replace(root, name, data, home=PLACE)


def remove(root: store.Folders, name: str) -> None:
    """All of a file's lines are at home. Raises ``JournalError``."""
    small.remove(root, name, home=PLACE)

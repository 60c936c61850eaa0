"""Where it is measured: trees in memory, seen from a mount namespace of our own, so that nothing is left of them."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.tree import Shape, furnish

_libc = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_BIND = 1, 4096
_MNT_DETACH = 2

MOUNT = Path("/mnt")
"""Every Debian has it; what the machine keeps there is covered in our namespace only."""


def mount(source: str, target: Path, kind: str = "", data: str = "", flags: int = 0) -> None:
    """``mount(2)``. Raises ``OSError``."""
    words = (source.encode(), str(target).encode(), kind.encode() or None, flags, data.encode() or None)
    if _libc.mount(*words):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


class Tree:
    """One furnished tree; all that the harness does in it goes by ``fd``, which no path can lead elsewhere."""

    def __init__(self, path: Path, shape: Shape) -> None:
        self.path, self.shape = path, shape
        path.mkdir()
        furnish(path, shape)
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
        self.used = 0  # strangers whose links were made already

    def stranger(self) -> int:
        """The next stranger. Each comes seldom: what comes back again and again is treated as a contest."""
        self.used += 1
        return self.used % self.shape.strangers

    def close(self) -> None:
        """Remove it."""
        os.close(self.fd)
        shutil.rmtree(self.path, ignore_errors=True)


class Stage:
    """Makes trees, numbered."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made = 0

    def folder(self, name: str) -> Path:
        """A folder beside the trees."""
        (self.path / name).mkdir()
        return self.path / name

    @contextmanager
    def tree(self, shape: Shape) -> Iterator[Tree]:
        """A tree while the block lasts."""
        self._made += 1
        tree = Tree(self.path / f"tree{self._made}", shape)
        try:
            yield tree
        finally:
            tree.close()


@contextmanager
def in_memory() -> Iterator[Stage]:
    """A stage on a tmpfs, in the mount namespace that scripts/bench has made for us.

    Not below /tmp: the product watches each folder on the way to what it guards, and there everybody makes names.
    """
    mount("bench", MOUNT, "tmpfs", "mode=755,nr_inodes=0")
    try:
        yield Stage(MOUNT)
    finally:
        _libc.umount2(str(MOUNT).encode(), _MNT_DETACH)

"""Files of a host: reached from outside without ever leaving its root, and compared tree against tree."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from tests.hosts.syscalls import open_in_root


@dataclass(frozen=True)
class Entry:
    """All of a file that a restore must bring back: kind and mode, owner, content or a link's target."""

    mode: int
    owner: tuple[int, int]
    content: bytes

    @property
    def label(self) -> str:
        """As `ls -l` would put it."""
        return f"{stat.filemode(self.mode)} {self.owner[0]}:{self.owner[1]}"


Tree = dict[str, Entry]


class Files:
    """The files below one root. A symlink there, absolute or not, is followed as a process inside would."""

    def __init__(self, root: str) -> None:
        self._root = root

    def read(self, path: str) -> bytes:
        """The whole file."""
        with os.fdopen(self._open(path, os.O_RDONLY), "rb") as file:
            return file.read()

    def write(self, path: str, content: bytes, mode: int) -> None:
        """In place, as a careless editor writes: the folders above are made, the mode is set exactly, and last.

        A change of mode is an event to whoever watches the file, who would read it empty.
        """
        self._make_folders(os.path.dirname(path))
        with os.fdopen(self._open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)

    def lstat(self, path: str) -> os.stat_result | None:
        """What the name itself is, a dangling link included; None where there is nothing."""
        try:
            fd = self._open(path, os.O_PATH | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def names(self, folder: str) -> list[str]:
        """The sorted names in a folder."""
        fd = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def tree(self, folder: str) -> Tree:
        """Everything below a folder, by its path from the root."""
        fd = self._open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return dict(_entries(fd, folder.rstrip("/")))
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int, mode: int = 0) -> int:
        root = os.open(self._root, os.O_PATH | os.O_DIRECTORY)
        try:
            return open_in_root(root, path, flags, mode)
        finally:
            os.close(root)

    def _make_folders(self, folder: str) -> None:
        if folder in ("", "/") or self.lstat(folder) is not None:
            return
        self._make_folders(os.path.dirname(folder))
        above = self._open(os.path.dirname(folder) or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(os.path.basename(folder), 0o755, dir_fd=above)
        finally:
            os.close(above)


def _entries(folder: int, prefix: str) -> Iterator[tuple[str, Entry]]:
    for name in os.listdir(folder):
        path = f"{prefix}/{name}"
        with contextlib.suppress(FileNotFoundError):  # a live tree: what goes while we look is not there
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            content = _content(folder, name, found.st_mode)
            yield path, Entry(found.st_mode, (found.st_uid, found.st_gid), content)
            if stat.S_ISDIR(found.st_mode):
                below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                try:
                    yield from _entries(below, path)
                finally:
                    os.close(below)


def _content(folder: int, name: str, mode: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.fsencode(os.readlink(name, dir_fd=folder))
    if not stat.S_ISREG(mode):
        return b""
    with os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
        return file.read()


def difference(before: Tree, after: Tree) -> str:
    """What changed, for people: one block a path, in the manner of `diff -u`; empty when nothing did."""
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    return "".join(line for path in changed for line in _explain(path, before.get(path), after.get(path)))


def _explain(path: str, before: Entry | None, after: Entry | None) -> Iterator[str]:
    sign = {(False, True): "+", (True, False): "-"}.get((before is not None, after is not None), "!")
    labels = " -> ".join(dict.fromkeys(entry.label for entry in (before, after) if entry is not None))
    links = " => ".join(dict.fromkeys(_target(entry) for entry in (before, after) if entry is not None))
    yield f"{sign} {path} ({labels}){links and ' ' + links}\n"
    lines = difflib.unified_diff(_lines(before), _lines(after), n=1)
    for line in list(lines)[2:]:  # the two header lines only repeat the path
        yield f"    {line.rstrip()}\n"


def _target(entry: Entry) -> str:
    return f"link to {os.fsdecode(entry.content)}" if stat.S_ISLNK(entry.mode) else ""


def _lines(entry: Entry | None) -> list[str]:
    if entry is None or not stat.S_ISREG(entry.mode):
        return []
    return entry.content.decode(errors="backslashreplace").splitlines(keepends=True)

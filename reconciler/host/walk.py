"""A path resolved below a root, name by name, so that the kernel never follows a link for us.

``openat(2)`` with ``O_NOFOLLOW`` for each name; a symbolic link is read and put in the place of its name. An
absolute target begins at the root again, as in a chroot; ``..`` is a step back on our own stack of
descriptors, so neither a link nor a folder moved meanwhile leads out (``path_resolution(7)``).
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from reconciler.errors import Unobservable
from reconciler.text import escape

MAX_LINKS = 40
"""Symbolic links in one path; the kernel's own limit (``path_resolution(7)``)."""

_BELOW = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = os.O_PATH | _BELOW  # asks for search permission only, as the kernel does of a folder on the way
_OPEN = os.O_RDONLY | _BELOW


class Walk:
    """One path on its way down; a context manager that closes what it opened.

    ``fds`` and ``names`` are the folders entered, ``todo`` the names left, the next one last. The first
    ``plain`` of ``todo`` are the caller's own names; those after them came out of a link, where ENOENT is no
    absence but a link that leads nowhere. ``FileNotFoundError`` is absence, ``Unobservable`` everything else.
    """

    def __init__(self, root_fd: int, path: str, *, is_top: bool, create: int | None = None) -> None:
        """Begin at ``root_fd``, which stays the caller's.

        ``is_top``: the root is the kernel's own, where ``..`` stays. ``create``: the mode to make missing
        folders with.
        """
        self.fds, self.names, self.name = [root_fd], list[str](), ""
        self._path, self._is_top, self._create = path, is_top, create
        self._todo = _parts(path)
        self._plain, self._links, self._readable = len(self._todo), 0, False

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._back_to(1)

    def last(self) -> str:
        """Enter every folder but the last; its name, or "." if the path ends in a folder already entered."""
        self.name = "."
        while self._todo:
            if self._todo[-1] == "..":
                self._take()
                self._up()
            elif len(self._todo) == 1:
                self.name = self._todo[0]
                break
            else:
                self._enter(_PASS)
        return self.name

    def end(self) -> os.stat_result:
        """Follow the whole path, a last link too; the status of what is there, ``name`` in ``fds[-1]``."""
        while True:
            name = self.last()
            try:
                status = os.lstat(name, dir_fd=self.fds[-1])
            except FileNotFoundError:
                self._missing(linked=len(self._todo) > self._plain)
                raise
            except OSError as error:
                raise unobservable(self._path, error) from error
            if not stat.S_ISLNK(status.st_mode):
                return status
            self._take()
            self._follow(name)

    def folder(self) -> int:
        """Enter the whole path; a readable descriptor of its last folder, the caller's to close."""
        while self.last() != ".":
            self._enter(_OPEN)
        if self._readable:
            self.names.pop()
            return self.fds.pop()
        try:
            return os.open(".", _OPEN, dir_fd=self.fds[-1])
        except OSError as error:
            raise unobservable(self._path, error) from error

    def _take(self) -> bool:
        """Take the next name off; whether it came out of a link."""
        self._todo.pop()
        linked = len(self._todo) >= self._plain
        self._plain = min(self._plain, len(self._todo))
        return linked

    def _back_to(self, depth: int) -> None:
        while len(self.fds) > depth:
            close(self.fds.pop())
        del self.names[depth - 1 :]
        self._readable = False

    def _up(self) -> None:
        if len(self.fds) > 1:
            self._back_to(len(self.fds) - 1)
        elif not self._is_top:  # above the kernel's own root there is nothing to be led to
            raise Unobservable(f"{escape(self._path)} leads out of the root")

    def _enter(self, flags: int) -> None:
        name = self._todo[-1]
        linked = self._take()
        try:
            fd = os.open(name, flags, dir_fd=self.fds[-1])
        except FileNotFoundError:
            self._missing(linked=linked)
            if self._create is None:
                raise
            fd, flags = self._make(name, self._create), _OPEN
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise unobservable(self._path, error) from error
            self._follow(name)
            return
        self.fds.append(fd)
        self.names.append(name)
        self._readable = flags == _OPEN

    def _missing(self, *, linked: bool) -> None:
        if linked:
            raise Unobservable(f"{escape(self._path)}: a link that leads nowhere") from None

    def _follow(self, name: str) -> None:
        """Put what a link says in the place of its name."""
        try:
            target = os.readlink(name, dir_fd=self.fds[-1])
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise Unobservable(f"{escape(self._path)}: {escape(name)} is not a folder") from None
            raise unobservable(self._path, error) from error
        self._links += 1
        if self._links > MAX_LINKS:
            raise Unobservable(f"{escape(self._path)}: links that lead in a circle")
        if target.startswith("/"):
            self._back_to(1)
        self._todo += _parts(target)

    def _make(self, name: str, mode: int) -> int:
        """Make a folder of exactly this mode, whatever the umask, its name durable; its descriptor."""
        fds = []
        try:
            with suppress(FileExistsError):  # another process of ours was first: its folder serves as well
                os.mkdir(name, mode, dir_fd=self.fds[-1])
            fds += [os.open(".", _OPEN, dir_fd=self.fds[-1])]
            fds += [os.open(name, _OPEN, dir_fd=self.fds[-1])]
            os.fchmod(fds[1], mode)
            os.fsync(fds[0])
            return fds.pop()
        except OSError as error:
            raise unobservable(self._path, error) from error
        finally:
            for fd in fds:
                close(fd)


def close(fd: int) -> None:
    """Close what was only read from: an error of ``close(2)`` can then mean no loss, and hides no result."""
    with suppress(OSError):
        os.close(fd)


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def why(path: str, error: OSError | Unobservable) -> str:
    """One line: which path, and the system's own word for what is wrong with it."""
    return f"{escape(path)}: {error.strerror}" if isinstance(error, OSError) else str(error)


def unobservable(path: str, error: OSError) -> Unobservable:
    """The gap that an error of the system makes."""
    return Unobservable(why(path, error))

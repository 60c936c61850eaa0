"""The real reader of desired states: the caller's file system, links followed hop by hop.

The hops are kept because whoever may change one of them decides what is read: the folder that holds a link
counts as much as the folder that holds the file.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from reconciler.errors import Stale, Unobservable
from reconciler.host import FILE_LIMIT
from reconciler.host.state import Hop
from reconciler.model import FileState
from reconciler.values import replace

_LINKS = 40  # as many as the kernel follows, path_resolution(7)
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFREG: "file",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "device",
    stat.S_IFCHR: "device",
}


class StateFiles:
    """Implements :class:`reconciler.host.state.StateReader`."""

    def __init__(self) -> None:
        self.caller = os.geteuid()

    def walk(self, path: str) -> tuple[Hop, ...] | None:
        """Everything passed on the way to what ``path`` names; ``None`` where there is nothing."""
        try:
            return _walk(os.path.join(os.getcwd(), path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Unobservable(_why(error)) from error

    def read(self, path: str) -> FileState:
        """A regular file of at most ``FILE_LIMIT`` bytes; anything else is ``Unobservable``."""
        try:
            descriptor = os.open(path, _OPEN)
        except (OSError, ValueError) as error:
            raise Unobservable(_why(error)) from error
        try:
            return _read(descriptor)
        except OSError as error:
            raise Unobservable(_why(error)) from error
        finally:
            os.close(descriptor)

    def names(self, folder: str) -> tuple[str, ...]:
        """The names in a folder, sorted."""
        try:
            return tuple(sorted(os.listdir(folder)))
        except OSError as error:
            raise Unobservable(_why(error)) from error


class Edited(StateFiles):
    """The same files, but one of them as it will be: what a change means is known before it is made."""

    def __init__(self, path: str, content: bytes) -> None:
        """``path`` as :meth:`walk` gives it last, free of links."""
        super().__init__()
        self._path, self._content = path, content

    def read(self, path: str) -> FileState:
        """The file, or what it will be."""
        state = super().read(path)
        return replace(state, content=self._content) if path == self._path else state


def replace_file(path: str, before: FileState, content: bytes) -> None:
    """Give a file other content, at once and durably, with the owner and mode it has.

    ``path`` is free of links. Raises ``Stale`` where it no longer holds what it held before, ``OSError``.
    """
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".{name}.{os.urandom(8).hex()}"  # with a dot: no drop-in, and no editor shows it
    try:
        _fill(fd, temporary, before, content)
        must_be(path, before)
        os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        os.fsync(fd)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=fd)
        raise
    finally:
        os.close(fd)


def create_file(path: str, state: FileState) -> None:
    """Make a file that is not there, whole and durable, and the folders above it that are missing (0755).

    Raises ``OSError``: ``FileExistsError`` where it is there, unless it already says the same.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, 0o755, exist_ok=True)
    with suppress(Unobservable):
        if StateFiles().read(path).content == state.content:
            return
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".{name}.{os.urandom(8).hex()}"
    try:
        _fill(fd, temporary, state, state.content)
        os.link(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)  # unlike a rename it replaces nothing
        os.unlink(temporary, dir_fd=fd)
        os.fsync(fd)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=fd)
        raise
    finally:
        os.close(fd)


def must_be(path: str, before: FileState) -> None:
    """Raise ``Stale`` where a file no longer holds what it held before."""
    if StateFiles().read(path).content != before.content:
        raise Stale(f"{path} was changed meanwhile: nothing was written")


def _fill(fd: int, name: str, before: FileState, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=fd), "wb") as file:
        file.write(content)
        os.fchown(file.fileno(), before.uid, before.gid)
        os.fchmod(file.fileno(), before.mode)
        file.flush()
        os.fsync(file.fileno())


def _walk(path: str) -> tuple[Hop, ...]:
    hops, links = [_look("/")], 0
    at, todo = "/", path.split("/")[::-1]
    while todo:
        name = todo.pop()
        if name == "..":
            at = os.path.dirname(at)
        if name in ("", ".", ".."):
            continue
        hop = _look(os.path.join(at, name))
        hops.append(hop)
        if hop.what != "link":
            at = hop.path
            continue
        links += 1
        if links > _LINKS:
            raise Unobservable("too many levels of symbolic links")
        target = os.readlink(hop.path)
        at = "/" if target.startswith("/") else at
        todo += target.split("/")[::-1]
    if hops[-1].path != at:  # the last steps went up, by ".."
        hops.append(_look(at))
    return tuple(hops)


def _look(path: str) -> Hop:
    seen = os.lstat(path)
    return Hop(path, _what(seen.st_mode), seen.st_uid, stat.S_IMODE(seen.st_mode))


def _what(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), "device")


def _read(descriptor: int) -> FileState:
    seen = os.fstat(descriptor)
    if not stat.S_ISREG(seen.st_mode):
        raise Unobservable(f"is a {_what(seen.st_mode)}, not a regular file")
    content = bytearray()
    while len(content) <= FILE_LIMIT and (piece := os.read(descriptor, FILE_LIMIT + 1 - len(content))):
        content += piece
    if len(content) > FILE_LIMIT:
        raise Unobservable(f"is larger than {FILE_LIMIT} bytes")
    return FileState(bytes(content), stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, seen.st_mtime_ns)


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return os.strerror(error.errno or 0).lower()
    return "has a name that no file can have"  # a NUL byte, or what the locale cannot spell

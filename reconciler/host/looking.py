"""What lies in one open folder: the looks that :mod:`reconciler.host.files` is made of.

Every system call is ``os.NAME``, so that a test can make each one fail in turn.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial

from reconciler.errors import Unobservable
from reconciler.host import FILE_LIMIT, Listing, Stamp
from reconciler.host.walk import close, unobservable
from reconciler.model import Entry, EntryState, FileState, LinkState, OddState
from reconciler.text import escape

_entry = partial(tuple.__new__, Entry)  # what Entry() does, without a function of Python's in between
_SIZE = stat.ST_SIZE + 1  # of a status as a tuple: mode, inode, device, links, owner, group and size
_FEW = 8  # names of a folder that are sooner looked at one by one than listed with what they are
_ACL = "system.posix_acl_access"  # acl(5)
UNSETTLED, HOUR = 2.0, 3600  # seconds

Xattrs = tuple[tuple[str, bytes], ...]
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


def is_file(fd: int, name: str) -> bool:
    """True for a regular file itself; absence is ``FileNotFoundError``."""
    try:
        return stat.S_ISREG(os.lstat(name, dir_fd=fd).st_mode)
    except FileNotFoundError:
        raise
    except OSError:
        return False


def stamp_of(fd: int, name: str, settled: float, hour: int) -> Stamp | None:
    """The stamp of a regular file, () where it changed after ``settled``: the next change may bear the same time.

    ``None`` for anything else. Each stamp is worth an hour at most: a write through a mapping may leave no trace in it.
    """
    try:
        status = os.lstat(name, dir_fd=fd)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return () if status.st_ctime > settled else _stamp(status, hour)


def _stamp(status: os.stat_result, hour: int) -> Stamp:
    return status[:_SIZE], status.st_mtime_ns, status.st_ctime_ns, hour


def not_as_known(fd: int, names: Iterable[str], known: Mapping[str, Stamp], hour: int) -> list[str]:
    """Of these names those whose file does not bear the stamp by which it is known, or that are not there."""
    others = []
    for name in names:
        try:
            if known.get(name) == _stamp(os.lstat(name, dir_fd=fd), hour):
                continue
        except OSError:
            pass
        others.append(name)
    return others


def listing(fd: int, wanted: Callable[[str], bool] | None) -> tuple[Entry, ...]:
    """Every name of a folder, sorted, wanted links read. One that goes away while we look is left out.

    All in one loop: it runs for each of ten thousand links in each full pass.
    """
    wanted, there = wanted or _nobody, list[Entry]()
    with os.scandir(fd) as items:
        for item in items:
            name, target = item.name, ""
            try:
                what = "link" if item.is_symlink() else _no_link(item)
                if what == "link" and wanted(name):
                    target = os.readlink(name, dir_fd=fd)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINVAL):  # EINVAL: no link any more, an event will tell
                    raise
                continue
            there.append(_entry((name, what, target)))
    there.sort()
    return tuple(there)


def is_as_listed(fd: int, listing: Listing) -> bool:
    """Whether a folder holds the same names, the same of them links, and those that were read with the same targets.

    As much is looked at as by :func:`listing`, but nothing is made of it: half of the time. Raises ``OSError``.
    """
    with os.scandir(fd) as items:
        if {item.name: item.is_symlink() for item in items} != listing.links:
            return False
    readlink = os.readlink
    return [readlink(name, dir_fd=fd) for name in listing.read] == listing.targets


def _no_link(item: os.DirEntry[str]) -> str:
    return "file" if item.is_file(follow_symlinks=False) else word_for(item.stat(follow_symlinks=False).st_mode)


def _nobody(_name: str) -> bool:
    return False


def some(fd: int, names: Collection[str], wanted: Callable[[str], bool] | None) -> tuple[Entry, ...]:
    """Of a folder these names only, those that are there, as :func:`listing` gives them."""
    if len(names) > _FEW:
        return tuple([entry for entry in listing(fd, wanted) if entry.name in names])
    wanted = wanted or _nobody
    return tuple([entry for name in sorted(names) if (entry := _named(fd, name, wanted)) is not None])


def _named(fd: int, name: str, wanted: Callable[[str], bool]) -> Entry | None:
    """One name, of which nobody has listed what it is; a link is what most of them are."""
    try:
        if wanted(name):
            return Entry(name, "link", os.readlink(name, dir_fd=fd))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        if error.errno != errno.EINVAL:
            raise
    try:
        mode = os.lstat(name, dir_fd=fd).st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(mode):  # of a wanted one the target is not known: it has become a link just now, and is told of
        return None if wanted(name) else Entry(name, "link", "")
    return Entry(name, "file" if stat.S_ISREG(mode) else word_for(mode))


def word_for(mode: int) -> str:
    """What kind of thing a mode means, in a word of ``OddState``."""
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISFIFO(mode):
        return "fifo"
    return "socket" if stat.S_ISSOCK(mode) else "device"


def state_of(fd: int, name: str, path: str) -> EntryState:
    """What lies under a name. Raises ``FileNotFoundError`` for absence, else ``Unobservable``."""
    try:
        status = os.lstat(name, dir_fd=fd)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=fd)
            return LinkState(target, status.st_uid, status.st_gid, status.st_mtime_ns)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unobservable(path, error) from error
    if stat.S_ISREG(status.st_mode):
        return load(fd, name, path, FILE_LIMIT)
    return OddState(word_for(status.st_mode))


def load(fd: int, name: str, path: str, limit: int) -> FileState:
    """A file already seen to be regular: opening a device can start a watchdog or rewind a tape."""
    content, status, xattrs = _opened(fd, name, path, limit, _xattrs)
    mode = stat.S_IMODE(status.st_mode)
    return FileState(content, mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs)


def text(fd: int, name: str, path: str) -> bytes:
    """What is in such a file, and no more of it than that."""
    return _opened(fd, name, path, FILE_LIMIT, _no_xattrs)[0]


def _opened(
    fd: int, name: str, path: str, limit: int, xattrs: Callable[[int], Xattrs]
) -> tuple[bytes, os.stat_result, Xattrs]:
    try:
        file = os.open(name, _READ, dir_fd=fd)
        try:
            status = os.fstat(file)
            content = _content(file, status, limit)
            noted = xattrs(file)
        finally:
            close(file)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unobservable(path, error) from error
    if content is None:
        raise Unobservable(f"{escape(path)} is larger than the limit of {limit} bytes")
    return content, status, noted


def _no_xattrs(_file: int) -> Xattrs:
    return ()


def _xattrs(file: int) -> Xattrs:
    """An ACL and what users noted. Labels and measurements (``security.*``) are the system's to give anew."""
    try:
        names = [name for name in os.listxattr(file) if name == _ACL or name.startswith("user.")]
        return tuple((name, os.getxattr(file, name)) for name in sorted(names))
    except OSError:  # a file system that knows none, or one that went away meanwhile
        return ()


def _content(file: int, status: os.stat_result, limit: int) -> bytes | None:
    """All of a file, ``None`` beyond the limit. Its size is no promise: it grows, and in /proc it is 0."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no longer a regular file")
    if status.st_size > limit:
        return None
    parts, left = [], limit + 1
    while left and (part := os.read(file, min(left, max(status.st_size + 1, 4096)))):
        parts.append(part)
        left -= len(part)
        if len(part) == status.st_size:  # more was asked for: this is its end
            break
    return b"".join(parts) if left else None

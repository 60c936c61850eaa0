"""Files below one root, looked at and changed by descriptor, never by a path the kernel resolves for us.

A path is absolute *below the root*; :mod:`reconciler.host.walk` says how it is walked. Absence (ENOENT of a
name itself) is an answer; everything else that keeps us from looking is ``Unobservable``. The effects raise
``Stale`` where the expectation no longer holds and ``ActionFailed`` where the system refuses; either way the
tree is as it was. Every system call of theirs is ``os.NAME``, so that a test can make each one fail in turn.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import monotonic, time

from reconciler.errors import ActionFailed, Stale, Unobservable
from reconciler.host import FILE_LIMIT, Listing, Mark, Stamp, Text
from reconciler.host.effects import discard, expect_name, expect_state, fill, is_link, leave
from reconciler.host.folders import Check, HeldFolders, Identity, Opener, identity_of, status_of
from reconciler.host.looking import (
    HOUR,
    UNSETTLED,
    is_as_listed,
    is_file,
    listing,
    load,
    not_as_known,
    some,
    stamp_of,
    state_of,
    text,
    word_for,
)
from reconciler.host.walk import Walk, close, unobservable, why
from reconciler.model import Action, Entry, EntryState, FileState, Link, Unlink, WriteFile
from reconciler.text import escape
from reconciler.values import Value

TEMPORARY = ".dom0-reconciler."
"""How a temporary's name begins: ifupdown's ``source interfaces.d/*`` skips only names with a dot first."""

_RANDOM = 8  # bytes in a temporary's name
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Located(Value):
    """Where a path leads: ``path`` without any link, below the root, and the status of what lies there."""

    path: str
    status: os.stat_result


class Root:
    """One tree, ``/`` or an image, and everything the product does to files in it."""

    def __init__(self, path: str) -> None:
        """Open the tree; ``path`` is the caller's own. Raises ``Unobservable`` where it is no folder."""
        self.path = os.path.realpath(path)
        self.at_once: Callable[[int, str], int] | None = None  # host.swift's open_folder, where somebody is in a hurry
        self._fd = -1
        try:
            self._fd = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise unobservable(path, error) from error
        finally:
            self.held = HeldFolders(self._fd)

    def close(self) -> None:
        """Close every descriptor; the object is of no use afterwards."""
        self.release()
        if self._fd >= 0:
            close(self._fd)
        self._fd = -1

    def __del__(self) -> None:
        self.close()

    def _walk(self, path: str, create: int | None = None) -> Walk:
        return Walk(self._fd, path, is_top=self.path == "/", create=create)

    # --- looking --------------------------------------------------------------------------------------------

    def folder_fd(self, path: str, *, create: bool = False, mode: int = 0o755) -> int:
        """A readable descriptor of a folder, the caller's to close.

        With ``create`` the missing folders of the path are made, each with exactly ``mode`` and durable.
        Raises ``FileNotFoundError`` for absence, ``Unobservable`` for all else, a refused creation too.
        """
        try:
            fd = self._at_once(path)
        except FileNotFoundError:
            if not create:
                raise
            fd = -1
        if fd >= 0:
            return fd
        with self._walk(path, mode if create else None) as walk:
            return walk.folder()

    def held_fd(self, path: str, opener: Opener, check: Check | None = None) -> int:
        """A descriptor that stays ours of the folder of a path, which ``opener`` opens where it is not held yet.

        ``check`` is asked each time, and raises where the folder must not be used.
        """
        return self.held.lend(path, opener, check)

    def _at_once(self, path: str) -> int:
        """A readable descriptor of a folder to which no link leads, -1 where it takes a walk; absence is raised."""
        return -1 if self.at_once is None else self.at_once(self._fd, path)

    def _beside(self, path: str) -> tuple[int, str] | None:
        """The folder of a path, held open, and the name in it, where somebody is in a hurry."""
        folder, name = _split(path)
        if self.at_once is None or name in ("", ".", ".."):
            return None
        with suppress(Unobservable):  # a walk may enter what cannot be read, or say better what is wrong
            return self.held.now(folder, self.folder_fd), name
        return None

    def folder(self, path: str, wanted: Callable[[str], bool] | None = None) -> tuple[Entry, ...] | None:
        """List a folder, sorted by name; ``None`` if there is none. Only ``wanted`` links are read."""
        self.held.doubt(path)
        try:
            fd = self.folder_fd(path)
        except FileNotFoundError:
            return None
        try:
            return listing(fd, wanted)
        except OSError as error:
            raise unobservable(path, error) from error
        finally:
            close(fd)

    def holds(self, path: str, listing: Listing) -> bool:
        """Whether a folder holds just what it held; False for any trouble, which :meth:`folder` names."""
        self.held.doubt(path)
        try:
            fd = self.folder_fd(path)
        except (FileNotFoundError, Unobservable):
            return False
        try:
            return is_as_listed(fd, listing)
        except OSError:
            return False
        finally:
            close(fd)

    def named(
        self, path: str, names: Collection[str], wanted: Callable[[str], bool] | None = None
    ) -> tuple[Entry, ...] | None:
        """As :meth:`folder`, but these names only: those of them that are there."""
        try:
            return some(self.held.now(path, self.folder_fd), names, wanted)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unobservable(path, error) from error

    def entry(self, path: str) -> EntryState | None:
        """The thing of that very name, a link not followed; ``Unobservable`` if over ``FILE_LIMIT`` bytes."""
        try:
            if (there := self._beside(path)) is not None:
                return state_of(*there, path)
            with self._walk(path) as walk:
                name = walk.last()
                return state_of(walk.fds[-1], name, path)
        except FileNotFoundError:
            return None

    def entries(self, paths: Sequence[str]) -> list[EntryState | Unobservable | None]:
        """:meth:`entry` for many, errors in place; each folder is opened, or proved, once for all its names.

        Effects follow: that it was proved when it was looked at may be a wait for a lock ago.
        """
        for folder in {_split(path)[0] for path in paths}:
            self.held.doubt(folder)
        return [self._entry_in(path) for path in paths]

    def _entry_in(self, path: str) -> EntryState | Unobservable | None:
        folder, name = _split(path)
        try:
            if name in ("", ".", ".."):
                return self.entry(path)
            return state_of(self.held.lately(folder, self.folder_fd), name, path)
        except FileNotFoundError:
            return None
        except Unobservable as error:
            return error

    def read(self, path: str, limit: int = FILE_LIMIT) -> FileState | None:
        """A regular file, links followed. It waits for no FIFO, and stops at ``limit`` bytes."""
        try:
            if (there := self._beside(path)) is not None and is_file(*there):
                return load(*there, path, limit)
            with self._walk(path) as walk:
                status = walk.end()
                if not stat.S_ISREG(status.st_mode):
                    raise Unobservable(f"{escape(path)} is a {word_for(status.st_mode)}, not a file")
                return load(walk.fds[-1], walk.name, path, limit)
        except FileNotFoundError:
            return None

    def texts(
        self, folder: str, names: Iterable[str], known: Mapping[str, Stamp]
    ) -> Iterator[tuple[str, Text | Unobservable | None]]:
        """:meth:`read` for many files of a folder, errors in place; it is opened once for all that are no links.

        A file whose stamp is ``known`` is as it was, and left out.
        """
        try:
            fd = self.folder_fd(folder)
        except FileNotFoundError:
            yield from ((name, None) for name in names)
            return
        settled, hour = time() - UNSETTLED, int(monotonic()) // HOUR
        try:
            for name in not_as_known(fd, names, known, hour) if known else names:
                try:
                    yield name, self._text(fd, name, folder, stamp_of(fd, name, settled, hour))
                except FileNotFoundError:
                    yield name, None
                except Unobservable as error:
                    yield name, error
        finally:
            close(fd)

    def _text(self, fd: int, name: str, folder: str, stamp: Stamp | None) -> Text | None:
        path = f"{folder}/{name}"
        if stamp is not None:
            return Text(text(fd, name, path), stamp)
        state = self.read(path)
        return None if state is None else Text(state.content)

    def mark(self, folder: str, names: Iterable[str]) -> Mark | None:
        """What stays equal while a folder has these names and these files of it their contents; ``None``: nothing."""
        settled = time() - UNSETTLED
        try:
            status = self.held.status(folder, self.folder_fd)
            if self.at_once is None or status.st_ctime > settled:
                return None
            stamps: list[Stamp] = [(status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mode, status.st_uid)]
            for name in names:
                fd = self.held.lately(folder, self.folder_fd)
                stamps.append(stamp_of(fd, name, settled, int(monotonic()) // HOUR) or ())
        except (FileNotFoundError, Unobservable):
            return None
        return tuple(stamps) if all(stamps) else None

    def locate(self, path: str) -> Located | None:
        """Where a path leads once every link is followed; ``None`` for absence."""
        try:
            with self._walk(path) as walk:
                status = walk.end()
                names = walk.names if walk.name == "." else [*walk.names, walk.name]
                return Located("/" + "/".join(names), status)
        except FileNotFoundError:
            return None

    def exists(self, path: str) -> bool:
        """Whether anything lies at a path, once every link is followed; of one that leads nowhere nobody can tell."""
        try:
            if (there := self._beside(path)) is not None:
                fd, name = there
                if not stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode):
                    return True
        except FileNotFoundError:
            return False
        except OSError:
            pass  # a walk says what is wrong
        return self.locate(path) is not None

    def identity(self, path: str) -> Identity | None:
        """What the kernel finds by a path, whatever leads there: to be compared with that of an open file."""
        status = status_of(self._fd, path)
        return None if status is None else identity_of(status)

    # --- changing -------------------------------------------------------------------------------------------

    def unlink(self, action: Unlink) -> None:
        """Take one name away. The link that stays in its place is made first: one of them is always there."""
        try:
            self._unlink(action)
        except (OSError, Unobservable) as error:
            raise ActionFailed(why(action.path, error)) from error

    def _unlink(self, action: Unlink) -> None:
        fd, name = self._at(action.path)
        expect_name(fd, name, action)
        made = bool(action.leave) and leave(fd, name, action)
        try:
            os.unlink(name, dir_fd=fd)
        except FileNotFoundError:
            pass  # gone between two calls of ours: what was wanted is so; the link in its place must stay
        except BaseException:
            if made:
                discard(fd, action.leave)
            raise

    def link(self, action: Link) -> None:
        """Put a link back with its owner and time, then take away what replaced it. Twice is no harm."""
        try:
            self._link(action)
        except (OSError, Unobservable) as error:
            raise ActionFailed(why(action.path, error)) from error

    def _link(self, action: Link) -> None:
        fd, name = self._at(action.path)
        state, target = action.state, action.state.target
        replaced = bool(action.replaces) and is_link(fd, action.replaces, target, action.path)
        made = not is_link(fd, name, target, action.path)
        if made:
            os.symlink(target, name, dir_fd=fd)
        try:
            os.chown(name, state.uid, state.gid, dir_fd=fd, follow_symlinks=False)
            if state.mtime_ns:
                os.utime(name, ns=(state.mtime_ns, state.mtime_ns), dir_fd=fd, follow_symlinks=False)
            if replaced:
                os.unlink(action.replaces, dir_fd=fd)
        except BaseException:
            if made:
                discard(fd, name)
            raise

    def write(self, action: WriteFile) -> None:
        """Make a file hold exactly this, at once: a reader or a crash finds the old file or the new one."""
        try:
            self._write(action)
        except (OSError, Unobservable) as error:
            raise ActionFailed(why(action.path, error)) from error

    def _write(self, action: WriteFile) -> None:
        if action.expects is None:  # a declared file of interfaces.d is missing, and its folder may be with it
            close(self.folder_fd(_split(action.path)[0], create=True))
        fd, name = self._at(action.path)
        expect_state(fd, name, action)
        temporary = TEMPORARY + os.urandom(_RANDOM).hex()
        try:
            fill(fd, temporary, action.state)
            expect_state(fd, name, action)  # again: the fsync took milliseconds, and somebody may be editing
            os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            discard(fd, temporary)
            raise

    def settle(self, actions: Sequence[Action]) -> None:
        """Make a batch's names durable, one fsync a folder; the held folders are let go, or doubted. Tries them all."""
        folders = {_split(a.path)[0] for a in actions if isinstance(a, Unlink | Link | WriteFile)}
        failures = [failure for folder in sorted(folders) if (failure := self._sync(folder))]
        if self.at_once is None:
            self.release()
        self.held.doubt_all()
        if failures:
            raise ActionFailed("; ".join(failures))

    def _sync(self, folder: str) -> str:
        try:
            os.fsync(self.held.lately(folder, self.folder_fd))
        except FileNotFoundError:
            return ""  # of a folder that is gone nothing can be lost
        except (OSError, Unobservable) as error:
            # fsync(2): EINVAL is a file system that cannot sync a folder (FUSE, some network ones), no loss.
            cannot = isinstance(error, OSError) and error.errno == errno.EINVAL
            return "" if cannot else why(folder, error)
        return ""

    def sweep(self, folder: str) -> tuple[str, ...]:
        """Remove the temporaries that killed runs left in a folder; their names. Call it under the lock."""
        entries = self.folder(folder) or ()
        left = tuple(entry.name for entry in entries if _is_temporary(entry))
        try:
            for name in left:
                fd, _ = self._at(f"{folder}/{name}")
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=fd)
        except (OSError, Unobservable) as error:
            raise ActionFailed(why(folder, error)) from error
        finally:
            self.release()
        return left

    def release(self) -> None:
        """Close the folders held between effects; :meth:`settle` does so at the end of each batch."""
        self.held.release()

    def _at(self, path: str) -> tuple[int, str]:
        """The open folder and the name in it that a path means. Raises ``Stale`` if the folder is gone."""
        folder, name = _split(path)
        if name in ("", ".", ".."):
            raise ActionFailed(f"{escape(path)} names no entry of a folder")
        try:
            return self.held.lately(folder, self.folder_fd), name
        except FileNotFoundError:
            raise Stale(f"{escape(folder)} is not there") from None


def _is_temporary(entry: Entry) -> bool:
    return entry.what == "file" and entry.name.startswith(TEMPORARY) and len(entry.name) == len(TEMPORARY) + 2 * _RANDOM


def _split(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder or "/", name

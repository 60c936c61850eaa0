"""Watching with the kernel's help: nothing runs until something changes.

pyinotify holds the watches and knows the constants. The queue is read and decoded here: its event objects cost as much
as all the rest of a reaction, and an overflow has to come out. Every rule without another source is of ``inotify(7)``.
"""

from __future__ import annotations

import ctypes.util
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from errno import EACCES, EILSEQ, ENOENT, ENOTDIR
from struct import Struct
from time import monotonic
from typing import NamedTuple

import pyinotify

from reconciler.host.folders import Identity
from reconciler.host.mounts import Mounts
from reconciler.model import Place, Wake
from reconciler.values import Value, field
from reconciler.watch.news import News
from reconciler.watch.trail import Step, identity, real_root, trail
from reconciler.watch.witness import Witness

# pyinotify hangs a handler of its own on its logger when it is imported; what goes wrong is raised to us instead.
logging.getLogger("pyinotify").handlers.clear()

_APPEARED: int = pyinotify.IN_CREATE | pyinotify.IN_MOVED_TO
_GONE: int = pyinotify.IN_DELETE | pyinotify.IN_MOVED_FROM
_WRITTEN: int = pyinotify.IN_CLOSE_WRITE
_ATTRIBUTES: int = pyinotify.IN_ATTRIB
_IGNORED: int = pyinotify.IN_IGNORED
_OVERFLOW: int = pyinotify.IN_Q_OVERFLOW

_HOP = _APPEARED | _GONE
_FILE = _APPEARED | _GONE | _WRITTEN | _ATTRIBUTES
_LINKS = _APPEARED
"""What matters: on the way to a place; for files, whose loss, owner and mode are drift too; for start links, which
are never written to and whose loss starts nothing. Opening, reading and IN_MODIFY (a file half written) never matter.
IN_MOVE_SELF and IN_DELETE_SELF would say again what the folder above says by name."""

_START_LINKS = re.compile(r"/rc[0-9S]\.d$")
_ENCODING = sys.getfilesystemencoding()  # with surrogateescape it is os.fsdecode at half the cost
_HOW: int = pyinotify.IN_ONLYDIR | pyinotify.IN_DONT_FOLLOW | pyinotify.IN_EXCL_UNLINK | pyinotify.IN_MASK_ADD
"""IN_MASK_ADD, because two places may share a folder, also by two paths to it; what is too much is dropped on decoding,
whereas setting a mask anew would be deaf to the other place for an instant."""

_HEADER = Struct("iIII")  # struct inotify_event: wd, mask, cookie, len; then len bytes of a name padded with NUL
_CHUNK = 65536
_LARGEST = _HEADER.size + 256
_CHUNKS_MAX = 128  # of a full queue (16,384 events unless sysctl says otherwise) with the longest names, twice over

_ASIDE_MAX = 1000
"""Names of a place that are kept until somebody looks there; with more, all of it is looked at."""

_TRUST = 3600.0  # seconds

_ABSENT, _DENIED = -2, -3  # in place of a watch descriptor


@contextmanager
def _our_own_c_library() -> Iterator[None]:
    """Have pyinotify take the C library that this process runs on.

    It takes that where none is found; to find one, it runs ldconfig and reads its output, 8 ms for each watcher.
    """
    find = ctypes.util.find_library
    ctypes.util.find_library = lambda name: None  # noqa: ARG005  (its own argument has that name)
    try:
        yield
    finally:
        ctypes.util.find_library = find


class _Row(NamedTuple):
    """What an event must be (``mask``) to concern a place, and what the name is to the place (see ``Step``)."""

    mask: int
    place: Place
    what: str


class _Folder(Value, frozen=False):
    """A watched folder. ``names`` answers for one name, ``others`` for all that are not there.

    ``turns`` are the names on which a way depends: when one of them changes, the watches may no longer fit.
    """

    path: str
    names: dict[bytes, tuple[_Row, ...]] = field(default_factory=dict)
    others: tuple[_Row, ...] = ()
    turns: set[bytes] = field(default_factory=set)

    @property
    def tells(self) -> bool:
        """Whether a change in it is a change of a place, and not just of the way to one."""
        return bool(self.others) or self.turns != self.names.keys()

    def add(self, step: Step, row: _Row) -> None:
        """Take in a row; those for every name are kept with those for one too, so that one look-up finds all."""
        if row.what == "folder":
            self.others += (row,)
            self.names = {name: (*rows, row) for name, rows in self.names.items()}
            return
        name = os.fsencode(step.name)
        self.names[name] = (*self.names.get(name, self.others), row)
        if row.what == "hop":
            self.turns.add(name)


class InotifyWatcher:
    """Watches the folders of places, and every folder on the way to them. See :class:`reconciler.watch.Watcher`.

    Every method but ``close`` raises ``OSError`` where inotify cannot serve (ENOSPC: the user's watches are used up).
    """

    name = "inotify"

    def __init__(
        self,
        places: Iterable[Place],
        root: str,
        concerns: Callable[[Place, str], bool],
        witness: Witness | None = None,
    ) -> None:
        self._concerns, self._witness = concerns, witness
        self._folders: dict[int, _Folder] = {}
        self._trails: dict[Place, tuple[tuple[int, str], ...]] = {}
        self._armed: dict[str, tuple[int, int]] = {}  # while arming: path -> watch descriptor, mask
        self._seen: dict[str, Identity | None] = {}  # what lay at each of these paths right before it was watched
        self._aside: dict[Place, set[str]] = {}
        self._news = News()
        self._look_at = 0.0
        self._unfit = False  # the watches no longer fit the paths
        self._lost = False  # the queue ran over
        try:
            with _our_own_c_library():
                self._manager = pyinotify.WatchManager()
        except pyinotify.PyinotifyError as error:
            raise OSError(str(error)) from error
        self.fd: int = self._manager.get_fd()
        # It comes blocking, and every program the daemon starts would inherit it.
        os.set_blocking(self.fd, False)
        os.set_inheritable(self.fd, False)
        self._mounts = Mounts()
        try:
            self.watch(places, root)
        except OSError:
            self.close()
            raise

    def watch(self, places: Iterable[Place], root: str) -> None:
        """Watch these places from now on; what did not change stays armed all the while."""
        self._places = tuple(dict.fromkeys(places))
        self._root = real_root(root)
        lost = self._lost
        self._arm()
        self._lost = lost  # that the queue ran over is still to be told

    def fits(self) -> bool:
        """Whether each folder is the very one that was watched: a mount over it makes no event, but another one of it.

        Each is looked at where anything was mounted since, and once an hour: that costs a twentieth of arming it anew.
        A way that was denied, or ended nowhere, never fits.
        """
        if self._unfit:
            return False
        if self._mounts.changed() or self._mounts.blind or monotonic() >= self._look_at:
            if not all(seen and seen == identity(path) for path, seen in self._seen.items()):
                self._look_at = 0.0
                return False
            self._look_at = monotonic() + _TRUST
        return True

    def read(self) -> Wake | None:
        """Drain the queue; arm again what was replaced, removed or came into being."""
        self._drain()
        news, self._news = self._news, News()
        if self._lost:
            self._arm()
            return Wake("inotify queue overflow")
        if self._aside:
            self._take_aside(news)
        if self._unfit:
            news.also(self._arm())
        return news.wake(self.name)

    def presses(self) -> bool:
        """Whether :meth:`read` has a wake to give; what it is made of is off the queue then."""
        self._drain()
        return bool(self._news.places) or self._lost or self._unfit

    def _drain(self) -> None:
        if self._witness is not None:
            self._witness.look()
        for chunk in self._chunks():
            self._decode(chunk, self._news)

    def close(self) -> None:
        """Give the watches back. A second call is harmless."""
        if self.fd >= 0:
            self.fd = -1
            self._manager.close()
            self._mounts.close()

    # --- reading ------------------------------------------------------------------------------------------------

    def _chunks(self) -> Iterator[bytes]:
        """Everything that is readable, at most so much that a flood cannot keep the daemon here."""
        for _ in range(_CHUNKS_MAX):
            try:
                chunk = os.read(self.fd, _CHUNK)
            except BlockingIOError:
                return
            yield chunk
            if len(chunk) <= _CHUNK - _LARGEST:  # another event would have fitted: the queue is empty
                return

    def _decode(self, chunk: bytes, news: News) -> None:
        folders, unpack, end, at = self._folders, _HEADER.unpack_from, len(chunk), 0
        while at < end:
            wd, mask, _, length = unpack(chunk, at)
            at += _HEADER.size + length
            folder = folders.get(wd)
            if folder is None:  # the overflow itself (wd -1), or an event of a watch that was given back since
                self._lost = self._lost or bool(mask & _OVERFLOW)
            elif length:
                self._tell(folder, mask, chunk[at - length : at].rstrip(b"\0"), news)
            elif mask & _IGNORED:  # removed or unmounted; the kernel has dropped the watch
                del folders[wd]
                self._manager.del_watch(wd)
                self._unfit = True

    def _tell(self, folder: _Folder, mask: int, raw: bytes, news: News) -> None:
        """Judge one event by the rows of its name."""
        name = raw.decode(_ENCODING, "surrogateescape")
        concerns = self._concerns
        hit = []
        for wanted, place, what in folder.names.get(raw, folder.others):
            if mask & wanted:
                if what != "folder" or concerns(place, name):
                    hit.append(place)
                else:
                    self._set_aside(place, name)
        if not hit:
            return
        news.tell(hit, folder.path[len(self._root) :] or "/", name, _verb(mask), lambda: self._who(folder, raw))
        if raw in folder.names and not self._unfit:
            self._unfit = self._is_turn(folder, mask, raw, name)

    def _set_aside(self, place: Place, name: str) -> None:
        """A name that is no reason to look: whoever looks there next is told of it as well."""
        names = self._aside.setdefault(place, set())
        if len(names) < _ASIDE_MAX:
            names.add(name)

    def _take_aside(self, news: News) -> None:
        for place in news.names.keys() & self._aside.keys():
            names = self._aside.pop(place)
            if len(names) < _ASIDE_MAX:
                news.names[place] |= names
            else:  # there may have been more
                del news.names[place]

    def _who(self, folder: _Folder, raw: bytes) -> str:
        return self._witness.who(folder.path, raw) if self._witness is not None else ""

    def _is_turn(self, folder: _Folder, mask: int, raw: bytes, name: str) -> bool:
        """Does a change of this name make the way to a place another one? A file that is saved does not."""
        if raw in folder.turns:
            return True
        return bool(mask & _APPEARED) and os.path.islink(os.path.join(folder.path, name))

    # --- arming -------------------------------------------------------------------------------------------------

    def _arm(self) -> set[Place]:
        """Make the watches fit the paths as they are now; gives the places whose way is another one than before."""
        self._unfit = self._lost = False
        self._look_at = 0.0  # what fits by then fits until something is mounted, or until that time
        self._armed.clear()
        self._seen.clear()
        folders: dict[int, _Folder] = {}
        trails = {place: tuple(self._follow(place, folders)) for place in self._places}
        for wd in self._folders.keys() - folders.keys():
            self._give_back(wd)
        changed = {place for place, steps in trails.items() if steps != self._trails.get(place)}
        self._folders, self._trails = folders, trails
        if self._witness is not None:
            self._witness.watch(folder.path for folder in folders.values() if folder.tells)
        return changed

    def _follow(self, place: Place, folders: dict[int, _Folder]) -> Iterator[tuple[int, str]]:
        entry: tuple[_Folder, str] | None = None
        for step in trail(self._root, place):
            if entry:  # the way goes on behind the place's file: it is a link
                entry[0].turns.add(os.fsencode(entry[1]))
            mask = _mask(step, place)
            wd = self._add(step.folder, mask)
            if wd == _ABSENT:
                return
            if wd == _DENIED:
                continue
            folder = folders.setdefault(wd, _Folder(step.folder))
            folder.add(step, _Row(mask, place, step.what))
            entry = (folder, step.name) if step.what == "entry" else None
            yield wd, step.name

    def _add(self, path: str, mask: int) -> int:
        """Watch a folder for these events too: its watch descriptor, ``_ABSENT`` or ``_DENIED``.

        Once in an arming is enough: a folder replaced meanwhile makes an event in the one above it.
        """
        wd, already = self._armed.get(path, (_ABSENT, 0))
        if mask & ~already:
            self._seen.setdefault(path, identity(path))  # before: what takes its place from here on is another one
            wd = self._add_to_kernel(path, mask)
            self._armed[path] = wd, mask | already
            if wd < 0:
                self._seen[path] = None
        return wd

    def _add_to_kernel(self, path: str, mask: int) -> int:
        try:
            return int(self._manager.add_watch(path, mask | _HOW, quiet=False)[path])
        except UnicodeEncodeError as error:  # pyinotify cannot name such a path to the kernel
            raise OSError(EILSEQ, os.strerror(EILSEQ)) from error
        except pyinotify.WatchManagerError as error:
            number = ctypes.get_errno()  # the wrapper keeps it; the exception has it in words only
            if number in (ENOENT, ENOTDIR):
                return _ABSENT
            if number == EACCES:  # whoever looks there finds a gap; the way may go on behind it
                return _DENIED
            raise OSError(number, os.strerror(number)) from error

    def _give_back(self, wd: int) -> None:
        try:
            self._manager.rm_watch(wd, quiet=False)
        except pyinotify.WatchManagerError:  # its folder is gone: the kernel was quicker, IN_IGNORED is on its way
            self._manager.del_watch(wd)


def _mask(step: Step, place: Place) -> int:
    if step.what == "hop":
        return _HOP
    return _LINKS if _START_LINKS.search(place.folder) else _FILE


def _verb(mask: int) -> str:
    if mask & _APPEARED:
        return "appeared"
    if mask & _GONE:
        return "is gone"
    return "was written" if mask & _WRITTEN else "changed owner or mode"

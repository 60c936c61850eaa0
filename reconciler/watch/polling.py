"""Watching where inotify cannot serve: looking at everything every so often, in a thread.

watchdog's ``PollingObserverVFS`` compares what two functions of ours show it, once in an interval. Shown is a flat
list, made anew by walking each place's way: so a folder that is replaced, comes late or is reached by a link needs no
care, and there are two threads however many places there are (watching each folder by itself makes one each).

What the stock ``PollingObserver`` does not see and this does: a dangling link (it calls ``stat``, we call ``lstat``), a
change of owner or mode, or a file put back with the time it had (it compares mtime, we compare ctime). Both read in and
tried with watchdog 2.2.1 and 6.0.0.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import Any, NamedTuple, Protocol

from watchdog.observers.polling import PollingObserverVFS

from reconciler.model import Place, Wake
from reconciler.values import replace
from reconciler.watch.news import News
from reconciler.watch.trail import Step, real_root, trail

_VERBS = {"created": "appeared", "deleted": "is gone", "modified": "changed", "moved": "was renamed"}
_TICK_NS = 20_000_000
"""Nanoseconds. Two changes within one tick of the kernel's clock (10 ms at most, HZ=100) bear the same time."""


class _Name(NamedTuple):
    """All that watchdog asks of an entry of ``os.scandir``; it joins the name to ``_TOP``."""

    name: str


class _Seen(NamedTuple):
    """All that watchdog asks of a ``stat_result``: it compares these for equality and takes the type from the mode."""

    st_dev: object
    st_ino: object
    st_mode: int = 0
    st_size: int = 0
    st_mtime: object = 0


class _Event(Protocol):
    """What is read of watchdog's events; those of a move have a ``dest_path`` too."""

    event_type: str
    src_path: str


_TOP = "/places"
_NOTHING = _Seen(None, None)


class PollingWatcher:
    """Looks at all places every ``interval`` seconds. See :class:`reconciler.watch.Watcher`.

    Making one raises ``OSError`` without descriptors and ``RuntimeError`` without threads. It is its own handler for
    watchdog, which calls :meth:`dispatch`; that and the looking happen in watchdog's threads.
    """

    name = "polling"

    def __init__(
        self, places: Iterable[Place], root: str, concerns: Callable[[Place, str], bool], interval: float
    ) -> None:
        self._concerns = concerns
        self._numbers: dict[Place, int] = {}  # never given twice: an event may come after its place was dropped
        self._shown: tuple[str, dict[int, Place]] = "", {}
        self._lock = Lock()
        self._news = News()
        self.watch(places, root)
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        observer: Any = PollingObserverVFS  # typed in watchdog 6, not in 2
        self._observer = observer(stat=_look, listdir=self._list, polling_interval=interval)
        self._observer.schedule(self, _TOP)
        try:
            self._observer.start()  # looks for the first time before it returns
        except (OSError, RuntimeError):
            os.close(self.fd)
            raise

    def watch(self, places: Iterable[Place], root: str) -> None:
        """Show these places from the next look on. What is new there makes a wake then."""
        shown = {self._numbers.setdefault(place, len(self._numbers)): place for place in places}
        self._shown = real_root(root), shown  # in one store: the thread sees the old pair or the new one

    def read(self) -> Wake | None:
        """What the looks since the last call found changed."""
        with self._lock:
            try:
                os.eventfd_read(self.fd)
            except BlockingIOError:
                return None
            news, self._news = self._news, News()
        wake = news.wake(self.name)
        return wake and replace(wake, names={})  # of what is no reason to look it tells nothing

    def presses(self) -> bool:
        """Whether the looks since the last :meth:`read` found anything changed."""
        with self._lock:
            return bool(self._news.places)

    def close(self) -> None:
        """Stop the threads."""
        self._observer.stop()
        self._observer.join()
        os.close(self.fd)

    # --- in watchdog's threads ---

    def dispatch(self, event: _Event) -> None:
        """Take one difference that watchdog found; a move concerns both names."""
        for path in {event.src_path, getattr(event, "dest_path", "")} - {"", _TOP}:
            number, _, name = path[len(_TOP) + 1 :].partition("/")
            root, shown = self._shown
            place = shown.get(int(number))
            if place is not None:
                self._add(place, f"/{name}".removeprefix(root), _VERBS.get(event.event_type, "changed"))

    def _add(self, place: Place, path: str, verb: str) -> None:
        folder, _, name = path.rpartition("/")
        with self._lock:
            self._news.tell((place,), folder or "/", name, verb)
            os.eventfd_write(self.fd, 1)

    def _list(self, _top: str) -> Iterator[_Name]:
        """Every name that matters to a place, as ``NUMBER/REAL/PATH``: one shared by two places is shown to both."""
        root, shown = self._shown
        for number, place in shown.items():
            for step in trail(root, place):
                for name in self._names(step, place):
                    yield _Name(f"{number}{step.folder.rstrip('/')}/{name}")

    def _names(self, step: Step, place: Place) -> Iterable[str]:
        if step.what != "folder":
            return (step.name,)
        try:
            return [name for name in os.listdir(step.folder) if self._concerns(place, name)]
        except OSError:  # gone meanwhile, or one that whoever looks there reports as a gap
            return ()


def _look(path: str) -> _Seen:
    """What makes a name another thing than before: device and inode, and for what is no folder ctime and size.

    A folder on the way is the same whatever happens in it. Raises ``OSError`` for what is not there, which watchdog
    takes for absent.
    """
    if path == _TOP:
        return _NOTHING
    number, _, real = path[len(_TOP) + 1 :].partition("/")
    seen = os.lstat(f"/{real}")
    # The place's number as the device: the same file seen for another place is no move.
    where = _Seen(number, (seen.st_dev, seen.st_ino), seen.st_mode)
    if stat.S_ISDIR(seen.st_mode):
        return where
    return where._replace(st_size=seen.st_size, st_mtime=_change_time(seen.st_ctime_ns))


def _change_time(ctime_ns: int) -> object:
    """ctime, but one so fresh that a second change may still bear it equals no later reading of itself."""
    settled = time.time_ns() - ctime_ns > _TICK_NS
    return ctime_ns if settled else ("fresh", ctime_ns)

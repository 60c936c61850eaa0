"""Watching: which places to look at again. inotify first; polling where inotify cannot serve.

A wake only says where to look, never what is true, and neither watcher is trusted for correctness: the periodic full
pass is (a mount over a watched folder, a write through a mapping or ``truncate(2)`` by path make no event we wait for).
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable
from errno import ENOSPC
from typing import Protocol

from reconciler.model import Place, Wake
from reconciler.watch.filesystems import remote
from reconciler.watch.witness import Witness, open_witness

__all__ = ["Watcher", "Witness", "open_watcher", "open_witness"]

POLL_SECONDS = 2.0
"""How often the fallback looks. It is the only mode in which an idle daemon wakes up."""


class Watcher(Protocol):
    """Tells which places to look at again. Places without a folder (kernel tables) are nothing to it.

    The order that loses nothing: ``watch``, then look everywhere; ``read``, then look at what it names.
    """

    @property
    def name(self) -> str:
        """``inotify``, ``polling``, or ``none`` where neither can serve and only the full pass is left."""
        ...

    @property
    def fd(self) -> int:
        """Readable when there is something to read. Stays the same until ``close``."""
        ...

    def watch(self, places: Iterable[Place], root: str) -> None:
        """Watch these places instead, below this root.

        It finds what no event tells (a mount over a folder): call it before a full pass too. Where nothing is new that
        costs a look at each folder.
        """
        ...

    def read(self) -> Wake | None:
        """Drain everything now readable, without waiting: one wake naming the dirty places (``None`` for places:
        something was lost, look everywhere), or ``None`` when nothing concerns us. May name a place too many."""
        ...

    def presses(self) -> bool:
        """Whether the next :meth:`read` has a wake to give: what concerns nobody, as our own K links, is none."""
        ...

    def close(self) -> None:
        """Stop watching."""
        ...


def open_watcher(
    places: Iterable[Place],
    root: str,
    *,
    say: Callable[[str, str], None],
    concerns: Callable[[Place, str], bool] = lambda _place, _name: True,
    interval: float = POLL_SECONDS,
    witness: Witness | None = None,
) -> Watcher:
    """Watch these places below ``root``. Raises ``OSError`` only where no descriptor is left at all.

    ``say(event, why)`` is told once when it is not inotify that watches, at once or later: ``watch_polling`` or
    ``watch_none``; and ``watch_inotify`` when a later ``watch`` finds that it can serve again.
    ``concerns(place, name)`` drops names in a place's folder that cannot matter, before they cost a look; in polling
    mode a thread calls it, so it must be pure. ``interval`` in seconds, of polling. ``witness`` says who did it; the
    caller closes it.
    """
    return _Switching(places, root, say, concerns, interval, witness)


def _never() -> bool:
    return False


class _Switching:
    """inotify as long as it serves, then polling. ``fd`` is an epoll instance, which stays when its content changes."""

    def __init__(
        self,
        places: Iterable[Place],
        root: str,
        say: Callable[[str, str], None],
        concerns: Callable[[Place, str], bool],
        interval: float,
        witness: Witness | None,
    ) -> None:
        self._places, self._root = tuple(places), root
        self._say, self._concerns, self._interval = say, concerns, interval
        self._witness = witness
        self._epoll = select.epoll()
        self.fd = self._epoll.fileno()
        self._told, self._is_told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), False
        self._epoll.register(self._told, select.EPOLLIN)
        self._inner: Watcher = _Blind()
        self._fits = _never
        try:
            self._open_inotify()
        except (ImportError, OSError) as error:
            self._fall(error)

    @property
    def name(self) -> str:
        return self._inner.name

    def watch(self, places: Iterable[Place], root: str) -> None:
        before = self._places, self._root
        self._places, self._root = tuple(places), root
        if self._epoll.poll(0):
            self.presses()  # what the queue says of the ways to the places is known then
        if before == (self._places, root) and self._fits():
            return
        if self.name != "inotify" and self._is_back():
            return
        try:
            if self.name == "inotify":
                self._refuse_remote()
            self._inner.watch(self._places, root)
        except OSError as error:
            self._fall(error)

    def read(self) -> Wake | None:
        if self._is_told:
            os.eventfd_read(self._told)
            self._is_told = False
        try:
            return self._inner.read()
        except OSError as error:
            self._fall(error)
            return Wake(f"inotify failed: {error.strerror or error}")

    def presses(self) -> bool:
        try:
            presses = self._inner.presses()
        except OSError:  # whoever reads is told
            return True
        if presses and not self._is_told:  # the queue may be empty by now
            os.eventfd_write(self._told, 1)
            self._is_told = True
        return presses

    def close(self) -> None:
        self._inner.close()
        self._epoll.close()
        os.close(self._told)

    def _open_inotify(self) -> None:
        self._refuse_remote()
        from reconciler.watch.inotify import InotifyWatcher  # pyinotify may be missing

        watcher = InotifyWatcher(self._places, self._root, self._concerns, self._witness)
        self._use(watcher, watcher.fits)

    def _is_back(self) -> bool:
        """Whether inotify can serve again: watches were given back, a file system was unmounted."""
        try:
            self._open_inotify()
        except (ImportError, OSError):
            return False
        self._say("watch_inotify", "inotify serves again")
        return True

    def _refuse_remote(self) -> None:
        """Raises ``OSError`` where others than this kernel may change what is watched."""
        where = remote(self._places, self._root)
        if where:
            raise OSError(f"{where}, which others may change unseen")

    def _fall(self, reason: Exception) -> None:
        """From inotify to polling, and where that cannot be either, to nothing."""
        why = f"inotify cannot serve: {_explain(reason)}"
        try:
            from reconciler.watch.polling import PollingWatcher  # rarely needed, and it may be missing

            self._use(PollingWatcher(self._places, self._root, self._concerns, self._interval))
        except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
            self._use(_Blind())
            why += f"; neither can polling: {error}"
        self._say(f"watch_{self.name}", why)

    def _use(self, watcher: Watcher, fits: Callable[[], bool] = _never) -> None:
        self._inner.close()
        self._inner, self._fits = watcher, fits
        self._epoll.register(watcher.fd, select.EPOLLIN)


class _Blind:
    """Sees nothing: the periodic full pass is all there is."""

    name = "none"

    def __init__(self) -> None:
        self.fd = os.eventfd(0)

    def watch(self, places: Iterable[Place], root: str) -> None:
        """Nothing to arm."""

    def read(self) -> Wake | None:
        return None

    def presses(self) -> bool:
        return False

    def close(self) -> None:
        os.close(self.fd)


def _explain(error: Exception) -> str:
    """The reason with what the administrator can do about it."""
    if isinstance(error, OSError) and error.errno == ENOSPC:
        return "the user's watches are used up (raise fs.inotify.max_user_watches)"
    if "EMFILE" in str(error):  # pyinotify has the number in words only
        return "the user's inotify instances are used up (raise fs.inotify.max_user_instances)"
    return str(error)

"""The real ``Eyes``: a table of who looks at what below one root. What a tree that does not run has none of (processes,
sockets, addresses, units) is not even imported for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from reconciler.errors import Unobservable
from reconciler.host import FILE_LIMIT, Eyes, Listing, Mark, Stamp, Text
from reconciler.host.files import Root
from reconciler.host.kernel import ProcessTable, host_facts, is_live
from reconciler.model import Address, Entry, EntryState, FileState, Host, Listener, Process

if TYPE_CHECKING:
    from reconciler.host.sockets import Sockets


_SELF = "/proc/self/"


class RealEyes(Eyes):
    """Looks at one root."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._facts: Host | None = None
        self._is_live = False

    def host(self) -> Host:
        self._facts = host_facts(self._root, self._facts)
        return self._facts

    def folder(self, path: str, wanted: Callable[[str], bool] | None = None) -> tuple[Entry, ...] | None:
        return self._root.folder(path, wanted)

    def holds(self, path: str, listing: Listing) -> bool:
        return self._root.holds(path, listing)

    def named(
        self, path: str, names: Collection[str], wanted: Callable[[str], bool] | None = None
    ) -> tuple[Entry, ...] | None:
        return self._root.named(path, names, wanted)

    def entry(self, path: str) -> EntryState | None:
        return self._root.entry(path)

    def entries(self, paths: Sequence[str]) -> list[EntryState | Unobservable | None]:
        return self._root.entries(paths)

    def exists(self, path: str) -> bool:
        return self._root.exists(path)

    def read(self, path: str, limit: int = FILE_LIMIT) -> FileState | None:
        if path.startswith(_SELF) and self._live:  # a link, and to walk it takes ten calls
            path = f"/proc/{os.getpid()}/{path[len(_SELF) :]}"
        return self._root.read(path, limit)

    def texts(
        self, folder: str, names: Iterable[str], known: Mapping[str, Stamp]
    ) -> Iterator[tuple[str, Text | Unobservable | None]]:
        return self._root.texts(folder, names, known)

    def mark(self, folder: str, names: Iterable[str]) -> Mark | None:
        return self._root.mark(folder, names)

    def triggers(self) -> tuple[str, ...]:
        """What systemd has active; of an image nothing."""
        if not self._live:
            return ()
        from reconciler.host.systemd import Systemd

        return Systemd(self._root).triggers()

    def processes(self, *, again: bool = False) -> tuple[Process, ...]:
        """The processes of a running host; of an image none, whatever runs on the host that looks at it."""
        if not self._live:
            return ()
        return self._processes.look(again=again)

    def listeners(self, wanted: Callable[[Listener], bool] | None = None) -> tuple[Listener, ...]:
        return self._sockets.look(wanted) if self._live else ()

    def addresses(self) -> tuple[Address, ...]:
        if not self._live:
            return ()
        from reconciler.host.addresses import addresses

        return addresses()

    def watchdog_holders(self) -> frozenset[int]:
        if not self._live:
            return frozenset()
        from reconciler.host.sockets import watchdog_holders

        return watchdog_holders()

    @property
    def _live(self) -> bool:
        """Asked until it is so: a root that is the running system's own stays it as long as we run."""
        self._is_live = self._is_live or is_live(self._root)
        return self._is_live

    @cached_property
    def _processes(self) -> ProcessTable:
        return ProcessTable(self._root)

    @cached_property
    def _sockets(self) -> Sockets:
        from reconciler.host.sockets import Sockets

        return Sockets(self._processes.some)

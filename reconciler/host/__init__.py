"""The seam to the system: ``Eyes`` only read, ``Hands`` do one action. Fakes exist for these two and nothing else.

Every path is absolute *below the root* the implementation was built for and is never followed out of it. The real ones
are :mod:`reconciler.host.files` (files), :mod:`reconciler.host.services` (init systems) and
:mod:`reconciler.host.kernel` (processes, sockets); only ``cli.py`` builds them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from reconciler.errors import Unobservable
from reconciler.model import (
    Action,
    Address,
    Entry,
    EntryState,
    FileState,
    Host,
    Listener,
    Outcome,
    Process,
    Signal,
    StartService,
    StopService,
)
from reconciler.network.applying import ApplyNetwork

FILE_LIMIT = 1 << 20
"""Bytes. A larger file where a configuration file belongs is a gap: no real inetd.conf comes near it."""


Stamp = tuple[object, ...]
"""What tells a file from every other one that was or will be at its name, without reading it; () where nothing does."""


Mark = tuple[Stamp, ...]
"""The stamps of a folder and of files in it."""


class Text(NamedTuple):
    """The bytes of a file and its stamp."""

    content: bytes
    stamp: Stamp = ()


class Listing(NamedTuple):
    """What a whole folder held, in the form in which a later look is compared with it soonest.

    ``links`` says of each name whether that is a link; ``targets`` are those of the names in ``read``.
    """

    links: Mapping[str, bool]
    read: list[str]
    targets: list[str]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Listing:
        """That of what :meth:`Eyes.folder` gave."""
        read = [entry for entry in entries if entry.target]
        links = {entry.name: entry.what == "link" for entry in entries}
        return cls(links, [entry.name for entry in read], [entry.target for entry in read])


class Eyes(Protocol):
    """Looks, and changes nothing. Absence is an answer (``None``); anything else that fails is ``Unobservable``."""

    def host(self) -> Host:
        """Say what kind of host this is."""
        ...

    def folder(self, path: str, wanted: Callable[[str], bool] | None = None) -> tuple[Entry, ...] | None:
        """List a folder, sorted by name; ``None`` where there is none. The targets of ``wanted`` links are read."""
        ...

    def holds(self, path: str, listing: Listing) -> bool:  # noqa: ARG002  (who has a fake lists it)
        """Whether a folder holds what it held: all of it is looked at. False also where that cannot be told."""
        return False

    def named(
        self, path: str, names: Collection[str], wanted: Callable[[str], bool] | None = None
    ) -> tuple[Entry, ...] | None:
        """As :meth:`folder`, but these names only: those of them that are there."""
        entries = self.folder(path, wanted)
        return None if entries is None else tuple(entry for entry in entries if entry.name in names)

    def entry(self, path: str) -> EntryState | None:
        """The thing of that very name (a link is not followed), a file with its content."""
        ...

    def entries(self, paths: Sequence[str]) -> list[EntryState | Unobservable | None]:
        """:meth:`entry` for many, what would be raised in its place; the real ones open each folder once."""
        found: list[EntryState | Unobservable | None] = []
        for path in paths:
            try:
                found.append(self.entry(path))
            except Unobservable as error:
                found.append(error)
        return found

    def exists(self, path: str) -> bool:
        """Whether anything lies at a path, links followed."""
        return self.entry(path) is not None

    def read(self, path: str, limit: int = FILE_LIMIT) -> FileState | None:
        """A regular file, links followed below the root only; ``Unobservable`` beyond ``limit`` bytes."""
        ...

    def texts(
        self,
        folder: str,
        names: Iterable[str],
        known: Mapping[str, Stamp],  # noqa: ARG002  (a fake reads all)
    ) -> Iterator[tuple[str, Text | Unobservable | None]]:
        """:meth:`read` for many files of a folder, in turn; what bears the stamp by which it is ``known`` is left out.

        The real ones open the folder once.
        """
        for name in names:
            try:
                state = self.read(f"{folder}/{name}")
            except Unobservable as error:
                yield name, error
            else:
                yield name, None if state is None else Text(state.content)

    def mark(self, folder: str, names: Iterable[str]) -> Mark | None:  # noqa: ARG002  (fakes know no marks)
        """What stays equal while a folder has the names that it has, and these files of it what is in them.

        ``None`` where nothing says so. Who remembers what he read had a mark that was made before.
        """
        return None

    def processes(self, *, again: bool = False) -> tuple[Process, ...]:
        """Every process of this host (not of its containers), kernel threads left out.

        ``again``: of one that still runs what it ran when it was last seen, that is not read anew.
        """
        ...

    def triggers(self) -> tuple[str, ...]:
        """The sockets, timers and paths that systemd has active; one cheap question to PID 1, asked by full passes."""
        ...

    def listeners(self, wanted: Callable[[Listener], bool] | None = None) -> tuple[Listener, ...]:
        """Every socket that waits for somebody; ``owners`` are looked for only where ``wanted``."""
        ...

    def addresses(self) -> tuple[Address, ...]:
        """Every address of every interface."""
        ...

    def watchdog_holders(self) -> frozenset[int]:
        """The processes that hold /dev/watchdog open: the host is reset when they end."""
        ...


class Handle(Protocol):
    """A stop that is under way. The main loop polls ``fd`` and calls :meth:`expire` at ``deadline`` (monotonic)."""

    fd: int
    deadline: float

    def expire(self) -> None:
        """The time is up: TERM, then KILL, to the stop's own process group; may move ``deadline`` on."""
        ...

    def finish(self) -> Outcome:
        """Reap it once ``fd`` is readable, close ``fd``, and say how it ended."""
        ...


class Hands(Protocol):
    """Does one action. Raises ``Stale`` when its expectation no longer holds, ``ActionFailed`` when refused."""

    def do(self, action: Action) -> Outcome:
        """Do one action that ends at once. Folders are made durable by :meth:`settle`."""
        ...

    def begin(self, action: StopService | StartService | Signal | ApplyNetwork) -> Handle:
        """Start an action that takes its time."""
        ...

    def settle(self, actions: Sequence[Action]) -> None:
        """Make a batch durable: fsync each touched folder once."""
        ...

"""The one fake of the host protocol ``Eyes``: a tree as a mapping, and a kernel in which nothing runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from reconciler.errors import Unobservable
from reconciler.host import Eyes
from reconciler.model import (
    Address,
    Entry,
    EntryState,
    FileState,
    Host,
    LinkState,
    Listener,
    OddState,
    Process,
)


@dataclass
class FakeEyes(Eyes):
    """Paths to what lies there; a state that is an exception is raised."""

    tree: Mapping[str, EntryState | Exception] = field(default_factory=dict)

    def host(self) -> Host:
        return Host()

    def folder(self, path: str, wanted: Callable[[str], bool] | None = None) -> tuple[Entry, ...] | None:
        names = sorted(p.removeprefix(f"{path}/") for p in self.tree if p.rpartition("/")[0] == path)
        words: dict[type, str] = {LinkState: "link", FileState: "file"}
        found = [(name, self.tree[f"{path}/{name}"]) for name in names]
        entries = (Entry(n, s.what if isinstance(s, OddState) else words.get(type(s), "file")) for n, s in found)
        return tuple(entries) if found or path in self.tree else None

    def entry(self, path: str) -> EntryState | None:
        state = self.tree.get(path)
        if isinstance(state, Exception):
            raise state
        return state

    def read(self, path: str, limit: int = 1 << 20) -> FileState | None:
        state = self.entry(path)
        if isinstance(state, LinkState):
            return self.read(state.target)
        if isinstance(state, OddState):
            raise Unobservable(f"{path} is a {state.what}, not a file")
        return state

    def processes(self, *, again: bool = False) -> tuple[Process, ...]:
        return ()

    def listeners(self, wanted: Callable[[Listener], bool] | None = None) -> tuple[Listener, ...]:
        return ()

    def addresses(self) -> tuple[Address, ...]:
        return ()

    def watchdog_holders(self) -> frozenset[int]:
        return frozenset()

    def triggers(self) -> tuple[str, ...]:
        return ()

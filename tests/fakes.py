"""A host in memory: a tree of values and whatever runs, so that a test can say "systemd, live" without being there."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.attempts import is_slow
from reconciler.errors import ActionFailed, Unobservable
from reconciler.host import Eyes, Handle, Hands
from reconciler.model import (
    Action,
    Address,
    Entry,
    EntryState,
    FileState,
    Host,
    LinkState,
    Listener,
    OddState,
    Outcome,
    Process,
    Signal,
    StartService,
    StopService,
)
from reconciler.network.applying import ApplyNetwork

Thing = EntryState | Unobservable


@dataclass
class MemoryEyes(Eyes):
    """Paths to what lies there, and what a kernel would tell; a state that is ``Unobservable`` is raised."""

    tree: Mapping[str, Thing] = field(default_factory=dict)
    facts: Host = field(default_factory=lambda: Host(live=True))
    running: Sequence[Process] = ()
    listening: Sequence[Listener] = ()
    held: Sequence[Address] = ()
    active: Sequence[str] = ()
    guarding: frozenset[int] = frozenset()

    def host(self) -> Host:
        return self.facts

    def folder(self, path: str, wanted: Callable[[str], bool] | None = None) -> tuple[Entry, ...] | None:
        there = self.tree.get(path)
        if isinstance(there, Unobservable):
            raise there
        if there is not None:
            raise Unobservable(f"{path} is not a folder")
        names = {p[len(path) + 1 :].partition("/")[0] for p in self.tree if p.startswith(f"{path}/")}
        return tuple(self._entry(path, name, wanted) for name in sorted(names)) if names else None

    def _entry(self, folder: str, name: str, wanted: Callable[[str], bool] | None) -> Entry:
        match self.tree.get(f"{folder}/{name}"):
            case LinkState(target=target):
                return Entry(name, "link", target if wanted is not None and wanted(name) else "")
            case OddState(what=what):
                return Entry(name, what)
            case None:
                return Entry(name, "directory")
        return Entry(name, "file")

    def entry(self, path: str) -> EntryState | None:
        state = self.tree.get(path)
        if isinstance(state, Unobservable):
            raise state
        return state

    def read(self, path: str, limit: int = 1 << 20) -> FileState | None:
        for _ in range(40):
            state = self.entry(path)
            if not isinstance(state, LinkState):
                break
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), state.target))
        else:
            raise Unobservable(f"{path}: links that lead in a circle")
        if isinstance(state, OddState):
            raise Unobservable(f"{path} is a {state.what}, not a file")
        return state

    def processes(self, *, again: bool = False) -> tuple[Process, ...]:
        return tuple(self.running)

    def listeners(self, wanted: Callable[[Listener], bool] | None = None) -> tuple[Listener, ...]:
        return tuple(self.listening)

    def addresses(self) -> tuple[Address, ...]:
        return tuple(self.held)

    def watchdog_holders(self) -> frozenset[int]:
        return self.guarding

    def triggers(self) -> tuple[str, ...]:
        return tuple(self.active)


@dataclass
class NoHands(Hands):
    """Does nothing and notes what it was asked for; ``fails`` says which actions the system refuses."""

    fails: Callable[[Action], bool] = lambda action: False
    done: list[Action] = field(default_factory=list)

    def do(self, action: Action) -> Outcome:
        assert not is_slow(action)
        if self.fails(action):
            raise ActionFailed("the system refused")
        self.done.append(action)
        return Outcome("done")

    def begin(self, action: StopService | StartService | Signal | ApplyNetwork) -> Handle:
        raise ActionFailed("nothing is begun here")

    def settle(self, actions: Sequence[Action]) -> None:
        pass


def script(name: str, provides: str = "", needs: str = "", runs: str = "") -> dict[str, Thing]:
    """An init script for a tree."""
    header = f"### BEGIN INIT INFO\n# Provides: {provides or name}\n# Required-Start: {needs}\n### END INIT INFO\n"
    text = f"#!/bin/sh\n{header}DAEMON={runs or f'/usr/sbin/{name}'}\n"
    return {f"/etc/init.d/{name}": FileState(text.encode("utf-8", "surrogateescape"), 0o755)}


def link(path: str, target: str = "") -> dict[str, Thing]:
    """A start link for a tree: ``rc2.d/S20exim4``."""
    return {f"/etc/{path}": LinkState(target or f"../init.d/{path.rpartition('/')[2][3:]}")}


def unit(name: str, text: str = "[Service]\nExecStart=/usr/sbin/x\n") -> dict[str, Thing]:
    """A unit file of a package."""
    return {f"/usr/lib/systemd/system/{name}": FileState(text.encode())}


def wanted_by(target: str, name: str) -> dict[str, Thing]:
    """A link that enables a unit."""
    return {f"/etc/systemd/system/{target}.wants/{name}": LinkState(f"/usr/lib/systemd/system/{name}")}


SYSTEMD: dict[str, Thing] = {
    "/sbin/init": LinkState("/lib/systemd/systemd"),
    "/lib": LinkState("usr/lib"),
    "/var/lib/dpkg/info/systemd.list": FileState(b"/.\n/usr/lib/systemd/system/getty@.service\n"),
    "/run/systemd/units/invocation:getty@tty1.service": LinkState("0"),
}
"""What makes a tree one of systemd's, and lets its units be judged."""

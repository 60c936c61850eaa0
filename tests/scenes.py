"""Small hosts out of values, for kinds that look at what runs: a state, processes, sockets, addresses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.desired import DesiredState
from reconciler.errors import Unobservable
from reconciler.holds import Restraints
from reconciler.kinds import KINDS
from reconciler.kinds.base import Context
from reconciler.model import (
    Address,
    Entry,
    FileState,
    Finding,
    Host,
    Listener,
    Place,
    Plan,
    Process,
    Ref,
    Sight,
    Snapshot,
    Step,
)
from reconciler.planner import plan
from reconciler.services import Catalogue, InitScript, UnitFile, parse_catalogue
from reconciler.values import replace
from tests.kinds.eyes import FakeEyes

DATA = parse_catalogue((Path(__file__).parents[1] / "reconciler/catalogue.toml").read_text())
SYSVINIT = Host(live=True, own=900)
SYSTEMD = Host(live=True, init="systemd", own=900)


@dataclass(kw_only=True)
class Scene(FakeEyes):
    """What there is to see. ``gone`` are the paths, or the word ``addresses``, that cannot be looked at."""

    running: Sequence[Process] = ()
    sockets: Sequence[Listener] = ()
    held: Sequence[Address] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    guarding: frozenset[int] = frozenset()
    gone: Collection[str] = ()
    facts: Host = SYSVINIT
    scripts: Sequence[InitScript] = ()
    units: Sequence[UnitFile] = ()

    def __post_init__(self) -> None:
        refused = {path: Unobservable(f"{path}: Permission denied") for path in self.gone}
        self.tree = {**{path: FileState(text.encode()) for path, text in self.files.items()}, **refused}

    def host(self) -> Host:
        return self.facts

    def folder(self, path: str, wanted: Callable[[str], bool] | None = None) -> tuple[Entry, ...] | None:
        if path in self.gone:
            raise Unobservable(f"{path}: Permission denied")
        return super().folder(path, wanted)

    def processes(self, *, again: bool = False) -> tuple[Process, ...]:
        return tuple(self.running)

    def listeners(self, wanted: Callable[[Listener], bool] | None = None) -> tuple[Listener, ...]:
        return tuple(one if wanted and wanted(one) else replace(one, owners=()) for one in self.sockets)

    def addresses(self) -> tuple[Address, ...]:
        if "addresses" in self.gone:
            raise Unobservable("netlink: refused")
        return tuple(self.held)

    def watchdog_holders(self) -> frozenset[int]:
        return self.guarding

    def context(self, desired: DesiredState, tried: Mapping[str, str] | None = None) -> Context:
        """What the planner would judge by: every kind's places of a kernel table, and inetd's files."""
        sights = {}
        for kind in KINDS:
            for place in kind.places(desired, self.facts):
                if kind.NAME in ("listeners", "processes", "inetd"):
                    sights[place] = kind.observe(place, self)
        evidence = {Place("evidence", "/x"): Sight((*self.scripts, *self.units))}
        catalogue = Catalogue(DATA, self.scripts, self.units)
        return Context(desired, Snapshot(self.facts, {**sights, **evidence}), catalogue, tried or {})

    def plan(self, desired: DesiredState, tried: Mapping[str, str] | None = None) -> Plan:
        """The plan for this host."""
        return plan(self.context(desired, tried), Restraints())


def script(name: str, *runs: str, package: str = "") -> InitScript:
    """An init script that runs these programs."""
    return InitScript(Ref("rclinks", f"init.d/{name}"), (name,), script=name, runs=runs, package=package)


def process(
    pid: int, executable: str, parent: int = 1, *arguments: str, cgroup: str = "", package: str = "", started: int = 0
) -> Process:
    """A process under its program's name, as the kernel cuts it."""
    name, words = executable.rpartition("/")[2][:15], (executable, *arguments)
    return Process(pid, parent, name, executable, words, cgroup=cgroup, package=package, started=started)


INIT = Process(1, 0, "init", "/usr/sbin/init")


def refs(findings: Sequence[Finding]) -> list[str]:
    """As they are printed."""
    return [str(finding.ref) for finding in findings]


def step_for(found: Plan, ref: str) -> Step:
    """The one step that a finding asks for."""
    (step,) = [step for step in found.steps if ref in map(str, step.findings)]
    return step

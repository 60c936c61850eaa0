"""The planner: judge, remedy, merge, order, on snapshots that no disk has to hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from reconciler.desired import DesiredState, Services
from reconciler.holds import Restraints
from reconciler.host import Eyes
from reconciler.kinds import Context, Kind
from reconciler.model import (
    Action,
    Finding,
    Gap,
    Host,
    Place,
    Plan,
    Ref,
    ReloadManager,
    Resource,
    Rule,
    Sight,
    Signal,
    Snapshot,
    Step,
    StopService,
    Unlink,
)
from reconciler.planner import plan
from reconciler.services import Catalogue, CatalogueData

RESTRAINTS = Restraints()


@dataclass
class FakeKind:
    """A kind that finds every resource, asks for what it is told to, and mends what it causes."""

    NAME: str
    actions: tuple[Action, ...]
    rule: Rule = "unapproved"
    causes: tuple[Resource, ...] = ()

    def places(self, desired: DesiredState, host: Host) -> Iterable[Place]:
        return (Place(self.NAME, f"/{self.NAME}"),)

    def concerns(self, place: Place, name: str) -> bool:
        return True

    def observe(self, place: Place, eyes: Eyes) -> Sight:
        return Sight()

    def judge(self, place: Place, sight: Sight, context: Context) -> Iterator[Finding]:
        for seen in sight.resources:
            yield Finding(seen.ref, seen.names[0], "unapproved", self.rule, "", seen, self.causes)

    def remedy(self, findings: Sequence[Finding], context: Context) -> Iterator[Step]:
        for finding in findings:
            if not finding.causes or finding.seen in finding.causes:
                yield from (Step(action, finding.service, (finding.ref,)) for action in self.actions)


def resource(kind: str, name: str, service: str = "x") -> Resource:
    return Resource(Ref(kind, name), (service,))


def made(kinds: Sequence[Kind], focus: set[Place] | None = None, **sights: Sight) -> Plan:
    snapshot = Snapshot(
        Host(), {Place(name, f"/{name}"): sight for name, sight in sights.items()}, frozenset(("z", "a"))
    )
    context = Context(DesiredState(services=Services(("ssh",))), snapshot, Catalogue(CatalogueData()))
    return plan(context, RESTRAINTS, focus, kinds)


UNLINK, STOP = Unlink("/a/S20x", "t"), StopService("x", "x")


def test_the_same_action_is_one_step_with_every_finding() -> None:
    one, two = FakeKind("one", (UNLINK, STOP)), FakeKind("two", (STOP,))
    result = made(
        (one, two), one=Sight((resource("one", "a"),)), two=Sight((resource("two", "b"), resource("two", "c")))
    )
    assert [(step.action, step.findings) for step in result.steps] == [
        (UNLINK, (Ref("one", "a"),)),
        (STOP, (Ref("one", "a"), Ref("two", "b"), Ref("two", "c"))),
    ]


def test_configuration_first_then_the_reload_then_what_runs() -> None:
    hup = Signal("inetd", "HUP", "/usr/sbin/inetd")
    kind = FakeKind("one", (STOP, hup, ReloadManager(), UNLINK))
    steps = made((kind,), one=Sight((resource("one", "a"),))).steps
    assert [step.action for step in steps] == [UNLINK, ReloadManager(), STOP, hup], "and otherwise as it was asked for"


def test_what_is_only_reported_asks_for_nothing_and_counts_for_nothing() -> None:
    result = made((FakeKind("one", (STOP,), "reported"),), one=Sight((resource("one", "a"),)))
    assert [finding.rule for finding in result.findings] == ["reported"]
    assert (result.steps, result.converged) == ((), True)


def test_a_gap_alone_is_not_converged() -> None:
    gap = Gap("one", Ref("one", "a"), "why")
    result = made((FakeKind("one", (STOP,)),), one=Sight(gaps=(gap,)))
    assert (result.gaps, result.converged) == ((gap,), False)


def test_a_cause_is_mended_by_its_own_kind() -> None:
    line = resource("two", "line", "ident")
    kinds = (FakeKind("one", (STOP,), causes=(line,)), FakeKind("two", (UNLINK,)))
    result = made(kinds, one=Sight((resource("one", "port"),)))
    assert [(step.action, step.findings) for step in result.steps] == [(UNLINK, (Ref("one", "port"),))]


def test_a_focus_judges_its_places_alone() -> None:
    kinds = (FakeKind("one", (UNLINK,)), FakeKind("two", (STOP,)))
    gap = Gap("one", Ref("one", "g"), "why")
    sights = {"one": Sight((resource("one", "a"),), (gap,)), "two": Sight((resource("two", "b"),))}
    result = made(kinds, {Place("two", "/two")}, **sights)
    assert [step.action for step in result.steps] == [STOP]
    assert result.gaps == ()


def test_findings_are_shown_kind_by_kind() -> None:
    kinds = (FakeKind("two", ()), FakeKind("one", ()))
    result = made(kinds, one=Sight((resource("one", "a"),)), two=Sight((resource("two", "b"),)))
    assert [finding.kind for finding in result.findings] == ["two", "one"]
    assert result.skipped == ("a", "z")


@pytest.mark.parametrize("focus", [None, set[Place]()])
def test_nothing_seen_is_nothing_to_do(focus: set[Place] | None) -> None:
    assert made((FakeKind("one", (STOP,)),), focus).converged

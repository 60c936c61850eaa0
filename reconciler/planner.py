"""Desired state and snapshot -> plan. Pure, typed, deterministic.

judge   each kind says what contradicts the desired state, place by place
remedy  each kind says what would mend its findings, and those that its resources cause
merge   one step per distinct action, with every finding that asked for it
order   configuration first, so that nothing can come back; then what runs
hold    :mod:`reconciler.holds` says which steps are not done, and why
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from reconciler.holds import Restraints, hold
from reconciler.kinds import KINDS, Context, Kind
from reconciler.model import (
    Action,
    Finding,
    Gap,
    Place,
    Plan,
    Ref,
    ReloadManager,
    Sight,
    Signal,
    Snapshot,
    StartService,
    Step,
    StopService,
)
from reconciler.network.applying import ApplyNetwork
from reconciler.services import grouped
from reconciler.values import replace

OVERRIDES = "overrides"
"""What pauses and exceptions are called where a kind's name stands."""


def plan(
    context: Context,
    restraints: Restraints,
    focus: Collection[Place] | None = None,
    kinds: Sequence[Kind] = KINDS,
) -> Plan:
    """Plan for a whole snapshot, or with ``focus`` for what the last look at some of its places found anew.

    A focused plan's steps are a subset of the full plan's: judging looks at one place at a time, and where a look may
    leave out what did not change, at one resource at a time.
    """
    sights = _in_focus(context.snapshot, focus)
    seen = grouped((place.kind, (place, sight)) for place, sight in sights)
    findings: list[Finding] = []
    steps: list[Step] = []
    for kind in kinds:
        for place, sight in seen.get(kind.NAME, ()):
            findings += kind.judge(place, sight, context)
    asked = grouped(_for_remedy(findings))
    for kind in kinds:
        if kind.NAME in asked:
            steps += kind.remedy(asked[kind.NAME], context)
    return Plan(
        tuple(findings),
        hold(_order(_merge(steps)), context, restraints),
        (*(gap for _, sight in sights for gap in sight.gaps), *_faults(restraints)),
        tuple(sorted(context.snapshot.skipped)),
    )


def _in_focus(snapshot: Snapshot, focus: Collection[Place] | None) -> list[tuple[Place, Sight]]:
    """What is to be judged, and where."""
    if focus is None:
        return list(snapshot.sights.items())
    there = [(place, snapshot.sights[place]) for place in sorted(focus) if place in snapshot.sights]
    return [(place, s if s.fresh is None else Sight(s.fresh, s.gaps)) for place, s in there]


def _for_remedy(findings: Iterable[Finding]) -> Iterator[tuple[str, Finding]]:
    """What each kind is asked to mend: its own findings, and its resources that are the cause of others' findings."""
    for finding in findings:
        if finding.rule == "reported":
            continue
        yield finding.kind, finding
        for cause in finding.causes:
            if cause.ref.kind != finding.kind:
                yield cause.ref.kind, replace(finding, seen=cause)


def _faults(restraints: Restraints) -> tuple[Gap, ...]:
    """Orders that cannot be understood are as good as a place that cannot be looked at: the host is not as ordered."""
    fault = restraints.overrides.fault
    return (Gap(OVERRIDES, Ref(OVERRIDES, "overrides.json"), fault),) if fault else ()


def _merge(steps: Iterable[Step]) -> Iterator[Step]:
    asked: dict[Action, list[Step]] = {}
    for step in steps:
        asked.setdefault(step.action, []).append(step)
    for same in asked.values():
        if len(same) == 1:
            yield same[0]
        else:
            yield replace(same[0], findings=tuple(dict.fromkeys(ref for step in same for ref in step.findings)))


def _order(steps: Iterable[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: _LATER.get(type(step.action), 0))


_LATER: Mapping[type[Action], int] = {ReloadManager: 1, StopService: 2, StartService: 2, Signal: 2, ApplyNetwork: 2}

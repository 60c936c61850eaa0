"""The proof of an action: what a fresh look says of it, whatever the action says of itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from reconciler.attempts import Attempt, is_slow
from reconciler.kinds import units
from reconciler.model import (
    Action,
    DisableUnit,
    EnableUnit,
    Gap,
    Link,
    Outcome,
    Place,
    Signal,
    Step,
    StopService,
    Unlink,
    WriteFile,
    target_of,
    word_of,
)

RUNNING = frozenset(("processes", "units", "listeners"))
"""The kinds that see what runs."""

Identity = tuple[str, str]
"""What makes two actions the same: the word and the target."""


def touched(attempts: Iterable[Attempt], places: Collection[Place]) -> set[Place]:
    """The places a proof must look at: the folder of a file action, every place of the kinds that asked otherwise."""
    folders: set[str] = set()
    kinds: set[str] = set()
    for attempt in attempts:
        action = attempt.step.action
        if isinstance(action, Unlink | Link | WriteFile):
            folders.add(action.path.rpartition("/")[0])
        elif attempt.outcome and attempt.outcome.word != "pending":
            kinds.update(ref.kind for ref in attempt.step.findings)
    shown = ("", units.RUNNING) if kinds else ()
    return {place for place in places if place.folder in folders or place.kind in kinds or place.folder in shown}


def still_asked(steps: Iterable[Step]) -> frozenset[Identity]:
    """What a new plan asks for. A stop counts only of what is seen to run: that a link is there again says nothing."""
    return frozenset(_identity(s.action) for s in steps if not isinstance(s.action, StopService) or _is_seen(s))


def _identity(action: Action) -> Identity:
    return word_of(action), target_of(action)


def proved(attempt: Attempt, asked: Collection[Identity], gaps: Collection[Gap]) -> Attempt:
    """The attempt as the look says: ``asked`` is what the new plan still asks for, ``gaps`` what it could not see."""
    outcome = attempt.outcome
    if outcome is None or outcome.word not in ("done", "failed"):
        return attempt
    if _identity(attempt.step.action) in asked:
        return attempt.ended(Outcome("failed", _still_there(attempt.step.action, outcome)))
    if any(_hides(gap, attempt.step) for gap in gaps):
        return attempt.ended(Outcome("unverified", "it could not be looked at again"))
    if outcome.word == "failed" and is_slow(attempt.step.action) and _is_seen(attempt.step):
        return attempt.ended(Outcome("done", f"it no longer runs, though: {outcome.detail}"))
    return attempt


def _hides(gap: Gap, step: Step) -> bool:
    """Whether a gap keeps the proof of this step from sight: its own name or the whole place, not a neighbour."""
    match step.action:
        case Unlink() | Link() | WriteFile():
            paths: tuple[str, ...] = (step.action.path,)
        case DisableUnit() | EnableUnit():
            paths = tuple(path for path, _ in step.action.links)
        case _:
            return any(ref.kind == gap.kind for ref in step.findings)
    names = {name for path in paths for name in (path, path.rpartition("/")[0])}
    return gap.ref in step.findings or f"/etc/{gap.ref.name}" in names


def _is_seen(step: Step) -> bool:
    """True for an end that a look can prove, whatever the exit code: it is seen to run. A link says nothing of that."""
    return any(ref.kind in RUNNING for ref in step.findings)


def _still_there(action: Action, outcome: Outcome) -> str:
    if isinstance(action, Signal) and action.signal == "HUP":
        fact = "it is still needed"
    elif isinstance(action, StopService | Signal):
        fact = "it still runs"
    else:
        fact = "it is there again" if outcome.word == "done" else "it is still there"
    return f"{fact}; {outcome.detail}" if outcome.detail else fact

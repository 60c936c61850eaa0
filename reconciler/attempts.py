"""One step of one pass: an attempt, why it is made, and its record; and what a pass reports of all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from reconciler.errors import ActionFailed
from reconciler.holds import Restraints, ends
from reconciler.host import Hands
from reconciler.model import (
    Action,
    DisableUnit,
    Link,
    Outcome,
    Place,
    Plan,
    Record,
    Signal,
    StartService,
    Step,
    StopService,
    Unlink,
    Wake,
    WriteFile,
    target_of,
    word_of,
)
from reconciler.network.applying import ApplyNetwork
from reconciler.storage.kept import Kept
from reconciler.text import escape, plain
from reconciler.values import Value, replace

Slow = StopService | StartService | Signal | ApplyNetwork

FEW = 8
"""Stops that are written down in one batch with all else; to write down more of them would keep links in place."""


def is_slow(action: Action) -> bool:
    """True for what does not end at once: a stop or start, a signal that is to end processes, a network's change."""
    return isinstance(action, Slow) and not (isinstance(action, Signal) and action.signal == "HUP")


class Attempt(Value):
    """One step of one pass: its id, why it was looked for, and how it ended so far (``None``: not yet begun)."""

    id: str
    pass_id: str
    cause: str
    step: Step
    outcome: Outcome | None = None

    def ended(self, outcome: Outcome | None) -> Attempt:
        """The same attempt with how it ended."""
        return Attempt(self.id, self.pass_id, self.cause, self.step, outcome)


class Report(Value):
    """What a pass set out to do (``plan``) and how each step ended."""

    pass_id: str
    plan: Plan
    attempts: tuple[Attempt, ...] = ()
    waiting: bool = False  # for dpkg: something was held up by it alone
    still: Restraints | None = None  # what held steps back in a plan for everything after which nothing was done

    def with_ended(self, ended: Mapping[str, Attempt]) -> Report:
        """The same report, with the stops that were pending as they ended."""
        return replace(self, attempts=tuple(ended.get(attempt.id, attempt) for attempt in self.attempts))


class Staging(Protocol):
    """How a change of the network is made one that can be taken back."""

    def stage(self, pass_id: str, action: ApplyNetwork, kept: Sequence[Kept], cause: str) -> None:
        """Make durable how its files are put back, under the lock. Raises ``ReconcilerError``."""
        ...

    def withdraw(self, why: str) -> None:
        """Put back the files of what was staged and will not be applied, under the lock."""
        ...


def parted(attempts: list[Attempt], *, pressed: bool) -> tuple[list[Attempt], list[Attempt]]:
    """What is done first, and the stops that wait until it is done: many of them, or any where more presses."""
    stops = [attempt for attempt in attempts if isinstance(attempt.step.action, StopService)]
    if not stops or (len(stops) <= FEW and not pressed):
        return attempts, []
    return [attempt for attempt in attempts if not isinstance(attempt.step.action, StopService)], stops


def without_what_is_lost(attempts: Iterable[Attempt], lost: Mapping[str, str]) -> list[Attempt]:
    """The same, with those failed of which ``lost`` says why what was there could not be kept."""
    because = "what there was could not be kept"
    return [a.ended(Outcome("failed", f"{because}: {lost[a.id]}")) if a.id in lost else a for a in attempts]


def unless_in_vain(attempt: Attempt, before: Iterable[Attempt]) -> Attempt:
    """The same; a SIGHUP failed where none of the files was written that it is about.

    The server would read what nobody approved, and serve it from then on.
    """
    action = attempt.step.action
    if attempt.outcome is not None or not (isinstance(action, Signal) and action.signal == "HUP"):
        return attempt
    about = set(attempt.step.findings)
    writes = [a for a in before if isinstance(a.step.action, WriteFile) and not about.isdisjoint(a.step.findings)]
    if not writes or any(a.outcome is not None and a.outcome.word == "done" for a in writes):
        return attempt
    return attempt.ended(Outcome("failed", "not sent, since no file was written that it would make it read anew"))


def made_durable(attempts: list[Attempt], hands: Hands) -> list[Attempt]:
    """Make what was done durable. Where that fails it was done all the same: nobody can say for how long."""
    try:
        hands.settle([attempt.step.action for attempt in attempts])
    except ActionFailed as error:
        unsure = Outcome("unverified", f"done, but a crash may undo it: {error}")
        return [a.ended(unsure) if a.outcome and a.outcome.word == "done" else a for a in attempts]
    return attempts


def cause_of(wake: Wake, step: Step) -> str:
    """Of many changes in one wake, the one where this step acts; else one of a kind that asked for it."""
    path = target_of(step.action)
    folder = path.rpartition("/")[0]
    for place, cause in wake.causes.items():
        if (folder and folder == place.folder) or path == place.path:
            return cause
    kinds = {ref.kind for ref in step.findings}
    return next((cause for place, cause in wake.causes.items() if place.kind in kinds), wake.cause)


def subject_of(attempt: Attempt) -> str:
    """What a contest would be about: the service that is ended, or the path that is put right; "" neither."""
    action = attempt.step.action
    if ends(action):
        return attempt.step.service
    return target_of(action) if isinstance(action, Unlink | Link | WriteFile | DisableUnit) else ""


def record_of(record: str, attempt: Attempt, now: float) -> Record:
    """The journal's record of an attempt: its ``intent``, or its ``outcome``."""
    step, outcome = attempt.step, attempt.outcome if record == "outcome" else None
    return Record(
        id=attempt.id,
        time=now,
        pass_id=attempt.pass_id,
        record=record,
        action=word_of(step.action),
        kind=step.findings[0].kind,
        service=escape(step.service),
        target=escape(target_of(step.action)),
        outcome=outcome.word if outcome else "",
        cause=attempt.cause,
        rule=step.rule,
        detail=plain(outcome.detail) if outcome else "",
    )


def acted_on(attempts: Iterable[Attempt], places: Iterable[Place]) -> dict[Place, set[str]]:
    """Which names of a folder to look at again; no event tells of what we did ourselves."""
    names: dict[str, set[str]] = {}
    for attempt in attempts:
        action = attempt.step.action
        if isinstance(action, Unlink | Link | WriteFile):
            folder, _, name = action.path.rpartition("/")
            names.setdefault(folder, set()).add(name)
            if isinstance(action, Unlink) and action.leave:
                names[folder].add(action.leave)
    return {place: names[place.folder] for place in places if place.folder in names}

"""Putting back what was taken away: out of the quarantine, with the same promise as a pass.

What stands in the way is kept and all intents are durable before the first effect, every effect expects to find what
the reconciler left, and a fresh look is the proof. The exception that keeps the daemon from doing it all again is in
force before anything is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from reconciler.attempts import Attempt, is_slow, made_durable, record_of, without_what_is_lost
from reconciler.converge import Tools
from reconciler.errors import ActionFailed, Stale
from reconciler.expectations import states_before
from reconciler.host import Eyes
from reconciler.host.waiting import to_its_end
from reconciler.kinds.inetd import names_of
from reconciler.model import (
    Action,
    DisableUnit,
    EnableUnit,
    FileState,
    Link,
    LinkState,
    MaskUnit,
    Outcome,
    Record,
    Ref,
    ReloadManager,
    Signal,
    StartService,
    Step,
    StopService,
    Unlink,
    UnmaskUnit,
    WriteFile,
    target_of,
)
from reconciler.quarantine import Before, Kept, inverse
from reconciler.text import unescape
from reconciler.values import Value, field, replace

_INETD = ("/etc/inetd.conf", "/etc/inetd.d/")
_RELOADS = (Link, EnableUnit, UnmaskUnit, DisableUnit, MaskUnit)


class Item(Value):
    """One action that is to be undone, with what the journal says of it (``None``: no longer there)."""

    kept: Kept
    record: Record | None

    @property
    def service(self) -> str:
        """The service that it was about, "" where it was about a file alone."""
        if isinstance(self.kept.action, Unlink | Link | WriteFile):
            return self.recorded if self.record and self.record.kind not in ("inetd", "interfaces") else ""
        return getattr(self.kept.action, "service", "")

    @property
    def recorded(self) -> str:
        """The service that the journal names, as it is really called: records hold what is safe to print."""
        return unescape(self.record.service) if self.record else ""

    @property
    def approvals(self) -> tuple[str, ...]:
        """What ``approve`` is to be told so that it stays for good; none where no approval helps."""
        action, state = self.kept.action, self.kept.state
        if isinstance(action, WriteFile) and action.path.startswith(_INETD) and isinstance(state, FileState):
            left = set(names_of(action.state.content))
            return tuple(name for name in names_of(state.content) if name not in left)
        return (self.service,) if self.service else ()


class Undoing(Value):
    """What is put back: the attempts as they ended, and the ids of what was as before already."""

    attempts: tuple[Attempt, ...] = ()
    already: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """True when all of it is as it was."""
        return all(a.outcome is not None and a.outcome.word == "done" for a in self.attempts)


def plan_back(items: Sequence[Item], stops: Iterable[StopService], *, live: bool, systemd: bool) -> list[Step]:
    """The steps, in order: the last thing done is put back first, then one reload, then starts and signals."""
    back: list[Step] = []
    for item in reversed(items):
        back += [_step(action, item) for action in inverse(item.kept) if not isinstance(action, StartService)]
    if not live:
        return back
    if systemd and any(isinstance(step.action, _RELOADS) for step in back):
        back.append(Step(ReloadManager(), "systemd", (Ref("units", "systemd"),)))
    starts = [StartService(stop.service, stop.script, stop.units) for stop in dict.fromkeys(stops)]
    return back + [Step(start, start.service, (Ref("units", start.service),)) for start in starts]


def _step(action: Action, item: Item) -> Step:
    kind = item.record.kind if item.record else "undo"
    return Step(action, item.recorded, (Ref(kind, target_of(action)),))


def told(kept: Iterable[Kept]) -> tuple[Signal, ...]:
    """The signals of a pass that made a program read its file again: it must read what is put back as well."""
    return tuple(dict.fromkeys(k.action for k in kept if isinstance(k.action, Signal) and k.action.signal == "HUP"))


class Undo(Value, frozen=False):
    """Does it, with the tools of a pass. ``cause`` stands in every record."""

    tools: Tools
    eyes: Eyes
    cause: str
    written: Mapping[str, FileState] = field(default_factory=dict)  # path -> what the reconciler wrote there

    def run(self, steps: Sequence[Step], before: Callable[[], None]) -> Undoing:
        """Put it all back under the lock; ``before`` runs between the durable intents and the first effect."""
        pass_id = self.tools.new_pass()
        with self.tools.lock():
            attempts = [Attempt(f"{pass_id}.{n}", pass_id, self.cause, step) for n, step in enumerate(steps, 1)]
            already = [a for a in attempts if _is_so(a.step.action, self.eyes)]
            attempts = self._keep(pass_id, [a for a in attempts if a not in already])
            self._write("intent", [a for a in attempts if a.outcome is None])
            before()
            attempts = [self._try(attempt, self._do) for attempt in attempts]
            attempts = made_durable(attempts, self.tools.hands)
            attempts = [self._try(attempt, self._begin) for attempt in attempts]
            attempts = [self._proved(attempt) for attempt in attempts]
            self._write("outcome", attempts)
        return Undoing(tuple(attempts), tuple(target_of(a.step.action) for a in already))

    def _keep(self, pass_id: str, attempts: Iterable[Attempt]) -> list[Attempt]:
        """What is put back is an action like any other: it can be undone as well."""
        checked: list[Attempt] = []
        kept: list[tuple[str, Action, Before]] = []
        freed: set[str] = set()
        for attempt in attempts:
            action = attempt.step.action
            state = None if target_of(action) in freed else self._before(action)
            checked.append(replace(attempt, outcome=state) if isinstance(state, Outcome) else attempt)
            if not isinstance(state, Outcome):
                kept.append((attempt.id, action, state))
                freed |= {action.path} if isinstance(action, Unlink) else set()
        return without_what_is_lost(checked, self.tools.quarantine.keep(pass_id, kept))

    def _before(self, action: Action) -> Before | Outcome:
        """What lies there now. A file of ours that somebody edited since is not ours to take away."""
        [state] = states_before([action], self.eyes)
        ours = self.written.get(action.path) if isinstance(action, Unlink) else None
        if ours is not None and isinstance(state, FileState) and state.content != ours.content:
            return Outcome("stale", "it changed since it was written")
        return state

    def _try(self, attempt: Attempt, effect: Callable[[Action], Outcome | None]) -> Attempt:
        if attempt.outcome is not None:
            return attempt
        try:
            return replace(attempt, outcome=effect(attempt.step.action))
        except Stale as error:
            return replace(attempt, outcome=Outcome("stale", str(error)))
        except ActionFailed as error:
            return replace(attempt, outcome=Outcome("failed", str(error)))

    def _do(self, action: Action) -> Outcome | None:
        return None if is_slow(action) else self.tools.hands.do(action)

    def _begin(self, action: Action) -> Outcome | None:
        assert isinstance(action, StopService | StartService | Signal), action  # noqa: S101  (_do did all else)
        return to_its_end(self.tools.hands.begin(action))

    def _proved(self, attempt: Attempt) -> Attempt:
        outcome, action = attempt.outcome, attempt.step.action
        lost = isinstance(action, Link | WriteFile) and not _is_so(action, self.eyes)
        if outcome is not None and outcome.word == "done" and lost:
            return replace(attempt, outcome=Outcome("failed", "it was put back, and is gone or changed again"))
        return attempt

    def _write(self, record: str, attempts: Sequence[Attempt]) -> None:
        now = self.tools.clock()
        self.tools.journal.write([replace(record_of(record, a, now), rule="") for a in attempts])


def _is_so(action: Action, eyes: Eyes) -> bool:
    """Whether what a file action would bring about is there already."""
    if not isinstance(action, Link | WriteFile):
        return False
    found = eyes.entry(action.path)
    if isinstance(action, WriteFile):
        same = isinstance(found, FileState) and _timeless(found) == _timeless(action.state)
        return same and isinstance(found, FileState) and found.xattrs == action.state.xattrs
    folder = action.path.rpartition("/")[0]
    left = eyes.entry(f"{folder}/{action.replaces}") if action.replaces else None
    return isinstance(found, LinkState) and found.target == action.state.target and left is None


def _timeless(state: FileState) -> FileState:
    return replace(state, mtime_ns=0)


def stops_of(items: Iterable[Item], kept: Iterable[Kept], names: Mapping[str, frozenset[str]]) -> list[StopService]:
    """The stops, among what is kept of a pass, of the services that the items are about (``names`` of each)."""
    wanted = {name for item in items for name in names.get(item.service, frozenset((item.service,))) if item.service}
    return [k.action for k in kept if isinstance(k.action, StopService) and k.action.service in wanted]

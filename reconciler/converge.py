"""One pass: look, plan, keep what would be lost, write down the intent, act, look again, write down the outcome.

The order is the promise. What an action removes is in quarantine and all intents of a batch are durable before the
first effect; an action is ``done`` when a fresh look no longer asks for it, not when a call returned. Many stops are a
batch of their own, after the links are gone: killed in between, the next full pass finds what still runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from time import monotonic

from reconciler.attempts import (
    Attempt,
    Report,
    Slow,
    Staging,
    acted_on,
    cause_of,
    is_slow,
    made_durable,
    parted,
    record_of,
    subject_of,
    unless_in_vain,
    without_what_is_lost,
)
from reconciler.contested import Memory
from reconciler.desired import Limits
from reconciler.errors import ActionFailed, JournalError, ReconcilerError, Stale
from reconciler.expectations import states_before
from reconciler.holds import UNDER_WAY, Restraints, budgeted_in, hold, key_of, running
from reconciler.host import Handle, Hands
from reconciler.host.moments import now
from reconciler.host.waiting import give_way
from reconciler.journal import Journal, notice
from reconciler.lineage import ADDRESSES, Lineage
from reconciler.model import Outcome, Plan, Record, Signal, StopService, Wake, target_of
from reconciler.moment import Moment
from reconciler.observer import Observer
from reconciler.proof import RUNNING, proved, still_asked, touched
from reconciler.quarantine import Quarantine
from reconciler.services import grouped
from reconciler.staging import staged, unstage
from reconciler.storage.store import SPARE
from reconciler.text import escape
from reconciler.values import Value, field, replace

PUT_OFF = 0.5
"""Seconds for which stops are put off at most."""

_PENDING = Outcome("pending", "under way")
_UNDER_WAY = Outcome("held", UNDER_WAY)


class Tools(Value):
    """What a pass acts with. ``lock`` excludes other corrections of this root; ``clock`` is seconds since the epoch."""

    hands: Hands
    journal: Journal
    quarantine: Quarantine
    lock: Callable[[], AbstractContextManager[object]]
    clock: Callable[[], float]
    new_pass: Callable[[], str]
    moment: Callable[[], Moment] = now
    remember: Callable[[Memory], None] = lambda _: None
    staging: Staging | None = None
    packaging: Callable[[float], str] = lambda _: ""  # why dpkg must not be disturbed now; for so many seconds at most
    come_home: Callable[[], None] = lambda: None  # does what else waited for the disk to take records again
    presses: Callable[[], bool] = lambda: False  # whether there is more to correct that is done at once


class Converger(Value, frozen=False):
    """Runs passes over one observer; ``in_flight`` are the stops under way, each a wake of its own when it ends."""

    observer: Observer
    tools: Tools
    in_flight: dict[str, tuple[Handle, Attempt]] = field(default_factory=dict)
    put_off: dict[str, Attempt] = field(default_factory=dict)  # stops for go_on() to begin
    untold: set[str] = field(default_factory=set)  # the ids of these whose intents are to be written first
    put_off_at: float = 0.0
    owed: list[Record] = field(default_factory=list)
    ordered: bool = False
    memory: Memory = field(default_factory=Memory)
    budgeted: frozenset[str] = frozenset()
    starters: dict[str, str] = field(default_factory=dict)
    hushed: set[str] = field(default_factory=set)
    counted: dict[str, str] = field(default_factory=dict)  # what was corrected, and by which pass last
    weighed: tuple[Limits, float] | None = None  # by what the quarantine was last reviewed, and when it is to be again

    def restraints(self) -> Restraints:
        """What holds steps back at this moment."""
        at, (overrides, switch) = self.tools.moment(), self.observer.orders()
        if contested := self.memory.contested(at):
            catalogue = self.observer.context().catalogue  # a unit's name may be another than the script's
            self.observer.contested = frozenset(n for c in contested for n in catalogue.service(c).names)
        else:
            self.observer.contested = frozenset()
        held = frozenset(self.under_way), at, overrides, self.packaging(), self.memory, self.budgeted
        return Restraints(*held, ordered=self.ordered, switch=switch)

    @property
    def under_way(self) -> tuple[str, ...]:
        """The services whose stop is decided on and not over, begun or not."""
        return (*self.in_flight, *self.put_off)

    def packaging(self) -> str:
        """Why what dpkg would stumble over should wait, "" when it need not."""
        return self.tools.packaging(self.observer.desired.dpkg_wait)

    def run(self, wake: Wake, *, enforce: bool) -> Report:
        """One pass. Raises ``JournalError`` when its records cannot be made durable: nothing was done then."""
        if wake.places is None:
            self._bring_home()
        self.settle_debts()
        self.observer.look(None if self.observer.is_blank else wake.places, wake.names)
        restraints = self.restraints()
        plan = self.observer.plan(restraints, wake.places)
        if wake.places is None and self.memory.established:
            plan = self._budget(plan, restraints)
        if wake.places is None and not any(gap.kind in RUNNING for gap in plan.gaps):
            # What was tried in vain and has ended by itself: should it come back, its own stop goes first again.
            asked = {step.action.service for step in plan.steps if isinstance(step.action, Slow)}
            self.observer.tried = {name: how for name, how in self.observer.tried.items() if name in asked}
        pass_id = self.tools.new_pass()
        waiting = bool(restraints.packaging) and any(step.held == restraints.packaging for step in plan.steps)
        due = [step for step in plan.steps if step.held is None]
        if not enforce or not due:
            whole = wake.places is None and not self.budgeted
            return Report(pass_id, plan, waiting=waiting, still=restraints if whole else None)
        with self.tools.lock():
            if self.observer.orders()[0] != restraints.overrides:  # what was ordered meanwhile holds from then on
                due = [step for step in hold(due, self.observer.context(), self.restraints()) if step.held is None]
            attempts = [Attempt(f"{pass_id}.{n}", pass_id, cause_of(wake, step), step) for n, step in enumerate(due, 1)]
            attempts = self._correct(pass_id, attempts) if attempts else []
        waiting = waiting or any(a.outcome is not None and a.outcome.word == "held" for a in attempts)
        return Report(pass_id, plan, tuple(attempts), waiting)

    @property
    def away(self) -> str:
        """Why records wait in the spare place, "" when all are at home."""
        why = self.tools.journal.away or self.tools.quarantine.away
        return f"{why}: records wait in {SPARE}; each full pass tries the disk again" if why else ""

    def _bring_home(self) -> None:
        """Nothing may be written for days: so each full pass asks whether the disk takes again what it did not."""
        journal, quarantine = self.tools.journal, self.tools.quarantine
        with suppress(ReconcilerError, OSError):
            if self.away or journal.astray or quarantine.astray or self.observer.waiting:
                with self.tools.lock():
                    journal.bring_home()
                    was = quarantine.away
                    quarantine.bring_home()
                    if was:
                        self._say("home", f"what is kept was brought home from {SPARE}, after {was}")
                    self.tools.come_home()

    def _budget(self, plan: Plan, restraints: Restraints) -> Plan:
        """Only a plan for everything shows how much would go: what it finds over the budget, focused ones hold too."""
        free = self.observer.plan(replace(restraints, budgeted=frozenset())) if self.budgeted else plan
        self.budgeted = budgeted_in(free, self.observer.context())
        return free

    def settled(self, plan: Plan) -> None:
        """After a full pass: what runs, and nothing asks to end it, has been running in peace."""
        if self.budgeted or not self.observer.snapshot.host.live:
            return
        context = self.observer.context()
        lineage = Lineage.of(context.snapshot, context.catalogue, context.desired)
        asked = {key_of(step.service, context) for step in plan.steps if step.service}
        established = running(context, lineage) - asked
        if established != self.memory.established:
            self.memory = replace(self.memory, established=established)
            self.tools.remember(self.memory)

    def _correct(self, pass_id: str, attempts: list[Attempt]) -> list[Attempt]:
        attempts, stops = parted(attempts, pressed=self.presses())
        attempts = staged(self.tools.staging, self.tools.quarantine, pass_id, self._keep(pass_id, attempts))
        try:
            self._announce(attempts)
        except BaseException:
            unstage(self.tools.staging, attempts)
            raise
        tried: list[Attempt] = []
        for attempt in attempts:
            tried.append(self._try(unless_in_vain(attempt, tried), self._do))
        attempts = self._begin_all(made_durable(tried, self.tools.hands))
        unstage(self.tools.staging, attempts)
        stops = [attempt.ended(self._put_off(attempt, told=False)) for attempt in stops]
        return [*self._finish(attempts), *stops]

    def _finish(self, attempts: list[Attempt]) -> list[Attempt]:
        """Prove what was done, and write down how it ended."""
        attempts = self._prove(attempts)
        for attempt in attempts:  # of a script that may not be run: the stronger remedy is next
            if isinstance(attempt.step.action, Slow) and attempt.outcome and attempt.outcome.word == "failed":
                self._remember(attempt.step.action.service, attempt)
        self._owe(a for a in attempts if a.outcome and a.outcome.word != "pending")
        self._count([a for a in attempts if not is_slow(a.step.action)])
        with suppress(JournalError):
            self._pay()
        self.tools.quarantine.prepare()
        return attempts

    def _keep(self, pass_id: str, attempts: list[Attempt]) -> list[Attempt]:
        """Quarantine what each action takes away; one that no longer finds what it expects is stale."""
        checked, kept = [], []
        states = states_before([attempt.step.action for attempt in attempts], self.observer.eyes)
        for attempt, state in zip(attempts, states, strict=True):
            action = attempt.step.action
            if isinstance(state, Outcome):
                checked.append(attempt.ended(state))
            else:
                checked.append(attempt)
                kept.append((attempt.id, action, state))
        if kept:
            self.weighed = None
            was, lost = self.tools.quarantine.away, self.tools.quarantine.keep(pass_id, kept)
            if (why := self.tools.quarantine.away) and not was:
                self._say("away", f"{why}: what is kept waits in {SPARE}")
            return without_what_is_lost(checked, lost)
        return checked

    def _try(self, attempt: Attempt, effect: Callable[[Attempt], Outcome | None]) -> Attempt:
        if attempt.outcome is not None:
            return attempt
        try:
            return attempt.ended(effect(attempt))
        except Stale as error:
            return attempt.ended(Outcome("stale", str(error)))
        except ActionFailed as error:
            return attempt.ended(Outcome("failed", str(error)))

    def _do(self, attempt: Attempt) -> Outcome | None:
        """What ends at once; a slow action waits for its turn after all of these."""
        action = attempt.step.action
        return None if is_slow(action) else self.tools.hands.do(action)

    def _allowed(self, attempts: list[Attempt]) -> list[Attempt]:
        """Ask the rails again on a fresh process table: somebody may have logged in through what is to be stopped."""
        slow = {attempt.id: attempt.step for attempt in attempts if attempt.outcome is None}
        if not slow:
            return attempts
        tables = [place for place in self.observer.places if place.kind == "processes"]
        keeping = any(isinstance(step.action, Signal) and step.action.keeps for step in slow.values())
        again = None if self.observer.is_blank else tables
        self.observer.look(again, dict.fromkeys(tables, (ADDRESSES,) if keeping else ()))
        steps = hold(slow.values(), self.observer.context(), self.restraints())
        held = {id_: step.held for id_, step in zip(slow, steps, strict=True) if step.held}
        return [a.ended(Outcome("held", held[a.id])) if a.id in held else a for a in attempts]

    def presses(self) -> bool:
        """Whether stops are to be put off: a link stays as long as a process is made, and a thousand take a second.

        Nobody can put them off for longer than ``PUT_OFF``.
        """
        overdue = self.put_off_at and monotonic() >= self.put_off_at + PUT_OFF
        return not overdue and self.tools.presses()

    def go_on(self) -> list[Attempt]:
        """Begin what was put off, as far as nothing presses again."""
        waiting, self.put_off = self.put_off, {}
        try:
            with self.tools.lock():
                return self._finish(self._begin_all(self._told(list(waiting.values()))))
        except BaseException:
            self.put_off = {name: attempt for name, attempt in waiting.items() if name not in self.in_flight}
            raise
        finally:
            self.put_off_at = self.put_off_at if self.put_off else 0.0

    def _put_off(self, attempt: Attempt, *, told: bool) -> Outcome:
        """Leave a stop to :meth:`go_on`; ``told``: its intent is written already."""
        service = target_of(attempt.step.action)
        if service in self.under_way:
            return _UNDER_WAY
        self.put_off[service], self.put_off_at = attempt, self.put_off_at or monotonic()
        self.untold |= set() if told else {attempt.id}
        return _PENDING

    def _told(self, attempts: list[Attempt]) -> list[Attempt]:
        """Make durable what a pass has left undone of these: what undo needs, and the intents, in one batch."""
        untold = grouped((attempt.pass_id, attempt) for attempt in attempts if attempt.id in self.untold)
        kept = {attempt.id: attempt for pass_id, those in untold.items() for attempt in self._keep(pass_id, those)}
        self._announce([*kept.values()])
        self.untold -= kept.keys()
        return [kept.get(attempt.id, attempt) for attempt in attempts]

    def _begin_all(self, attempts: list[Attempt]) -> list[Attempt]:
        """Begin what takes its time, as far as it may still be done; the scripts go before what is left to do here."""
        begun = [self._try(attempt, self._begin) for attempt in self._allowed(attempts)]
        if any(attempt.outcome == _PENDING for attempt in begun):
            give_way()
        return begun

    def _begin(self, attempt: Attempt) -> Outcome | None:
        action = attempt.step.action
        assert isinstance(action, Slow), action  # noqa: S101  (all else has its outcome from _do)
        if action.service in self.under_way:
            return _UNDER_WAY  # two programs of it: the second in the next pass
        if isinstance(action, StopService) and self.presses():
            return self._put_off(attempt, told=True)
        if subject_of(attempt) in self.memory.contests:
            self._note_starter(action.service)
        self.in_flight[action.service] = (self.tools.hands.begin(action), attempt.ended(_PENDING))
        return _PENDING

    def advance(self, ready: Collection[int], now: float) -> list[Attempt]:
        """Conclude the stops whose descriptor is ready, press those whose time is up (``now`` is monotonic)."""
        ended = [service for service, (handle, _) in self.in_flight.items() if handle.fd in ready]
        for service, (handle, _) in self.in_flight.items():
            if service not in ended and handle.deadline <= now:
                handle.expire()
        concluded = [self.conclude(service) for service in ended]
        return [attempt for attempt in concluded if attempt.outcome and attempt.outcome.word != "pending"]

    def conclude(self, service: str) -> Attempt:
        """A stop has ended: reap it, look whether it did what it was for, and write down the outcome."""
        handle, attempt = self.in_flight.pop(service)
        outcome = handle.finish()
        if outcome.word == "pending":
            self.in_flight[service] = (handle, attempt)
            return attempt
        [proved] = self._prove([attempt.ended(outcome)])
        self._owe([proved])
        self._count([proved])
        with suppress(ReconcilerError, OSError):
            self.settle_debts()
        self._remember(service, proved)
        return proved

    def _remember(self, service: str, attempt: Attempt) -> None:
        """What was tried in vain, so that the next step is the stronger one; forgotten once it is gone."""
        tried = {name: how for name, how in self.observer.tried.items() if name != service}
        if attempt.outcome is not None and attempt.outcome.word == "failed":
            signal = attempt.step.action.signal if isinstance(attempt.step.action, Signal) else "stop"
            tried[service] = signal
        self.observer.tried = tried

    def _count(self, attempts: Iterable[Attempt]) -> None:
        """Corrections in a row are a contest; what one pass disables and ends a moment later came back once."""
        done = {subject_of(a): a for a in attempts if a.outcome and a.outcome.word == "done" and subject_of(a)}
        done = {name: attempt for name, attempt in done.items() if self.counted.get(name) != attempt.pass_id}
        if self.ordered or not done:
            return
        self.memory = self.memory.corrected(done, self.tools.moment())
        counted = self.counted | {name: attempt.pass_id for name, attempt in done.items()}
        self.counted = {name: pass_id for name, pass_id in counted.items() if name in self.memory.contests}
        loud = {name: a for name, a in done.items() if self.memory.contests[name].escalates}
        if loud:
            self.hushed -= {attempt.id for attempt in loud.values()}
            self.owed += [self._contested(name, attempt) for name, attempt in loud.items()]
            self.tools.remember(self.memory)

    def _contested(self, name: str, attempt: Attempt) -> Record:
        contest, starter = self.memory.contests[name], self.starters.get(name, "")
        who = f"; started by {starter}" if starter else ""
        detail = f"{escape(name)}: corrected {contest.count} times in a row, and it comes back{who}"
        now, service = self.tools.clock(), escape(attempt.step.service)
        return notice("contested", now, detail, pass_id=attempt.pass_id, service=service, cause=attempt.cause)

    def _note_starter(self, service: str) -> None:
        """Who started what is about to be stopped: its ancestors, while they are there to be seen."""
        context = self.observer.context()
        lineage = Lineage.of(context.snapshot, context.catalogue, context.desired)
        names = context.catalogue.service(service).names
        mine = (p for p in lineage.processes.values() if lineage.own_service(p) in names)
        above = [a for p in mine for a in lineage.line(p) if lineage.own_service(a) not in names]
        if above:
            self.starters[service] = ", ".join(dict.fromkeys(f"{a.name} (process {a.pid})" for a in above[:3]))

    def _contested_ids(self, attempts: Iterable[Attempt]) -> frozenset[str]:
        """What the journal alone is told, each time; the system's log hears of a contest when it escalates."""
        contested = self.memory.contested(self.tools.moment())
        return frozenset(a.id for a in attempts if subject_of(a) in contested) if contested else frozenset()

    def abandon(self, service: str, why: str) -> None:
        """Nobody will see this stop end, or begin: say so rather than leave an intent without an outcome."""
        begun = service in self.in_flight
        attempt = self.in_flight.pop(service)[1] if begun else self.put_off.pop(service)
        self.put_off_at = self.put_off_at if self.put_off else 0.0
        if attempt.id not in self.untold:  # of that nothing was written, and nothing done
            self._owe([attempt.ended(Outcome("unverified", why) if begun else Outcome("held", f"not begun: {why}"))])
        self.untold.discard(attempt.id)
        with suppress(ReconcilerError, OSError):
            self.settle_debts()

    def _prove(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Look again where it was acted. What is still asked for has failed; what cannot be seen is unverified."""
        places = touched(attempts, self.observer.places)
        self.observer.look(places, acted_on(attempts, places))
        plan = self.observer.plan(self.restraints(), places)
        asked = still_asked(plan.steps)
        return [proved(attempt, asked, plan.gaps) for attempt in attempts]

    def _announce(self, attempts: Sequence[Attempt]) -> None:
        """Make the intents of what is about to be done durable. Raises ``JournalError``."""
        now = self.tools.clock()
        intents = [record_of("intent", attempt, now) for attempt in attempts]  # of a stale one too: each has both
        if intents:  # forwarded with the outcomes: no log daemon stands between an intent and its effect
            self.hushed |= self._contested_ids(attempts)
            self.tools.journal.write(intents, later=True, hush=self.hushed)

    def _owe(self, attempts: Iterable[Attempt]) -> None:
        """Outcomes to be written as soon as that is possible: what was done can no longer be left undone."""
        now = self.tools.clock()
        self.owed += [record_of("outcome", attempt, now) for attempt in attempts]

    def _say(self, word: str, detail: str) -> None:
        """A notice that is owed like an outcome: it may be that nothing can be written now."""
        self.owed.append(notice(word, self.tools.clock(), escape(detail)))

    def _pay(self) -> None:
        """Write the outcomes owed, under the lock that is held. Raises ``JournalError``."""
        if self.owed:
            self.tools.journal.write(self.owed, hush=self.hushed)
            self.owed.clear()
            self.hushed &= {attempt.id for _, attempt in self.in_flight.values()}

    def tidy(self) -> None:
        """Forget the oldest of what is kept where it is too much or too old; a day before, say so. The journal first.

        What fails is for next time; so is all of it while records wait in the spare place.
        """
        now, limits, quarantine = self.tools.clock(), self.observer.desired.quarantine, self.tools.quarantine
        if self.away or (self.weighed is not None and self.weighed[0] == limits and now < self.weighed[1]):
            return
        with suppress(ReconcilerError, OSError), self.tools.lock():
            found = quarantine.review(limits, now)
            said = [("expiring", quarantine.expiring(each, limits, now), each) for each in found.warn]
            said += [("forgotten", f"{each.size} bytes kept of it", each) for each in found.doomed]
            self.tools.journal.write([notice(word, now, detail, pass_id=each.pass_id) for word, detail, each in said])
            quarantine.mark(found.warn, now)
            quarantine.forget(found.doomed)
            self.weighed = limits, found.next

    def settle_debts(self) -> None:
        """Write the outcomes still owed; raises ``ReconcilerError`` or ``OSError`` while that is not possible."""
        if self.owed:
            with self.tools.lock():
                self._pay()

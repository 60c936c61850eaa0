"""The daemon: wake, converge, back off, notify, reload, stop. One thread, one ``poll(2)``, no wake-ups while idle.

Whatever wakes it (a change on disk, the timer, a signal, the end of a stop) only says where to look; every decision is
made on a fresh look. The periodic full pass is what correctness rests on: no watch is trusted for it.
"""

from __future__ import annotations

import gc
import select
import time
from collections.abc import Callable
from typing import Protocol

from reconciler.attempts import Attempt, Report
from reconciler.contested import Memory
from reconciler.converge import PUT_OFF, Converger
from reconciler.desired import DesiredState
from reconciler.errors import ReconcilerError, StateError
from reconciler.holds import UNDER_WAY, ends_by_itself
from reconciler.host.signals import Signals
from reconciler.model import Action, Plan, Unlink, Wake, target_of, word_of
from reconciler.moment import Moment
from reconciler.network.netswitch import Switch
from reconciler.overrides import Overrides
from reconciler.planner import OVERRIDES
from reconciler.text import escape, plain
from reconciler.values import Value, field
from reconciler.watch import Watcher

RETRY_FIRST = 2.0
"""Seconds until a failed correction is tried again; doubled each time, up to the interval of the full pass."""

LAST_STOPS = 10.0
"""Seconds that SIGTERM waits for stops under way: well below systemd's 90 (``DefaultTimeoutStopSec``)."""

PACKAGING = 0.2
"""Seconds between two looks whether dpkg is done, while it holds steps up. Nothing tells of its end but the lock."""

FOLLOW_UPS = (2.0, 8.0)
"""Seconds after a start link was taken away at which everything is looked at again: who links a service starts it.

After a package operation the first of them, for what it leaves to end.
"""

GUARD = 15.0
"""Seconds beyond its time after which the daemon looks whether anybody is left to revert a change of the network."""

GARBAGE = 1000
"""Objects made and not given back, from which it is worth to look for cycles among them."""

A_DAY = 86400.0


class Status(Value, frozen=False):
    """What ``status`` shows of a running daemon. Times in seconds since the epoch."""

    mode: str
    watch: str
    started: float
    last_pass: float = 0.0
    last_pass_id: str = ""
    state_errors: tuple[str, ...] = ()
    fault: str = ""  # why no pass can be made, or its records are not on disk; "" while all is well
    in_flight: tuple[str, ...] = ()
    plan: Plan = field(default_factory=Plan)
    corrections: int = 0
    overrides: Overrides = field(default_factory=Overrides)
    moment: Moment = field(default_factory=Moment)
    memory: Memory = field(default_factory=Memory)
    switch: Switch = field(default_factory=Switch)

    @property
    def lasting(self) -> tuple[object, ...] | None:
        """All but when the last pass was; ``None`` where something of it changes with time alone."""
        if ends_by_itself(self.overrides, self.memory, self.switch):
            return None
        shown = self.mode, self.watch, self.started, self.state_errors, self.fault, self.in_flight, self.plan
        return *shown, self.corrections, self.overrides, self.memory, self.switch


class Voice(Protocol):
    """Where the daemon says what it does, apart from the journal of corrective actions."""

    def say(self, event: str, detail: str) -> None:
        """Log one operational event: ``reload``, ``refused``, ``held``, ``gap``, ``finding``, ``fault``."""
        ...

    def notify(self, message: str) -> None:
        """Tell the service manager (``sd_notify(3)``); nothing where there is none."""
        ...

    def publish(self, status: Status) -> None:
        """Make the status readable for ``dom0-reconciler status``."""
        ...


class Seams(Value, frozen=False):
    """What the daemon is handed: how to read its state anew, its watchers, its voice.

    ``settle_in`` runs once, after the first pass and before the first idle: it loads everything that may ever be
    needed, since an upgrade may take a library away from under a process that runs for years.
    """

    load: Callable[[], DesiredState]
    watcher: Watcher
    state_watcher: Watcher
    rearm: Callable[[DesiredState], None]
    voice: Voice
    settle_in: Callable[[], None]
    guard: Callable[[], None] = lambda: None  # sees to it that somebody waits for a change of the network that waits
    watchdog: float | None = None  # seconds between the pings that the service manager expects


class Daemon:
    """Holds one root in its desired state until SIGTERM."""

    def __init__(self, converger: Converger, seams: Seams, signals: Signals) -> None:
        self.converger, self.seams, self.signals = converger, seams, signals
        self.status = Status(self._mode(), seams.watcher.name, time.time())
        self.poll = select.poll()
        self.sources = (signals.fd, seams.watcher.fd, seams.state_watcher.fd)
        for fd in self.sources:
            self.poll.register(fd, select.POLLIN)
        self.full_pass_at = 0.0
        self.retry_at: float | None = None
        self.retry_after = RETRY_FIRST
        self.follow_ups: list[float] = []
        self.order_ends_at: float | None = None
        self.contest_at: float | None = None
        self.packaging_at: float | None = None
        self.guard_at: float | None = None
        self.untold_at = 0.0
        self.stops_at = 0.0  # not before that are those begun that were put off
        self.said: set[tuple[str, str]] = set()

    def _mode(self) -> str:
        return self.converger.observer.desired.mode

    def run(self) -> None:
        """Run until SIGTERM or SIGINT; stops under way are given a last chance to end."""
        self.seams.guard()
        self._pass(Wake("the daemon started"))
        self.seams.settle_in()
        self.seams.voice.notify("READY=1")
        while not self.signals.stop:
            self._turn()
        self.seams.voice.notify("STOPPING=1")
        self._last_stops()
        if self.converger.memory.contested(self.converger.tools.moment()):
            self.converger.tools.remember(self.converger.memory)

    # --- one turn of the loop ---

    def _turn(self) -> None:
        ready = self._ready(self._timeout())
        if self.signals.fd in ready:
            self.signals.drain()
        if self.seams.state_watcher.fd in ready:
            self._on_declared()
        if self.signals.reload:
            self._reload()
        if self.seams.watcher.fd in ready:
            self._on_change()
        self._on_stops(ready)
        self._go_on()
        self._on_time()

    def _ready(self, seconds: float) -> set[int]:
        """The descriptors that are ready; at the latest after so long. Those of stops come and go."""
        poll = self.poll
        if self.converger.in_flight:
            poll = select.poll()
            for fd in (*self.sources, *(handle.fd for handle, _ in self.converger.in_flight.values())):
                poll.register(fd, select.POLLIN)
        return {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000.0 + 1.0)}

    def _timeout(self) -> float:
        """Seconds until something is due, within what poll(2) takes."""
        if self.untold_at:
            return 0.0
        times = [self.stops_at] if self.converger.put_off else []
        times += [self.full_pass_at, *(handle.deadline for handle, _ in self.converger.in_flight.values())]
        times += [
            at
            for at in (self.retry_at, self.order_ends_at, self.contest_at, self.packaging_at, self.guard_at)
            if at is not None
        ]
        times += self.follow_ups[:1]
        if self.seams.watchdog is not None:
            times.append(time.monotonic() + self.seams.watchdog)
        return min(min(times) - time.monotonic(), A_DAY)

    def _on_declared(self) -> None:
        """The state changed, or somebody ordered a pause or an exception, which every pass reads anew by itself."""
        wake = self.seams.state_watcher.read()
        if wake is None:
            return
        if wake.places is not None and all(place.kind == OVERRIDES for place in wake.places):
            self._pass(Wake("an order came or went: a pause, an exception"))
        else:
            self.signals.reload = True

    def _on_change(self) -> None:
        wake = self.seams.watcher.read()
        if wake is not None:
            self._pass(wake)

    def _on_stops(self, ready: set[int]) -> None:
        if self.converger.in_flight and (ended := self.converger.advance(ready, time.monotonic())):
            self._after_stops(ended)

    def _go_on(self) -> None:
        """Begin the stops that were put off, and tell how the host is, where nothing presses any more."""
        if self.untold_at and not self._may_wait(self.untold_at):
            self._publish()
        if not self.converger.put_off or time.monotonic() < self.stops_at or self.converger.presses():
            return
        try:
            attempts = self.converger.go_on()
        except (ReconcilerError, OSError, MemoryError) as error:
            self._in_trouble(f"stops could not be begun: {str(error) or 'out of memory'}")
            self.stops_at = self.retry_at or 0.0
            return
        if any(attempt.outcome is not None and attempt.outcome.word in ("failed", "stale") for attempt in attempts):
            self._retry()
        self._publish()

    def _on_time(self) -> None:
        now = time.monotonic()
        if now >= self.full_pass_at:
            self._pass(Wake("periodic pass"))
            if gc.get_count()[0] > GARBAGE:  # nothing else does: see the command "run"
                gc.collect()
        elif self.order_ends_at is not None and now >= self.order_ends_at:
            self._pass(Wake("a pause or an exception ended"))
        elif self.contest_at is not None and now >= self.contest_at:
            self._pass(Wake("what is contested may be tried again"))
        elif self.guard_at is not None and now >= self.guard_at:
            self.seams.guard()
            self._pass(Wake("a change of the network is overdue"))
        elif self.packaging_at is not None and now >= self.packaging_at:
            self._on_packaging(now)
        elif self.follow_ups and now >= self.follow_ups[0]:
            self.follow_ups.pop(0)
            self._pass(Wake("looking again after a start link was taken away, or a package operation"))
        elif self.retry_at is not None and now >= self.retry_at:
            self._pass(Wake("trying again what failed"))
        elif self.seams.watchdog is not None:
            self.seams.voice.notify("WATCHDOG=1")

    def _on_packaging(self, now: float) -> None:
        """What dpkg has held up is done as soon as it is through."""
        if self.converger.packaging():
            self.packaging_at = now + PACKAGING
        else:
            self.packaging_at = None
            self._pass(Wake("dpkg is done, or was waited for long enough"))
            self.follow_ups = self.follow_ups or [now + FOLLOW_UPS[0]]  # whoever called it ends a little later

    # --- passes ---

    def _pass(self, wake: Wake) -> None:
        try:
            if wake.places is None:  # finds what no event tells: a folder mounted over a watched one
                self.seams.rearm(self.converger.observer.desired)
            report = self.converger.run(wake, enforce=self._mode() == "enforce")
            self._after(report, full=wake.places is None)
        except (ReconcilerError, OSError) as error:  # a host in trouble: say so, touch nothing, try again
            why = f"nothing was corrected: {error}"
        except MemoryError:  # what was done so far is written down, or explained at the next start
            why = "out of memory: the pass was given up"
        else:
            return
        self._in_trouble(why)  # by now the pass's own memory is free again

    def _in_trouble(self, why: str) -> None:
        self.status.fault = why
        try:
            self._publish()
        except (ReconcilerError, OSError, MemoryError):  # what is left to do cannot be told either: as it was last seen
            self._announce(set())
        self._retry()
        self.full_pass_at = self.retry_at or self.full_pass_at

    def _after(self, report: Report, *, full: bool) -> None:
        failed = any(a.outcome is not None and a.outcome.word in ("failed", "stale") for a in report.attempts)
        if full:
            self.converger.tidy()
            self.full_pass_at = time.monotonic() + self.converger.observer.desired.interval
        if any(isinstance(attempt.step.action, Unlink) for attempt in report.attempts):
            self.follow_ups = [time.monotonic() + seconds for seconds in FOLLOW_UPS]
        asks_again = bool(self.converger.away) and (full or self.retry_at is None)  # the disk, whether it takes records
        if failed or self.converger.owed or asks_again:
            self._retry()
        elif full:
            self.retry_at, self.retry_after = None, RETRY_FIRST
        # What dpkg runs was seen, too: see when it is gone. Where nothing was done, nothing went by since it was asked.
        packaging = report.still.packaging if report.still is not None else full and self.converger.packaging()
        if report.waiting or packaging:
            self.packaging_at = self.packaging_at or time.monotonic() + PACKAGING
        self.status.last_pass_id, self.status.last_pass = report.pass_id, time.time()
        self.status.fault = self.converger.away
        self.status.corrections += len(report.attempts)
        if full:
            self._publish(report)
        else:
            self._publish_in_time(report)
        if full and self._mode() == "enforce":
            self.converger.settled(self.status.plan)

    def _after_stops(self, ended: list[Attempt]) -> None:
        """What stops leave behind (a process that stayed, a socket) is looked for at once; once for all that ended."""
        done = [attempt for attempt in ended if attempt.outcome is not None and attempt.outcome.word == "done"]
        if len(done) < len(ended):
            self._retry()
            self._publish()
        if done:
            more = f", and of {len(done) - 1} more," if done[1:] else ""
            self._pass(Wake(f"the stop of {escape(done[0].step.service)}{more} ended"))

    def _retry(self) -> None:
        interval = self.converger.observer.desired.interval
        self.retry_at = time.monotonic() + min(self.retry_after, interval)
        self.retry_after = min(self.retry_after * 2, interval)

    def _last_stops(self) -> None:
        deadline = time.monotonic() + LAST_STOPS
        while self.converger.put_off and self.converger.presses():
            time.sleep(0.01)
        self._go_on()
        while self.converger.in_flight and time.monotonic() < deadline:
            self.converger.advance(self._ready(deadline - time.monotonic()), time.monotonic())
        for service in self.converger.under_way:
            self.converger.abandon(service, "the daemon ended before the stop did")

    # --- the state file ---

    def _reload(self) -> None:
        """Read the state anew; a bad one is refused and the last good one stays in force."""
        self.signals.reload = False
        try:
            desired = self.seams.load()
        except (ReconcilerError, OSError) as error:
            errors = error.errors if isinstance(error, StateError) else (str(error),)
            self.status.state_errors = errors
            self.seams.voice.say("refused", "; ".join(errors[:3]) + "; the last good state stays in force")
            self._publish()
            return
        self.status.state_errors = ()
        self.converger.observer.use(desired)
        self._drop_stops(desired)
        self.status.mode = desired.mode
        self.seams.voice.say("reload", f"mode {desired.mode}, from {', '.join(map(escape, desired.files))}")
        self._pass(Wake("the desired state changed"))

    def _drop_stops(self, desired: DesiredState) -> None:
        """What was put off is for this state to ask for again; of a link that is gone by now nothing else would tell.

        Whether the service is approved by now is asked before its stop is begun.
        """
        services = desired.services
        stops = desired.mode == "enforce" and services is not None and services.stop
        for service, attempt in tuple(self.converger.put_off.items()):
            if not stops or all(ref.kind != "rclinks" for ref in attempt.step.findings):
                self.converger.abandon(service, "the desired state changed")

    # --- saying what is ---

    def _publish_in_time(self, report: Report) -> None:
        """To plan for everything takes its time: while more is to be corrected, the status waits for it."""
        if self._may_wait(self.untold_at):
            self.untold_at = self.untold_at or time.monotonic()
        else:
            self._publish(report)

    def _may_wait(self, since: float) -> bool:
        """Whether what waits since then (0: not yet) may wait still: something comes first, and it is not for long."""
        now = time.monotonic()
        stops = self.converger.put_off and now >= self.stops_at
        return (not since or now < since + PUT_OFF) and (bool(stops) or self.converger.tools.presses())

    def _publish(self, report: Report | None = None) -> None:
        """Tell how the host is now: as the pass found it, where it looked at everything and changed nothing."""
        status, self.untold_at = self.status, 0.0
        if report is not None and report.still is not None:
            restraints, status.plan = report.still, report.plan
        else:
            restraints = self.converger.restraints()
            status.plan = self.converger.observer.plan(restraints)
        status.moment = restraints.now
        status.overrides = restraints.overrides.in_force(restraints.now)
        status.memory, status.switch = restraints.memory, restraints.switch
        self.guard_at = _in(GUARD + status.switch.left(restraints.now)) if status.switch.waits else None
        self.order_ends_at = _in(restraints.overrides.next_end(restraints.now))
        waits = any(step.held and step.held.startswith("contested: ") for step in status.plan.steps)
        self.contest_at = _in(restraints.memory.next_try(restraints.now)) if waits else None
        status.watch = self.seams.watcher.name  # inotify may have given way to polling
        status.in_flight = self.converger.under_way
        notices = _notices(status.plan, status.mode)
        if self.converger.owed:
            notices.add(("fault", f"{len(self.converger.owed)} outcomes are not in the journal yet"))
        self._announce(notices)

    def _announce(self, notices: set[tuple[str, str]]) -> None:
        """Publish the status as it is, and say what is new. In trouble is not hung: to be killed would help nobody."""
        if self.status.fault:
            notices.add(("fault", self.status.fault))
        try:
            self.seams.voice.publish(self.status)
        except (ReconcilerError, OSError, MemoryError) as error:  # nobody can ask how it is: no reason not to correct
            notices.add(("fault", f"the status cannot be published: {error}"))
        self.seams.voice.notify(f"WATCHDOG=1\nSTATUS={_summary(self.status)}")
        self._tell(notices)

    def _tell(self, notices: set[tuple[str, str]]) -> None:
        """Say what is new, once: a step held for a year is one line, not one line a pass."""
        for event, detail in sorted(notices - self.said):
            self.seams.voice.say(event, detail)
        self.said = notices


def _in(seconds: float | None) -> float | None:
    """So many seconds from now, by the monotonic clock."""
    return None if seconds is None else time.monotonic() + seconds


def _notices(plan: Plan, mode: str) -> set[tuple[str, str]]:
    held = {("held", f"{_what(step.action)}: {step.held}") for step in plan.steps if step.held not in (None, UNDER_WAY)}
    gaps = {("gap", f"{gap.ref}: {gap.why}") for gap in plan.gaps}
    if mode == "enforce":
        reported = {f for f in plan.findings if f.rule == "reported"}
        return held | gaps | {("finding", f"{f.ref}: {f.verdict}: {plain(f.detail)}") for f in reported}
    return held | gaps | {("finding", f"enforce would {_what(s.action)}") for s in plan.steps if not s.held}


def _what(action: Action) -> str:
    return f"{word_of(action)} {escape(target_of(action))}"


def _summary(status: Status) -> str:
    plan = status.plan
    state = "converged" if plan.converged else f"{len(plan.steps)} steps left, {len(plan.gaps)} gaps"
    refused = "; the changed state file is refused" if status.state_errors else ""
    return f"{status.mode}: {escape(status.fault) or state}{refused}"

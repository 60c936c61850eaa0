"""While more links appear, stops wait: begun later, by themselves, each once, and never for long."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from reconciler import converge
from reconciler.attempts import FEW
from reconciler.converge import Converger
from reconciler.daemon import Daemon, Seams
from reconciler.desired import DesiredState, Services
from reconciler.errors import JournalError, ReconcilerError
from reconciler.holds import UNDER_WAY
from reconciler.host import Handle
from reconciler.log import for_command
from reconciler.model import Action, Outcome, Process, StopService, Unlink, Wake
from reconciler.observer import Observer
from reconciler.services import CatalogueData
from reconciler.session import Session
from reconciler.values import replace
from tests.broken_home import trouble
from tests.fakes import MemoryEyes, NoHands, link, script
from tests.trees import Tree

WAKE = Wake("a test")


class Stop:
    """A stop that is over when it is asked."""

    fd, deadline = -1, 0.0

    def expire(self) -> None:
        """Too late."""

    def finish(self) -> Outcome:
        return Outcome("done")


class Hands(NoHands):
    """Takes links out of a tree in memory, and begins stops."""

    def __init__(self, eyes: MemoryEyes) -> None:
        super().__init__()
        self.eyes = eyes
        self.before: Callable[[Action], object] = lambda action: None

    def do(self, action: Action) -> Outcome:
        assert isinstance(action, Unlink)
        self.before(action)
        self.eyes.tree = {path: state for path, state in self.eyes.tree.items() if path != action.path}
        return super().do(action)

    def begin(self, action: Action) -> Handle:
        self.before(action)
        self.done.append(action)
        return Stop()


class World:
    """Two services that start and are not approved; ``pressing`` is whether more is to come."""

    def __init__(self, tree: Tree) -> None:
        self.tree, self.pressing = tree, True
        self.eyes = MemoryEyes(
            {**script("a"), **script("b"), **link("rc2.d/S20a"), **link("rc3.d/S20a"), **link("rc2.d/S20b")}
        )
        self.hands = Hands(self.eyes)
        tools = Session(str(tree.path), None).tools(for_command(live=False))
        self.tools = replace(tools, hands=self.hands, presses=lambda: self.pressing)
        self.converger = self.another()

    def another(self) -> Converger:
        """One that knows of nothing but what is on disk."""
        desired = DesiredState(mode="enforce", services=Services((), stop=True))
        return Converger(Observer(self.eyes, CatalogueData(), desired), self.tools)

    @property
    def stopped(self) -> list[str]:
        return [action.service for action in self.hands.done if isinstance(action, StopService)]

    def records(self, service: str) -> list[tuple[str, str]]:
        found = [r for r in self.tree.records() if r["action"] == "stop-service" and r["service"] == service]
        return [(r["record"], r["outcome"]) for r in found]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Tree(tmp_path))


def test_links_go_and_stops_wait_until_nothing_presses(world: World) -> None:
    one = world.converger
    report = one.run(WAKE, enforce=True)
    assert len([a for a in world.hands.done if isinstance(a, Unlink)]) == 3
    assert world.stopped == []
    assert {a.outcome.word for a in report.attempts if a.outcome} == {"done", "pending"}
    assert one.under_way == ("a", "b")
    assert world.records("a") == [], "what is written down keeps links in place"
    one.go_on()
    assert world.stopped == [], "it presses still"
    assert world.records("a") == [("intent", "")]
    world.pressing = False
    one.go_on()
    assert world.stopped == ["a", "b"]
    for service in ("a", "b"):
        one.conclude(service)
        assert world.records(service) == [("intent", ""), ("outcome", "done")]
    assert not one.under_way


def test_what_waits_is_not_asked_for_again(world: World) -> None:
    world.converger.run(WAKE, enforce=True)
    world.eyes.tree = {**world.eyes.tree, **link("rc5.d/S20a")}
    plan = world.converger.run(WAKE, enforce=True).plan
    assert [step.held for step in plan.steps if isinstance(step.action, StopService)] == [UNDER_WAY]
    world.pressing = False
    world.converger.go_on()
    assert world.stopped == ["a", "b"]


def test_nothing_waits_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(converge, "monotonic", lambda: now[0])
    world.converger.run(WAKE, enforce=True)
    now[0] += converge.PUT_OFF
    world.converger.go_on()
    assert world.stopped == ["a", "b"]


def test_what_cannot_go_on_waits_still(world: World) -> None:
    one = world.converger
    one.run(WAKE, enforce=True)
    world.pressing = False
    lock = world.tree.path / "run/dom0-reconciler"
    lock.rename(lock.with_name("aside"))
    world.tree.write("run/dom0-reconciler", "no folder: no lock can be had")
    one.tools = replace(one.tools, lock=Session(str(world.tree.path), None).tools(for_command(live=False)).lock)
    with pytest.raises(ReconcilerError):
        one.go_on()
    assert one.under_way == ("a", "b")
    assert world.stopped == []


# --- many stops, though nothing presses ---


def many(world: World) -> list[str]:
    """More services that start than are stopped in one batch with their links."""
    names = [f"c{number}" for number in range(FEW)]
    for name in names:
        world.eyes.tree = {**world.eyes.tree, **script(name, runs=f"/usr/sbin/{name}"), **link(f"rc2.d/S20{name}")}
    world.pressing = False
    return ["a", "b", *names]


def test_many_stops_are_written_down_after_the_links_are_gone_and_before_the_first_of_them(world: World) -> None:
    names, one = many(world), world.converger
    seen: list[tuple[set[str], bool]] = []
    world.hands.before = lambda action: seen.append(
        ({r["service"] for r in world.tree.records() if r["action"] == "stop-service"}, isinstance(action, StopService))
    )
    report = one.run(WAKE, enforce=True)
    assert {a.outcome.word for a in report.attempts if isinstance(a.step.action, StopService) and a.outcome} == {
        "pending"
    }
    one.go_on()
    assert {tuple(told) for told, stops in seen if not stops} == {()}
    assert [told for told, stops in seen if stops] == [set(names)] * len(names)
    assert sorted(world.stopped) == sorted(names)
    kept = [one.tools.quarantine.find(a.id).action for a in report.attempts if isinstance(a.step.action, StopService)]
    assert len(kept) == len(names), "what undo --start needs is kept"


def test_few_stops_are_begun_by_the_pass_itself(world: World) -> None:
    world.pressing = False
    world.converger.run(WAKE, enforce=True)
    assert world.stopped == ["a", "b"]


def test_killed_between_the_links_and_the_stops_what_runs_is_stopped_by_the_next_start(world: World) -> None:
    many(world)
    world.eyes.running = (
        Process(1, 0, "init", "/usr/sbin/init"),
        *(Process(100 + n, 1, f"c{n}", f"/usr/sbin/c{n}", started=n) for n in range(FEW)),
    )
    world.converger.run(WAKE, enforce=True)
    assert not [path for path in world.eyes.tree if "/S20" in path]
    assert world.stopped == []
    assert not world.tools.journal.recover(), "nothing is left to be explained"
    again = world.another()  # what the killed one had in mind is gone with it
    again.run(Wake("the daemon started"), enforce=True)
    assert sorted(world.stopped) == [f"c{n}" for n in range(FEW)]


def test_stops_that_cannot_be_written_down_are_not_begun_and_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, one = many(world), world.converger
    one.run(WAKE, enforce=True)

    def refused(*_: object, **__: object) -> NoReturn:
        raise JournalError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(one.tools.journal, "write", refused)
        with pytest.raises(JournalError):
            one.go_on()
    assert world.stopped == []
    one.go_on()
    assert sorted(world.stopped) == sorted(names)


def test_what_is_left_at_the_end_gets_its_outcome(world: World) -> None:
    one = world.converger
    one.run(WAKE, enforce=True)
    one.go_on()
    world.eyes.tree = {**world.eyes.tree, **script("c"), **link("rc2.d/S20c")}
    one.run(WAKE, enforce=True)
    assert one.under_way == ("a", "b", "c")
    for service in one.under_way:
        one.abandon(service, "the daemon ended")
    assert world.records("b") == [("intent", ""), ("outcome", "held")]
    assert world.records("c") == [], "of this one nothing was written yet"
    assert not one.under_way
    assert not one.untold


class _Quiet:
    """A watcher or a voice that has nothing to say."""

    name, fd = "none", -1

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_: None


def daemon(world: World, desired: DesiredState, *, alone: bool = True) -> Daemon:
    """One that has put stops off, of a and b where they are ``alone``, and now reads that state."""
    quiet = cast("Any", _Quiet())
    signals = cast("Any", SimpleNamespace(fd=os.eventfd(0), reload=False, stop=False))
    watch = SimpleNamespace(name="none", fd=os.eventfd(0), read=lambda: None)
    seams = Seams(lambda: desired, cast("Any", watch), cast("Any", watch), quiet.rearm, quiet, quiet.settle_in)
    one = Daemon(world.converger, seams, signals)
    world.converger.run(WAKE, enforce=True)
    assert world.converger.under_way == ("a", "b") or not alone
    return one


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    "desired",
    [
        DesiredState(mode="observe", services=Services((), stop=True)),
        DesiredState(mode="enforce", services=Services((), stop=False)),
        DesiredState(mode="enforce"),
        DesiredState(mode="enforce", services=Services(("a", "b"), stop=True)),
    ],
    ids=["observe", "no stops", "no services", "approved"],
)
def test_what_the_state_no_longer_asks_for_is_not_begun(world: World, desired: DesiredState, *, told: bool) -> None:
    one = daemon(world, desired)
    if told:
        world.converger.go_on()
    one.signals.reload = True
    world.pressing = False
    one._turn()
    assert world.stopped == []
    assert not world.converger.under_way
    dropped = not told and desired.services != Services(("a", "b"), stop=True)
    assert world.records("a") == ([] if dropped else [("intent", ""), ("outcome", "held")])


def test_what_a_new_state_asks_for_still_is_begun(world: World) -> None:
    """The link is gone by now: nothing else would ever ask for the stop."""
    one = daemon(world, DesiredState(mode="enforce", services=Services(("a",), stop=True)))
    one.signals.reload = True
    world.pressing = False
    one._turn()
    assert world.stopped == ["b"]


def test_stops_are_put_off_again_after_a_state_that_asked_for_none(world: World) -> None:
    one = daemon(world, DesiredState(mode="observe", services=Services((), stop=True)))
    one.signals.reload = True
    one._turn()
    assert not world.converger.under_way
    assert not world.converger.put_off_at


def test_that_a_stop_is_under_way_is_shown_and_not_said(world: World) -> None:
    """It is no news to whoever reads the log: the intent and the outcome are there, and each stop would bring it."""
    said: list[tuple[str, str]] = []
    one = daemon(world, world.converger.observer.desired)
    one.seams.voice = cast("Any", SimpleNamespace(say=lambda *words: said.append(words), publish=id, notify=id))
    world.eyes.tree = {**world.eyes.tree, **link("rc5.d/S20a")}
    one.converger.observer.look()
    one._publish()
    assert UNDER_WAY in [step.held for step in one.status.plan.steps]
    assert [detail for event, detail in said if event == "held"] == []


def test_stops_that_cannot_be_begun_are_not_tried_without_a_pause(world: World) -> None:
    one = daemon(world, world.converger.observer.desired)
    one.full_pass_at = time.monotonic() + 3600
    world.pressing = False

    def refused() -> NoReturn:
        raise ReconcilerError("no lock can be had")

    world.converger.tools = replace(world.converger.tools, lock=refused)
    one._go_on()
    assert "no lock can be had" in one.status.fault
    assert one._timeout() > 1.0
    assert world.converger.under_way == ("a", "b")


def test_a_disk_that_takes_nothing_is_asked_again_after_growing_pauses(world: World) -> None:
    """Not only by the next periodic pass; and changes meanwhile do not put that off."""
    one = daemon(world, world.converger.observer.desired)
    [rc5] = [place for place in world.converger.observer.places if place.folder == "/etc/rc5.d"]
    with trouble(world.tree.path) as broken:
        broken.set("home full")
        world.eyes.tree = {**world.eyes.tree, **link("rc5.d/S20a")}
        one._pass(WAKE)
        assert world.converger.away
        waits, first = one.retry_after, one.retry_at
        assert first is not None
        assert first < one.full_pass_at
        one._pass(Wake("a change", frozenset((rc5,))))
        assert (one.retry_after, one.retry_at) == (waits, first)
        one._pass(WAKE)
        assert one.retry_after == 2 * waits
        broken.heal()
        one._pass(WAKE)
        assert not world.converger.away
        assert one.retry_at is None


def test_after_a_new_state_could_not_be_looked_at_for_a_change_is_judged_by_all_there_is(world: World) -> None:
    """What was seen is forgotten with the old state, and the pass over everything may have failed."""
    world.eyes.tree = {**world.eyes.tree, **script("lib"), **script("app", needs="lib")}
    one = world.converger
    one.observer.use(DesiredState(mode="enforce", services=Services(("app",), stop=True)))
    world.eyes.tree = {**world.eyes.tree, **link("rc2.d/S20lib")}
    place = next(place for place in one.observer.places if place.folder == "/etc/rc2.d")
    report = one.run(Wake("a change", frozenset((place,)), {}, {place: {"S20lib"}}), enforce=True)
    held = [s.held for s in report.plan.steps if s.service == "lib" and isinstance(s.action, Unlink)]
    assert held == ["the approved app needs it"]
    assert "/etc/rc2.d/S20lib" in world.eyes.tree


def test_after_many_stops_ended_at_once_everything_is_looked_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass for each would leave the daemon deaf for seconds after a storm."""
    names, one = many(world), daemon(world, world.converger.observer.desired, alone=False)
    one._go_on()
    assert sorted(world.converger.in_flight) == sorted(names)
    wakes: list[Wake] = []
    monkeypatch.setattr(one, "_pass", wakes.append)
    monkeypatch.setattr(Converger, "advance", lambda self, ready, now: [self.conclude(name) for name in names])
    one._on_stops(set())
    assert [wake.cause for wake in wakes] == [f"the stop of a, and of {len(names) - 1} more, ended"]

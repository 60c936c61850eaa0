"""One pass: the order of its promises, and what it says when one of them cannot be kept."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.attempts import Attempt
from reconciler.converge import Converger
from reconciler.desired import Limits
from reconciler.errors import ActionFailed, JournalError
from reconciler.log import for_command
from reconciler.model import Action, DisableUnit, Gap, Outcome, Place, Plan, Ref, Signal, Step, StopService, Wake
from reconciler.session import Session
from reconciler.storage import store
from reconciler.values import replace
from tests.trees import Tree

WAKE = Wake("a test")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree in which exim4 starts and is not approved."""
    tree = Tree(tmp_path)
    tree.script("exim4")
    tree.link("rc2.d/S20exim4")
    return tree


def converger(tree: Tree) -> Converger:
    session = Session(str(tree.path), None)
    return Converger(session.observer(), session.tools(for_command(live=False)))


def full_after(writes: int) -> Callable[..., None]:
    """The disk is full once so many batches are written."""
    real, left = store.append, [writes]

    def append(*arguments: Any) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        real(*arguments)

    return append


def test_without_a_durable_intent_nothing_is_done(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "append", full_after(0))
    with pytest.raises(JournalError, match="No space left"):
        converger(tree).run(WAKE, enforce=True)
    assert tree.names("rc2.d") == ["S20exim4"]


def test_an_outcome_that_cannot_be_written_is_owed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    one = converger(tree)
    with monkeypatch.context() as patch:
        patch.setattr(store, "append", full_after(2))  # the quarantine and the intent
        one.run(WAKE, enforce=True)
        assert tree.names("rc2.d") == ["K01exim4"]
        assert [r["record"] for r in tree.records()] == ["intent"]
        with pytest.raises(JournalError):
            one.run(WAKE, enforce=True)
    one.run(WAKE, enforce=True)
    assert [(r["record"], r["outcome"]) for r in tree.records()] == [("intent", ""), ("outcome", "done")]


def test_what_comes_back_while_it_is_proved_has_failed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    one = converger(tree)
    monkeypatch.setattr(one.tools.hands, "settle", lambda actions: tree.link("rc2.d/S20exim4"))
    [attempt] = one.run(WAKE, enforce=True).attempts
    assert attempt.outcome is not None
    assert (attempt.outcome.word, attempt.outcome.detail) == ("failed", "it is there again")


def test_what_changed_since_the_look_is_stale(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    one = converger(tree)
    link = tree.path / "etc/rc2.d/S20exim4"
    look = one.observer.plan

    def changed(*arguments: Any) -> Any:
        plan = look(*arguments)
        if link.is_symlink() and link.readlink().name == "exim4":
            link.unlink()
            link.symlink_to("../init.d/other")
        return plan

    monkeypatch.setattr(one.observer, "plan", changed)
    [attempt] = one.run(WAKE, enforce=True).attempts
    assert attempt.outcome is not None
    assert attempt.outcome.word == "stale"
    assert link.readlink().name == "other"


@pytest.mark.parametrize("kept", [True, False])
def test_inetd_is_not_told_of_a_file_that_could_not_be_corrected(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """It would read the line that nobody approved, and serve it."""
    tree.state("version = 1\n[inetd]\napproved = []\n")
    tree.write("etc/inetd.conf", "ident stream tcp nowait nobody /usr/sbin/identd identd\n")
    one = converger(tree)
    look, told = one.observer.plan, []

    def plan(*arguments: Any) -> Plan:
        found = look(*arguments)
        hup = [Step(Signal("inetd", "HUP", "/usr/sbin/inetd"), "inetd", step.findings) for step in found.steps]
        return replace(found, steps=(*found.steps, *hup))

    def do(action: Action) -> Outcome:
        if isinstance(action, Signal):
            told.append(action.signal)
            return Outcome("done")
        if not kept:
            raise ActionFailed("Read-only file system")
        return real(action)

    real = one.tools.hands.do
    monkeypatch.setattr(one.observer, "plan", plan)
    monkeypatch.setattr(one.tools.hands, "do", do)
    ended = [attempt.outcome for attempt in one.run(WAKE, enforce=True).attempts]
    assert told == (["HUP"] if kept else [])
    if not kept:
        assert [outcome.word for outcome in ended if outcome] == ["failed", "failed"]
        assert "not sent" in str(ended[1])
        assert "runs" not in str(ended[1])


def test_the_folder_of_a_declared_file_is_made_with_it(tree: Tree) -> None:
    tree.write("etc/dom0-reconciler/xenbr0", "auto xenbr0\n").chmod(0o644)
    tree.state('version = 1\n[network]\ninterfaces_d = { xenbr0 = "xenbr0" }\n')
    assert tree.command("apply").returncode == 0
    assert (tree.path / "etc/network/interfaces.d/xenbr0").read_text() == "auto xenbr0\n"


def test_what_cannot_be_made_durable_is_said_and_the_pass_goes_on(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    one = converger(tree)

    def settle(_actions: object) -> None:
        raise ActionFailed("/etc/rc2.d: Input/output error")

    monkeypatch.setattr(one.tools.hands, "settle", settle)
    [attempt] = one.run(WAKE, enforce=True).attempts
    assert attempt.outcome == Outcome("unverified", "done, but a crash may undo it: /etc/rc2.d: Input/output error")
    assert [(r["record"], r["outcome"]) for r in tree.records()] == [("intent", ""), ("outcome", "unverified")]


@pytest.mark.parametrize("end", [lambda one: one.conclude("hang"), lambda one: one.abandon("hang", "it ended")])
def test_the_end_of_a_stop_is_written_under_the_lock_or_owed(tree: Tree, end: Callable[[Converger], object]) -> None:
    one = converger(tree)
    step = Step(StopService("hang", "hang"), "hang", (Ref("rclinks", "rc2.d/S01hang"),))
    one.in_flight["hang"] = (Ended(), Attempt("p.1", "p", "a test", step, Outcome("pending")))
    run = tree.path / "run/dom0-reconciler"
    tree.write("run/dom0-reconciler", "no folder: no lock can be had")
    end(one)
    assert [record.id for record in one.owed] == ["p.1"]
    assert tree.records() == []
    run.unlink()
    one.settle_debts()
    assert [(r["id"], r["record"]) for r in tree.records()] == [("p.1", "outcome")]


BY_LINK = Step(StopService("hang", "hang"), "hang", (Ref("rclinks", "rc2.d/S01hang"),))
UNDER_WAY = Attempt("p.1", "p", "a test", BY_LINK, Outcome("pending"))


@pytest.mark.parametrize(
    ("kind", "word"), [("rclinks", "done"), ("units", "failed"), ("processes", "failed"), ("listeners", "failed")]
)
def test_a_stop_has_failed_where_it_is_seen_to_run_not_where_a_link_is_there_again(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, kind: str, word: str
) -> None:
    """update-rc.d makes a link, and a moment later insserv the same with another number."""
    one = converger(tree)
    one.in_flight["hang"] = (Ended(), UNDER_WAY)
    again = replace(BY_LINK, findings=(Ref(kind, "hang"),))
    monkeypatch.setattr(one.observer, "plan", lambda *_: Plan(steps=(again,)))
    outcome = one.conclude("hang").outcome
    assert outcome is not None
    assert outcome.word == word


def test_a_stop_that_a_link_asked_for_is_proved_by_what_runs(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    one, looked = converger(tree), set[Place]()
    one.in_flight["hang"] = (Ended(), UNDER_WAY)
    shows = {Place("units", "/run/systemd/units"), Place("units", ""), Place("processes", "")}
    monkeypatch.setattr(one.observer, "places", [*shows, Place("units", "/etc/systemd/system")])
    monkeypatch.setattr(one.observer, "look", lambda places, _names: looked.update(places))
    one.conclude("hang")
    assert looked == shows


def test_what_was_tried_in_vain_and_ended_by_itself_is_forgotten(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its next correction, weeks later, would begin with a signal instead of its own stop."""
    one = converger(tree)
    stays = Step(StopService("stays", "stays"), "stays", (Ref("processes", "/usr/sbin/stays"),), held="paused")
    tried = {"stays": "stop", "gone": "stop"}
    one.observer.tried = tried
    monkeypatch.setattr(one.observer, "plan", lambda *_: Plan(steps=(stays,)))
    one.run(replace(WAKE, places=frozenset()), enforce=True)
    assert one.observer.tried == tried, "only a look at everything tells that it is gone"
    monkeypatch.setattr(
        one.observer, "plan", lambda *_: Plan(gaps=(Gap("processes", Ref("processes", ""), "no /proc"),))
    )
    one.run(WAKE, enforce=True)
    assert one.observer.tried == tried, "what cannot be looked at may still run"
    monkeypatch.setattr(one.observer, "plan", lambda *_: Plan(steps=(stays,)))
    one.run(WAKE, enforce=True)
    assert one.observer.tried == {"stays": "stop"}


class Ended:
    """A stop that is over."""

    fd, deadline = -1, 0.0

    def expire(self) -> None:
        """Too late."""

    def finish(self) -> Outcome:
        return Outcome("done")


def test_the_oldest_of_what_is_kept_is_forgotten_and_said(tree: Tree) -> None:
    one = converger(tree)
    passes = [one.run(WAKE, enforce=True).pass_id]
    for number in (30, 40):
        tree.link(f"rc2.d/S{number}exim4")
        passes.append(one.run(WAKE, enforce=True).pass_id)
    kept = tree.path / "var/lib/dom0-reconciler/quarantine"
    one.tidy()
    assert len(list(kept.iterdir())) == 3
    one.observer.use(replace(one.observer.desired, quarantine=Limits(size=1)))
    one.tidy()
    assert [each.name for each in kept.iterdir()] == passes[-1:], "the newest is never too much"
    told = [r["pass"] for r in tree.records() if r["record"] == "forgotten"]
    assert sorted(told) == sorted(passes[:-1])
    warned = [r["pass"] for r in tree.records() if r["record"] == "expiring"]
    assert sorted(warned) == sorted(passes[:-1]), "before it is forgotten it is said, however short before"
    one.tidy()
    assert len(told) == len([r for r in tree.records() if r["record"] == "forgotten"])


def test_one_dpkg_is_waited_for_as_long_as_the_state_says(tree: Tree) -> None:
    path = tree.path / "etc/dom0-reconciler/state.toml"
    path.write_text(path.read_text().replace("[services]", 'dpkg_wait = "20min"\n[services]'))
    one, asked = converger(tree), list[float]()

    def packaging(seconds: float) -> str:
        asked.append(seconds)
        return ""

    one.tools = replace(one.tools, packaging=packaging)
    one.run(WAKE, enforce=False)
    one.observer.use(replace(one.observer.desired, dpkg_wait=5.0))
    one.run(WAKE, enforce=False)
    assert set(asked[:1]) == {1200.0}
    assert asked[-1] == 5.0, "a state that changed is in force at once"


def test_what_gets_too_old_is_said_a_day_before_it_is_forgotten(tree: Tree) -> None:
    tree.state(tree.path.joinpath("etc/dom0-reconciler/state.toml").read_text() + '[quarantine]\nage = "30d"\n')
    began = time.time()
    clock = [began]
    one = converger(tree)
    one.tools = replace(one.tools, clock=lambda: clock[0])
    pass_id = one.run(WAKE, enforce=True).pass_id
    kept = tree.path / "var/lib/dom0-reconciler/quarantine"
    for days, words in ((28.9, []), (29.1, ["expiring"]), (30.0, ["expiring"]), (30.2, ["expiring", "forgotten"])):
        clock[0] = began + days * 86400
        one.tidy()
        assert [r["record"] for r in tree.records() if r["record"] in ("expiring", "forgotten")] == words
    [said] = [r for r in tree.records() if r["record"] == "expiring"]
    assert said["pass"] == pass_id
    assert f"undo --pass {pass_id}" in said["detail"]
    assert list(kept.iterdir()) == []


def test_what_one_pass_corrects_came_back_once(tree: Tree) -> None:
    """Its unit is disabled, and a moment later its stop ends: else three tries of an administrator were a contest."""
    one, twice = converger(tree), converger(tree)
    done = Outcome("done")
    for number in range(4):
        for what in (DisableUnit("hang", ()), StopService("hang", "hang")):
            attempt = Attempt(f"p{number}.1", f"p{number}", "a test", replace(BY_LINK, action=what), done)
            one._count([attempt])
            twice._count([replace(attempt, pass_id=f"{number}{what}")])
    assert not one.memory.contested(one.tools.moment())
    assert twice.memory.contested(twice.tools.moment())

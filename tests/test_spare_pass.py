"""A pass, a start and an end while home takes nothing: what is done, what is not, what is said, and how it ends."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from reconciler import standing
from reconciler.attempts import Attempt
from reconciler.commands import pause, resume, undo
from reconciler.commands.run import come_home, explain_the_past
from reconciler.converge import Converger
from reconciler.desired import Limits
from reconciler.errors import ReconcilerError
from reconciler.host import files
from reconciler.host.swift import open_folder
from reconciler.journal import Journal
from reconciler.log import for_command
from reconciler.model import Record, Wake, target_of
from reconciler.observer import WAITING
from reconciler.overrides import Overrides
from reconciler.quarantine import Quarantine
from reconciler.session import Session
from reconciler.storage import small, spare, store
from reconciler.values import replace
from tests.broken_home import Trouble, trouble
from tests.crash.faults import AT_HOME
from tests.trees import Tree

WAKE = Wake("a test")
STATE = 'version = 1\nmode = "enforce"\n[services]\napproved = ["ssh"]\n[inetd]\napproved = []\n'
LOST = "what there was could not be kept"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree with a start link and a line of inetd.conf that are not approved."""
    tree = Tree(tmp_path, STATE)
    tree.script("exim4")
    tree.link("rc2.d/S20exim4")
    tree.write("etc/inetd.conf", "ident stream tcp nowait nobody /usr/sbin/identd identd\n")
    return tree


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Trouble]:
    with trouble(tmp_path) as one:
        yield one


def converger(tree: Tree) -> Converger:
    session = Session(str(tree.path), None)
    tools = replace(session.tools(for_command(live=False)), come_home=partial(standing.bring_home, session))
    return Converger(session.observer(), tools)


def ends(attempts: tuple[Attempt, ...]) -> dict[str, tuple[str, str]]:
    found = ((target_of(a.step.action), a.outcome) for a in attempts)
    return {target: (outcome.word, outcome.detail) for target, outcome in found if outcome is not None}


def records(tree: Tree) -> list[Record]:
    return list(Journal(Session(str(tree.path), None).root).read())


@pytest.mark.parametrize("how", AT_HOME)
def test_the_link_goes_the_file_stays_and_then_all_is_as_declared(tree: Tree, broken: Trouble, how: str) -> None:
    one = converger(tree)
    one.run(WAKE, enforce=False)
    broken.set(how)
    ended = ends(one.run(WAKE, enforce=True).attempts)
    assert ended["/etc/rc2.d/S20exim4"] == ("done", "")
    word, detail = ended["/etc/inetd.conf"]
    assert word == "failed"
    assert LOST in detail
    assert tree.names("rc2.d") == ["K01exim4"]
    assert (tree.path / "etc/inetd.conf").read_text().startswith("ident")
    assert spare.PLACE in one.away
    one.tidy()

    broken.heal()
    ended = ends(one.run(WAKE, enforce=True).attempts)
    assert ended["/etc/inetd.conf"][0] == "done"
    one.run(WAKE, enforce=True)
    assert one.away == ""
    assert list((tree.path / spare.PLACE[1:]).iterdir()) == []
    told = [record.record for record in records(tree)]
    assert (told.count("away"), told.count("home")) == (2, 2)  # of the journal, and of what is kept
    root = Session(str(tree.path), None).root
    assert Journal(root).verify().ok
    [unlinked] = [r for r in records(tree) if r.target == "/etc/rc2.d/S20exim4" and r.outcome == "done"]
    assert Quarantine(root).find(unlinked.id).id == unlinked.id


def test_a_full_pass_brings_home_though_nothing_is_to_be_written(tree: Tree, broken: Trouble) -> None:
    one = converger(tree)
    tree.write("etc/inetd.conf", "")
    broken.set("home full")
    one.run(WAKE, enforce=True)
    broken.heal()
    [place] = [place for place in one.observer.places if place.folder == "/etc/rc2.d"]
    one.run(Wake("a change", frozenset((place,))), enforce=True)
    assert one.away
    one.run(WAKE, enforce=True)
    assert one.away == ""
    assert not one.tools.journal.astray
    assert not one.tools.quarantine.astray


def test_nothing_is_forgotten_while_records_wait(tree: Tree, broken: Trouble) -> None:
    one = converger(tree)
    one.run(WAKE, enforce=True)
    tree.link("rc3.d/S20exim4")
    broken.set("home full")
    one.run(WAKE, enforce=True)
    broken.set("home read-only")
    one.observer.use(replace(one.observer.desired, quarantine=Limits(size=1)))
    before = len(records(tree))
    one.tidy()
    assert len(records(tree)) == before


@pytest.mark.parametrize("how", AT_HOME)
def test_a_start_finds_what_a_killed_run_left(tree: Tree, broken: Trouble, how: str) -> None:
    session = Session(str(tree.path), None)
    Journal(session.root).write([Record("p.1", 1.0, "p", "intent")])
    if how != "home broken":
        broken.set(how)
        Journal(session.root).write([Record("p.2", 1.0, "p", "intent")])
    broken.set(how)
    with small.held(session.root, "daemon.lock"):
        explain_the_past(session, session.tools(for_command(live=False)), ())
    broken.heal()
    told = [(r.record, r.id) for r in records(tree) if r.record in ("outcome", "start", "away")]
    assert tuple(sorted({word for word, _ in told} - {"outcome"})) == ("away", "start")
    if how != "home broken":  # what cannot be read is explained once it can be
        assert {id_ for word, id_ in told if word == "outcome"} == {"p.1", "p.2"}
    with small.held(session.root, "daemon.lock"):
        explain_the_past(session, session.tools(for_command(live=False)), ())
    assert "p.1" in {r.id for r in records(tree) if r.record == "outcome"}
    assert not spare.holds(session.root, spare.JOURNAL)
    assert (tree.path / store.HOME[1:] / "daemon.lock").exists()


def test_what_a_start_cannot_read_is_explained_once_it_can_be(tree: Tree, broken: Trouble) -> None:
    """By the same daemon, and nothing of its own."""
    session = Session(str(tree.path), None)
    Journal(session.root).write([Record("p.1", 1.0, "p", "intent"), Record("p.2", 1.0, "p", "intent")])
    broken.set("home broken")
    tools = session.tools(for_command(live=False))
    start = explain_the_past(session, tools, ())
    tools = replace(tools, come_home=partial(come_home, session, tools, start))
    tools.journal.write([Record("own.1", 2.0, "own", "intent")])
    one = Converger(session.observer(), tools)
    one.run(WAKE, enforce=False)
    broken.heal()
    for _ in range(2):
        one.run(WAKE, enforce=False)
        told = [(r.id, r.outcome) for r in records(tree) if r.record == "outcome"]
        assert told == [("p.1", "unverified"), ("p.2", "unverified")]
    assert Journal(session.root).verify().ok


# --- what is ordered for a while -------------------------


def ordered(tree: Tree, command: str, **options: object) -> int:
    """Run a command in this process, whose disk is the broken one."""
    words = {"names": [], "json": False, **options}
    run = {"pause": pause.run, "resume": resume.run, "undo": undo.run}[command]
    return run(Session(str(tree.path), None), argparse.Namespace(**words))


def at_home(tree: Tree) -> Path:
    return tree.path / store.HOME[1:] / standing.NAME


@pytest.mark.parametrize("how", AT_HOME)
def test_a_pause_holds_from_there_and_comes_home(
    tree: Tree, broken: Trouble, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = converger(tree)
    one.run(WAKE, enforce=False)
    broken.set(how)
    assert ordered(tree, "pause", duration="1h", reason="the disk") == 0
    assert "a reboot before ends it" in capsys.readouterr().err
    assert one.run(WAKE, enforce=True).attempts == ()
    [held] = one.restraints().overrides.pauses
    broken.heal()
    assert one.run(WAKE, enforce=True).attempts == ()
    assert not (tree.path / WAITING[1:]).exists()
    assert one.restraints().overrides.pauses == (held,)
    assert at_home(tree).exists()
    assert ordered(tree, "resume") == 0
    assert one.run(WAKE, enforce=True).attempts


@pytest.mark.parametrize("how", ["home full", "home read-only"])
def test_a_pause_that_stands_at_home_is_ended_there(tree: Tree, broken: Trouble, how: str) -> None:
    one = converger(tree)
    ordered(tree, "pause", duration="1h", reason="before")
    broken.set(how)
    assert ordered(tree, "resume") == 0
    assert one.restraints().overrides.pauses == ()
    assert ends(one.run(WAKE, enforce=True).attempts)["/etc/rc2.d/S20exim4"] == ("done", "")
    broken.heal()
    one.run(WAKE, enforce=True)
    assert b"before" not in at_home(tree).read_bytes()


@pytest.mark.parametrize("how", AT_HOME)
def test_what_an_undo_puts_back_is_left_alone(tree: Tree, broken: Trouble, how: str) -> None:
    one = converger(tree)
    one.run(WAKE, enforce=False)
    broken.set("home full")
    one.run(WAKE, enforce=True)
    [unlinked] = [r for r in records(tree) if r.target == "/etc/rc2.d/S20exim4" and r.outcome == "done"]
    assert ordered(tree, "undo", id=unlinked.id, whole=False, start=False, span="1h") == 0
    broken.set(how)
    one.run(WAKE, enforce=True)
    assert "S20exim4" in tree.names("rc2.d")
    broken.heal()
    one.run(WAKE, enforce=True)
    assert "S20exim4" in tree.names("rc2.d")
    assert unlinked.id.encode() in at_home(tree).read_bytes()


def test_what_neither_place_takes_is_not_in_force(tree: Tree, broken: Trouble) -> None:
    one = converger(tree)
    broken.set("home full")
    one.run(WAKE, enforce=True)
    (tree.path / store.SPARE[1:]).chmod(0o770)
    with pytest.raises(ReconcilerError, match="another user than root: what was ordered is not in force"):
        ordered(tree, "pause", duration="1h", reason="y")
    assert one.restraints().overrides.pauses == ()


def test_what_others_may_write_counts_neither_there_nor_at_home(tree: Tree, broken: Trouble) -> None:
    one = converger(tree)
    broken.set("home full")
    ordered(tree, "pause", duration="1h", reason="x")
    (tree.path / WAITING[1:]).chmod(0o666)
    assert "may be written by others" in one.restraints().overrides.fault
    broken.heal()
    one.run(WAKE, enforce=False)
    assert one.restraints().overrides == Overrides()
    assert (tree.path / f"{WAITING[1:]}.corrupt").exists()


def test_a_spare_place_that_was_tidied_away_is_noticed_at_once(
    tree: Tree, broken: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon in a hurry remembers what is ordered for as long as home is as it was."""
    ordered(tree, "pause", duration="1h", reason="home")
    session = Session(str(tree.path), None)
    session.root.at_once, observer = open_folder, session.observer()
    later = time.time() + 60
    monkeypatch.setattr(files, "time", lambda: later)  # what home tells is settled by then
    broken.set("home full")

    def last() -> str:
        return observer.orders()[0].pauses[-1].why

    assert [last(), last()] == ["home", "home"]
    ordered(tree, "pause", duration="1h", reason="spare")
    assert [last(), last()] == ["spare", "spare"]
    shutil.rmtree(tree.path / store.SPARE[1:])
    assert [last(), last()] == ["home", "home"]

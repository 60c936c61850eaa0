"""A pass, a start and an end while home takes nothing: what is done, what is not, what is said, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.attempts import Attempt
from reconciler.commands.run import explain_the_past
from reconciler.converge import Converger
from reconciler.desired import Limits
from reconciler.journal import Journal
from reconciler.log import for_command
from reconciler.model import Record, Wake, target_of
from reconciler.quarantine import Quarantine
from reconciler.session import Session
from reconciler.storage import small, spare, store
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
    return Converger(session.observer(), session.tools(for_command(live=False)))


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

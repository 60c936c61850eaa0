"""Staging a change of the network on a tree: durable first, and put back where it does not come to be applied."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from reconciler.converge import Converger
from reconciler.errors import ActionFailed, JournalError, ReconcilerError
from reconciler.host import lock
from reconciler.host.eyes import RealEyes
from reconciler.log import for_command
from reconciler.model import FileState, Host, LinkState, Outcome, Wake
from reconciler.network import netswitch
from reconciler.network.applying import ApplyNetwork
from reconciler.network.deadman import DeadMan
from reconciler.network.switching import Switchboard, confirm, hurry
from reconciler.observer import Observer
from reconciler.session import Session
from reconciler.storage import store
from reconciler.values import replace
from tests.trees import Tree

OLD = "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet static\n address 192.0.2.10/24\n"
NEW = OLD.replace(".10/", ".66/")
STATE = """\
version = 1
mode = "enforce"
[network]
interfaces = "interfaces"
interfaces_d = {}
apply = "ifup"
"""
WAKE = Wake("a test")


class LiveEyes(RealEyes):
    """Takes the tree for the running host."""

    def host(self) -> Host:
        return Host(live=True)


class Place:
    """A tree whose network would follow its files; nothing of it can be begun, unless a test says so."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tree = Tree(path, STATE)
        self.tree.write("etc/dom0-reconciler/interfaces", NEW)
        self.tree.write("etc/network/interfaces", OLD)
        self.tree.write("etc/network/interfaces.d/stray", "auto stray\niface stray inet manual\n").chmod(0o640)
        for tool in ("ifup", "ifdown"):
            self.tree.write(f"sbin/{tool}", "")
        session = Session(str(path), None)
        monkeypatch.setattr(session, "must_be_able", lambda: None)
        eyes = LiveEyes(session.root)
        tools = session.tools(for_command(live=False))
        self.board = Switchboard(session.root, eyes, tools)
        self.one = Converger(Observer(eyes, session.data, session.load_state()), replace(tools, staging=self.board))
        self.pending = path / "var/lib/dom0-reconciler/network.json"

    def files(self) -> dict[str, tuple[str, int]]:
        folder = self.tree.path / "etc/network"
        found = [path for path in folder.rglob("*") if path.is_file()]
        return {str(p.relative_to(folder)): (p.read_text(), p.stat().st_mode & 0o777) for p in found}

    def records(self) -> list[tuple[str, str, str]]:
        return [(r["record"], r["action"], r["outcome"]) for r in self.tree.records()]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_what_cannot_be_begun_is_put_back_with_all_its_files(place: Place) -> None:
    before = place.files()
    attempts = place.one.run(WAKE, enforce=True).attempts
    assert [(a.outcome or Outcome("held")).word for a in attempts] == ["failed", "failed", "failed"]
    assert place.files() == before
    assert not place.pending.exists()
    words = [record for record, _, _ in place.records()]
    assert words[:4] == ["staged", "intent", "intent", "intent"], "durable before the first effect"
    assert words.count("reverted") == 1
    assert place.tree.command("log", "--verify").returncode == 0


def test_a_record_that_cannot_be_written_leaves_nothing_staged(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = store.append, [0]

    def append(*arguments: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    before = place.files()
    for allowed in range(8):  # the disk is full sooner or later: in quarantine, in the record, in the journal
        left[0] = allowed
        with monkeypatch.context() as patch, suppress(JournalError):
            patch.setattr(store, "append", append)
            place.one.run(WAKE, enforce=True)
        place.one.owed.clear()
        if place.pending.exists():  # put back when the disk has room again
            with lock.held(place.board.root, lock.CORRECTING):
                place.board.withdraw("a test")
        assert place.files() == before, allowed
        assert not place.pending.exists()


def begin_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process beside is begun, and killed at once."""

    class Gone:
        fd, deadline = -1, 0.0

        def expire(self) -> None:
            """Too late."""

        def finish(self) -> Outcome:
            return Outcome("unverified")

    monkeypatch.setattr(place.one.tools.hands, "begin", lambda action: Gone())


def test_a_change_under_way_holds_the_next_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    begin_nothing(place, monkeypatch)
    place.one.run(WAKE, enforce=True)
    assert place.board.read().phase == "staged"
    assert place.files() == {"interfaces": (NEW, 0o644)}
    place.tree.write("etc/network/interfaces", "# somebody\n")
    report = place.one.run(WAKE, enforce=True)
    assert report.attempts == ()
    assert all("under way" in str(step.held) for step in report.plan.steps)
    with pytest.raises(ReconcilerError, match="another change"):
        place.board.stage("p9", ApplyNetwork("ifup", (), ()), (), "a test")


def test_killed_before_anything_was_applied_the_files_are_put_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staged and written, and then nobody was left to apply it: so finds it the next start of the daemon."""
    before = place.files()
    begin_nothing(place, monkeypatch)
    place.one.run(WAKE, enforce=True)
    DeadMan(place.board).wait()
    assert (place.files(), place.pending.exists()) == (before, False)
    assert place.tree.records()[-1]["detail"] == "the files only, nothing was applied: it was interrupted"


def test_what_lies_there_now_is_kept_when_it_is_put_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = place.files()
    begin_nothing(place, monkeypatch)
    place.one.run(WAKE, enforce=True)
    place.tree.write("etc/network/interfaces", "# somebody\n")
    with lock.held(place.board.root, lock.CORRECTING):
        place.board.withdraw("a test")
    assert place.files() == before
    last = [r["id"] for r in place.tree.records() if r["action"] == "write-file" and r["record"] == "outcome"][-2:]
    kept = [place.board.tools.quarantine.find(id_).state for id_ in last]
    assert b"# somebody\n" in [state.content for state in kept if isinstance(state, FileState)]


def test_a_link_that_was_replaced_is_one_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    main = place.tree.path / "etc/network/interfaces"
    main.rename(main.with_name("real"))
    main.symlink_to("real")
    os.utime(main, ns=(10**18, 10**18), follow_symlinks=False)
    begin_nothing(place, monkeypatch)
    place.one.run(WAKE, enforce=True)
    assert not main.is_symlink()
    with lock.held(place.board.root, lock.CORRECTING):
        place.board.withdraw("a test")
    assert place.board.eyes.entry("/etc/network/interfaces") == LinkState("real", os.getuid(), os.getgid(), 10**18)


def test_nothing_waits_to_be_confirmed_or_reverted(place: Place) -> None:
    with pytest.raises(ReconcilerError, match="no change of the network waits"):
        confirm(place.board, "me")
    with pytest.raises(ReconcilerError, match="no change of the network waits"):
        hurry(place.board)


def test_a_file_that_makes_no_sense_is_an_error(place: Place) -> None:
    place.tree.write(netswitch.PATH.lstrip("/"), "{")
    with pytest.raises(ReconcilerError, match="makes no sense"):
        place.board.read()
    report = place.one.run(WAKE, enforce=True)
    assert report.attempts == ()
    assert place.files()["interfaces"] == (OLD, 0o644)


@pytest.mark.parametrize(("phase", "asked"), [("applied", 1), ("reverted", 0)])
def test_the_daemon_sees_to_it_that_somebody_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, asked: int
) -> None:
    from reconciler.commands import run
    from reconciler.host import network

    session = Session(str(Tree(tmp_path).path), None)
    monkeypatch.setattr(session, "eyes", LiveEyes(session.root))
    change = netswitch.Switch(phase, "p1")  # type: ignore[arg-type]
    place = tmp_path / netswitch.PATH.lstrip("/")
    place.parent.mkdir(parents=True)
    place.write_bytes(netswitch.text_of(change))
    calls: list[tuple[str, ...]] = []
    said: list[str] = []

    def guard(words: tuple[str, ...], *, systemd: bool) -> None:
        calls.append(words)
        raise ActionFailed("systemd-run cannot be run")

    monkeypatch.setattr(network, "guard", guard)

    class Voice:
        def say(self, event: str, detail: str) -> None:
            said.append(f"{event}: {detail}")

    run._guard(session, Voice())  # type: ignore[arg-type]
    assert (calls, len(said)) == ([("revert", "--when-due")] * asked, asked)
    with lock.held(session.root, lock.SWITCH):
        run._guard(session, Voice())  # type: ignore[arg-type]
    assert len(calls) == asked, "somebody waits"

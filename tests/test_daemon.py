"""The daemon on a bare tree: what wakes it, what it refuses, how it ends."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reconciler.commands.run import _Declared
from reconciler.model import Place
from reconciler.session import Session
from tests.trees import PATIENCE, Tree, wait_for

ENFORCE = 'version = 1\nmode = "enforce"\ninterval = "1h"\n[services]\napproved = ["ssh"]\n[inetd]\napproved = []\n'


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree that is held by the hour: within a test only a wake can bring the daemon to look."""
    return Tree(tmp_path, ENFORCE)


def test_a_link_that_appears_is_unlinked_at_once_and_said_why(tree: Tree) -> None:
    tree.script("portmap")
    with tree.daemon():
        tree.link("rc2.d/S18portmap")
        wait_for(lambda: tree.names("rc2.d") == ["K01portmap"], "the link is gone")
        wait_for(lambda: tree.records()[-1]["outcome"] == "done", "the outcome is written")
    intent, outcome = tree.records()[-3:-1]
    assert (intent["record"], outcome["record"]) == ("intent", "outcome")
    assert intent["id"] == outcome["id"]
    assert outcome["cause"] == "inotify: /etc/rc2.d S18portmap appeared"


def test_what_changed_while_it_was_down_is_corrected_at_the_start(tree: Tree) -> None:
    tree.link("rcS.d/S43portmap")
    with tree.daemon():
        wait_for(lambda: tree.names("rcS.d") == ["K43portmap"], "the link is gone")


def test_an_approved_link_stays(tree: Tree) -> None:
    with tree.daemon():
        tree.link("rc2.d/S20ssh")
        tree.link("rc2.d/S20exim4")
        wait_for(lambda: "S20exim4" not in tree.names("rc2.d"), "the other is gone")
        assert "S20ssh" in tree.names("rc2.d")


def test_an_inetd_line_that_appears_is_commented(tree: Tree) -> None:
    line = "ident\tstream\ttcp\tnowait\tnobody\t/usr/sbin/identd\tidentd\n"
    with tree.daemon():
        tree.write("etc/inetd.conf", line)
        file = tree.path / "etc/inetd.conf"
        wait_for(lambda: file.read_text() == "#" + line, "the line is commented")


def test_a_replaced_folder_is_still_watched(tree: Tree) -> None:
    with tree.daemon():
        (tree.path / "etc/rc2.d").rename(tree.path / "etc/rc2.d.old")
        (tree.path / "etc/rc2.d").mkdir()
        tree.link("rc2.d/S20exim4")
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "the link in the new folder is gone")


def test_a_changed_state_is_in_force_at_once(tree: Tree) -> None:
    tree.link("rc2.d/S20ssh")
    with tree.daemon():
        tree.state(ENFORCE.replace('"ssh"', '"cron"'))
        wait_for(lambda: tree.names("rc2.d") == ["K01ssh"] or tree.plan()["steps"], "ssh is no longer approved")


def test_a_bad_state_is_refused_and_the_last_good_one_stays(tree: Tree) -> None:
    with tree.daemon():
        tree.state('version = 1\nmode = "enforced"\n')
        wait_for(lambda: _status(tree)["state_errors"], "status says that the state is refused")
        tree.link("rc2.d/S20exim4")
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "the last good state is enforced")
        tree.state(ENFORCE)
        wait_for(lambda: not _status(tree)["state_errors"], "the mended state is taken")


def test_observe_mode_touches_nothing_and_says_what_it_would_do(tree: Tree) -> None:
    tree.state(ENFORCE.replace("enforce", "observe"))
    tree.link("rc2.d/S20exim4")
    with tree.daemon() as daemon:
        wait_for(lambda: tree.command("status").returncode == 2, "the daemon found it")
        daemon.send_signal(signal.SIGTERM)
        _, errors = daemon.communicate(timeout=PATIENCE)
    assert tree.names("rc2.d") == ["S20exim4"]
    assert "enforce would unlink /etc/rc2.d/S20exim4" in errors


def test_hangup_reloads_and_terminate_ends_with_0(tree: Tree) -> None:
    with tree.daemon() as daemon:
        daemon.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert daemon.poll() is None
        daemon.send_signal(signal.SIGTERM)
        daemon.communicate(timeout=PATIENCE)
        assert daemon.returncode == 0
    assert tree.command("status").returncode == 3
    assert [r["record"] for r in tree.records()][-1] == "stop"


def test_one_daemon_holds_a_root(tree: Tree) -> None:
    with tree.daemon():
        second = tree.command("run")
    assert second.returncode == 1
    assert "another process holds" in second.stderr


@pytest.mark.parametrize("folder", ["run", "var/lib"])
def test_one_daemon_holds_a_root_whose_folder_was_taken_away(tree: Tree, folder: str) -> None:
    """Who tidies up takes the file of the lock away, and the lock with it: there is another one elsewhere."""
    with tree.daemon() as daemon:
        shutil.rmtree(tree.path / folder / "dom0-reconciler")
        second = tree.command("run")
        assert daemon.poll() is None
    assert second.returncode == 1
    assert "another process holds" in second.stderr


def test_a_status_that_was_taken_away_is_published_again(tree: Tree) -> None:
    with tree.daemon():
        shutil.rmtree(tree.path / "run/dom0-reconciler")
        tree.link("rc2.d/S20exim4")
        wait_for(lambda: tree.command("status").returncode == 0, "the status is there again")


def test_a_wrong_state_at_the_start_is_an_error(tree: Tree) -> None:
    tree.state("version = 2\n")
    result = tree.command("run")
    assert result.returncode == 1
    assert "state.toml:1: version:" in result.stderr


def test_idle_means_no_wake_ups(tree: Tree) -> None:
    with tree.daemon() as daemon:
        wait_for(lambda: _is_still(daemon.pid), "two seconds without a wake-up", patience=90)


def test_killed_in_the_middle_its_intents_are_explained(tree: Tree) -> None:
    record = {
        "id": "p.1", "time": "2026-01-01T00:00:00.000000Z", "pass": "p", "record": "intent", "action": "unlink",
        "kind": "rclinks", "service": "exim4", "target": "/etc/rc2.d/S20exim4", "outcome": "", "cause": "periodic pass",
        "rule": "unapproved", "detail": "", "prev": "0" * 64,
    }  # fmt: skip
    tree.write("var/lib/dom0-reconciler/journal.jsonl", json.dumps(record, separators=(",", ":")) + "\n")
    with tree.daemon():
        pass
    outcome = next(r for r in tree.records() if r["record"] == "outcome")
    assert (outcome["id"], outcome["outcome"]) == ("p.1", "unverified")


def _status(tree: Tree) -> dict[str, object]:
    status: dict[str, object] = json.loads(tree.command("--json", "status").stdout)
    return status


def _is_still(pid: int, seconds: float = 2) -> bool:
    before = _switches(pid)
    time.sleep(seconds)
    return _switches(pid) == before


def _switches(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_a_run_folder_that_cannot_be_trusted_stops_corrections_not_the_daemon(tree: Tree) -> None:
    run = tree.path / "run/dom0-reconciler"
    with tree.daemon() as daemon:
        run.rename(run.with_name("away"))
        run.symlink_to("/nowhere")
        tree.link("rc2.d/S20exim4")
        time.sleep(0.5)
        assert daemon.poll() is None
        assert tree.names("rc2.d") == ["S20exim4"]
        run.unlink()
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "it is tried again")


def test_a_status_that_cannot_be_published_stops_nothing(tree: Tree) -> None:
    with tree.daemon() as daemon:
        status = tree.path / "run/dom0-reconciler/status.json"
        status.unlink()
        status.mkdir()
        tree.link("rc2.d/S20exim4")
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "the link is gone")
        time.sleep(0.3)
        assert daemon.poll() is None
        status.rmdir()


def test_while_no_pass_can_be_made_the_status_says_so(tree: Tree) -> None:
    """Where the quarantine's folder belongs lies a file: nothing can be kept, so nothing may be taken away."""
    kept = tree.path / "var/lib/dom0-reconciler/quarantine"
    with tree.daemon():
        tree.link("rc2.d/S20atd")
        wait_for(lambda: tree.names("rc2.d") == ["K01atd"], "the first link is gone")
        wait_for(lambda: tree.command("status").returncode == 0, "all is well")
        kept.rename(kept.with_name("q2"))
        kept.touch()
        tree.link("rc3.d/S20atd")
        wait_for(lambda: tree.command("status").returncode == 2, "status says that it is not as declared")
        said, text = _status(tree), tree.command("status").stdout
        assert (said["converged"], tree.names("rc3.d")) == (False, ["S20atd"])
        assert "quarantine" in str(said["fault"])
        assert f"fault       {said['fault']}" in text
        assert [step["target"] for step in cast(Any, said["steps"])] == ["/etc/rc3.d/S20atd"]
        kept.unlink()
        wait_for(lambda: tree.names("rc3.d") == ["K01atd"], "it is tried again")
        wait_for(lambda: tree.command("status").returncode == 0, "the fault is over")
        assert _status(tree)["fault"] is None


def test_an_ordinary_user_can_ask_but_not_hold_it_up(tree: Tree) -> None:
    """Whoever may open a lock's file may take the lock."""
    with tree.daemon():
        files = {file.name: file.stat().st_mode & 0o077 for file in (tree.path / "run/dom0-reconciler").iterdir()}
        assert files == {"daemon.lock": 0, "correcting.lock": 0, "status.json": 0o044}


def test_a_status_that_a_killed_daemon_left_is_not_believed(tree: Tree) -> None:
    with tree.daemon() as daemon:
        assert tree.command("status").returncode == 0
        daemon.kill()
        daemon.wait()
    assert (tree.path / "run/dom0-reconciler/status.json").exists()
    assert tree.command("status").returncode == 3


@pytest.mark.parametrize("command", ["run", "apply"])
def test_the_temporaries_of_a_killed_run_go(tree: Tree, command: str) -> None:
    left = tree.write("etc/.dom0-reconciler.0123456789abcdef", "half a file")
    if command == "apply":
        assert tree.command("apply").returncode == 0
    else:
        with tree.daemon():
            pass
    assert not left.exists()


def test_a_folder_of_drop_ins_is_watched_once_it_is_one(tmp_path: Path) -> None:
    """Also where what lay in it was refused, and the state in force is the one from before."""
    desired: Any = SimpleNamespace(files=(str(tmp_path / "state.toml"), str(tmp_path / "state.d")))
    declared = _Declared(Session(str(tmp_path), None))
    assert Place("state", str(tmp_path), "state.d") in declared(desired)
    assert declared(desired) is declared(desired)
    (tmp_path / "state.d").mkdir()
    assert Place("state", str(tmp_path / "state.d")) in declared(desired)

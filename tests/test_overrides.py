"""Pauses and exceptions: what they hold, that they end by themselves, and that a broken file holds nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import observer
from reconciler.moment import Moment, Span
from reconciler.overrides import Order, Overrides, parse, text_of
from reconciler.values import replace
from tests.odd_roots import call
from tests.trees import Tree, wait_for

NOON = Moment(1_000_000.0, "a-boot", 500.0)
HOUR = Span(NOON, 3600.0)

words = st.text(max_size=8)
times = st.floats(-1e9, 1e9)
spans = st.builds(Span, st.builds(Moment, times, words, times), times)
orders = st.builds(
    Order, words, words, spans, st.lists(words).map(tuple), st.lists(words).map(tuple), undo=words
)  # fmt: skip
lists = st.lists(orders, max_size=3).map(tuple)


# --- how long ---


def after(seconds: float, wall: float = 0.0, boot: str = "a-boot") -> Moment:
    return Moment(NOON.wall + seconds + wall, boot, NOON.since_boot + seconds)


def test_a_span_ends_by_itself() -> None:
    assert HOUR.left(after(600)) == 3000
    assert HOUR.left(after(3600)) == 0


@pytest.mark.parametrize("jump", [-1e6, -7200, 7200, 1e6])
def test_within_a_boot_the_wall_clock_may_be_set_as_one_likes(jump: float) -> None:
    assert HOUR.left(after(600, wall=jump)) == 3000


def test_after_a_reboot_the_wall_clock_counts() -> None:
    assert HOUR.left(Moment(NOON.wall + 600, "another", 5.0)) == 3000


def test_a_clock_from_before_the_pause_ends_it() -> None:
    assert HOUR.left(Moment(NOON.wall - 1, "another", 5.0)) == 0


@given(spans, st.builds(Moment, times, words, times))
def test_never_longer_than_it_was_asked_for(span: Span, now: Moment) -> None:
    assert 0 <= span.left(now) <= max(0.0, span.seconds)


# --- the file ---


@given(st.builds(Overrides, lists, lists, lists))
def test_the_file_gives_back_what_was_written(overrides: Overrides) -> None:
    assert parse(text_of(overrides)) == overrides


JSON = st.recursive(
    st.none() | st.floats() | st.text() | st.booleans(), lambda e: st.lists(e) | st.dictionaries(words, e)
)


@given(st.binary() | JSON.map(lambda found: json.dumps(found).encode()))
def test_anything_else_is_a_fault_and_no_crash(text: bytes) -> None:
    found = parse(text)
    assert found.fault
    assert replace(found, fault="") == Overrides()


@given(st.builds(Overrides, lists, lists, lists), st.data())
def test_a_damaged_file_never_raises(overrides: Overrides, data: st.DataObject) -> None:
    text = bytearray(text_of(overrides))
    text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    parse(bytes(text))


# --- the commands ---


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    for script in ("exim4", "portmap"):
        tree.script(script)
        tree.link(f"rc2.d/S20{script}")
    return tree


def held(tree: Tree) -> dict[str, str]:
    return {step["service"]: step["held"] or "" for step in tree.plan()["steps"]}


def test_a_pause_holds_everything_and_says_who_and_why(tree: Tree) -> None:
    result = tree.command("pause", "1h", "--reason", "moving guests")
    assert result.returncode == 0, result.stderr
    assert tree.command("apply").returncode == 2
    assert tree.names("rc2.d") == ["S20exim4", "S20portmap"]
    assert all(why.startswith("paused until ") and "moving guests" in why for why in held(tree).values())
    assert tree.records()[-1]["record"] == "pause"
    assert tree.records()[-1]["cause"].startswith("pause by ")
    assert (tree.path / "var/lib/dom0-reconciler/overrides.json").stat().st_mode & 0o777 == 0o600


def test_a_pause_that_could_not_be_written_is_recorded_as_unmade(tree: Tree) -> None:
    for name in ("overrides.json", "overrides.json.corrupt/in-the-way"):
        (tree.path / "var/lib/dom0-reconciler" / name).mkdir(parents=True)
    assert tree.command("pause", "1h", "--reason", "x").returncode == 1
    assert [record["record"] for record in tree.records()] == ["pause", "unmade"]


@pytest.mark.parametrize("ours", ["run/dom0-reconciler", "var/lib/dom0-reconciler"])
@pytest.mark.parametrize("command", [("apply",), ("pause", "1h", "--reason", "x"), ("run",)])
def test_an_error_names_the_path_below_the_root(tree: Tree, ours: str, command: tuple[str, ...]) -> None:
    tree.write(ours, "in the way")
    result = tree.command(*command)
    assert result.returncode == 1
    assert f"{tree.path}/{ours}" in result.stderr
    assert f"/{ours}" not in result.stderr.replace(f"{tree.path}/{ours}", "")


def test_resume_ends_it(tree: Tree) -> None:
    tree.command("pause", "1h", "--reason", "x")
    assert tree.command("resume").stdout == "resumed: everything\n"
    assert tree.records()[-1]["record"] == "resume"
    assert tree.command("apply").returncode == 0
    assert tree.command("resume").stdout == "nothing was paused or left alone\n"


def test_a_service_is_paused_by_any_of_its_names(tree: Tree) -> None:
    assert tree.command("pause", "1h", "rpcbind", "--reason", "x").returncode == 0
    assert tree.command("apply").returncode == 2
    assert tree.names("rc2.d") == ["K01exim4", "S20portmap"]
    assert tree.command("resume", "portmap").returncode == 0
    assert tree.command("apply").returncode == 0


@pytest.mark.parametrize(
    "order", ["1h lpd cron --reason x", "1h --reason x lpd cron", "1h lpd --reason x cron", "--reason x 1h lpd cron"]
)
def test_names_and_options_stand_in_any_order(tree: Tree, order: str) -> None:
    result = tree.command("pause", "--json", *order.split())
    assert json.loads(result.stdout)["names"] == ["lpd", "cron"], result.stderr


def test_what_pause_needs_is_named(tree: Tree) -> None:
    result = tree.command("pause")
    assert (result.returncode, result.stderr.count("\n")) == (64, 1)
    assert "required: DURATION, --reason (" in result.stderr


def test_a_part_of_everything_cannot_be_resumed(tree: Tree) -> None:
    tree.command("pause", "1h", "--reason", "x")
    result = tree.command("resume", "exim4")
    assert (result.returncode, held(tree)["exim4"][:6]) == (1, "paused")


IDENT = "ident\tstream\ttcp\tnowait\tnobody\t/usr/sbin/identd\tidentd\n"


@pytest.fixture
def undone(tree: Tree) -> Tree:
    """Both services and a file of inetd, removed and put back."""
    tree.state('version = 1\n[services]\napproved = ["ssh"]\n[inetd]\napproved = []\n')
    tree.write("etc/inetd.conf", IDENT)
    assert tree.command("apply").returncode == 0
    result = tree.command("undo", "--pass", tree.records()[-1]["pass"])
    assert result.returncode == 0, result.stderr
    assert '"dom0-reconciler resume" ends it before' in result.stdout
    return tree


def test_resume_ends_what_an_undo_left_alone(undone: Tree) -> None:
    result = undone.command("resume", "rpcbind")
    assert (result.returncode, result.stdout) == (0, "no longer left alone: portmap\n")
    assert (undone.records()[-1]["record"], undone.records()[-1]["detail"]) == ("resume", "rpcbind")
    assert (held(undone)["portmap"], held(undone)["exim4"][:10]) == ("", "left alone")
    assert undone.command("resume", "/etc/inetd.conf").stdout == "no longer left alone: /etc/inetd.conf\n"
    assert json.loads(undone.command("--json", "resume").stdout) == {"resumed": 0, "exceptions": ["exim4"]}
    assert undone.command("apply").returncode == 0


def test_resume_of_everything_ends_both(undone: Tree) -> None:
    undone.command("pause", "1h", "--reason", "x")
    both = "resumed: everything; no longer left alone: exim4, portmap, /etc/inetd.conf\n"
    assert undone.command("resume").stdout == both
    assert undone.command("resume").stdout == "nothing was paused or left alone\n"
    assert undone.command("apply").returncode == 0


def test_the_same_undo_twice_is_one_exception(undone: Tree) -> None:
    first = undone.records()[0]["pass"]
    assert undone.command("undo", "--pass", first, "--for", "2h").returncode == 0
    [exception] = json.loads((undone.path / "var/lib/dom0-reconciler/overrides.json").read_text())["exceptions"]
    assert exception["seconds"] == 7200


def test_a_pause_is_over_when_its_time_is(tree: Tree) -> None:
    tree.command("pause", "10ms", "--reason", "x")
    time.sleep(0.02)
    assert held(tree) == {"exim4": "", "portmap": ""}


def test_a_name_that_nothing_has_is_doubted(tree: Tree) -> None:
    result = tree.command("pause", "1h", "exim", "portmapp", "--reason", "x")
    assert "'portmapp', did you mean 'portmap'?" in result.stderr
    assert "'exim'" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("1h",),
        ("1h", "--reason", "x", "lpd", "--wrong"),
        ("1h", "", "--reason", "x"),
        ("soon", "--reason", "x"),
        ("0s", "--reason", "x"),
        ("1h", "a/b", "--reason", "x"),
    ],
)
def test_wrong_usage_is_one_line_and_64(tree: Tree, arguments: tuple[str, ...]) -> None:
    result = tree.command("pause", *arguments)
    assert (result.returncode, result.stderr.count("\n")) == (64, 1)


def test_orders_that_only_root_may_read_are_told_and_are_no_kind_that_was_skipped(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observer, "read_overrides", lambda *_: Overrides(hidden=True))
    said = call("--root", str(tree.path), "--json", "plan")
    assert (said.code, said.json["skipped"]) == (2, [])
    assert said.err == "dom0-reconciler: warning: pauses and exceptions are not known: reading them needs root\n"


def test_a_corrupt_file_is_told_holds_nothing_and_is_set_aside(tree: Tree) -> None:
    tree.command("pause", "1h", "--reason", "x")
    tree.write("var/lib/dom0-reconciler/overrides.json", "{")
    plan = tree.plan()
    assert [gap["ref"] for gap in plan["gaps"]] == ["overrides:overrides.json"]
    assert all(step["held"] is None for step in plan["steps"])
    result = tree.command("pause", "1h", "exim4", "--reason", "x")
    assert "overrides.json.corrupt" in result.stderr
    assert tree.plan()["gaps"] == []
    assert (tree.path / "var/lib/dom0-reconciler/overrides.json.corrupt").read_text() == "{"


# --- the daemon ---

ENFORCE = 'version = 1\nmode = "enforce"\ninterval = "1h"\n[services]\napproved = ["ssh"]\n'


def status(tree: Tree) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tree.command("--json", "status").stdout)
    return found


def test_the_daemon_obeys_at_once_and_goes_on_when_the_pause_ends(tmp_path: Path) -> None:
    tree = Tree(tmp_path, ENFORCE)
    with tree.daemon():
        tree.command("pause", "15s", "--reason", "an upgrade")
        tree.link("rc2.d/S20exim4")
        wait_for(lambda: status(tree)["held"] and status(tree)["pauses"], "it is seen and held")
        assert status(tree)["pauses"][0]["why"] == "an upgrade"
        assert tree.names("rc2.d") == ["S20exim4"]
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "the pause is over", patience=60)
        wait_for(lambda: not status(tree)["pauses"], "status no longer shows it")
    causes = [r["cause"] for r in tree.records() if r["record"] == "outcome"]
    assert causes == ["a pause or an exception ended"]


def test_the_daemon_goes_on_at_once_when_resumed(tmp_path: Path) -> None:
    tree = Tree(tmp_path, ENFORCE)
    with tree.daemon():
        tree.command("pause", "1h", "--reason", "x")
        tree.link("rc2.d/S20exim4")
        wait_for(lambda: status(tree)["held"], "it is held")
        tree.command("resume")
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "it is corrected")

"""Attacks: by whoever may name a file, a process or a socket, by a tree that somebody else made, by races.

What `docs/security.md` claims is tried here, or in the tests that it names beside each claim.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler import contested
from reconciler.commands.run import _memory as remembered
from reconciler.host.files import Root
from reconciler.host.hands import RealHands
from reconciler.host.kernel import started
from reconciler.journal import Journal
from reconciler.model import Record, Unlink, WriteFile
from reconciler.session import Session
from reconciler.text import escape
from tests.fuzz.targets.bytes import printable
from tests.odd_roots import FTP, SANE, Said, call, on, sane_tree, things
from tests.trees import CHECKOUT, Tree

HOME = "var/lib/dom0-reconciler"
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")

NASTY = (
    "new\nline: done",
    "\x1b]0;owned\x07\x1b[2J",
    "\x9b31mC1",
    "rtl\u202egpj.exe",
    "zero\u200bwidth\u2066",
    "sep\u2028arator",
    "bytes\udcff\udc9b",
    "back\\x0aslash",
    "$(touch owned);`id`|&",
    "-rf",
    "%s%n{0}",
    "\r\rover",
)
"""Names that a hostile local user or a hostile image would choose."""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = sane_tree(tmp_path)
    (made.path / "run").mkdir(exist_ok=True)
    (tmp_path / "outside").mkdir()
    return made


# --- what is shown ----------------------------------------------------------------------------------------------


def furnish(tree: Tree) -> None:
    """Every place holds every nasty name."""
    for number, name in enumerate(NASTY):
        tree.link(f"rc2.d/S{20 + number}{name}", f"../init.d/{name}")
        tree.link(f"rc3.d/S{20 + number}x{number}", f"/opt/{name}")
        script = tree.path / "etc/init.d" / name
        script.write_text(f"### BEGIN INIT INFO\n# Provides: {name.split()[0]}\n### END INIT INFO\n", errors="replace")
        (tree.path / "etc/network/interfaces.d" / name).write_bytes(b"iface " + os.fsencode(name) + b" inet dhcp\n")
        (tree.path / "etc/inetd.d" / name).write_bytes(FTP.encode())
    lines = b"".join(os.fsencode(name.replace("\n", "")) + b" stream tcp nowait root /x x\n" for name in NASTY)
    tree.write("etc/inetd.conf", lines)


def clean(said: Said) -> None:
    """Every line that a command said may go to a terminal; JSON besides is JSON, and clean once it is read."""
    for line in (said.out + said.err).split("\n"):
        assert printable(line), ascii(line)
    with contextlib.suppress(ValueError):
        for text in _texts(json.loads(said.out)):
            assert printable(text), ascii(text)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value


def commands(tree: Tree) -> Iterator[tuple[str, ...]]:
    """Everything that shows what was observed, in the order of a life."""
    yield ("plan",)
    yield from (("explain", name) for name in NASTY)
    yield ("apply",)
    yield ("log",)
    yield ("log", "--verify")
    yield from (("log", "--service", name) for name in NASTY)
    yield from (("explain", name) for name in NASTY)
    yield ("pause", "1h", *NASTY, "--reason", NASTY[0] + NASTY[1])
    yield ("approve", NASTY[0])
    yield ("check",)
    yield from (("undo", record["id"]) for record in tree.records()[:40:5])
    yield ("undo", "--pass", NASTY[1])
    yield ("plan",)


def test_no_name_reaches_the_terminal_as_it_is(tree: Tree) -> None:
    furnish(tree)
    for command in commands(tree):
        words = tuple(f"--{word}" if word.startswith("-rf") else word for word in command)
        clean(call("--root", str(tree.path), *words))
        clean(on(tree, *words)) if command[0] in ("plan", "explain", "log") else None
    assert not list(Path().glob("owned"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_encoding_of_a_terminal_ends_a_command(tree: Tree, encoding: str) -> None:
    furnish(tree)
    tree.link("rc2.d/S99\u2603")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    for command in (["plan"], ["explain", "\u2603"], ["explain", b"\xff"], ["apply"], ["log"], ["no\u2603"]):
        done = subprocess.run(
            [sys.executable, "-m", "reconciler", "--root", str(tree.path), *command],
            capture_output=True,
            cwd=CHECKOUT,
            env=environment,
            timeout=120,
            check=False,
        )
        assert done.returncode in (0, 1, 2, 64)
        assert b"Traceback" not in done.stderr
        assert printable(done.stdout.decode(encoding).replace("\n", ""))


HOSTILE = "\x1b[2J\u202e\nx"
STATUS = {
    "converged": False,
    "fault": HOSTILE,
    "mode": HOSTILE,
    "pid": 1,
    "watch": HOSTILE,
    "started": HOSTILE,
    "last_pass": {"id": HOSTILE, "time": HOSTILE},
    "corrections": 0,
    "findings": [{"rule": HOSTILE, "ref": HOSTILE, "detail": HOSTILE}],
    "steps": [],
    "held": [{"action": HOSTILE, "target": HOSTILE, "held": HOSTILE}],
    "gaps": [{"ref": HOSTILE, "why": HOSTILE}],
    "in_flight": [HOSTILE],
    "contested": [{"name": HOSTILE, "count": 6, "since": HOSTILE, "next": HOSTILE}],
    "pauses": [{"names": [HOSTILE], "paths": [HOSTILE], "who": HOSTILE, "why": HOSTILE, "until": HOSTILE}],
    "exceptions": [],
    "state_errors": [HOSTILE],
}


def test_a_status_that_an_image_brings_is_no_terminal_s_master(tree: Tree) -> None:
    """On another tree the status is whatever lies there; its writer, the first process, is easy to name."""
    Path(tree.path / "run/dom0-reconciler").mkdir()
    own = [os.getpid(), started(os.getpid())]
    (tree.path / "run/dom0-reconciler/status.json").write_text(json.dumps({**STATUS, "process": own}))
    clean(call("--root", str(tree.path), "status"))


@pytest.mark.parametrize("missing", [*STATUS, "everything"])
def test_a_status_that_lacks_something_is_one_line(tree: Tree, missing: str) -> None:
    Path(tree.path / "run/dom0-reconciler").mkdir()
    own = [os.getpid(), started(os.getpid())]
    left = {} if missing == "everything" else {key: 7 for key in STATUS if key != missing}
    (tree.path / "run/dom0-reconciler/status.json").write_text(json.dumps({**left, "process": own}))
    said = call("--root", str(tree.path), "status")
    assert said.code in (0, 1, 2, 3)
    clean(said)


def test_a_journal_that_an_image_brings_is_no_terminal_s_master(tree: Tree) -> None:
    """A chain proves order, not truth: what a record says is escaped again when it is shown."""
    fields = dict.fromkeys(("pass_id", "action", "kind", "service", "target", "cause", "rule", "detail"), HOSTILE)
    journal = Journal(Root(str(tree.path)))
    journal.write([Record("p-1", 1.7e9, record="outcome", outcome="done", **{**fields, "service": "ssh"})])
    journal.write([Record(HOSTILE, 1.7e9, record=HOSTILE, outcome=HOSTILE, **fields)])
    for command in (("log",), ("explain", "ssh"), ("explain", "p-1"), ("explain", HOSTILE), ("undo", "p-1")):
        clean(call("--root", str(tree.path), *command))


def test_a_command_that_is_shown_may_be_pasted_into_a_shell(tree: Tree, tmp_path: Path) -> None:
    """Whoever copies it runs what it says, with the name as one word, and nothing that the name would like to run."""
    furnish(tree)
    on(tree, "apply")
    said = [on(tree, "explain", name) for each in NASTY for name in dict.fromkeys((each, escape(each)))]
    shown = [line for each in said if each.code == 0 for line in each.json["back"]]
    assert any("touch" in command for command in shown)
    undone = call("--root", str(tree.path), "undo", "--pass", tree.records()[0]["pass"])
    shown += [undone.out.rpartition("to keep it for good: ")[2].strip()]
    for command in shown:
        script = f'set -- {command}; for word; do printf "%s\\n" "$word"; done'
        done = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        words = done.stdout.split("\n")[:-1]
        assert words[0] in ("dom0-reconciler", "update-rc.d")
        assert words == shlex.split(command)
        assert done.stderr == ""
    assert not (tmp_path / "owned").exists()


STRANGE = ("*", "[a-z]*", "x?", '{x="y"}', "{}", 'a"b', "a'b", "#c", "]")
"""Names that mean more in a state, or something else, than the thing that is called so."""


def test_a_draft_approves_nothing_but_what_is_there(tree: Tree) -> None:
    """A name is a word in the state that ``init`` writes, never a pattern, a table or the end of a list."""
    furnish(tree)
    for number, name in enumerate(STRANGE):
        tree.link(f"rc2.d/S{50 + number}{name}", f"../init.d/{name}")
        tree.script(name)
    shutil.rmtree(tree.path / "etc/dom0-reconciler")
    assert on(tree, "init").code == 0
    state = tomllib.loads((tree.path / "etc/dom0-reconciler/state.toml").read_text())
    assert (state["version"], state["mode"]) == (1, "observe")
    assert set(state) <= {"version", "mode", "include", "services", "inetd", "network"}
    assert set(state["services"]) == {"approved"}
    for word in state["services"]["approved"]:
        assert isinstance(word, str)
        assert not set(word) & set("*?["), word
    checked = on(tree, "check")
    assert (checked.code, checked.err) == (0, "")


# --- what is trusted --------------------------------------------------------------------------------------------


def _give_away(path: Path) -> None:
    os.lchown(path, 1000, 1000)


UNTRUSTED: dict[str, Callable[[Path], object]] = {
    "home is a user's": lambda top: _give_away(top / HOME),
    "home can be written by a group": lambda top: (top / HOME).chmod(0o770),
    "home can be written by anybody": lambda top: (top / HOME).chmod(0o1777),
    "quarantine is a user's": lambda top: _give_away(top / HOME / "quarantine"),
    "quarantine can be written by others": lambda top: (top / HOME / "quarantine").chmod(0o702),
    "journal is a user's": lambda top: _give_away(top / HOME / "journal.jsonl"),
    "journal has a second name": lambda top: os.link(top / HOME / "journal.jsonl", top / "etc/second"),
    "head has a second name": lambda top: os.link(top / "etc/victim", _free(top / HOME / "journal.head")),
}


def _free(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


@ROOT_ONLY
@pytest.mark.parametrize("name", UNTRUSTED)
def test_a_journal_and_a_quarantine_that_are_not_ours_alone_are_refused(tree: Tree, name: str) -> None:
    (tree.path / HOME / "quarantine").mkdir(parents=True)
    (tree.path / HOME).chmod(0o700)
    (tree.path / HOME / "journal.jsonl").touch()
    tree.write("etc/victim", "do not write here\n")
    UNTRUSTED[name](tree.path)
    before = things(tree.path)
    said = on(tree, "apply")
    assert (said.code, said.out) == (1, "")
    assert said.err.count("\n") == 1
    after = things(tree.path)
    assert {path: after[path] for path in before} == before
    assert (tree.path / "etc/victim").read_text() == "do not write here\n"


@ROOT_ONLY
@pytest.mark.parametrize("damage", ["a user's", "group", "world"])
def test_orders_that_somebody_else_may_have_written_count_for_nothing(tree: Tree, damage: str) -> None:
    """Whoever may write a pause switches the guard off."""
    assert on(tree, "pause", "1h", "--reason", "test").code == 0
    assert {step["held"] is None for step in on(tree, "plan").json["steps"]} == {False}
    orders = tree.path / HOME / "overrides.json"
    if damage == "a user's":
        _give_away(orders)
    else:
        orders.chmod(0o620 if damage == "group" else 0o602)
    assert {step["held"] is None for step in on(tree, "plan").json["steps"]} == {True}


@ROOT_ONLY
def test_a_memory_that_somebody_else_may_have_written_is_forgotten(tree: Tree) -> None:
    """Whoever may write that everything is contested makes every stop wait."""
    memory = tree.path / HOME / "memory.json"
    memory.parent.mkdir(parents=True)
    memory.write_bytes(contested.text_of(contested.Memory(established=frozenset(("rc:x",)))))
    said: list[str] = []

    class Voice:
        def say(self, event: str, detail: str) -> None:
            said.append(f"{event}: {detail}")

    def known() -> frozenset[str]:
        return remembered(Session(str(tree.path), None), Voice()).established  # type: ignore[arg-type]

    assert (known(), said) == (frozenset(("rc:x",)), [])
    memory.chmod(0o666)
    assert known() == frozenset()
    assert said == [
        f"fault: /{HOME}/memory.json is forgotten, it cannot be used: it may be written by others than root"
    ]


# --- where a path leads -----------------------------------------------------------------------------------------


def test_nothing_outside_the_root_is_touched_through_any_folder(tree: Tree, tmp_path: Path) -> None:
    """Each folder that is looked at, replaced by a link to a like one outside of the root."""
    outside = tmp_path / "outside"
    for folder in ("rc2.d", "init.d", "inetd.d", "network"):
        (tree.path / "etc" / folder).rename(outside / folder)
        (tree.path / "etc" / folder).symlink_to(outside / folder)
    (tree.path / "etc/inetd.conf").rename(outside / "inetd.conf")
    (tree.path / "etc/inetd.conf").symlink_to("../../outside/inetd.conf")
    before = things(outside)
    said = on(tree, "apply")
    assert said.code == 2
    assert things(outside) == before
    assert {finding["ref"] for finding in said.json["findings"]} < SANE


def test_a_second_name_of_a_file_keeps_its_content(tree: Tree) -> None:
    """A hard link to a file that is none of ours is not written through: the name gets a new file."""
    os.link(tree.path / "etc/inetd.conf", tree.path / "etc/other")
    assert on(tree, "apply").code == 0
    assert (tree.path / "etc/other").read_text() == FTP
    assert (tree.path / "etc/inetd.conf").read_text() == f"#{FTP}"
    assert stat.S_IMODE((tree.path / "etc/inetd.conf").stat().st_mode) == 0o644


@pytest.mark.parametrize("into", ["outside", "inside"])
def test_a_folder_swapped_for_a_link_between_the_look_and_the_act(tree: Tree, tmp_path: Path, into: str) -> None:
    """What the plan saw is gone: whatever lies where the link leads is not what the action expects, or out of reach."""
    observer = Session(str(tree.path), None).observer()
    observer.look()
    actions = [step.action for step in observer.plan().steps if isinstance(step.action, Unlink | WriteFile)]
    there = tmp_path / "outside" if into == "outside" else tree.path / "srv"
    there.mkdir(exist_ok=True)
    for folder in ("rc2.d", "rcS.d", "inetd.d", "network"):
        (tree.path / "etc" / folder).rename(there / folder)
        (tree.path / "etc" / folder).symlink_to(tmp_path / "outside/elsewhere")
    (tmp_path / "outside/elsewhere").mkdir()
    (tmp_path / "outside/elsewhere/S20sane").write_text("somebody's only copy")
    before = things(there)
    hands = RealHands(Root(str(tree.path)))
    for action in actions:
        with contextlib.suppress(Exception):
            hands.do(action)
    assert things(there) == before
    assert (tmp_path / "outside/elsewhere/S20sane").read_text() == "somebody's only copy"


@pytest.mark.parametrize("what", ["fifo", "socket", "folder", "device"])
def test_a_name_swapped_for_something_else_is_left_alone(tree: Tree, what: str) -> None:
    observer = Session(str(tree.path), None).observer()
    observer.look()
    (action,) = [s.action for s in observer.plan().steps if getattr(s.action, "path", "") == "/etc/rc2.d/S20sane"]
    name = tree.path / "etc/rc2.d/S20sane"
    name.unlink()
    make = {"fifo": os.mkfifo, "folder": os.mkdir, "socket": _bind, "device": _device}[what]
    make(name)
    before = name.lstat()
    with contextlib.suppress(Exception):
        RealHands(Root(str(tree.path))).do(action)
    assert name.lstat() == before


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end, contextlib.chdir(path.parent):
        end.bind(path.name)


def _device(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a device")
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices can be made here")


# --- the chain --------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(tree: Tree) -> list[bytes]:
    assert on(tree, "apply").code == 0
    return (tree.path / HOME / "journal.jsonl").read_bytes().splitlines(keepends=True)


TAMPERED: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "one digit edited": lambda lines: [*lines[:2], lines[2].replace(b'"time":"2', b'"time":"1', 1), *lines[3:]],
    "one taken out": lambda lines: [*lines[:2], *lines[3:]],
    "the first one taken out": lambda lines: lines[1:],
    "two exchanged": lambda lines: [lines[1], lines[0], *lines[2:]],
    "one doubled": lambda lines: [*lines[:3], *lines[2:]],
    "the last one taken out": lambda lines: lines[:-1],
    "the last one taken out but for its line end": lambda lines: [*lines[:-1], lines[-1][:-1]],
    "all but the first taken out": lambda lines: lines[:1],
    "emptied": lambda lines: [],
}


@pytest.mark.parametrize("name", TAMPERED)
def test_what_is_done_to_the_journal_shows(tree: Tree, lines: list[bytes], name: str) -> None:
    journal = tree.path / HOME / "journal.jsonl"
    journal.write_bytes(b"".join(TAMPERED[name](lines)))
    assert on(tree, "log", "--verify").code == 1
    tree.link("rc2.d/S20sane")
    assert on(tree, "apply").code == 0  # a correction goes on, and does not heal it
    assert on(tree, "log", "--verify").code == 1


def test_a_journal_taken_away_shows(tree: Tree, lines: list[bytes]) -> None:
    assert lines
    (tree.path / HOME / "journal.jsonl").unlink()
    assert on(tree, "log", "--verify").code == 1


def test_without_its_head_an_end_cannot_be_judged_and_that_is_said(tree: Tree, lines: list[bytes]) -> None:
    """Who takes the head away as well leaves a chain that is whole: only the system's log still knows."""
    (tree.path / HOME / "journal.jsonl").write_bytes(b"".join(lines[:-2]))
    (tree.path / HOME / "journal.head").unlink()
    said = call("--root", str(tree.path), "log", "--verify")
    assert said.code == 0
    assert "journal.head is missing: whether records are missing at the end cannot be told" in said.out

"""The command line to the letter of the design's section 5: exit codes, JSON shapes, what goes to which stream."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.host_trees import as_nobody
from tests.odd_roots import call, on, sane_tree
from tests.trees import CHECKOUT, PATIENCE, Tree, wait_for

FINDING = {"ref": str, "kind": str, "service": str, "verdict": str, "rule": str, "detail": str}
STEP = {"action": str, "target": str, "service": str, "findings": [str], "held": (str, None)}
GAP = {"kind": str, "ref": str, "why": str}
PLAN = {"converged": bool, "findings": [FINDING], "steps": [STEP], "gaps": [GAP], "skipped": [str]}
ATTEMPT = {**STEP, "id": (str, None), "outcome": str, "detail": str}
APPLY = {**PLAN, "steps": [ATTEMPT], "pass": str, "network": (dict, None)}
STOPPED = {**PLAN, "running": bool}
RECORD = {
    **dict.fromkeys(("id", "time", "pass", "record", "action", "kind", "service", "target", "outcome"), str),
    **dict.fromkeys(("cause", "rule", "detail"), str),
}
CHECKED = {"ok": bool, "errors": [str], "warnings": [str]}
VERIFIED = {"ok": bool, "records": int, "line": (int, None), "why": str}


def fits(value: object, shape: Any, where: str = "$") -> None:
    """Exactly these keys and types, all the way down."""
    if isinstance(shape, Mapping):
        assert isinstance(value, dict), where
        assert set(value) == set(shape), where
        for key, inner in shape.items():
            fits(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        for number, item in enumerate(value):
            fits(item, shape[0], f"{where}[{number}]")
    elif isinstance(shape, tuple):
        assert value is None or type(value) is shape[0], where
    else:
        assert type(value) is shape, where


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Something of every kind to correct, something held, and a gap."""
    tree = sane_tree(tmp_path)
    tree.link("rc2.d/S20xen")
    os.mkfifo(tree.path / "etc/rc2.d/S20fifo")
    return tree


@pytest.fixture
def fine(tmp_path: Path) -> Tree:
    """A tree that is as declared."""
    return Tree(tmp_path / "fine")


# --- shapes and exit codes --------------------------------------------------------------------------------------


def test_plan(tree: Tree, fine: Tree) -> None:
    planned = on(tree, "plan")
    fits(planned.json, PLAN)
    assert {finding["verdict"] for finding in planned.json["findings"]} == {"unapproved", "drifted"}
    assert [step["held"] for step in planned.json["steps"] if step["held"]]
    assert (planned.code, planned.err) == (2, "")
    assert (on(fine, "plan").code, on(fine, "plan").json["converged"]) == (0, True)
    fits(on(fine, "plan").json, PLAN)


def test_apply(tree: Tree, fine: Tree) -> None:
    applied = on(tree, "apply")
    fits(applied.json, APPLY)
    assert {step["outcome"] for step in applied.json["steps"]} == {"done", "held"}
    assert all(step["id"].startswith(f"{applied.json['pass']}.") for step in applied.json["steps"] if step["id"])
    assert (applied.code, applied.err) == (2, "")
    fits(on(fine, "apply").json, APPLY)
    assert on(fine, "apply").code == 0


def test_check(tree: Tree, tmp_path: Path) -> None:
    checked = on(tree, "check")
    fits(checked.json, CHECKED)
    assert (checked.code, checked.err, checked.json["errors"]) == (0, "", [])
    bad = tmp_path / "bad.toml"
    bad.write_text('version = 2\nmode = "enforced"\n')
    checked = on(tree, "check", str(bad))
    fits(checked.json, CHECKED)
    assert checked.code == 1
    assert checked.json["errors"] == [line.removeprefix("dom0-reconciler: ") for line in checked.err.splitlines()]
    assert [line.partition(": ")[0] for line in checked.json["errors"]] == [f"{bad}:1", f"{bad}:2"]


def test_status(tree: Tree) -> None:
    status = on(tree, "status")
    fits(status.json, STOPPED)
    assert (status.code, status.err, status.json["running"]) == (3, "", False)


@pytest.mark.parametrize(("name", "code"), [("tree", 2), ("fine", 0)])
def test_status_of_a_daemon(name: str, code: int, request: pytest.FixtureRequest) -> None:
    tree: Tree = request.getfixturevalue(name)
    with tree.daemon():
        wait_for(lambda: on(tree, "status").code == code, "the first pass is over")
        status = on(tree, "status")
        text = call("--root", str(tree.path), "status")
    assert {*PLAN, "running", "mode", "fault", "last_pass", "contested", "held", "pauses", "watch"} <= set(status.json)
    fits({key: status.json[key] for key in PLAN}, PLAN)
    assert (status.json["running"], status.json["mode"]) == (True, "observe")
    assert ("not converged" in text.out) == (code == 2)


def test_log(tree: Tree) -> None:
    assert (on(tree, "log").code, on(tree, "log").out) == (0, "")
    on(tree, "apply")
    lines = on(tree, "log").out.splitlines()
    for line in lines:
        fits(json.loads(line), RECORD)
    assert [json.loads(line)["record"] for line in lines][:1] == ["intent"]
    assert {json.loads(line)["record"] for line in lines} == {"intent", "outcome"}
    text = call("--root", str(tree.path), "log").out
    assert len(text.splitlines()) == len(lines) / 2, "for people an action is one line"


def test_log_since_and_service(tree: Tree) -> None:
    on(tree, "apply")
    every = on(tree, "log").out
    assert on(tree, "log", "--since", "1h").out == every
    assert on(tree, "log", "--since", "2000-01-01").out == every
    assert on(tree, "log", "--since", "2999-01-01 12:00").out == ""
    assert on(tree, "log", "--service", "no-such").out == ""
    sane = [json.loads(line) for line in on(tree, "log", "--service", "sane").out.splitlines()]
    assert {record["target"] for record in sane} == {"/etc/rc2.d/S20sane", "/etc/rcS.d/S43sane"}
    wrong = on(tree, "log", "--since", "yesterday")
    assert (wrong.code, wrong.out, wrong.err.count("\n")) == (64, "", 1)


def test_log_verify(tree: Tree) -> None:
    assert on(tree, "log", "--verify").code == 0
    on(tree, "apply")
    fits(on(tree, "log", "--verify").json, VERIFIED)
    journal = tree.path / "var/lib/dom0-reconciler/journal.jsonl"
    whole = journal.read_text()
    journal.write_text(whole.replace('"outcome":"done"', '"outcome":"held"', 1))
    tampered = on(tree, "log", "--verify")
    fits(tampered.json, VERIFIED)
    assert (tampered.code, tampered.json["ok"]) == (1, False)
    text = call("--root", str(tree.path), "log", "--verify")
    assert (text.code, text.err) == (1, "")
    assert "broken at line" in text.out
    journal.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert on(tree, "log", "--verify").code == 1, "a cut end shows too"


@pytest.mark.parametrize("options", [("--json",), ()])
def test_log_follow(options: tuple[str, ...], tree: Tree) -> None:
    argv = [sys.executable, "-m", "reconciler", "--root", str(tree.path), *options, "log", "--follow", "--since", "1h"]
    with subprocess.Popen(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        try:
            time.sleep(0.3)
            on(tree, "apply")
            assert process.stdout is not None
            line = process.stdout.readline()
        finally:
            process.terminate()
    assert "unlink" in line


def test_a_journal_that_somebody_wrote_is_shown_safely(tree: Tree) -> None:
    record = dict.fromkeys((*RECORD, "prev"), "\x1b[2J\ud800") | {"time": "2026-01-01T00:00:00.000000Z"}
    tree.write("var/lib/dom0-reconciler/journal.jsonl", json.dumps(record | {"record": "outcome"}) + "\n")
    said = call("--root", str(tree.path), "log")
    assert said.code == 0
    assert "\x1b" not in said.out
    result = tree.command("log")
    assert (result.returncode, result.stderr) == (0, "")


# --- usage and errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("frobnicate",),
        ("plan", "extra"),
        ("plan", "--frobnicate"),
        ("plan", "a\nb\x1b[2J"),
        ("--root",),
        ("--root", "/no/such/folder", "plan"),
        ("--root", "/no\nsuch", "plan"),
        ("--root", "/dev/null", "plan"),
        ("log", "--since", "half past"),
        ("--colour", "plan"),
    ],
)
def test_usage_errors_are_one_line_and_64(argv: tuple[str, ...]) -> None:
    said = call(*argv)
    assert (said.code, said.out) == (64, "")
    assert said.err.startswith("dom0-reconciler: ")
    assert (said.err.count("\n"), said.err[-1]) == (1, "\n")
    assert "\x1b" not in said.err


@pytest.mark.parametrize("command", ["plan", "apply", "run", "check"])
def test_a_missing_state_says_what_to_do(command: str, tmp_path: Path) -> None:
    said = call("--root", str(tmp_path), command)
    path = tmp_path / "etc/dom0-reconciler/state.toml"
    hint = 'write one ("dom0-reconciler init" does it from the host as it is), or name another with --state'
    assert (said.code, said.err) == (1, f"dom0-reconciler: {path}: no such file: {hint}\n")
    other = call("--root", str(tmp_path), "--state", str(tmp_path / "gone"), "plan")
    assert other.err == f"dom0-reconciler: {tmp_path}/gone: no such file\n"


def test_errors_do_not_depend_on_json(tree: Tree) -> None:
    tree.state("version = 2\n")
    for options in ((), ("--json",)):
        said = call("--root", str(tree.path), *options, "plan")
        assert (said.code, said.out) == (1, "")
        assert "state.toml:1: version:" in said.err


def test_warnings_go_to_stderr(tree: Tree) -> None:
    tree.state('version = 1\n[services]\napproved = ["ssh", "ssh", "!cron"]\n')
    said = on(tree, "plan")
    assert said.err.startswith("dom0-reconciler: warning: ")
    fits(said.json, PLAN)


def test_json_before_and_after_the_command(tree: Tree) -> None:
    root = ("--root", str(tree.path))
    assert call(*root, "--json", "plan").out == call(*root, "plan", "--json").out
    assert call(*root, "plan").out != call(*root, "plan", "--json").out


@pytest.mark.parametrize("command", ["plan", "apply", "status", "log", "check", "run", "undo"])
def test_help_tells_the_exit_codes(command: str, tree: Tree) -> None:
    for argv in (("--help",), (command, "--help")):
        said = tree.command(*argv)
        assert (said.returncode, said.stderr) == (0, "")
        assert "exit codes: 0" in said.stdout
        assert "64 usage error" in " ".join(said.stdout.split())


# --- streams ----------------------------------------------------------------------------------------------------


@contextmanager
def a_terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    try:
        yield ours, theirs
    finally:
        os.close(ours)


def _on_a_terminal(tree: Tree, **variables: str) -> bytes:
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | variables
    with a_terminal() as (ours, theirs):
        argv = [sys.executable, "-m", "reconciler", "--root", str(tree.path), "plan"]
        with subprocess.Popen(argv, stdout=theirs, stderr=theirs, cwd=CHECKOUT, env=environment):
            os.close(theirs)
            text = b""
            while part := _read(ours):
                text += part
    return text


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # the other side is closed
        return b""


def test_colour_only_on_a_terminal(tree: Tree) -> None:
    assert b"\x1b[" in _on_a_terminal(tree)
    assert b"\x1b[" not in _on_a_terminal(tree, NO_COLOR="1")
    assert b"\x1b[" in _on_a_terminal(tree, NO_COLOR="")  # no-color.org: "when present and not an empty string"
    assert "\x1b[" not in tree.command("plan").stdout


def test_an_observed_name_cannot_act_on_a_terminal(tree: Tree) -> None:
    tree.link("rc2.d/S20\x1b]0;mine\x07", "../init.d/\x9b2J")
    text = _on_a_terminal(tree, NO_COLOR="1")
    assert b"\x1b" not in text
    assert "\x9b".encode() not in text
    assert b"S20\\x1b]0;mine\\x07" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_name_that_the_encoding_lacks(encoding: str, fine: Tree) -> None:
    fine.link("rc2.d/S20\u65e5\u672c")
    argv = [sys.executable, "-m", "reconciler", "--root", str(fine.path), "plan"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    result = subprocess.run(argv, capture_output=True, cwd=CHECKOUT, env=environment, check=False)
    assert (result.returncode, result.stderr) == (2, b"")
    assert b"S20" in result.stdout


def shell(command: str, tree: Tree) -> subprocess.CompletedProcess[str]:
    """What bash says of a command; the exit code is that of the first command of a pipe that fails."""
    plan = f'"{sys.executable}" -m reconciler --root "{tree.path}"'
    argv = ["bash", "-c", f"set -o pipefail; {command.replace('RECONCILER', plan)}"]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("options", ["", "--json"])
def test_a_reader_that_has_seen_enough_is_no_error_to_talk_about(options: str, tree: Tree) -> None:
    for number in range(1000):  # longer than a pipe holds
        tree.link(f"rc3.d/S20service{number}")
    result = shell(f"RECONCILER {options} plan | head -n 1", tree)
    assert (result.stderr, len(result.stdout.splitlines())) == ("", 1)
    assert result.returncode == 141  # neither 0, converged, nor 2: who cuts the answer off gets none


def test_a_reader_that_is_gone_before(fine: Tree) -> None:
    """The output fits the buffer: only the last flush can tell."""
    result = shell("{ sleep 0.5; RECONCILER plan; } | true", fine)
    assert (result.returncode, result.stderr) == (141, "")


def test_output_that_cannot_be_written_is_one_line(fine: Tree) -> None:
    result = shell("RECONCILER plan >/dev/full", fine)
    assert (result.returncode, result.stderr) == (1, "dom0-reconciler: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str, tree: Tree) -> None:
    result = shell(f"RECONCILER plan {closed}", tree)
    assert (result.returncode, result.stderr) == (2, "")


# --- what a command costs, and who may call it ------------------------------------------------------------------

HEAVY = ("structlog", "pyinotify", "watchdog", "systemd", "hypothesis", "subprocess", "asyncio")


@pytest.mark.parametrize("command", ["plan", "apply", "check", "status", "log"])
def test_one_shot_commands_import_no_library(command: str, tree: Tree) -> None:
    code = (
        "import io, sys\nfrom reconciler.cli import main\nout, sys.stdout = sys.stdout, io.StringIO()\n"
        f"main(['--root', {str(tree.path)!r}, {command!r}])\nsys.stdout = out\n"
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    argv = [sys.executable, "-c", code]
    result = subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT, timeout=PATIENCE, check=True)
    assert result.stdout == "[]\n"


def test_what_needs_root_is_skipped_and_said_once(tmp_path: Path) -> None:
    """The running system, looked at by an ordinary user: nothing is read that would need more."""
    state = Path("/tmp") / f"dom0-reconciler-test-{os.getpid()}.toml"
    state.write_text('version = 1\n[listeners]\napproved = ["tcp/22"]\n[processes]\napproved = ["sshd"]\n')
    state.chmod(0o644)

    def look() -> None:
        said = call("--state", str(state), "--json", "plan")
        fits(said.json, PLAN)
        assert (said.json["skipped"], said.err) == (["listeners", "processes"], "")
        text = call("--state", str(state), "plan").out
        assert [line.split()[0] for line in text.splitlines()].count("skipped") == 2
        applied = call("--state", str(state), "apply")
        assert applied.code == 1
        assert "needs root" in applied.err

    try:
        as_nobody(look)
    finally:
        state.unlink()

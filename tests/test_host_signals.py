"""Signals to real processes: the one that was seen gets it, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import ActionFailed, Stale
from reconciler.host.files import Root
from reconciler.host.kernel import ProcessTable, started
from reconciler.host.services import send
from reconciler.model import Outcome, Signal
from tests.trees import wait_for


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "987"]) as process:
        wait_for(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", "it to run")
        yield process
        process.kill()


@pytest.fixture
def table() -> Iterator[ProcessTable]:
    root = Root("/")
    yield ProcessTable(root)
    root.close()


def test_a_signal_reaches_the_process_that_was_seen(sleeper: subprocess.Popen[bytes], table: ProcessTable) -> None:
    seen = (sleeper.pid, started(sleeper.pid))
    outcome = send(Signal("x", "TERM", pids=(seen, (sleeper.pid, 1), (2**22 + 1, 1))), table)
    assert outcome == Outcome("done", f"SIGTERM to {sleeper.pid}")
    assert sleeper.wait(5) == -signal.SIGTERM
    with pytest.raises(Stale, match="runs any more"):
        send(Signal("x", "TERM", pids=(seen,)), table)


def test_a_pid_that_is_another_process_now_gets_nothing(sleeper: subprocess.Popen[bytes], table: ProcessTable) -> None:
    with pytest.raises(Stale, match="no process of x that was seen runs any more"):
        send(Signal("x", "KILL", pids=((sleeper.pid, started(sleeper.pid) - 1),)), table)
    assert sleeper.poll() is None


def test_a_signal_by_executable(tmp_path: Path, table: ProcessTable) -> None:
    program = tmp_path / "sleeper"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    action = Signal("x", "SIGHUP", str(program))
    assert send(action, table) == Outcome("done", "not running")
    running = [subprocess.Popen([program, "987"]) for _ in range(2)]
    wait_for(lambda: sum(p.executable == str(program) for p in table.look()) == 2, "both to run")
    program.unlink()  # as an upgrade does: the kernel then adds a mark to the name
    outcome = send(action, table)
    assert outcome.word == "done"
    assert outcome.detail == "SIGHUP to " + ", ".join(str(p.pid) for p in sorted(running, key=lambda p: p.pid))
    assert [p.wait(5) for p in running] == [-signal.SIGHUP] * 2


@pytest.mark.parametrize("whose", ["a group", "our group", "init", "our own"])
def test_some_are_never_signalled(table: ProcessTable, whose: str) -> None:
    pid = {"a group": -1, "our group": 0, "init": 1, "our own": os.getpid()}[whose]
    with pytest.raises(ActionFailed, match="neither the first process nor the reconciler"):
        send(Signal("x", "TERM", pids=((pid, 1),)), table)


@pytest.mark.parametrize(
    ("action", "why"),
    [
        (Signal("x", "NOPE", "/bin/x"), "NOPE is no signal"),
        (Signal("x", "HUP"), "a signal without a process"),
    ],
)
def test_signals_that_mean_nothing(table: ProcessTable, action: Signal, why: str) -> None:
    with pytest.raises(ActionFailed, match=why):
        send(action, table)

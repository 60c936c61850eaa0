"""What ``status`` says while no daemon runs: under sysvinit a keeper brings it back, where one is there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.host import keeper
from reconciler.host.kernel import arguments
from tests.odd_roots import call, on, sane_tree
from tests.trees import CHECKOUT, Tree, wait_for

LONG = "import time; time.sleep(300)"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return sane_tree(tmp_path)


@pytest.fixture
def kept() -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs the keeper, as far as its arguments tell."""
    with subprocess.Popen([sys.executable, "-c", LONG, keeper.PROGRAM]) as process:
        try:
            wait_for(lambda: keeper.PROGRAM in arguments(process.pid), "its arguments: execve(2) sets them last")
            yield process
        finally:
            process.kill()


def said(tree: Tree, number: str | None = None) -> str:
    if number is not None:
        path = tree.path / keeper.PIDFILE.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(number)
    status = call("--root", str(tree.path), "status")
    assert (status.code, status.err, len(status.out.splitlines())) == (3, "", 1)
    return status.out


def test_its_keeper_brings_it_back(tree: Tree, kept: subprocess.Popen[bytes]) -> None:
    before = on(tree, "status")
    assert "keeper brings it back" in said(tree, f"{kept.pid}\n")
    assert "init system" not in said(tree)
    after = on(tree, "status")
    assert (after.code, after.json) == (before.code, before.json)


def test_a_keeper_that_ended_brings_nothing_back(tree: Tree, kept: subprocess.Popen[bytes]) -> None:
    assert "keeper" in said(tree, f"{kept.pid}\n")
    kept.kill()
    wait_for(lambda: not arguments(kept.pid), "a zombie: nobody has asked for its end yet")
    assert "init system" in said(tree)
    kept.wait()
    assert "init system" in said(tree)


@pytest.mark.parametrize("number", ["", "0", "-1", "1", "self", "../self", "9" * 5000, "²", "ours"])
def test_what_names_no_keeper(tree: Tree, number: str) -> None:
    assert "init system" in said(tree, number.replace("ours", str(os.getpid())))


def test_without_its_file(tree: Tree, kept: subprocess.Popen[bytes]) -> None:
    """As under systemd, where nobody writes one."""
    assert "init system" in said(tree)
    (tree.path / "run").mkdir(exist_ok=True)
    os.mkfifo(tree.path / keeper.PIDFILE.lstrip("/"))
    assert "init system" in said(tree)


def test_the_init_script_names_the_same() -> None:
    script = (CHECKOUT / "packaging/debian/dom0-reconciler.init").read_text()
    assert f"\nKEEPER_PROGRAM={keeper.PROGRAM} " in script
    assert f"\nKEEPER_PIDFILE={keeper.PIDFILE}\n" in script

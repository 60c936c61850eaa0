"""The command as a shell calls it: what becomes of its output, and its exit code then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import CHECKOUT, Tree

PLAN = f"{sys.executable} -m reconciler --root '{{}}' plan"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree whose plan is longer than a pipe holds."""
    tree = Tree(tmp_path)
    for number in range(1000):
        tree.link(f"rc2.d/S20service-{number:04}")
    return tree


def shell(command: str) -> subprocess.CompletedProcess[str]:
    """What bash says of it; the exit code is that of the first command of a pipe that fails."""
    argv = ["bash", "-c", f"set -o pipefail; {command}"]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)


def test_a_reader_that_has_seen_enough_is_no_error_to_talk_about(tree: Tree) -> None:
    result = shell(f"{PLAN.format(tree.path)} | head -n 1")
    assert result.returncode == 141  # neither 0, converged, nor 2: who cuts the answer off gets none
    assert result.stderr == ""


def test_output_that_cannot_be_written_is_one_line(tree: Tree) -> None:
    result = shell(f"{PLAN.format(tree.path)} >/dev/full")
    assert result.returncode == 1
    assert result.stderr == "dom0-reconciler: No space left on device\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(tree: Tree, closed: str) -> None:
    result = shell(f"{PLAN.format(tree.path)} {closed}")
    assert result.returncode == 2
    assert result.stderr == ""

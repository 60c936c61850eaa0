"""Cases that read like documentation: a small root, a state, and the exact plan and changes they lead to.

``cases/NAME/`` holds ``state.toml`` (its first lines say what the case shows) with the files it names, ``root/``,
the exact ``plan --json`` in ``plan.json``, and in ``changes.txt`` what ``apply`` does to the tree, line by line. Each
case is a tree that is not the running system: nothing is stopped there, and what runs is not judged.

After a change that is meant to show, ``python3 -m tests.test_cases NAME ...`` writes both files anew. Read them:
what they say is what the product promises.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.cli import main
from reconciler.model import Plan
from reconciler.session import Session
from reconciler.shapes import plan_shape

CASES = Path(__file__).parent / "cases"
NAMES = sorted(case.name for case in CASES.iterdir() if case.is_dir())
OURS = ("var/lib/dom0-reconciler", "run/dom0-reconciler")
THROUGH_THE_COMMAND = ("sarge-as-installed", "inetd-lines", "systemd-wants")


@pytest.mark.parametrize("name", NAMES)
def test_plan_is_exactly_this(name: str, tmp_path: Path) -> None:
    case = _copied(name, tmp_path)
    assert plan_shape(_plan(case)) == json.loads((case / "plan.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_plan_is_the_same_in_either_mode(name: str, tmp_path: Path) -> None:
    case = _copied(name, tmp_path)
    state = case / "state.toml"
    text = state.read_text()
    assert 'mode = "' not in text, "a case says what is declared; the mode is the administrator's"
    shapes = []
    for mode in ("observe", "enforce"):
        state.write_text(text.replace("version = 1\n", f'version = 1\nmode = "{mode}"\n'))
        shapes.append(plan_shape(_plan(case)))
    assert shapes[0] == shapes[1] == json.loads((case / "plan.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_apply_changes_exactly_this(name: str, tmp_path: Path) -> None:
    case = _copied(name, tmp_path)
    before, plan = tree_text(case / "root"), _plan(case)
    with contextlib.redirect_stdout(io.StringIO()):
        code = main([*_options(case), "apply"])
    assert _changes(before, tree_text(case / "root")) == (case / "changes.txt").read_text()
    left = _plan(case)
    assert [step for step in left.steps if not step.held] == [], "what is not held is done at once"
    assert left.steps == tuple(step for step in plan.steps if step.held), "what is held stays held, for the same reason"
    assert left.gaps == plan.gaps
    assert code == (0 if left.converged else 2)


@pytest.mark.parametrize("name", THROUGH_THE_COMMAND)
def test_command_says_the_same(name: str, tmp_path: Path) -> None:
    case = _copied(name, tmp_path)
    argv = [sys.executable, "-m", "reconciler", *_options(case), "plan", "--json"]
    result = subprocess.run(argv, capture_output=True, text=True, cwd=CASES.parents[1], timeout=60, check=False)
    expected: dict[str, Any] = json.loads((case / "plan.json").read_text())
    assert (json.loads(result.stdout), result.stderr) == (expected, "")
    assert result.returncode == (0 if expected["converged"] else 2)


@pytest.mark.parametrize("name", NAMES)
def test_case_says_what_it_shows(name: str) -> None:
    assert (CASES / name / "state.toml").read_text().startswith("# ")


# --- how a case is run ------------------------------------------------------------------------------------------


def _copied(name: str, to: Path) -> Path:
    """The case as a tree that only its owner may write: a checkout's own modes do not matter."""
    case = to / name
    shutil.copytree(CASES / name, case, symlinks=True)
    for path in (case, *case.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    (case / "root").mkdir(exist_ok=True)  # git keeps no empty folder
    return case


def _options(case: Path) -> list[str]:
    return ["--root", str(case / "root"), "--state", str(case / "state.toml")]


def _plan(case: Path) -> Plan:
    observer = Session(str(case / "root"), str(case / "state.toml")).observer()
    observer.look()
    return observer.plan()


def tree_text(root: Path) -> list[str]:
    """A tree as sorted lines: ``PATH -> TARGET`` for a link, ``PATH: LINE`` for each line of a file."""
    return sorted(line for path in sorted(root.rglob("*")) for line in _lines(path, str(path.relative_to(root))))


def _lines(path: Path, name: str) -> Iterator[str]:
    if name.startswith(OURS):
        return
    if path.is_symlink():
        yield f"{name} -> {os.readlink(path)}"
    elif path.is_file():
        lines = path.read_text().splitlines()
        yield from (f"{name}: {line}" for line in lines or ["(empty)"])


def _changes(before: list[str], after: list[str]) -> str:
    gone = [f"- {line}\n" for line in before if line not in after]
    come = [f"+ {line}\n" for line in after if line not in before]
    return "".join(gone + come)


def update(name: str) -> None:
    """Write what the product does now into the case; whoever calls this reads it."""
    with tempfile.TemporaryDirectory() as folder:
        case = _copied(name, Path(folder))
        before, plan = tree_text(case / "root"), plan_shape(_plan(case))
        with contextlib.redirect_stdout(io.StringIO()):
            main([*_options(case), "apply"])
        (CASES / name / "plan.json").write_text(json.dumps(plan, indent=2) + "\n")
        (CASES / name / "changes.txt").write_text(_changes(before, tree_text(case / "root")))


if __name__ == "__main__":
    for each in sys.argv[1:] or NAMES:
        update(each)

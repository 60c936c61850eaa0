"""A daemon that runs for years imports nothing late: by then an upgrade may have taken it away, or changed it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.trees import CHECKOUT

PACKAGE = CHECKOUT / "reconciler"
OF_COMMANDS = ("commands/", "cli.py")
"""What only one-shot commands run, `run` apart, whose own imports come before the first pass."""

BY_ITSELF = {"structlog", "systemd", "systemd.daemon", "reconciler.watch.inotify"}
"""The log adopts them before the first idle; the way to notify, and to watch, is found before the first pass."""


def _is_module(name: str) -> bool:
    return CHECKOUT.joinpath(*name.split(".")).with_suffix(".py").exists()


def _late(path: Path) -> Iterator[str]:
    """The modules that are imported inside functions."""
    functions = [one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.FunctionDef)]
    for node in (node for function in functions for node in ast.walk(function)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in below if _is_module(name)] or [node.module]


def test_what_is_imported_inside_functions_is_there_before_the_first_idle() -> None:
    files = [one for one in PACKAGE.rglob("*.py") if not str(one.relative_to(PACKAGE)).startswith(OF_COMMANDS)]
    late = {module for file in files for module in _late(file)} - BY_ITSELF
    assert {"difflib", "reconciler.lockout"} <= late
    code = "import sys; from reconciler.commands import run; run.load_the_rest(); print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True, capture_output=True, text=True)
    assert late - set(loaded.stdout.split()) == set()

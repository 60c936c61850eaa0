"""Small Debian-like trees to hold, and the product run on them as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[1]
PATIENCE = 15.0
"""Seconds until a wait fails; a loaded machine is no failure."""


class Tree:
    """A root of its own with Debian's runlevel folders, and the command to try on it."""

    def __init__(self, path: Path, state: str = 'version = 1\n[services]\napproved = ["ssh"]\n') -> None:
        self.path = path
        for level in "0123456S":
            (path / f"etc/rc{level}.d").mkdir(parents=True)
        (path / "etc/init.d").mkdir()
        self.write("etc/insserv.conf", "")
        self.state(state)

    def state(self, text: str) -> None:
        """Replace the state file, as an editor does."""
        self.write("etc/dom0-reconciler/state.toml", text)

    def write(self, name: str, content: str | bytes) -> Path:
        """Replace a file by renaming a new one into place."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.new")
        new.write_bytes(content if isinstance(content, bytes) else content.encode())
        return new.rename(file)

    def script(self, name: str, needs: str = "", body: str = "") -> Path:
        """An init script with an LSB header."""
        header = f"### BEGIN INIT INFO\n# Provides: {name}\n# Required-Start: {needs}\n### END INIT INFO\n"
        file = self.write(f"etc/init.d/{name}", f"#!/bin/sh\n{header}{body}")
        file.chmod(0o755)
        return file

    def link(self, name: str, target: str = "") -> Path:
        """A start link, ``rc2.d/S20exim4``."""
        link = self.path / "etc" / name
        link.symlink_to(target or f"../init.d/{link.name[3:]}")
        return link

    def names(self, folder: str) -> list[str]:
        """What a folder of /etc holds, sorted."""
        return sorted(os.listdir(self.path / "etc" / folder))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            self._argv(arguments), capture_output=True, text=True, cwd=CHECKOUT, timeout=60, check=False
        )

    def plan(self) -> dict[str, Any]:
        """The plan as JSON."""
        result = self.command("--json", "plan")
        assert result.returncode in (0, 2), result.stderr
        plan: dict[str, Any] = json.loads(result.stdout)
        assert plan["converged"] == (result.returncode == 0)
        return plan

    def records(self) -> list[dict[str, Any]]:
        """The journal, line by line."""
        file = self.path / "var/lib/dom0-reconciler/journal.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _argv(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "reconciler", "--root", str(self.path), *arguments]

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[str]]:
        """The daemon, up when the block begins, and gone when it ends."""
        argv = self._argv(("run",))
        process = subprocess.Popen(argv, cwd=CHECKOUT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        try:
            wait_for(lambda: self.command("status").returncode != 3 or process.poll() is not None, "the daemon is up")
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=PATIENCE)


def wait_for(condition: Callable[[], object], why: str, patience: float = PATIENCE) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience:g} s for: {why}"
        time.sleep(0.02)

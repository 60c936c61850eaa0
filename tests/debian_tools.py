"""Debian's own tools, for tests that compare with them: the installed one, else the one of a package in the harness's
pool, unpacked in its cache and never installed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts import roots


@dataclass(frozen=True)
class Tool:
    """A program, and the environment it needs where it is not installed."""

    path: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str, **environment: str) -> str:
        """Run it without input; what it prints. A failure raises."""
        env = {**os.environ, **self.environment, **environment}
        run = subprocess.run(
            [self.path, *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
        return run.stdout.decode("utf-8", "surrogateescape")


@functools.cache
def find(name: str, package: str) -> Tool | None:
    """The tool of that name, or ``None`` where it is neither installed nor in the pool of Debian 12."""
    if installed := shutil.which(name):
        return Tool(installed)
    debs = sorted((roots.cache() / "debs/bookworm").glob(f"{package}_*.deb"))
    return _unpacked(name, debs[-1]) if debs else None


def _unpacked(name: str, deb: Path) -> Tool | None:
    folder = roots.cache() / "tools" / deb.stem
    if not folder.exists():
        new = folder.with_name(f".{folder.name}.{os.getpid()}")
        new.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", deb, new], check=True)
        with contextlib.suppress(OSError):  # another worker was first
            new.rename(folder)
    programs = (path for path in folder.rglob(name) if path.is_file() and os.access(path, os.X_OK))
    found = next(programs, None)
    return Tool(str(found), {"PERL5LIB": str(folder / "usr/share/perl5")}) if found else None

"""Builds the hosts' roots, once, and keeps them where every later run finds them.

A cached root is never written: hosts see it through an overlay. It appears under its final name only when it
is whole, so a build that was cut short leaves nothing that could be mistaken for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import apt
from tests.hosts.bare import all_bare_recipes
from tests.hosts.recipes import Init, Recipe, Suite, all_dom0_recipes, all_recipes, recipe

Progress = Callable[[str], None]


class RootError(RuntimeError):
    """A root could not be built; what mmdebstrap said last ends the message."""


@dataclass(frozen=True)
class Root:
    """A finished root on disk, and the pool of the packages it was made from."""

    recipe: Recipe
    path: Path
    debs: Path

    def deb(self, package: str) -> str:
        """The pool's file name of a package: the version installed here, else the newest there is."""
        version = self.installed().get(package, "").replace(":", "%3a")
        found = sorted(self.debs.glob(f"{package}_{version}*.deb"), key=lambda deb: deb.stat().st_mtime)
        if not found:
            raise RootError(f"{package}: no .deb in {self.debs}; name it in tests/hosts/recipes.py")
        return found[-1].name

    def installed(self) -> dict[str, str]:
        """The packages, with their versions."""
        stanzas = (self.path / "var/lib/dpkg/status").read_text().split("\n\n")
        fields = (dict(line.split(": ", 1) for line in s.splitlines() if ": " in line[:40]) for s in stanzas)
        return {f["Package"]: f.get("Version", "") for f in fields if "Package" in f}


def cache() -> Path:
    """Roots and packages outlive a checkout; the variable moves them, to a CI cache for one."""
    if chosen := os.environ.get("DOM0_RECONCILER_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dom0-reconciler"


def find(suite: Suite, init: Init) -> Root | None:
    """The cached root, or None while it has not been built."""
    root = expected(recipe(suite, init))
    return root if root.path.is_dir() else None


def build(suite: Suite, init: Init, progress: Progress = lambda _line: None) -> Root:
    """The root of one of the four hosts, from the cache or built now."""
    return build_from(recipe(suite, init), progress)


def build_from(of: Recipe, progress: Progress = lambda _line: None) -> Root:
    """The root of any recipe. Whoever comes second waits for the first and shares its root."""
    root = expected(of)
    if not root.path.is_dir():
        root.path.parent.mkdir(parents=True, exist_ok=True)
        root.debs.mkdir(parents=True, exist_ok=True)
        with locked(root.path.with_suffix(".lock")):
            if not root.path.is_dir():
                _build(root, progress)
    os.utime(root.path.with_suffix(".lock"))
    return root


def can_build() -> str | None:
    """Why no root can be built here, or None."""
    if os.geteuid() != 0:
        return "building a root needs root"
    if not shutil.which("mmdebstrap"):
        return "mmdebstrap is not installed"
    return None if apt.debian_source() else apt.NO_MIRROR


def prune() -> Iterator[str]:
    """Removes the roots of other recipes that no checkout has used for a day, so that no host loses one."""
    recipes = (*all_recipes(), *all_dom0_recipes(), *all_bare_recipes())
    return prune_folder(cache() / "roots", {f"{one.name}-{one.digest}" for one in recipes})


def prune_folder(folder: Path, current: set[str]) -> Iterator[str]:
    """Each kept thing is a folder with a lock beside it, whose age tells when it was last used."""
    yesterday = time.time() - 24 * 3600
    for path in sorted(folder.glob("*.lock")):
        if path.stem not in current and path.stat().st_mtime < yesterday:
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.with_suffix(".log").unlink(missing_ok=True)
            path.unlink()
            yield path.stem


def expected(of: Recipe) -> Root:
    """Where a recipe's root is, or will be."""
    return Root(of, cache() / "roots" / f"{of.name}-{of.digest}", cache() / "debs" / of.suite)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One builder at a time, of all processes."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(root: Root, progress: Progress) -> None:
    """Into a dotted name, then renamed. What a killed build has left goes first: we hold the lock."""
    raw = root.path.with_name(f".{root.path.name}.tmp")
    shutil.rmtree(raw, ignore_errors=True)
    log = root.path.with_suffix(".log")
    try:
        _mmdebstrap(root, raw, log, progress)
        raw.chmod(0o755)
        raw.rename(root.path)
    finally:
        shutil.rmtree(raw, ignore_errors=True)


def _mmdebstrap(root: Root, target: Path, log: Path, progress: Progress) -> None:
    source = apt.debian_source()
    if source is None:
        raise RootError(apt.NO_MIRROR)
    command = [*_command(root), root.recipe.suite, str(target), source.line(root.recipe.suite)]
    env = {**os.environ, "TMPDIR": str(target.parent)}
    with log.open("w") as kept, _talking(command, env) as process:
        assert process.stdout is not None
        for line in process.stdout:
            kept.write(line)
            if line.startswith("I: "):
                progress(f"{root.recipe.name}: {line[3:].rstrip()}")
    if process.returncode:
        tail = "\n".join(log.read_text().splitlines()[-25:])
        raise RootError(f"{root.recipe.name}: mmdebstrap failed; {log} ends with\n{tail}")


def _talking(command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def _command(root: Root) -> list[str]:
    """Packages go in and out of the pool as hard links: no copy, and a file is there whole or not at all."""
    pool, archives = shlex.quote(str(root.debs)), '"$1"/var/cache/apt/archives'
    one = 'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only install'
    download = " && ".join(f"{one} {package}" for package in root.recipe.pool)
    hooks = [
        f"--setup-hook=mkdir -p {archives}/partial; find {pool} -name '*.deb' -exec ln -t {archives} {{}} +",
        *([f"--customize-hook={download}"] if download else []),
        f"--customize-hook=find {archives} -name '*.deb' -exec ln -f -t {pool} {{}} +",
        *root.recipe.options,
    ]
    skips = "essential/unlink,download/empty,cleanup/apt,cleanup/reproducible"
    options = [f"--aptopt={option}" for option in apt.options()]
    include = [f"--include={package}" for package in root.recipe.packages]
    return ["mmdebstrap", "--mode=root", "--variant=minbase", f"--skip={skips}", *include, *options, *hooks]

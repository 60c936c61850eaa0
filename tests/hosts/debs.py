"""The product's own package: built by scripts/deb, kept by the content it was built from, and other versions of it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hosts import roots
from tests.hosts.product import DEB_VARIABLE

CHECKOUT = Path(__file__).parents[2]
SOURCES = ("docs", "packaging", "reconciler", "scripts/deb", "states", "pyproject.toml", "README.md")


def missing() -> str | None:
    """Why no package can be had here, or None."""
    if os.environ.get(DEB_VARIABLE) or shutil.which("dpkg-buildpackage"):
        return None
    return None if os.geteuid() == 0 else "building the package needs dpkg-dev and debhelper, which root may install"


def build() -> Path:
    """The package of this checkout; the one that the variable names where it names one."""
    if given := os.environ.get(DEB_VARIABLE):
        return Path(given)
    folder = roots.cache() / "packages" / _digest()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob("*_all.deb")):
            _build(folder)
    return next(folder.glob("*_all.deb"))


def _build(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        subprocess.run([CHECKOUT / "scripts/deb", work], check=True, capture_output=True, text=True)
        (built,) = Path(work).glob("*_all.deb")
        built.rename(folder / built.name)


def of_version(deb: Path, version: str, folder: Path, change: Callable[[Path], object] = lambda tree: None) -> Path:
    """The same package under another version: the one before, or the one to come; `change` edits what is in it."""
    tree = folder / f"tree-{version}"
    subprocess.run(["dpkg-deb", "--raw-extract", deb, tree], check=True)
    control = tree / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join(f"Version: {version}\n" if one.startswith("Version:") else f"{one}\n" for one in lines))
    change(tree)
    made = folder / f"dom0-reconciler_{version}_all.deb"
    options = ["--root-owner-group", "-Znone"]
    subprocess.run(["dpkg-deb", *options, "--build", tree, made], check=True, capture_output=True)
    return made


def _digest() -> str:
    found = hashlib.sha256()
    for file in sorted(_files()):
        found.update(f"{file.relative_to(CHECKOUT)}\0{file.stat().st_mode & 0o100}\0".encode() + file.read_bytes())
    return found.hexdigest()[:16]


def _files() -> Iterator[Path]:
    for name in SOURCES:
        path = CHECKOUT / name
        yield from (
            [path] if path.is_file() else (f for f in path.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
        )

"""How the package is built: the same bytes each time, clean, and with no more in it than is used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.hosts import debs, product

FOLDERS = {
    "./etc/dom0-reconciler/",
    "./etc/init.d/",
    "./etc/logrotate.d/",
    "./usr/lib/dom0-reconciler/",
    "./usr/lib/systemd/catalog/",
    "./usr/lib/systemd/system/",
    "./usr/sbin/",
    "./usr/share/bash-completion/completions/",
    "./usr/share/doc/dom0-reconciler/",
    "./usr/share/dom0-reconciler/",
    "./usr/share/fish/vendor_completions.d/",
    "./usr/share/lintian/overrides/",
    "./usr/share/man/man5/",
    "./usr/share/man/man8/",
    "./usr/share/python3/runtime.d/",
    "./usr/share/zsh/vendor-completions/",
}


@pytest.fixture(scope="module")
def deb() -> Path:
    if why := debs.missing():
        pytest.skip(why)
    return debs.build()


@pytest.mark.skipif(shutil.which("dpkg-buildpackage") is None, reason="dpkg-dev is not installed")
def test_another_build_gives_the_same_bytes(deb: Path, tmp_path: Path) -> None:
    if os.environ.get(product.DEB_VARIABLE):
        pytest.skip("the package was given, not built")
    command = [
        "sh",
        "-c",
        'umask 077; TZ=Asia/Tokyo LC_ALL=C exec "$0" "$1"',
        str(debs.CHECKOUT / "scripts/deb"),
        str(tmp_path),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (again,) = tmp_path.glob("*_all.deb")
    assert again.read_bytes() == deb.read_bytes()


@pytest.mark.skipif(shutil.which("dpkg-buildpackage") is None, reason="dpkg-dev is not installed")
def test_it_is_built_from_a_checkout_as_well(deb: Path, tmp_path: Path) -> None:
    """`cd packaging && dpkg-buildpackage -b`, in a tree of somebody whose umask is 002; and cleaned up again."""
    tree = tmp_path / "checkout"
    leave_out = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "tests", "bench")
    shutil.copytree(debs.CHECKOUT, tree, ignore=leave_out)
    subprocess.run(["chmod", "-R", "g+w", tree], check=True)
    before = {path.relative_to(tree) for path in tree.rglob("*")}
    paths = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    build = ["dpkg-buildpackage", "--no-sign", "--build=binary", "--post-clean"]
    done = subprocess.run(build, cwd=tree / "packaging", env=paths, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    made = {path.relative_to(tree) for path in tree.rglob("*")} - before
    (again,) = (tree / path for path in made if path.suffix == ".deb")
    assert _contents(again) == _contents(deb)
    assert {path.suffix for path in made} == {".deb", ".buildinfo", ".changes"}


def _contents(deb: Path) -> list[str]:
    """Modes, owners, sizes and names of what is in it."""
    listing = subprocess.run(["dpkg-deb", "--contents", deb], check=True, capture_output=True, text=True).stdout
    return sorted(" ".join([*line.split()[:3], *line.split()[5:]]) for line in listing.splitlines())


@pytest.mark.skipif(shutil.which("lintian") is None, reason="lintian is not installed")
def test_lintian_has_nothing_to_say(deb: Path) -> None:
    command = ["lintian", "--display-info", "--pedantic", "--allow-root", str(deb)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""


def test_it_depends_on_what_is_used(deb: Path) -> None:
    """All that pyproject.toml asks for, by Debian's names; pyasyncore comes with pyinotify, tomli is never needed."""
    project = tomllib.loads((debs.CHECKOUT / "pyproject.toml").read_text())["project"]
    asked = {re.split(r"[>=;\s]", one)[0] for one in [*project["dependencies"], "systemd"]} - {"pyasyncore", "tomli"}
    named = {one.split()[0] for one in _field(deb, "Depends").split(", ")} - {"debconf", "python3", "python3:any"}
    assert named == {f"python3-{name}" for name in asked}
    assert _field(deb, "Recommends") == ""


def test_files_lie_where_they_belong(deb: Path) -> None:
    listing = subprocess.run(["dpkg-deb", "--contents", deb], check=True, capture_output=True, text=True).stdout
    files = [line.split()[5] for line in listing.splitlines() if not line.startswith("d")]
    assert [file for file in files if not any(file.startswith(folder) for folder in FOLDERS)] == []
    assert [file for file in files if "__pycache__" in file or file.endswith(".pyc")] == []
    assert {line.split()[1] for line in listing.splitlines()} == {"root/root"}


def _field(deb: Path, name: str) -> str:
    return subprocess.run(["dpkg-deb", "--field", deb, name], check=True, capture_output=True, text=True).stdout.strip()

"""Odd places of the product's own, roots that cannot be written, and roots of an ordinary user.

``plan`` needs none of its own places and works on all of these. ``apply`` corrects nothing without a durable record:
where it cannot make one it says so in one line and exits 1, the tree untouched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host_trees import as_nobody
from tests.odd_roots import SANE, Odd, call, check, on, sane_tree, things
from tests.test_odd_roots import a_socket, all_of, file, instead, link, renamed
from tests.trees import CHECKOUT, Tree

HOME, RUN = "var/lib/dom0-reconciler", "run/dom0-reconciler"
Make = Callable[[Tree], object]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "outside").mkdir()
    return sane_tree(tmp_path)


REFUSED = {
    "home-is-a-file": (
        instead(HOME, Path.touch),
        f"/{HOME}/quarantine: /{HOME}/quarantine: dom0-reconciler is not a folder",
    ),
    "home-leads-out": (
        link(HOME, "../../../outside"),
        f"/{HOME}/quarantine: /{HOME}/quarantine leads out of the root",
    ),
    "home-leads-nowhere": (
        link(HOME, "OUT"),
        f"/{HOME}/quarantine: /{HOME}/quarantine: a link that leads nowhere",
    ),
    "var-links-in-a-circle": (
        link("var", "var"),
        f"/{HOME}/quarantine: /{HOME}/quarantine: links that lead in a circle",
    ),
    "quarantine-is-a-file": (
        instead(f"{HOME}/quarantine", Path.touch),
        f"/{HOME}/quarantine: /{HOME}/quarantine: quarantine is not a folder",
    ),
    "journal-is-a-folder": (
        instead(f"{HOME}/journal.jsonl", Path.mkdir),
        f"/{HOME}/journal.jsonl: Is a directory",
    ),
    "journal-is-a-fifo": (
        instead(f"{HOME}/journal.jsonl", os.mkfifo),
        f"/{HOME}/journal.jsonl: journal.jsonl is no regular file",
    ),
    "journal-is-a-link": (
        link(f"{HOME}/journal.jsonl", "../../../etc/inetd.conf"),
        f"/{HOME}/journal.jsonl: Too many levels of symbolic links",
    ),
    "head-is-a-folder": (
        instead(f"{HOME}/journal.head", Path.mkdir),
        f"/{HOME}/journal.jsonl: Is a directory",
    ),
    "run-is-a-file": (instead("run", Path.touch), f"/{RUN}: run is not a folder"),
    "run-leads-out": (link("run", "../outside"), f"/{RUN} leads out of the root"),
    "lock-is-a-folder": (
        instead(f"{RUN}/correcting.lock", Path.mkdir),
        f"/{RUN}/correcting.lock: Is a directory",
    ),
    "lock-is-a-socket": (
        instead(f"{RUN}/correcting.lock", a_socket),
        f"/{RUN}/correcting.lock: No such device or address",
    ),
    "lock-is-a-link": (
        link(f"{RUN}/correcting.lock", "../../etc/inetd.conf"),
        f"/{RUN}/correcting.lock: Too many levels of symbolic links",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_no_durable_record_no_correction(name: str, tree: Tree) -> None:
    make, why = REFUSED[name]
    make(tree)
    before = things(tree.path)
    planned, applied = on(tree, "plan"), on(tree, "apply")
    assert (planned.code, planned.err) == (2, "")
    assert {finding["ref"] for finding in planned.json["findings"]} == SANE
    assert (applied.code, applied.out) == (1, "")
    said = applied.err.replace(f"{tree.path}/", "/")
    assert said != applied.err
    assert said == f"dom0-reconciler: {why}\n"
    after = things(tree.path)
    assert {path: after.get(path) for path in before} == before
    assert things(tree.path.parent / "outside") == {}


ALLOWED: dict[str, Make] = {
    "home-is-a-link-inside": all_of(lambda tree: (tree.path / "srv").mkdir(), link(HOME, "/srv")),
    "home-is-an-empty-folder": instead(HOME, Path.mkdir),
    "var-is-a-link": all_of(lambda tree: (tree.path / "srv").mkdir(), link("var", "srv")),
    "journal-is-garbage": file(f"{HOME}/journal.jsonl", b"\xff\0 no record\n{"),
    "journal-is-empty": file(f"{HOME}/journal.jsonl"),
    "head-is-garbage": file(f"{HOME}/journal.head", b"\xff" * 100),
    "quarantine-holds-other-things": file(f"{HOME}/quarantine/readme", "not a pass\n"),
    "lock-is-left-over": file(f"{RUN}/correcting.lock"),
    "status-is-garbage": file(f"{RUN}/status.json", b"\xff{"),
    "run-is-a-link": all_of(lambda tree: (tree.path / "var/run").mkdir(parents=True), link("run", "var/run")),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_an_odd_home_that_serves(name: str, tree: Tree) -> None:
    ALLOWED[name](tree)
    check(tree, Odd(lambda tree: None))
    assert on(tree, "log").code == 0


def test_state_of_a_root_whose_etc_is_an_absolute_link(tree: Tree) -> None:
    """By default it would be read on the host; named by --state, the root itself is looked at as in a chroot."""
    state = shutil.copytree(tree.path / "etc/dom0-reconciler", tree.path.parent / "state") / "state.toml"
    all_of(lambda tree: (tree.path / "usr").mkdir(), renamed("etc", "usr/etc"), link("etc", "/usr/etc"))(tree)
    refused = on(tree, "plan")
    default = tree.path / "etc/dom0-reconciler/state.toml"
    assert refused.err == f"dom0-reconciler: {default}: leads out of the root (--state may name a file outside)\n"
    assert (refused.code, on(tree, "check").code) == (1, 1)
    arguments = ("--root", str(tree.path), "--json", "--state", str(state))
    assert call(*arguments, "apply").code == 0
    assert sorted(os.listdir(tree.path / "usr/etc/rc2.d")) == ["K01sane", "S20ssh"]


@pytest.mark.parametrize("there", [True, False])
def test_empty_etc_and_no_etc_at_all(tree: Tree, there: bool) -> None:
    """Nothing there is an observation: only the declared files are missing, and each brings its folder."""
    state = shutil.copytree(tree.path / "etc/dom0-reconciler", tree.path.parent / "state") / "state.toml"
    arguments = ("--root", str(tree.path), "--json", "--state", str(state))
    shutil.rmtree(tree.path / "etc")
    if there:
        (tree.path / "etc").mkdir()
    planned, applied = call(*arguments, "plan"), call(*arguments, "apply")
    assert {finding["rule"] for finding in planned.json["findings"]} == {"missing"}
    assert planned.json["gaps"] == []
    assert (applied.code, applied.err) == (0, "")
    assert {step["outcome"] for step in applied.json["steps"]} == {"done"}


def test_nothing_waits_for_a_fifo(tree: Tree) -> None:
    """Opening one for reading would wait for its other end for ever."""
    instead(f"{RUN}/status.json", os.mkfifo)(tree)
    said = on(tree, "status")
    assert (said.code, said.err) == (1, f"dom0-reconciler: {tree.path}/{RUN}/status.json is a fifo, not a file\n")


# --- roots that cannot be written -------------------------------------------------------------------------------


def _isolated(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A shell in a mount namespace of its own; skips where the machine grants none."""
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"no mount namespace: {probe.stderr.strip()}")
    argv = ["unshare", "-m", "sh", "-ec", script, "sh", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, cwd=CHECKOUT, timeout=60, check=False)


READ_ONLY = 'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"; top=$1; shift; exec "$@"'


def test_read_only_root(tree: Tree) -> None:
    command = [sys.executable, "-m", "reconciler", "--root", str(tree.path)]
    expected = on(tree, "plan")
    planned = _isolated(READ_ONLY, str(tree.path), *command, "--json", "plan")
    assert (planned.returncode, planned.stdout, planned.stderr) == (2, expected.out, "")
    applied = _isolated(READ_ONLY, str(tree.path), *command, "apply")
    assert (applied.returncode, applied.stdout) == (1, "")
    assert applied.stderr == f"dom0-reconciler: {tree.path}/{RUN}: Read-only file system\n"


def test_read_only_folder_below_the_root(tree: Tree) -> None:
    """One folder refuses, the others are corrected; the failure says what the system said."""
    command = [sys.executable, "-m", "reconciler", "--root", str(tree.path), "--json", "apply"]
    applied = _isolated(READ_ONLY, str(tree.path / "etc/rc2.d"), *command)
    left = on(tree, "plan").json
    assert (applied.returncode, applied.stderr) == (2, "")
    assert "failed" in applied.stdout
    assert "Read-only file system" in applied.stdout
    assert [step["target"] for step in left["steps"]] == ["/etc/rc2.d/S20sane"]


@pytest.fixture
def immutable() -> Iterator[Callable[[Path], None]]:
    """Makes a file immutable, and takes that back at the end."""
    done: list[Path] = []

    def make(path: Path) -> None:
        result = subprocess.run(["chattr", "+i", path], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            pytest.skip(f"no immutable files here: {result.stderr.strip()}")
        done.append(path)

    yield make
    for path in done:
        subprocess.run(["chattr", "-i", path], check=False)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("etc/inetd.conf", "write-file /etc/inetd.conf"),
        ("etc/rcS.d", "unlink /etc/rcS.d/S43sane"),
        ("etc/network/interfaces.d/eth1", "unlink /etc/network/interfaces.d/eth1"),
    ],
)
def test_immutable(name: str, step: str, tree: Tree, immutable: Callable[[Path], None]) -> None:
    immutable(tree.path / name)
    applied, left = on(tree, "apply"), on(tree, "plan").json
    assert (applied.code, applied.err) == (2, "")
    target = step.partition(" ")[2]
    failed = [each for each in applied.json["steps"] if each["outcome"] != "done"]
    assert {f"{each['action']} {each['target']}" for each in failed} == {step}, "tried again with what else was to do"
    assert {each["detail"] for each in failed} == {f"it is still there; {target}: Operation not permitted"}
    assert {each["outcome"] for each in failed} == {"failed"}
    assert [step["target"] for step in left["steps"]] == [target]
    assert not [name for name in os.listdir((tree.path / target[1:]).parent) if name.startswith((".dom0", "K43"))]


# --- roots of an ordinary user ----------------------------------------------------------------------------------


def _closed(name: str, mode: int = 0) -> Make:
    """Somebody else's, and closed."""

    def do(tree: Tree) -> None:
        path = tree.path / name
        if not path.exists():
            path.touch()
        path.chmod(mode)
        if os.geteuid() == 0:
            os.chown(path, 0, 0)

    return do


DENIED = {
    "folder": Odd(
        _closed("etc/rc2.d"),
        {"rclinks:rc2.d": "/etc/rc2.d: Permission denied"},
        fewer=frozenset(("rclinks:rc2.d/S20sane",)),
    ),
    "script": Odd(_closed("etc/init.d/odd"), {"rclinks:init.d/odd": "/etc/init.d/odd: Permission denied"}),
    "inetd": Odd(
        _closed("etc/inetd.conf"),
        {"inetd:inetd.conf": "/etc/inetd.conf: Permission denied"},
        fewer=frozenset(("inetd:inetd.conf/ftp/tcp",)),
    ),
    "network-entry": Odd(
        _closed("etc/network/interfaces.d/eth1"),
        {"interfaces:interfaces.d/eth1": "/etc/network/interfaces.d/eth1: Permission denied"},
        fewer=frozenset(("interfaces:interfaces.d/eth1",)),
    ),
    "network-not-searchable": Odd(
        _closed("etc/network"),
        {
            "interfaces:network/interfaces": "/etc/network/interfaces: Permission denied",
            "interfaces:network/interfaces.d": "/etc/network/interfaces.d: Permission denied",
        },
        fewer=frozenset(ref for ref in SANE if ref.startswith("interfaces:")),
    ),
}


@pytest.fixture
def users_tree() -> Iterator[Tree]:
    """A tree that belongs to an ordinary user, where one can reach it (pytest's own folders are closed to others)."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "outside").mkdir()
        yield sane_tree(top)


def _give(tree: Tree) -> None:
    if os.geteuid() == 0:
        for path in (tree.path, *tree.path.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)


@pytest.mark.parametrize("name", DENIED)
def test_what_may_not_be_looked_at_is_a_gap(name: str, users_tree: Tree) -> None:
    _give(users_tree)
    DENIED[name].make(users_tree)
    as_nobody(lambda: check(users_tree, DENIED[name]))


def test_an_ordinary_user_corrects_a_tree_of_his_own(users_tree: Tree) -> None:
    _give(users_tree)
    as_nobody(lambda: check(users_tree, Odd(lambda tree: None)))


def test_an_ordinary_user_may_plan_but_not_correct_what_is_not_his(users_tree: Tree) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a tree of somebody else's: root makes one")
    expected = on(users_tree, "plan")

    def look() -> None:
        assert on(users_tree, "plan") == expected
        applied = on(users_tree, "apply")
        assert (applied.code, applied.out) == (1, "")
        assert applied.err == f"dom0-reconciler: {users_tree.path}/{RUN}: Permission denied\n"

    as_nobody(look)
    assert on(users_tree, "plan") == expected

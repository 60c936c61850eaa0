"""Faults of a host, made for real, under a running daemon on a bare tree; tests/hosts/test_faults.py has the others.

Each time: the log says what is wrong, what can be corrected is corrected, and once the fault has gone the rest is, by
itself.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.trees import CHECKOUT, Tree, wait_for

STATE = 'version = 1\nmode = "enforce"\ninterval = "5s"\n[services]\napproved = ["ssh"]\n[inetd]\napproved = []\n'
PATIENCE = 60.0


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A tree that is held; a full pass each five seconds."""
    return Tree(tmp_path, STATE)


@contextmanager
def daemon(tree: Tree, *before: str) -> Iterator[subprocess.Popen[str]]:
    """The daemon under ``before``, its log in the tree's folder; it must end well."""
    with (tree.path / "log").open("w") as log:
        argv = [*before, sys.executable, "-m", "reconciler", "--root", str(tree.path), "run"]
        process = subprocess.Popen(argv, cwd=CHECKOUT, stderr=log, stdout=log, text=True)
        try:
            tree.link("rc5.d/S20first")
            wait_for(lambda: "done" in {r["outcome"] for r in tree.records()}, "the first pass", PATIENCE)
            tree.link("rc5.d/S20second")
            gone(tree, "rc5.d/S20second")  # so now all is loaded that it ever needs
            yield process
            assert process.poll() is None, said(tree)
            process.terminate()
            assert process.wait(PATIENCE) == 0, said(tree)
        finally:
            process.kill()
            process.wait()
    assert tree.command("log", "--verify").returncode == 0


def said(tree: Tree) -> str:
    return (tree.path / "log").read_text()


def status(tree: Tree) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads((tree.path / "run/dom0-reconciler/status.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def gone(tree: Tree, *links: str) -> None:
    def are_gone() -> bool:
        return not any(os.path.lexists(tree.path / "etc" / link) for link in links)

    wait_for(are_gone, f"{links} to go; {said(tree)[-2000:]}", PATIENCE)


def resident(pid: int) -> int:
    """MiB at its highest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10


def test_an_immutable_folder_keeps_its_link_alone(tree: Tree) -> None:
    with daemon(tree) as process:
        process.send_signal(signal.SIGSTOP)  # or it would be quicker than chattr(1)
        tree.link("rc3.d/S20canna")
        subprocess.run(["chattr", "+i", tree.path / "etc/rc3.d"], check=True)
        process.send_signal(signal.SIGCONT)
        try:
            tree.link("rc2.d/S20canna")
            gone(tree, "rc2.d/S20canna")
            wait_for(lambda: "failed" in {r["outcome"] for r in tree.records()}, "the failure in the journal", PATIENCE)
        finally:
            subprocess.run(["chattr", "-i", tree.path / "etc/rc3.d"], check=True)
        gone(tree, "rc3.d/S20canna")
    failed = next(r for r in tree.records() if r["outcome"] == "failed")
    assert "Operation not permitted" in failed["detail"]


def test_no_descriptors_left(tree: Tree) -> None:
    """Nothing can be opened: nothing is corrected, nothing is lost, and it says so."""
    with daemon(tree) as process:
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (4, hard))  # poll(2) itself needs three
        tree.link("rc2.d/S20canna")
        wait_for(lambda: "Too many open files" in said(tree), "the log", PATIENCE)
        assert "S20canna" in tree.names("rc2.d")
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (soft, hard))
        gone(tree, "rc2.d/S20canna")


def test_no_watches_left_and_back_again(tree: Tree) -> None:
    """A user namespace has a limit of its own, so that this machine's daemons keep theirs."""
    limit = "/proc/sys/user/max_inotify_watches"
    enter = ("unshare", "--user", "--map-root-user", "sh", "-c", f'echo 2 >{limit} && exec "$@"', "sh")
    with daemon(tree, *enter) as process:
        assert status(tree)["watch"] == "polling"
        assert "max_user_watches" in said(tree)
        tree.link("rc2.d/S20canna")
        gone(tree, "rc2.d/S20canna")
        subprocess.run(
            ["nsenter", "-t", str(process.pid), "-U", "--preserve-credentials", "sh", "-c", f"echo 9999 >{limit}"],
            check=True,
        )
        wait_for(lambda: status(tree)["watch"] == "inotify", "inotify again", PATIENCE)
        tree.link("rc3.d/S20canna")
        gone(tree, "rc3.d/S20canna")


def test_etc_is_replaced_under_it(tree: Tree) -> None:
    """What a restore from backup does: the folder is another one, the state file in it too."""
    with daemon(tree):
        etc, new = tree.path / "etc", tree.path / "etc.new"
        shutil.copytree(etc, new, symlinks=True)
        (new / "rc2.d/S20canna").symlink_to("../init.d/canna")
        etc.rename(tree.path / "etc.old")
        new.rename(etc)
        gone(tree, "rc2.d/S20canna")
        tree.link("rc3.d/S20canna")
        gone(tree, "rc3.d/S20canna")
        tree.state(STATE.replace("enforce", "observe"))
        wait_for(lambda: status(tree)["mode"] == "observe", "the state in the new folder", PATIENCE)


def test_no_memory_left(tree: Tree) -> None:
    """A pass that cannot be thought through is said and tried again; the daemon lives."""
    with daemon(tree) as process:
        size = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.prlimit(process.pid, resource.RLIMIT_AS)[1]
        resource.prlimit(process.pid, resource.RLIMIT_AS, (size + (2 << 20), hard))
        with tempfile.TemporaryDirectory(dir=tree.path / "etc") as folder:
            new = Path(folder) / "new"
            new.mkdir()
            for number in range(20_000):
                (new / f"S20s{number}").symlink_to(f"../init.d/s{number}")
            (tree.path / "etc/rc4.d").rename(Path(folder) / "old")
            new.rename(tree.path / "etc/rc4.d")
            wait_for(lambda: "out of memory" in said(tree), "the log", PATIENCE)
            (tree.path / "etc/rc4.d").rename(Path(folder) / "too much")
            (tree.path / "etc/rc4.d").mkdir()
        resource.prlimit(process.pid, resource.RLIMIT_AS, (hard, hard))
        tree.link("rc2.d/S20canna")
        gone(tree, "rc2.d/S20canna")

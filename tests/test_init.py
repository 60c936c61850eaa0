"""``init``: the host as it is, as a state that changes nothing and says what is odd."""

from __future__ import annotations

import os
import pty
import signal
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.host import kernel
from reconciler.host.kernel import at_terminals
from tests.trees import CHECKOUT, Tree

OS_RELEASE = 'NAME="Debian GNU/Linux"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian\n'
STATIC = "auto lo eth0\niface lo inet loopback\niface eth0 inet static\n    address 192.0.2.1/24\n"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    (tmp_path / "etc/dom0-reconciler/state.toml").unlink()
    (tmp_path / "etc/dom0-reconciler").rmdir()
    tree.write("etc/os-release", OS_RELEASE)
    for script in ("ssh", "exim4", "portmap", "xen"):
        tree.script(script)
        tree.link(f"rc2.d/S20{script}")
    tree.write("etc/inetd.conf", "ident stream tcp nowait nobody /usr/sbin/identd identd\n")
    tree.write("etc/network/interfaces", STATIC).chmod(0o640)
    tree.write("etc/network/interfaces.d/xenbr0", "auto xenbr0\n")
    return tree


def test_it_approves_what_is_there_and_changes_nothing(tree: Tree) -> None:
    before = tree.names("rc2.d")
    result = tree.command("init")
    assert result.returncode == 0, result.stderr
    file = tree.path / "etc/dom0-reconciler/state.toml"
    state = tomllib.loads(file.read_text())
    assert state["mode"] == "observe"
    assert state["include"] == [str(CHECKOUT / "states/bookworm-xen.toml")]
    assert state["services"]["approved"] == ["exim4", "portmap"]
    assert state["inetd"]["approved"] == ["ident/tcp"]
    assert '"exim4",    # starts exim4 in runlevel 2' in file.read_text()
    assert "approved beyond it, look at each: exim4, portmap" in result.stdout
    assert tree.plan()["converged"]
    assert tree.names("rc2.d") == before
    assert file.stat().st_mode & 0o777 == 0o644


def test_the_canonical_files_keep_their_mode(tree: Tree) -> None:
    tree.command("init")
    folder = tree.path / "etc/dom0-reconciler"
    assert (folder / "interfaces").read_text() == STATIC
    assert (folder / "interfaces").stat().st_mode & 0o777 == 0o640
    assert (folder / "interfaces.d/xenbr0").read_text() == "auto xenbr0\n"
    tree.write("etc/network/interfaces.d/eth9", "auto eth9\n")
    assert [f["rule"] for f in tree.plan()["findings"]] == ["unapproved"]


def test_it_overwrites_nothing(tree: Tree) -> None:
    tree.command("init")
    tree.state("version = 1\n")
    result = tree.command("init")
    assert (result.returncode, "is there already" in result.stderr) == (1, True)
    assert (tree.path / "etc/dom0-reconciler/state.toml").read_text() == "version = 1\n"
    (tree.path / "etc/dom0-reconciler/state.toml").unlink()
    tree.write("etc/dom0-reconciler/interfaces", "# mine\n")
    assert tree.command("init").returncode == 1
    assert (tree.path / "etc/dom0-reconciler/interfaces").read_text() == "# mine\n"


def test_it_can_be_looked_at_first(tree: Tree) -> None:
    result = tree.command("init", "--stdout")
    assert tomllib.loads(result.stdout)["services"]["approved"] == ["exim4", "portmap"]
    assert not (tree.path / "etc/dom0-reconciler").exists()


def test_odd_names_are_told_and_not_written(tree: Tree) -> None:
    os.symlink("../init.d/x y", tree.path / "etc/rc2.d/S20x y")
    result = tree.command("init")
    assert result.returncode == 0
    assert "it has no name that a state can hold: rclinks:rc2.d/S20x y" in result.stdout
    assert [s["target"] for s in tree.plan()["steps"]] == ["/etc/rc2.d/S20x y"]


def test_an_unknown_release_gets_a_state_of_its_own(tree: Tree) -> None:
    tree.write("etc/os-release", 'VERSION_ID="99"\n')
    state = tomllib.loads(tree.command("init", "--stdout").stdout)
    assert "include" not in state
    assert state["services"]["approved"] == ["exim4", "portmap", "ssh", "xen"]


# --- whose a running program is ---


@contextmanager
def on_a_terminal(command: str) -> Iterator[int]:
    """A shell's command on a pseudo-terminal of its own; gives the number that it says first."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", command])
    try:
        with open(terminal, "rb", closefd=False) as said:
            yield int(said.readline())
    finally:
        os.close(terminal)  # which hangs up on all that is on it
        os.waitpid(pid, 0)


@pytest.mark.parametrize("command", ["echo $$; exec sleep 300", "(sleep 300 & echo $!); sleep 300"])
def test_a_program_on_a_terminal_is_somebodys(command: str) -> None:
    """Of the shell, or left by a subshell: init is its parent then, but did not begin the session."""
    with on_a_terminal(command) as pid:
        assert at_terminals([pid]) == {pid}
    assert at_terminals([pid]) == frozenset()


def test_a_program_without_a_terminal_is_nobodys() -> None:
    with on_a_terminal("setsid sh -c 'echo $$; exec sleep 300' & wait") as pid:
        assert at_terminals([pid]) == frozenset()
        os.kill(pid, signal.SIGKILL)  # it hears of no hang-up


@pytest.mark.parametrize(
    ("leader", "somebodys"), [(" (getty) S 1 ", False), (" (tmux: a) S 44 ", True), (None, False), ("", True)]
)
def test_whoever_began_the_session_has_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leader: str | None, somebodys: bool
) -> None:
    """Init by a line of inittab(5); somebody; nobody any more; one outside, whose number is 0 here."""
    monkeypatch.setattr(kernel, "PROC", str(tmp_path))
    session = 70 if leader != "" else 0
    for pid, text in ((71, f"71 (a ) b) S 70 71 {session} 1025 71 0"), (70, leader and f"70{leader}70 70 1025 70 0")):
        if text:
            (tmp_path / str(pid)).mkdir()
            (tmp_path / str(pid) / "stat").write_text(text)
    assert (at_terminals([71]) == {71}) == somebodys

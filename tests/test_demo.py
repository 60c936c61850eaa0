"""scripts/demo: shows what it promises, and leaves nothing behind however it ends."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trees import CHECKOUT, wait_for

DEMO = CHECKOUT / "scripts/demo"
NOBODY = 65534


def _may_live() -> bool:
    """True where the demonstration gets namespaces: root, and not a confined one."""
    probe = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True, check=False).returncode == 0


LIVE = pytest.mark.skipif(not _may_live(), reason="needs root and namespaces")


class Run:
    """One run of the demonstration, whose processes and files can be told from all others."""

    def __init__(self, folder: Path, *, user: int) -> None:
        self.token = f"DEMO_TEST={uuid.uuid4()}"
        self.folder = folder / "tmp"
        self.folder.mkdir(mode=0o777)
        self.folder.chmod(0o1777)
        folder.chmod(0o755)
        self.mounts = self._mounts()
        self.user = user
        self.said = ""

    def start(self, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Begin it; ``finish`` waits for its end."""
        name, _, value = self.token.partition("=")
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(self.folder), "TERM": "linux", name: value}
        uid = self.user if os.geteuid() == 0 else None
        self.process = subprocess.Popen(
            [str(DEMO)], stdout=stdout, stderr=subprocess.STDOUT, text=True, env=environment, user=uid, group=uid,
            extra_groups=[] if uid else None, start_new_session=True, umask=0o002,
        )  # fmt: skip
        return self.process

    def until(self, words: str) -> None:
        """Read on until these words are said."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if words in line:
                return
        raise AssertionError(f"it ended without {words!r}:\n{self.said}")

    def finish(self) -> str:
        """All that it said."""
        self.said += self.process.communicate(timeout=60)[0] or ""
        return self.said

    def left(self) -> list[str]:
        """What is left of it: processes, files, mounts."""
        return [*self._processes(), *os.listdir(self.folder), *sorted(self._mounts() - self.mounts)]

    def _processes(self) -> Iterator[str]:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if self.token.encode() in environment:
                    yield f"process {entry.name}: {(entry / 'comm').read_text().strip()}"

    @staticmethod
    def _mounts() -> set[str]:
        return {line for line in Path("/proc/self/mounts").read_text().splitlines() if "demo" in line}


@pytest.fixture(params=[pytest.param(0, id="root", marks=LIVE), pytest.param(NOBODY, id="user")])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run as root with namespaces, and one as an ordinary user."""
    if request.param and os.geteuid() == 0 and not _reachable(request.param):
        pytest.skip("the checkout is out of an ordinary user's reach")
    folder = Path("/var/tmp") / f"demo-{uuid.uuid4()}"
    folder.mkdir()
    yield Run(folder, user=request.param)
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def _reachable(user: int) -> bool:
    probe = subprocess.run(["test", "-x", str(DEMO)], user=user, group=user, extra_groups=[], check=False)
    return probe.returncode == 0


def test_it_shows_what_it_promises(run: Run) -> None:
    began = time.monotonic()
    process = run.start()
    said = run.finish()
    assert process.returncode == 0, said
    assert time.monotonic() - began < 60
    assert "a bug" not in said
    assert len(re.findall(r"^ +\d+ ms  unlink /etc/rc.\.d/S\d\dportmap: done$", said, re.MULTILINE)) == 5
    for file in ("inetd.conf", "network/interfaces"):
        assert re.search(rf"^ +\d+ ms  write-file /etc/{file}: done$", said, re.MULTILINE)
    assert "converged, mode enforce" in said
    assert "the chain is whole" in said
    assert "\x1b" not in said
    assert run.left() == []


@LIVE
def test_as_root_services_really_stop(tmp_path: Path) -> None:
    run = Run(tmp_path, user=0)
    run.start()
    said = run.finish()
    assert re.search(r"ms  stop-service portmap: done", said)
    assert "It is stopped; port 111 is closed." in said
    final = said.rpartition("What is left:")[2]
    assert re.search(r"running +syslogd  klogd  sshd  atd  cron\n", final)
    assert re.search(r"listening +tcp.22  unix./dev/log\n", final)


def test_without_root_it_says_what_it_cannot_show(tmp_path: Path) -> None:
    if os.geteuid() == 0 and not _reachable(NOBODY):
        pytest.skip("the checkout is out of an ordinary user's reach")
    run = Run(tmp_path, user=NOBODY)
    run.start()
    said = run.finish()
    assert "nothing to stop" in " ".join(said.split())
    assert "stop-service" not in said


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("a demonstration", signal.SIGINT),
        ("1. The host", signal.SIGTERM),
        ("3. The daemon", signal.SIGINT),
        ("4. Meanwhile", signal.SIGHUP),
        ("5. Somebody", signal.SIGINT),  # not later: what is left then is over before a loaded machine has read of it
    ],
)
def test_nothing_is_left_when_it_is_interrupted(run: Run, moment: str, number: signal.Signals) -> None:
    process = run.start()
    run.until(moment)
    os.killpg(process.pid, number)  # a terminal's ^C reaches the whole group
    said = run.finish()
    assert process.returncode in (130, -number), said
    wait_for(lambda: not run.left(), f"everything to be gone: {run.left()}")


@pytest.mark.parametrize("moment", ["1. The host", "3. The daemon"])
def test_nothing_is_left_when_its_shell_is_killed(run: Run, moment: str) -> None:
    process = run.start()
    run.until(moment)
    process.kill()
    wait_for(lambda: not run.left(), "everything to be gone")
    run.finish()


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_only_on_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    master, slave = pty.openpty()
    if no_color:
        run.token = "NO_COLOR=1"
    process = run.start(stdout=slave)
    os.close(slave)
    said = b""
    try:
        while piece := os.read(master, 65536):
            said += piece
    except OSError:  # EIO: the last writer has closed the terminal
        pass
    assert process.wait(30) == 0
    assert (b"\x1b[1m" in said) is not no_color
    os.close(master)


def test_help_and_usage() -> None:
    shown = subprocess.run([str(DEMO), "--help"], capture_output=True, text=True, check=False)
    assert (shown.returncode, "usage: scripts/demo" in shown.stdout) == (0, True)
    assert subprocess.run([str(DEMO), "--wrong"], capture_output=True, check=False).returncode == 64

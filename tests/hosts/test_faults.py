"""Faults that need a real host: each says what is wrong, holds up nothing else, and passes by itself."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hosts import product, states
from tests.hosts.host import Host
from tests.hosts.scenario import Scene

PATIENCE = 60.0
MIB = 1 << 10  # of what /proc says in KiB
BOUND = 64 * MIB
"""What the daemon may need at its worst; at rest it takes a third of it."""

STOP_SECONDS = 2.0  # instead of a minute
_LAUNCHER = f"""\
#!/usr/bin/python3
import sys
from reconciler.cli import main
from reconciler.host.services import InitScripts
InitScripts.__init__.__defaults__ = (0, {STOP_SECONDS})
sys.exit(main())
"""
_SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides: {name}
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop:
### END INIT INFO
[ "$1" = stop ] || exit 0
{body}
"""
NAUGHTY = {
    "hangs": "sleep 1000",
    "forks": "for n in 1 2 3; do setsid sleep 5 & done; exit 1",
    "ignores": 'trap "" TERM; while :; do sleep 0.1; done',
    "prints": "dd if=/dev/zero bs=1M count=1024 2>/dev/null | tr '\\0' x; exit 1",
}


def _daemon(host: Host) -> int:
    """Its number on this machine."""
    (one,) = [process for process in host.processes() if process.args[-1:] == ("run",)]
    return one.outer


def _peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def _log(scene: Scene) -> str:
    """Wherever it goes."""
    return product.said(scene.host) + scene.host.syslog()


def _unlinked(scene: Scene, *links: str) -> None:
    def are_gone() -> bool:
        return not any(scene.host.exists(f"/etc/{link}") for link in links)

    scene.host.wait_for(are_gone, PATIENCE, f"{links} to go")


def _logged(scene: Scene, service: str) -> None:
    """Its correction is in the journal, and in systemd's as well."""
    scene.host.wait_for(lambda: scene.corrected(service), PATIENCE, "the record")
    ids = {record["id"] for record in scene.corrected(service)}

    def are_there() -> bool:
        return bool(ids & {each.get("RECONCILER_ID") for each in scene.host.journalctl("-t", product.NAME)})

    scene.host.wait_for(are_there, PATIENCE, "systemd's journal to have it")


@contextmanager
def _mounted(host: Host, *commands: str, path: str) -> Iterator[None]:
    for command in commands:
        host.run(command)
    try:
        yield
    finally:
        host.run(["umount", "-l", path])


@pytest.mark.parametrize("shared_host", ["bookworm-sysvinit"], indirect=True)
class TestSysvinit:
    STATE = states.state(interval="10s")

    @staticmethod
    def prepare(host: Host) -> None:
        host.install_product()
        host.put(product.COMMAND, _LAUNCHER, 0o755)
        for name, body in NAUGHTY.items():
            host.put(f"/etc/init.d/{name}", _SCRIPT.format(name=name, body=body), 0o755)

    @pytest.fixture(autouse=True)
    def launcher(self, guarded: Scene) -> None:
        """Installing the product put the ordinary one back: the daemon starts anew with ours, once."""
        if guarded.host.read(product.COMMAND) != _LAUNCHER:
            guarded.host.stop_daemon()
            guarded.host.put(product.COMMAND, _LAUNCHER, 0o755)
            guarded.host.start_daemon()

    def test_stop_scripts_of_every_kind(self, scene: Scene, number: Callable[[str], None]) -> None:
        """One that hangs, forks, ignores TERM or prints a gigabyte: the others' corrections do not wait for it."""
        for name in NAUGHTY:
            scene.host.run(f"ln -s ../init.d/{name} /etc/rc2.d/S20{name}")
        scene.host.run("update-rc.d canna enable; service canna start")
        scene.off("canna", timeout=PATIENCE)
        _unlinked(scene, *(f"rc2.d/S20{name}" for name in NAUGHTY))

        def outcomes() -> dict[str, dict[str, str]]:
            stops = (r for r in scene.records() if r["action"] == "stop-service" and r["record"] == "outcome")
            return {r["service"]: r for r in stops if r["outcome"] != "pending"}

        scene.host.wait_for(lambda: outcomes().keys() >= NAUGHTY.keys(), PATIENCE, "each stop to end")
        details = {name: outcomes()[name]["detail"] for name in NAUGHTY}
        assert "not over after 2 s, ended by TERM" in details["hangs"]
        assert "exit 1" in details["forks"]
        assert "not over after 2 s, ended by KILL" in details["ignores"]
        assert len(details["prints"]) < 10_000
        peak = _peak(_daemon(scene.host))
        number(f"the daemon's memory at its highest: {peak / MIB:.0f} MiB")
        assert peak < BOUND

    def test_a_stop_that_a_killed_daemon_left_is_ended_and_not_doubled(self, scene: Scene) -> None:
        """Nobody ends it with the daemon here: the next one, which is to stop the same, takes it over."""
        host, script = scene.host, "/etc/init.d/slow"
        host.put(
            script,
            _SCRIPT.format(name="slow", body='trap "" TERM; echo $$ >>/run/stops; while :; do sleep 0.1; done'),
            0o755,
        )
        host.run(f"ln -s ..{script.removeprefix('/etc')} /etc/rc2.d/S20slow")
        host.wait_for(lambda: host.exists("/run/stops"), PATIENCE, "its stop")
        os.kill(daemon := _daemon(host), signal.SIGKILL)
        host.wait_for(lambda: all(process.outer != daemon for process in host.processes()), PATIENCE, "its end")
        host.start_daemon()
        host.run(f"rm -f /etc/rc2.d/K*slow; ln -s ..{script.removeprefix('/etc')} /etc/rc2.d/S20slow")

        def told() -> bool:
            return any("begun by an earlier run" in r["detail"] for r in scene.records() if r["service"] == "slow")

        host.wait_for(told, PATIENCE, "the outcome of the stop")
        assert len(host.read("/run/stops").split()) == 1
        assert [p.args for p in host.processes() if script in p.args] == []

    def test_a_script_that_others_may_write_is_not_run_and_what_runs_is_told(self, scene: Scene) -> None:
        scene.host.run("chmod g+w /etc/init.d/lpd; service lpd start; ln -s ../init.d/lpd /etc/rc2.d/S20lpd")
        _unlinked(scene, "rc2.d/S20lpd")
        told = "/etc/init.d/lpd can be written by another user than root: not run"
        scene.host.wait_for(
            lambda: any(told in r["detail"] for r in scene.records() if r["outcome"] == "failed"),
            PATIENCE,
            "the record",
        )
        scene.off("lpd", timeout=PATIENCE)  # by a signal to its process, once the stop was tried in vain
        scene.host.run("chmod g-w /etc/init.d/lpd")

    def test_one_folder_is_read_only(self, scene: Scene) -> None:
        """What cannot be corrected there is recorded as failed; the rest goes on."""
        mount = "mount --bind /etc/rc3.d /etc/rc3.d", "mount -o remount,bind,ro /etc/rc3.d"
        scene.host.run("mkdir -p /run/below && mount --bind /etc/rc3.d /run/below")
        with _mounted(scene.host, *mount, path="/etc/rc3.d"):
            scene.host.run("ln -s ../init.d/canna /run/below/S20canna")
            scene.host.run("ln -s ../init.d/lpd /etc/rc2.d/S20lpd")
            _unlinked(scene, "rc2.d/S20lpd")
            failed = "Read-only file system"
            scene.host.wait_for(
                lambda: any(failed in r["detail"] for r in scene.records() if r["outcome"] == "failed"), PATIENCE
            )
        scene.host.run("umount /run/below")
        _unlinked(scene, "rc3.d/S20canna")

    @pytest.mark.parametrize(
        ("call", "number"),
        [("fdatasync", "EIO"), ("unlinkat", "EIO"), ("linkat,symlinkat", "ENOSPC"), ("openat", "EMFILE")],
    )
    def test_the_kernel_refuses_a_call(self, scene: Scene, call: str, number: str) -> None:
        """A disk that fails, in the words of the kernel: strace(1) answers instead of it."""
        argv = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", f"trace={call}"]
        argv += ["-e", f"inject={call}:error={number}", "-p", str(_daemon(scene.host))]
        tracer = subprocess.Popen(argv)
        words, mark = os.strerror(getattr(errno, number)), len(_log(scene))

        def is_told() -> bool:
            return words in _log(scene)[mark:] or any(words in record["detail"] for record in scene.records())

        try:
            scene.host.wait_for(lambda: _is_traced(scene.host), PATIENCE, "strace to hold it")
            scene.host.run("rm -f /etc/rc2.d/K*canna; ln -s ../init.d/canna /etc/rc2.d/S20canna")
            scene.host.wait_for(is_told, PATIENCE, f'a word of "{words}"')
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        _unlinked(scene, "rc2.d/S20canna")
        scene.converge(PATIENCE)


def _is_traced(host: Host) -> bool:
    return "TracerPid:\t0\n" not in Path(f"/proc/{_daemon(host)}/status").read_text()


@pytest.mark.parametrize("shared_host", ["trixie-systemd"], indirect=True)
class TestSystemd:
    STATE = states.state(interval="10s")

    def test_journald_goes_and_comes_back(self, scene: Scene) -> None:
        """The records are in the file all the while; the log has those of before and after."""
        units = "systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service"
        scene.host.run(f"systemctl stop {units}", check=False)
        scene.host.wait_for(lambda: not scene.host.running("systemd-journal"), PATIENCE, "journald to be gone")
        scene.host.run("ln -s ../init.d/lpd /etc/rc2.d/S20lpd")
        _unlinked(scene, "rc2.d/S20lpd")
        scene.host.wait_for(lambda: scene.corrected("lpd"), PATIENCE, "the record")
        scene.host.run(f"systemctl start {units}")
        scene.host.run("ln -s ../init.d/atd /etc/rc2.d/S20atd")
        _logged(scene, "atd")

    def test_journald_is_restarted(self, scene: Scene) -> None:
        scene.host.run("systemctl restart systemd-journald.service")
        scene.host.run("ln -s ../init.d/lpd /etc/rc2.d/S20lpd")
        _logged(scene, "lpd")

    def test_systemd_does_not_answer(self, scene: Scene) -> None:
        """Links and lines are corrected all the same; what only systemd can do has failed, and is done later."""
        os.kill(scene.host.pid, signal.SIGSTOP)
        try:
            scene.host.run("ln -s ../init.d/lpd /etc/rc2.d/S20lpd")
            _unlinked(scene, "rc2.d/S20lpd")
            scene.host.run("echo 'ident stream tcp nowait nobody /usr/sbin/identd' >>/etc/inetd.conf")
            scene.host.wait_for(
                lambda: any("no answer in time" in r["detail"] for r in scene.records()), PATIENCE, "the failure"
            )
            target = "/etc/inetd.conf"
            scene.host.wait_for(
                lambda: any((r["target"], r["outcome"]) == (target, "done") for r in scene.records()), PATIENCE, target
            )
        finally:
            os.kill(scene.host.pid, signal.SIGCONT)
        scene.converge(PATIENCE)

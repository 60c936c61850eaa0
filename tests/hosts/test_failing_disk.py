"""A disk that fails: EIO by a real file system, from one operation in one place, and by itself well again.

Each time: what cannot be seen is a gap, what cannot be done has failed and says so, all else is corrected, and when the
disk works the rest is, without anybody's doing. No descriptor and no memory is lost over it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts import faulty, product, states
from tests.hosts.faulty import Disk
from tests.hosts.host import Host
from tests.hosts.scenario import Scene

PATIENCE = 60.0
WORDS, READ_ONLY = "Input/output error", "Read-only file system"
SPARE = "/run/dom0-reconciler/spare"
PASSES = 10
LINE = "20000 stream tcp nowait nobody /usr/sbin/identd identd\n"


def _gaps(scene: Scene) -> dict[str, str]:
    return {gap["ref"]: gap["why"] for gap in scene.status()["gaps"]}


def _outcomes(scene: Scene, target: str, word: str) -> list[str]:
    return [r["detail"] for r in scene.records() if r["target"] == target and r["outcome"] == word]


def _goes(scene: Scene, link: str) -> None:
    scene.host.wait_for(lambda: not scene.host.exists(f"/etc/{link}"), PATIENCE, f"{link} to go")


def _daemon(host: Host) -> int:
    """The oldest: what it starts has its command line until the new program is loaded."""
    return min(process.outer for process in host.processes() if process.args[-1:] == ("run",))


def _held_by(host: Host) -> tuple[int, int]:
    """The daemon's open descriptors, and its memory in KiB."""
    one = _daemon(host)
    status = Path(f"/proc/{one}/status").read_text()
    return len(os.listdir(f"/proc/{one}/fd")), int(status.partition("VmRSS:")[2].split()[0])


def _passes(scene: Scene) -> None:
    """Lets it look so many times. What it holds now and then, a folder that stays open for a while, is no growth."""
    seen: dict[str, tuple[int, int]] = {}

    def enough() -> bool:
        seen[scene.status()["last_pass"]["id"]] = _held_by(scene.host)
        return len(seen) > PASSES

    scene.host.wait_for(enough, PATIENCE, "its passes")
    first, last = [*seen.values()][: PASSES // 2], [*seen.values()][PASSES // 2 :]
    assert min(fds for fds, _ in last) <= max(fds for fds, _ in first)
    assert last[-1][1] <= first[0][1] + 1024


@pytest.fixture(scope="class")
def disk(shared_host: Host, request: pytest.FixtureRequest, failing: None) -> Iterator[Disk]:
    """The class's FOLDER on it; before the daemon comes."""
    shared_host.run(["mkdir", "-p", "-m", "700", request.cls.FOLDER])
    with faulty.mounted(shared_host, request.cls.FOLDER) as disk:
        yield disk


@pytest.fixture(scope="class")
def both(shared_host: Host, failing: None) -> Iterator[tuple[Disk, Disk]]:
    """Where the product writes."""
    with faulty.mounted(shared_host, "/etc") as etc, faulty.mounted(shared_host, "/var/lib") as var:
        yield etc, var


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("shared_host", ["bookworm-sysvinit"], indirect=True)
class TestOfEtc:
    FOLDER = "/etc"
    STATE = states.state(interval="2s")

    def test_a_file_cannot_be_read(self, scene: Scene, disk: Disk) -> None:
        with disk.failing(("read", "inetd.conf")):
            scene.host.run(f"printf '{LINE}' >>/etc/inetd.conf; ln -s ../init.d/canna /etc/rc2.d/S20canna")
            _goes(scene, "rc2.d/S20canna")
            scene.host.wait_for(lambda: _gaps(scene), PATIENCE, "the gap")
            assert _gaps(scene) == {"inetd:inetd.conf": f"/etc/inetd.conf: {WORDS}"}
            _passes(scene)
        scene.converge(PATIENCE)
        assert f"#{LINE}" in scene.host.read("/etc/inetd.conf")

    def test_a_folder_cannot_be_listed(self, scene: Scene, disk: Disk) -> None:
        with disk.failing(("readdir", "rc2.d")):
            scene.host.run("for level in 2 3; do ln -s ../init.d/lpd /etc/rc$level.d/S20lpd; done; service lpd start")
            _goes(scene, "rc3.d/S20lpd")
            scene.host.wait_for(lambda: _gaps(scene), PATIENCE, "the gap")
            assert _gaps(scene) == {"rclinks:rc2.d": f"/etc/rc2.d: {WORDS}"}
            assert scene.host.exists("/etc/rc2.d/S20lpd")
        scene.off("lpd", timeout=PATIENCE)

    @pytest.mark.parametrize(
        ("operations", "path"), [("unlink", "rc2.d"), ("link symlink", "rc2.d"), ("create", ""), ("write", "")]
    )
    def test_a_change_is_refused(self, scene: Scene, disk: Disk, operations: str, path: str) -> None:
        link, file = "/etc/rc2.d/S20atd", "/etc/inetd.conf"
        daemon = _daemon(scene.host)
        os.kill(daemon, signal.SIGSTOP)
        scene.host.run(f"rm -f /etc/rc?.d/K??atd; ln -s ../init.d/atd {link}; ln -s ../init.d/atd /etc/rc3.d/S20atd")
        scene.host.run(f"printf '{LINE}' >>{file}")
        with disk.failing(*((operation, path) for operation in operations.split())):
            os.kill(daemon, signal.SIGCONT)
            target, other = (link, file) if path else (file, link)
            scene.host.wait_for(lambda: _outcomes(scene, target, "failed"), PATIENCE, "the failure")
            assert WORDS in _outcomes(scene, target, "failed")[0]
            scene.host.wait_for(lambda: _outcomes(scene, other, "done"), PATIENCE, "the other correction")
            _goes(scene, "rc3.d/S20atd")
            if operations == "unlink":
                _passes(scene)
        scene.off("atd", timeout=PATIENCE)
        assert LINE not in scene.host.read(file).replace(f"#{LINE}", "")

    def test_a_folder_cannot_be_synced(self, scene: Scene, disk: Disk) -> None:
        """Done all the same; that a crash may undo it is in the record."""
        with disk.failing(("fsync", "rc2.d")):
            scene.host.run("ln -s ../init.d/exim4 /etc/rc2.d/S20exim4")
            _goes(scene, "rc2.d/S20exim4")
            scene.host.wait_for(lambda: _outcomes(scene, "/etc/rc2.d/S20exim4", "unverified"), PATIENCE, "the record")
        assert "a crash may undo it" in _outcomes(scene, "/etc/rc2.d/S20exim4", "unverified")[0]


@pytest.mark.usefixtures("disk")
@pytest.mark.parametrize("shared_host", ["bookworm-sysvinit"], indirect=True)
class TestOfTheRecords:
    FOLDER = "/var/lib/dom0-reconciler"
    STATE = states.state(interval="2s")

    @pytest.mark.parametrize(
        ("operation", "name"), [("write", "canna"), ("fsync", "lpd"), ("create", "atd"), ("lookup", "exim4")]
    )
    def test_records_wait_in_memory(self, scene: Scene, disk: Disk, operation: str, name: str) -> None:
        """Links and stops are corrected meanwhile; no file, since what was in it could not be kept."""
        host, link = scene.host, f"rc2.d/S20{name}"
        with disk.failing((operation, "")):
            host.run(f"ln -s ../init.d/{name} /etc/{link}; service {name} start", check=False)
            host.run(f"printf '{LINE}' >>/etc/inetd.conf")
            _goes(scene, link)
            host.wait_for(lambda: not scene.traces(name), PATIENCE, f"{name} to be off")
            host.wait_for(
                lambda: _is_away(scene), PATIENCE, "the fault to be told: a journal that is there may take records"
            )
            assert f"\n{LINE}" in host.read("/etc/inetd.conf")
            if operation == "write":
                _passes(scene)
        scene.off(name, timeout=PATIENCE)
        host.wait_for(lambda: scene.corrected(name), PATIENCE, "the records to come home")
        assert f"\n{LINE}" not in host.read("/etc/inetd.conf")
        assert not host.files.names(SPARE)
        (unlinked,) = [r["id"] for r in scene.corrected(name) if r["action"] == "unlink"]
        host.run([product.COMMAND, "undo", unlinked])
        assert host.exists(f"/etc/{link}")
        host.run([product.COMMAND, "resume"])
        _goes(scene, link)

    def test_a_small_file_that_cannot_be_replaced_holds_nothing_up(self, scene: Scene, disk: Disk) -> None:
        with disk.failing(("rename", "")):
            scene.host.run("ln -s ../init.d/cron2 /etc/rc2.d/S20cron2")
            _goes(scene, "rc2.d/S20cron2")


def _is_away(scene: Scene) -> bool:
    return WORDS in (scene.status()["fault"] or "") and bool(scene.host.files.names(SPARE))


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("shared_host", ["bookworm-sysvinit", "trixie-systemd"], indirect=True)
class TestReadOnly:
    """What a root is that the kernel made read-only under a running system, as ext4 does on an error: /etc and /var."""

    STATE = states.state(interval="5s")

    def test_what_runs_is_stopped_and_the_rest_waits(
        self, both: tuple[Disk, Disk], scene: Scene, number: Callable[[str], None]
    ) -> None:
        host, link, (etc, var) = scene.host, "/etc/rc2.d/S20canna", both
        daemon = _daemon(host)
        os.kill(daemon, signal.SIGSTOP)
        host.run(f"ln -s ../init.d/canna {link}; printf '{LINE}' >>/etc/inetd.conf")
        with etc.read_only(), var.read_only():
            os.kill(daemon, signal.SIGCONT)
            assert host.run(["touch", "/etc/new"], check=False).rc != 0
            host.run("service lpd start; service atd start", check=False)
            began = time.monotonic()
            host.wait_for(lambda: not host.running("lpd") and not host.running("atd"), PATIENCE, "the stops")
            number(f"stopped after {time.monotonic() - began:.1f} s")
            host.wait_for(lambda: READ_ONLY in host.read(f"{SPARE}/journal.jsonl"), PATIENCE, "the record")
            assert host.exists(link)
            status = scene.status()
            assert (status["running"], status["converged"]) == (True, False)
            assert READ_ONLY in status["fault"]
        scene.off("canna", "lpd", "atd", timeout=PATIENCE)
        assert not host.exists(link)
        assert f"\n{LINE}" not in host.read("/etc/inetd.conf")
        host.wait_for(lambda: scene.corrected("canna"), PATIENCE, "the records to come home")
        assert any(READ_ONLY in detail for detail in _outcomes(scene, link, "failed"))
        assert _daemon(host) == daemon

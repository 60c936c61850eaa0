"""What is corrected while the disk below /var/lib/dom0-reconciler takes nothing, what is not, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.hosts import product, states
from tests.hosts.host import Host
from tests.hosts.scenario import Scene

HOME, SPARE = "/var/lib/dom0-reconciler", "/run/dom0-reconciler/spare"
PATIENCE = 60.0
WORDS = {"full": "No space left on device", "read-only": "Read-only file system"}
_OTHER = f"mount -t tmpfs -o size=8m,mode=700 none {HOME}"
_DISK = f"cp -a {HOME} /run/copy; {_OTHER}; mv /run/copy/* {HOME}; rmdir /run/copy"
_BREAK = {
    "full": f"{_DISK}; dd if=/dev/zero of={HOME}/filler bs=4k 2>/dev/null || :",
    "read-only": f"{_DISK}; mount -o remount,ro {HOME}",
}
_MEND = {"full": f"rm {HOME}/filler", "read-only": f"mount -o remount,rw {HOME}"}

HOSTS = pytest.mark.parametrize("shared_host", ["bookworm-sysvinit", "trixie-systemd"], indirect=True)
KINDS = pytest.mark.parametrize("how", WORDS)


@contextmanager
def broken(host: Host, how: str) -> Iterator[None]:
    """A disk with what was there, broken so until the block ends; no daemon has its records half here, half there."""
    host.run(_BREAK[how])
    try:
        yield
    finally:
        host.stop_daemon()
        host.run(["umount", "-l", HOME])
        host.start_daemon()


def told(host: Host) -> list[dict[str, Any]]:
    """The records, as ``log`` shows them."""
    lines = host.run([product.COMMAND, "--json", "log"]).lines
    return [json.loads(line) for line in lines if line]


def ended(host: Host, target: str, outcome: str) -> list[dict[str, Any]]:
    """The outcomes of that word for that target."""
    return [r for r in told(host) if (r["target"], r["outcome"]) == (target, outcome)]


def _verified(host: Host) -> bool:
    return host.run([product.COMMAND, "log", "--verify"], check=False).rc == 0


def _fault(scene: Scene) -> str:
    return str(scene.status().get("fault") or "")


@HOSTS
class TestDisk:
    STATE = states.state(interval="10s")

    @KINDS
    def test_links_and_stops_go_on_and_what_would_be_lost_waits(self, scene: Scene, how: str) -> None:
        host, link = scene.host, "/etc/rc2.d/S20lpd"
        with broken(host, how):
            host.run(f"rm -f /etc/rc2.d/K*lpd; ln -s ../init.d/lpd {link}; service lpd start", check=False)
            host.run("echo 'ident stream tcp nowait nobody /usr/sbin/identd' >>/etc/inetd.conf")
            host.wait_for(lambda: not host.exists(link), PATIENCE, "the link to go")
            host.wait_for(lambda: scene.traces("lpd") == [], PATIENCE, f"lpd to be off, not {scene.traces('lpd')}")
            host.wait_for(lambda: bool(ended(host, "/etc/inetd.conf", "failed")), PATIENCE, "the failure")
            detail = ended(host, "/etc/inetd.conf", "failed")[0]["detail"]
            assert f"what there was could not be kept: {WORDS[how]}" in detail
            assert "identd" in host.read("/etc/inetd.conf")
            [unlinked] = ended(host, link, "done")
            assert WORDS[how] in next(r for r in told(host) if r["record"] == "away")["detail"]
            assert f"records wait in {SPARE}" in _fault(scene)
            assert _verified(host)
            explained = host.run([product.COMMAND, "explain", unlinked["id"]])
            assert link in explained.out

            host.run(_MEND[how])
            scene.converge(PATIENCE)
            assert _fault(scene) == ""
            assert "\nident" not in host.read("/etc/inetd.conf")
            assert not host.exists(f"{SPARE}/journal.jsonl")
            assert not host.exists(f"{SPARE}/manifest.jsonl")
            assert {r["record"] for r in told(host)} >= {"away", "home"}
            assert len(ended(host, link, "done")) == 1
            assert _verified(host)
            host.run([product.COMMAND, "undo", unlinked["id"]])
            assert host.exists(link)
            host.run([product.COMMAND, "resume"])
            host.wait_for(lambda: not host.exists(link), PATIENCE, "the link to go again")
            scene.converge(PATIENCE)

    @KINDS
    def test_a_daemon_starts_and_stops_without_a_disk(self, scene: Scene, how: str) -> None:
        host, link = scene.host, "/etc/rc2.d/S20canna"
        host.stop_daemon()
        with broken(host, how):
            host.run(f"rm -f /etc/rc2.d/K*canna; ln -s ../init.d/canna {link}")
            host.start_daemon()
            host.wait_for(lambda: not host.exists(link), PATIENCE, "the link to go")
            host.wait_for(lambda: SPARE in _fault(scene), PATIENCE, "the fault in the status")
            host.stop_daemon()
            assert {"away", "start", "stop"} <= {r["record"] for r in told(host)}
            assert _verified(host)
            host.start_daemon()
            [unlinked] = ended(host, link, "done")
            host.run(_MEND[how])
            scene.converge(PATIENCE)
            assert ended(host, link, "done") == [unlinked]
            assert _verified(host)

    @KINDS
    def test_orders_without_a_disk_are_obeyed_and_come_home(self, scene: Scene, how: str) -> None:
        """A pause, its end, and what an undo leaves alone."""
        host, link, other = scene.host, "/etc/rc2.d/S20lpd", "/etc/rc2.d/S20canna"
        with broken(host, how):
            host.run(f"rm -f /etc/rc2.d/K*lpd; ln -s ../init.d/lpd {link}")
            host.wait_for(lambda: not host.exists(link), PATIENCE, "the link to go")
            host.wait_for(lambda: bool(ended(host, link, "done")), PATIENCE, "its record")
            paused = host.run([product.COMMAND, "pause", "1h", "--reason", "the disk"])
            assert WORDS[how] in paused.err
            host.run(f"rm -f /etc/rc2.d/K*canna; ln -s ../init.d/canna {other}")
            host.wait_for(lambda: bool(scene.status()["pauses"] and scene.status()["held"]), PATIENCE, "the pause")
            assert host.exists(other)
            host.run([product.COMMAND, "resume"])
            host.wait_for(lambda: not host.exists(other), PATIENCE, "the other link to go")
            host.run([product.COMMAND, "undo", ended(host, link, "done")[0]["id"]])
            passed = scene.status()["last_pass"]
            host.wait_for(lambda: scene.status()["last_pass"] != passed, PATIENCE, "another pass")
            assert host.exists(link)
            host.run(_MEND[how])
            host.wait_for(lambda: _fault(scene) == "", PATIENCE, "the fault to end")
            host.wait_for(lambda: host.exists(f"{HOME}/overrides.json"), PATIENCE, "the order to come home")
            assert not host.exists(f"{SPARE}/overrides.json")
            assert host.exists(link)
            assert _verified(host)
            host.run([product.COMMAND, "resume"])
            host.wait_for(lambda: not host.exists(link), PATIENCE, "the link to go again")
            scene.converge(PATIENCE)

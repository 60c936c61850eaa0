"""What a correction removed is there again after ``undo``, as it was, and runs if that is asked for."""

from __future__ import annotations

import json

from tests.hosts import states
from tests.hosts.host import Host
from tests.hosts.plugin import BootHost
from tests.hosts.trees import Tree

BUT_CANNA = (
    *(*states.WANTED, "atd", "exim4", "inetd", "openbsd-inetd", "lpd", "rpcbind", "nfs-*", "rpc-statd*"),
    *("apt-daily*", "e2scrub*", "fstrim", "dpkg-db-backup", "man-db", "systemd-*", "remote-fs", "*.target"),
)
STATE = f"""\
version = 1
mode = "enforce"
include = ["{states.BOOT}"]
[services]
approved = {json.dumps(BUT_CANNA)}
"""


def links(host: Host) -> Tree:
    """Everything that starts the server, with owners, modes and targets."""
    return {path: entry for path, entry in host.tree("/etc").items() if "canna" in path}


def times(host: Host) -> dict[str, int]:
    found = ((path, host.files.lstat(path)) for path in links(host))
    return {path: status.st_mtime_ns for path, status in found if status is not None}


def test_a_service_comes_back_as_it_was_and_runs(boot_host: BootHost) -> None:
    host = boot_host("trixie", "systemd")
    host.install_product()
    host.put(states.BOOT, states.BOOT_SOURCE.read_bytes())
    host.put(states.PATH, STATE)
    before, when = links(host), times(host)
    host.start_daemon()
    host.wait_for(lambda: not host.running("cannaserver"), 60, "the correction")
    host.wait_for(lambda: host.run("dom0-reconciler status", check=False).rc == 0, 60, "peace")
    assert links(host) != before

    done = {r["pass"] for r in host.journal() if r["outcome"] == "done" and r["action"] in ("unlink", "disable-unit")}
    for pass_id in sorted(done, reverse=True):
        undone = host.run(["dom0-reconciler", "undo", "--pass", pass_id, "--start"])
        assert "to keep it for good: dom0-reconciler approve canna" in undone.out
    host.wait_for(lambda: host.running("cannaserver"), 60, "the server to run again")
    assert (links(host), times(host)) == (before, when)
    assert host.run("dom0-reconciler plan", check=False).rc == 2
    assert host.running("cannaserver"), "left alone by the daemon"
    assert "left alone" in host.run("dom0-reconciler status", check=False).out

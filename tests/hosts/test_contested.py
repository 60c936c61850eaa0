"""Somebody brings a service back again and again: the disk is put right each time, stops wait, and it is said who."""

from __future__ import annotations

import pytest

from reconciler.contested import THRESHOLD
from tests.hosts import product, states
from tests.hosts.host import Host
from tests.hosts.product import PATIENCE
from tests.hosts.scenario import Scene

STATE = states.state()
NAG = "/usr/local/bin/nag"
_LINKS = """\
#!/usr/bin/python3
import os, time
while True:
    try:
        os.symlink("../init.d/lpd", "/etc/rc2.d/S20lpd")
    except FileExistsError:
        pass
    time.sleep(0.1)
"""
_STARTS = "#!/bin/sh\nwhile :; do systemctl start atd.service; sleep 0.1; done\n"


def _nagged(host: Host, script: str) -> Scene:
    scene = Scene(host)
    scene.guard(STATE)
    scene.begin()
    host.put(NAG, script, 0o755)
    return scene


def _contested(scene: Scene) -> list[dict[str, str]]:
    return [record for record in scene.records() if record["record"] == "contested"]


@pytest.mark.parametrize("host", ["bookworm-sysvinit"], indirect=True)
def test_a_link_is_unlinked_each_time_and_the_records_name_who_makes_it(host: Host) -> None:
    scene = _nagged(host, _LINKS)
    nag = host.spawn([NAG])

    def unlinked() -> int:
        return sum(record["action"] == "unlink" for record in scene.corrected("lpd"))

    host.wait_for(lambda: unlinked() >= 2 * THRESHOLD, PATIENCE, "not one to be put off")
    nag.kill()
    host.wait_for(lambda: not host.exists("/etc/rc2.d/S20lpd"), PATIENCE, "the last one to go")
    scene.converge(PATIENCE)
    assert f'by "/usr/bin/python3 {NAG}" (process ' in _contested(scene)[0]["cause"]
    logged = host.syslog().count("unlink /etc/rc2.d/S20lpd of lpd: done")
    assert 0 < logged < unlinked(), "the system's log hears of a contest when it escalates"


@pytest.mark.parametrize("host", ["trixie-systemd"], indirect=True)
def test_a_service_that_is_started_again_and_again_is_masked_in_the_end(host: Host) -> None:
    scene = _nagged(host, _STARTS)
    nag = host.spawn([NAG])
    mask = "/etc/systemd/system/atd.service"
    host.wait_for(lambda: host.exists(mask), PATIENCE, "the stronger remedy")
    assert _contested(scene)
    host.wait_for(lambda: scene.status()["contested"], PATIENCE, "status to say so")
    host.stop_daemon()
    host.start_daemon()
    assert scene.status()["contested"][0]["name"] == "atd", "a restart remembers"
    host.wait_for(lambda: not host.running("atd"), PATIENCE, "atd to be off for good")
    nag.kill()
    scene.converge(PATIENCE)
    assert host.run([product.COMMAND, "log", "--verify"]).rc == 0

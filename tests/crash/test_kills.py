"""A short form of ``scripts/crash kills``: a daemon on a real host killed at random moments under load."""

from __future__ import annotations

import pytest

from tests.crash.kills import Killing
from tests.hosts.host import Host
from tests.hosts.scenario import Scene

KILLS = {"sysvinit": 7, "systemd": 4}


@pytest.mark.parametrize("host", ["bookworm-sysvinit", "trixie-systemd"], indirect=True)
def test_killed_again_and_again_nothing_is_lost(host: Host) -> None:
    kills = KILLS[host.init]
    killing = Killing(Scene(host), seed=kills)
    killing.prepare()
    for _ in range(kills):
        killing.round()
    killing.end()
    assert killing.tally.kills == kills + 1
    assert killing.tally.corrected["unlink"]

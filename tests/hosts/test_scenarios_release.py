"""A release upgrade under guard, from Debian 12 to 13: hundreds of packages, and scripts that turn into units."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.hosts import repository, roots, states
from tests.hosts.plugin import BootHost
from tests.hosts.recipes import INITS, Init
from tests.hosts.scenario import ARTICLE, Scene


@pytest.mark.parametrize("init", INITS)
def test_from_bookworm_to_trixie(boot_host: BootHost, init: Init, number: Callable[[str], None]) -> None:
    host = boot_host("bookworm", init)
    scene = Scene(host)
    repository.publish(host)
    host.run([*repository.APT, "install", "xen-utils-common"], timeout=120)
    scene.guard(states.state("xen", "xendomains"))
    scene.begin()
    before = xen_links(scene)
    assert before

    repository.publish(host, roots.build("trixie", init))
    began = time.monotonic()
    scene.package([*repository.APT, "dist-upgrade"], timeout=900)
    took = time.monotonic() - began
    scene.off(*ARTICLE, timeout=60)
    assert host.read("/etc/debian_version").startswith("13")
    assert host.running("sshd")
    assert host.running("cron")
    assert xen_links(scene) == before, "what was approved stays approved"
    scene.sound()
    number(f"{took:.0f} s of dist-upgrade, {len([r for r in scene.records() if r['outcome'] == 'done'])} corrections")

    host.reboot()
    host.wait_for(lambda: host.running("sshd") and host.running("cron"), 30, "the approved services")
    assert [trace for name in ARTICLE for trace in scene.traces(name)] == []
    host.start_daemon()
    scene.converge()


def xen_links(scene: Scene) -> set[str]:
    """The scripts of Xen that some runlevel starts."""
    return {
        link.rpartition("/")[2][3:]
        for link in scene.host.start_links()
        if link.rpartition("/")[2][3:] in ("xen", "xendomains")
    }

"""A Domain-0 whose power is cut in the midst of corrections, and one that is told at the boot prompt to observe."""

from __future__ import annotations

import re
from pathlib import Path

from tests.hosts import product
from tests.hosts.vm.dom0 import Dom0
from tests.hosts.vm.scene import PATIENCE, STATE, UNAPPROVED, converge, guest_stays_up, install_package, intents

SCRIPTS = ("canna", "exim4", "lpd", "nfs-common", "openbsd-inetd", "rpcbind")


def links(host: Dom0) -> set[str]:
    """The start links of what is not approved."""
    return {link for link in host.start_links() if re.sub(r".*/S\d\d", "", link) in SCRIPTS}


def enforce_from_now_on(host: Dom0) -> None:
    """As an editor writes the file, whole and on the disk."""
    host.put("/etc/dom0-reconciler/new", STATE % host.suite)
    host.run(["sh", "-c", f"sync; mv /etc/dom0-reconciler/new {product.STATE}; sync"])


def test_a_power_cut_in_the_midst_of_corrections(dom0: Dom0, deb: Path) -> None:
    """`dom0-reconciler=off` shows what the cut has left: each effect has its record. Then the next boot goes on."""
    install_package(dom0, deb)
    before = links(dom0)
    enforce_from_now_on(dom0)
    dom0.wait_for(lambda: intents(dom0), PATIENCE, "the first corrections")

    dom0.power_cut("dom0-reconciler=off")
    assert product.status_code(dom0) == 3, "told to stay off, it does"
    assert dom0.run([product.COMMAND, "log", "--verify"]).rc == 0
    left, begun = dom0.journal(), intents(dom0)
    assert {f"/etc/{link}" for link in before - links(dom0)} <= {record["target"] for record in begun}
    with guest_stays_up(dom0):
        assert dom0.journal() == left

    dom0.power_cut()
    dom0.wait_for(lambda: product.status_code(dom0) in (0, 2), PATIENCE, "the daemon, started by init")
    with guest_stays_up(dom0):
        converge(dom0)
        assert not set(UNAPPROVED) & set(dom0.processes().values())
        assert links(dom0) == set()
    assert dom0.run([product.COMMAND, "log", "--verify"]).rc == 0
    assert dom0.journal()[: len(left)] == left, "nothing of the record was lost"
    ended = {record["id"] for record in dom0.journal() if record["record"] == "outcome"}
    assert {record["id"] for record in intents(dom0)} <= ended, "what the cut left open was explained"


def test_at_the_boot_prompt_it_is_told_to_observe(dom0: Dom0, deb: Path) -> None:
    install_package(dom0, deb)
    dom0.stop_daemon(PATIENCE)
    enforce_from_now_on(dom0)
    dom0.power_cut("dom0-reconciler=observe")
    dom0.wait_for(lambda: product.status_code(dom0) == 2, PATIENCE, "the daemon to look, and to report")
    with guest_stays_up(dom0):
        status = dom0.status()
        assert status["mode"] == "observe"
        assert {"canna", "exim4", "rpcbind"} <= {finding["service"] for finding in status["findings"]}
        assert dom0.running("cannaserver")
    assert intents(dom0) == []

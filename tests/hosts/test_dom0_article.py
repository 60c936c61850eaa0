"""The article's host as a real Domain-0: what is left runs and listens, nothing else, and the guest counts on."""

from __future__ import annotations

import json
import re

from tests.hosts import product
from tests.hosts.vm.dom0 import Dom0
from tests.hosts.vm.scene import PATIENCE, STATE, converge, guest_stays_up, install

ADDRESS = "10.0.2.15"  # what qemu's DHCP server gives, and what is to be the static one
STATIC = f"""\
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
    address {ADDRESS}/24
    gateway 10.0.2.2
"""
ARTICLE = STATE.replace('"harness-agent"]', '"harness-agent", "!atd"]') + (
    '[network]\ninterfaces = "interfaces"\n[listeners]\nunapproved = "stop"\n[processes]\nunapproved = "report"\n'
)

APPROVED = {"sshd", "cron", "rsyslogd", "dbus-daemon"}
XEN = {"xenstored", "oxenstored", "xenconsoled", "xl", "qemu-system-i38"}
INITS = {"init", "systemd", "systemd-journal", "systemd-udevd", "systemd-logind", "getty", "agetty", "udevd"}
HARNESS = {"harness-agent", "python3"}  # the agent, and the daemon


def kept(host: Dom0) -> dict[int, str]:
    """The processes of what was approved, and of Xen."""
    return {pid: comm for pid, comm in host.processes().items() if comm in APPROVED | XEN}


def only_the_approved(host: Dom0) -> None:
    """By `ps` and `ss`."""
    host.wait_for(lambda: not strangers(host), 300, f"the end of {strangers(host)}")
    assert {line.split()[4].rpartition(":")[2] for line in host.run("ss -H -lntup").lines} == {"22"}


def strangers(host: Dom0) -> set[str]:
    """In parentheses: what systemd has forked and not yet turned into a program."""
    return {comm.strip("()") for comm in host.processes().values()} - APPROVED - XEN - INITS - HARNESS


def nobody_at_111(host: Dom0) -> None:
    """One connect finds nobody, and wakes nobody."""
    reach = f"import socket; socket.create_connection(('{ADDRESS}', 111), 20)"
    assert "refused" in host.run(["python3", "-c", reach], check=False).err
    assert not host.running("rpcbind")


def lifetime(host: Dom0) -> str:
    """How long eth0 holds its address yet."""
    found = re.search(rf"inet {ADDRESS}/24 .*?valid_lft (\w+)", host.run("ip -4 addr show dev eth0").out, re.DOTALL)
    assert found is not None, "the address is gone"
    return found[1]


def test_the_host_of_the_article_with_a_guest(dom0: Dom0) -> None:
    install(dom0, ARTICLE)
    dom0.put("/etc/dom0-reconciler/interfaces", STATIC)
    before, routes = kept(dom0), dom0.run("ip route").out
    assert {"sshd", "cron", "xenconsoled"} <= set(before.values())
    assert lifetime(dom0) != "forever"
    with guest_stays_up(dom0):
        dom0.start_daemon(PATIENCE)
        converge(dom0)
        only_the_approved(dom0)
        nobody_at_111(dom0)
    assert kept(dom0) == before, "what was approved, and Xen, ran on"
    assert (lifetime(dom0), dom0.run("ip route").out) == ("forever", routes)
    with guest_stays_up(dom0):
        a_second_time_there_is_nothing_to_do(dom0)


def a_second_time_there_is_nothing_to_do(host: Dom0) -> None:
    """Nor for a command, nor for the daemon."""
    records = len(host.journal())
    assert host.plan()["steps"] == []
    applied = json.loads(host.run([product.COMMAND, "--json", "apply"], timeout=PATIENCE).out)
    assert applied["converged"]
    assert len(host.journal()) == records
    only_the_approved(host)

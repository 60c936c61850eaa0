"""Units on real hosts with systemd: what is corrected stays so, what is approved runs on untouched."""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.hosts import product
from tests.hosts.host import Host
from tests.hosts.plugin import SYSTEMD

APPROVED = [
    *("ssh", "cron", "networking", "kmod", "procps", "hwclock.sh", "dbus"),
    *("apt-daily", "apt-daily-upgrade", "dpkg-db-backup", "e2scrub_all", "e2scrub_reap", "fstrim"),
]
BOTH = [*APPROVED, "atd"]


def declare(host: Host, approved: list[str], *, mask: bool = False, interval: str = "1h") -> None:
    host.put(
        "/etc/dom0-reconciler/state.toml",
        f'version = 1\nmode = "enforce"\ninterval = "{interval}"\n'
        f"[services]\napproved = {json.dumps(approved)}\nmask = {json.dumps(mask)}\n",
    )


def apply(host: Host) -> dict[str, Any]:
    return product.ask(host, "apply", 0)


def plan(host: product.Place) -> dict[str, Any]:
    return product.ask(host, "plan")


def active(host: Host, *names: str) -> set[str]:
    return {name for name in names if host.run(["systemctl", "is-active", "-q", name], check=False).rc == 0}


def ports(host: Host) -> set[int]:
    return {one.port for one in host.listeners() if one.proto != "unix"}


def pids(host: Host, *names: str) -> dict[str, list[int]]:
    return {name: [one.pid for one in host.running(name)] for name in names}


CONNECT = [sys.executable, "-c", "import socket; exit(socket.socket().connect_ex(('192.0.2.10', 111)))"]
UNWANTED = [
    *("rpcbind.service", "rpcbind.socket", "rpc-statd.service", "exim4.service", "exim4-base.timer"),
    *("inetd.service", "lpd.service", "canna.service"),
]


@SYSTEMD
def test_the_articles_services_end_and_the_approved_keep_their_processes(host: Host) -> None:
    host.install_product()
    declare(host, BOTH)
    assert active(host, *UNWANTED) == set(UNWANTED)
    before = pids(host, "sshd", "cron", "atd", "dbus-daemon", "systemd-logind")
    assert all(before.values())
    done = apply(host)
    assert done["converged"]
    assert active(host, *UNWANTED) == set()
    assert ports(host) == {22}
    assert pids(host, *before) == before
    assert plan(host)["converged"]
    reloads = [one for one in host.journal() if one["record"] == "outcome" and one["action"] == "reload-manager"]
    assert [one["outcome"] for one in reloads] == ["done"]


@SYSTEMD
def test_after_a_reboot_it_is_still_so(host: Host) -> None:
    host.install_product()
    declare(host, BOTH)
    apply(host)
    host.reboot()
    host.wait_for(lambda: 22 in ports(host), 20)
    assert active(host, *UNWANTED) == set()
    assert ports(host) == {22}


@SYSTEMD
def test_one_connect_to_port_111_finds_nobody(host: Host) -> None:
    host.install_product()
    host.use_static_address()
    declare(host, BOTH)
    assert host.from_lan(CONNECT, check=False).rc == 0
    apply(host)
    assert host.from_lan(CONNECT, check=False).rc == errno.ECONNREFUSED
    time.sleep(0.5)
    assert active(host, "rpcbind.service", "rpcbind.socket") == set()


@SYSTEMD
def test_a_socket_left_behind_is_found_although_no_service_runs(host: Host) -> None:
    host.install_product()
    declare(host, BOTH)
    apply(host)
    host.run("systemctl start rpcbind.socket")
    assert [one["ref"] for one in plan(host)["findings"]] == ["units:rpcbind.socket"]
    apply(host)
    assert ports(host) == {22}


@pytest.fixture
def guarded(host: Host) -> Iterator[Host]:
    """A host on which atd is off and unlinked, under guard; at its end that is so again, and ssh was never touched."""
    host.install_product()
    declare(host, APPROVED)
    apply(host)
    host.start_daemon()
    sshd = pids(host, "sshd", "cron")
    yield host
    product.converge(host, product.PATIENCE, plan)
    time.sleep(1)
    assert not active(host, "atd.service")
    assert not host.running("atd")
    assert not host.exists("/etc/systemd/system/multi-user.target.wants/atd.service")
    assert plan(host)["converged"]
    assert pids(host, *sshd) == sshd
    host.stop_daemon()


@SYSTEMD
@pytest.mark.parametrize(
    "command",
    [
        "systemctl enable --now atd.service",
        "systemctl start atd.service",
        "systemctl preset atd.service; systemctl start atd",
        "systemctl enable atd.service",
    ],
)
def test_the_daemon_notices_at_once(guarded: Host, command: str) -> None:
    before = len(guarded.journal())
    guarded.run(command, check=False, timeout=120)  # it may be stopped while systemctl still waits for its start
    guarded.wait_for(lambda: "atd" in {one["service"] for one in guarded.journal()[before:]}, 15, "a record of atd")


@SYSTEMD
def test_an_installation_over_it_brings_nothing_back(guarded: Host) -> None:
    guarded.run("dpkg -i $(ls /media/debs/at_*.deb | head -1)", timeout=120)


@SYSTEMD
def test_masked_it_cannot_be_started_and_an_unmask_is_undone_when_it_comes_back(host: Host) -> None:
    host.install_product()
    declare(host, BOTH, mask=True)
    apply(host)
    assert host.run("systemctl start rpcbind.socket", check=False).rc != 0
    assert host.run("readlink /etc/systemd/system/exim4.service").out == "/dev/null\n"
    assert host.run("systemctl start exim4.service", check=False).rc != 0
    host.run("systemctl unmask rpcbind.socket rpcbind.service && systemctl enable --now rpcbind.service")
    assert 111 in ports(host)
    apply(host)
    assert ports(host) == {22}
    assert host.run("readlink /etc/systemd/system/rpcbind.socket").out == "/dev/null\n"


@SYSTEMD
def test_a_vendor_link_is_masked(host: Host) -> None:
    host.install_product()
    declare(host, BOTH)
    host.put("/usr/lib/systemd/system/foo.service", "[Service]\nExecStart=/bin/sleep inf\n")
    host.run("mkdir -p /usr/lib/systemd/system/multi-user.target.wants")
    host.run("ln -s ../foo.service /usr/lib/systemd/system/multi-user.target.wants/; systemctl daemon-reload")
    host.run("systemctl start foo")
    apply(host)
    assert active(host, "foo.service") == set()
    assert host.run("systemctl is-enabled foo", check=False).out == "masked\n"
    host.reboot()
    assert active(host, "foo.service") == set()


@SYSTEMD
def test_transient_units_and_units_without_a_file_end(host: Host) -> None:
    host.install_product()
    declare(host, BOTH)
    apply(host)
    host.run("systemd-run --unit=odd.service /bin/sleep inf")
    host.put("/etc/systemd/system/gone.service", "[Service]\nExecStart=/bin/sleep inf\n")
    host.run("systemctl daemon-reload; systemctl start gone; rm /etc/systemd/system/gone.service")
    assert {one["service"] for one in plan(host)["findings"]} == {"odd", "gone"}
    apply(host)
    assert active(host, "odd.service", "gone.service") == set()


@SYSTEMD
def test_what_systemd_lists_is_what_the_kind_sees(host: Host) -> None:
    listed = host.run("systemctl list-units --plain --no-legend --type=service --state=active,activating").lines
    links = host.files.names("/run/systemd/units")
    seen = {name.removeprefix("invocation:") for name in links if name.endswith(".service")}
    assert seen == {line.split()[0] for line in listed}


@SYSTEMD
def test_without_a_bus_systemd_is_asked_itself(host: Host) -> None:
    host.install_product()
    declare(host, BOTH)
    host.run("systemctl stop dbus.socket dbus.service", check=False)
    assert not host.exists("/run/dbus/system_bus_socket") or not host.running("dbus-daemon")
    apply(host)
    assert ports(host) == {22}


@SYSTEMD
def test_a_pass_costs_pid_1_next_to_nothing(host: Host) -> None:
    host.install_product()
    declare(host, BOTH, interval="1s")
    apply(host)
    host.start_daemon()
    time.sleep(2)
    before, passes = cpu(host), 10
    time.sleep(passes)
    cost = (cpu(host) - before) / passes
    host.stop_daemon()
    assert cost < 1, "ms of PID 1 a pass, with all else that it does in a second"


def cpu(host: Host) -> float:
    """Milliseconds that the host's PID 1 has run."""
    with open(f"/proc/{host.pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e6

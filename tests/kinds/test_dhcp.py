"""processes: a DHCP client on an interface that the canonical file makes static ends, its address stays."""

from __future__ import annotations

import pytest

from reconciler.desired import DesiredState, Listeners, Network, Processes, Services
from reconciler.model import (
    Address,
    FileState,
    KeepAddress,
    Listener,
    Process,
    Signal,
)
from reconciler.values import replace
from tests.kinds.programs import found, scene
from tests.scenes import process, refs

STATIC = b"""\
iface eth0 inet static
    address 192.0.2.10/24
iface br0 inet static
    address 198.51.100.1/24
iface eth1 inet dhcp
"""
ETH1 = b"iface eth0 inet static\n    address 192.0.2.10/24\niface eth1 inet dhcp\n"
DHCP = DesiredState(network=Network(FileState(STATIC)))
LEASED = Address("eth0", "192.0.2.10", 24, 300)
KEEP = KeepAddress("eth0", "192.0.2.10", 24)


def dhclient(pid: int, *arguments: str) -> Process:
    return process(pid, "/usr/sbin/dhclient", 1, "-4", "-v", "-pf", "/run/dhclient.pid", *arguments)


def client_of(title: str) -> Process:
    """dhcpcd, that overwrites its arguments."""
    return Process(40, 1, "dhcpcd", "/usr/sbin/dhcpcd", (title,))


def kill(*pids: int, executable: str = "/usr/sbin/dhclient", keeps: tuple[tuple[str, str, int], ...] = ()) -> Signal:
    name = executable.rpartition("/")[2]
    wanted = keeps or (("eth0", "192.0.2.10", 24),)
    return Signal(name, "KILL", executable, tuple((pid, 0) for pid in pids), wanted)


def test_a_client_is_ended_once_its_address_is_kept() -> None:
    planned = scene(dhclient(40, "eth0"), held=(LEASED,)).plan(DHCP)
    (finding,) = planned.findings
    assert str(finding.ref) == "processes:/usr/sbin/dhclient eth0"
    assert finding.detail == "process 40: a DHCP client for eth0, which is static (192.0.2.10/24)"
    assert [(step.action, step.held) for step in planned.steps] == [(KEEP, None), (kill(40), None)]


def test_the_port_of_a_client_asks_for_the_same_end_of_it_and_for_no_other() -> None:
    client = dhclient(40, "eth0")
    bootpc = Listener("udp", "0.0.0.0", 68, inode=68, owners=(client,))
    planned = scene(client, held=(LEASED,), sockets=(bootpc,)).plan(replace(DHCP, listeners=Listeners((), "stop")))
    assert refs(planned.findings) == ["listeners:udp/68", "processes:/usr/sbin/dhclient eth0"]
    assert [(step.action, step.held) for step in planned.steps] == [(KEEP, None), (kill(40), None)]
    assert all(len(step.findings) == 2 for step in planned.steps)


def test_an_address_that_is_kept_already_is_left_alone() -> None:
    planned = scene(dhclient(40, "eth0"), held=(replace(LEASED, valid=None),)).plan(DHCP)
    assert [(step.action, step.held) for step in planned.steps] == [(kill(40), None)]


@pytest.mark.parametrize(
    "held",
    [
        (),
        (replace(LEASED, address="192.0.2.50"),),
        (replace(LEASED, prefix=16),),
        (replace(LEASED, interface="eth1"),),
    ],
    ids=["none", "another", "another prefix", "another interface"],
)
def test_without_the_canonical_address_the_client_is_held(held: tuple[Address, ...]) -> None:
    planned = scene(dhclient(40, "eth0"), held=held).plan(DHCP)
    (step,) = planned.steps
    assert (step.action, step.held) == (
        kill(40),
        "eth0 does not hold 192.0.2.10/24, which must outlive it",
    )


@pytest.mark.parametrize(
    ("client", "for_eth0"),
    [
        (dhclient(40, "eth0"), True),
        (dhclient(40, "eth1"), False),
        (dhclient(40), True),  # every interface
        (client_of("dhcpcd: eth0 [ip4] [ip6]"), True),
        (client_of("dhcpcd: [privileged proxy] eth0 [ip4]"), True),
        (client_of("dhcpcd: eth1 [ip4]"), False),
        (client_of("dhcpcd: [manager] [ip4] [ip6]"), True),
        (process(40, "/usr/sbin/dhcpcd", 1, "eth0"), True),
        (process(40, "/usr/sbin/dhclient", 1, "-6", "eth0"), False),
        (process(40, "/usr/bin/udhcpc", 1, "-i", "eth0"), True),
        (process(40, "/usr/sbin/exim4", 1, "eth0"), False),
    ],
)
def test_a_client_serves_the_interfaces_it_names(client: Process, for_eth0: bool) -> None:
    held = (replace(LEASED, valid=None), Address("eth1", "10.0.0.5", 8, None), Address("br0", "198.51.100.1", 24))
    served = [str(finding.ref).endswith(" eth0") for finding in scene(client, held=held).plan(DHCP).findings]
    assert any(served) == for_eth0


def test_a_client_that_serves_a_dynamic_interface_too_is_held() -> None:
    held = (LEASED, Address("eth1", "10.0.0.5", 8, 60))
    planned = scene(dhclient(40, "eth0", "eth1"), held=held).plan(DHCP)
    step = planned.steps[-1]
    assert step.action == kill(40, keeps=(("eth0", "192.0.2.10", 24), ("eth1", "10.0.0.5", 8)))
    assert step.held == "eth1 holds only on lease 10.0.0.5/8, which must outlive it"


@pytest.mark.parametrize("arguments", [("eth0", "eth1"), ()], ids=["named", "every interface"])
def test_nor_is_it_ended_while_the_dynamic_interface_has_no_lease_yet(arguments: tuple[str, ...]) -> None:
    """No carrier, or a server that is down: with the client would go what brings the lease."""
    planned = scene(dhclient(40, *arguments), held=(LEASED,)).plan(replace(DHCP, network=Network(FileState(ETH1))))
    assert planned.steps[-1].action == kill(40)
    assert planned.steps[-1].held == "rail: it serves eth1 too, which is not to be static (process 40, dhclient)"


def test_one_of_two_static_interfaces_without_its_address_holds_their_client() -> None:
    planned = scene(dhclient(40, "eth0", "br0"), held=(LEASED,)).plan(DHCP)
    ends = [step for step in planned.steps if isinstance(step.action, Signal)]
    assert ends
    assert {step.held for step in ends} == {"br0 does not hold 198.51.100.1/24, which must outlive it"}


def test_words_that_name_no_interface_hold_no_client() -> None:
    words = ("-p", "68", "-x", "hostname:dom0", "-i", "eth0")
    planned = scene(process(40, "/usr/sbin/udhcpc", 1, *words), held=(LEASED,)).plan(DHCP)
    assert [step.held for step in planned.steps] == [None, None]


def test_all_helpers_of_a_client_end_with_it() -> None:
    titles = ("dhcpcd: eth0 [ip4]", "dhcpcd: [network proxy] 192.0.2.10", "dhcpcd: [BPF ARP] eth0 192.0.2.10")
    helpers = [replace(client_of(title), pid=40 + n) for n, title in enumerate(titles)]
    planned = scene(*helpers, held=(replace(LEASED, valid=None),)).plan(DHCP)
    wanted = kill(40, 41, 42, executable="/usr/sbin/dhcpcd")
    assert [step.held for step in planned.steps if step.action == wanted] == [None]


def test_approval_does_not_keep_a_client_where_the_address_is_static() -> None:
    desired = replace(DHCP, services=Services(("networking",)), processes=Processes(("dhclient",), "stop"))
    assert "/usr/sbin/dhclient eth0" in found(scene(dhclient(40, "eth0"), held=(LEASED,)), desired)


def test_a_canonical_address_on_lease_is_kept_though_no_client_is_left() -> None:
    planned = scene(held=(LEASED, Address("eth1", "10.0.0.5", 8, 60))).plan(DHCP)
    (finding,) = planned.findings
    assert (str(finding.ref), finding.verdict) == ("processes:eth0 192.0.2.10/24", "drifted")
    (step,) = planned.steps
    assert (step.action, step.held, step.rule) == (KEEP, None, "drifted")


def test_a_client_of_a_dynamic_interface_is_never_just_ended() -> None:
    planned = scene(dhclient(40, "eth1"), held=(Address("eth1", "10.0.0.5", 8, 60),)).plan(
        DesiredState(services=Services(("ssh", "cron")), processes=Processes((), "stop"))
    )
    (step,) = planned.steps
    assert "an address lives on this DHCP client" in str(step.held)


def test_addresses_that_cannot_be_seen_are_a_gap_and_hold_the_client() -> None:
    planned = scene(dhclient(40, "eth0"), gone=("addresses",)).plan(DHCP)
    assert [str(gap.ref) for gap in planned.gaps] == ["processes:addresses"]
    assert [bool(step.held) for step in planned.steps] == [True]


def test_an_address_of_the_folder_counts_too() -> None:
    network = Network(None, {"br0": FileState(b"iface br0 inet static\n address 198.51.100.1/24\n")})
    seen = scene(dhclient(40, "br0"), held=(Address("br0", "198.51.100.1", 24, 9),))
    assert found(seen, DesiredState(network=network)) == ["/usr/sbin/dhclient br0"]

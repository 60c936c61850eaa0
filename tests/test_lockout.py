"""What a lock-out check reads, from kernel tables as text."""

from __future__ import annotations

import pytest

from reconciler import lockout
from reconciler.desired import DesiredState, Network, Services
from reconciler.kinds.base import Context
from reconciler.model import FileState, Host, OddState, Snapshot
from reconciler.services import Catalogue, CatalogueData
from tests.kinds.eyes import FakeEyes

ROUTE = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
xenbr0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
eth1 000010AC 00000000 0001 0 0 0 0000F0FF 0 0 0
"""
BRIDGES = {
    "/sys/class/net/xenbr0": OddState("directory"),
    "/sys/class/net/xenbr0/brif/vif3.0": OddState("directory"),
    "/sys/class/net/br1": OddState("directory"),
    "/sys/class/net/br1/brif/eth2": OddState("directory"),
}


def errors(desired: DesiredState, *, domain0: bool = False, live: bool = True) -> list[str]:
    """The lock-outs of a host whose bridge xenbr0 carries guests and the default route."""
    eyes = FakeEyes({"/proc/net/route": FileState(ROUTE.encode()), **BRIDGES})
    snapshot = Snapshot(Host(live=live, domain0=domain0))
    return lockout.lockout_errors(Context(desired, snapshot, Catalogue(CatalogueData())), eyes)


def test_a_domain0_needs_xen() -> None:
    without = DesiredState(services=Services(("ssh",)), files=("/s.toml",))
    assert errors(without) == []
    [error] = errors(without, domain0=True)
    assert error.startswith('/s.toml: services.approved: this is a Domain-0 and "xen" is not approved')
    assert errors(DesiredState(services=Services(("ssh", "xen"))), domain0=True) == []


@pytest.mark.parametrize("accept", [True, False])
def test_the_route_and_the_guests_keep_their_bridge(accept: bool) -> None:
    static = Network(FileState(b"iface eth0 inet static\n  address 192.0.2.2/24\n"))
    found = errors(DesiredState(network=static, accept_lockout=accept))
    if accept:
        assert found == []
        return
    assert [line.split(" (")[0] for line in found] == [
        "network.interfaces: does not define xenbr0, which holds the default route",
        "network.interfaces: does not define xenbr0, which is a bridge with guests on it",
    ]


def test_a_canonical_file_beside_it_defines_too() -> None:
    parts = {"xenbr0": FileState(b"iface xenbr0 inet static\n address 192.0.2.2/24\n bridge_ports eth0\n")}
    assert errors(DesiredState(network=Network(FileState(b"source interfaces.d/*\n"), parts))) == []


def test_a_tree_that_does_not_run_locks_nobody_out() -> None:
    assert errors(DesiredState(services=Services(())), domain0=True, live=False) == []


def test_addresses_are_read_as_the_kernel_writes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.byteorder", "little")
    assert lockout._address("0A0200C0") == "192.0.2.10"
    assert lockout._address("0000000000000000FFFF00000A0200C0") == "192.0.2.10"
    assert lockout._address("B80D0120000000000000000001000000") == "2001:db8::1"

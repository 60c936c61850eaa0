"""What the kernel and PID 1 answer: netlink's bytes, the tables of /proc, D-Bus messages.

They can be trusted to be well formed; what they quote (names of processes, sockets and control groups, arguments) is
anybody's. All the same a parser takes any bytes: what makes no sense is ``Unobservable``, never a wrong answer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from reconciler.errors import Unobservable
from reconciler.host import addresses, bus, kernel, netlink, sockets
from reconciler.kinds.processes import _mounts
from reconciler.lockout import _default_routes, _established
from reconciler.model import FileState, Listener
from tests.fakes import MemoryEyes
from tests.fuzz.targets.bytes import split, text


def _refused(read: Callable[[], object], error: type[Exception] = Unobservable) -> bool:
    try:
        read()
    except error:
        return True
    return False


def netlink_dump(data: bytes) -> None:
    """Datagrams of an answer; each is read, or it is no answer."""
    answer = netlink.Answer()
    for datagram in split(data, 3):
        if _refused(lambda datagram=datagram: answer.take(datagram)):  # type: ignore[misc]
            return
    for payload in answer.payloads:
        _refused(lambda payload=payload: netlink.attributes(payload))  # type: ignore[misc]


def sock_diag(data: bytes) -> None:
    """A socket of IPv4, IPv6 or a path."""
    for protocol in ("tcp", "udp"):
        if not _refused(lambda protocol=protocol: sockets.parse_inet(data, protocol)):  # type: ignore[misc]
            _judge_listener(sockets.parse_inet(data, protocol))
    if not _refused(lambda: sockets.parse_unix(data)):
        found = sockets.parse_unix(data)
        assert found is None or (found.protocol == "unix" and "\0" not in found.path and found.path)


def _judge_listener(one: Listener) -> None:
    assert 0 <= one.port <= 65535
    ipaddress.ip_address(one.address)


def rtnetlink(data: bytes) -> None:
    """An address of an interface, and the request that makes it stay, which says the same address."""
    names = {n: f"eth{n}" for n in range(256)}
    if _refused(lambda: addresses.parse(data, names)):
        return
    found = addresses.parse(data, names)
    if found is not None:
        ipaddress.ip_address(found.address)
        lasting = addresses.parse(addresses.lasting(data), names)
        assert lasting is not None
        assert (lasting.interface, lasting.address, lasting.prefix) == (found.interface, found.address, found.prefix)


def proc_net(data: bytes) -> None:
    """The tables of /proc/net, where netlink is not to be had."""
    for protocol in ("tcp", "udp"):
        found: list[Listener] = []
        if not _refused(lambda p=protocol, f=found: f.extend(sockets.parse_proc_inet(data, p))):  # type: ignore[misc]
            for one in found:
                _judge_listener(one)
    for one in sockets.parse_proc_unix(data):
        assert one.protocol == "unix"
        assert one.path


def proc_pid(data: bytes) -> None:
    """A process: its stat, command line and control group, all of which quote what a user wrote."""
    stat, arguments, cgroup = split(data, 3)
    assert isinstance(kernel.parse_cgroup(cgroup), str)
    words = kernel.parse_arguments(arguments)
    assert all("\0" not in word for word in words)
    if _refused(lambda: kernel.parse_stat(stat)):
        return
    found = kernel.parse_stat(stat)
    assert found is None or found.name == text(stat.rpartition(b")")[0].partition(b"(")[2])


def comm(data: bytes) -> None:
    """Whatever name a process gives itself, nobody takes it for another's number or parent."""
    stat = b"7 (" + data[:64] + b") S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 1234 5 6"
    found = kernel.parse_stat(stat)
    assert found is not None
    assert (found.parent, found.started, found.name) == (1, 1234, text(data[:64]))


def routes(data: bytes) -> None:
    """/proc/net/route and /proc/net/tcp say what a login lives on; a line that makes no sense says nothing."""
    eyes = MemoryEyes({"/proc/net/route": FileState(data), "/proc/net/tcp": FileState(data)})
    for name in _default_routes(eyes):
        assert name.split() == [name]
    for address, port in _established(eyes):
        ipaddress.ip_address(address)
        assert port >= 0


def mounts(data: bytes) -> None:
    """The types of what is mounted."""
    (found,) = _mounts(MemoryEyes({"/proc/self/mounts": FileState(data)}))
    assert all(kind.split() == [kind] for kind in found.types)


def dbus(data: bytes) -> None:
    """An answer of PID 1: its header, and its list of units."""
    _refused(lambda: bus.parse_message(data), bus.BusError)
    if not _refused(lambda: bus.read_units(data), bus.BusError):
        assert all(isinstance(name, str) and isinstance(state, str) for name, state in bus.read_units(data))


TARGETS = (netlink_dump, sock_diag, rtnetlink, proc_net, proc_pid, comm, routes, mounts, dbus)

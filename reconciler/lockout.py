"""What a state would lock out when enforced: the guests, the administrator, the network under both. Reads only.

Judged before a state is enforced (design, section 4), on what holds the host together at that moment: the Domain-0
itself, logins that are established, the interfaces of the default route, of those logins, and bridges with guests.
``accept_lockout = true`` overrules all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from reconciler.desired import Network
from reconciler.errors import Unobservable
from reconciler.host import Eyes
from reconciler.kinds.base import Context
from reconciler.lineage import Lineage
from reconciler.model import Listener
from reconciler.network.ifupdown import defines
from reconciler.network.netswitch import GUEST_PORTS
from reconciler.values import Value

_ESTABLISHED, _ROUTE_UP, _NOWHERE = "01", 0x1, "00000000"


def lockout_errors(context: Context, eyes: Eyes) -> list[str]:
    """Why this state must not be enforced on this host as it is now; nothing on a tree that does not run."""
    desired = context.desired
    if desired.accept_lockout or not context.host.live:
        return []
    lineage = Lineage.of(context.snapshot, context.catalogue, desired)
    doors = lineage.login_services()
    lost = [*_lost_services(context, doors), *_lost_interfaces(desired.network, _held_up(eyes, lineage, doors))]
    place = f"{desired.files[0]}: " if desired.files else ""
    return [f"{place}{line} (accept_lockout = true overrides)" for line in lost]


def _lost_services(context: Context, doors: Iterable[str]) -> Iterator[str]:
    services = context.desired.services
    if services is None:
        return
    if context.host.domain0 and not context.catalogue.approved("xen", services.approved):
        yield 'services.approved: this is a Domain-0 and "xen" is not approved: guests live on it'
    for name in sorted(doors):
        if not context.catalogue.approved(name, services.approved):
            yield f'services.approved: somebody is logged in through "{name}", which is not approved'


# --- the network ---------------------------------------------------------------------------------------------------


class Lifeline(Value):
    """An interface and what hangs on it."""

    interface: str
    why: str


def _lost_interfaces(network: Network | None, lifelines: Iterable[Lifeline]) -> Iterator[str]:
    if network is None or network.interfaces is None:
        return
    files = (network.interfaces, *(network.interfaces_d or {}).values())
    defined = frozenset(name for file in files for name in defines(file.content))
    for line in sorted(lifelines, key=lambda each: (each.interface, each.why)):
        if line.interface not in defined:
            yield f"network.interfaces: does not define {line.interface}, which {line.why}"


def _held_up(eyes: Eyes, lineage: Lineage, doors: Iterable[str]) -> set[Lifeline]:
    """Every interface that must not be lost. What cannot be read holds nothing up: it is no reason to refuse."""
    routes = {Lifeline(name, "holds the default route") for name in _default_routes(eyes)}
    logins = {Lifeline(name, "carries a login") for name in _login_interfaces(eyes, lineage, frozenset(doors))}
    return routes | logins | {Lifeline(name, "is a bridge with guests on it") for name in _guest_bridges(eyes)}


def _lines(eyes: Eyes, path: str) -> list[list[str]]:
    try:
        table = eyes.read(path)
    except Unobservable:
        return []
    return [line.split() for line in table.content.decode("ascii", "replace").splitlines()[1:]] if table else []


def _default_routes(eyes: Eyes) -> set[str]:
    """proc_net_route: interface, destination, gateway, flags, three counters, mask."""
    return {
        fields[0]
        for fields in _lines(eyes, "/proc/net/route")
        if len(fields) > 7 and fields[1] == fields[7] == _NOWHERE and _is_up(fields[3])  # noqa: PLR2004
    }


def _is_up(flags: str) -> bool:
    with suppress(ValueError):
        return bool(int(flags, 16) & _ROUTE_UP)
    return False


def _guest_bridges(eyes: Eyes) -> Iterator[str]:
    try:
        for interface in eyes.folder("/sys/class/net") or ():
            ports = eyes.folder(f"/sys/class/net/{interface.name}/brif") or ()
            if any(port.name.startswith(GUEST_PORTS) for port in ports):
                yield interface.name
    except Unobservable:
        return


def _login_interfaces(eyes: Eyes, lineage: Lineage, doors: frozenset[str]) -> set[str]:
    """The interfaces whose address an established connection to a login's port uses."""
    if not doors:
        return set()
    ports = {one.port for one in eyes.listeners(_is_tcp) if any(lineage.service(o) in doors for o in one.owners)}
    local = {address for address, port in _established(eyes) if port in ports}
    return {held.interface for held in eyes.addresses() if held.address in local and held.interface != "lo"}


def _is_tcp(listener: Listener) -> bool:
    return listener.protocol == "tcp"


def _established(eyes: Eyes) -> Iterator[tuple[str, int]]:
    """The local end of every established connection (proc(5), /proc/net/tcp)."""
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        for fields in _lines(eyes, path):
            if len(fields) > 3 and fields[3] == _ESTABLISHED:  # noqa: PLR2004
                yield from _end(fields[1])


def _end(text: str) -> Iterator[tuple[str, int]]:
    """``0100007F:0016``; nothing for what is no address and port."""
    address, _, port = text.partition(":")
    with suppress(ValueError):
        return iter([(_address(address), int.from_bytes(bytes.fromhex(port)))])
    return iter(())


def _address(text: str) -> str:
    """The kernel writes each 32-bit word of an address in the byte order of the host."""
    import ipaddress
    from sys import byteorder

    words = [bytes.fromhex(text[at : at + 8]) for at in range(0, len(text), 8)]
    ip = ipaddress.ip_address(b"".join(word[::-1] if byteorder == "little" else word for word in words))
    mapped = getattr(ip, "ipv4_mapped", None)
    return str(mapped or ip)

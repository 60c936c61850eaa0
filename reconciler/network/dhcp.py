"""DHCP clients where the canonical files make an interface static: pure, from the process table and the addresses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from reconciler.desired import DesiredState
from reconciler.lineage import DHCP_CLIENT, HeldAddress, Running
from reconciler.model import Address, Process, Ref, Resource
from reconciler.network.ifupdown import dynamic_interfaces, static_addresses
from reconciler.patterns import pattern
from reconciler.values import replace


class Client(Resource):
    """A DHCP client for one interface that should be static. ``held``: its canonical address as it is now.

    ``others`` are addresses that must outlive the same processes too: those of the other static interfaces that they
    serve, and those that they keep alive on interfaces that are not static.
    """

    interface: str = ""
    processes: tuple[Process, ...] = ()
    canonical: Address = Address("", "", 0)
    held: Address | None = None
    others: tuple[Address, ...] = ()


def canonical_addresses(desired: DesiredState) -> dict[str, list[Address]]:
    """Interface -> the addresses that the canonical files give it for good."""
    found: dict[str, list[Address]] = {}
    for content in _files(desired):
        for interface, addresses in static_addresses(content).items():
            found.setdefault(interface, []).extend(_address(interface, text) for text in addresses)
    return found


def _files(desired: DesiredState) -> list[bytes]:
    network = desired.network
    files = [] if network is None else [network.interfaces, *(network.interfaces_d or {}).values()]
    return [file.content for file in files if file is not None]


def _address(interface: str, text: str) -> Address:
    address, _, prefix = text.partition("/")
    return Address(interface, address, int(prefix))


def clients(seen: Collection[Resource], desired: DesiredState) -> Iterator[Client]:
    """For each static interface and each DHCP client program that serves it, of what was seen to run and to be held."""
    static = canonical_addresses(desired)
    if not static:
        return
    held = [each.address for each in seen if isinstance(each, HeldAddress)]
    for running in seen:
        if not isinstance(running, Running) or not DHCP_CLIENT.fullmatch(running.program.rpartition("/")[2]):
            continue
        found = list(_of(running, static, held))
        for client in found:
            leased = (a for a in held if a.valid is not None and a.interface not in static)
            served = [a for a in leased if any(_serves(p, a.interface) for p in client.processes)]
            mains = {p for p in client.processes if not _is_helper(p)}
            shared = [c for c in found if c is not client and not mains.isdisjoint(c.processes)]
            yield replace(client, others=(*(c.canonical for c in shared), *served))


def _of(running: Running, static: dict[str, list[Address]], held: list[Address]) -> Iterator[Client]:
    for interface, addresses in static.items():
        theirs = tuple(p for p in running.processes if _serves(p, interface))
        wanted = [each for each in addresses if any(_family(p) in (0, _version(each)) for p in theirs)]
        if theirs and wanted:
            yield _client(running, interface, theirs, wanted, held)


def serves_beside(process: Process, desired: DesiredState) -> str:
    """An interface that a client is there for and that nobody wants static, "" for none: a lease may come any time."""
    named = {name for name in _named(process.arguments) if _LIKE_ONE.fullmatch(name)}
    if not named and not _is_helper(process):
        named = dynamic_interfaces(_files(desired))
    return min(named - canonical_addresses(desired).keys(), default="")


def _client(
    running: Running, interface: str, theirs: tuple[Process, ...], wanted: list[Address], held: list[Address]
) -> Client:
    pairs = [(each, as_held(each, held)) for each in wanted]
    canonical, found = next((pair for pair in pairs if pair[1] is not None), pairs[0])
    ref = Ref(running.ref.kind, f"{running.program} {interface}")
    return Client(ref, running.names, interface, theirs, canonical, found)


def as_held(canonical: Address, held: Iterable[Address]) -> Address | None:
    """The canonical address as the interface holds it, on lease or for ever; ``None``: it does not."""
    return next((each for each in held if _same(each, canonical)), None)


def _same(one: Address, other: Address) -> bool:
    return replace(one, valid=None) == replace(other, valid=None)


def _serves(process: Process, interface: str) -> bool:
    """True when its arguments name the interface, or none at all: then it serves every one.

    A word that nobody knows names another interface: one without carrier holds no address, and its client stays.
    """
    named = _named(process.arguments)
    return interface in named or not named


def _is_helper(process: Process) -> bool:
    """One of dhcpcd's for a single address, on an interface that it does not name."""
    return not _named(process.arguments) and any(_ADDRESS.fullmatch(word) for word in _title(process.arguments))


def _named(arguments: Sequence[str]) -> set[str]:
    """What may be an interface among the arguments of a client.

    dhcpcd(8) writes its title into them, in one word: ``dhcpcd: [network proxy] eth0 [ip4]``.
    """
    found = {word for word in _title(arguments) if not _ADDRESS.fullmatch(word)}
    before = ""
    for word in arguments[1:]:
        told = _INTERFACE.match(word)
        if told is not None:
            found.add(word[told.end() :])
        elif not word.startswith("-") and before not in _TAKES_A_VALUE and _NAME.fullmatch(word):
            found.add(word)
        before = word
    return found


def _title(arguments: Sequence[str]) -> list[str]:
    return _PARTS.sub(" ", arguments[0]).split()[1:] if arguments else []


_PARTS = pattern(r"\[[^]]*\]")
_ADDRESS = pattern(r"[0-9.]+|[0-9a-fA-F]*:[0-9a-fA-F:.]*(%.*)?")
_INTERFACE = pattern(r"-[bfnqRSv]*i(?=[a-z]+[0-9])|--interface=")
_NAME = pattern(r"(?!udhcpc6?$)[^/=\s]{1,15}")
_LIKE_ONE = pattern(r"[^:]*[a-zA-Z][^:]*")  # no port, no address, and no "hostname:dom0"
_TAKES_A_VALUE = frozenset(
    ("-lf", "-pf", "-cf", "-sf", "-df", "-timeout", *(f"-{letter}" for letter in "seCFRtOhlmcuzZ"))
)
"""Options of dhclient(8), dhcpcd(8), udhcpc(8) and pump(8) before a word that is no interface.

An option that takes a word of one client and none of another is not among them: too many names are safe, for a client
whose words nobody knows is left alone.
"""


def _family(process: Process) -> int:
    """The IP version that a client was told to serve alone, 0 for both; dhclient(8) without ``-6`` means 4."""
    if "-6" in process.arguments or process.name == "udhcpc6":
        return 6
    return 4 if "-4" in process.arguments or process.name.startswith("dhclient") else 0


def _version(address: Address) -> int:
    return 6 if ":" in address.address else 4

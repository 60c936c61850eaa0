"""A change of the running network that reverts by itself unless confirmed from a new login. Pure.

What has to change is told from the files as they are and as they are declared. What was changed stands in one small
file, durable before the first effect: until it is confirmed, whoever finds it overdue (the process that waits for just
that, the daemon, the next boot) puts everything back. What was reverted is not tried again until the declared files
change, or an administrator says ``apply``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from reconciler.desired import DesiredState, Network
from reconciler.model import Address, FileState, Resource
from reconciler.moment import Moment, Span
from reconciler.network.applying import ApplyNetwork
from reconciler.network.ifupdown import Interface, interfaces, stanzas, static_addresses
from reconciler.values import Value, replace

PATH = "/var/lib/dom0-reconciler/network.json"
"""Below the root; 0600: it holds network files as they were."""

GUEST_PORTS = ("vif", "tap", "vnet")
"""How the ports of guests begin: xl's vif scripts, qemu, libvirt."""

VERSION = 1
Phase = Literal["staged", "applying", "applied", "reverting", "reverted"]


class RunningNetwork(Resource):
    """The network as it runs. ``bridges`` are (bridge, its ports); ``gateways`` (interface, address)."""

    addresses: tuple[Address, ...] = ()
    bridges: tuple[tuple[str, tuple[str, ...]], ...] = ()
    gateways: tuple[tuple[str, str], ...] = ()
    tools: frozenset[str] = frozenset()

    def guests(self, bridge: str) -> tuple[str, ...]:
        """The ports of guests on a bridge."""
        ports = dict(self.bridges).get(bridge, ())
        return tuple(port for port in ports if port.startswith(GUEST_PORTS))


# --- what has to change ---------------------------------------------------------------------------------------------

_ADDRESSED = frozenset(("address", "netmask", "broadcast", "network", "gateway"))
_BRIDGE = ("bridge_ports", "bridge-ports")
_RAW = ("vlan_raw_device", "vlan-raw-device")
_AUTO = ("auto", "allow-auto", "allow-hotplug")
_LOOPBACK = "lo"


def reshape(before: Iterable[bytes], network: Network, after: Iterable[bytes], now: RunningNetwork) -> ApplyNetwork:
    """What has to be taken down and brought up when these files follow those; neither: nothing has to be done."""
    old, new = _definitions(before), _definitions(after := tuple(after))
    changed = {name for name in {*old, *new} - {_LOOPBACK} if old.get(name) != new.get(name)}
    changed = {n for n in changed if not (n in old and n in new and _runs_so(old[n], new[n], now))}
    changed |= {name for name in {*old, *new} if _rides_on(name, (*old.get(name, ()), *new.get(name, ())), changed)}
    auto = {w for content in after for s in stanzas(content) if s.keyword in _AUTO for w in s.words}
    return ApplyNetwork(
        network.apply,
        down=tuple(name for name in reversed(old) if name in changed),
        up=tuple(name for name in new if name in changed and name in auto),
        perhaps=tuple(name for name in new if name in changed and name not in auto and name in old),
        digest=digest_of(network),
        seconds=network.confirm,
    )


def _definitions(contents: Iterable[bytes]) -> dict[str, tuple[Interface, ...]]:
    """Interface -> its stanzas, in the order of the files."""
    found: dict[str, list[Interface]] = {}
    for content in contents:
        for each in interfaces(content):
            found.setdefault(each.name, []).append(each)
    return {name: tuple(each) for name, each in found.items()}


def _runs_so(old: Sequence[Interface], new: Sequence[Interface], now: RunningNetwork) -> bool:
    """True where it is known to run as declared: only addresses differ, and it holds just those that it should."""
    if any(each.method != "static" for each in new) or not _differ_in_addresses(old, new):
        return False
    name = new[0].name
    held = {f"{a.address}/{a.prefix}" for a in now.addresses if a.interface == name and a.valid is None}
    wanted, former = set(_static(new)), set(_static(old))
    gateways = {each.value("gateway") for each in new} - {""}
    running = {gateway for interface, gateway in now.gateways if interface == name}
    return bool(wanted) and wanted <= held and not (former - wanted) & held and gateways == running


def _differ_in_addresses(old: Sequence[Interface], new: Sequence[Interface]) -> bool:
    def rest(each: Interface) -> tuple[str, tuple[tuple[str, str], ...]]:
        return each.family, tuple(option for option in each.options if option[0] not in _ADDRESSED)

    return sorted(map(rest, old)) == sorted(map(rest, new))


def _static(found: Sequence[Interface]) -> Iterator[str]:
    for each in found:
        options = "".join(f"\n {name} {value}" for name, value in each.options)
        text = f"iface {each.name} {each.family} {each.method}{options}\n"
        yield from static_addresses(text.encode("utf-8", "surrogateescape")).get(each.name, ())


def _rides_on(name: str, found: Sequence[Interface], changed: Iterable[str]) -> bool:
    """A VLAN or an alias goes down with what it is made of."""
    below = {value for each in found for option, value in each.options if option in _RAW}
    return any(name.startswith((f"{each}.", f"{each}:")) or each in below for each in changed)


def digest_of(network: Network) -> str:
    """Names what is declared: the same files, the same digest."""
    from reconciler.digest import sha256  # what only a network that follows its files needs

    files: list[tuple[str, FileState]] = list((network.interfaces_d or {}).items())
    files += [("", network.interfaces)] if network.interfaces is not None else []
    parts = (f"{name}\0{state.mode:o}\0".encode() + sha256(state.content).digest() for name, state in sorted(files))
    return sha256(network.apply.encode() + b"".join(parts)).hexdigest()


def lost_bridge(action: ApplyNetwork, desired: DesiredState, now: RunningNetwork) -> str:
    """Why guests would be left without their bridge, else ""."""
    network = desired.network or Network()
    files = [network.interfaces, *(network.interfaces_d or {}).values()]
    defined = [each for file in files if file is not None for each in interfaces(file.content)]
    bridges = {each.name for each in defined if any(option in _BRIDGE for option, _ in each.options)}
    for name, _ in now.bridges:
        if name in action.down and now.guests(name) and name not in bridges:
            return (
                f"rail: guests hang on the bridge {name} ({', '.join(now.guests(name))}), and it would be none any more"
            )
    return ""


# --- what was changed -----------------------------------------------------------------------------------------------


class Switch(Value):
    """A change of the network. ``files`` are lines of a manifest (:mod:`reconciler.storage.kept`): what was there.

    ``were`` are the interfaces that were up before, ``ports`` what hung on which bridge; ``span`` is the time to
    confirm, from the moment it was applied on. ``fault`` says why the file could not be understood.
    """

    phase: Phase = "reverted"
    pass_id: str = ""
    action: ApplyNetwork = ApplyNetwork("", (), ())
    span: Span = Span(Moment(), 0.0)
    files: tuple[str, ...] = ()
    were: tuple[str, ...] = ()
    ports: tuple[tuple[str, tuple[str, ...]], ...] = ()
    cause: str = ""
    fault: str = ""

    @property
    def waits(self) -> bool:
        """True while it is neither confirmed nor reverted."""
        return bool(self.pass_id) and self.phase != "reverted"

    def left(self, now: Moment) -> float:
        """Seconds in which it can be confirmed: none in another boot than the one that it was applied in."""
        same = self.phase == "applied" and self.span.began.boot == now.boot
        return self.span.left(now) if same else 0.0


def held(step: ApplyNetwork | None, switch: Switch, now: Moment, *, ordered: bool) -> str:
    """Why a correction of the network has to wait for a change made before, else ""; ``None``: one of a file."""
    if switch.fault:
        return f"{switch.fault}: it may be that a change of the network has to be reverted"
    if switch.waits:
        if step is not None and switch.phase == "staged" and step.digest == switch.action.digest:
            return ""  # this very one, about to be begun
        left = f" within {switch.left(now):.0f} s" if switch.phase == "applied" else ""
        return f'a change of the network is under way and reverts unless "dom0-reconciler confirm" is said{left}'
    if step is not None and not ordered and switch.pass_id and step.digest == switch.action.digest:
        return f'it was applied and reverted (pass {switch.pass_id}); "dom0-reconciler apply" tries it again'
    return ""


# --- the file -------------------------------------------------------------------------------------------------------


def text_of(switch: Switch) -> bytes:
    """The file."""
    import json  # most hosts never have one

    action, began = switch.action, switch.span.began
    shape = {
        "version": VERSION,
        "phase": switch.phase,
        "pass": switch.pass_id,
        "cause": switch.cause,
        "action": [action.tool, action.down, action.up, action.perhaps, action.digest, action.seconds],
        "span": [began.wall, began.boot, began.since_boot, switch.span.seconds],
        "were": switch.were,
        "ports": switch.ports,
        "files": switch.files,
    }
    return (json.dumps(shape, indent=1) + "\n").encode("ascii")


def parse(text: bytes) -> Switch:
    """What :func:`text_of` was given; whatever else it is, a ``fault``. Never raises."""
    import json

    try:
        return _switch(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Switch(fault=f"{PATH} makes no sense ({error})")


def _switch(shape: Mapping[str, Any]) -> Switch:
    if shape["version"] != VERSION or shape["phase"] not in get_args(Phase):
        raise ValueError(f"version {shape['version']!r}, phase {shape['phase']!r}")
    tool, down, up, perhaps, digest, seconds = shape["action"]
    wall, boot, since_boot, span = shape["span"]
    return Switch(
        shape["phase"],
        str(shape["pass"]),
        ApplyNetwork(str(tool), _words(down), _words(up), _words(perhaps), str(digest), float(seconds)),
        Span(Moment(float(wall), str(boot), float(since_boot)), float(span)),
        _words(shape["files"]),
        _words(shape["were"]),
        tuple((str(bridge), _words(ports)) for bridge, ports in shape["ports"]),
        str(shape["cause"]),
    )


def _words(values: Iterable[object]) -> tuple[str, ...]:
    return tuple(map(str, values))


def applied(switch: Switch, now: Moment) -> Switch:
    """The same, from now on to be confirmed."""
    return replace(switch, phase="applied", span=Span(now, switch.action.seconds))

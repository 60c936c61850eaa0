"""TOML text -> ``DesiredState``: what the administrator declared, checked as a whole.

Approved is permission, never a demand: an approved service that does not run is no finding.

The schema is the functions ``_services`` to ``_processes``, one line for each key. What a word may be
stands in :mod:`reconciler.statefile.words` and :mod:`reconciler.statefile.ports`; where files come from, in
:mod:`reconciler.statefile.layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args

from reconciler.errors import StateError
from reconciler.host.state import StateReader
from reconciler.model import FileState, Mode
from reconciler.statefile.layers import Layer, Layers
from reconciler.statefile.ports import PortNames, parse_port
from reconciler.statefile.table import YEAR, Table
from reconciler.statefile.words import (
    Wrong,
    executable,
    file_path,
    inetd_line,
    interfaces_name,
    ip_address,
    service_name,
)
from reconciler.values import Value, field, replace

OnUnapproved = Literal["report", "stop"]
Apply = Literal["file", "ifup", "ifreload"]

KINDS = {
    "services": ("rclinks", "units"),
    "inetd": ("inetd",),
    "network": ("interfaces",),
    "listeners": ("listeners",),
    "processes": ("processes",),
}
"""The kinds that judge by each table."""


class Services(Value):
    """``[services]``: any name of a service, init script or unit; shell globs allowed."""

    approved: tuple[str, ...] = ()
    stop: bool = True
    mask: bool = False


class Rails(Value):
    """``[rails]``: what no correction may touch, whatever is approved."""

    never_stop: tuple[str, ...] = ()
    never_unlink: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


class Inetd(Value):
    """``[inetd]``: ``service/protocol`` of each line that may be active."""

    approved: tuple[str, ...] = ()

    def approves(self, names: Collection[str]) -> bool:
        """True where one of a line's names is approved."""
        return any(name == pattern or fnmatchcase(name, pattern) for pattern in self.approved for name in names)


class Network(Value):
    """``[network]``: canonical files, with the owner and mode to restore; ``None`` means not judged.

    ``apply`` is by what the running network follows them, ``confirm`` how many seconds it waits for a confirmation.
    """

    interfaces: FileState | None = None
    interfaces_d: Mapping[str, FileState] | None = None
    apply: Apply = "file"
    confirm: float = 120.0


class ListenerRule(Value):
    """One approved listener. ``ports`` is a closed range; empty strings mean any."""

    protocol: str
    ports: tuple[int, int]
    address: str = ""
    process: str = ""
    service: str = ""
    path: str = ""  # of a unix socket; globs allowed

    @property
    def word(self) -> str:
        """The port or path, as it may be written: ``tcp/20-30``, ``unix/dev/log``."""
        first, last = self.ports
        ports = str(first) if first == last else f"{first}-{last}"
        return f"{self.protocol}/{self.path.lstrip('/') if self.path else ports}"

    @property
    def narrowed(self) -> tuple[str, ...]:
        """What it asks for besides, ``address = "127.0.0.1"``."""
        keys = {"address": self.address, "process": self.process, "service": self.service}
        return tuple(f'{key} = "{value}"' for key, value in keys.items() if value)


class Listeners(Value):
    """``[listeners]``."""

    approved: tuple[ListenerRule, ...] = ()
    unapproved: OnUnapproved = "report"


class Processes(Value):
    """``[processes]``: executables by name or path; globs allowed."""

    approved: tuple[str, ...] = ()
    unapproved: OnUnapproved = "report"


class Limits(Value):
    """``[quarantine]``: how much of what was removed is kept, in bytes, and for how long, in seconds."""

    size: int = 64 << 20
    age: float = YEAR[0]


class DesiredState(Value):
    """All that the state file, its includes and drop-ins declare. A table that is ``None`` is not judged."""

    mode: Mode = "observe"
    interval: float = 300.0  # seconds between full passes
    dpkg_wait: float = 600.0  # seconds that stops and masks wait for one dpkg at most
    accept_lockout: bool = False
    services: Services | None = None
    rails: Rails = field(default_factory=Rails)
    inetd: Inetd | None = None
    network: Network | None = None
    listeners: Listeners | None = None
    processes: Processes | None = None
    quarantine: Limits = field(default_factory=Limits)
    files: tuple[str, ...] = ()  # every file it was read from: a change of one is a reason to reload
    warnings: tuple[str, ...] = ()


def load(
    path: str,
    reader: StateReader,
    *,
    shipped: Sequence[str] = (),
    built: Collection[str] | None = None,
    port_names: Callable[[], FileState | None] = lambda: None,
) -> DesiredState:
    """Read a state file with its includes and drop-ins. Raises ``StateError`` with every error of every file.

    ``shipped`` are the folders whose states may be included from anywhere; ``built`` the names of the kinds
    that exist, to warn of a table that none of them judges; ``port_names`` reads /etc/services, and is called
    only when a name is used.
    """
    files = Layers(reader, shipped)
    files.open(path)
    state, names = DesiredState(), PortNames(port_names)
    for layer in files.layers:
        state = _merge(state, layer, files, names)
        layer.table.close()
    _warn_unbuilt(files.layers, built)
    errors = [line for notes in files.notes for line in notes.error_lines()]
    if errors:
        raise StateError(errors)
    warnings = tuple(line for notes in files.notes for line in notes.warning_lines())
    return replace(state, files=tuple(files.watched), warnings=warnings)


def lockout_errors(desired: DesiredState) -> list[str]:
    """What forbids to enforce a state on any host, whatever runs there: nothing is approved at all.

    ``accept_lockout`` overrides. A state with nothing but ``[network]`` has nothing to approve. What only a
    live host can tell is not told here.
    """
    judged = [t for t in (desired.services, desired.inetd, desired.listeners, desired.processes) if t is not None]
    if desired.accept_lockout or any(table.approved for table in judged) or (desired.network and not judged):
        return []
    place = f"{desired.files[0]}: " if desired.files else ""
    return [f"{place}nothing is approved at all: this would lock you out (accept_lockout = true overrides)"]


def _warn_unbuilt(layers: Sequence[Layer], built: Collection[str] | None) -> None:
    for name, kinds in KINDS.items():
        stating = [layer for layer in layers if name in layer.table.values]
        if built is not None and stating and not set(kinds) & set(built):
            stating[0].notes.warn((name,), "nothing here judges by this table yet")


def _merge(before: DesiredState, layer: Layer, files: Layers, names: PortNames) -> DesiredState:
    """One file laid over what the files before it declare."""
    top = layer.table
    return replace(
        before,
        mode=top.word("mode", before.mode, get_args(Mode)),
        interval=top.span("interval", before.interval),
        dpkg_wait=top.span("dpkg_wait", before.dpkg_wait),
        accept_lockout=top.flag("accept_lockout", before.accept_lockout),
        services=_services(top.table("services"), before.services),
        rails=_rails(top.table("rails"), before.rails),
        inetd=_inetd(top.table("inetd"), before.inetd),
        network=_network(top.table("network"), before.network, layer, files),
        listeners=_listeners(top.table("listeners"), before.listeners, names),
        processes=_processes(top.table("processes"), before.processes),
        quarantine=_quarantine(top.table("quarantine"), before.quarantine),
    )


def _services(table: Table | None, before: Services | None) -> Services | None:
    if table is None:
        return before
    before = before or Services()
    return Services(
        approved=table.strings("approved", before.approved, service_name),
        stop=table.flag("stop", before.stop),
        mask=table.flag("mask", before.mask),
    )


def _rails(table: Table | None, before: Rails) -> Rails:
    if table is None:
        return before
    return Rails(
        never_stop=table.strings("never_stop", before.never_stop, service_name),
        never_unlink=table.strings("never_unlink", before.never_unlink, service_name),
        allow=table.strings("allow", before.allow, service_name),
    )


def _inetd(table: Table | None, before: Inetd | None) -> Inetd | None:
    if table is None:
        return before
    return Inetd(approved=table.strings("approved", before.approved if before else (), inetd_line))


def _network(table: Table | None, before: Network | None, layer: Layer, files: Layers) -> Network | None:
    if table is None:
        return before
    before = before or Network()
    name = table.text("interfaces", file_path)
    return Network(
        interfaces=before.interfaces if name is None else files.canonical(layer, table, "interfaces", name),
        interfaces_d=_interfaces_d(table.table("interfaces_d"), before.interfaces_d, layer, files),
        apply=table.word("apply", before.apply, get_args(Apply)),
        confirm=table.span("confirm", before.confirm, (5.0, "five seconds"), (86400.0, "a day")),
    )


def _interfaces_d(
    table: Table | None, before: Mapping[str, FileState] | None, layer: Layer, files: Layers
) -> Mapping[str, FileState] | None:
    if table is None:
        return before
    after = dict(before or {})
    for key in table.values:
        name = table.text(key, file_path)
        try:
            interfaces_name(key)
        except Wrong as wrong:
            table.error(key, str(wrong))
        state = None if name is None else files.canonical(layer, table, key, name)
        if state is not None:
            after[key] = state
    return after


def _listeners(table: Table | None, before: Listeners | None, names: PortNames) -> Listeners | None:
    if table is None:
        return before
    before = before or Listeners()

    def parse(item: object, number: int) -> ListenerRule | None:
        if isinstance(item, dict):
            return _listener(table.child(item, "approved", number), names)
        protocol, ports, path = parse_port(str(item), names)
        return ListenerRule(protocol, ports, path=path)

    return Listeners(
        approved=table.joined("approved", before.approved, parse, _same_port, (str, dict)),
        unapproved=table.word("unapproved", before.unapproved, get_args(OnUnapproved)),
    )


def _listener(table: Table, names: PortNames) -> ListenerRule | None:
    """``{ port, address, process, service }``; all but the port may be missing."""
    port = table.text("port", lambda text: parse_port(text, names))
    address = table.text("address", ip_address)
    process, service = table.text("process", executable), table.text("service", service_name)
    if "port" not in table.values:
        table.error("port", "is missing")
    if port is None:
        return None
    protocol, ports, path = port
    if path and address:
        table.error("address", "a unix socket has none")
    return ListenerRule(protocol, ports, address or "", process or "", service or "", path)


def _same_port(one: ListenerRule, other: ListenerRule) -> bool:
    """``"!tcp/22"`` takes out every rule on that port, the ones with an address, process or service too."""
    return (one.protocol, one.ports, one.path) == (other.protocol, other.ports, other.path)


def _processes(table: Table | None, before: Processes | None) -> Processes | None:
    if table is None:
        return before
    before = before or Processes()
    return Processes(
        approved=table.strings("approved", before.approved, executable),
        unapproved=table.word("unapproved", before.unapproved, get_args(OnUnapproved)),
    )


def _quarantine(table: Table | None, before: Limits) -> Limits:
    if table is None:
        return before
    return Limits(
        size=table.size("size", before.size, (1 << 20, "1 MiB"), (1 << 40, "1 TiB")),
        age=table.span("age", before.age, (86400.0, "a day"), (100 * YEAR[0], "a hundred years")),
    )

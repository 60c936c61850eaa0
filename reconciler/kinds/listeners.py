"""listeners: sockets that wait for somebody, tcp and udp over IPv4 and IPv6, and unix sockets that accept.

A listener is known by protocol, address and port, never by pid or inode; the wildcards of both IP versions are
one. Loopback counts: a port that only this host can reach is approved like any other. An approved service does
not bring its ports with it, for the port is what an outsider meets. Unix sockets it does bring: they are how the
services of one host talk, and init, logins and the message bus hold dozens of them.

Who holds a socket is looked up only where the answer matters: for what is not approved by port and address
alone. What is corrected is the cause: the inetd line or socket unit that opens the port, else the service, else
the process. An approved service that opens a port nobody approved contradicts the state itself: that is held; an
approved line of inetd that does is left as it is, and the port reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial

from reconciler.desired import DesiredState, ListenerRule
from reconciler.errors import Unobservable
from reconciler.host import Eyes
from reconciler.kinds.base import Approvable, Context
from reconciler.lineage import INIT, Lineage, named, signal_to, stop_of
from reconciler.model import Finding, Host, Listener, Place, Process, Ref, Resource, Rule, Sight, Step
from reconciler.network.dhcp import clients
from reconciler.services import UnitFile, base_name, program_of
from reconciler.text import escape
from reconciler.values import Value

NAME = "listeners"
NEEDS_ROOT = True

SHOWN = 5
"""How many addresses and processes a finding names."""

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - seen, not bound
_INETD = ("inetd", "inetutils-inetd", "xinetd")


class Listening(Resource):
    """One protocol, address and port, or path, with every socket that waits there.

    ``aliases`` are what ``opens`` of another resource may call it: ``tcp/113``, ``tcp/auth``.
    """

    listeners: tuple[Listener, ...] = ()
    aliases: frozenset[str] = frozenset()


def places(desired: DesiredState, host: Host) -> Iterable[Place]:
    """The kernel's table of sockets, on a live host where ``[listeners]`` is declared."""
    if desired.listeners is None or not host.live:
        return ()
    return (Place(NAME, "", permits=partial(_permits, desired.listeners.approved)),)


def concerns(place: Place, name: str) -> bool:
    """A kernel table has no names that come and go."""
    return False


# --- what it sees ------------------------------------------------------------------------------------------


def observe(place: Place, eyes: Eyes) -> Sight:
    """Every listener; with owners, where the place does not permit it whoever they are. Raises ``Unobservable``."""
    permits = place.permits
    found = eyes.listeners(lambda one: permits is None or not permits(one))
    groups: dict[Ref, list[Listener]] = {}
    for one in found:
        groups.setdefault(Ref(NAME, name_of(one)), []).append(one)
    names = _port_names(eyes) if any(one.owners for one in found) else {}
    return Sight(tuple(_listening(ref, group, names) for ref, group in groups.items()))


def name_of(one: Listener) -> str:
    """``tcp/111``, ``tcp/127.0.0.1:25``, ``tcp/[::1]:25``, ``unix//dev/printer``."""
    if one.protocol == "unix":
        return f"unix/{one.path}"
    if one.address in _WILDCARDS:
        return f"{one.protocol}/{one.port}"
    address = f"[{one.address}]" if ":" in one.address else one.address
    return f"{one.protocol}/{address}:{one.port}"


def _listening(ref: Ref, group: Sequence[Listener], names: Mapping[str, tuple[str, ...]]) -> Listening:
    one = group[0]
    aliases = {f"{one.protocol}/{one.path or one.port}"}
    aliases.update(f"{one.protocol}/{name}" for name in names.get(f"{one.port}/{one.protocol}", ()))
    owners = dict.fromkeys(owner.name for each in group for owner in each.owners)
    return Listening(ref, tuple(owners), tuple(group), frozenset(aliases))


def _port_names(eyes: Eyes) -> dict[str, tuple[str, ...]]:
    """``113/tcp`` -> its name and aliases by services(5). They only help to find a cause: unread, there are none."""
    try:
        state = eyes.read("/etc/services")
    except Unobservable:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for line in state.content.decode("utf-8", "replace").splitlines() if state else ():
        name, port, *aliases = (*line.partition("#")[0].split(), "", "")
        found[port] = (*found.get(port, ()), name, *filter(None, aliases))
    return found


# --- what is judged ----------------------------------------------------------------------------------------


def _permits(rules: Iterable[ListenerRule], one: Listener) -> bool:
    """True where some rule approves it whoever holds it."""
    return any(_is_at(rule, one) for rule in rules if not (rule.process or rule.service))


def _is_at(rule: ListenerRule, one: Listener) -> bool:
    if rule.protocol != one.protocol:
        return False
    if one.protocol == "unix":
        return bool(rule.path) and fnmatchcase(one.path, rule.path)
    return rule.ports[0] <= one.port <= rule.ports[1] and rule.address in ("", one.address)


def judge(place: Place, sight: Sight, context: Context) -> Iterator[Finding]:
    """Every listener that nobody approved."""
    wanted = context.desired.listeners
    if wanted is None:
        return
    rule: Rule = "unapproved" if wanted.unapproved == "stop" else "reported"
    lineage: Lineage | None = None
    for listening in sight.resources:
        if isinstance(listening, Listening) and not all(_permits(wanted.approved, o) for o in listening.listeners):
            lineage = lineage or Lineage.of(context.snapshot, context.catalogue, context.desired)
            strangers = [o for o in listening.listeners if not _approved(o, wanted.approved, lineage, context)]
            lent = [o for o in strangers if _is_kept_open(o, listening, context)]
            if lent:
                yield _finding(listening, lent, "reported", lineage, context)
            if others := [o for o in strangers if o not in lent]:
                yield _finding(listening, others, rule, lineage, context)


def _approved(one: Listener, rules: Iterable[ListenerRule], lineage: Lineage, context: Context) -> bool:
    if one.protocol == "unix" and all(lineage.exempt(owner) for owner in one.owners):
        return True  # also where the owner went while we looked
    return any(_is_at(rule, one) and _is_held_by(rule, one, lineage, context) for rule in rules)


def _is_held_by(rule: ListenerRule, one: Listener, lineage: Lineage, context: Context) -> bool:
    """True where each owner is the one that the rule asks for. init lends its sockets: it counts only alone."""
    if not (rule.process or rule.service):
        return True
    owners, listening = _users(one), _listening(Ref(NAME, name_of(one)), (one,), {})
    return bool(owners) and all(_is_the_one(rule, owner, listening, lineage, context) for owner in owners)


def _is_the_one(rule: ListenerRule, owner: Process, listening: Listening, lineage: Lineage, context: Context) -> bool:
    if rule.process and not named(owner, (rule.process,)):
        return False
    service = _service_of(owner, listening, lineage, context)
    return not rule.service or (bool(service) and context.catalogue.approved(service, (rule.service,)))


def _users(one: Listener) -> tuple[Process, ...]:
    return tuple(owner for owner in one.owners if owner.pid != INIT) or one.owners


def _finding(
    listening: Listening, strangers: Sequence[Listener], rule: Rule, lineage: Lineage, context: Context
) -> Finding:
    causes = tuple(_causes(listening, strangers, context))
    kept = {cause.ref: ", which inetd.approved keeps" for cause in causes if _is_approved(cause, context)}
    opened = "".join(f"; opened by {cause.ref}{kept.get(cause.ref, '')}" for cause in causes)
    seen = Listening(listening.ref, listening.names, tuple(strangers), listening.aliases)
    service = _service(listening, strangers, lineage, context)
    return Finding(listening.ref, service, "unapproved", rule, _detail(strangers, service) + opened, seen, causes)


def _service(listening: Listening, strangers: Iterable[Listener], lineage: Lineage, context: Context) -> str:
    """The service that holds it, else the process's name, else "": the kernel itself."""
    owners = [owner for one in strangers for owner in _users(one)]
    known = (_service_of(owner, listening, lineage, context) for owner in owners)
    return next(filter(None, known), "") or next((owner.name for owner in owners), "")


def _service_of(owner: Process, listening: Listening, lineage: Lineage, context: Context) -> str:
    """The service of a process; for init, which holds the sockets of others, the one whose socket unit opens it."""
    if owner.pid != INIT:
        return lineage.service(owner)
    units = (unit for unit in context.catalogue.units.values() if not listening.aliases.isdisjoint(unit.opens))
    return next((base_name(unit.unit) for unit in units), "")


def _causes(listening: Listening, strangers: Sequence[Listener], context: Context) -> Iterator[Resource]:
    """The lines of a super-server's configuration that open it, where it is one that holds it.

    And the DHCP client, where it has no business on this host: it ends with care for the address that it keeps alive.
    """
    owners = {owner.pid for one in strangers for owner in one.owners}
    seen = [r for sight in context.snapshot.sights.values() for r in sight.resources]
    for client in clients(seen, context.desired):
        if owners and owners.issubset(process.pid for process in client.processes):
            yield client
    if any(owner.name in _INETD for one in strangers for owner in one.owners):
        yield from _lines(listening, context)


def _lines(listening: Listening, context: Context) -> Iterator[Resource]:
    for sight in context.snapshot.sights.values():
        for resource in sight.resources:
            if not isinstance(resource, UnitFile) and not listening.aliases.isdisjoint(resource.opens):
                yield resource


def _is_kept_open(one: Listener, listening: Listening, context: Context) -> bool:
    """True where inetd holds it for a line that ``[inetd]`` approves."""
    if not any(owner.name in _INETD for owner in one.owners):
        return False
    return any(_is_approved(line, context) for line in _lines(listening, context))


def _is_approved(cause: Resource, context: Context) -> bool:
    inetd = context.desired.inetd
    return inetd is not None and isinstance(cause, Approvable) and inetd.approves(cause.approvals)


def _detail(strangers: Sequence[Listener], service: str) -> str:
    """Who listens where."""
    owners = dict.fromkeys(owner for one in strangers for owner in one.owners)
    holders = [f"{owner.name} (process {owner.pid}{_program(owner)})" for owner in owners]
    who = ", ".join(holders[:SHOWN]) if holders else "the kernel itself, or a process that is gone,"
    where = " and ".join(sorted({one.address for one in strangers if one.address})[:SHOWN])
    what = f"{who} listens on {where}" if where else f"{who} listens"
    of = f"; of the service {service}" if service and service not in {owner.name for owner in owners} else ""
    return escape(f"{what}{of}")


def _program(owner: Process) -> str:
    program = program_of(owner)
    return f", {program}" if program.startswith("/") else ""


class Account(Value):
    """What is to be said of a listener, against the state or not; ``approved`` are the rules, as they are written."""

    ref: Ref
    service: str
    detail: str
    programs: tuple[str, ...]
    approved: tuple[str, ...]


def account(listening: Listening, context: Context) -> Account:
    """Who holds it, as far as that was looked up, and by what it may."""
    lineage = Lineage.of(context.snapshot, context.catalogue, context.desired)
    rules = context.desired.listeners.approved if context.desired.listeners else ()
    service = _service(listening, listening.listeners, lineage, context)
    programs = (program_of(owner) for one in listening.listeners for owner in _users(one))
    fitting = (
        rule
        for one in listening.listeners
        for rule in rules
        if _is_at(rule, one) and _is_held_by(rule, one, lineage, context)
    )
    return Account(
        listening.ref,
        service,
        _detail(listening.listeners, service),
        tuple(dict.fromkeys(program for program in programs if program.startswith("/"))),
        tuple(dict.fromkeys(", ".join((rule.word, *rule.narrowed)) for rule in fitting)),
    )


# --- what would be done ------------------------------------------------------------------------------------


def remedy(findings: Sequence[Finding], context: Context) -> Iterator[Step]:
    """Correct what holds the port. A cause of another kind is mended by that kind: the planner asks it."""
    lineage: Lineage | None = None
    for finding in findings:
        if finding.causes or not isinstance(finding.seen, Listening):
            continue
        lineage = lineage or Lineage.of(context.snapshot, context.catalogue, context.desired)
        yield from _end(finding, finding.seen, lineage, context)


def _end(finding: Finding, seen: Listening, lineage: Lineage, context: Context) -> Iterator[Step]:
    owners = {owner.pid: owner for one in seen.listeners for owner in _users(one)}
    groups: dict[str, list[Process]] = {}
    for owner in owners.values():
        groups.setdefault(_service_of(owner, seen, lineage, context), []).append(owner)
    for service, processes in groups.items():
        stop = stop_of(service, context.catalogue, context.host) if service else None
        if stop is not None and stop.service not in context.tried:
            yield Step(stop, stop.service, (finding.ref,))
        else:
            name = stop.service if stop else service or program_of(processes[0])
            yield Step(signal_to(name, processes, context.tried), name, (finding.ref,))

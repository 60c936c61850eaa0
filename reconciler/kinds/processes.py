"""processes: what runs, by program; and DHCP clients where the canonical file makes an interface static.

A program is never judged by pid: one resource is one program, however many processes run it. What belongs to a
service that is known and not approved is a finding wherever ``[services]`` is declared; with ``[processes]`` so
is every other program that is not approved. See :mod:`reconciler.lineage` for what is exempt.

A DHCP client keeps an address alive: when it ends, so does the address, as soon as the lease runs out. It is
ended only by a signal that requires the canonical address to be there for ever; that address is made so in the
same pass, just before, because a renewal in between would make it mortal again (dhclient-script(8)).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from reconciler.desired import DesiredState
from reconciler.errors import Unobservable
from reconciler.host import Eyes
from reconciler.kinds.base import Context
from reconciler.lineage import (
    ADDRESSES,
    HeldAddress,
    Lineage,
    Mounted,
    Running,
    named,
    signal_to,
    stop_of,
    who,
)
from reconciler.model import (
    Address,
    Entry,
    Finding,
    Gap,
    Host,
    KeepAddress,
    Place,
    Process,
    Ref,
    Resource,
    Rule,
    Sight,
    Signal,
    Step,
)
from reconciler.network.dhcp import Client, as_held, canonical_addresses, clients
from reconciler.patterns import pattern
from reconciler.services import program_of
from reconciler.text import escape
from reconciler.values import replace

NAME = "processes"
NEEDS_ROOT = True
TABLE = Place(NAME, "")

SHOWN = 5
"""How many pids a finding names."""

_FILES = ("/etc/inittab", "/etc/rc.local", "/etc/crontab")
_FOLDERS = ("/etc/cron.d", "/var/spool/cron/crontabs", "/etc/network/if-up.d")
_WORD = pattern(r"[\w./+-]+")


class Starter(Resource):
    """A file from which things are started beside the init system. ``words`` are what its live lines name."""

    path: str = ""
    words: frozenset[str] = frozenset()
    how: str = ""


def places(desired: DesiredState, host: Host) -> Iterable[Place]:
    """The process table of a live host, where anything is declared that it bears on: rails need it too."""
    tables = (desired.services, desired.processes, desired.listeners, desired.network)
    return (TABLE,) if host.live and any(table is not None for table in tables) else ()


def concerns(place: Place, name: str) -> bool:
    """A kernel table has no names that come and go."""
    return False


# --- what it sees ------------------------------------------------------------------------------------------


def observe(place: Place, eyes: Eyes) -> Sight:
    """What runs, what starts things, what it all lives on. Raises ``Unobservable`` without /proc."""
    living = _living(eyes, _LOOKS)
    return Sight((*living.resources, *_starters(eyes)), living.gaps)


def observe_again(place: Place, eyes: Eyes, before: Sight, names: Collection[str]) -> Sight:
    """Look at what runs and what it lives on; a stop waits for it. The files from which things are started stay.

    So do the addresses that are held, but where :data:`ADDRESSES` is among the names: only who tells a process to end
    that keeps one alive needs to know.
    """
    kept = Starter if ADDRESSES in names else (Starter, HeldAddress)
    looks = _LOOKS if ADDRESSES in names else _LOOKS[1:]
    living = _living(eyes, looks, again=True)
    gaps = [gap for gap in before.gaps if gap.ref.name == ADDRESSES and ADDRESSES not in names]
    return Sight((*living.resources, *(r for r in before.resources if isinstance(r, kept))), (*living.gaps, *gaps))


def _living(
    eyes: Eyes, looks: Sequence[tuple[str, Callable[[Eyes], Sequence[Resource]]]], *, again: bool = False
) -> Sight:
    guarding = eyes.watchdog_holders()
    programs: dict[str, list[Process]] = {}
    for process in eyes.processes(again=again):
        programs.setdefault(program_of(process), []).append(process)
    seen: list[Resource] = [_running(program, found, guarding) for program, found in programs.items()]
    gaps: list[Gap] = []
    for name, look in looks:
        try:
            seen += look(eyes)
        except Unobservable as error:
            gaps.append(Gap(NAME, Ref(NAME, name), str(error)))
    return Sight(tuple(seen), tuple(gaps))


def _addresses_of(eyes: Eyes) -> list[HeldAddress]:
    return [_held(address) for address in eyes.addresses()]


def _mounts(eyes: Eyes) -> list[Mounted]:
    """The third field of each line is the type; spaces in the others are escaped (``proc(5)``)."""
    table = eyes.read("/proc/self/mounts")
    lines = table.content.decode("utf-8", "replace").splitlines() if table else ()
    types = frozenset(fields[2] for line in lines if len(fields := line.split()) > 2)  # noqa: PLR2004
    return [Mounted(Ref(NAME, "mounts"), (), types)]


_LOOKS = ((ADDRESSES, _addresses_of), ("mounts", _mounts))


def _running(program: str, found: Sequence[Process], guarding: frozenset[int]) -> Running:
    held = guarding.intersection(process.pid for process in found)
    return Running(Ref(NAME, program), (found[0].name,), program, tuple(found), held)


def _held(address: Address) -> HeldAddress:
    name = f"{address.interface} {address.address}/{address.prefix}"
    return HeldAddress(Ref(NAME, name), (), address)


def _starters(eyes: Eyes) -> Iterator[Starter]:
    """What cannot be read names no cause, and is no gap: what runs is judged all the same."""
    for path in (*_FILES, *_paths_in(_FOLDERS, eyes)):
        try:
            state = eyes.read(path)
        except Unobservable:
            continue
        if state is not None:
            how, lines = _live_lines(path, state.content.decode("utf-8", "replace"))
            words = frozenset(word for line in lines for word in _WORD.findall(line))
            if words:
                yield Starter(Ref(NAME, path), (), path, words, how)


def _paths_in(folders: Iterable[str], eyes: Eyes) -> Iterator[str]:
    for folder in folders:
        try:
            entries: tuple[Entry, ...] = eyes.folder(folder) or ()
        except Unobservable:
            continue
        yield from (f"{folder}/{entry.name}" for entry in entries if entry.what in ("file", "link"))


def _live_lines(path: str, text: str) -> tuple[str, list[str]]:
    """How a file starts things, and its lines that do."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if path == "/etc/inittab":
        return "init starts it again", lines
    if "cron" in path:
        return "@reboot", [line for line in lines if line.startswith("@reboot")]
    return "", lines


# --- what is judged ----------------------------------------------------------------------------------------


def judge(place: Place, sight: Sight, context: Context) -> Iterator[Finding]:
    """DHCP clients of static interfaces, mortal canonical addresses, and every program that nobody approved."""
    lineage = Lineage.of(context.snapshot, context.catalogue, context.desired)
    found = list(clients(sight.resources, context.desired))
    yield from (_client_finding(client) for client in found)
    yield from _mortal(sight, context.desired, found)
    theirs = {process.pid for client in found for process in client.processes}
    starters = [each for each in sight.resources if isinstance(each, Starter)]
    for running in sight.resources:
        if isinstance(running, Running):
            yield from _strangers(running, theirs, starters, lineage, context)


def _strangers(
    running: Running, theirs: set[int], starters: Sequence[Starter], lineage: Lineage, context: Context
) -> Iterator[Finding]:
    """One finding for each service that the program's processes belong to, and one for those of none."""
    wanted = context.desired.processes
    groups: dict[str, list[Process]] = {}
    for process in running.processes:
        spared = wanted is not None and named(process, wanted.approved)
        if not spared and process.pid not in theirs and not lineage.exempt(process):
            groups.setdefault(_known(lineage.service(process), context), []).append(process)
    for service, processes in groups.items():
        if service or wanted is not None:
            finding = _finding(running, service, processes, starters, context)
            owner = service or "no service"  # each finding has a ref of its own
            yield finding if len(groups) == 1 else replace(finding, ref=Ref(NAME, f"{running.program} of {owner}"))


def _known(service: str, context: Context) -> str:
    """The service where ``[services]`` judges it: by a table that is missing nothing is judged."""
    return service if context.desired.services is not None else ""


def _finding(
    running: Running, service: str, processes: Sequence[Process], starters: Sequence[Starter], context: Context
) -> Finding:
    seen = Running(running.ref, running.names, running.program, tuple(processes), running.guarding)
    detail = "; ".join((_pids(processes), *_origin(service, running, processes, starters)))
    services, wanted = context.desired.services, context.desired.processes
    if service:
        corrected = services is not None and services.stop
    else:
        corrected = wanted is not None and wanted.unapproved == "stop"
    rule: Rule = "unapproved" if corrected else "reported"
    name = service or running.program
    return Finding(running.ref, name, "unapproved", rule, escape(detail), seen)


def _pids(processes: Sequence[Process]) -> str:
    pids = sorted(process.pid for process in processes)
    more = f" and {len(pids) - SHOWN} more" if len(pids) > SHOWN else ""
    return f"{'process' if len(pids) == 1 else 'processes'} {', '.join(map(str, pids[:SHOWN]))}{more}"


def _origin(service: str, running: Running, processes: Sequence[Process], starters: Sequence[Starter]) -> Iterator[str]:
    """Whose it is, and what names it among the files that start things."""
    package = processes[0].package
    if service:
        yield f"of the service {service}"
    else:
        yield f"of the package {package}" if package else "of no package"
    names = {running.program, running.program.rpartition("/")[2], running.program.removeprefix("/usr")}
    for starter in starters:
        if not names.isdisjoint(starter.words):
            yield f"named in {starter.path}{f' ({starter.how})' if starter.how else ''}"


# --- DHCP clients ------------------------------------------------------------------------------------------


def _client_finding(client: Client) -> Finding:
    canonical = f"{client.canonical.address}/{client.canonical.prefix}"
    detail = f"{_pids(client.processes)}: a DHCP client for {client.interface}, which is static ({canonical})"
    return Finding(client.ref, client.names[0], "unapproved", "unapproved", escape(detail), client)


def _mortal(sight: Sight, desired: DesiredState, renewing: Iterable[Client]) -> Iterator[Finding]:
    """A canonical address that is on lease, though no client is left to renew it."""
    served = {client.interface for client in renewing}
    held = [each.address for each in sight.resources if isinstance(each, HeldAddress)]
    for interface, addresses in canonical_addresses(desired).items():
        for canonical in addresses:
            found = as_held(canonical, held)
            if interface not in served and found is not None and found.valid is not None:
                resource = _held(found)
                detail = "static, but on lease, and nobody renews it"
                yield Finding(resource.ref, interface, "drifted", "drifted", detail, resource)


# --- what would be done ------------------------------------------------------------------------------------


def remedy(findings: Sequence[Finding], context: Context) -> Iterator[Step]:
    """Stop the service that it belongs to; where that was tried, or there is none, tell the processes to go."""
    for finding in findings:
        match finding.seen:
            case Client():
                yield from _end_client(finding, finding.seen)
            case HeldAddress():
                yield Step(_keep(finding.seen.address), finding.service, (finding.ref,), finding.rule)
            case Running():
                yield _end(finding, finding.seen, context)


def _keep(address: Address) -> KeepAddress:
    return KeepAddress(address.interface, address.address, address.prefix)


def _end_client(finding: Finding, client: Client) -> Iterator[Step]:
    """KILL: on TERM dhcpcd takes addresses and routes away unless its configuration says ``persistent``.

    Killed, dhclient 4.4 and dhcpcd 9.4 and 10.1 with all their helpers leave both untouched (measured).
    """
    service = client.names[0]  # also where the finding is another kind's: its port
    if client.held is not None and client.held.valid is not None:
        yield Step(_keep(client.held), service, (finding.ref,), finding.rule)
    program = program_of(client.processes[0])
    keeps = tuple((a.interface, a.address, a.prefix) for a in (client.canonical, *client.others))
    action = Signal(service, "KILL", program, who(client.processes), keeps)
    yield Step(action, service, (finding.ref,), finding.rule)


def _end(finding: Finding, running: Running, context: Context) -> Step:
    name = finding.service
    stop = None if name == running.program else stop_of(name, context.catalogue, context.host)
    if stop is not None:
        if stop.service not in context.tried:
            return Step(stop, stop.service, (finding.ref,))
        name = stop.service
    return Step(signal_to(name, running.processes, context.tried), name, (finding.ref,))

"""Everything that is known of one name: a service, a resource, a path, a port, an action. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from reconciler.holds import paths_of
from reconciler.kinds.base import Context
from reconciler.kinds.inetd import ActiveLine
from reconciler.kinds.listeners import Account, Listening, account
from reconciler.kinds.rclinks import RcLink
from reconciler.model import Finding, Plan, Record, Resource, Step
from reconciler.observer import Observer
from reconciler.origins import Origin
from reconciler.rails import rails_of
from reconciler.services import InitScript, Service, UnitFile, base_name, matches
from reconciler.text import argument, escape
from reconciler.values import Value, field, replace

_UNITS = "/etc/systemd/system"


class Explanation(Value):
    """What is known. ``approved`` is the word of the state that approves the service, "" none.

    ``seen`` are the resources that belong to it and are no findings; ``records`` what was done to it; ``back`` the
    commands that lead back.
    """

    name: str
    service: Service
    approved: str = ""
    rails: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    seen: tuple[Resource, ...] = ()
    steps: tuple[Step, ...] = ()
    origins: tuple[Origin, ...] = ()
    records: tuple[Record, ...] = ()
    back: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    listeners: tuple[Account, ...] = ()

    @property
    def known(self) -> bool:
        """False for a name that means nothing here."""
        here = self.service.script or self.service.units
        return bool(here or self.findings or self.seen or self.records or self.approved)


Taken = Callable[[Record], Collection[str]]
"""The lines of inetd's files, ``ident/tcp``, that a record tells to be taken out."""


def explain(
    name: str,
    about: str,
    context: Context,
    plan: Plan,
    records: Sequence[Record],
    taken: Taken = lambda _: (),
) -> Explanation:
    """Put together what is known of ``name``, which is about the service ``about`` ("": of none)."""
    catalogue, services = context.catalogue, context.desired.services
    service = catalogue.service(about) if about else Service("", frozenset())
    concerns = _Concerns(name, service.names | {about} - {""}, taken)
    found = tuple(f for f in plan.findings if concerns.finding(f))
    refs = {finding.ref for finding in found}
    resources = (r for sight in context.snapshot.sights.values() for r in sight.resources)
    seen = tuple(r for r in resources if r.ref not in refs and concerns.resource(r) and not _is_file(r))
    steps = tuple(s for s in plan.steps if not refs.isdisjoint(s.findings) or concerns.step(s))
    done = tuple(r for r in records if concerns.record(r))
    return Explanation(
        name,
        service,
        matches(service.names, services.approved) if services and about else "",
        rails_of(about, context) if about else (),
        found,
        seen,
        steps,
        records=done,
        listeners=tuple(account(r, context) for r in seen if isinstance(r, Listening)),
        back=tuple(_back(service, found, seen, _standing(done, records), records, taken)),
    )


def subject_of(name: str, context: Context, plan: Plan, records: Sequence[Record], taken: Taken = lambda _: ()) -> str:
    """The service that a ref, a path, a port or an action's id is about; a name that is none of these is its own."""
    of_id = next((r for r in records if name in (r.id, r.pass_id) and r.service), None)
    if of_id is not None:
        return of_id.service
    if "/" not in name and ":" not in name:
        return base_name(name)
    concerns = _Concerns(name, frozenset(), taken)
    if found := next((f for f in plan.findings if concerns.finding(f)), None):
        return found.service
    for sight in context.snapshot.sights.values():
        for resource in sight.resources:
            if concerns.resource(resource) and resource.names:
                return account(resource, context).service if isinstance(resource, Listening) else resource.names[0]
    if name.startswith("units:"):
        return base_name(name.rpartition("/")[2].removeprefix("units:"))
    # A file of inetd has lines of many services, and its record names one of them.
    return next((r.service for r in records if concerns.record(r) and r.kind != "inetd"), "")


def look_at(name: str, observer: Observer) -> None:
    """Look at everything; where a listener is asked for, also at who holds those that are approved anyway."""
    observer.look()
    if name.removeprefix("listeners:").startswith(("tcp/", "udp/", "unix/")):
        tables = [place for place in observer.places if place.permits is not None]
        observer.look(replace(place, permits=None) for place in tables)


def files_of(service: Service, seen: Iterable[Resource], context: Context) -> tuple[str, ...]:
    """The files by which a package owns the service: its script, its unit files, its programs."""
    scripts = [f"/etc/init.d/{service.script}"] if service.script else []
    units = [u.path for u in context.catalogue.units.values() if u.unit in service.units and u.path]
    programs = [str(getattr(r, "program", "")) for r in seen]
    programs += [program for r in seen if isinstance(r, Listening) for program in account(r, context).programs]
    runs = context.catalogue.scripts[service.script].runs if service.script in context.catalogue.scripts else ()
    return tuple(dict.fromkeys((*scripts, *units, *filter(None, programs), *runs)))


class _Concerns(Value):
    """Whether something is about the name that was asked for, or about its service."""

    name: str
    names: frozenset[str]
    taken: Taken

    def finding(self, finding: Finding) -> bool:
        seen = finding.seen
        return (
            finding.service in self.names or self.name == str(finding.ref) or (seen is not None and self.resource(seen))
        )

    def resource(self, resource: Resource) -> bool:
        ref = resource.ref
        if self.name in (str(ref), ref.name, getattr(resource, "path", ""), getattr(resource, "program", "")):
            return True
        if self.name.startswith("/") and self.name in (f"/etc/{ref.name}", f"{_UNITS}/{ref.name}"):
            return True
        lines = resource.entry.names if isinstance(resource, ActiveLine) else ()
        ports = (*getattr(resource, "aliases", ()), *resource.opens) if "/" in self.name else ()
        return self.name in (*lines, *ports) or not self.names.isdisjoint(resource.names)

    def step(self, step: Step) -> bool:
        return step.service in self.names or self.name in paths_of(step.action)

    def record(self, record: Record) -> bool:
        if self.name in (record.id, record.pass_id):
            return True
        if not record.action:
            return False
        rest = self.name.removeprefix(f"{record.kind}:")
        if record.service in self.names or record.target in (escape(self.name), f"/etc/{rest}", f"{_UNITS}/{rest}"):
            return True
        line = rest.removeprefix(f"{record.target.removeprefix('/etc/')}/")
        return record.kind == "inetd" and "/" in line and line in self.taken(record)


def _is_file(resource: Resource) -> bool:
    return isinstance(resource, InitScript | UnitFile)


_FILED = ("unlink", "rename", "write-file", "disable-unit", "mask-unit")
"""What took something away, so that there is something to put back."""


def _back(
    service: Service,
    found: Iterable[Finding],
    seen: Iterable[Resource],
    standing: Iterable[Record],
    all_: Sequence[Record],
    taken: Taken,
) -> Iterator[str]:
    """How to have it again: what was done last is undone, for good it is approved, or enabled by Debian's."""
    undoable = [record for record in standing if record.action in (*_FILED, "stop-service")]
    yield from _undos(undoable, all_)
    judged = {finding.kind for finding in found} & {"rclinks", "units"}
    if service.name and (judged or {record.kind for record in undoable} - _OF_FILES):
        yield f"dom0-reconciler approve {argument(service.name)}"
    if lines := dict.fromkeys(line for record in undoable if record.kind == "inetd" for line in taken(record)):
        yield f"dom0-reconciler approve {' '.join(map(argument, lines))}"
    off = {link.names[0] for link in seen if isinstance(link, RcLink) and link.letter == "K"}
    yield from (f"update-rc.d {argument(name)} enable" for name in sorted(off & service.names) if undoable)


_OF_FILES = {"inetd", "interfaces"}
"""The kinds that judge a file and not a service: to approve one does not bring its file back."""


def _standing(done: Iterable[Record], all_: Sequence[Record]) -> Iterator[Record]:
    """What was done and not undone since, the newest first; an undo is none of it."""
    wanted, undone = {record.id for record in done}, set[str]()
    for record in reversed(all_):
        if record.outcome == "done" and record.cause.startswith("undo of "):
            undone.add(record.target)
        elif record.outcome == "done" and record.id in wanted and record.target not in undone:
            yield record


def _undos(standing: Sequence[Record], all_: Sequence[Record]) -> Iterator[str]:
    """The commands that undo the last pass which took something away, and start again what was stopped from then on.

    ``standing`` has the newest first. The whole pass only where it did nothing else: who wants one
    service back does not want the others.
    """
    filed = [r for r in standing if r.action in _FILED]
    last = [r for r in reversed(filed) if r.pass_id == filed[0].pass_id] or standing[:1]
    since = standing[: standing.index(last[0]) + 1] if last else ()
    start = " --start" if any(r.action == "stop-service" for r in since) else ""
    undoable = {r.id for r in all_ if r.outcome == "done" and r.action in _FILED}
    if len(last) > 1 and {r.id for r in all_ if r.pass_id == last[0].pass_id} & undoable == {r.id for r in last}:
        yield f"dom0-reconciler undo --pass {argument(last[0].pass_id)}{start}"
        return
    for record in last:
        yield f"dom0-reconciler undo {argument(record.id)}{start if record is last[-1] else ''}"

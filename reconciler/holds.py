"""The only place that holds a step back. Pure: whatever changes with time is passed in as ``Restraints``.

A held step is shown with its reason and not done; it counts as not converged, because the host is not as declared.
The rails outrank everything the state says: what they keep, no correction touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from reconciler.contested import Contest, Memory
from reconciler.kinds.base import Context
from reconciler.lineage import HeldAddress, Lineage, leasing
from reconciler.model import (
    Action,
    Address,
    DisableUnit,
    KeepAddress,
    Link,
    MaskUnit,
    Plan,
    Ref,
    ReloadManager,
    Signal,
    Snapshot,
    Step,
    StopService,
    Unlink,
    WriteFile,
)
from reconciler.moment import Moment
from reconciler.network.applying import ApplyNetwork
from reconciler.network.dhcp import serves_beside
from reconciler.network.netswitch import RunningNetwork, Switch, lost_bridge
from reconciler.network.netswitch import held as switch_held
from reconciler.overrides import Order, Overrides
from reconciler.rails import program_rail, stop_rail, unlink_rail
from reconciler.services import program_of
from reconciler.text import escape, plain
from reconciler.values import Value, field, replace

_LAST = 253402300799.0  # the last second of the year 9999: what datetime can write
_CONFIGURATION = (Unlink, DisableUnit, MaskUnit)


class Restraints(Value):
    """What holds steps back besides the rails, at the moment ``now``.

    ``in_flight`` are the services whose stop is under way; ``overrides`` is what an administrator ordered for a while;
    ``packaging`` says why dpkg must not be disturbed, if so; ``memory`` is what is contested, and what ran in peace.
    ``budgeted`` are the keys of services that the last full plan found over the budget. ``ordered``: an administrator
    asked for this very correction, so neither a contest nor the budget holds it. ``switch`` is the change of the
    network that waits for a confirmation, or the last one that was reverted.
    """

    in_flight: frozenset[str] = field(default_factory=frozenset)
    now: Moment = field(default_factory=Moment)
    overrides: Overrides = field(default_factory=Overrides)
    packaging: str = ""
    memory: Memory = field(default_factory=Memory)
    budgeted: frozenset[str] = frozenset()
    ordered: bool = False
    switch: Switch = field(default_factory=Switch)

    @property
    def lasting(self) -> tuple[object, ...] | None:
        """All of it but the moment; ``None`` where something of it is for a while, and the moment decides."""
        if ends_by_itself(self.overrides, self.memory, self.switch):
            return None
        held = self.in_flight, self.overrides, self.packaging, self.memory
        return *held, self.budgeted, self.ordered, self.switch


def ends_by_itself(orders: Overrides, memory: Memory, switch: Switch) -> bool:
    """Whether any of these is for a while, so that what is made of them is another in a moment."""
    return bool(orders.pauses or orders.exceptions or orders.released or memory.contests or switch.pass_id)


def hold(steps: Iterable[Step], context: Context, restraints: Restraints) -> tuple[Step, ...]:
    """The same steps, each with the reason why it is held, or none."""
    planned = tuple(steps)
    scene = _Scene(context, restraints, frozenset(s.action for s in planned if isinstance(s.action, KeepAddress)))
    judged = [_held(step, _why(step, scene)) for step in planned]
    over = over_budget(judged, context, restraints, scene) | restraints.budgeted
    judged = _together([_held(step, _unbudgeted(step, over, context)) for step in judged])
    unmade = _Unmade(judged)
    return tuple(_held(step, _vain(step, unmade, scene)) for step in judged)


def _why(step: Step, scene: _Scene) -> str:
    """Why a step is held, the strongest reason first: it is the one that is shown."""
    for why in (_reason, _unread, _ordered, _network, _for_dpkg, _contested):
        if reason := why(step, scene):
            return reason
    return ""


def _for_dpkg(step: Step, scene: _Scene) -> str:
    """What waits for dpkg: stops, masks, and start links where invoke-rc.d goes by them.

    It lists a script's links and then tests each: one that goes in between makes the package operation fail (measured
    on every sysvinit host). Files, inetd lines and the links of units are corrected at once.
    """
    waits = isinstance(step.action, StopService | Signal | MaskUnit | ReloadManager) or (
        isinstance(step.action, Unlink) and step.findings[0].kind == "rclinks" and scene.context.host.init == "sysvinit"
    )
    return scene.restraints.packaging if waits else ""


def _network(step: Step, scene: _Scene) -> str:
    """Files and the running network change together, one change at a time, and guests keep their bridges."""
    if step.findings[0].kind != "interfaces":
        return ""
    restraints, action = scene.restraints, step.action if isinstance(step.action, ApplyNetwork) else None
    if action is not None:
        found = (r for r in scene.context.snapshot.resources("interfaces") if isinstance(r, RunningNetwork))
        running = next(found, None)
        if running is None or action.tool not in running.tools:
            return f"{action.tool} is not installed, or the network could not be looked at"
        if action.tool == "ifup" and "ifreload" in running.tools:
            return 'ifupdown2 is installed: its way is apply = "ifreload"'
        if why := lost_bridge(action, scene.context.desired, running):
            return why
    return switch_held(action, restraints.switch, restraints.now, ordered=restraints.ordered)


def _together(steps: list[Step]) -> list[Step]:
    """Where the running network follows its files, all of that is done or none."""
    if not any(isinstance(step.action, ApplyNetwork) for step in steps):
        return steps
    why = next((step.held for step in steps if step.held and step.findings[0].kind == "interfaces"), "")
    return [_held(step, why) if step.findings[0].kind == "interfaces" else step for step in steps]


def _vain(step: Step, unmade: _Unmade, scene: _Scene) -> str:
    """A reload costs PID 1 tens of milliseconds: none when all that it would take in is held, pass after pass.

    Nor is a super-server told of lines that are left as they are, nor stopped for its link alone what does not run.
    """
    if step.held:
        return ""
    if isinstance(step.action, ReloadManager):
        return "what it would take in is held" if unmade.covers(step, _CONFIGURATION) else ""
    kinds = {ref.kind for ref in step.findings}
    if isinstance(step.action, StopService) and kinds == {"rclinks"} and unmade.covers(step, (Unlink,)):
        runs = key_of(step.service, scene.context) in running(scene.context, scene.lineage)
        return "" if runs else "what starts it is held, and it is not seen to run"
    if isinstance(step.action, StopService | Signal) and kinds == {"inetd"}:
        return "what it would be told of is held" if unmade.covers(step, (WriteFile,)) else ""
    return ""


class _Unmade:
    """What no change mends that is made; sought once for all steps, since a storm stops a thousand services."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._refs: dict[tuple[type[Action], ...], set[Ref]] = {}

    def covers(self, step: Step, changes: tuple[type[Action], ...]) -> bool:
        """True when every finding of a step is mended by changes of these types, and none of them is made."""
        found = self._refs.get(changes)
        if found is None:
            found = self._refs[changes] = self._find(changes)
        return found.issuperset(step.findings)

    def _find(self, changes: tuple[type[Action], ...]) -> set[Ref]:
        held: set[Ref] = set()
        free: set[Ref] = set()
        for step in self._steps:
            if isinstance(step.action, changes):
                (held if step.held else free).update(step.findings)
        return held - free


class _Scene:
    """What a reason is sought in; the lineage is made once for all steps, where one asks for it."""

    def __init__(self, context: Context, restraints: Restraints, keeping: frozenset[KeepAddress]) -> None:
        self.context, self.restraints, self.keeping = context, restraints, keeping
        self._unlinking: dict[str, str] = {}

    @cached_property
    def lineage(self) -> Lineage:
        """Who is whose."""
        return Lineage.of(self.context.snapshot, self.context.catalogue, self.context.desired)

    def unlinking(self, service: str) -> str:
        """Why nothing that starts a service may be taken away; asked once for all its links."""
        if service not in self._unlinking:
            self._unlinking[service] = unlink_rail(service, self.context) or _needed(service, self.context)
        return self._unlinking[service]

    @cached_property
    def contests(self) -> Mapping[str, Contest]:
        """What is contested now, by name."""
        return self.restraints.memory.contested(self.restraints.now)

    @cached_property
    def unread(self) -> frozenset[str]:
        """The init scripts that could not be read; "" where the whole folder could not be."""
        gaps = (gap.ref for sight in self.context.snapshot.sights.values() for gap in sight.gaps)
        names = (ref.name.split("/", 1) for ref in gaps if ref.kind == "rclinks")
        return frozenset("".join(name) for folder, *name in names if folder == "init.d")


def _held(step: Step, reason: str) -> Step:
    return replace(step, held=reason) if reason and not step.held else step


def _reason(step: Step, scene: _Scene) -> str:
    context = scene.context
    match step.action:
        case Unlink() | DisableUnit() if step.service:
            return scene.unlinking(step.service)
        case MaskUnit():
            return unlink_rail(step.service, context) or stop_rail(step.service, context)
        case StopService():
            return _stop_reason(step.service, scene)
        case Signal(signal="TERM" | "KILL"):
            return (
                stop_rail(step.service, context)
                or _signal_rail(step.action, scene)
                or _in_flight(step.action.service, scene.restraints)
            )
        case _:
            return ""


def _ordered(step: Step, scene: _Scene) -> str:
    """What an administrator ordered for a while: he knows what he is doing, so it holds every kind of step."""
    restraints = scene.restraints
    overrides, now = restraints.overrides, restraints.now
    if not overrides.pauses and not overrides.exceptions:
        return ""
    names = scene.context.catalogue.service(step.service).names if step.service else frozenset[str]()
    if pause := overrides.paused(names, now):
        return f"paused {until(pause, now)} by {pause.who}: {plain(pause.why)}"
    if exception := overrides.excepted(names, paths_of(step.action), now):
        return f"left alone {until(exception, now)}: {plain(exception.why)}"
    return ""


def until(order: Order, now: Moment) -> str:
    """``until 2026-11-23 18:04:10Z``: UTC, as in the records."""
    from datetime import UTC, datetime  # a plan in which nobody ordered anything does not pay for it

    end = datetime.fromtimestamp(min(order.span.end(now), _LAST), UTC)
    return f"until {end:%Y-%m-%d %H:%M:%S}Z"


def paths_of(action: Action) -> frozenset[str]:
    """The names on disk that an action changes, below the root."""
    match action:
        case Unlink(path=path, leave=leave):
            return frozenset((path, f"{path.rpartition('/')[0]}/{leave}")) if leave else frozenset((path,))
        case Link(path=path) | WriteFile(path=path):
            return frozenset((path,))
        case DisableUnit(links=links):
            return frozenset(path for path, _ in links)
        case _:
            return frozenset()


def _contested(step: Step, scene: _Scene) -> str:
    """Stopping, killing and masking wait longer each time; what lies on disk never does."""
    restraints = scene.restraints
    if not restraints.memory.contests or restraints.ordered or not ends(step.action):
        return ""
    names, now = scene.context.catalogue.service(step.service).names, restraints.now
    contests = [c for n, c in scene.contests.items() if n in names and c.left(now) > 0]
    if not contests:
        return ""
    worst = max(contests, key=lambda contest: contest.left(now))
    return f"contested: ended {worst.count} times in a row, and it comes back; again in {worst.left(now):.0f} s"


def ends(action: Action) -> bool:
    """True for what takes a running service away, or its way to run."""
    return isinstance(action, StopService | MaskUnit) or (isinstance(action, Signal) and action.signal != "HUP")


# --- the budget ---

BUDGET = "budget: "
"""How the reason of a step begins that only an order releases."""

LEAST = 3
"""Services that have to go at once to be over the budget: who takes out two of three means it."""


def key_of(service: str, context: Context) -> str:
    """The same for every name of a service."""
    return min(context.catalogue.service(service).names)


def running(context: Context, lineage: Lineage) -> frozenset[str]:
    """The services that have a process, but for what init brings up itself. A boot script that is through has none."""
    processes = lineage.processes.values()
    return frozenset(key_of(s, context) for p in processes if not lineage.is_system(p) and (s := lineage.service(p)))


def over_budget(
    steps: Iterable[Step], context: Context, restraints: Restraints, scene: _Scene | None = None
) -> frozenset[str]:
    """What a plainly wrong state would stop: more than half of what has been running in peace, all at once.

    Only what was seen to run while the host was as declared counts: the first correction of a host, and what a
    package brings at once, are no slips, however many they are. Such a state was changed by mistake.
    """
    established, orders = restraints.memory.established, restraints.overrides
    if not established or restraints.ordered or orders.release(restraints.now):
        return frozenset()
    going = {key_of(step.service, context) for step in steps if not step.held and ends(step.action)} & established
    if len(going) < LEAST:
        return frozenset()
    scene = scene or _Scene(context, restraints, frozenset())
    known = running(context, scene.lineage) & established
    going &= known
    return frozenset(going) if len(going) >= LEAST and 2 * len(going) > len(known) else frozenset()


def budgeted_in(plan: Plan, context: Context) -> frozenset[str]:
    """The keys of the services that the budget holds in a plan."""
    held = (step for step in plan.steps if step.held and step.held.startswith(BUDGET))
    return frozenset(key_of(step.service, context) for step in held)


def _unbudgeted(step: Step, over: frozenset[str], context: Context) -> str:
    if not over or step.held or not ends(step.action) or key_of(step.service, context) not in over:
        return ""
    return (
        f"{BUDGET}the state would stop {len(over)} services that were approved while they ran, more than half of all;"
        ' if it is meant so: "dom0-reconciler enforce", or "apply"'
    )


def _stop_reason(service: str, scene: _Scene) -> str:
    return (
        stop_rail(service, scene.context)
        or unlink_rail(service, scene.context)  # stopping what boots the host unmounts it
        or _taken_along(service, scene.context)
        or _kept_in(service, scene)
        or _approved(service, scene.context)
        or _in_flight(service, scene.restraints)
    )


UNDER_WAY = "its stop is already under way"
"""The reason of a step that is held for as long as that takes."""


def _in_flight(service: str, restraints: Restraints) -> str:
    return UNDER_WAY if service in restraints.in_flight else ""


def _approved(service: str, context: Context) -> str:
    """Two parts of the state contradict each other: what one approves, no other takes away."""
    services = context.desired.services
    if services is None or not context.catalogue.approved(service, services.approved):
        return ""
    return f"{service} is approved: what it opens, only its own configuration closes"


def _kept_in(service: str, scene: _Scene) -> str:
    if why := scene.lineage.kept_in(service):
        return f"rail: {why}"
    names = scene.context.catalogue.service(service).names
    theirs = (p for p in scene.lineage.processes.values() if scene.lineage.service(p) in names)
    return next(filter(None, (program_rail(each, service, scene.context) for each in theirs)), "")


def _signal_rail(action: Signal, scene: _Scene) -> str:
    """Only what was seen, is nobody's lifeline and surely belongs to the service, or is that very program."""
    lineage = scene.lineage
    for pid, started in action.pids:
        process = lineage.processes.get(pid)
        if process is None or process.started != started:
            return f"process {pid} is not the one that was seen"
        if why := lineage.kept(process) or ("" if action.keeps else leasing(process)):
            return f"rail: {why} (process {pid}, {process.name})"
        if why := program_rail(process, action.service, scene.context):
            return why
        itself = (action.service, action.executable if action.keeps else "")
        if program_of(process) not in itself and not lineage.surely(process, action.service):
            return f"process {pid} ({process.name}) does not surely belong to {action.service}"
    return _lost_address(action, scene) or _lost_lease(action, scene)


def _lost_address(action: Signal, scene: _Scene) -> str:
    """What a DHCP client keeps alive must be there for ever without it, or be made so in this very plan."""
    held = {(a.interface, a.address, a.prefix): a.valid for a in _addresses(scene.context.snapshot)}
    for wanted in action.keeps:
        if held.get(wanted, 0) is not None and KeepAddress(*wanted) not in scene.keeping:
            interface, address, prefix = wanted
            how = "holds only on lease" if wanted in held else "does not hold"
            return f"{interface} {how} {address}/{prefix}, which must outlive it"
    return ""


def _lost_lease(action: Signal, scene: _Scene) -> str:
    """Nor does a DHCP client end that brings another interface its address, be it that it has none as yet."""
    for pid, _ in action.pids if action.keeps else ():
        process = scene.lineage.processes[pid]
        if beside := serves_beside(process, scene.context.desired):
            return f"rail: it serves {escape(beside)} too, which is not to be static (process {pid}, {process.name})"
    return ""


def _addresses(snapshot: Snapshot) -> Iterable[Address]:
    return (r.address for sight in snapshot.sights.values() for r in sight.resources if isinstance(r, HeldAddress))


def _taken_along(service: str, context: Context) -> str:
    """systemd stops what requires a stopped unit as well (``Requires=``, systemd.unit(5)); init scripts do not."""
    return _needed(service, context) if context.host.init == "systemd" else ""


def _needed(service: str, context: Context) -> str:
    services = context.desired.services
    needy = context.catalogue.needed_by(service, services.approved) if services else ""
    return f"the approved {escape(needy)} needs it" if needy else ""


def _unread(step: Step, scene: _Scene) -> str:
    """Whose start link it is must be known, by all names of its script; and what the approved scripts need."""
    unread = scene.unread
    action = step.action
    if not unread or step.findings[0].kind != "rclinks" or not isinstance(action, Unlink | StopService):
        return ""
    if "" in unread:
        return "/etc/init.d cannot be looked at: whether it is approved, or needed, is not known"
    script = action.target.rpartition("/")[2] if isinstance(action, Unlink) else action.script
    own = unread & {step.service, script}
    if own:
        return f"/etc/init.d/{escape(min(own))} cannot be read: it may be approved under another name"
    services, approved = scene.context.desired.services, scene.context.catalogue.approved
    needy = {name for name in unread if services and approved(name, services.approved)}
    return (
        f"the approved {escape(min(needy))} may need it: /etc/init.d/{escape(min(needy))} cannot be read"
        if needy
        else ""
    )

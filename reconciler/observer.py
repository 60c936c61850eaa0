"""The last snapshot and what is dirty in it. Reads only: it is all that ``plan``, ``status`` and ``explain`` need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from reconciler.desired import DesiredState
from reconciler.errors import Unobservable
from reconciler.holds import Restraints
from reconciler.host import Eyes, Mark
from reconciler.host.caller import may_be_trusted
from reconciler.kinds import KINDS, Context, Kind
from reconciler.model import Gap, Host, Place, Plan, Ref, Sight, Snapshot
from reconciler.moment import Moment
from reconciler.network import netswitch
from reconciler.network.netswitch import Switch
from reconciler.overrides import PATH, Overrides, parse
from reconciler.planner import plan
from reconciler.services import Catalogue, CatalogueData, is_evidence
from reconciler.storage.store import SPARE

NO_RESTRAINTS = Restraints()
_NO_NAMES: Mapping[Place, Collection[str]] = {}
_NOTHING = Sight()
_NO_MARK: Mark | None = None
_OURS = PATH.rpartition("/")[0]
_ORDERS = tuple(path.rpartition("/")[2] for path in (PATH, netswitch.PATH))

WAITING = f"{SPARE}/{_ORDERS[0]}"
"""What is ordered for a while, while the disk does not take it: whatever stands in :data:`PATH` is older."""


class Observer:
    """Looks through ``eyes`` for one desired state and plans on what it saw."""

    def __init__(self, eyes: Eyes, data: CatalogueData, desired: DesiredState, kinds: Sequence[Kind] = KINDS) -> None:
        self.eyes, self.data, self.kinds = eyes, data, kinds
        self.snapshot = Snapshot(eyes.host())
        self._catalogue: Catalogue | None = Catalogue(data)  # None: who is who has changed
        self.tried: Mapping[str, str] = {}
        self.contested: frozenset[str] = frozenset()
        self._planned: tuple[tuple[object, ...], Plan] | None = None
        self._orders, self._mark = (Overrides(), Switch()), _NO_MARK
        self._there: tuple[str, ...] = ()  # the files of these that there are
        self.use(desired)

    def use(self, desired: DesiredState) -> None:
        """Judge by another desired state from now on; what was seen before is forgotten."""
        self.desired = desired
        host = self.snapshot.host
        wanted = {kind: tuple(kind.places(desired, host)) for kind in self.kinds}
        blind = {kind for kind in self.kinds if wanted[kind] and not host.privileged and _needs_root(kind)}
        self.places = {place: kind for kind in self.kinds if kind not in blind for place in wanted[kind]}
        self._tables = [place for place in self.places if not place.folder]
        self._catalogue = None
        self.snapshot = Snapshot(host, skipped=frozenset(kind.NAME for kind in blind))

    @property
    def is_blank(self) -> bool:
        """Whether there are places at which nobody has looked yet for this state: what is needed may lie there."""
        return len(self.snapshot.sights) < len(self.places)

    def look(self, dirty: Iterable[Place] | None = None, names: Mapping[Place, Collection[str]] = _NO_NAMES) -> None:
        """Observe the dirty places again, or everything. ``names`` are those that changed in a place, where known."""
        if dirty is None:
            sights = {place: self._sight(place) for place in self.places}
            before = self.snapshot.sights
            sights = {p: before[p] if type(s) is Sight and s == before.get(p) else s for p, s in sights.items()}
            self._learn(sights)
            self.snapshot = Snapshot(self.eyes.host(), sights, self.snapshot.skipped)
        else:
            seen = [place for place in dirty if place in self.places]
            kinds = {place.kind for place in seen if place.folder}
            seen += [p for p in self._tables if p.kind in kinds]  # what a file's kind sees in a kernel
            sights = {place: self._sight(place, names.get(place)) for place in seen}
            self._learn(sights)
            self.snapshot = self.snapshot.with_sights(sights)

    def _learn(self, fresh: Mapping[Place, Sight]) -> None:
        """Who is who is to be asked anew where what says so is another than before."""
        for place, sight in fresh.items():
            before = self.snapshot.sights.get(place, _NOTHING)
            if sight is not before and (is_evidence(sight) or is_evidence(before)) and sight != before:
                self._catalogue = None

    def _sight(self, place: Place, names: Collection[str] | None = None) -> Sight:
        kind = self.places[place]
        before = self.snapshot.sights.get(place)
        again, after = getattr(kind, "observe_again", None), getattr(kind, "observe_after", None)
        try:
            if names is not None and before is not None and again is not None:
                return again(place, self.eyes, before, names)  # type: ignore[no-any-return]  # no part of the protocol
            if before is not None and after is not None:
                return after(place, self.eyes, before)  # type: ignore[no-any-return]  # nor this
            return kind.observe(place, self.eyes)
        except Unobservable as error:
            ref = Ref(kind.NAME, place.path.removeprefix("/etc/"))
            return Sight(gaps=(Gap(kind.NAME, ref, str(error)),))

    def context(self) -> Context:
        """What the planner judges by. The catalogue is made anew only when its evidence changed."""
        if self._catalogue is None:
            self._catalogue = Catalogue.of(self.data, self.snapshot)
        return Context(self.desired, self.snapshot, self._catalogue, self.tried, self.contested)

    def orders(self) -> tuple[Overrides, Switch]:
        """What is ordered for a while, and what waits for a confirmation: as it is at this moment.

        Both are read each time, but where something surely tells that they are as they were.
        """
        mark = self.eyes.mark(_OURS, self._there)
        if self.waiting:
            mark = None  # it tells of the other place
        if mark is None or mark != self._mark:
            host, self._mark = self.snapshot.host, None
            self._orders = read_overrides(self.eyes, host), read_switch(self.eyes, host)
            if mark is not None:
                found = self.eyes.entries((PATH, netswitch.PATH))
                there = tuple(name for name, state in zip(_ORDERS, found, strict=True) if state is not None)
                self._mark, self._there = mark if there == self._there else None, there
        return self._orders

    @property
    def waiting(self) -> bool:
        """Whether anything is ordered that the disk has not taken yet."""
        try:
            return self.eyes.exists(SPARE) and self.eyes.entries((WAITING,)) != [None]
        except Unobservable:
            return True

    def restraints(self, now: Moment, in_flight: frozenset[str] = frozenset(), packaging: str = "") -> Restraints:
        """What holds steps back at this moment."""
        overrides, switch = self.orders()
        return Restraints(in_flight, now, overrides, packaging, switch=switch)

    def plan(self, restraints: Restraints = NO_RESTRAINTS, focus: Collection[Place] | None = None) -> Plan:
        """Plan for the snapshot as it is: for all places, or for what was just looked at in those of ``focus``.

        A plan is what it is made of: one that asked for nothing is that again while all it was made of is the same.
        """
        context, lasting = self.context(), restraints.lasting if focus is None else None
        if lasting is None:
            return plan(context, restraints, focus, self.kinds)
        seen = context.snapshot
        who = context.desired, context.catalogue, context.tried, context.contested, seen.host, seen.skipped
        made_of = (lasting, *who, *seen.sights, *seen.sights.values())
        if self._planned is not None and self._planned[0] == made_of:
            self._planned = made_of, self._planned[1]  # the very same things are compared sooner than equal ones
            return self._planned[1]
        made = plan(context, restraints, None, self.kinds)
        self._planned = None if made.steps else (made_of, made)
        return made


def read_overrides(eyes: Eyes, host: Host) -> Overrides:
    """What is ordered for a while, read anew each time: it is in force from the moment it is written."""
    path = WAITING
    try:
        if (state := eyes.read(path)) is None:
            state = eyes.read(path := PATH)
    except Unobservable as error:
        if not host.privileged:
            return Overrides(hidden=True)
        return Overrides(fault=f"{error}: no pause and no exception is in force")
    if state is None:
        return Overrides()
    if not may_be_trusted(state.uid, state.mode):  # who may write it would switch the guard off
        return Overrides(fault=f"{path} may be written by others than root: no pause and no exception is in force")
    return parse(state.content)


def read_switch(eyes: Eyes, host: Host) -> Switch:
    """The change of the network that waits or was reverted; an ordinary user is not told."""
    try:
        state = eyes.read(netswitch.PATH)
    except Unobservable as error:
        return Switch(fault=str(error)) if host.privileged else Switch()
    return netswitch.parse(state.content) if state is not None else Switch()


def _needs_root(kind: Kind) -> bool:
    return getattr(kind, "NEEDS_ROOT", False)

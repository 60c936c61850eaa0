"""What a kind is: the protocol that each module of this folder fulfils, and what it judges by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from reconciler.desired import DesiredState
from reconciler.host import Eyes
from reconciler.model import Finding, Host, Place, Resource, Sight, Snapshot, Step
from reconciler.services import Catalogue
from reconciler.values import Value, field


class Context(Value):
    """What a kind judges by: what is desired, all that was observed, and who is who.

    ``tried`` are the services (and the programs that belong to none) which still ran when an attempt to end them was
    over: ``stop`` says that their stop ended, ``TERM`` that they were told and given the time to go.
    ``contested`` are those that were corrected and came back: a stronger remedy may be asked for.
    """

    desired: DesiredState
    snapshot: Snapshot
    catalogue: Catalogue
    tried: Mapping[str, str] = field(default_factory=dict)
    contested: frozenset[str] = frozenset()

    @property
    def host(self) -> Host:
        """The host that was observed."""
        return self.snapshot.host


class Approvable(Resource):
    """What ``[inetd]`` may approve by any of these names: what one table approves, no other takes away."""

    approvals: tuple[str, ...] = field(default=(), kw_only=True)


class Kind(Protocol):
    """What a kind's module offers. The module itself is the implementation: functions only, no state."""

    NAME: str
    # A kind that sees nothing without root says NEEDS_ROOT = True: for others it is skipped, and they are told so.
    # One that can do with a look at some names of a place has observe_again(place, eyes, before, names) -> Sight;
    # one that looks at everything with less work, having what it saw, observe_after(place, eyes, before) -> Sight.

    def places(self, desired: DesiredState, host: Host) -> Iterable[Place]:
        """Where it looks on this host for this state; nothing where its table is missing."""
        ...

    def concerns(self, place: Place, name: str) -> bool:
        """False for a name in a place's folder whose coming can change no finding: it costs no look."""
        ...

    def observe(self, place: Place, eyes: Eyes) -> Sight:
        """Look at one place. Raises ``Unobservable`` where the whole place is a gap."""
        ...

    def judge(self, place: Place, sight: Sight, context: Context) -> Iterator[Finding]:
        """What in one place contradicts the desired state."""
        ...

    def remedy(self, findings: Sequence[Finding], context: Context) -> Iterator[Step]:
        """What would mend these findings of this kind, all given at once so that one file is one step."""
        ...

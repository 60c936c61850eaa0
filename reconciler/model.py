"""The nouns: plain frozen values that every layer speaks in. Nothing here looks at or touches a system.

The words are those of ``docs/design.md``: a *kind* looks in *places* and sees *resources*; together they are a
*snapshot*. What contradicts the desired state is a *finding*; what would mend it is an *action*; an action with the
findings that ask for it is a *step*; ordered steps are a *plan*.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Literal, NamedTuple

from reconciler.network.applying import ApplyNetwork
from reconciler.text import escape, in_words
from reconciler.values import Value, field

Mode = Literal["observe", "enforce"]
Init = Literal["systemd", "sysvinit"]
Rule = Literal["unapproved", "drifted", "missing", "reported"]
OutcomeWord = Literal["done", "pending", "stale", "held", "failed", "unverified"]


class Ref(Value, order=True):
    """The printable identity of one observed thing, ``rclinks:rc2.d/S20exim4``."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{escape(self.name)}"


class Place(Value, order=True):
    """A folder, a file or a kernel table in which a kind looks.

    ``folder`` is absolute below the root and is what a watch is set on (a file watch is deaf after a rename);
    ``entry`` narrows it to one file; without ``folder`` it is a kernel table, which only a pass looks at.
    ``permits`` spares a closer look at a socket that is approved whoever holds it; it is no part of the identity.
    """

    kind: str
    folder: str
    entry: str = ""
    permits: Callable[[Listener], bool] | None = field(default=None, compare=False)

    @property
    def path(self) -> str:
        """The folder or file itself."""
        return f"{self.folder}/{self.entry}" if self.entry else self.folder


# --- what is observed -------------------------------------------------------------------------------------------


class LinkState(Value):
    """A symbolic link as it lies on disk; ``mtime_ns`` in nanoseconds since the epoch."""

    target: str
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0


class FileState(Value):
    """A regular file with all its bytes; ``mode`` holds the permission bits only, ``xattrs`` make none another."""

    content: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = field(default=(), compare=False)


class OddState(Value):
    """Something else: ``what`` says it in a word (``directory``, ``fifo``, ``socket``, ``device``)."""

    what: str


EntryState = LinkState | FileState | OddState


class Entry(NamedTuple):
    """One name in a folder; ``what`` is ``link``, ``file`` or a word of :class:`OddState`. A tuple, made faster."""

    name: str
    what: str
    target: str = ""  # of a link


class Process(Value):
    """A running process. ``executable`` is its path, "" where that could not be read; ``started`` in clock ticks."""

    pid: int
    parent: int
    name: str
    executable: str
    arguments: tuple[str, ...] = ()
    uid: int = 0
    started: int = 0
    cgroup: str = ""
    package: str = ""


class Listener(Value):
    """A socket that waits for somebody: a tcp or unix one that listens, an udp one that is bound and unconnected.

    ``address`` is as ``inet_ntop(3)`` writes it, a v4 address of a v6 socket as v4; ``path`` is a unix socket's,
    an abstract name with ``@`` for its NUL. ``owners`` are the processes that hold it: none for one of the
    kernel's own, and none where nobody asked.
    """

    protocol: str
    address: str = ""
    port: int = 0
    path: str = ""
    inode: int = 0
    owners: tuple[Process, ...] = ()


class Address(Value):
    """An address of an interface. ``valid`` is what is left of it in seconds; ``None``: it is there for ever."""

    interface: str
    address: str
    prefix: int
    valid: int | None = None


class Host(Value):
    """What kind of host this is. ``live``: the running system itself, not an image or a chroot.

    ``domain0`` is true where ``/proc/xen/capabilities`` says ``control_d`` and, early in boot, wherever
    ``/sys/hypervisor/type`` says xen. ``privileged``: the caller may see and correct everything. ``own`` is the process
    that looks, 0 where nobody said.
    """

    live: bool = False
    init: Init = "sysvinit"
    domain0: bool = False
    privileged: bool = True
    insserv: bool = True
    own: int = 0


class Resource(Value):
    """One observed thing. ``names`` are those of the service it belongs to, the host's own name first.

    ``opens`` are the sockets that it makes somebody hold (an inetd line, a socket unit): ``tcp/113`` or ``tcp/ident``
    by a name of ``services(5)``, ``unix//run/x.socket``.
    """

    ref: Ref
    names: tuple[str, ...]
    opens: tuple[str, ...] = field(default=(), kw_only=True)


class Gap(Value):
    """A place that could not be observed, and why. Nothing is corrected there, and nothing there is absent."""

    kind: str
    ref: Ref
    why: str


class Sight(Value):
    """What one look at one place gave. ``fresh`` is what it looked at anew; ``None``: at everything."""

    resources: tuple[Resource, ...] = ()
    gaps: tuple[Gap, ...] = ()
    fresh: tuple[Resource, ...] | None = field(default=None, compare=False)


class Snapshot(Value):
    """Everything observed, by place. Immutable: a new look makes a new snapshot."""

    host: Host
    sights: Mapping[Place, Sight] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()  # kinds that need a privilege the caller lacks

    def resources(self, kind: str) -> Iterator[Resource]:
        """Every resource of one kind, place by place."""
        for place, sight in self.sights.items():
            if place.kind == kind:
                yield from sight.resources

    def with_sights(self, fresh: Mapping[Place, Sight]) -> Snapshot:
        """The same snapshot with some places looked at again."""
        return Snapshot(self.host, {**self.sights, **fresh}, self.skipped)


# --- what is judged ---------------------------------------------------------------------------------------------


class Finding(Value):
    """A resource that contradicts the desired state.

    ``verdict`` says how it does; ``rule`` is the same word, or ``reported`` where its kind is set to report only.
    ``causes`` are resources of other kinds that bring it about: their kinds are asked to mend them.
    """

    ref: Ref
    service: str
    verdict: Rule
    rule: Rule
    detail: str
    seen: Resource | None = None
    causes: tuple[Resource, ...] = ()

    @property
    def kind(self) -> str:
        """The name of the module that found it."""
        return self.ref.kind


# --- what would be done: a closed union -------------------------------------------------------------------------


class Unlink(Value):
    """Take away one name of a folder; with ``leave``, a link of that name and the same target takes its place first.

    ``target`` is what the link is expected to point at; "" expects a regular file.
    """

    path: str
    target: str = ""
    leave: str = ""


class Link(Value):
    """Put a symbolic link where nothing is: the inverse of :class:`Unlink`."""

    path: str
    state: LinkState
    replaces: str = ""  # the K link that Unlink left, taken away again


class WriteFile(Value):
    """Make a file hold exactly this; ``expects`` is what is there now (``None``: nothing)."""

    path: str
    state: FileState
    expects: EntryState | None


class DisableUnit(Value):
    """Take away the links that start these units: ``systemctl disable``. Each link is its path and its target."""

    service: str
    units: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()


class EnableUnit(Value):
    """The inverse of :class:`DisableUnit`: the very same links again, where known with owner and time (``states``)."""

    service: str
    units: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    states: tuple[LinkState, ...] = ()


class MaskUnit(Value):
    """Make these units impossible to start: ``systemctl mask``."""

    service: str
    units: tuple[str, ...]


class UnmaskUnit(Value):
    """The inverse of :class:`MaskUnit`."""

    service: str
    units: tuple[str, ...]


class ReloadManager(Value):
    """``systemctl daemon-reload``: the generator forgets rc links that are gone."""


class StopService(Value):
    """Stop one logical service: all its units at once under systemd, else its init script."""

    service: str
    script: str = ""
    units: tuple[str, ...] = ()


class StartService(Value):
    """The inverse of :class:`StopService`; only ``undo`` asks for it."""

    service: str
    script: str = ""
    units: tuple[str, ...] = ()


class Signal(Value):
    """Send a signal to what is observed to run: each ``pids`` entry is (pid, start in clock ticks).

    Without ``pids``, every process of ``executable`` is told (a HUP after a configuration changed). Each of ``keeps``
    (interface, address, prefix) must be held for ever at that moment, else the action is stale: what is told to end
    has kept them alive so far.
    """

    service: str
    signal: str
    executable: str = ""
    pids: tuple[tuple[int, int], ...] = ()
    keeps: tuple[tuple[str, str, int], ...] = ()


class KeepAddress(Value):
    """Let an address that the interface holds on lease stay for ever: the same address, changed in place."""

    interface: str
    address: str
    prefix: int


Action = (
    Unlink
    | Link
    | WriteFile
    | DisableUnit
    | EnableUnit
    | MaskUnit
    | UnmaskUnit
    | ReloadManager
    | StopService
    | StartService
    | Signal
    | KeepAddress
    | ApplyNetwork
)


def word_of(action: Action) -> str:
    """The action's name in plans and records: ``WriteFile`` -> ``write-file``."""
    return in_words(type(action).__name__)


def target_of(action: Action) -> str:
    """What the action acts on: a path below the root, else the service."""
    match action:
        case Unlink() | Link() | WriteFile():
            return action.path
        case ReloadManager():
            return "systemd"
        case KeepAddress():
            return f"{action.interface} {action.address}/{action.prefix}"
        case ApplyNetwork():
            return action.interfaces
        case _:
            return action.service


class Step(Value):
    """An action with every finding that asks for it; ``held`` says why it is not done."""

    action: Action
    service: str
    findings: tuple[Ref, ...]
    rule: Rule = "unapproved"
    held: str | None = None


class Plan(Value):
    """What contradicts the desired state and what would mend it, in order."""

    findings: tuple[Finding, ...] = ()
    steps: tuple[Step, ...] = ()
    gaps: tuple[Gap, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def converged(self) -> bool:
        """No steps (held ones count) and no gaps; ``reported`` findings do not count."""
        return not self.steps and not self.gaps


class Wake(Value):
    """A reason to look again. ``places`` says where (``None``: everywhere).

    ``cause`` goes into the records only; of several changes at once ``causes`` has the first of each place. ``names``
    are those that changed in a place; one that is not among its keys may have changed altogether.
    """

    cause: str
    places: frozenset[Place] | None = None
    causes: Mapping[Place, str] = field(default_factory=dict, compare=False)
    names: Mapping[Place, Collection[str]] = field(default_factory=dict, compare=False)


class Outcome(Value):
    """How an action ended, and a word on it."""

    word: OutcomeWord
    detail: str = ""


class Record(Value):
    """One line of the journal of corrective actions. ``time`` in seconds since the epoch.

    ``record`` is ``intent`` or ``outcome`` for an action, else the type of a notice (``start``, ``torn`` ...).
    """

    id: str
    time: float
    pass_id: str
    record: str
    action: str = ""
    kind: str = ""
    service: str = ""
    target: str = ""
    outcome: str = ""
    cause: str = ""
    rule: str = ""
    detail: str = ""

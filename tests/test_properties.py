"""What holds for every tree, every state and every snapshot, not only for the examples that somebody thought of."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from reconciler.desired import DesiredState, Inetd, Listeners, Network, Processes, Rails, Services
from reconciler.holds import Restraints
from reconciler.host.files import Root
from reconciler.host.hands import RealHands
from reconciler.model import FileState, Host, Listener, Plan, Process, ReloadManager, Snapshot, Step
from reconciler.moment import Moment, Span
from reconciler.observer import Observer
from reconciler.overrides import Order, Overrides
from reconciler.quarantine import Quarantine, inverse
from reconciler.services import parse_catalogue
from reconciler.session import Session
from reconciler.text import beginning, escape, plain, unescape
from reconciler.values import replace
from tests.fakes import SYSTEMD, MemoryEyes, Thing, link, script, unit, wanted_by
from tests.odd_roots import on, things
from tests.trees import CHECKOUT, Tree

ON_DISK = settings(max_examples=20)
IN_MEMORY = settings(max_examples=80)
DATA = parse_catalogue((CHECKOUT / "reconciler/catalogue.toml").read_text())

# --- trees ------------------------------------------------------------------------------------------------------

PLAIN = ("exim4", "portmap", "rpcbind", "ssh", "sshd", "cron", "xen", "lpd", "nfs-common", "mountall.sh", "canna")
NAMES = (*PLAIN, "a b", "x\ny", "\udcff\x1b[1m", "S20", "K01exim4", "back\\x41", "[x]", "*", "\u202e", "0")
PATTERNS = (*PLAIN, "ex*", "*d", "[a-c]*", "no-such", "cron.service", "ssh.socket")
FOLDERS = tuple(f"rc{level}.d" for level in "0123456S")
STARTING = FOLDERS[1:6] + FOLDERS[7:]
LINES = (("ident", "tcp"), ("ftp", "tcp"), ("smtp", "tcp6"), ("time", "udp"), ("rstatd/1-3", "rpc/udp"))
IDENTITIES = tuple("/".join(line) for line in LINES)

numbers = st.sampled_from(("00", "01", "20", "99"))
names = st.sampled_from(NAMES)
targets = st.one_of(
    st.just(""), st.just(""), st.sampled_from(("/opt/x", "..", "../init.d/ssh", "/etc/init.d/exim4", "loop"))
)
links = st.dictionaries(
    st.tuples(st.sampled_from(FOLDERS), st.sampled_from("SSSK"), numbers, names), targets, max_size=14
)
scripts = st.dictionaries(
    names,
    st.tuples(st.lists(st.sampled_from(PLAIN), max_size=2), st.lists(st.sampled_from(PLAIN), max_size=2)),
    max_size=5,
)


@st.composite
def inetd_lines(draw: st.DrawFn) -> bytes:
    if draw(st.booleans()):
        service, protocol = draw(st.sampled_from(LINES))
        return f"{service} stream {protocol} nowait root /usr/sbin/x x\n".encode()
    junk = st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b" "))
    return draw(st.sampled_from((b"#", b"# ", b" ", b"\t", b"#<off># ", b"", b"\0"))) + draw(junk) + b"\n"


texts = st.lists(inetd_lines(), max_size=6).map(b"".join)
modes = st.sampled_from((0o644, 0o600, 0o4755, 0o440))
files = st.dictionaries(
    st.sampled_from(("eth0", "xenbr0", "eth0~", ".hidden", "a\nb")), st.tuples(texts, modes), max_size=4
)


@dataclass(frozen=True)
class World:
    """A tree, and what is declared for it."""

    links: dict[tuple[str, str, str, str], str]
    regular: dict[tuple[str, str], bytes]
    scripts: dict[str, tuple[list[str], list[str]]]
    inetd: dict[str, bytes]
    interfaces: dict[str, tuple[bytes, int]]
    approved: list[str]
    lines: list[str]
    allow: list[str]
    insserv: bool

    def build(self, top: Path) -> Tree:
        tree = Tree(top, self.state())
        for name in ("interfaces", "xenbr0"):
            tree.write(f"etc/dom0-reconciler/{name}", f"# {name}\niface {name} inet manual\n")
        if not self.insserv:
            (top / "etc/insserv.conf").unlink()
        for name, (provides, needs) in self.scripts.items():
            body = f"# Provides: {name} {' '.join(provides)}\n# Required-Start: {' '.join(needs)}\n"
            text = f"### BEGIN INIT INFO\n{body}### END INIT INFO\n"
            tree.write(f"etc/init.d/{name}", text.encode("utf-8", "surrogateescape"))
        for (folder, number), content in self.regular.items():
            tree.write(f"etc/{folder}/S{number}file", content)
        for (folder, letter, number, name), target in self.links.items():
            (top / "etc" / folder / f"{letter}{number}{name}").symlink_to(target or f"../init.d/{name}")
        for name, content in self.inetd.items():
            tree.write(f"etc/{name}", content)
        for name, (content, mode) in self.interfaces.items():
            tree.write(f"etc/network/interfaces.d/{name}", content).chmod(mode)
        return tree

    def state(self) -> str:
        return (
            f"version = 1\naccept_lockout = true\n[services]\napproved = {json.dumps(self.approved)}\n"
            f"[rails]\nallow = {json.dumps(self.allow)}\n[inetd]\napproved = {json.dumps(self.lines)}\n"
            '[network]\ninterfaces = "interfaces"\ninterfaces_d = { xenbr0 = "xenbr0" }\n'
        )


worlds = st.builds(
    World,
    links,
    st.dictionaries(st.tuples(st.sampled_from(STARTING), numbers), st.binary(max_size=5), max_size=2),
    scripts,
    st.dictionaries(st.sampled_from(("inetd.conf", "inetd.d/one", "inetd.d/two~")), texts, max_size=3),
    files,
    st.lists(st.sampled_from(PATTERNS), max_size=4, unique=True),
    st.lists(st.sampled_from(IDENTITIES), max_size=2, unique=True),
    st.sampled_from(([], ["*"], ["*"])),
    st.booleans(),
)


@contextmanager
def built(world: World) -> Iterator[Tree]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk makes every fsync wait
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        top = Path(folder) / "root"
        for each in ("etc/network/interfaces.d", "run", "var/lib"):
            (top / each).mkdir(parents=True)
        yield world.build(top)


def plan_of(tree: Tree) -> Plan:
    observer = Session(str(tree.path), None).observer()
    observer.look()
    return observer.plan()


# --- what an apply leaves ---------------------------------------------------------------------------------------


@ON_DISK
@given(worlds)
def test_apply_leaves_nothing_but_what_is_held(world: World) -> None:
    with built(world) as tree:
        planned = plan_of(tree)
        applied = on(tree, "apply")
        left = plan_of(tree)
        assert applied.err == ""
        assert left.steps == tuple(step for step in planned.steps if step.held)
        assert left.gaps == planned.gaps == ()
        assert applied.code == (0 if left.converged else 2)


@ON_DISK
@given(worlds)
def test_a_second_apply_does_nothing(world: World) -> None:
    with built(world) as tree:
        on(tree, "apply")
        before, records = things(tree.path), tree.records()
        assert [step for step in on(tree, "apply").json["steps"] if step["outcome"] != "held"] == []
        assert (things(tree.path), tree.records()) == (before, records)


@ON_DISK
@given(worlds)
def test_undo_after_apply_is_the_identity(world: World) -> None:
    """Byte for byte, with owners, modes, targets and times: of files and of links; folders' own times are nobody's."""
    with built(world) as tree:
        before = things(tree.path)
        pass_id = on(tree, "apply").json["pass"]
        assume(things(tree.path) != before)
        root = Root(str(tree.path))
        hands = RealHands(root)
        for kept in reversed(Quarantine(root).of_pass(pass_id)):
            for action in inverse(kept):
                hands.do(action)
        assert things(tree.path) == before


@ON_DISK
@given(worlds)
def test_what_is_approved_is_never_touched(world: World) -> None:
    """By an oracle of its own: approved by the very name, it lies there afterwards as it lay before."""
    with built(world) as tree:
        before = things(tree.path)
        on(tree, "apply")
        after = things(tree.path)
    for (folder, letter, number, name), target in world.links.items():
        if letter == "K" or folder not in STARTING or (name in world.approved and target in ("", f"../init.d/{name}")):
            path = f"etc/{folder}/{letter}{number}{name}"
            assert after[path] == before[path]
    for name, content in world.inetd.items():
        state = after[f"etc/{name}"]
        assert isinstance(state, FileState)
        assert [line.lstrip(b"#") for line in content.split(b"\n")] == [
            line.lstrip(b"#") for line in state.content.split(b"\n")
        ]
        for line in content.splitlines(keepends=True):
            service, _, rest = line.partition(b" stream ")
            identity = f"{service.decode('latin-1')}/{rest.partition(b' ')[0].decode('latin-1')}"
            if identity in world.lines and not line.startswith((b" ", b"\t")):
                assert line in state.content.splitlines(keepends=True)


@ON_DISK
@given(worlds)
def test_what_is_not_approved_is_gone_or_held(world: World) -> None:
    """By an oracle of its own: a name that no pattern and no alias can mean starts nothing afterwards."""
    strangers = ("lpd", "a b", "x\ny", "0")
    assume(not any(set(p) & set("*[") or p == "lpr" for p in world.approved))
    with built(world) as tree:
        held = {str(step.findings[0]) for step in plan_of(tree).steps if step.held}
        on(tree, "apply")
        after = things(tree.path)
    related = {name for provides, _ in world.scripts.values() for name in provides}
    for folder, letter, number, name in world.links:
        if letter == "S" and folder in STARTING and name in strangers and name not in {*world.approved, *related}:
            path = f"{folder}/{letter}{number}{name}"
            if name in world.scripts and world.scripts[name][0]:
                continue  # what it provides may be approved
            assert f"etc/{path}" not in after or escape(f"rclinks:{path}") in held


# --- plans of any host, a running one too -----------------------------------------------------------------------

processes = st.builds(
    Process,
    pid=st.integers(2, 30),
    parent=st.sampled_from((1, 1, 2, 3)),
    name=st.sampled_from(("exim4", "rpcbind", "sshd", "sh", "odd\x1b")),
    executable=st.sampled_from(("/usr/sbin/exim4", "/usr/sbin/rpcbind", "/usr/sbin/sshd", "/bin/sh", "/opt/odd", "")),
    started=st.integers(0, 3),
    cgroup=st.sampled_from(("", "/system.slice/exim4.service", "/system.slice/rpcbind.service")),
    package=st.sampled_from(("", "exim4", "rpcbind")),
)


@st.composite
def hosts(draw: st.DrawFn) -> tuple[MemoryEyes, DesiredState]:
    """A host in memory, live or not, and what is declared for it."""
    systemd = draw(st.booleans())
    tree: dict[str, Thing] = dict(SYSTEMD) if systemd else {}
    for (folder, letter, number, name), target in draw(links).items():
        tree |= link(f"{folder}/{letter}{number}{name}", target)
    for name, (provides, needs) in draw(scripts).items():
        tree |= script(name, " ".join((name, *provides)), " ".join(needs))
    for name in draw(st.sets(st.sampled_from(PLAIN), max_size=5)):
        tree |= unit(f"{name}.service") | (
            wanted_by("multi-user.target", f"{name}.service") if draw(st.booleans()) else {}
        )
        tree |= unit(f"{name}.socket") | wanted_by("sockets.target", f"{name}.socket") if draw(st.booleans()) else {}
    for name, content in draw(st.dictionaries(st.sampled_from(("inetd.conf", "inetd.d/one")), texts)).items():
        tree[f"/etc/{name}"] = FileState(content)
    running = tuple({p.pid: p for p in draw(st.lists(processes, max_size=6))}.values())
    opens = st.tuples(st.sampled_from(("tcp", "udp")), st.sampled_from((22, 25, 111, 113)))
    sockets = tuple(
        Listener(protocol, "0.0.0.0", port, inode=n, owners=draw(st.sampled_from(((), running[:1], running[1:3]))))
        for n, (protocol, port) in enumerate(draw(st.lists(opens, max_size=4, unique=True)))
    )
    facts = Host(live=draw(st.booleans()), init="systemd" if systemd else "sysvinit", insserv=draw(st.booleans()))
    active = tuple(draw(st.sets(st.sampled_from(("exim4.socket", "rpcbind.socket", "apt.timer")))))
    return MemoryEyes(tree, facts, running, sockets, (), active), draw(states())


@st.composite
def states(draw: st.DrawFn) -> DesiredState:
    approved = tuple(draw(st.lists(st.sampled_from(PATTERNS), max_size=4)))
    verdict = st.sampled_from(("report", "stop"))
    flag = st.booleans()
    return DesiredState(
        services=Services(approved, stop=draw(flag), mask=draw(flag)) if draw(flag) else None,
        rails=Rails(allow=("*",) if draw(flag) else ()),
        inetd=Inetd(tuple(draw(st.lists(st.sampled_from(IDENTITIES), max_size=2)))) if draw(flag) else None,
        network=Network(FileState(b"iface eth0 inet dhcp\n")) if draw(flag) else None,
        listeners=Listeners((), draw(verdict)) if draw(flag) else None,  # type: ignore[arg-type]
        processes=Processes(("sshd",), draw(verdict)) if draw(flag) else None,  # type: ignore[arg-type]
    )


def observed(eyes: MemoryEyes, desired: DesiredState) -> Observer:
    observer = Observer(eyes, DATA, desired)
    observer.look()
    return observer


@IN_MEMORY
@given(hosts(), hosts(), st.sets(st.sampled_from(PLAIN), max_size=2))
def test_what_was_planned_before_leaves_nothing_in_a_plan(
    host: tuple[MemoryEyes, DesiredState], other: tuple[MemoryEyes, DesiredState], tried: set[str]
) -> None:
    """A plan is remembered while all that it is made of is the same, and no longer."""
    observer = observed(*host)
    first = observer.plan()
    observer.look()
    assert observer.plan() == first == observed(*host).plan()
    observer.tried = dict.fromkeys(tried, "stop")
    fresh = observed(*host)
    fresh.tried = dict.fromkeys(tried, "stop")
    assert observer.plan() == fresh.plan()
    observer.tried = {}
    pause = Overrides(pauses=(Order("root", "why", Span(Moment(), 60.0)),))
    assert all(step.held for step in observer.plan(Restraints(overrides=pause)).steps)
    observer.eyes = there = dataclasses.replace(other[0], facts=host[0].facts)
    observer.look()
    assert observer.plan() == observed(there, host[1]).plan()
    observer.use(other[1])
    observer.look()
    assert observer.plan() == observed(there, other[1]).plan()


@IN_MEMORY
@given(hosts())
def test_every_step_has_a_finding_that_counts(host: tuple[MemoryEyes, DesiredState]) -> None:
    plan = observed(*host).plan()
    counting = {finding.ref for finding in plan.findings if finding.rule != "reported"}
    for step in plan.steps:
        assert step.findings
        assert counting.issuperset(step.findings)


@IN_MEMORY
@given(hosts())
def test_on_another_tree_nothing_is_stopped_and_what_runs_is_not_judged(host: tuple[MemoryEyes, DesiredState]) -> None:
    eyes, desired = host
    plan = observed(dataclasses.replace(eyes, facts=replace(eyes.facts, live=False)), desired).plan()
    words = {type(step.action).__name__ for step in plan.steps}
    assert words <= {"Unlink", "WriteFile", "DisableUnit", "MaskUnit"}
    assert {finding.kind for finding in plan.findings} <= {"rclinks", "units", "inetd", "interfaces"}


@IN_MEMORY
@given(hosts(), st.randoms(use_true_random=False))
def test_a_focused_plan_asks_for_nothing_that_the_full_one_does_not(
    host: tuple[MemoryEyes, DesiredState], chance: random.Random
) -> None:
    observer = observed(*host)
    full = {step.action: step for step in observer.plan().steps}
    focus = {place for place in observer.places if chance.random() < 0.4}
    for step in observer.plan(focus=focus).steps:
        assert step.action in full
        assert set(step.findings) <= set(full[step.action].findings)
        if not isinstance(step.action, ReloadManager):  # held when all that it would take in is
            assert step.held == full[step.action].held


@IN_MEMORY
@given(hosts(), st.randoms(use_true_random=False))
def test_the_order_of_observation_does_not_matter(host: tuple[MemoryEyes, DesiredState], chance: random.Random) -> None:
    observer = observed(*host)
    first = observer.plan()
    assert observer.plan() == first == observed(*host).plan()
    sights = list(observer.snapshot.sights.items())
    chance.shuffle(sights)
    observer.snapshot = Snapshot(observer.snapshot.host, dict(sights), observer.snapshot.skipped)
    again = observer.plan()
    assert set(again.findings) == set(first.findings)
    assert {_identity(step) for step in again.steps} == {_identity(step) for step in first.steps}
    places = list(observer.places)
    chance.shuffle(places)
    for place in places:
        observer.look([place])
    assert {_identity(step) for step in observer.plan().steps} == {_identity(step) for step in first.steps}


def _identity(step: Step) -> tuple[object, ...]:
    return (step.action, step.service, frozenset(step.findings), step.rule, step.held)


TWO_SERVICES = tuple(
    Process(pid, 1, "x", "/usr/sbin/x", cgroup=f"/system.slice/{service}.service")
    for pid, service in ((2, "exim4"), (3, "rpcbind"))
)


@IN_MEMORY
@given(hosts())
@example(
    (MemoryEyes(SYSTEMD, Host(live=True, init="systemd"), TWO_SERVICES), DesiredState(services=Services(stop=False)))
)
def test_refs_are_unique_and_can_be_read_back(host: tuple[MemoryEyes, DesiredState]) -> None:
    observer = observed(*host)
    seen = [r.ref for sight in observer.snapshot.sights.values() for r in sight.resources]
    assert len({str(ref) for ref in seen}) == len(seen)
    shown = [str(finding.ref) for finding in observer.plan().findings]
    assert len(set(shown)) == len(shown)
    for ref in seen:
        kind, _, name = str(ref).partition(":")
        assert (kind, unescape(name)) == (ref.kind, ref.name)


# --- escaping ---------------------------------------------------------------------------------------------------

observed_names = st.binary(max_size=40).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
ACTING = {*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), *"\u2028\u2029\u202a\u202b\u202c\u202d\u202e\ufeff"}


@settings(max_examples=300)
@given(observed_names)
@example("\\x0a")
@example("\\")
@example("\\\\x")
@example("a\udcc3\u00e9\udcff")
def test_escaping_is_reversible_and_safe(name: str) -> None:
    escaped = escape(name)
    assert unescape(escaped) == name
    assert not ACTING & set(escaped)
    escaped.encode("utf-8")  # printable on any stream that takes UTF-8: no lone surrogate is left
    assert plain(plain(escaped)) == plain(escaped) == escaped


@settings(max_examples=300)
@given(observed_names, st.integers(4, 50))
@example("\n\n\n", 8)
@example("a\u202eb", 9)
def test_a_beginning_fits_and_is_safe_and_whole(name: str, most: int) -> None:
    shown, whole = beginning(name, most), plain(name)
    assert len(shown) <= most
    assert shown == whole or (len(whole) > most and whole.startswith(shown.removesuffix("...")))
    assert not ACTING & set(shown)
    assert not re.search(r"\\(x[0-9a-f]?)?(\.\.\.)$", shown)


@settings(max_examples=200)
@given(observed_names, observed_names)
def test_different_names_look_different(one: str, other: str) -> None:
    assert (escape(one) == escape(other)) == (one == other)


def test_the_worlds_are_worth_it() -> None:
    """The strategies reach what they are for: links, lines and files that are corrected, and some that are held."""
    found: set[str] = set()

    @settings(max_examples=40, database=None, suppress_health_check=list(HealthCheck))
    @given(worlds)
    def look(world: World) -> None:
        with built(world) as tree:
            found.update(f"{finding.kind} {finding.rule}" for finding in plan_of(tree).findings)

    look()
    assert found >= {"rclinks unapproved", "inetd unapproved", "interfaces missing", "interfaces unapproved"}

"""Each system call of a daemon's start and first pass broken in turn, and what must be true after each.

The tree holds something to correct in every place, and what an earlier run that was killed left: a torn journal, an
intent without an outcome, temporaries, a pass half forgotten. So the mending is broken as well as the pass.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from reconciler.commands.run import explain_the_past
from reconciler.converge import Converger
from reconciler.desired import Limits
from reconciler.errors import ReconcilerError
from reconciler.host.files import TEMPORARY, Root
from reconciler.journal import Journal
from reconciler.log import for_command
from reconciler.model import FileState, LinkState, Record, Unlink, Wake, WriteFile
from reconciler.quarantine import Kept, Quarantine
from reconciler.session import Session
from reconciler.storage import chain, spare, store
from reconciler.storage.kept import id_of
from reconciler.values import replace
from tests.crash.faults import ALL, ENDS, LOST, Injector
from tests.odd_roots import sane_tree, things
from tests.trees import Tree

JOURNAL_LIMIT = 14_500
"""Bytes of a journal's file: the pass rotates it."""

LEFT = "killed.1"
"""The intent that an earlier run was killed after."""

_WAKE = Wake("a test")


class Broken(AssertionError):
    """A promise was not kept."""


# --- what is broken ------------------------------------------------------------------------------------------


def prepare(top: Path) -> Tree:
    """The tree before the pass: corrected twice in the past, the last time up to a kill, and drifted since."""
    (top / "outside").mkdir(parents=True)
    tree = sane_tree(top)
    live(tree)
    drift(tree)
    live(tree)
    drift(tree)
    home = tree.path / store.HOME.lstrip("/")
    intent = Record(LEFT, 1.5, "killed", "intent", "unlink", "rclinks", "sane", "/etc/rc2.d/S20sane")
    Journal(Root(str(tree.path)), limit=JOURNAL_LIMIT).write([intent])
    live_in_trouble(tree)
    drift(tree)
    with (home / "journal.jsonl").open("ab") as file:
        file.write(b'{"id":"torn')
    (tree.path / f"etc/network/{TEMPORARY}0123456789abcdef").write_text("half a file")
    (home / f"{store.TEMPORARY}memory.json.1").write_text("half")
    doomed = home / "quarantine" / f"{store.TEMPORARY}old"
    doomed.mkdir()
    (doomed / "1").write_text("forgotten, and told")
    return tree


def live_in_trouble(tree: Tree) -> None:
    """A life with a full disk, up to a kill: what it did waits in the spare place."""

    def child() -> None:
        Injector("home full", 1, tree.path / store.HOME.lstrip("/"))
        session = Session(str(tree.path), None)
        converger = Converger(session.observer(), session.tools(for_command(live=False)))
        converger.run(_WAKE, enforce=True)

    _in_child(child)
    if not spare.holds(Root(str(tree.path)), spare.MANIFEST):
        raise Broken("nothing waits in the spare place")


def drift(tree: Tree) -> None:
    """Something to correct in every place, whatever was corrected before."""
    for level, script in (("2", "sane"), ("3", "sane"), ("S", "sane")):
        folder = tree.path / f"etc/rc{level}.d"
        for old in folder.glob(f"K*{script}"):
            old.unlink()
        (folder / f"S20{script}").unlink(missing_ok=True)
        tree.link(f"rc{level}.d/S20{script}")
    tree.write("etc/inetd.conf", f"ftp stream tcp nowait root /usr/sbin/ftpd ftpd\n# {len(tree.records())}\n")
    tree.write("etc/network/interfaces", "iface eth0 inet dhcp\n" * (1 + len(tree.records())))
    (tree.path / "etc/network/interfaces.d/xenbr0").unlink(missing_ok=True)
    tree.write("etc/network/interfaces.d/eth1", "iface eth1 inet dhcp\n" * 200)


def live(tree: Tree, injector: Injector | None = None, keep: int = 1 << 30) -> None:
    """What a daemon does: start, mend what an earlier one left, a pass, tidy up; after a fault the next pass.

    Raises what a start ends with, and nothing else: a fault in a pass is said, and tried again.
    """
    session = Session(str(tree.path), None)
    observer = session.observer()
    observer.use(replace(observer.desired, quarantine=Limits(size=keep)))
    tools = session.tools(for_command(live=False))
    tools = replace(tools, journal=Journal(session.root, limit=JOURNAL_LIMIT))
    converger = Converger(observer, tools)
    explain_the_past(session, tools, observer.places)
    try:
        converger.run(_WAKE, enforce=True)
        converger.tidy()
    except (ReconcilerError, OSError):
        if injector is None:
            raise
    if injector is not None:
        injector.heal()
        converger.run(_WAKE, enforce=True)
        converger.tidy()
    converger.settle_debts()
    if not (observer.plan(converger.restraints()).converged and not converger.owed):
        raise Broken("it is not converged")


def break_at(tree: Tree, how: str, at: int, keep: int) -> None:
    """Live with one fault, in a child of its own; a start may end in an error, a pass in none."""

    def child() -> None:
        injector = Injector(how, at, tree.path / store.HOME.lstrip("/"))
        try:
            live(tree, injector, keep)
        except (ReconcilerError, OSError):
            injector.heal()

    _in_child(child, may_die=how in ENDS)


def count_calls(tree: Tree, keep: int) -> int:
    """How many calls there are to break; counted in a child, which hands the number over in the tree's folder."""
    told = tree.path.parent / "calls"

    def child() -> None:
        injector = Injector()
        live(tree, keep=keep)
        told.write_text(str(injector.count))

    _in_child(child)
    return int(told.read_text())


def _in_child(act: Callable[[], None], *, may_die: bool = False) -> None:
    """A child that ends with a traceback is a broken promise; so is one that dies where it must not."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(act, write)
    os.close(write)
    with open(read, encoding="utf-8", errors="replace") as said:
        words = said.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if words or (code and not may_die):
        raise Broken(words or f"the child ended with {code}")


def _be_child(act: Callable[[], None], write: int) -> NoReturn:
    really, end = os.write, os._exit
    try:
        act()
    except BaseException:  # noqa: BLE001 - the child must end here, and say why
        really(write, traceback.format_exc()[-6000:].encode())
    end(0)


# --- what must be true ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """A tree before the pass, after it, and what the quarantine held before."""

    template: Path
    old: Mapping[str, object]
    new: Mapping[str, object]
    kept: frozenset[str]
    keep: int
    waiting: frozenset[bytes] = frozenset()
    calls: int = 0

    def copy(self, to: Path) -> Tree:
        """A fresh tree to break."""
        shutil.copytree(self.template, to, symlinks=True)
        tree = Tree.__new__(Tree)
        tree.path = to / "root"
        return tree


def expect(top: Path) -> Expected:
    """Make the tree, and let one pass without a fault show what it comes to: rotation and forgetting included."""
    tree = prepare(top / "template")
    usage = Quarantine(Root(str(tree.path))).usage()
    expected = Expected(top / "template", things(tree.path), {}, frozenset(_passes(tree)), usage.size * 6 // 5)
    waiting = frozenset(chain.body_of(line) for line in _lines(tree.path / store.SPARE[1:]))
    one = expected.copy(top / "sound")
    calls = count_calls(one, expected.keep)
    _must(not expected.kept <= _passes(one), "nothing was forgotten")
    _must(one.path.joinpath(store.HOME[1:], "journal.jsonl.1").exists(), "nothing was rotated")
    return dataclasses.replace(expected, new=things(one.path), waiting=waiting, calls=calls)


def check(tree: Tree, expected: Expected, how: str = "") -> None:
    """Right after the fault; then after the next start."""
    after = things(tree.path)
    _check_names(after, expected)
    _check_kept(tree, after, expected)
    _check_told(tree, after, expected)
    _check_chain(tree)
    _check_home(tree, expected)
    _in_child(lambda: live(tree))
    _check_chain(tree)
    _check_home(tree, expected)
    _check_kept(tree, things(tree.path), expected)
    _check_records(tree, but=LEFT if how == "home broken" else "")
    left = [path.name for path in (tree.path / store.SPARE[1:]).glob("*")]
    _must(not left, f"not brought home: {left}")
    final = {name: _timeless(thing) for name, thing in things(tree.path).items()}
    _must(
        final == {name: _timeless(thing) for name, thing in expected.new.items()}, "another tree than without a fault"
    )
    left = [str(path) for path in tree.path.rglob(f"{TEMPORARY}*")]
    _must(not left, f"temporaries are left: {left}")


def _check_names(after: Mapping[str, object], expected: Expected) -> None:
    """Every name is what it was or what it is to be; a start link or the one in its place is there."""
    for name in {*after, *expected.old, *expected.new}:
        if TEMPORARY not in name:
            allowed = (_timeless(expected.old.get(name)), _timeless(expected.new.get(name)))
            _must(_timeless(after.get(name)) in allowed, f"{name} is neither old nor new: {after.get(name)}")
    for name in expected.old:
        folder, _, link = name.rpartition("/")
        if link == "S20sane":
            _must(
                any(each.startswith(f"{folder}/") and each.endswith("sane") for each in after), f"no link in {folder}"
            )


def _check_kept(tree: Tree, after: Mapping[str, object], expected: Expected) -> None:
    """What was there and is not as it was lies in the quarantine, as it was; what was kept is kept, or said to go."""
    kept = {(k.action.path, k.state) for k in _all_kept(tree) if isinstance(k.action, Unlink | WriteFile)}
    for name, state in expected.old.items():
        if isinstance(state, FileState | LinkState) and _timeless(after.get(name)) != _timeless(state):
            _must(TEMPORARY in name or (f"/{name}", state) in kept, f"{name} is lost: not in the quarantine")
    told = {str(record["pass"]) for record in _records(tree) if record["record"] == "forgotten"}
    _must(expected.kept <= _passes(tree) | told | _lost_passes(tree), "a pass went from the quarantine unsaid")


def _check_told(tree: Tree, after: Mapping[str, object], expected: Expected) -> None:
    """Nothing was done whose intent is not in the journal."""
    told = {str(record["target"]) for record in _records(tree) if record["record"] == "intent"}
    for name in {*after, *expected.old}:
        changed = _timeless(after.get(name)) != _timeless(expected.old.get(name))
        if changed and TEMPORARY not in name and "/K" not in name:  # a K link goes with its S link
            _must(f"/{name}" in told, f"{name} was changed without an intent")


def _check_home(tree: Tree, expected: Expected) -> None:
    """What waited in the spare place is there still, or at home, or went with the power."""
    bodies = {chain.body_of(line) for line in _lines(tree.path / store.HOME[1:])}
    bodies |= {chain.body_of(line) for line in _lines(tree.path / store.SPARE[1:])}
    bodies |= {chain.body_of(line) for line in _lines(tree.path.parent / LOST)}
    _must(expected.waiting <= bodies, f"lost from the spare place: {sorted(expected.waiting - bodies)[:1]}")


def _lines(folder: Path) -> list[bytes]:
    """The lines of a journal, whichever of its files they are in."""
    return [line for path in folder.glob("journal.jsonl*") for line in path.read_bytes().splitlines(keepends=True)]


def _lost_passes(tree: Tree) -> set[str]:
    file = tree.path.parent / LOST / spare.MANIFEST
    return _passes_in(file.read_bytes()) if file.exists() else set()


def _passes_in(manifest: bytes) -> set[str]:
    ids = (id_of(line) for line in manifest.splitlines(keepends=True))
    return {found.rpartition(".")[0] for found in ids if found}


def _check_chain(tree: Tree) -> None:
    found = Journal(Root(str(tree.path))).verify()
    _must(found.ok, f"the chain is broken: {found}")


def _check_records(tree: Tree, but: str) -> None:
    """Each intent has an outcome, and none was done without one.

    But for one that could not be read at the start, and is too far back at the next: the files are small here.
    """
    ids: dict[str, set[str]] = {"intent": set(), "outcome": set()}
    for record in _records(tree):
        if record["record"] in ids:
            twice = record["record"] == "intent" and record["id"] in ids["intent"]
            _must(not twice, f"the intent {record['id']} is there twice")
            ids[record["record"]].add(record["id"])
    differ = (ids["intent"] ^ ids["outcome"]) - {but}
    _must(not differ, f"intents and outcomes differ: {differ}")


def _records(tree: Tree) -> Iterator[Mapping[str, str]]:
    for record in Journal(Root(str(tree.path))).read():
        yield {"record": record.record, "id": record.id, "pass": record.pass_id, "target": record.target}


def _passes(tree: Tree) -> set[str]:
    folder = tree.path / store.HOME.lstrip("/") / "quarantine"
    waiting = _passes_in(b"".join(spare.lines(Root(str(tree.path)), spare.MANIFEST)))
    return waiting | {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def _all_kept(tree: Tree) -> Iterator[Kept]:
    quarantine = Quarantine(Root(str(tree.path)))
    for pass_id in _passes(tree):
        try:
            yield from quarantine.of_pass(pass_id)
        except ReconcilerError as error:  # a folder that a crash left without a manifest held nothing yet
            if "nothing is kept" not in str(error):
                raise


def _timeless(thing: object) -> object:
    return replace(thing, mtime_ns=0) if isinstance(thing, FileState | LinkState) else thing


def _must(true: object, why: str) -> None:
    if not true:
        raise Broken(why)


# --- the loop ------------------------------------------------------------------------------------------------


def sweep(top: Path, expected: Expected, chosen: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int, str]]:
    """Break each chosen call; give back how, where and, for a broken promise, which."""
    for how, at in chosen:
        tree = expected.copy(top / "broken")
        try:
            break_at(tree, how, at, expected.keep)
            check(tree, expected, how)
        except (Broken, ReconcilerError) as error:
            yield how, at, str(error)
        else:
            yield how, at, ""
        shutil.rmtree(top / "broken")


def sample(calls: int, how: str, count: int) -> list[int]:
    """So many calls, evenly spread; other ones for each fault."""
    step = calls / count
    first = 1 + step * ALL.index(how) / len(ALL)
    return [int(first + step * number) for number in range(count)]


def in_memory() -> str | None:
    """Where trees are made: no disk waits for an fsync(2) there, and a kill does not know the difference."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

"""The machine: each rule is what one of them does; the model judges after each of the daemon's passes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from reconciler.attempts import Report
from reconciler.commands.run import explain_the_past
from reconciler.converge import Converger
from reconciler.errors import StateError
from reconciler.journal import Journal
from reconciler.log import for_command
from reconciler.model import Place, Wake
from reconciler.session import Session
from reconciler.text import unescape
from tests.odd_roots import Said, on, things
from tests.stateful.model import (
    BRIDGE,
    CANONICAL,
    FOLDER,
    INETD,
    INTERFACES,
    LINES,
    SERVICES,
    START,
    STRANGERS,
    Orders,
    Things,
    judge,
    line,
)
from tests.trees import Tree

STEPS: Counter[str] = Counter()
"""How often each rule was played, in all runs of this process."""

names = st.sampled_from((*SERVICES, *STRANGERS))
services = st.sampled_from(SERVICES)
folders = st.sampled_from(START)
numbers = st.sampled_from(("01", "20", "99"))
CALLS = ("unlink", "symlink", "rename", "write", "fsync", "fdatasync", "fchmod", "fchown", "mkdir", "pwrite", "open")
"""What a correction is made of: a crash comes before the nth of them."""


class Host(RuleBasedStateMachine):
    """One tree, one administrator or several, and one daemon, which has read the state and looked at everything."""

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk makes every fsync wait
        self.folder = Path(tempfile.mkdtemp(dir=memory))
        self.tree = Tree(self.folder / "root", Orders().state())
        for folder in ("run", "var/lib", FOLDER):
            (self.tree.path / folder).mkdir(parents=True, exist_ok=True)
        for name, content in (("interfaces", CANONICAL), ("xenbr0", BRIDGE)):
            self.tree.write(f"etc/dom0-reconciler/{name}", content)
        self.tree.write(INETD, b"# inetd\n")
        self.tree.write(INTERFACES, CANONICAL)
        self.tree.write(f"{FOLDER}/xenbr0", BRIDGE)
        for name in SERVICES:
            self.tree.script(name)
        self.written = Orders()  # what the files say; the daemon goes by what it has read
        self.orders = Orders()
        self.dirty: set[str] = set()
        self.settled = False  # the last pass left everything as declared: what came since is in ``dirty``
        self.last: tuple[str, Things] | None = None  # the last pass that corrected, and the tree before it
        self._start()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def _start(self) -> None:
        self.session = Session(str(self.tree.path), None)
        tools = self.session.tools(for_command(live=False))
        self.converger = Converger(self.session.observer(), tools)
        self.orders = self.written
        explain_the_past(self.session, tools, self.converger.observer.places)

    def _count(self, what: str) -> None:
        STEPS[what] += 1

    def _on(self, *arguments: str) -> Said:
        said = on(self.tree, *arguments)
        assert "Traceback" not in said.err
        return said

    def _changed(self, path: str) -> None:
        self.dirty.add(path)
        self.last = None

    # --- administrators ---

    @rule(name=services)
    def approve(self, name: str) -> None:
        self._count("approve")
        assert self._on("approve", name).code == 0
        self._state(replace(self.written, approved=self.written.approved | {name}))

    @rule(name=services)
    def revoke(self, name: str) -> None:
        self._count("revoke")
        said = self._on("revoke", name)
        assert said.code == (0 if name in self.written.approved else said.code)
        self._state(replace(self.written, approved=self.written.approved - {name}))

    @rule(approved=st.frozensets(services), lines=st.frozensets(st.sampled_from(LINES)), observe=st.booleans())
    def edit(self, approved: frozenset[str], lines: frozenset[str], observe: bool) -> None:
        self._count("edit the state")
        mode = "observe" if observe else "enforce"
        self._state(replace(self.written, approved=approved, lines=lines, mode=mode))
        self.tree.state(self.written.state())

    def _state(self, orders: Orders) -> None:
        self.written, self.settled = orders, False

    @precondition(lambda self: self.settled)
    @rule()
    def break_the_state(self) -> None:
        """An editor's half; the daemon goes on with the last good one, and then the file is mended."""
        self._count("break the state")
        self.tree.state(self.written.state()[:-9])
        self._reload()
        self.tree.state(self.written.state())
        self.settled = False

    @rule(paused=st.frozensets(services))
    def pause(self, paused: frozenset[str]) -> None:
        self._count("pause")
        assert self._on("pause", "1h", *sorted(paused), "--reason", "a test of it").code == 0
        if paused:
            self.written = replace(self.written, paused=self.written.paused | paused)
        else:
            self.written = replace(self.written, all_paused=True)
        self._in_force()

    @rule()
    def resume(self) -> None:
        self._count("resume")
        self._on("resume")
        none: frozenset[str] = frozenset()
        self.written = replace(self.written, paused=none, all_paused=False, spared=none, spared_paths=none)
        self._in_force()

    def _in_force(self) -> None:
        """Pauses and exceptions are read at each pass, whatever state the daemon has."""
        self.orders = self.written.with_state_of(self.orders)
        self.settled = False

    @precondition(lambda self: self.last is not None)
    @rule()
    def undo(self) -> None:
        """Nothing came between: everything is as it was, byte for byte."""
        self._count("undo")
        assert self.last is not None
        pass_id, before = self.last
        said = self._on("undo", "--pass", pass_id)
        assert said.code == 0, said
        assert things(self.tree.path) == before
        exception = said.json["exception"]
        spared = self.written.spared.union(map(unescape, exception["names"]))
        paths = self.written.spared_paths.union(map(unescape, exception["paths"]))
        self.written = replace(self.written, spared=spared, spared_paths=paths)
        self.last = None
        self._in_force()

    @rule()
    def time_passes(self) -> None:
        """Pauses and exceptions end by themselves; what is over counts as what was never ordered."""
        self._count("orders expire")
        (self.tree.path / "var/lib/dom0-reconciler/overrides.json").unlink(missing_ok=True)
        self.written = Orders().with_state_of(self.written)
        self._in_force()

    # --- package tools ---

    @rule(folder=folders, number=numbers, name=names)
    def link(self, folder: str, number: str, name: str) -> None:
        self._count("link")
        self._link(folder, number, name)

    @rule(some=st.frozensets(st.tuples(folders, numbers, names), min_size=2, max_size=12))
    def links(self, some: frozenset[tuple[str, str, str]]) -> None:
        self._count("many links")
        for each in sorted(some):
            self._link(*each)

    def _link(self, folder: str, number: str, name: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.symlink(f"../init.d/{name}", self.tree.path / folder / f"S{number}{name}")
            self._changed(folder)

    @rule(name=names)
    def enable(self, name: str) -> None:
        """``update-rc.d enable``: each K link becomes an S link."""
        self._count("update-rc.d enable")
        self._rename(name, "K", "S")

    @rule(name=names)
    def disable(self, name: str) -> None:
        self._count("update-rc.d disable")
        self._rename(name, "S", "K")

    def _rename(self, name: str, old: str, new: str) -> None:
        for folder in START:
            for each in sorted(os.listdir(self.tree.path / folder)):
                if each[0] == old and each[3:] == name:
                    os.rename(self.tree.path / folder / each, self.tree.path / folder / f"{new}{each[1:]}")
                    self._changed(folder)

    @rule(name=names)
    def purge(self, name: str) -> None:
        """Every link goes, as before a package is installed anew."""
        self._count("remove every link")
        for folder in START:
            for each in sorted(os.listdir(self.tree.path / folder)):
                if each[3:] == name:
                    os.unlink(self.tree.path / folder / each)
                    self._changed(folder)

    @rule(name=st.sampled_from(LINES))
    def inetd_add(self, name: str) -> None:
        self._count("an inetd line")
        self.tree.write(INETD, (self.tree.path / INETD).read_bytes() + line(name))
        self._changed(INETD)

    @rule()
    def inetd_enable(self) -> None:
        self._count("inetd lines uncommented")
        content = (self.tree.path / INETD).read_bytes()
        for name in LINES:
            content = content.replace(b"#" + line(name), line(name))
        self.tree.write(INETD, content)
        self._changed(INETD)

    @rule(content=st.sampled_from((b"", b"auto eth0\niface eth0 inet dhcp\n", CANONICAL[:-1])), mode=st.booleans())
    def interfaces(self, content: bytes, mode: bool) -> None:
        self._count("interfaces rewritten")
        self.tree.write(INTERFACES, content).chmod(0o600 if mode else 0o644)
        self._changed(INTERFACES)

    @rule(name=st.sampled_from(("eth1", "xenbr0~", "od\nd", "xenbr0")))
    def interfaces_d(self, name: str) -> None:
        self._count("an interfaces.d file")
        self.tree.write(f"{FOLDER}/{name}", b"iface eth1 inet dhcp\n")
        self._changed(FOLDER)

    @rule(folder=folders)
    def replace_folder(self, folder: str) -> None:
        """A backup is restored: another folder under the same name, its links' owners and times another's."""
        self._count("a folder replaced")
        there = self.tree.path / folder
        shutil.copytree(there, there.with_name("new"), symlinks=True)
        shutil.rmtree(there)
        there.with_name("new").rename(there)
        self._changed(folder)

    # --- the daemon ---

    @rule()
    def full_pass(self) -> None:
        self._count("full pass")
        self._reload()
        self._pass(None)

    @rule(folder=folders, number=numbers, name=names)
    def noticed(self, folder: str, number: str, name: str) -> None:
        """Something comes to a host at peace, and the watch tells."""
        if not self.settled:
            self.full_pass()
        self.link(folder, number, name)
        if self.settled and self.dirty:
            self.focused_pass()

    @rule(folder=folders, number=numbers, name=st.sampled_from(SERVICES))
    def taken_back(self, folder: str, number: str, name: str) -> None:
        """A correction that nobody wanted."""
        self.link(folder, number, name)
        self.full_pass()
        if self.last is not None:
            self.undo()

    @precondition(lambda self: self.settled and self.dirty)
    @rule()
    def focused_pass(self) -> None:
        """As a watch wakes it: it looks where something came, and that is enough."""
        self._count("focused pass")
        observer = self.converger.observer
        self._pass(frozenset(place for place in observer.places if place.path.removeprefix("/") in self.dirty))

    @rule(at=st.integers(1, 60))
    def crash(self, at: int) -> None:
        """Killed before one of the calls that a pass is made of; the next daemon mends what was left, and goes on."""
        self._count("crash")
        self._reload()
        before = things(self.tree.path)
        pid = os.fork()
        if pid == 0:
            _die_at(at, lambda: self.converger.run(Wake("a crash"), enforce=self.orders.mode == "enforce"))
        os.waitpid(pid, 0)
        self.last = None
        self._start()
        self._pass(None, before)

    @precondition(lambda self: self.settled)
    @rule()
    def restart(self) -> None:
        self._count("restart")
        self._start()
        self.settled = False

    def _reload(self) -> None:
        try:
            desired = self.session.load_state()
        except StateError:
            return
        self.converger.observer.use(desired)
        self.orders = self.written

    def _pass(self, places: frozenset[Place] | None, before: Things | None = None) -> None:
        before = things(self.tree.path) if before is None else before
        enforce = self.orders.mode == "enforce"
        report = self.converger.run(Wake("a test", places), enforce=enforce)
        after = things(self.tree.path)
        self._judge_records(report)
        if enforce:
            judge(before, after, self.orders)
            again = self.converger.run(Wake("again"), enforce=True)
            assert again.attempts == ()
            assert things(self.tree.path) == after
        else:
            assert not report.attempts
        self.settled = enforce
        if enforce:
            self.dirty.clear()
        if report.attempts and before != after and places is None:
            self.last = (report.pass_id, before)

    def _judge_records(self, report: Report) -> None:
        counting = {finding.ref for finding in report.plan.findings if finding.rule != "reported"}
        assert all(step.findings and counting.issuperset(step.findings) for step in report.plan.steps)
        assert all(attempt.outcome is not None and attempt.outcome.word == "done" for attempt in report.attempts)
        journal = Journal(self.session.root)
        assert journal.verify().ok
        records = list(journal.read())
        concluded = {record.id for record in records if record.record == "outcome"}
        assert {record.id for record in records if record.record == "intent"} <= concluded


def _die_at(at: int, act: Callable[[], object]) -> NoReturn:
    """Run it, and end this process as a kill does before the nth of the calls."""
    left = at

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                os._exit(9)
            return real(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    try:
        act()
    finally:
        os._exit(0)

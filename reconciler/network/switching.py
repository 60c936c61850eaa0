"""The dead man's switch of the network: stage, apply, and put everything back unless it is confirmed in time.

Each step is durable in :data:`~reconciler.network.netswitch.PATH` before it is taken, so that whoever finds it
afterwards knows what to put back. Who may act on it holds a lock of its own for as long as that lasts; the lock of all
corrections is held only while files are written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext

from reconciler.converge import Tools
from reconciler.errors import ReconcilerError
from reconciler.host import Eyes
from reconciler.host.files import Root
from reconciler.journal import notice
from reconciler.lineage import way_in
from reconciler.model import Action, FileState, Link, LinkState, Ref, Step, Unlink, WriteFile, target_of
from reconciler.moment import Span
from reconciler.network import netswitch
from reconciler.network.applying import ApplyNetwork
from reconciler.network.netswitch import Switch
from reconciler.observer import read_switch
from reconciler.quarantine import Kept
from reconciler.storage import kept as lines
from reconciler.storage import small
from reconciler.text import escape
from reconciler.undo import Undo
from reconciler.values import Value, replace

_NAME = netswitch.PATH.rpartition("/")[2]
HOME = "/etc/network"
"""Where ifupdown's files lie, below the root."""


class Switchboard(Value, frozen=False):
    """What is staged, applied and put back on one root, with the tools of a pass."""

    root: Root
    eyes: Eyes
    tools: Tools

    def read(self) -> Switch:
        """What there is. Raises ``ReconcilerError`` for a file that makes no sense."""
        found = read_switch(self.eyes, self.eyes.host())
        if found.fault:
            raise ReconcilerError(found.fault)
        return found

    def write(self, switch: Switch) -> None:
        """Make it durable. Raises ``JournalError``."""
        small.replace(self.root, _NAME, netswitch.text_of(switch))

    def say(self, word: str, switch: Switch, detail: str, cause: str = "") -> None:
        """Write a notice of a change. Call it under the lock of corrections. Raises ``JournalError``."""
        now = self.tools.clock()
        self.tools.journal.write([notice(word, now, detail, pass_id=switch.pass_id, cause=cause or switch.cause)])

    def stage(self, pass_id: str, action: ApplyNetwork, kept: Sequence[Kept], cause: str) -> None:
        """Before the first effect of a pass: how to put its files back. Call it under the lock of corrections."""
        if self.read().waits:
            raise ReconcilerError("another change of the network is under way")
        files = tuple(lines.encode(each, bytes.hex).decode("ascii") for each in kept)
        switch = Switch("staged", pass_id, action, Span(self.tools.moment(), action.seconds), files, cause=cause)
        self.write(switch)
        self.say(
            "staged", switch, f"{escape(action.interfaces)} by {action.tool}; to be confirmed in {action.seconds:g} s"
        )

    def withdraw(self, why: str) -> None:
        """Put back the files of what was staged and never applied. Call it under the lock of corrections."""
        switch = self.read()
        if switch.phase == "staged" and switch.waits:
            self.put_back(switch, why)
            small.remove(self.root, _NAME)
            self.say("reverted", switch, f"the files only, nothing was applied: {why}")

    def put_back(self, switch: Switch, why: str) -> None:
        """The files as they were, whatever lies there now: that is kept. Call it under the lock of corrections."""
        steps = [Step(a, "", (_ref(target_of(a)),), "drifted") for each in kept_of(switch) for a in self._back(each)]
        cause = f"the network is reverted: {why}"
        Undo(replace(self.tools, lock=nullcontext), self.eyes, cause).run(steps, lambda: None)

    def _back(self, kept: Kept) -> list[Action]:
        path = target_of(kept.action)
        now = self.eyes.entry(path)
        match kept.state:
            case FileState() as wanted:
                return [WriteFile(path, wanted, now)]
            case LinkState() as wanted:
                return [*_unlink(path, now), Link(path, wanted)] if now != wanted else []
            case _:
                return _unlink(path, now)


def kept_of(switch: Switch) -> list[Kept]:
    """What is kept of the files of a change, the last one first."""
    return [lines.decode(line.encode("ascii"), bytes.fromhex) for line in reversed(switch.files)]


def _unlink(path: str, now: object) -> list[Action]:
    if now is None:
        return []
    return [Unlink(path, now.target if isinstance(now, LinkState) else "")]


def _ref(path: str) -> Ref:
    return Ref("interfaces", path.removeprefix(f"{HOME}/"))


# --- what an administrator says -------------------------------------------------------------------------------------


def confirm(board: Switchboard, who: str) -> Switch:
    """Let it stay. Raises ``ReconcilerError`` where nothing waits for that, or it comes from no new login."""
    switch = board.read()
    if not switch.waits:
        raise ReconcilerError("no change of the network waits to be confirmed")
    _must_be_new(board, switch)
    with board.tools.lock():
        if (switch := board.read()).left(board.tools.moment()) <= 0:
            raise ReconcilerError('it is not to be confirmed any more, or not yet: see "dom0-reconciler log"')
        board.say("confirmed", switch, escape(switch.action.interfaces), cause=f"confirm by {who}")
        small.remove(board.root, _NAME)
    return switch


def _must_be_new(board: Switchboard, switch: Switch) -> None:
    """A connection that was there before shows nothing: that one can still log in is what has to be shown."""
    line = way_in(board.eyes.processes(), os.getpid())
    if not line:
        raise ReconcilerError("it must be confirmed from a login, over the network or at the console: this is none")
    began = switch.span.began.since_boot * os.sysconf("SC_CLK_TCK")
    if any(process.started <= began for process in line):
        raise ReconcilerError("this login is older than the change: log in once more, and confirm it there")


def hurry(board: Switchboard) -> Switch:
    """Have it reverted now: its time is over. Raises ``ReconcilerError`` where nothing waits."""
    with board.tools.lock():
        switch = board.read()
        if not switch.waits:
            raise ReconcilerError("no change of the network waits to be confirmed or reverted")
        if switch.phase == "applied":
            board.write(replace(switch, span=replace(switch.span, seconds=0.0)))
    return switch

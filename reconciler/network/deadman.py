"""The process that applies a change of the network, waits for its confirmation, and puts everything back.

It runs beside the daemon and outlives it; where it dies as well, the daemon's next start, or the next boot's, finds in
:data:`~reconciler.network.netswitch.PATH` how far it came.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from reconciler.errors import Unobservable
from reconciler.host import network
from reconciler.model import FileState, target_of
from reconciler.network import netswitch
from reconciler.network.netswitch import Phase, Switch
from reconciler.network.switching import HOME, Switchboard, kept_of
from reconciler.text import escape
from reconciler.values import Value, replace

LOOK = 0.25
"""Seconds between two looks whether somebody confirmed."""


class DeadMan(Value, frozen=False):
    """Applies what is staged, waits for its confirmation, and puts everything back. Holds :data:`lock.SWITCH`."""

    board: Switchboard

    def apply(self) -> str:
        """Have the running network follow; "" or why it could not, and was put back. Raises ``ReconcilerError``."""
        switch = self.board.read()
        if switch.phase != "staged":
            return "nothing is staged"
        action = switch.action
        former = network.lay_out(self._former(switch)) if action.tool == "ifup" else ""
        switch = self._next(switch, "applying", were=network.are_up(dict.fromkeys((*action.down, *action.perhaps))))
        down = [name for name in action.down if name in switch.were]
        up = [*action.up, *(name for name in action.perhaps if name in switch.were)]
        if wrong := self._follow(switch, down, up, former):
            self.revert(f"it could not be applied: {wrong}")
            return wrong
        with self.board.tools.lock():
            switch = netswitch.applied(switch, self.board.tools.moment())
            self.board.write(switch)
            detail = f"{escape(action.interfaces)} by {action.tool}; reverts in {action.seconds:g} s unless confirmed"
            self.board.say("applied", switch, detail)
        return ""

    def _next(self, switch: Switch, phase: Phase, were: tuple[str, ...]) -> Switch:
        switch = replace(switch, phase=phase, were=were, ports=network.ports())
        self.board.write(switch)
        return switch

    def _former(self, switch: Switch) -> dict[str, bytes]:
        """Every network file as it was before this change."""
        paths = [f"{HOME}/interfaces"]
        paths += [f"{HOME}/interfaces.d/{each.name}" for each in self.board.eyes.folder(f"{HOME}/interfaces.d") or ()]
        found = {}
        for path in paths:
            try:
                state = self.board.eyes.read(path)
            except Unobservable:  # a folder, a FIFO: ifdown makes nothing of it either
                state = None
            found[path] = state.content if state is not None else b""
        for kept in kept_of(switch):
            found[target_of(kept.action)] = kept.state.content if isinstance(kept.state, FileState) else b""
        return found

    @staticmethod
    def _follow(switch: Switch, down: Sequence[str], up: Sequence[str], former: str = "") -> str:
        """What was wrong, "" for nothing. That something could not be taken down shows when it does not come up."""
        if switch.action.tool == "ifreload":
            wrong = network.reload()
        else:
            network.take_down(down, former)
            wrong = network.bring_up(up)
        return "; ".join(filter(None, (wrong, *network.attach(switch.ports))))

    def wait(self) -> None:
        """Until it is confirmed; or until its time is over, and then put everything back."""
        while (switch := self.board.read()).waits:
            left = switch.left(self.board.tools.moment())
            if left <= 0:
                self.revert("nobody confirmed it in time" if switch.phase == "applied" else "it was interrupted")
                return
            time.sleep(min(left, LOOK))

    def revert(self, why: str) -> None:
        """Put back files and network. Raises ``ReconcilerError``; what was begun is gone on with by the next one."""
        with self.board.tools.lock():
            switch = self.board.read()
            if switch.phase == "staged":
                self.board.withdraw(why)
            if not switch.waits or switch.phase == "staged":
                return
            self.board.write(replace(switch, phase="reverting"))
        ports, up = _joined(switch.ports, network.ports()), network.has_started()
        if up and switch.action.tool == "ifup":
            network.take_down([*reversed(switch.action.up), *reversed(switch.action.perhaps)])
        with self.board.tools.lock():
            self.board.put_back(switch, why)
        wrong = self._follow(replace(switch, ports=ports), (), list(reversed(switch.were))) if up else ""
        with self.board.tools.lock():
            self.board.write(replace(switch, phase="reverted", files=()))
            self.board.say("reverted", switch, f"{why}{'; ' if wrong else ''}{wrong}")


def _joined(
    one: Sequence[tuple[str, tuple[str, ...]]], other: Sequence[tuple[str, tuple[str, ...]]]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What hung on a bridge before, or came to hang there since."""
    found = dict(one)
    for bridge, names in other:
        found[bridge] = tuple(dict.fromkeys((*found.get(bridge, ()), *names)))
    return tuple(found.items())

"""``revert``: put a change of the network back, now or when its time is over.

``--when-due`` is what the daemon starts beside itself: it must outlive the daemon, the login and the network.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable

from reconciler.errors import Busy, ReconcilerError
from reconciler.host import lock, network
from reconciler.network import switching
from reconciler.network.deadman import LOOK, DeadMan
from reconciler.network.switching import Switchboard
from reconciler.render import Printer
from reconciler.session import Session
from reconciler.text import escape

_SAID = 4096  # bytes of what was wrong


def run(session: Session, options: argparse.Namespace) -> int:
    """0; 1 when nothing waits to be reverted, or what was staged could not be applied."""
    session.must_be_able()
    board = session.switchboard(session.command_log())
    if options.at_boot and not _is_left(board):
        return 0
    if options.when_due:
        return _beside(lambda say: _stand_by(DeadMan(board), staged=options.staged, say=say))
    return _now(session, board, options)


def _is_left(board: Switchboard) -> bool:
    """Whether a change waits that can be confirmed no more."""
    switch = board.read()
    return switch.waits and switch.left(board.tools.moment()) <= 0


def _now(session: Session, board: Switchboard, options: argparse.Namespace) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the connection that this is said over may go with the change
    why = "nobody confirmed it before the host was booted again" if options.at_boot else "an administrator said so"
    switch = switching.hurry(board)
    deadline = time.monotonic() + network.BEGIN_SECONDS
    while board.read().waits:
        try:
            with lock.held(session.root, lock.SWITCH, wait=False):
                DeadMan(board).revert(why)
        except Busy:  # the process that waits for it does it
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK)
    out, interfaces = Printer(), escape(switch.action.interfaces)
    if options.json:
        out.json({"reverted": interfaces.split(), "pass": switch.pass_id})
    else:
        out.line(f"reverted: {interfaces} is as before the change")
    return 0


def _stand_by(dead_man: DeadMan, *, staged: bool, say: Callable[[str], None]) -> None:
    """Hold the switch until it is confirmed or reverted; ``say`` what came of the first step, "" for well."""
    try:
        with lock.held(dead_man.board.root, lock.SWITCH, wait=False):
            say(dead_man.apply() if staged else "")
            dead_man.wait()
    except Busy:
        say("another change of the network is under way" if staged else "")


def _beside(work: Callable[[Callable[[str], None]], None]) -> int:
    """Go on as a process of one's own; return as soon as that one has said how the first step went."""
    inner, outer = os.pipe()
    if os.fork():
        os.close(outer)
        with open(inner, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read(_SAID)
        if said != "+":
            raise ReconcilerError(said.strip() or "the process that was to apply it ended")
        return 0
    code = 1
    try:
        os.close(inner)
        _detach()

        def say(wrong: str) -> None:
            os.write(outer, (wrong[:_SAID] or "+").encode("utf-8", "replace"))
            os.close(outer)

        work(say)
        code = 0
    finally:
        os._exit(code)  # the other one is the command: what is left to be said and flushed is its own


def _detach() -> None:
    """No terminal, no session, no output of the one that started it."""
    os.setsid()
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)

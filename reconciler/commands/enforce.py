"""``enforce`` and ``observe``: switch the mode after showing the plan."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from reconciler import standing
from reconciler.editing import set_mode
from reconciler.errors import JournalError, ReconcilerError
from reconciler.holds import BUDGET
from reconciler.host import statusfile
from reconciler.host.caller import caller
from reconciler.model import Mode
from reconciler.moment import Moment, Span
from reconciler.overrides import Order, Overrides
from reconciler.render import Printer, error, mode_text
from reconciler.session import Session
from reconciler.shapes import mode_shape
from reconciler.statechange import Change, judge, make, read_later
from reconciler.storage import store
from reconciler.values import replace

RELEASE_SECONDS = 600.0
"""How long ``enforce`` lifts the budget: whoever orders it has seen the plan, and a slow host may need some passes."""


def run(session: Session, options: argparse.Namespace) -> int:
    """0; 1 where the state is refused (it would lock somebody out), or another file of it sets the mode."""
    return switch(session, options, "enforce")


def switch(session: Session, options: argparse.Namespace, mode: Mode) -> int:
    """Both commands. The plan is shown before anything is written; the daemon notices the file by itself."""
    session.must_be_able()  # before a plan is shown that this caller cannot order
    change = judge(session, lambda text: set_mode(text, mode))
    status = statusfile.read(session.root)
    if change.after.mode != mode:
        others = read_later(session, ("mode",))
        raise ReconcilerError(f'another file sets mode = "{change.after.mode}", edit it there: {others}')
    out = Printer()
    if not options.json:
        mode_text(change, out)
    done = _order(session, change, mode, status)
    if options.json:
        out.json(mode_shape(change, running=status is not None))
    else:
        out.line(f"mode {mode}: {done}")
    return 0


def _order(session: Session, change: Change, mode: Mode, status: Mapping[str, Any] | None) -> str:
    """Do it, and say what became of it."""
    running = "the daemon does so from now on" if status is not None else "the daemon does not run"
    if change.before.mode != mode:
        if mode == "enforce":
            _release(session)
        make(session, change, "mode", mode)
        return running if status is not None else f"written; {running}"
    if mode == "enforce" and _is_over_budget(status or {}):  # the daemon asked for this very order
        standing.order(session, _released, "enforce", "what the budget holds is to be corrected")
        return running
    return f"nothing to write; {'the daemon runs' if status is not None else running}"


def _release(session: Session) -> None:
    """Lift the budget; where the disk does not take that, the host is held all the same, within the budget."""
    try:
        standing.put_locked(session, _released)
    except JournalError as fault:
        if not store.trouble(fault):
            raise
        error(f'warning: the budget stays in force: {fault}; what "status" shows held by it, "enforce" asks for again')


def _is_over_budget(status: Mapping[str, Any]) -> bool:
    return any(str(step["held"]).startswith(BUDGET) for step in status.get("held", ()))


def _released(found: Overrides, moment: Moment) -> Overrides:
    order = Order(caller(), "enforce", Span(moment, RELEASE_SECONDS))
    return replace(found, released=(*found.released, order))

"""``apply``: one pass in enforce mode, whatever the state's mode says; waits for the stops it began."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import suppress
from functools import partial

from reconciler.attempts import Attempt, Report
from reconciler.converge import Converger
from reconciler.errors import ReconcilerError
from reconciler.host.caller import caller
from reconciler.host.waiting import ready_of
from reconciler.model import Wake
from reconciler.render import Printer, error, report_text, switch_text
from reconciler.session import Session
from reconciler.shapes import report_shape, switch_shape
from reconciler.standing import bring_home
from reconciler.values import replace

ROUNDS = 3
"""What one correction uncovers (a process that outlives its stop) is corrected too; more is not converging."""


def run(session: Session, options: argparse.Namespace) -> int:
    """0 converged, 2 anything left."""
    observer = session.observer()
    session.refuse_lockout(observer.desired)
    tools = replace(session.tools(session.command_log()), come_home=partial(bring_home, session))
    converger = Converger(observer, tools, ordered=True)
    with suppress(ReconcilerError), converger.tools.lock():  # without the lock nothing is corrected, and that is told
        session.sweep(observer.places)
    reports = _rounds(converger, Wake(f"apply by {caller()}"))
    converger.settle_debts()
    converger.tidy()
    restraints, out = converger.restraints(), Printer()
    left, waiting = observer.plan(restraints), switch_shape(restraints.switch, restraints.now)
    if options.json:
        out.json({**report_shape(reports, left), "network": waiting})
    else:
        report_text(reports, left, out)
        if waiting:
            switch_text(waiting, out)
    return 0 if left.converged else 2


def _rounds(converger: Converger, wake: Wake) -> list[Report]:
    reports: list[Report] = []
    while len(reports) < ROUNDS:
        tried = converger.observer.tried
        report = converger.run(wake, enforce=True)
        reports.append(report.with_ended(_wait(converger)))
        converger.observer.look()
        done = any(a.outcome is not None and a.outcome.word == "done" for a in reports[-1].attempts)
        if not done and converger.observer.tried == tried:
            break
    return reports


def _wait(converger: Converger) -> dict[str, Attempt]:
    """Wait for every stop under way; each has its own time limit."""
    ended = {attempt.id: attempt for attempt in converger.go_on()} if converger.put_off else {}
    while converger.in_flight:
        if sys.stderr.isatty():
            error(f"waiting for what was begun: {', '.join(sorted(converger.in_flight))} ...")
        ready = ready_of([handle for handle, _ in converger.in_flight.values()])
        ended.update((attempt.id, attempt) for attempt in converger.advance(ready, time.monotonic()))
    return ended

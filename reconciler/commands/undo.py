"""``undo ID``, ``undo --pass ID``: put back what was removed, and leave it alone for a while."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from reconciler import render, standing
from reconciler.commands.pause import LONGEST, span_of
from reconciler.errors import JournalError, ReconcilerError
from reconciler.holds import paths_of
from reconciler.host.caller import caller
from reconciler.host.moments import now
from reconciler.journal import Journal, notice
from reconciler.model import Record, StartService, Step, StopService, WriteFile
from reconciler.moment import Moment, Span
from reconciler.overrides import Order
from reconciler.quarantine import Kept, Quarantine
from reconciler.render import Printer, attempt_text
from reconciler.session import Session
from reconciler.shapes import attempt_shape, order_shape
from reconciler.statefile.words import quote
from reconciler.storage import store
from reconciler.text import argument, escape, plain
from reconciler.undo import Item, Undo, Undoing, plan_back, stops_of, told

_SLACK = 120.0  # seconds that a clock may have been set back between a pass's name and its records


def run(session: Session, options: argparse.Namespace) -> int:
    """0 when all of it is as it was; 1 when something changed since, cannot be put back, or is not known."""
    seconds = span_of(options.span, LONGEST)
    items, whole = _find(session, options)
    steps = _steps(session, items, whole, start=options.start)
    if not steps:
        raise ReconcilerError(_nothing(items))
    tools = session.tools(session.command_log())
    cause = f"undo of {escape(options.id)} by {caller()}"
    exception = _exception(items, options.id, Span(now(), seconds))
    written = {i.kept.action.path: i.kept.action.state for i in items if isinstance(i.kept.action, WriteFile)}

    refused: list[str] = []

    def leave_alone() -> None:
        detail = f"{escape(options.id)}; left alone until {order_shape(exception, now())['until']}"
        tools.journal.write([notice("undo", tools.clock(), detail, cause=cause)])
        try:
            standing.put(session, lambda found, _: found.with_exception(exception))
        except JournalError as error:
            if not store.trouble(error):
                raise
            refused.append(str(error))  # what is approved, or not enforced, stays all the same
            tools.journal.write([notice("unmade", tools.clock(), f"{detail}: {plain(str(error))}", cause=cause)])

    undoing = Undo(tools, session.eyes, cause, written).run(steps, leave_alone)
    tools.journal.close()
    for why in refused:
        render.error(f"warning: it is not left alone: {why}; what enforces the state takes it away again")
    _show(undoing, items, None if refused else exception, options)
    return 0 if undoing.done else 1


def _find(session: Session, options: argparse.Namespace) -> tuple[list[Item], tuple[Kept, ...]]:
    """What is to be undone, and all that is kept of the same pass. Raises ``ReconcilerError`` with the nearest ids."""
    quarantine, id_ = Quarantine(session.root), options.id
    pass_id = id_ if options.whole else id_.rpartition(".")[0]
    records = {r.id: r for r in _of_pass(Journal(session.root), pass_id) if r.action}
    try:
        kept = (*quarantine.of_pass(pass_id),) if options.whole else (quarantine.find(id_),)
        whole = quarantine.of_pass(pass_id)
    except ReconcilerError as error:
        raise ReconcilerError(f"{error}{_nearest(session, options)}") from error
    done = [k for k in kept if k.id not in records or records[k.id].outcome not in ("stale", "held")]
    return [Item(each, records.get(each.id)) for each in done], whole


def _of_pass(journal: Journal, pass_id: str) -> Iterator[Record]:
    """The records of a pass, whose name says when it was."""
    try:
        since: float | None = datetime.strptime(pass_id[:15], "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp() - _SLACK
    except ValueError:
        since = None
    return (record for record in journal.read(since) if record.pass_id == pass_id)


def _nearest(session: Session, options: argparse.Namespace) -> str:
    from difflib import get_close_matches

    acted = [r for r in Journal(session.root).read() if r.record == "intent"][-1000:]
    known = list(dict.fromkeys(r.pass_id if options.whole else r.id for r in acted))
    if not options.whole and any(r.pass_id == options.id for r in acted):
        return f'; it names a pass: "undo --pass {escape(options.id)}"'
    near = get_close_matches(options.id, known, n=3, cutoff=0.5) or known[-3:]
    return f"; the nearest: {', '.join(map(quote, near))}" if near else "; nothing was ever done here"


def _steps(session: Session, items: Sequence[Item], whole: Sequence[Kept], *, start: bool) -> list[Step]:
    host = session.eyes.host()
    catalogue = session.catalogue
    names = {item.service: catalogue.service(item.service).names for item in items if item.service}
    stops = stops_of(items, whole, names) if start else []
    if start and not stops:
        found = [catalogue.stop(catalogue.service(name), host) for name in names]
        stops = [stop for stop in found if isinstance(stop, StopService)]
    steps = plan_back(items, stops, live=host.live, systemd=host.init == "systemd")
    if host.live and any(isinstance(step.action, WriteFile) for step in steps):
        steps += [Step(each, each.service, steps[0].findings) for each in told(whole)]
    return steps


def _nothing(items: Sequence[Item]) -> str:
    if any(isinstance(item.kept.action, StopService | StartService) for item in items):
        return "nothing was removed, only stopped: --start starts it (on the running host)"
    return "there is nothing to put back: no file was changed by it"


def _exception(items: Sequence[Item], id_: str, span: Span) -> Order:
    """For the service as a whole, by any of its names; what belongs to none, for the very paths."""
    services = dict.fromkeys(item.service for item in items if item.service)
    paths = {path for item in items if not item.service for path in paths_of(item.kept.action)}
    return Order(caller(), f"undo of {id_} by {caller()}", span, tuple(services), tuple(sorted(paths)), id_)


def _show(undoing: Undoing, items: Sequence[Item], exception: Order | None, options: argparse.Namespace) -> None:
    approvals = tuple(dict.fromkeys(name for item in items for name in item.approvals))
    approve = f"dom0-reconciler approve {' '.join(map(argument, approvals))}" if approvals else None
    out, shape = Printer(), order_shape(exception, Moment(exception.span.began.wall)) if exception else None
    if options.json:
        steps = [attempt_shape(attempt) for attempt in undoing.attempts]
        already = [escape(target) for target in undoing.already]
        shown = {"done": undoing.done, "steps": steps, "already": already, "exception": shape, "approve": approve}
        out.json(shown)
        return
    for attempt in undoing.attempts:
        attempt_text(attempt, out)
    for target in undoing.already:
        out.line(f"{out.paint('done', 'green'):<10} {escape(target)} is as it was already")
    left = f'left alone until {shape["until"]}, "dom0-reconciler resume" ends it before; ' if shape else ""
    out.line(f"{left}to keep it for good: {approve or _FOR_GOOD}")


_FOR_GOOD = "change the file that the state names for it"

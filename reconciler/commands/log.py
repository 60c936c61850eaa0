"""``log``: the corrective actions, from the local journal."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from datetime import datetime

from reconciler.errors import UsageError
from reconciler.journal import Journal
from reconciler.model import Record
from reconciler.render import Printer, record_text
from reconciler.session import Session
from reconciler.shapes import record_shape
from reconciler.timespan import parse_span


def run(session: Session, options: argparse.Namespace) -> int:
    """0, or 1 when ``--verify`` finds the chain broken."""
    journal = Journal(session.root)
    if options.verify:
        return _verify(journal, options)
    since = _since(options.since) if options.since else None
    out = Printer()
    for record in _records(journal, since, options):
        if options.json:
            out.json_line(record_shape(record))
        elif record.record != "intent" or options.follow:
            record_text(record, out)
            if options.follow:
                out.stream.flush()  # whoever follows through a pipe wants it now, too
    return 0


def _records(journal: Journal, since: float | None, options: argparse.Namespace) -> Iterator[Record]:
    if options.follow:
        return journal.follow(since, options.service)
    return journal.read(since, options.service)


def _verify(journal: Journal, options: argparse.Namespace) -> int:
    found, out = journal.verify(), Printer()
    if options.json:
        out.json({"ok": found.ok, "records": found.records, "line": found.first_bad_line, "why": found.why})
    elif found.ok:
        out.line(f"the chain is whole: {found.records} records" + (f"; but {found.why}" if found.why else ""))
    else:
        out.line(f"the chain is broken at line {found.first_bad_line}: {found.why}")
    return 0 if found.ok else 1


def _since(text: str) -> float:
    """A date and time (local unless it says otherwise) or how long ago, in seconds since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - parse_span(text)
    except ValueError as error:
        raise UsageError(f"--since {text}: neither a date such as 2026-11-23 nor a span such as 2h") from error

"""``explain NAME``: the rule, the evidence, who brought it, what was or would be done, the way back."""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial

from reconciler.errors import JournalError, ReconcilerError, Unobservable
from reconciler.explanation import Explanation, explain, files_of, look_at, subject_of
from reconciler.host import Eyes
from reconciler.host.kernel import Packages
from reconciler.host.moments import now
from reconciler.journal import Journal
from reconciler.model import Record
from reconciler.origins import Texts, origin
from reconciler.quarantine import Quarantine
from reconciler.render import Printer, explanation_text
from reconciler.session import Session
from reconciler.shapes import explanation_shape
from reconciler.statefile.words import did_you_mean, quote
from reconciler.values import replace

LOG_LIMIT = 32 << 20
"""Bytes of one log, unpacked as well: dpkg.log of a busy year has 10 MB."""

_KEPT = 12  # rotated logs, as Debian's logrotate files for apt and dpkg have it: twelve months


def run(session: Session, options: argparse.Namespace) -> int:
    """0, or 1 for a name that means nothing here."""
    observer = session.observer()
    look_at(options.subject, observer)
    context, plan = observer.context(), observer.plan(observer.restraints(now()))
    records, notes = _records(session)
    taken = cache(partial(_taken, session))
    about = subject_of(options.subject, context, plan, records, taken)
    found = explain(options.subject, about, context, plan, records, taken)
    if not found.known:
        known = {*context.catalogue.names(), *(f.service for f in plan.findings), *(str(f.ref) for f in plan.findings)}
        near = did_you_mean(options.subject, known)
        near = near or '; a service, a path, a port, a ref of "plan" or an id of "log" would'
        raise ReconcilerError("\n".join((f"{quote(options.subject)} means nothing here{near}", *notes)))
    paths = files_of(found.service, (*found.seen, *(f.seen for f in found.findings if f.seen)), context)
    packages = dict.fromkeys(filter(None, Packages(session.root).owners(paths).values()))
    texts = _texts(session.eyes) if packages else Texts()
    found = replace(found, origins=tuple(origin(name, texts) for name in packages), notes=notes)
    _show(found, options)
    return 0


def _show(found: Explanation, options: argparse.Namespace) -> None:
    out = Printer()
    if options.json:
        out.json(explanation_shape(found))
    else:
        explanation_text(found, out)


def _records(session: Session) -> tuple[list[Record], tuple[str, ...]]:
    """The journal, and what keeps it from us: only root reads it."""
    try:
        return [r for r in Journal(session.root).read() if r.record == "outcome"], ()
    except JournalError as error:
        return [], (f"what was done is not known: {error}",)


def _taken(session: Session, record: Record) -> tuple[str, ...]:
    """The lines of inetd that an action took out, while it is kept what was there before."""
    from reconciler.undo import Item

    if record.action != "write-file" or record.outcome != "done":
        return ()
    with suppress(ReconcilerError):
        return Item(Quarantine(session.root).find(record.id), record).approvals
    return ()


def _texts(eyes: Eyes) -> Texts:
    return Texts(
        "\n\n".join(_logs(eyes, "/var/log/apt/history.log")),
        "\n".join(_logs(eyes, "/var/log/dpkg.log")),
        _read(eyes, "/var/lib/apt/extended_states"),
        _read(eyes, "/var/lib/dpkg/status"),
    )


def _logs(eyes: Eyes, path: str) -> Iterator[str]:
    """A log with those that logrotate(8) put aside, the oldest first."""
    for index in range(_KEPT, 0, -1):
        yield _read(eyes, f"{path}.{index}.gz") or _read(eyes, f"{path}.{index}")
    yield _read(eyes, path)


def _read(eyes: Eyes, path: str) -> str:
    """What cannot be read explains nothing, and is no reason not to explain the rest."""
    try:
        state = eyes.read(path, LOG_LIMIT)
        content = state.content if state else b""
        if path.endswith(".gz"):
            content = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(content, LOG_LIMIT)
    except (Unobservable, zlib.error):
        return ""
    return content.decode("utf-8", "replace")

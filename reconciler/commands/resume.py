"""``resume``: end pauses, and exceptions that an ``undo`` left, before their time."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from reconciler.commands.pause import checked_names
from reconciler.errors import ReconcilerError
from reconciler.host.moments import now
from reconciler.moment import Moment
from reconciler.observer import read_overrides
from reconciler.overrides import Order, Overrides
from reconciler.render import Printer
from reconciler.session import Session
from reconciler.standing import order
from reconciler.text import escape
from reconciler.values import Value


class _Wanted(Value):
    """What is to be resumed: services by all of their names, and paths; neither means everything."""

    names: frozenset[str]
    paths: frozenset[str]

    def ends(self, each: Order) -> bool:
        return not (self.names or self.paths) or each.concerns(self.names, self.paths)


def run(session: Session, options: argparse.Namespace) -> int:
    """0; 1 when a service is named that only a pause of everything keeps from being corrected."""
    what, wanted = ", ".join(map(escape, options.names)) or "everything", _wanted(session, options.names)
    found = read_overrides(session.eyes, session.eyes.host()).in_force(now())
    pauses, exceptions = ([*filter(wanted.ends, orders)] for orders in (found.pauses, found.exceptions))
    if pauses or exceptions:

        def end(overrides: Overrides, _: Moment) -> Overrides:
            return overrides.without(wanted.names, wanted.paths)

        order(session, end, "resume", what)
    if wanted.names and any(not pause.names for pause in found.pauses):
        raise ReconcilerError('everything is paused, and a part of that cannot be resumed: "resume" without a name')
    before, after = ({*_excepted(each.exceptions)} for each in (found, found.without(wanted.names, wanted.paths)))
    freed = [escape(each) for each in dict.fromkeys(_excepted(exceptions)) if each in before - after]
    _show(what, len(pauses), freed, options)
    return 0


def _wanted(session: Session, words: Sequence[str]) -> _Wanted:
    services = checked_names([word for word in words if not word.startswith("/")])
    names = frozenset(name for word in services for name in (word, *session.catalogue.service(word).names))
    return _Wanted(names, frozenset(word for word in words if word.startswith("/")))


def _excepted(orders: Sequence[Order]) -> Iterator[str]:
    for each in orders:
        yield from (*each.names, *each.paths)


def _show(what: str, pauses: int, freed: Sequence[str], options: argparse.Namespace) -> None:
    out = Printer()
    if options.json:
        out.json({"resumed": pauses, "exceptions": freed})
        return
    parts = [f"resumed: {what}"] * bool(pauses) + [f"no longer left alone: {', '.join(freed)}"] * bool(freed)
    out.line("; ".join(parts) or "nothing was paused or left alone")

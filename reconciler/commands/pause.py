"""``pause``: report only, for a while; all services, or some."""

from __future__ import annotations

import argparse

from reconciler.errors import UsageError
from reconciler.host.caller import caller
from reconciler.host.moments import now
from reconciler.moment import Moment, Span
from reconciler.overrides import Order, Overrides
from reconciler.render import Printer, error
from reconciler.session import Session
from reconciler.shapes import order_shape
from reconciler.standing import order
from reconciler.statefile.words import Wrong, service_name
from reconciler.statefile.words import plain as printable
from reconciler.text import escape, plain
from reconciler.timespan import parse_span
from reconciler.values import replace

LONGEST = 366 * 86400.0
"""Seconds: who wants a service for longer than a year approves it."""


def run(session: Session, options: argparse.Namespace) -> int:
    """0. What no service here is called may be installed in a minute: it is only doubted, on stderr."""
    names = checked_names(options.names)
    moment = now()
    pause = Order(caller(), _reason(options.reason), Span(moment, span_of(options.duration, LONGEST)), names)

    def add(found: Overrides, _: Moment) -> Overrides:
        return replace(found, pauses=(*found.pauses, pause))

    for line in session.doubt(names):
        error(f"warning: {line}")
    shape = order_shape(pause, moment)
    what = ", ".join(map(escape, names)) or "everything"
    order(session, add, "pause", f"{what} until {shape['until']}: {plain(pause.why)}")
    out = Printer()
    if options.json:
        out.json(shape)
    else:
        out.line(f'paused: {what} until {shape["until"]}; "dom0-reconciler resume" ends it before')
    return 0


def checked_names(words: list[str]) -> tuple[str, ...]:
    """Names of services, as a state may hold them; ``UsageError`` for what can be none."""
    try:
        return tuple(dict.fromkeys(service_name(word) for word in words))
    except Wrong as wrong:
        raise UsageError(str(wrong)) from wrong


def span_of(text: str, longest: float) -> float:
    """A time span in seconds, longer than none; ``UsageError`` for anything else."""
    try:
        seconds = parse_span(text)
    except ValueError as wrong:
        raise UsageError(f"'{escape(text)}' {wrong}") from wrong
    if not 0 < seconds <= longest:
        raise UsageError(f"'{escape(text)}' must be more than nothing and at most {longest / 86400:g} days")
    return seconds


def _reason(text: str) -> str:
    try:
        return printable(text.strip())
    except Wrong as wrong:
        raise UsageError(f"--reason {wrong}") from wrong

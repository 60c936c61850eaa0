"""Time spans as systemd writes them, ``5min`` or ``1h 30min``: systemd.time(7), "Parsing time spans"."""

from __future__ import annotations

from reconciler.patterns import pattern

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_UNITS = {  # seconds, by every spelling of systemd.time(7); a number without a unit counts seconds
    1e-6: "us usec \u00b5s \u03bcs",
    1e-3: "ms msec",
    1.0: "s sec second seconds",
    _MINUTE: "m min minute minutes",
    _HOUR: "h hr hour hours",
    _DAY: "d day days",
    7 * _DAY: "w week weeks",
    30.44 * _DAY: "M month months",
    365.25 * _DAY: "y year years",
}
_SECONDS = {"": 1.0, **{name: seconds for seconds, names in _UNITS.items() for name in names.split()}}
_PART = pattern(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?![0-9.])[ \t]*([^0-9 \t.]*)[ \t]*")


def parse_span(text: str) -> float:
    """Read a time span; the result is in seconds. Raises ``ValueError`` with a reason a user can act on.

    >>> parse_span("1h 30min")
    5400.0
    """
    text, at, total = text.strip(" \t"), 0, 0.0
    while at < len(text) or not text:
        part = _PART.match(text, at)
        if part is None:
            raise ValueError("is not a time span such as '5min', '1h 30min' or '90s'")
        total += float(part[1]) * _unit(part[2])
        at = part.end()
    return total


def _unit(name: str) -> float:
    seconds = _SECONDS.get(name)
    if seconds is None:
        raise ValueError(f"has no unit of time '{name}' (us ms s min h d w M y)")
    return seconds

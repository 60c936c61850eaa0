"""The targets: for each parser a function of bytes that returns, whatever it is given, or has found a bug.

A target raises where the parser breaks its promise: an exception that it does not name, or a property that does not
hold. Most parsers are given the bytes as they are; where a parser takes several texts or names, `split` makes them of
the one input, so that what the fuzzer learns about one stays in place when another grows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.fuzz.targets import files, kernel, plans, records, state

Target = Callable[[bytes], None]

TARGETS: Mapping[str, Target] = {
    target.__name__: target for module in (state, files, kernel, records, plans) for target in module.TARGETS
}
"""By name, in the order in which they are run."""

COSTS: Mapping[str, int] = {
    "plan": 40,
    "units": 40,
    "edit": 40,
    "desired": 20,
    "lines": 6,
    "interfaces": 4,
    "journal": 4,
    "inetd_conf": 3,
}
"""What one input costs beside the others' few microseconds, roughly: so many times less is such a target's share."""

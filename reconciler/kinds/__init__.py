"""The kinds: one module each, and the table of them. A new kind is one module and one line here.

Kinds do not know each other; they state what they saw, and the planner joins it through the catalogue.
"""

from __future__ import annotations

from reconciler.kinds import inetd, interfaces, listeners, processes, rclinks, units
from reconciler.kinds.base import Context, Kind

KINDS: tuple[Kind, ...] = (rclinks, units, inetd, interfaces, listeners, processes)
"""In the order in which findings are shown."""

__all__ = ["KINDS", "Context", "Kind"]

"""``status``: how the daemon is, and what it last found."""

from __future__ import annotations

import argparse

from reconciler.host import keeper, statusfile
from reconciler.render import Printer, safe, status_text
from reconciler.session import Session

NOT_RUNNING: dict[str, object] = {
    "running": False,
    "converged": False,
    "findings": [],
    "steps": [],
    "gaps": [],
    "skipped": [],
}


def run(session: Session, options: argparse.Namespace) -> int:
    """0 converged, 2 not, 3 the daemon does not run."""
    published = statusfile.read(session.root)
    running = published is not None  # a daemon that starts publishes when its first pass is over
    status = {**(published or NOT_RUNNING), "running": running}
    out = Printer()
    if options.json:
        out.json(status)
    else:
        status_text(safe(status), out, kept=not running and keeper.is_there(session.root))
    if not running:
        return 3
    return 0 if status["converged"] else 2

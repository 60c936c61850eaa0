"""``plan``: what is not as declared, and what would be done. Writes nothing."""

from __future__ import annotations

import argparse

from reconciler.host.moments import now
from reconciler.render import Printer, error, plan_text
from reconciler.session import Session
from reconciler.shapes import plan_shape


def run(session: Session, options: argparse.Namespace) -> int:
    """0 converged, 2 not."""
    observer = session.observer()
    observer.look()
    restraints, out = observer.restraints(now()), Printer()
    if restraints.overrides.hidden:
        error("warning: pauses and exceptions are not known: reading them needs root")
    plan = observer.plan(restraints)
    if options.json:
        out.json(plan_shape(plan))
    else:
        plan_text(plan, out)
    return 0 if plan.converged else 2

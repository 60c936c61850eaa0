"""``check [FILE]``: validate a state."""

from __future__ import annotations

import argparse

from reconciler.errors import StateError
from reconciler.render import Printer
from reconciler.session import Session


def run(session: Session, options: argparse.Namespace) -> int:
    """0 when the state is fine, else 1 with every error on stderr."""
    out, path = Printer(), options.file or session.state_path
    try:
        desired = session.load_state(path)
    except StateError as error:
        if options.json:
            out.json({"ok": False, "errors": list(error.errors), "warnings": []})
        raise
    if options.json:
        out.json({"ok": True, "errors": [], "warnings": list(desired.warnings)})
    else:
        out.warnings(desired.warnings)
        out.line(f"{path}: fine; mode {desired.mode}, a full pass every {desired.interval:g} s")
    return 0

"""``revoke NAME...``: the other way round than ``approve``."""

from __future__ import annotations

import argparse

from reconciler.commands.approve import edit
from reconciler.session import Session


def run(session: Session, options: argparse.Namespace) -> int:
    """0, also where it was not approved; 1 where the main file cannot say it."""
    return edit(session, options, revoke=True)

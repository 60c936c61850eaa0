"""``observe``: the other way round than ``enforce``."""

from __future__ import annotations

import argparse

from reconciler.commands.enforce import switch
from reconciler.session import Session


def run(session: Session, options: argparse.Namespace) -> int:
    """0; 1 where the state is refused, or another file of it sets the mode."""
    return switch(session, options, "observe")

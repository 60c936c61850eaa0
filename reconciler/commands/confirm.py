"""``confirm``: let a change of the network stay, said from a new login."""

from __future__ import annotations

import argparse

from reconciler.host.caller import caller
from reconciler.network import switching
from reconciler.render import Printer
from reconciler.session import Session
from reconciler.text import escape


def run(session: Session, options: argparse.Namespace) -> int:
    """0; 1 when nothing waits for it, or this is no login that began after the change."""
    session.must_be_able()
    switch = switching.confirm(session.switchboard(session.command_log()), caller())
    out, interfaces = Printer(), escape(switch.action.interfaces)
    if options.json:
        out.json({"confirmed": interfaces.split(), "pass": switch.pass_id})
    else:
        out.line(f"confirmed: {interfaces} stays as it is now")
    return 0

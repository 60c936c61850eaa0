"""Changes of what is ordered for a while: written down in the journal first, then in force."""

from __future__ import annotations

from collections.abc import Callable

from reconciler import render
from reconciler.errors import JournalError
from reconciler.host import lock
from reconciler.host.moments import now
from reconciler.moment import Moment
from reconciler.observer import read_overrides
from reconciler.overrides import PATH, Overrides, text_of
from reconciler.recording import recorded
from reconciler.session import Session
from reconciler.storage import small

NAME = PATH.rpartition("/")[2]

Change = Callable[[Overrides, Moment], Overrides]
"""Makes of what is in force, at that moment, what shall be."""


def order(session: Session, change: Change, word: str, detail: str) -> None:
    """Change the orders, and journal it as a notice of type ``word`` with who asked for it as its cause.

    It holds the root's correction lock: a batch that is under way ends first, and whatever is planned obeys.
    """
    tools = session.tools(session.command_log())
    try:
        with tools.lock(), recorded(tools, word, detail):
            put(session, change)
    except JournalError as error:
        raise JournalError(f"{error}: what was ordered is not in force") from error
    tools.journal.close()


def put(session: Session, change: Change) -> None:
    """The same for who holds the lock and has written the records."""
    moment, found = now(), read_overrides(session.eyes, session.eyes.host())
    if found.fault:
        small.set_aside(session.root, NAME)
        render.error(f"warning: {found.fault}; it is kept as {PATH}.corrupt")
    small.replace(session.root, NAME, text_of(change(found.in_force(moment), moment)))


def put_locked(session: Session, change: Change) -> None:
    """The same with the lock, for what is recorded elsewhere."""
    with lock.held(session.root, lock.CORRECTING):
        put(session, change)

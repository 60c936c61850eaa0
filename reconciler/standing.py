"""Changes of what is ordered for a while: written down in the journal first, then in force.

While the disk takes nothing they are kept in the spare place (:mod:`reconciler.storage.spare`), all of them: what
stands at home counts no more until they are there.
"""

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
from reconciler.storage import small, spare, store

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
        _set_aside(session, found.fault)
    text = text_of(change(found.in_force(moment), moment))
    try:
        _write_home(session, text)
    except JournalError as error:
        if not (why := store.trouble(error)):
            raise
        try:
            spare.replace(session.root, NAME, text)
        except JournalError as another:
            raise JournalError(f"{error}; {another}") from error
        render.error(f"warning: {why}: it is kept in {spare.PLACE} until the disk takes it; a reboot before ends it")


def bring_home(session: Session) -> None:
    """Have the disk keep again what it did not take. Call it under the root's lock. Raises ``JournalError``."""
    if not spare.holds(session.root, NAME):
        return
    found = read_overrides(session.eyes, session.eyes.host())
    if found.fault:
        _set_aside(session, found.fault)
    else:
        _write_home(session, text_of(found.in_force(now())))


def _write_home(session: Session, text: bytes) -> None:
    small.replace(session.root, NAME, text)
    if spare.holds(session.root, NAME):
        spare.remove(session.root, NAME)


def _set_aside(session: Session, fault: str) -> None:
    """Keep what makes no sense, where it lies; on a disk that takes nothing it gives way."""
    home = spare.PLACE if spare.holds(session.root, NAME) else store.HOME
    try:
        small.set_aside(session.root, NAME, home=home)
    except JournalError as error:
        if not store.trouble(error):
            raise
        render.error(f"warning: {fault}; what is ordered now takes its place")
    else:
        render.error(f"warning: {fault}; it is kept as {home}/{NAME}.corrupt")


def put_locked(session: Session, change: Change) -> None:
    """The same with the lock, for what is recorded elsewhere."""
    with lock.held(session.root, lock.CORRECTING):
        put(session, change)

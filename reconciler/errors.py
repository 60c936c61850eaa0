"""What can go wrong, as one tree.

    ReconcilerError
    ├── UsageError          the command line is wrong                      -> exit 64
    ├── StateError          the desired state is refused, with every reason -> exit 1
    ├── Unobservable        a place could not be looked at                 -> becomes a gap
    ├── Stale               what an action expected is no longer so        -> outcome ``stale``
    ├── ActionFailed        the system refused an action                   -> outcome ``failed``
    ├── JournalError        no place takes what is to be written first     -> nothing is corrected
    └── Busy                another process holds the root's lock

A gap, a stale or a failed action is an ordinary result, not a crash: the layer that knows what to do with one
catches exactly that class. Everything else ends the command with one line on stderr.
"""

from __future__ import annotations

from collections.abc import Sequence


class ReconcilerError(Exception):
    """The root of the tree: its text is one line a user can act on."""


class UsageError(ReconcilerError):
    """The command line is wrong."""


class StateError(ReconcilerError):
    """The desired state is refused whole; ``errors`` holds one line for each reason."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


class Unobservable(ReconcilerError):
    """A place could not be looked at (EACCES, EIO, ELOOP, a wrong type, a link out of the root, too large)."""


class Stale(ReconcilerError):
    """What an action expected to find is no longer so; nothing was changed."""


class ActionFailed(ReconcilerError):
    """The system refused an action; the text says why."""


class JournalError(ReconcilerError):
    """The record of a corrective action cannot be made durable, so the action is not done."""


class Busy(ReconcilerError):
    """Another process holds the lock that is needed."""

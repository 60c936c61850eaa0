"""What a command changes itself (the state, what is ordered for a while) is in the journal before it is so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from reconciler.converge import Tools
from reconciler.errors import ReconcilerError
from reconciler.host.caller import caller
from reconciler.journal import notice
from reconciler.text import plain


@contextmanager
def recorded(tools: Tools, word: str, detail: str) -> Iterator[None]:
    """Journal what a command is about to change; where it then could not, a notice ``unmade`` says so."""
    cause = f"{word} by {caller()}"
    tools.journal.write([notice(word, tools.clock(), detail, cause=cause)])
    try:
        yield
    except (ReconcilerError, OSError) as error:
        why = plain(str((isinstance(error, OSError) and error.strerror) or error))
        with suppress(ReconcilerError):  # where not even that can be written, the first trouble is what is told
            tools.journal.write([notice("unmade", tools.clock(), f"{detail}: {why}", cause=cause)])
        raise

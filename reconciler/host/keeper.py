"""The keeper that holds the daemon under sysvinit, a script of the package: is one there?"""

from __future__ import annotations

from contextlib import suppress

from reconciler.errors import Unobservable
from reconciler.host.files import Root
from reconciler.host.kernel import arguments

PROGRAM = "/usr/lib/dom0-reconciler/keeper"
PIDFILE = "/run/dom0-reconciler.keeper.pid"
"""Both as the init script has them."""

_LIMIT = 64  # bytes; a number has 7 digits


def is_there(root: Root) -> bool:
    """Whether a daemon that ended comes back by itself: a living process, which runs the keeper, is in its file.

    Also while it has replaced itself by what sleeps for it: that has the keeper among its arguments too.
    """
    with suppress(Unobservable, OSError):
        state = root.read(PIDFILE, _LIMIT)
        number = state.content.strip() if state else b""
        return number.isdigit() and PROGRAM in arguments(int(number))
    return False

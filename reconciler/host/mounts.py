"""Whether anything was mounted or unmounted since: the one change of a path that neither inotify nor a status tells."""

from __future__ import annotations

import os
import select
from contextlib import suppress

from reconciler.host.walk import close


class Mounts:
    """Tells once of each change of what is mounted (``poll(2)`` of mountinfo, proc(5)).

    ``blind``: it cannot, there is no /proc.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._poll = select.poll()
        with suppress(OSError):
            self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            self._poll.register(self._fd, select.POLLPRI)

    @property
    def blind(self) -> bool:
        return self._fd < 0

    def changed(self) -> bool:
        """Whether anything was, since this was asked last."""
        return bool(self._poll.poll(0))

    def close(self) -> None:
        """Ask no more."""
        if self._fd >= 0:
            close(self._fd)

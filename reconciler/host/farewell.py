"""A signal that is to end processes, as something to wait for: over when they are gone, or their time is up."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

from reconciler.errors import ActionFailed
from reconciler.host.kernel import ProcessTable, started
from reconciler.host.services import send
from reconciler.host.waiting import has_ended
from reconciler.model import Outcome, Signal

GRACE_SECONDS = 5.0
"""How long a process may take to end after a signal; as long as systemd's own tools and start-stop-daemon wait."""


class SignalHandle:
    """Fulfils :class:`~reconciler.host.Handle`. ``fd`` is an epoll of each process's pidfd (``pidfd_open(2)``)."""

    def __init__(self, action: Signal, table: ProcessTable) -> None:
        """Send the signal; raises ``Stale`` where nothing of it runs any more, ``ActionFailed`` where refused."""
        self.action = action
        self._epoll = select.epoll()
        self._pidfds = [fd for pid, start in action.pids if (fd := _held(pid, start)) >= 0]
        self._bell, self._ring = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for fd in (*self._pidfds, self._bell):
            self._epoll.register(fd, select.EPOLLIN)
        self.fd = self._epoll.fileno()
        self.deadline = time.monotonic() + GRACE_SECONDS
        try:
            self._sent = send(action, table)
        except BaseException:
            self._close()
            raise

    def expire(self) -> None:
        """The time is up: whoever waits on ``fd`` is told so."""
        self.deadline = float("inf")
        os.write(self._ring, b"x")

    def finish(self) -> Outcome:
        """Say whether all are gone; ``pending`` while some are not and there is time left."""
        left = [fd for fd in self._pidfds if not has_ended(fd)]
        if left and self.deadline != float("inf"):
            for fd in set(self._pidfds) - set(left):
                with suppress(FileNotFoundError):
                    self._epoll.unregister(fd)
            return Outcome("pending", f"{len(left)} still run")
        self._close()
        if left:
            return Outcome("failed", f"{len(left)} of {len(self._pidfds)} still run {GRACE_SECONDS:g} s later")
        return self._sent

    def _close(self) -> None:
        self._epoll.close()
        for fd in (*self._pidfds, self._bell, self._ring):
            os.close(fd)


def _held(pid: int, start: int) -> int:
    """A descriptor of that very process, or -1 when it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    except OSError as error:
        raise ActionFailed(f"process {pid} cannot be watched: {error.strerror}") from error
    if started(pid) == start:
        return fd
    os.close(fd)
    return -1

"""Signals as something to poll: a pipe that wakes the loop, and two flags that say what was asked."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Signals:
    """SIGTERM and SIGINT set ``stop``, SIGHUP sets ``reload``; ``fd`` is readable when one came (``signal(7)``)."""

    def __init__(self) -> None:
        self.stop = False
        self.reload = False
        self.fd, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)

    def _on_stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.stop = True

    def _on_reload(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.reload = True

    def drain(self) -> None:
        """Empty the pipe; the flags stay until they are acted on."""
        try:
            while os.read(self.fd, 512):
                pass
        except BlockingIOError:
            return

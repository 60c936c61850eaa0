"""The daemon's voice: its log, the service manager, and the status that ``dom0-reconciler status`` reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from reconciler.daemon import Status
from reconciler.host import statusfile
from reconciler.host.files import Root
from reconciler.log import Log
from reconciler.shapes import last_pass_shape, status_shape


class RealVoice:
    """Speaks through ``log`` and, where one asked for it, to the service manager."""

    def __init__(self, root: Root, log: Log) -> None:
        self._root, self._log = root, log
        self._notify = _notifier()
        self._lasting: tuple[object, ...] | None = None
        self._status = ""
        statusfile.withdraw(root)

    def say(self, event: str, detail: str) -> None:
        """Log one operational event."""
        self._log.say(event, detail)

    def notify(self, message: str) -> None:
        """Tell the service manager; nothing where none asked (``sd_notify(3)``)."""
        if self._notify is not None:
            with suppress(OSError):  # nobody listens any more: start-stop-daemon(8) goes once we are ready
                self._notify(message)

    def publish(self, status: Status) -> None:
        """Replace the status below /run; of one in which only the last pass is new, nothing else is written anew."""
        lasting = status.lasting
        if lasting is None or lasting != self._lasting:
            self._lasting, self._status = lasting, statusfile.text_of(status_shape(status))
        statusfile.publish(self._root, self._status, last_pass_shape(status))

    @property
    def watchdog(self) -> float | None:
        """Seconds between pings: half of what the service manager allows (``sd_watchdog_enabled(3)``)."""
        usec = os.environ.get("WATCHDOG_USEC", "")
        return int(usec) / 2_000_000 if usec.isdigit() and self._notify is not None else None


def _notifier() -> Callable[[str], object] | None:
    if not os.environ.get("NOTIFY_SOCKET"):
        return None
    from systemd.daemon import notify  # a sysvinit host has no use for it

    return notify  # type: ignore[no-any-return]  # systemd-python ships no types

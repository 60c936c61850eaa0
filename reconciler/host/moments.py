"""The clocks: what time it is, and how long this boot has lasted."""

from __future__ import annotations

import time
from functools import cache

from reconciler.host.kernel import started
from reconciler.moment import Moment

_BOOT_ID = "/proc/sys/kernel/random/boot_id"  # proc(5): a new one at each boot
_INIT = 1


def now() -> Moment:
    """This moment. Without /proc the boot has no name, and only the wall clock counts."""
    return Moment(time.time(), _boot(), time.clock_gettime(time.CLOCK_BOOTTIME))


@cache
def _boot() -> str:
    """The kernel's boot and init's start: a container starts anew under the same kernel."""
    try:
        with open(_BOOT_ID, "rb") as file:
            return f"{file.read().decode().strip()} {started(_INIT)}"
    except (OSError, ProcessLookupError):
        return ""

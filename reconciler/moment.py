"""A moment and a span of time that a clock set back cannot stretch. Pure: who asks says what time it is.

A pause of an hour must be over after an hour. The wall clock alone does not tell: it may be set back. So each moment
also holds how long the host had been up, and in which boot: within one boot that alone counts. After a reboot only
the wall clock is left; one that shows a time before the span began is wrong, and then the span is over: to hold the
host as declared is the safe side, and a pause can be asked for again.
"""

from __future__ import annotations

from reconciler.values import Value


class Moment(Value):
    """``wall`` in seconds since the epoch; ``boot`` names the boot, ``since_boot`` in seconds since it."""

    wall: float = 0.0
    boot: str = ""
    since_boot: float = 0.0

    def until(self, later: Moment) -> float:
        """Seconds from here to ``later``; negative where the clock was set back and nothing else tells."""
        if self.boot and self.boot == later.boot:
            return later.since_boot - self.since_boot
        return later.wall - self.wall


class Span(Value):
    """So many seconds from a moment on."""

    began: Moment
    seconds: float

    def left(self, now: Moment) -> float:
        """Seconds that are left of it; 0 when it is over."""
        passed = self.began.until(now)
        return max(0.0, self.seconds - passed) if passed >= 0 else 0.0

    def end(self, now: Moment) -> float:
        """When it ends by the wall clock of ``now``, in seconds since the epoch."""
        return now.wall + self.left(now)

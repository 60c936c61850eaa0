"""What comes back again and again, and what has been running in peace: the daemon's small memory. Pure.

On disk nothing is ever delayed: a link that comes back is unlinked again at once, every time. What is held back, with
growing pauses, is stopping, killing and masking: who starts a service each second would otherwise have us stop it each
second, and both sides burn the host. Nothing is given up: the pauses end, and quiet ends the contest.

The other half is what ``budget`` goes by (:mod:`reconciler.holds`): the services that have been seen to run while the
host was as declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.moment import Moment
from reconciler.values import Value, field, replace

PATH = "/var/lib/dom0-reconciler/memory.json"
VERSION = 1

THRESHOLD = 5
"""Corrections in a row that make a contest: an administrator who tries three ways to start something makes none."""

QUIET = 90.0
"""Seconds without a correction that end a contest: longer than the minute of a cron job that starts things."""

FIRST, LONGEST = 1.0, 3600.0
"""Seconds of the first pause and of the longest; each is twice the one before."""

_PATIENCE = 4.0  # a contest is not forgotten within so many of its own pauses


class Contest(Value):
    """So many corrections of one thing in a row, the first and the last of them."""

    count: int
    began: Moment
    last: Moment

    @property
    def pause(self) -> float:
        """Seconds after the last correction in which nothing of it is stopped, killed or masked."""
        return 0.0 if self.count < THRESHOLD else min(LONGEST, FIRST * 2.0 ** min(self.count - THRESHOLD, 20))

    @property
    def escalates(self) -> bool:
        """True for a correction that is worth a loud record: the fifth, the tenth, the twentieth and so on."""
        tens, rest = divmod(self.count, THRESHOLD)
        return rest == 0 and tens > 0 and tens & (tens - 1) == 0

    def left(self, now: Moment) -> float:
        """Seconds until it may be tried again."""
        passed = self.last.until(now)
        return max(0.0, self.pause - passed) if passed >= 0 else 0.0

    def is_over(self, now: Moment) -> bool:
        """True after quiet; also where the clock was set back and nothing tells how long it was."""
        return not 0 <= self.last.until(now) <= max(QUIET, _PATIENCE * self.pause)


class Memory(Value):
    """``contests`` by the service, or the path on disk; ``established`` are keys of services seen to run in peace."""

    contests: Mapping[str, Contest] = field(default_factory=dict)
    established: frozenset[str] = frozenset()

    def corrected(self, names: Iterable[str], now: Moment) -> Memory:
        """The same after a correction of each of these, and without what is over."""
        live = {name: contest for name, contest in self.contests.items() if not contest.is_over(now)}
        for name in names:
            before = live.get(name)
            live[name] = Contest(before.count + 1, before.began, now) if before else Contest(1, now, now)
        return replace(self, contests=live)

    def contested(self, now: Moment) -> dict[str, Contest]:
        """What is contested at this moment."""
        return {n: c for n, c in self.contests.items() if c.count >= THRESHOLD and not c.is_over(now)}

    def next_try(self, now: Moment) -> float | None:
        """Seconds until the first pause ends; ``None`` where there is none."""
        return min((left for c in self.contested(now).values() if (left := c.left(now)) > 0), default=None)


def text_of(memory: Memory) -> bytes:
    """The file: what a restart must know. Contests that are none yet are not among it."""
    import json

    contests = {n: [c.count, *_shape(c.began), *_shape(c.last)] for n, c in memory.contests.items() if c.pause}
    values = {"version": VERSION, "contests": contests, "established": sorted(memory.established)}
    return (json.dumps(values, indent=1) + "\n").encode("ascii")


def _shape(moment: Moment) -> tuple[float, str, float]:
    return moment.wall, moment.boot, moment.since_boot


def parse(text: bytes) -> Memory:
    """What :func:`text_of` wrote; raises ``ValueError`` for anything else. To know nothing is no harm, only slower."""
    import json

    try:
        values = json.loads(text)
        if values["version"] != VERSION:
            raise ValueError("another version")
        contests = {str(name): _contest(*shape) for name, shape in values["contests"].items()}
        return Memory(contests, frozenset(map(str, values["established"])))
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _contest(*shape: float | str) -> Contest:
    count, *rest = shape
    wall, boot, up, last_wall, last_boot, last_up = rest
    began = Moment(float(wall), str(boot), float(up))
    return Contest(int(count), began, Moment(float(last_wall), str(last_boot), float(last_up)))

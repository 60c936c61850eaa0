"""How far the product is from the physical limit, against what was set as the goal. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from bench.run import Measures
from bench.stats import percentile, slope

PRODUCT, LIMIT = "dom0-reconciler", "C"
SIZES = (200, 2_000, 20_000)
LINEAR = 1.05
"""What still counts as linear: the exponent of the growth, with the noise of a measurement."""

Value = Callable[[Measures], float]


@dataclass(frozen=True)
class Goal:
    """``at_least`` must not be exceeded; ``aim`` is as good as was seen to be possible."""

    metric: str
    unit: str
    at_least: float
    aim: float
    value: Value
    aim_value: Value | None = None  # where the aim is for another variant


@dataclass(frozen=True)
class Verdict:
    """A goal and what was measured."""

    goal: Goal
    value: float
    aim_value: float

    @property
    def met(self) -> bool:
        """The goal itself."""
        return self.value <= self.goal.at_least

    @property
    def aim_met(self) -> bool:
        """The aim."""
        return self.aim_value <= self.goal.aim


def ratio(measure: str, *, percent: float = 50, who: str = PRODUCT, base: str = LIMIT, of: str = "") -> Value:
    """A percentile to the limit's median, of the same measure or of the measure ``of``."""
    return lambda m: percentile(m[measure][who], percent) / median(m[of or measure][base])


def absolute(measure: str, who: str, factor: float = 1.0) -> Value:
    """A median as it is."""
    return lambda m: median(m[measure][who]) * factor


def growth(measures: Measures, who: str = PRODUCT) -> float:
    """The exponent by which the daemon's full pass grows with the links."""
    points = [(float(size), median(measures[f"full pass, {size} links"][who])) for size in SIZES]
    return slope(points)


_GONE, _HOG = "link created", "link created, CPU hog"
_STOPS = "storm of 1000 with stops, links gone"
_CPU, _ASLEEP = "idle CPU, s per hour", f"{PRODUCT}, 10 links"

GOALS = (
    Goal("link gone, p50", "x C", 4, 2, ratio(_GONE)),
    Goal(
        "link gone, p99, one CPU hog, to C's p50 without one (the aim: under SCHED_FIFO)",
        "x C",
        25,
        2,
        ratio(_HOG, percent=99, of=_GONE),
        ratio(_HOG, percent=99, of=_GONE, who=f"{PRODUCT}, SCHED_FIFO"),
    ),
    Goal("stop script started, p50, to C with posix_spawn", "x C", 1.4, 1.15, ratio("stop started")),
    Goal("storm of 10,000 links, none left", "x C", 3, 1.5, ratio("storm of 10000")),
    Goal("storm of 20,000 links, none left", "x C", 3, 1.5, ratio("storm of 20000")),
    Goal("1,000 with stop scripts: all links gone, to C without stops", "x C", 3, 1.5,
         ratio(_STOPS, base="C, without stops")),
    Goal("idle wake-ups between ticks", "", 0, 0, absolute("idle wake-ups between ticks", _ASLEEP)),
    Goal("idle RSS", "MiB", 26, 20, absolute("idle RSS, MiB", _ASLEEP)),
    Goal("idle CPU at a 60 s interval, rclinks, inetd, interfaces", "s/h", 0.3, 0.1, absolute(_CPU, f"{_ASLEEP}, 60s")),
    Goal("idle CPU at a 60 s interval, all six kinds, systemd, PID 1's share", "s/h", 6, 2,
         absolute(_CPU, f"{PRODUCT}, all six kinds, a systemd host, 60 s")),
    Goal("the daemon's full pass, 200 links", "x C", 6, 3, ratio("full pass, 200 links")),
    Goal("its growth to 20,000 links, exponent", "", LINEAR, LINEAR, growth),
    Goal("one-shot plan, 200 links", "x C", 60, 35, ratio("plan, 200 links")),
    Goal("exec to first correction", "ms", 150, 70, absolute("exec to first correction", PRODUCT, 1e3)),
)  # fmt: skip


def verdicts(measures: Measures) -> Iterator[Verdict]:
    """Of each goal that was measured."""
    for goal in GOALS:
        try:
            value = goal.value(measures)
            aimed = goal.aim_value(measures) if goal.aim_value else value
        except KeyError:
            continue
        yield Verdict(goal, value, aimed)

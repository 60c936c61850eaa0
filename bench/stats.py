"""Numbers out of samples. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample that so many per cent of all do not exceed (nearest rank)."""
    if not samples:
        raise ValueError("no samples")
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Least, middle and greatest."""
    return min(values), median(values), max(values)


def medians_of_parts(samples: Sequence[float], parts: int) -> list[float]:
    """The median of each of so many equal parts, in order: of each round, where rounds were joined."""
    bounds = [len(samples) * part // parts for part in range(parts + 1)]
    return [median(samples[start:end]) for start, end in pairwise(bounds) if end > start]


def merge(rounds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """The samples of several rounds, joined by name, in the order in which the names first came."""
    joined: dict[str, list[float]] = {}
    for one in rounds:
        for name, samples in one.items():
            joined.setdefault(name, []).extend(samples)
    return joined


def slope(points: Sequence[tuple[float, float]]) -> float:
    """How a cost grows between the least and the greatest size: 1.0 is linear, 2.0 is its square."""
    from math import log

    (small, cheap), (large, dear) = min(points), max(points)
    return log(dear / cheap) / log(large / small)

"""Storms: very many links at once, more than the kernel's queue holds."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from bench import peers, waiting
from bench.run import ROUNDS, Bench, Measures, Start, guarded, starting
from bench.stage import Tree
from bench.tree import LEVELS, STARTED, Shape, stranger


@dataclass(frozen=True)
class Storm:
    """Seconds from the first link made until none was left, and until every stop script had started."""

    gone: float
    stops: float = 0.0


def links_of(count: int, strangers: int) -> list[tuple[str, str]]:
    """So many start links, each with its target: of every stranger one, then a second one of each and so on."""
    found = []
    for number in range(count):
        lap, which = divmod(number, strangers)
        name = f"S{20 + lap // len(LEVELS):02}{stranger(which)}"
        found.append((f"etc/rc{LEVELS[lap % len(LEVELS)]}.d/{name}", f"../init.d/{stranger(which)}"))
    return found


def strike(tree: Tree, count: int, *, stops: bool = False, patience: float = 300.0) -> Storm:
    """Make them as fast as one can, then wait."""
    links = links_of(count, tree.shape.strangers)
    left = [path for path, _ in links]
    began = time.perf_counter()
    for path, target in links:
        os.symlink(target, path, dir_fd=tree.fd)
    gone = _all(left, tree.fd, began, patience, gone=True)
    if not stops:
        return Storm(gone)
    marks = [f"{STARTED}/{stranger(number)}" for number in range(min(count, tree.shape.strangers))]
    return Storm(gone, _all(marks, tree.fd, began, patience, gone=False))


def _all(paths: list[str], fd: int, began: float, patience: float, *, gone: bool) -> float:
    """One after the other is enough: what was seen to go does not come back."""
    for path in reversed(paths):
        waiting.until(waiting.is_gone(path, fd) if gone else waiting.is_there(path, fd), began, patience)
    return time.perf_counter() - began


# --- the section --------------------------------------------------------------------------------------------

SIZES = (1_000, 10_000, 20_000)
STRANGERS = 1_000
_LOSES = "Python, pyinotify"  # without a word of what it lost: its storm past the queue never ends


def section(bench: Bench, rounds: int = ROUNDS) -> Measures:
    """Each size, then a thousand links with a stop script each."""
    found: Measures = {}
    for size in SIZES:
        starts = starting((*bench.pair, *bench.loops))
        if size == SIZES[0]:  # those that start a program for each link take their time: once
            slow = starting(tuple(bench.peers(peers.WATCHING)))
            found[f"storm of {size}"] = rounds_of(bench, slow, size, 1)
        elif size == SIZES[-1]:
            starts.pop(_LOSES, None)
        bench.say(f"storm of {size}: {', '.join(starts)}")
        found[f"storm of {size}"] = rounds_of(bench, starts, size, rounds) | found.get(f"storm of {size}", {})
    return found | with_stops(bench, rounds)


def rounds_of(bench: Bench, starts: dict[str, Start], size: int, rounds: int) -> dict[str, list[float]]:
    """In turn, each time a new tree and a new contender."""
    found: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(rounds):
        for name, start in starts.items():
            with guarded(bench.stage, start, Shape(strangers=STRANGERS)) as one:
                found[name].append(strike(one.tree, size).gone)
    return found


def with_stops(bench: Bench, rounds: int) -> Measures:
    """The limit once with stops and once without: links must not wait for scripts."""
    starts: dict[str, Start] = {"C, without stops": bench.limit.start}
    starts |= bench.live_starts
    gone: dict[str, list[float]] = {name: [] for name in starts}
    begun: dict[str, list[float]] = {name: [] for name in starts if name != "C, without stops"}
    for _ in range(rounds):
        for name, start in starts.items():
            bench.say(f"storm of {STRANGERS} with stop scripts: {name}")
            with guarded(bench.stage, start, Shape(strangers=STRANGERS, stop=True)) as one:
                storm = strike(one.tree, STRANGERS, stops=name in begun)
            gone[name].append(storm.gone)
            if name in begun:
                begun[name].append(storm.stops)
    return {"storm of 1000 with stops, links gone": gone, "storm of 1000 with stops, all started": begun}

"""Idle: what each costs while nothing happens. All of them sleep side by side through one window."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench import peers
from bench.process import Running, Work
from bench.run import Bench, Measures, Start, guarded, starting
from bench.tree import Shape
from bench.workloads.systemd_host import Pair, hosts

LOOK = 2.5
HOUR = 3600.0
TEN, MANY = 10, 10_000
MINUTE = "60s"


@dataclass
class Sleeper:
    """One contender, and its work between any two looks."""

    running: Running
    ticks: int  # expected in the window: its own interval's, which are no wake-ups in between
    looks: list[Work] = field(default_factory=list)

    def look(self) -> None:
        """Note what it has used until now."""
        self.looks.append(self.running.work())

    def result(self, seconds: float) -> dict[str, float]:
        """Per hour, and its memory at the end."""
        each = [after - before for before, after in zip(self.looks, self.looks[1:], strict=False)]
        memory = self.running.memory()
        stray = sorted((work.turns for work in each), reverse=True)[self.ticks :]
        return {
            "idle RSS, MiB": memory.rss,
            "idle PSS, MiB": memory.pss,
            "idle USS, MiB": memory.uss,
            "idle wake-ups per hour": sum(work.turns for work in each) * HOUR / seconds,
            "idle wake-ups between ticks": float(sum(stray)),
            "idle CPU, s per hour": sum(work.ns for work in each) / 1e9 * HOUR / seconds,
        }


def section(bench: Bench) -> Measures:
    """One window for all: it must be longer than the default interval, so that a full pass lies in it."""
    seconds = bench.idle_seconds
    with ExitStack() as stack:
        sleepers = {name: Sleeper(*one) for name, one in _asleep(bench, stack, seconds).items()}
        pair = stack.enter_context(hosts(bench.say))
        time.sleep(3)
        bench.say(f"idle for {seconds:.0f} s: {', '.join(sleepers)}{'; ' + pair.name if pair else ''}")
        used = _watch(list(sleepers.values()), pair, seconds)
        found: Measures = {}
        for name, sleeper in sleepers.items():
            for measure, value in sleeper.result(seconds).items():
                found.setdefault(measure, {})[name] = [value]
    if pair:
        found["idle CPU, s per hour"][pair.name] = [used * HOUR / seconds]
    return found


def _watch(sleepers: list[Sleeper], pair: Pair | None, seconds: float) -> float:
    """Seconds of processor that the daemon cost its systemd host."""
    before = pair.cost() if pair else 0.0
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for sleeper in sleepers:
            sleeper.look()
        time.sleep(min(LOOK, left))
    for sleeper in sleepers:
        sleeper.look()
    return pair.cost() - before if pair else 0.0


def _asleep(bench: Bench, stack: ExitStack, seconds: float) -> dict[str, tuple[Running, int]]:
    found = {}

    def lay(name: str, start: Start, shape: Shape, ticks: int, *, ready: bool = False) -> None:
        one = stack.enter_context(guarded(bench.stage, start, shape, ready=ready))
        found[name] = (one.running, ticks)

    for product in bench.products:
        rest = 1 + int(seconds // 300)
        lay(f"{product.name}, {TEN} links", product.start, Shape(links=TEN), rest)
        lay(f"{product.name}, {MANY:,} links", product.start, Shape(links=MANY), rest)
        shape = Shape(links=TEN, interval=MINUTE)
        lay(f"{product.name}, {TEN} links, {MINUTE}", product.start, shape, 1 + int(seconds // 60))
    for name, start in starting((bench.limit, *bench.loops)).items():
        lay(name, start, Shape(links=TEN), 0)
    for peer in bench.peers({**peers.WATCHING, **peers.LOOKING}):
        lay(peer.name, peer.start, Shape(links=TEN), 0)
    return found

"""Passes in which nothing is to be done: the daemon's periodic one, and the one-shot plan."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from bench import peers
from bench.contenders import HERE, PYTHON
from bench.process import Running, Work, cpus, on
from bench.run import Bench, Guarded, Measures, Start, guarded, starting
from bench.stage import Tree
from bench.tree import Shape

LOOK = 0.01
REST = 5
"""So many looks without work end a tick."""


def ticks(
    running: Running, count: int, *, between: Callable[[], None] = lambda: None, patience: float = 300.0
) -> list[float]:
    """Seconds of processor that each of so many ticks took: what a pass costs, whoever else runs here.

    A tick is work between two rests. The contender is told to look each second; ``between`` is called before each.
    """
    found: list[float] = []
    deadline = time.monotonic() + patience
    before = _at_rest(running, between)
    last, rest = before, 0
    while len(found) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(found)} ticks in {patience:.0f} s: {running.says()}")
        time.sleep(LOOK)
        now = running.work()
        rest = rest + 1 if now == last and running.asleep() else 0
        if rest >= REST and now != before:
            found.append((now - before).ns / 1e9)
            now = before = _at_rest(running, between)
        last = now
    return found


def _at_rest(running: Running, between: Callable[[], None]) -> Work:
    """What it has used when it sleeps again; ``between`` may have made it turn over."""
    between()
    running.settle(LOOK * REST)
    return running.work()


def one_shot(argv: list[str], expected: int = 0) -> float:
    """Seconds from exec to exit of a command, on the contenders' processor."""
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    with on(cpus()[1]):
        began = time.perf_counter()
        pid = os.posix_spawn(argv[0], argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, file_actions=null)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - began
    if (code := os.waitstatus_to_exitcode(status)) != expected:
        raise RuntimeError(f"{' '.join(argv)}: exit {code}")
    return took


# --- the section --------------------------------------------------------------------------------------------

SIZES = (200, 2_000, 20_000)
CROWD = 500
UNITS = 1_000
_SLOW = 20_000
_LISTENERS = '[listeners]\napproved = ["tcp/20000-20999"]\n'
_PROCESSES = '[processes]\napproved = ["python3*", "sh", "dash"]\n'


def section(bench: Bench) -> Measures:
    """How the daemon's pass and the one-shot plan grow."""
    found: Measures = {}
    for links in SIZES:
        bench.say(f"full pass, {links} links")
        found[f"full pass, {links} links"] = daemons(bench, links, 4 if links >= _SLOW else 8)
    found[f"quiet pass, {SIZES[0]} links"] = daemons(bench, SIZES[0], 8, touched=False)
    bench.say(f"full pass, {UNITS} units, {CROWD} listeners, {CROWD} processes")
    found[f"full pass, {UNITS} units"] = _of_units(bench)
    for what, extra in (("listeners", _LISTENERS), ("processes", _PROCESSES)):
        found[f"full pass, {CROWD} {what}"] = _of_crowd(bench, what, extra)
    for links in SIZES:
        bench.say(f"plan, {links} links")
        found[f"plan, {links} links"] = one_shots(bench, links, 4 if links >= _SLOW else 12)
    return found


def daemons(bench: Bench, links: int, count: int, *, touched: bool = True) -> dict[str, list[float]]:
    """The limit, the product, and monit with a check for each link.

    ``touched``: before each pass the folders get another ctime, so that whoever leaves out what did not change
    has to list them all the same.
    """
    seconds = 3 if links >= _SLOW else 1
    shape = Shape(links=links, interval=f"{seconds}s")
    starts: dict[str, Start] = starting(bench.products)
    starts["C"] = lambda tree: Running(bench.limit.argv(tree, "links", "-t", str(seconds)), said=bench.limit.said)
    if links == SIZES[0]:
        starts |= {peer.name: peer.start for peer in bench.peers({"monit": peers.monit_looking})}
    with ExitStack() as stack:
        each = {
            name: stack.enter_context(guarded(bench.stage, start, shape, ready=False)) for name, start in starts.items()
        }
        found: dict[str, list[float]] = {name: [] for name in each}
        for _ in range(count):  # in turn: a slow minute of the machine meets all of them
            for name, one in each.items():
                found[name] += ticks(one.running, 1, between=partial(_touch, one.tree) if touched else lambda: None)
        return found


def _touch(tree: Tree) -> None:
    for level in "0123456S":
        os.utime(f"etc/rc{level}.d", dir_fd=tree.fd)


def _of_units(bench: Bench) -> dict[str, list[float]]:
    shape = Shape(links=10, units=UNITS, init="systemd", interval="1s")
    found = {}
    for name, start in starting(bench.products).items():
        with guarded(bench.stage, start, shape, ready=False) as one:
            found[name] = ticks(one.running, 8)
    return found


def _of_crowd(bench: Bench, what: str, extra: str) -> dict[str, list[float]]:
    found = {}
    for product in bench.products:
        shape = Shape(links=10, interval="1s", extra=extra)
        with guarded(bench.stage, product.start_live, shape) as one, _crowd(one, what):
            found[product.name] = ticks(one.running, 8)
    return found


def _crowd(one: Guarded, what: str) -> subprocess.Popen[bytes]:
    """So many listeners or processes in the contender's host; they go with it."""
    enter = ["nsenter", "--target", str(one.running.pid), "--all", "--root", "--wdns=/", "--"]
    program = (HERE / "crowd.py").read_text()
    argv = [*enter, PYTHON, "-I", "-c", program, what, str(CROWD)]
    crowd = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert crowd.stdout is not None
    crowd.stdout.readline()
    return crowd  # as a context it ends with the block, which closes its input


def one_shots(bench: Bench, links: int, count: int) -> dict[str, list[float]]:
    """Each a process of its own, from exec to exit."""
    with bench.stage.tree(Shape(links=links)) as tree:
        argvs = {"C": bench.limit.argv(tree, "links", "-1")}
        argvs |= {product.name: product.argv(tree, "plan") for product in bench.products}
        found = _in_turn(argvs, count)
        if links == SIZES[0]:
            found |= _in_turn(_peers_argvs(bench, tree), 3)
    return found


def _peers_argvs(bench: Bench, tree: Tree) -> dict[str, list[str]]:
    once = bench.peers({**peers.ONE_PASS, **(peers.HEAVY if bench.heavy else {})})
    return {peer.name: peer.argv(tree) for peer in once}


def _in_turn(argvs: dict[str, list[str]], count: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in argvs}
    for _ in range(count):
        for name, argv in argvs.items():
            found[name].append(one_shot(argv))
    return found

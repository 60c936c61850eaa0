"""The short form: a handful of ratios against those that are checked in. It must not cry wolf on a loaded machine.

So it compares what others cannot take away: the least of many samples taken in turn, or seconds of processor instead of
seconds. What takes a process is compared with the bare interpreter's start, all else with the limit in C.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

from bench.contenders import HERE, PYTHON, Product
from bench.process import cpus, on
from bench.results import machine
from bench.run import Bench, Start, all_guarded, guarded, starting
from bench.tree import Shape
from bench.workloads import passes, reaction, starts, storms

BASELINE = HERE / "baseline.json"
GROWN, REPEATS = 1.5, 2
LINKS, STORM, SLEEP = 200, 2_000, 5.0

Ratios = dict[str, float]


def reactions(bench: Bench, product: Product) -> Ratios:
    """A link, until it is gone, and all the work that a correction is, its record and proof included."""
    starts_ = starting((bench.limit, product))
    with all_guarded(bench.stage, starts_, Shape(strangers=reaction.FEW)) as each:
        before = {name: one.running.work() for name, one in each.items()}
        samples = reaction.take(each, reaction.link_created, reaction.FEW * 3)
        for one in each.values():
            one.running.settle(0.02)
        used = {name: (one.running.work() - before[name]).ns for name, one in each.items()}
    least = {name: min(taken) for name, taken in samples.items()}
    return {"link gone": least[product.name] / least["C"], "work of a correction": used[product.name] / used["C"]}


def stops(bench: Bench, product: Product) -> Ratios:
    """A link, until its service's stop script runs."""
    starts_: dict[str, Start] = {"C": bench.limit.start_live, product.name: product.start_live}
    with all_guarded(bench.stage, starts_, Shape(stop=True, strangers=reaction.STOPPED)) as each:
        samples = reaction.take(each, reaction.stop_started, reaction.STOPPED)
    return {"stop script started": min(samples[product.name]) / min(samples["C"])}


def storm(bench: Bench, product: Product) -> Ratios:
    """The work of many links at once."""
    used: dict[str, list[int]] = {"C": [], product.name: []}
    for _ in range(2):
        for name, start in starting((bench.limit, product)).items():
            with guarded(bench.stage, start, Shape(strangers=storms.STRANGERS)) as one:
                before = one.running.work()
                storms.strike(one.tree, STORM)
                used[name].append((one.running.work() - before).ns)
    return {"storm": min(used[product.name]) / min(used["C"])}


def full_pass(bench: Bench, product: Product) -> Ratios:
    """The periodic pass in which nothing is to be done."""
    taken = passes.daemons(bench, LINKS, 6)
    return {"full pass": median(taken[product.name]) / median(taken["C"])}


def one_shots(bench: Bench, product: Product) -> Ratios:
    """``plan``, and the daemon's start until it is ready, to the interpreter's own start."""
    with bench.stage.tree(Shape(links=LINKS)) as tree:
        plan = [_processor_time(product.argv(tree, "plan")) for _ in range(5)]
    bare = [_processor_time([PYTHON, "-I", "-c", "pass"]) for _ in range(10)]
    ready = []
    for _ in range(4):
        with bench.stage.tree(Shape(links=LINKS)) as tree:
            ready.append(starts.begin(tree, partial(product.start, tree, "links"), notifies=True).used)
    return {"plan": min(plan) / min(bare), "start": min(ready) / min(bare)}


def _processor_time(argv: list[str]) -> float:
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1)]
    with on(cpus()[1]):
        pid = os.posix_spawn(argv[0], argv, {"PATH": "/usr/bin:/bin"}, file_actions=null)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(argv)}: exit {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def asleep(bench: Bench, product: Product) -> Ratios:
    """Nothing happens: no wake-up at all, and so many MiB."""
    with guarded(bench.stage, product.start, Shape(links=10), ready=False) as one:
        one.running.settle(0.5)
        before = one.running.work()
        time.sleep(SLEEP)
        woken = (one.running.work() - before).turns
        return {"idle wake-ups": float(woken), "idle RSS, MiB": one.running.memory().rss}


GROUPS: Mapping[str, Callable[[Bench, Product], Ratios]] = {
    "reaction": reactions,
    "stops": stops,
    "storm": storm,
    "pass": full_pass,
    "plan and start": one_shots,
    "idle": asleep,
}


def grown(now: Ratios, baseline: Ratios) -> list[str]:
    """Those that have grown by half. What is new has no past; what was to be zero must stay so."""
    return [name for name, value in now.items() if name in baseline and value > baseline[name] * GROWN]


def least(first: Ratios, second: Ratios) -> Ratios:
    """The lesser of two measurements of each: noise only ever adds."""
    return {name: min(first.get(name, value), value) for name, value in {**first, **second}.items()}


def lines(now: Ratios, baseline: Ratios) -> list[str]:
    """For people."""
    marks = dict.fromkeys(grown(now, baseline), "   GROWN BY HALF")
    return [
        f"{name:22} {value:10.2f}   was {baseline.get(name, float('nan')):8.2f}{marks.get(name, '')}"
        for name, value in now.items()
    ]


def run(bench: Bench, *, accept: bool) -> int:
    """0; 1 where a ratio has grown, however often it was measured."""
    kept = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"ratios": {}}
    baseline: Ratios = kept["ratios"]
    now: Ratios = {}
    for name, group in GROUPS.items():
        bench.say(name)
        now |= patiently(partial(group, bench, bench.products[0]), {} if accept else baseline, bench.say)
    print("\n".join(lines(now, baseline)), flush=True)
    if accept:
        _accept(now)
    elif grown(now, baseline):
        bench.say(f"the baseline is of: {kept['machine']}. This is: {machine()}. If it is right so: --quick --accept")
        return 1
    return 0


def patiently(measure: Callable[[], Ratios], baseline: Ratios, say: Callable[[str], None]) -> Ratios:
    """What a group measures; what seems to have grown is measured again, as others may have disturbed."""
    found = measure()
    for _ in range(REPEATS):
        if not (dear := grown(found, baseline)):
            break
        say(f"once more: {', '.join(f'{one} {found[one]:.2f}' for one in dear)}")
        found = least(found, measure())
    return found


def _accept(now: Ratios) -> None:
    rounded = {name: round(value, 2) for name, value in now.items()}
    BASELINE.write_text(json.dumps({"machine": machine(), "ratios": rounded}, indent=2) + "\n")

"""Reaction: from the moment something is reintroduced until it is corrected, and until its stop script was started."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from bench import peers, waiting
from bench.contenders import Product, Task
from bench.process import Running, cpus, hog
from bench.run import ROUNDS, Bench, Guarded, Measures, all_guarded, starting
from bench.stage import Stage, Tree
from bench.stats import merge
from bench.tree import DRIFTED, INETD_LINE, INTERFACES, STARTED, VENDOR, WANTS, Shape, start_link, stranger

WARM_UP = 3
STILL = 0.003
SAMPLES, DURING = 90, 5
FEW = 24
"""Strangers: each comes four times in a round, the first time without a K link. A fifth time would be a contest."""
STOPPED = 2 * FEW
"""Where they are stopped as well, which counts like the link, each comes twice."""

Bring = Callable[[Tree], float]
"""Does one thing to a tree, and gives the seconds until it was undone."""


def link_created(tree: Tree) -> float:
    """``symlink(2)`` of a start link."""
    number = tree.stranger()
    path = start_link(number)
    gone = waiting.is_gone(path, tree.fd)
    began = time.perf_counter()
    os.symlink(f"../init.d/{stranger(number)}", path, dir_fd=tree.fd)
    return waiting.until(gone, began)


def link_renamed(tree: Tree) -> float:
    """A link made elsewhere, then renamed into the runlevel, as dpkg does it."""
    number = tree.stranger()
    path = start_link(number)
    gone = waiting.is_gone(path, tree.fd)
    os.symlink(f"../init.d/{stranger(number)}", "stage/link", dir_fd=tree.fd)
    began = time.perf_counter()
    os.rename("stage/link", path, src_dir_fd=tree.fd, dst_dir_fd=tree.fd)
    return waiting.until(gone, began)


def inetd_line(tree: Tree) -> float:
    """A line appended to inetd.conf."""
    line = INETD_LINE.encode()
    right = waiting.holds("etc/inetd.conf", tree.fd, lambda text: bool(text) and b"\n" + line not in text)
    file = os.open("etc/inetd.conf", os.O_WRONLY | os.O_APPEND, dir_fd=tree.fd)
    os.write(file, line)
    began = time.perf_counter()
    os.close(file)
    return waiting.until(right, began)


def interfaces_replaced(tree: Tree) -> float:
    """/etc/network/interfaces replaced by another one, as an editor or a tool does it."""
    file = os.open("stage/interfaces", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=tree.fd)
    os.write(file, DRIFTED.encode())
    os.close(file)
    right = waiting.holds("etc/network/interfaces", tree.fd, lambda text: text == INTERFACES.encode())
    began = time.perf_counter()
    os.rename("stage/interfaces", "etc/network/interfaces", src_dir_fd=tree.fd, dst_dir_fd=tree.fd)
    return waiting.until(right, began)


def unit_enabled(tree: Tree) -> float:
    """What ``systemctl enable`` makes."""
    unit = f"{stranger(tree.stranger())}.service"
    path = f"{WANTS}/{unit}"
    gone = waiting.is_gone(path, tree.fd)
    began = time.perf_counter()
    os.symlink(f"/{VENDOR}/{unit}", path, dir_fd=tree.fd)
    return waiting.until(gone, began)


def stop_started(tree: Tree) -> float:
    """From the link until the first act of the service's stop script."""
    number = tree.stranger()
    mark = f"{STARTED}/{stranger(number)}"
    started = waiting.is_there(mark, tree.fd)
    with suppress(FileNotFoundError):  # of an earlier time
        os.unlink(mark, dir_fd=tree.fd)
    began = time.perf_counter()
    os.symlink(f"../init.d/{stranger(number)}", start_link(number), dir_fd=tree.fd)
    took = waiting.until(started, began)
    waiting.until(waiting.is_gone(start_link(number), tree.fd), began)
    return took


EVENTS: Mapping[str, tuple[Task, Bring]] = {
    "link created": ("links", link_created),
    "link renamed": ("links", link_renamed),
    "inetd line": ("inetd", inetd_line),
    "interfaces replaced": ("interfaces", interfaces_replaced),
    "unit enabled": ("units", unit_enabled),
}


def take(
    guarded: Mapping[str, Guarded],
    bring: Bring,
    count: int,
    *,
    pause: float = 0.002,
    before: Callable[[Guarded], None] | None = None,
) -> dict[str, list[float]]:
    """So many samples of each, one after the other in turn, so that a noisy second meets all of them alike.

    ``pause``: the longest of the random pauses in between, for who looks from time to time.
    """
    samples: dict[str, list[float]] = {name: [] for name in guarded}
    for number in range(WARM_UP + count):
        for name, one in guarded.items():
            one.running.settle(STILL)
            time.sleep(random.uniform(0.0005, pause))
            if before is not None:
                before(one)
            try:
                took = bring(one.tree)
            except TimeoutError as error:
                raise RuntimeError(f"{name}: {error}; {one.running.says()}") from error
            if number >= WARM_UP:
                samples[name].append(took)
    return samples


# --- the section --------------------------------------------------------------------------------------------


def section(bench: Bench) -> Measures:
    """Everything of the issue's first point. A round's daemons live for its samples only."""
    rounds = [one_round(bench) for _ in range(ROUNDS)]
    found: Measures = {}
    for measure in rounds[0]:
        found[measure] = merge([one[measure] for one in rounds])
    return found


def one_round(bench: Bench) -> Measures:
    """Each event and each condition once."""
    found: Measures = {}
    for event, (task, bring) in EVENTS.items():
        shape = Shape(init="systemd", units=60) if task == "units" else Shape(strangers=FEW)
        contenders = bench.watchers if event == "link created" else bench.pair
        with all_guarded(bench.stage, starting(contenders, task), shape, ready=task == "links") as guarded:
            bench.say(f"{event}: {', '.join(guarded)}")
            found[event] = take(guarded, bring, SAMPLES)
    found |= _under_load(bench) | _on_disk(bench) | _during_a_pass(bench) | _stops(bench)
    slow = {peer.name: peer.start for peer in bench.peers({"monit": peers.LOOKING["monit"]})}
    with all_guarded(bench.stage, slow, Shape(strangers=FEW)) as guarded:
        found["link created"] |= take(guarded, link_created, 6, pause=1.0)
    return found


def _under_load(bench: Bench) -> Measures:
    """A CPU hog on the contender's processor; the product also with its real-time option."""
    starts = starting((*bench.pair, *bench.loops[: len(peers.BARE_LOOPS)]))
    starts |= {f"{one.name}, SCHED_FIFO": partial(_realtime, one) for one in bench.products}
    with all_guarded(bench.stage, starts, Shape(strangers=FEW)) as guarded, hog(cpus()[1]):
        bench.say("link created, CPU hog")
        return {"link created, CPU hog": take(guarded, link_created, SAMPLES)}


def _realtime(product: Product, tree: Tree) -> Running:
    return Running(["chrt", "-R", "-f", "1", *product.argv(tree, "run")], said=product.said)


def _on_disk(bench: Bench) -> Measures:
    """The same on this machine's disk, where each durable record is waited for."""
    with (
        tempfile.TemporaryDirectory(prefix="dom0-bench.", dir="/var/tmp") as folder,
        all_guarded(Stage(Path(folder)), starting(bench.pair), Shape(strangers=FEW)) as guarded,
    ):
        bench.say("link created, on disk")
        return {"link created, on disk": take(guarded, link_created, SAMPLES)}


def _during_a_pass(bench: Bench) -> Measures:
    """What comes just after a full pass over 20,000 links has begun."""
    bench.say("during a full pass over 20,000 links: link created, stop script started")
    shape = Shape(links=20_000, strangers=FEW, stop=True)
    live = {one.name: one.start_live for one in bench.products}
    with all_guarded(bench.stage, starting(bench.products), shape) as guarded:
        found = {"link created, during a full pass": take(guarded, link_created, DURING, before=_begin_a_pass)}
    with all_guarded(bench.stage, live, shape) as guarded:
        found["stop started, during a full pass"] = take(guarded, stop_started, DURING, before=_begin_a_pass)
    return found


def _begin_a_pass(one: Guarded) -> None:
    one.running.hang_up()
    time.sleep(0.01)


def _stops(bench: Bench) -> Measures:
    """On hosts of their own, where stop scripts run: alone, beside a CPU hog, while one of them hangs."""
    shape, starts = Shape(stop=True, strangers=STOPPED), bench.live_starts
    with all_guarded(bench.stage, starts, shape) as guarded:
        bench.say("stop script started")
        found = {"stop started": take(guarded, stop_started, SAMPLES)}
    with all_guarded(bench.stage, starts, shape) as guarded, hog(cpus()[1]):
        bench.say("stop script started, CPU hog")
        found["stop started, CPU hog"] = take(guarded, stop_started, SAMPLES // 2)
    with all_guarded(bench.stage, starts, shape) as guarded:
        bench.say("link created, stop script started, during a hung stop script")
        for one in guarded.values():
            _hang(one)
        found["link created, hung stop"] = take(guarded, link_created, SAMPLES // 2)
        found["stop started, hung stop"] = take(guarded, stop_started, SAMPLES // 2)
    return found


def _hang(one: Guarded) -> None:
    """Make it start a stop script that does not come back."""
    os.symlink("../init.d/hung", "etc/rc2.d/S99hung", dir_fd=one.tree.fd)
    waiting.until(waiting.is_there(f"{STARTED}/hung", one.tree.fd), time.perf_counter())

"""Start: from exec until the first correction was made, and until the service manager was told READY=1."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from bench import waiting
from bench.process import Running
from bench.run import Bench, Measures
from bench.stage import Tree
from bench.tree import Shape, start_link, stranger


@dataclass(frozen=True)
class Start:
    """Seconds since exec; ``used`` are those of the processor until it was ready."""

    corrected: float
    ready: float = 0.0
    used: float = 0.0


def begin(tree: Tree, start: Callable[[Mapping[str, str] | None], Running], *, notifies: bool) -> Start:
    """Start a contender on a tree in which one thing is wrong."""
    number = tree.stranger()
    path = start_link(number)
    os.symlink(f"../init.d/{stranger(number)}", path, dir_fd=tree.fd)
    address = str(tree.path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(address)
        ear.settimeout(waiting.PATIENCE)
        running = start({"NOTIFY_SOCKET": address, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} if notifies else None)
        try:
            corrected = waiting.until(waiting.is_gone(path, tree.fd), running.began)
            while notifies and not ear.recv(4096).startswith(b"READY=1"):
                pass
            ready = time.perf_counter() - running.began if notifies else 0.0
            used = running.work().ns / 1e9
        finally:
            running.close()
            os.unlink(address)
    return Start(corrected, ready, used)


def section(bench: Bench, rounds: int = 12) -> Measures:
    """A cold process each time; the files are in memory."""
    corrected: dict[str, list[float]] = {one.name: [] for one in bench.pair}
    ready: dict[str, list[float]] = {one.name: [] for one in bench.products}
    bench.say("start")
    for _ in range(rounds):
        with bench.stage.tree(Shape()) as tree:
            corrected["C"].append(begin(tree, lambda _env: bench.limit.start(tree), notifies=False).corrected)
        for product in bench.products:
            with bench.stage.tree(Shape()) as tree:
                start = begin(tree, partial(product.start, tree, "links"), notifies=True)
            corrected[product.name].append(start.corrected)
            ready[product.name].append(start.ready)
    return {"exec to first correction": corrected, "exec to READY=1": ready}

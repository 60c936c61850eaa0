"""What a run has at hand: the stage, who is measured, and how a section gets them all to guard trees of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import peers, waiting
from bench.contenders import Contender, Limit, Product, Task
from bench.peerroot import PeerRoot
from bench.peers import Loop, Peer
from bench.process import Running
from bench.stage import Stage, Tree
from bench.tree import Shape

Measures = dict[str, dict[str, list[float]]]
"""What a section measured: measure, contender, samples. Seconds unless the measure says MiB or a count."""

ROUNDS = 3
"""Each time with new daemons on new trees."""

Start = Callable[[Tree], Running]
_PROBE = "etc/rc2.d/S20bad99999"
_PROBE_SECONDS = 0.5


@dataclass(slots=True)
class Guarded:
    """A contender that guards a tree."""

    tree: Tree
    running: Running


@dataclass(frozen=True)
class Bench:
    """One run."""

    stage: Stage
    work: Path
    limit: Limit
    products: tuple[Product, ...]
    loops: tuple[Loop, ...] = ()
    root: PeerRoot | None = None  # where the peers are; None where they are not wanted
    heavy: bool = False
    idle_seconds: float = 300.0
    say: Callable[[str], None] = print

    @property
    def pair(self) -> tuple[Contender, ...]:
        """The limit and the product."""
        return (self.limit, *self.products)

    def peers(self, of: Mapping[str, Callable[[Tree, Path], list[str]]]) -> list[Peer]:
        """Some of Debian's programs; none where there is no root of theirs."""
        return [Peer(name, self.root, self.work, prepare) for name, prepare in of.items()] if self.root else []

    @property
    def live_starts(self) -> dict[str, Start]:
        """How those begin on hosts of their own that can stop what they find there."""
        starts: dict[str, Start] = {self.limit.name: self.limit.start_live}
        starts |= {one.name: one.start_live for one in self.products}
        return starts | {one.name: one.start_live for one in self.loops if one.stops}

    @property
    def watchers(self) -> tuple[Contender, ...]:
        """All that are told of a change of links."""
        return (*self.pair, *self.loops, *self.peers(peers.WATCHING))


def starting(contenders: tuple[Contender, ...], task: Task = "links") -> dict[str, Start]:
    """How each of them begins to guard a tree."""
    return {one.name: partial(one.start, task=task) for one in contenders}


@contextmanager
def guarded(stage: Stage, start: Start, shape: Shape, *, ready: bool = True) -> Iterator[Guarded]:
    """A contender on a tree of its own, seen to work."""
    with stage.tree(shape) as tree:
        running = start(tree)
        try:
            if ready:
                await_ready(tree, running)
            running.settle(0.02)
            yield Guarded(tree, running)
        finally:
            running.close()


@contextmanager
def all_guarded(
    stage: Stage, starts: Mapping[str, Start], shape: Shape, *, ready: bool = True
) -> Iterator[dict[str, Guarded]]:
    """All of them at once, each on a tree of its own: while one is measured the others sleep."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(guarded(stage, start, shape, ready=ready)) for name, start in starts.items()}


def await_ready(tree: Tree, running: Running) -> None:
    """Until it takes a link away; who was not ready yet may never hear of the one that was there before."""
    deadline = time.monotonic() + waiting.PATIENCE
    gone = waiting.is_gone(_PROBE, tree.fd)
    while time.monotonic() < deadline:
        os.symlink("../init.d/bad99999", _PROBE, dir_fd=tree.fd)
        with suppress(TimeoutError):
            waiting.until(gone, time.perf_counter(), _PROBE_SECONDS)
            return
        with suppress(FileNotFoundError):
            os.unlink(_PROBE, dir_fd=tree.fd)
    raise RuntimeError(f"it corrects nothing: {running.says()}")

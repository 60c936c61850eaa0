"""``python3 -m bench``, started by scripts/bench, as the first process of namespaces of its own."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from bench import peerroot, quick
from bench.contenders import Limit, Product, find_libraries
from bench.document import show, write
from bench.peers import BARE_LOOPS, LOOPS, Loop
from bench.process import cpus
from bench.reach import PRODUCT
from bench.results import Results, facts_of
from bench.run import Bench, Measures
from bench.stage import Stage, in_memory
from bench.workloads import idle, passes, reaction, starts, storms

CHECKOUT = Path(__file__).resolve().parents[1]
KEPT = CHECKOUT / ".cache/bench/results.json"
SECTIONS: Mapping[str, Callable[[Bench], Measures]] = {
    "reaction": reaction.section,
    "storms": storms.section,
    "passes": passes.section,
    "start": starts.section,
    "idle": idle.section,
}

_BEGAN = time.monotonic()


def main() -> int:
    """0; 1 where --quick finds that something has become dear."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the first process of a namespace has no default
    options = _parser().parse_args()
    with ExitStack() as stack:
        stage = stack.enter_context(in_memory())
        bench = _bench(options, stage, stage.folder("work"))
        os.sched_setaffinity(0, {cpus()[0]})
        if options.quick:
            return quick.run(bench, accept=options.accept)
        return _measure(bench, options)
    return 0


def _measure(bench: Bench, options: argparse.Namespace) -> int:
    compared = bool(options.product)  # other checkouts: shown, never written down
    facts = facts_of(CHECKOUT, "all" if bench.heavy else "some" if bench.root else "none")
    results = Results(KEPT.with_name("compared.json") if compared else KEPT, facts, fresh=options.fresh or compared)
    for name in options.section or SECTIONS:
        if name in results.sections and not options.section:
            bench.say(f"{name}: measured already (--fresh measures it again)")
            continue
        began = time.monotonic()
        results.put(name, SECTIONS[name](bench), time.monotonic() - began)
    if compared or options.section:
        print(show(results.measures()))
    else:
        write(CHECKOUT, results, bench.root)
        bench.say("docs/performance.md is written")
    return 0


def _bench(options: argparse.Namespace, stage: Stage, work: Path) -> Bench:
    root = None if options.bare or options.quick else _peers(options, stage)
    libraries = root.libraries if root else find_libraries(CHECKOUT)
    checkouts = [Path(one).resolve() for one in options.product]
    named = {one.name: one for one in checkouts} or {PRODUCT: CHECKOUT}
    products = tuple(Product(one, work, libraries, name) for name, one in named.items())
    loops = tuple(Loop(script, name, work, libraries) for script, name in (LOOPS if root else BARE_LOOPS).items())
    return Bench(stage, work, Limit(work), products, loops, root, options.all, options.idle, say)


def _peers(options: argparse.Namespace, stage: Stage) -> peerroot.PeerRoot | None:
    built = peerroot.build(heavy=options.all, progress=say)
    if isinstance(built, str):
        say(f"without the peers: {built}")
        return None
    return peerroot.PeerRoot(built, stage.path)


def say(line: str) -> None:
    """What is going on, with the time since the start."""
    print(f"== {time.monotonic() - _BEGAN:5.0f} s  {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure what the product costs.")
    parser.add_argument("--quick", action="store_true", help="a minute: fail where a ratio has grown by half")
    parser.add_argument("--accept", action="store_true", help="with --quick: what is measured is the new baseline")
    parser.add_argument("--all", action="store_true", help="also ansible and puppet")
    parser.add_argument("--bare", action="store_true", help="without the peers")
    parser.add_argument("--fresh", action="store_true", help="measure again what a run that was cut has measured")
    parser.add_argument("--idle", type=float, default=310.0, metavar="SECONDS", help="the idle window (310)")
    parser.add_argument("--product", action="append", default=[], metavar="CHECKOUT",
                        help="measure these checkouts side by side instead, and only show it")  # fmt: skip
    parser.add_argument("--section", action="append", choices=list(SECTIONS), help="only these, and only show it")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""The driver: each target in turn, in a process of its own. See `scripts/fuzz`."""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.minimise import minimised
from tests.fuzz.targets import COSTS, TARGETS

CHECKOUT = Path(__file__).parents[2]
WORK = CHECKOUT / ".cache/fuzz"
"""What a run found so far; a later one goes on from there. The part of it that is kept for good is in `corpus/`."""

HANG = 30
"""Seconds for one input, on a machine with other work; the slowest take milliseconds."""

GUIDED = 0.05
"""The part of a target's executions that runs under atheris, instrumented; the rest drives what that has found."""

MEGABYTES = 1500
LONGEST = 4096
"""Bytes of an input. What only shows with a megabyte, `stretched` looks for."""

_STATS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


@dataclass(frozen=True, slots=True)
class Run:
    """How one target fared."""

    target: str
    executions: int
    crashes: int
    hangs: int
    seconds: float
    kept: int

    def line(self) -> str:
        rate = self.executions / self.seconds if self.seconds else 0
        return (
            f"{self.target:<14} {self.executions:>10,} {self.crashes:>8} {self.hangs:>6} "
            f"{rate:>9,.0f} {self.seconds:>8.0f} {self.kept:>7}"
        )


HEADER = f"{'target':<14} {'executions':>10} {'crashes':>8} {'hangs':>6} {'exec/s':>9} {'seconds':>8} {'corpus':>7}"


def shares(executions: int, targets: Sequence[str]) -> dict[str, int]:
    """How many executions each target gets: as many as cost about the same."""
    weights = {target: 1 / COSTS.get(target, 1) for target in targets}
    total = sum(weights.values())
    return {target: math.ceil(executions * weight / total) for target, weight in weights.items()}


def fuzz(target: str, executions: int, *, keep: bool) -> Run:
    """Run one target to its share, however often it is ended on the way."""
    inputs, crashes = WORK / target, WORK / "crashes" / target
    corpus.unpack(corpus.inputs(target), inputs)
    crashes.mkdir(parents=True, exist_ok=True)
    before, start, done, hangs = _found(crashes), time.monotonic(), 0, 0
    for child, share in ((_guided, math.ceil(executions * GUIDED)), (_blind, executions)):
        while done < share:
            ran, ended = child(target, inputs, crashes, share - done)
            done += ran
            hangs += ended
            if ended and not ran:
                break  # it cannot even begin: its log says why
    if keep:
        corpus.keep(target, minimised(TARGETS[target], corpus.packed(inputs)))
    seconds = time.monotonic() - start
    return Run(target, done, len(_found(crashes) - before) - hangs, hangs, seconds, len(corpus.inputs(target)))


def _found(crashes: Path) -> set[str]:
    return {file.name for file in crashes.iterdir() if file.suffix != ".txt"}


def _guided(target: str, inputs: Path, crashes: Path, runs: int) -> tuple[int, bool]:
    """How many inputs one process ran under atheris, and whether it was ended for one that hung or ate the memory."""
    ended, text = _logged(target, "one", str(crashes), *_options(crashes, runs), str(inputs))
    ran = _STATS.search(text) or re.search(r"(?s).*\n#(\d+)", text)
    return int(ran[1]) if ran else 0, ended


def _blind(target: str, inputs: Path, crashes: Path, runs: int) -> tuple[int, bool]:
    """The same without guidance."""
    ended, text = _logged(target, "blind", str(crashes), str(runs), str(HANG), str(inputs))
    ran = re.search(r"^(\d+)$", text, re.MULTILINE)
    return int(ran[1]) if ran else 0, ended


def _logged(target: str, module: str, *arguments: str) -> tuple[bool, str]:
    """Run a module in a process of its own; whether it failed, and what it said."""
    log = WORK / f"{target}.{module}.log"
    with log.open("w") as output:
        ended = subprocess.run(
            (sys.executable, "-m", f"tests.fuzz.{module}", target, *arguments),
            cwd=CHECKOUT,
            stdout=output,
            stderr=output,
            check=False,
        )
    return ended.returncode != 0, log.read_text(errors="replace")


def _options(crashes: Path, runs: int) -> Iterable[str]:
    return (
        f"-runs={runs}",
        f"-timeout={HANG}",
        f"-rss_limit_mb={MEGABYTES}",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={crashes}/",
        "-print_final_stats=1",
    )


def _sum(runs: Sequence[Run]) -> Run:
    executions, crashes, hangs = (
        sum(getattr(run, name) for run in runs) for name in ("executions", "crashes", "hangs")
    )
    return Run("all", executions, crashes, hangs, sum(run.seconds for run in runs), sum(run.kept for run in runs))


def main() -> int:
    """0 when every target had its share and no input made one crash or hang."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--keep", action="store_true", help="write what was found, minimised, to tests/fuzz/corpus")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {' '.join(TARGETS)}")
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {' '.join(sorted(unknown))}")
    WORK.mkdir(parents=True, exist_ok=True)
    return _run(shares(options.executions, options.targets or tuple(TARGETS)), keep=options.keep)


def _run(wanted: dict[str, int], *, keep: bool) -> int:
    print(HEADER, flush=True)
    runs = []
    for target, executions in wanted.items():
        runs.append(fuzz(target, executions, keep=keep))
        print(runs[-1].line(), flush=True)
    total = _sum(runs)
    print(total.line(), flush=True)
    if total.crashes or total.hangs:
        print(f"the inputs are in {os.path.relpath(WORK / 'crashes')}", flush=True)
    return int(bool(total.crashes or total.hangs) or any(r.executions < wanted[r.target] for r in runs))


if __name__ == "__main__":
    sys.exit(main())

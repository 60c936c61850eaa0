"""The whole loops, unattended, each with a summary.

python3 -m tests.crash calls [--every N]       every system call of a pass, with every fault
python3 -m tests.crash kills [--count N]       random kills of the daemon on real hosts, under load
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from tests.crash import calls
from tests.crash.faults import ALL
from tests.crash.kills import Killing
from tests.hosts.host import boot
from tests.hosts.plugin import NAMES
from tests.hosts.recipes import Init, Suite
from tests.hosts.scenario import Scene


def main(argv: list[str]) -> int:
    """One loop, its exit code: 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="scripts/crash", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    loops = parser.add_subparsers(dest="loop", required=True)
    every = loops.add_parser("calls", help="every system call of a pass, with every fault")
    every.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth call")
    every.add_argument("--fault", action="append", choices=ALL, help="may be given again; default all of them")
    random = loops.add_parser("kills", help="random kills of the daemon on real hosts, under load")
    random.add_argument("--count", type=int, default=1000, help="kills in all; default 1000")
    random.add_argument("--seed", type=int, default=1)
    random.add_argument("--host", action="append", choices=NAMES, help="may be given again; default all four")
    chosen = parser.parse_args(argv)
    if chosen.loop == "calls":
        return _calls(chosen.every, chosen.fault or ALL)
    return _kills(chosen.host or NAMES, chosen.count, chosen.seed)


def _calls(every: int, faults: Sequence[str]) -> int:
    began, done, bad = time.monotonic(), Counter[str](), 0
    with tempfile.TemporaryDirectory(dir=calls.in_memory()) as folder:
        top = Path(folder)
        expected = calls.expect(top)
        _say(f"{expected.calls} system calls, {len(faults)} faults: {', '.join(faults)}")
        chosen = ((how, at) for how in faults for at in range(1, expected.calls + 1, every))
        for how, at, why in calls.sweep(top, expected, chosen):
            done[how] += 1
            if why:
                bad += 1
                _say(f"BROKEN: {how} at call {at}: {why}")
            if done[how] % 200 == 0:
                _say(f"{how}: {done[how]}")
    _say(f"{sum(done.values())} runs in {time.monotonic() - began:.0f} s, {bad} promises broken")
    return 1 if bad else 0


def _kills(hosts: Sequence[str], count: int, seed: int) -> int:
    began, done, bad = time.monotonic(), 0, 0
    for number, name in enumerate(hosts):
        share = count // len(hosts) + (number < count % len(hosts))
        try:
            done += _kill_one(name, share, seed + number)
        except AssertionError as error:
            bad += 1
            _say(f"BROKEN: {name}: {error}")
    _say(f"{done} kills on {len(hosts)} hosts in {time.monotonic() - began:.0f} s, {bad} promises broken")
    return 1 if bad else 0


def _kill_one(name: str, count: int, seed: int) -> int:
    suite, init = name.split("-")
    with boot(cast("Suite", suite), cast("Init", init)) as host:
        killing = Killing(Scene(host), seed)
        killing.prepare()
        while killing.tally.kills < count - 1:
            killing.round()
            if killing.tally.kills % 50 == 0:
                _say(f"{name}: {killing.tally.kills} kills")
        killing.end()
    _say(f"{name}, seed {seed}: {killing.tally}")
    return killing.tally.kills


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""One target without guidance: `python -m tests.fuzz.blind TARGET CRASHES RUNS HANG INPUTS`.

What atheris found under guidance is changed at random and run at the target's own speed, twenty to a hundred times that
of an instrumented one: guidance finds the ways, this drives many more inputs along them. Prints how many it ran.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tests.fuzz.corpus import packed
from tests.fuzz.crashes import Target, guarded
from tests.fuzz.targets import TARGETS

LONGEST = 4096
_EDGES = (0, 1, 9, 10, 13, 32, 34, 35, 39, 47, 58, 91, 92, 93, 127, 128, 255)


def changed(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """One to five small changes: bits, bytes, digits, pieces gone, doubled, or taken from another input."""
    made = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(made) + 1)
        end = min(len(made), at + chance.randrange(1, 9))
        match chance.randrange(7):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(made):
                made[at] = chance.choice(_EDGES)
            case 2:
                del made[at:end]
            case 3:
                made[at:at] = made[at:end] * chance.randrange(1, 4)
            case 4:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                made[at:end] = other[start : start + chance.randrange(1, 33)]
            case 5:
                made[at:end] = str(chance.choice((0, -1, 65536, 1 << 31, 1 << 64, 10**30))).encode()
            case _:
                made.insert(at, chance.randrange(256))
    return bytes(made[:LONGEST])


class Watch:
    """Ends the process for an input that takes longer than so many seconds of the processor, and leaves it behind."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.count, self.data = 0, b""
        self._before, self._folder = -1, folder
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, seconds, seconds)

    def _look(self, _signal: int, _frame: FrameType | None) -> None:
        if self.count == self._before:
            (self._folder / f"timeout-{self.count}").write_bytes(self.data)
            sys.stdout.write(f"{self.count}\n")
            sys.stdout.flush()
            sys.exit(1)
        self._before = self.count


def drive(target: Target, inputs: Sequence[bytes], runs: int, chance: random.Random, watch: Watch) -> None:
    """Run the target that often."""
    while watch.count < runs:
        watch.data = changed(chance.choice(inputs), inputs, chance)
        target(watch.data)
        watch.count += 1


def main() -> None:
    name, crashes, runs, hang, inputs = sys.argv[1:]
    folder = Path(crashes)
    watch = Watch(folder, float(hang))
    drive(guarded(TARGETS[name], folder), [*packed(Path(inputs)), b""], int(runs), random.Random(), watch)
    sys.stdout.write(f"{watch.count}\n")


if __name__ == "__main__":
    main()

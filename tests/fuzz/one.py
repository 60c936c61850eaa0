"""One target under atheris, in a process of its own: `python -m tests.fuzz.one TARGET CRASHES [LIBFUZZER ARGUMENT...]`.

A run goes on after a crash: of each place that raises, the first input is written to the folder CRASHES. libFuzzer
itself ends the process for what hangs or eats the memory, and leaves the input there as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["reconciler", "tomllib"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.crashes import guarded


def main() -> None:
    name, folder, *arguments = sys.argv[1:]
    atheris.Setup([sys.argv[0], *arguments], guarded(TARGETS[name], Path(folder)))
    atheris.Fuzz()


main()

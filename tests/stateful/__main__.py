"""The machine for as many steps as asked for: `scripts/fuzz stateful [--steps N]`."""

from __future__ import annotations

import argparse
import sys
import time

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.machine import STEPS, Host

LENGTH = 50
"""Steps of one history, at most."""


def main() -> int:
    """0 when no history broke the model; what breaks it is shrunk and shown."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz stateful", description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    options = parser.parse_args()
    long = settings(
        max_examples=20,
        stateful_step_count=LENGTH,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    start = time.monotonic()
    while STEPS.total() < options.steps:
        run_state_machine_as_test(Host, settings=long)
        print(f"{STEPS.total():>8,} steps, {time.monotonic() - start:.0f} s", flush=True)
    for what, count in STEPS.most_common():
        print(f"{count:>8,}  {what}")
    print(f"{STEPS.total():>8,} steps in all, nothing that the model does not know")
    return 0


if __name__ == "__main__":
    sys.exit(main())

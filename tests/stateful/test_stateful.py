"""A short run of the machine; `scripts/fuzz stateful` plays it for thousands of steps."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.machine import STEPS, Host

SHORT = settings(
    max_examples=12,
    stateful_step_count=30,
    derandomize=True,  # the same histories each time: new ones are what the long run is for
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_the_daemon_and_everybody_else() -> None:
    before = STEPS.total()
    run_state_machine_as_test(Host, settings=SHORT)
    assert STEPS.total() > before + 50

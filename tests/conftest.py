"""What every test may use; the hosts' fixtures are in `tests.hosts.plugin`."""

import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.hosts.plugin"]

pytest.register_assert_rewrite("tests.odd_roots")

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")  # a busy machine is no failure: speed is measured elsewhere


def pytest_configure() -> None:
    """nohup(1) and a shell's background jobs ignore these, and all that is tested would inherit that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What failed on a name that is no text is told all the same: execnet sends text alone from worker to terminal."""
    return _as_text((yield))


def _as_text(value: Any) -> Any:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {key: _as_text(each) for key, each in value.items()}
        case list():
            return [_as_text(each) for each in value]
        case tuple():  # pytest counts on it: where a skipped test says why
            return tuple(map(_as_text, value))
    return value

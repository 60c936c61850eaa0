"""What every test may use; the hosts' fixtures are in `tests.hosts.plugin`."""

import gc
import signal
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.hosts.plugin"]

pytest.register_assert_rewrite("tests.odd_roots")

settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")  # a busy machine is no failure: speed is measured elsewhere


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left_over() -> Iterator[None]:
    """A command that ran in this process ends with it and closes nothing; its descriptors are not for those to come."""
    yield
    gc.unfreeze()
    gc.collect()


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

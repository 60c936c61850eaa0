"""Fixtures of the scenarios: hosts under guard, shared by the scenarios of a class to keep the suite fast.

* `shared_host`: a booted host, one for all tests of a class; they run on each of the four.
* `scene`: the same under guard, converged, with a journal that begins here. `SCENE_SYSTEMD` and `SCENE_SYSVINIT` in
  `tests.hosts.scenario` pick two of the four.
* `deb`: the product's package, built once.
* `number`: notes a measured number; the end of the run shows them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts import debs
from tests.hosts.host import Host
from tests.hosts.plugin import NAMES, booting
from tests.hosts.scenario import Scene

_numbers = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What boots a shared host is marked as what boots one of its own."""
    for item in items:
        if "shared_host" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.host)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The numbers that the scenarios took."""
    if numbers := config.stash.get(_numbers, []):
        terminalreporter.section("numbers")
        for line in numbers:
            terminalreporter.write_line(line)


@pytest.fixture
def number(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Notes a line for the summary."""
    numbers = request.config.stash.setdefault(_numbers, [])
    return lambda line: numbers.append(f"{request.node.name}: {line}")


@pytest.fixture(scope="session")
def deb() -> Path:
    """The package of this checkout, or the one that DOM0_RECONCILER_DEB names."""
    if why := debs.missing():
        pytest.skip(why)
    return debs.build()


@pytest.fixture(scope="class", params=NAMES)
def shared_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host for all scenarios of a class, pristine for the first of them."""
    suite, init = request.param.split("-")
    with booting(request) as boot:
        yield boot(suite, init)


@pytest.fixture(scope="class")
def guarded(shared_host: Host, request: pytest.FixtureRequest) -> Scene:
    """The shared host, under guard: with the class's STATE, if it has one, and after its `prepare`."""
    scene = Scene(shared_host)
    if prepare := getattr(request.cls, "prepare", None):
        prepare(shared_host)
    scene.guard(getattr(request.cls, "STATE", None))
    return scene


@pytest.fixture
def scene(guarded: Scene) -> Iterator[Scene]:
    """The guarded host for one scenario, at peace before it and with a sound journal after it."""
    guarded.begin()
    yield guarded
    guarded.sound()

"""The fixtures that hand hosts to scenarios, and what a failing scenario shows of them.

* `host`: a booted, pristine host; the test runs once for each of the four.
  `@pytest.mark.parametrize("host", ["bookworm-sysvinit"], indirect=True)` picks some; `SYSVINIT` and
  `SYSTEMD` here are ready-made picks.
* `boot_host`: a function like `boot`, for a scenario that needs `prepare`, two hosts, or a certain one.
* `limiting`, `failing`: nothing; the test is skipped where the machine cannot limit a process, or has no FUSE.
* `dom0`: a Xen Domain-0 with a running guest; the test runs on each of which a snapshot is kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, cast

import pytest

from tests.hosts import levels, product, roots
from tests.hosts.host import Host, boot
from tests.hosts.recipes import Init, Suite, all_recipes
from tests.hosts.vm import snapshot
from tests.hosts.vm.dom0 import Dom0
from tests.hosts.vm.dom0 import dom0 as resume_dom0

NAMES = [one.name for one in all_recipes()]
DOM0S = snapshot.kept() or ["bookworm-systemd"]  # which scripts/test-dom0 takes unless told otherwise
SYSVINIT = pytest.mark.parametrize("host", [name for name in NAMES if "sysvinit" in name], indirect=True)
SYSTEMD = pytest.mark.parametrize("host", [name for name in NAMES if "systemd" in name], indirect=True)


BootHost = Callable[..., Host]

_live = pytest.StashKey[list[Host | Dom0]]()
_skipped = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    """A required level that is missing stops the run at once: it would only pretend to have tested."""
    config.stash[_skipped] = {}
    if absent := {level: why for level in levels.required() if (why := levels.missing(level))}:
        reasons = "; ".join(f"{level}: {why}" for level, why in absent.items())
        raise pytest.UsageError(f"{levels.REQUIRE_VARIABLE} asks for what this machine lacks: {reasons}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`host` means each of the four, unless the test picks; `dom0` each that is kept, or one that is skipped."""
    for fixture in ("host", "dom0"):
        marks = metafunc.definition.iter_markers("parametrize")
        picked = any(fixture in str(mark.args[0]).split(",") for mark in marks)
        if fixture in metafunc.fixturenames and not picked:
            metafunc.parametrize(fixture, NAMES if fixture == "host" else DOM0S, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever boots a host is marked so: `-m "not host"` leaves the quick tests. `tools` run where asked for."""
    asked = str(config.option.markexpr).split()
    for item in items:
        if "tools" not in asked and item.get_closest_marker("tools") is not None:
            item.add_marker(pytest.mark.skip(reason="minutes long, with a network: scripts/test-deb asks for them"))
        if {"host", "boot_host"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.host)
        if "dom0" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.vm)


@pytest.fixture
def boot_host(request: pytest.FixtureRequest) -> Iterator[BootHost]:
    """Boots hosts as `tests.hosts.host.boot` does; they end with the test."""
    with booting(request) as one:
        yield one


@contextlib.contextmanager
def booting(request: pytest.FixtureRequest) -> Iterator[BootHost]:
    """The same for a fixture of a wider scope: its hosts end with it, and every test that fails there shows them."""
    live = request.node.stash.setdefault(_live, [])
    with contextlib.ExitStack() as stack:

        def one(suite: Suite, init: Init, **options: Any) -> Host:
            _need("systemd" if init == "systemd" else "namespaces", request.config)
            _build(suite, init, request.config)
            host = stack.enter_context(boot(suite, init, **options))
            live.append(host)
            stack.callback(live.remove, host)
            return host

        yield one


@pytest.fixture
def host(request: pytest.FixtureRequest, boot_host: BootHost) -> Host:
    """A pristine host, up, the article's services listening."""
    suite, init = request.param.split("-")
    return boot_host(suite, init)


@pytest.fixture(scope="session")
def limiting(request: pytest.FixtureRequest) -> None:
    """For what limits a process's memory or children (`tests.hosts.limits`)."""
    _need("limits", request.config)


@pytest.fixture(scope="session")
def failing(request: pytest.FixtureRequest) -> None:
    """For what has a disk that fails (`tests.hosts.faulty`)."""
    _need("fuse", request.config)


@pytest.fixture
def dom0(request: pytest.FixtureRequest) -> Iterator[Dom0]:
    """A Domain-0 as it was when the snapshot was taken, in about a second; it ends with the test.

    These tests last minutes, so a plain run leaves them out, snapshot or not, and says so.
    """
    if "dom0" not in levels.required() and "vm" not in str(request.config.option.markexpr).split():
        pytest.skip(f"minutes long: asked for by -m vm, or by {levels.REQUIRE_VARIABLE}=dom0")
    _need("dom0", request.config)
    suite, init = request.param.split("-")
    with resume_dom0(suite, init) as one:
        request.node.stash.setdefault(_live, []).append(one)
        yield one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows, for each host of the test, what one would look at first."""
    report = yield
    if report.failed:
        for one in (one for node in item.listchain() for one in node.stash.get(_live, [])):
            name = f"{one.suite}-{one.init}"
            report.sections += [(f"{title} of {name}", text) for title, text in _evidence(one) if text]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Which levels were skipped, how often and why."""
    skipped = config.stash[_skipped]
    if skipped:
        terminalreporter.section("levels not tested on this machine")
        for level, count in skipped.items():
            why = f"{level} ({levels.LEVELS[level]}): {count} skipped, {levels.missing(level)}"
            terminalreporter.write_line(why)


def _need(level: str, config: pytest.Config) -> None:
    if reason := levels.missing(level):
        counts = config.stash[_skipped]
        counts[level] = counts.get(level, 0) + 1
        pytest.skip(f"level {level}: {reason}")


def _build(suite: Suite, init: Init, config: pytest.Config) -> None:
    """The first run builds roots, which takes half a minute each: said aloud, past pytest's capture."""
    if roots.find(suite, init) is not None:
        return
    reporter = cast("pytest.TerminalReporter | None", config.pluginmanager.get_plugin("terminalreporter"))
    if reporter is not None:
        reporter.write_line(f"\nbuilding the root {suite}-{init}, once, in {roots.cache()}")
    roots.build(suite, init)


def _evidence(host: Host | Dom0) -> Iterator[tuple[str, str]]:
    """Each part on its own: a host that is down still has a console and a disk."""
    parts: dict[str, Callable[[], str]] = {
        "console": lambda: host.console,
        "product's output": lambda: product.said(host),
        "product's journal": lambda: host.read(product.JOURNAL) if host.exists(product.JOURNAL) else "",
        "changes in /etc": lambda: host.etc_diff() if isinstance(host, Host) else "",
    }
    for title, part in parts.items():
        try:
            yield title, part()
        except Exception as error:  # noqa: BLE001 - evidence must never hide the failure it belongs to
            yield title, f"not to be had: {error!r}"

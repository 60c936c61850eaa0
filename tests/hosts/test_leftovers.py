"""Nothing stays behind: not after `kill -9` of the test run, not after that of a host's supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts import cgroups
from tests.hosts.plugin import NAMES, BootHost

_CHECKOUT = Path(__file__).parents[2]
_RUN = """
import json, sys, time
from tests.hosts.host import boot
with boot(*sys.argv[1].split("-")) as host:
    host.use_static_address()
    host.spawn(["sleep", "1002"])
    pids = [process.outer for process in host.processes()]
    late = host.spawn_on_lan(["sleep", "1003"])
    print(json.dumps([host.control.pid, [*pids, late.pid]]), flush=True)
    time.sleep(1000)
"""


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, boot_host: BootHost) -> Iterator[subprocess.Popen[str]]:
    """A test run of its own with one host; `boot_host` has seen to the level and the root."""
    boot_host(*request.param.split("-")).close()
    command = [sys.executable, "-c", _RUN, request.param]
    with subprocess.Popen(command, cwd=_CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def test_kill_of_the_run(run: subprocess.Popen[str]) -> None:
    supervisor, pids = _host_of(run)
    before = _mounts()
    run.kill()
    _wait_until(lambda: not any(map(_alive, [supervisor, *pids])))
    assert _mounts() == before
    assert not cgroups.of(supervisor).exists()


def test_kill_of_the_supervisor(run: subprocess.Popen[str]) -> None:
    """Its group stays, empty, until the next host sweeps it."""
    supervisor, pids = _host_of(run)
    *inside, _on_lan = pids  # which is the run's child and ends with that
    os.kill(supervisor, signal.SIGKILL)
    _wait_until(lambda: not any(map(_alive, inside)))
    run.kill()
    _wait_until(lambda: not any(map(_alive, pids)))
    _wait_until(lambda: _is_swept(cgroups.of(supervisor)))


def _is_swept(group: Path) -> bool:
    """By what the next host does; again, where the sweep of another test run just holds it."""
    next_host = [sys.executable, "-c", "from tests.hosts.cgroups import Group; Group().remove()"]
    subprocess.run(next_host, cwd=_CHECKOUT, check=True)
    return not group.exists()


def _host_of(run: subprocess.Popen[str]) -> tuple[int, list[int]]:
    assert run.stdout is not None
    supervisor, pids = json.loads(run.stdout.readline())
    assert len(pids) > 10
    return supervisor, pids


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def _mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "something is left"
        time.sleep(0.02)

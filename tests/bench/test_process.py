"""What is said of a measured process is so."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.process import Running, memory_of

BUSY = "while :; do :; done"
PARENT = "sleep 600 & sleep 600 & wait"


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[list[Running]]:
    begun: list[Running] = []
    yield begun
    for one in begun:
        one.close()


def _started(begun: list[Running], script: str, said: Path) -> Running:
    begun.append(Running(["/bin/sh", "-c", script], said=said))
    return begun[-1]


def test_a_sleeper_sleeps_and_needs_nothing(begin: list[Running], tmp_path: Path) -> None:
    one = _started(begin, "exec sleep 600", tmp_path / "said")
    one.settle(0.1)
    before = one.work()
    assert one.asleep()
    assert (one.work() - before).ns == 0
    assert one.memory().rss >= one.memory().pss >= one.memory().uss > 0


def test_work_is_seen(begin: list[Running], tmp_path: Path) -> None:
    one = _started(begin, BUSY, tmp_path / "said")
    before = one.work()
    while (one.work() - before).ns < 1_000_000:  # a busy loop gets its millisecond on the most loaded machine
        pass
    assert not one.asleep()


def test_a_family_is_counted_as_one_and_ends_as_one(begin: list[Running], tmp_path: Path) -> None:
    one = _started(begin, PARENT, tmp_path / "said")
    while len(one.family()) < 3:
        pass
    one.settle(0.05)
    family = one.family()
    assert one.memory().rss > memory_of(one.pid).rss
    one.close()
    deadline = time.monotonic() + 20
    while any(map(_runs, family)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pid for pid in family if _runs(pid)] == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_it_says_is_kept(begin: list[Running], tmp_path: Path) -> None:
    one = _started(begin, "echo to say something >&2; exec sleep 600", tmp_path / "said")
    while not one.says():
        os.sched_yield()
    assert one.says() == "to say something\n"

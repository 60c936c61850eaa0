"""The limit does what it is the limit of: a program that corrects nothing would be a fast one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import waiting
from bench.contenders import Limit
from bench.process import on
from bench.run import await_ready, guarded
from bench.stage import Stage
from bench.tree import STARTED, Shape, approved_links, start_link, stranger
from bench.workloads import passes, storms
from bench.workloads.reaction import EVENTS, stop_started

FEW = Shape(links=20, strangers=4)
UNITS = Shape(links=4, units=4, strangers=4, init="systemd")


@pytest.fixture(scope="module")
def limit(tmp_path_factory: pytest.TempPathFactory) -> Limit:
    return Limit(tmp_path_factory.mktemp("limit"))


@pytest.mark.parametrize("event", EVENTS)
def test_it_corrects_each_event_and_nothing_else(event: str, limit: Limit, tmp_path: Path) -> None:
    task, bring = EVENTS[event]
    shape = UNITS if task == "units" else FEW
    with guarded(Stage(tmp_path), lambda tree: limit.start(tree, task), shape, ready=False) as one:
        if task == "links":
            await_ready(one.tree, one.running)
        else:
            one.running.settle(0.2)
        assert all(bring(one.tree) > 0 for _ in range(3))
        assert [link for link in approved_links(shape.links) if not os.path.lexists(one.tree.path / link)] == []


def test_a_look_finds_what_was_there_before(limit: Limit, tmp_path: Path) -> None:
    with Stage(tmp_path).tree(FEW) as tree:
        os.symlink(f"../init.d/{stranger(1)}", tree.path / start_link(1))
        assert passes.one_shot(limit.argv(tree, "links", "-1")) > 0
        assert not os.path.lexists(tree.path / start_link(1))
        assert all(os.path.lexists(tree.path / link) for link in approved_links(FEW.links))


def test_nothing_is_left_of_a_storm(limit: Limit, tmp_path: Path) -> None:
    with guarded(Stage(tmp_path), limit.start, Shape(links=20, strangers=50)) as one:
        assert storms.strike(one.tree, 500).gone > 0
        left = [name for level in "2345" for name in os.listdir(one.tree.path / f"etc/rc{level}.d") if "bad" in name]
        assert left == []


def test_it_starts_the_stop_script(limit: Limit, tmp_path: Path) -> None:
    """Outside a host of its own: scripts that leave their mark in the tree instead of /run."""
    with Stage(tmp_path).tree(FEW) as tree:
        for number in range(FEW.strangers):
            script = tree.path / "etc/init.d" / stranger(number)
            script.write_text(f"#!/bin/sh\n[ $1 = stop ] && : >{tree.path}/{STARTED}/{stranger(number)}\n")
        with subprocess.Popen(limit.argv(tree, "links", "-s", str(tree.path))) as process:
            try:
                os.symlink(f"../init.d/{stranger(0)}", start_link(0), dir_fd=tree.fd)  # before or after it looks
                waiting.until(waiting.is_there(f"{STARTED}/{stranger(0)}", tree.fd), time.perf_counter())
                assert stop_started(tree) > 0
            finally:
                process.kill()


@pytest.fixture
def one_processor() -> Iterator[int]:
    cpu = min(os.sched_getaffinity(0))
    with on(cpu):
        yield cpu


def test_what_is_pinned_is_pinned_and_let_go(one_processor: int) -> None:
    assert os.sched_getaffinity(0) == {one_processor}

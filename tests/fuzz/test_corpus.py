"""Every input that is kept is read again: what fuzzing has reached once, no change may break in silence."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz import corpus
from tests.fuzz.__main__ import shares
from tests.fuzz.blind import changed
from tests.fuzz.crashes import guarded
from tests.fuzz.minimise import minimised, reached
from tests.fuzz.targets import COSTS, TARGETS

ALL = 300_000
"""Bytes of the whole corpus in the repository."""


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_kept_is_read(target: str) -> None:
    found = corpus.inputs(target)
    assert found, f"nothing is kept of {target}: scripts/fuzz --keep {target}"
    for data in found:
        TARGETS[target](data)


def test_the_corpus_is_small_and_of_these_targets() -> None:
    files = list(corpus.FOLDER.iterdir())
    assert {file.name for file in files} == set(TARGETS)
    assert sum(file.stat().st_size for file in files) < ALL


def test_every_target_has_its_share() -> None:
    wanted = shares(1000, tuple(TARGETS))
    assert wanted.keys() == TARGETS.keys()
    assert sum(wanted.values()) >= 1000
    assert min(wanted.values()) >= 1
    assert max(COSTS.values()) * wanted["plan"] >= wanted["span"]
    assert wanted.keys() >= COSTS.keys()


def test_a_minimised_corpus_reaches_what_all_of_it_reached() -> None:
    found = [b"5min", b"5min ", b"1h 30min", b"x", b"", b"90s", b"5min 5min 5min"]
    less = list(minimised(TARGETS["span"], found))
    assert set(less) < set(found)
    assert set().union(*(reached(TARGETS["span"], each) for each in found)) == set().union(
        *(reached(TARGETS["span"], each) for each in less)
    )


def test_what_raises_is_written_down_once_and_the_run_goes_on(tmp_path: Path) -> None:
    def target(data: bytes) -> None:
        if data:
            raise KeyError(data)

    run = guarded(target, tmp_path)
    for data in (b"", b"first", b"second"):
        run(data)
    (found,) = [file for file in tmp_path.iterdir() if not file.suffix]
    assert found.read_bytes() == b"first"
    assert "KeyError" in found.with_name(f"{found.name}.txt").read_text()


def test_changed_inputs_are_other_ones() -> None:
    chance = random.Random(1)
    made = {changed(b"5min", [b"5min", b"1h"], chance) for _ in range(200)}
    assert len(made) > 150
    assert all(len(each) <= 4096 for each in made)

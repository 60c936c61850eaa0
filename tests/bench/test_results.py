"""A run that was cut goes on where it was; what was measured of another product is not taken for this one's."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.results import SAME, Results

FACTS = {"product": "abc", "machine": "m", "peers": "some", "kernel": "6.1"}
MEASURES = {"link created": {"C": [1.0, 2.0]}}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "folder/results.json"
    Results(path, FACTS).put("reaction", MEASURES, 3.0)
    return path


def test_it_goes_on(kept: Path) -> None:
    again = Results(kept, {**FACTS, "kernel": "6.2"})
    again.put("start", {"exec": {"C": [3.0]}}, 1.0)
    assert list(Results(kept, FACTS).sections) == ["reaction", "start"]
    assert Results(kept, FACTS).measures() == {**MEASURES, "exec": {"C": [3.0]}}


@pytest.mark.parametrize("fact", SAME)
def test_another_product_or_machine_begins_anew(fact: str, kept: Path) -> None:
    assert Results(kept, {**FACTS, fact: "another"}).sections == {}


def test_fresh_begins_anew(kept: Path) -> None:
    assert Results(kept, FACTS, fresh=True).sections == {}

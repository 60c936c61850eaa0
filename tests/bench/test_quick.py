"""The short form: what it calls grown, and that what is checked in is what it measures."""

from __future__ import annotations

import json

from bench.quick import BASELINE, GROUPS, REPEATS, Ratios, grown, least, lines, patiently


def test_grown_by_half_and_no_less() -> None:
    baseline = {"a": 10.0, "b": 10.0, "none": 0.0}
    assert grown({"a": 15.0, "b": 15.1, "none": 0.0}, baseline) == ["b"]
    assert grown({"none": 1.0}, baseline) == ["none"]


def test_what_is_new_has_no_past() -> None:
    assert grown({"new": 99.0}, {}) == []


def test_noise_only_adds() -> None:
    assert least({"a": 1.0, "b": 5.0}, {"a": 2.0, "b": 3.0, "c": 4.0}) == {"a": 1.0, "b": 3.0, "c": 4.0}


def test_what_has_grown_is_marked() -> None:
    first, second = lines({"a": 15.1, "b": 15.0}, {"a": 10.0, "b": 10.0})
    assert first.endswith("GROWN BY HALF")
    assert "GROWN" not in second


def test_the_baseline_knows_every_ratio() -> None:
    """A ratio that it lacks would never be compared with anything."""
    baseline = json.loads(BASELINE.read_text())
    assert baseline["machine"]
    assert set(baseline["ratios"]) == {
        *("link gone", "work of a correction", "stop script started", "storm", "full pass", "plan", "start"),
        *("idle wake-ups", "idle RSS, MiB"),
    }
    assert baseline["ratios"]["idle wake-ups"] == 0
    assert len(GROUPS) == 6


def _measuring(*values: float) -> tuple[list[float], Ratios]:
    """What is left of the measurements that were to hand, and what came out."""
    left = list(values)
    return left, patiently(lambda: {"a": left.pop(0)}, {"a": 10.0}, lambda _: None)


def test_what_was_disturbed_is_measured_again() -> None:
    assert _measuring(99.0, 11.0, 10.0) == ([10.0], {"a": 11.0})


def test_what_is_well_is_measured_once() -> None:
    assert _measuring(10.0, 99.0) == ([99.0], {"a": 10.0})


def test_what_is_dear_each_time_has_grown() -> None:
    left, found = _measuring(*[20.0] * (REPEATS + 2))
    assert len(left) == 1
    assert grown(found, {"a": 10.0}) == ["a"]

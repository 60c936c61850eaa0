"""Results as tables: what is measured is shown, what is not is said."""

from __future__ import annotations

import pytest

from bench.document import PAGE
from bench.reach import GOALS, LIMIT, PRODUCT, verdicts
from bench.report import BEGIN, END, between, document, duration, number
from bench.run import Measures
from tests.trees import CHECKOUT

GONE: Measures = {"link created": {LIMIT: [1e-4, 1e-4, 3e-4], PRODUCT: [2e-4, 3e-4, 9e-4], "direvent": [2e-3]}}


def test_a_goal_is_met_or_not_by_what_was_measured() -> None:
    [verdict] = verdicts(GONE)
    assert verdict.goal.metric == "link gone, p50"
    assert verdict.value == pytest.approx(3.0)
    assert verdict.met
    assert not verdict.aim_met


def test_a_dear_one_is_not_met() -> None:
    [verdict] = verdicts({"link created": {LIMIT: [1e-4], PRODUCT: [5e-4]}})
    assert not verdict.met


def test_the_hog_is_compared_with_an_undisturbed_limit() -> None:
    hog = {LIMIT: [1.0], PRODUCT: [1e-3] * 98 + [2.4e-3] * 2, f"{PRODUCT}, SCHED_FIFO": [1.5e-4]}
    _, verdict = verdicts({**GONE, "link created, CPU hog": hog})
    assert verdict.value == pytest.approx(24.0)
    assert verdict.met
    assert verdict.aim_value == pytest.approx(1.5)
    assert verdict.aim_met


def test_no_wake_up_is_the_only_number_that_is_none() -> None:
    awake = {"idle wake-ups between ticks": {f"{PRODUCT}, 10 links": [1.0]}}
    asleep = {"idle wake-ups between ticks": {f"{PRODUCT}, 10 links": [0.0]}}
    assert [[v.met for v in verdicts(measures)] for measures in (awake, asleep)] == [[False], [True]]


def test_every_goal_has_its_row_whether_measured_or_not() -> None:
    goals = document(GONE, ["a machine"], "plot.svg").partition("## The goals")[2].partition("\n## ")[0]
    assert goals.count("\n| ") == len(GOALS) + 2
    assert goals.count("not measured") == len(GOALS) - 1


def test_the_document_shows_every_contender() -> None:
    text = document(GONE, ["a machine"], "plot.svg")
    assert "* a machine" in text
    assert "| link created | direvent | 2.00 ms | 2.00 ms to 2.00 ms | 2.00 ms | 2.00 ms | 20.0 | 1 |" in text
    assert f"| {PRODUCT} | 3.00 |" in text


def test_only_what_is_between_the_markers_is_replaced() -> None:
    page = f"# Kept\n{BEGIN}\nold\n{END}\nkept too\n"
    assert between(page, "new") == f"# Kept\n{BEGIN}\n\nnew\n\n{END}\nkept too\n"
    assert between(between(page, "new"), "new") == between(page, "new")


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END} {BEGIN}"])
def test_a_page_without_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="lacks"):
        between(page, "new")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.0, "2.00 s"), (0.0123, "12.3 ms"), (0.4567, "457 ms"), (1.234e-4, "123 µs"), (0.0, "0.00 µs")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_have_three_digits_that_mean_something() -> None:
    assert [number(n) for n in (0.0, 1.236, 12.36, 123.6, 12345.6)] == ["0.00", "1.24", "12.4", "124", "12,346"]


def test_the_page_can_be_written() -> None:
    assert "a machine" in between((CHECKOUT / PAGE).read_text(), document(GONE, ["a machine"], "plot.svg"))

"""Numbers out of samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import medians_of_parts, merge, percentile, slope, spread

SAMPLES = st.lists(st.floats(0, 1e6), min_size=1)


@given(SAMPLES, st.integers(1, 100))
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(samples: list[float], percent: int) -> None:
    found = percentile(samples, percent)
    assert found in samples
    assert sum(one <= found for one in samples) * 100 >= percent * len(samples)
    assert sum(one < found for one in samples) * 100 < percent * len(samples)


def test_percentiles_of_a_hundred() -> None:
    samples = [float(n) for n in range(1, 101)]
    assert [percentile(samples, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]


def test_no_samples_are_no_number() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == (1.0, 2.0, 3.0)


def test_parts_are_the_rounds_again() -> None:
    assert medians_of_parts([1.0, 3.0, 5.0, 5.0, 9.0, 9.0], 3) == [2.0, 5.0, 9.0]
    assert medians_of_parts([4.0], 3) == [4.0]


def test_rounds_are_joined_by_name() -> None:
    assert merge([{"C": [1.0], "product": [2.0]}, {"product": [3.0]}]) == {"C": [1.0], "product": [2.0, 3.0]}


@pytest.mark.parametrize(("exponent"), [0.0, 1.0, 2.0])
def test_the_slope_is_the_exponent(exponent: float) -> None:
    points = [(size, 5 * size**exponent) for size in (200.0, 2000.0, 20000.0)]
    assert slope(points) == pytest.approx(exponent)

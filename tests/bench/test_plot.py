"""The chart is a well-formed picture, and its bars are where their values are."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from bench.plot import LABELS, WIDTH, Bar, chart

SVG = "{http://www.w3.org/2000/svg}"
BARS = [
    Bar("C <the limit>", 0.1, 0.2, "100 µs"),
    Bar("product", 0.4, 30.0, "400 µs", own=True),
    Bar("slow", 900, 900, ""),
]


def test_each_bar_has_its_label_and_its_length() -> None:
    root = ElementTree.fromstring(chart("Title & all", BARS, "ms"))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"Title & all", "C <the limit>", "product", "slow", "400 µs"} <= set(texts)
    widths = [float(rect.get("width", "")) for rect in root.iter(f"{SVG}rect") if rect.get("class")]
    assert widths == sorted(widths)
    assert widths[0] > 0
    assert widths[-1] < WIDTH - LABELS


def test_the_scale_is_logarithmic() -> None:
    root = ElementTree.fromstring(chart("", [Bar(str(n), 10.0**n, 10.0**n, "") for n in range(4)], "ms"))
    ends = [float(rect.get("width", "")) for rect in root.iter(f"{SVG}rect") if rect.get("class")]
    steps = [after - before for before, after in pairwise(ends)]
    assert steps == [pytest.approx(steps[0], abs=0.2)] * 3


def test_only_ours_is_in_our_colour() -> None:
    root = ElementTree.fromstring(chart("", BARS, "ms"))
    assert [rect.get("class") for rect in root.iter(f"{SVG}rect")][1:] == ["bar", "bar own", "bar"]

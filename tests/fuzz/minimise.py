"""Few inputs that reach what many reach: libFuzzer's own merge starts the program anew in ways that Python is not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from tests.fuzz.corpus import LARGEST

Edge = tuple[str, int, int]
"""A file, and two of its lines of which one was run after the other."""


def minimised(target: Callable[[bytes], None], found: Iterable[bytes]) -> Iterator[bytes]:
    """The shortest inputs that together run every step from line to line that any of the short ones runs."""
    seen: set[Edge] = set()
    for data in sorted({each for each in found if len(each) <= LARGEST}, key=lambda each: (len(each), each)):
        edges = reached(target, data)
        if not edges <= seen:
            seen |= edges
            yield data


def reached(target: Callable[[bytes], None], data: bytes) -> set[Edge]:
    """The steps that an input takes through the product."""
    edges: set[Edge] = set()
    before = sys.gettrace()

    def step(frame: FrameType, event: str, _argument: object) -> Any:
        file = frame.f_code.co_filename
        if "/reconciler/" not in file:
            return None
        last = frame.f_lineno

        def line(inner: FrameType, _event: str, _value: object) -> Any:
            nonlocal last
            edges.add((file, last, inner.f_lineno))
            last = inner.f_lineno
            return line

        return line

    sys.settrace(step)
    try:
        target(data)
    finally:
        sys.settrace(before)
    return edges

"""A part of the loop over every system call; ``scripts/crash calls`` runs all of it."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from reconciler.quarantine import Quarantine
from reconciler.storage import chain, spare, store
from tests.crash import calls
from tests.crash.calls import Expected
from tests.crash.faults import ALL, CALLS
from tests.trees import CHECKOUT

SAMPLE = 12
"""Calls broken with each fault."""

LAYERS = ("host/files.py", "host/walk.py", "host/lock.py", "journal.py", "quarantine.py", "storage/*.py")
NO_FAULTS = {"geteuid", "getpid", "urandom"}
"""They cannot fail, or no file depends on them."""


@pytest.fixture(scope="module")
def expected() -> Iterator[Expected]:
    """The tree to break, and what one sound pass makes of it."""
    with tempfile.TemporaryDirectory(dir=calls.in_memory()) as top:
        yield calls.expect(Path(top))


@pytest.mark.parametrize("how", ALL)
def test_whatever_call_is_broken_nothing_is_lost_and_the_next_pass_converges(how: str, expected: Expected) -> None:
    chosen = [(how, at) for at in calls.sample(expected.calls, how, SAMPLE)]
    with tempfile.TemporaryDirectory(dir=calls.in_memory()) as top:
        found = [(at, why) for _, at, why in calls.sweep(Path(top), expected, chosen) if why]
    assert found == []


def _unsafe_append(fd: int, data: bytes, size: int) -> None:
    os.write(fd, data)


def _no_keep(self: Quarantine, pass_id: str, items: object) -> dict[str, str]:
    """Forgets what is to be kept."""
    return {}


def _all_of_them(lines: Sequence[bytes], last: str) -> Sequence[bytes]:
    """Brings home what is at home already."""
    return lines


def _remove_first(root: store.Folders, name: str) -> list[bytes]:
    """Takes away what is to be brought home."""
    found = _LINES(root, name)
    if found and sys._getframe(1).f_code.co_name == "_come_home":
        spare.remove(root, name)
    return found


_LINES = spare.lines
MUTANTS: dict[str, tuple[object, str, Callable[..., object], str]] = {
    "nothing kept": (Quarantine, "keep", _no_keep, "killed after"),
    "nothing synced": (store, "append", _unsafe_append, "power cut"),
    "brought home twice": (chain, "following", _all_of_them, "killed before"),
    "gone before it is home": (spare, "lines", _remove_first, "killed before"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_promise_is_noticed(name: str, expected: Expected, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks are worth something: a product that does not keep or does not sync is found out."""
    where, what, mutant, how = MUTANTS[name]
    monkeypatch.setattr(where, what, mutant)
    # Bringing home is a matter of a few calls, early in a start; what a pass does is most of all calls.
    ways = range(1, expected.calls, 2) if "home" in name else range(expected.calls * 9 // 10, 0, -expected.calls // 40)
    chosen = ((how, at) for at in ways)
    with tempfile.TemporaryDirectory(dir=calls.in_memory()) as top:
        assert any(why for _, _, why in calls.sweep(Path(top), expected, chosen))


def test_no_call_is_forgotten() -> None:
    used: set[str] = set()
    for pattern in LAYERS:
        for path in (CHECKOUT / "reconciler").glob(pattern):
            used |= set(re.findall(r"\bos\.([a-z_]+)\(", path.read_text()))
    assert used - NO_FAULTS <= set(CALLS)
    assert len(used) > 20

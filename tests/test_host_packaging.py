"""How long dpkg is waited for."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.host import packaging
from reconciler.host.files import Root


def test_a_dpkg_that_never_ends_is_waited_for_only_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment, busy = [0.0], [""]
    monkeypatch.setattr(packaging, "at_work", lambda root: busy[0])
    monkeypatch.setattr("time.monotonic", lambda: 100.0 + moment[0])
    patience = packaging.Patience(Root(str(tmp_path)))
    assert patience(10) == ""
    busy[0] = "dpkg is at work"
    assert patience(10) == "dpkg is at work"
    moment[0] = 9.0
    assert patience(10) == "dpkg is at work"
    moment[0] = 10.0
    assert patience(10) == ""
    assert patience(20) == "dpkg is at work", "the state was changed meanwhile"
    busy[0] = ""
    assert patience(10) == ""
    busy[0] = "another dpkg is at work"
    assert patience(10) == "another dpkg is at work"


def test_each_dpkg_is_waited_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks between two passes: that one dpkg ended and another began meanwhile shows by its process."""
    moment, busy = [0.0], ["dpkg (process 7) is at work"]
    monkeypatch.setattr(packaging, "at_work", lambda root: busy[0])
    monkeypatch.setattr("time.monotonic", lambda: 100.0 + moment[0])
    patience = packaging.Patience(Root(str(tmp_path)))
    assert patience(10)
    moment[0], busy[0] = 300.0, "dpkg (process 8) is at work"
    assert patience(10) == "dpkg (process 8) is at work"
    moment[0] = 310.0
    assert patience(10) == ""


def test_nobody_holds_the_lock_of_a_tree_without_dpkg(tmp_path: Path) -> None:
    assert packaging.at_work(Root(str(tmp_path))) == ""

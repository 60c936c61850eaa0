"""A pass's folder in the quarantine: whole or not there, made ahead or not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import JournalError
from reconciler.host.files import Root
from reconciler.quarantine import Quarantine
from reconciler.storage import store
from reconciler.storage.kept import Kept
from tests.test_quarantine import LINK, OLD, UNLINK, WRITE


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(str(tmp_path))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / store.HOME[1:] / "quarantine"


@pytest.mark.parametrize("ahead", [False, True])
def test_two_passes_of_one_name_are_both_kept(root: Root, home: Path, ahead: bool) -> None:
    """A name is a second and four hex digits: it may come twice."""
    Quarantine(root).keep("p1", [("p1.1", WRITE, OLD)])
    second = Quarantine(root)
    second.ahead = ahead
    second.prepare()
    second.keep("p1", [("p1.2", WRITE, OLD)])
    assert [each.id for each in Quarantine(root).of_pass("p1")] == ["p1.1", "p1.2"]
    assert Quarantine(root).find("p1.2") == Kept("p1.2", WRITE, OLD)
    assert os.listdir(home) == ["p1"]


def test_what_is_made_ahead_is_used_and_the_next_is_made_then(
    root: Root, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Quarantine(root)
    one.ahead = True
    one.prepare()
    calls: list[str] = []
    for name in ("mkdir", "write", "fdatasync", "rename", "fsync"):
        really = getattr(os, name)

        def call(*args: Any, really: Any = really, name: str = name, **more: Any) -> Any:
            calls.append(name)
            return really(*args, **more)

        monkeypatch.setattr(os, name, call)
    one.keep("p1", [("p1.1", UNLINK, LINK)])
    assert calls == ["write", "fdatasync", "rename", "fsync"]
    one.prepare()
    one.keep("p2", [("p2.1", UNLINK, LINK)])
    assert sorted(os.listdir(home)) == ["p1", "p2"]
    assert one.find("p2.1") == Kept("p2.1", UNLINK, LINK)


def test_nothing_that_was_made_ahead_is_left(root: Root, home: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    one = Quarantine(root)
    one.ahead = True
    one.prepare()
    one.keep("p1", [("p1.1", UNLINK, LINK)])
    one.prepare()
    assert len(os.listdir(home)) == 2
    one.withdraw()
    assert os.listdir(home) == ["p1"]
    root.release()
    assert len(os.listdir("/proc/self/fd")) == before
    assert one.usage().passes == 1


def test_what_was_made_ahead_and_is_gone_is_made_again(root: Root, home: Path) -> None:
    """A daemon that starts elsewhere takes away what it finds of a killed one."""
    one = Quarantine(root)
    one.ahead = True
    one.prepare()
    Quarantine(root).recover()
    assert os.listdir(home) == []
    one.keep("p1", [("p1.1", UNLINK, LINK)])
    one.prepare()
    shutil.rmtree(home)
    one.keep("p2", [("p2.1", UNLINK, LINK)])
    assert os.listdir(home) == ["p2"]
    assert one.find("p2.1").state == LINK


def test_a_pass_that_cannot_be_kept_leaves_nothing(root: Root, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(JournalError, match="Operation not permitted"):
        Quarantine(root).keep("p1", [("p1.1", WRITE, OLD)])
    assert os.listdir(home) == []


def test_what_was_made_ahead_and_is_gone_costs_no_descriptor(root: Root, home: Path) -> None:
    one = Quarantine(root)
    one.ahead = True
    for number in range(3):
        one.prepare()
        shutil.rmtree(next(home.glob(f"{store.TEMPORARY}*")))
        one.keep(f"p{number}", [(f"p{number}.1", UNLINK, LINK)])
    one.withdraw()
    root.release()
    held = [link for fd in Path("/proc/self/fd").iterdir() if str(home) in (link := _target(fd))]
    assert held == []


def _target(fd: Path) -> str:
    try:
        return os.readlink(fd)
    except FileNotFoundError:  # the one that the folder itself was listed by
        return ""

"""Every effect with each of its system calls failing in turn, and with a kill at each."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import ActionFailed, Stale, Unobservable
from reconciler.host.files import TEMPORARY, Root
from reconciler.model import Link, LinkState, WriteFile
from tests.host_trees import NEW, UNLINK, fill, listing, undo_of

# --- every system call of every effect fails in turn ------------------------------------------------------

CALLS = "open lstat fstat readlink symlink link rename unlink chown fchown fchmod utime write read fsync close"


class Killed(BaseException):
    """SIGKILL: nothing more of ours is carried out."""


class Faults:
    """Counts the calls of an effect and breaks the one asked for: an error of the system, or the end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int = 0, number: int = 0) -> None:
        self.count, self.at, self.number, self.names = 0, at, number, list[str]()
        self.before: dict[str, tuple[Any, ...]] = {}
        for name in CALLS.split():
            monkeypatch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            self.count += 1
            self.names.append(name)
            if self.number and self.count == self.at:
                if name == "close":
                    really(*args)  # close(2): the descriptor is gone whatever the error
                raise OSError(self.number, os.strerror(self.number))
            if not self.number and 0 < self.at <= self.count:
                raise Killed
            return really(*args, **more)

        return call


def effect(kind: str, root: Root) -> Callable[[], None]:
    """An effect on the prepared tree, ready to be done."""
    if kind == "unlink":
        return lambda: root.unlink(UNLINK)
    if kind == "link":
        undo = undo_of(root)
        root.unlink(UNLINK)
        return lambda: root.link(undo)
    write = WriteFile("/etc/network/interfaces", NEW, root.entry("/etc/network/interfaces"))
    return lambda: root.write(write)


def outcome_of(kind: str, tree: Path, at: int = 0, number: int = 0) -> tuple[Faults, BaseException | None]:
    root = Root(str(tree))
    act = effect(kind, root)
    root.release()
    before = listing(tree)
    error: BaseException | None = None
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, at, number)
        try:
            act()
        except (Killed, ActionFailed, Stale, Unobservable) as raised:
            error = raised
    faults.before = before
    root.release()
    root.close()
    return faults, error


def steps_of(kind: str, make: Callable[[], Path]) -> tuple[int, dict[str, tuple[Any, ...]]]:
    top = make()
    faults, error = outcome_of(kind, top)
    assert error is None
    return faults.count, listing(top)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], Path]:
    numbers = iter(range(1000))

    def new() -> Path:
        return fill(tmp_path / str(next(numbers)))

    return new


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EPERM, errno.EINTR])
@pytest.mark.parametrize("kind", ["unlink", "link", "write"])
def test_any_failing_call_leaves_old_or_new(kind: str, number: int, make: Callable[[], Path]) -> None:
    calls, new = steps_of(kind, make)
    assert calls > 5
    for at in range(1, calls + 1):
        top = make()
        faults, error = outcome_of(kind, top, at, number)
        there, where = listing(top), f"call {at}, {faults.names[at - 1]}"
        assert not [name for name in there if TEMPORARY in name], where
        if error is None:
            assert there == new, where
        else:
            assert isinstance(error, ActionFailed | Unobservable), where
            assert there == faults.before, where


@pytest.mark.parametrize("kind", ["unlink", "link", "write"])
def test_a_kill_at_any_call_loses_nothing_and_the_next_run_ends_it(kind: str, make: Callable[[], Path]) -> None:
    calls, new = steps_of(kind, make)
    for at in range(1, calls + 1):
        top = make()
        faults, _ = outcome_of(kind, top, at)
        names = set(os.listdir(top / "etc/rc2.d"))
        where = f"killed in call {at}, {faults.names[at - 1]}"
        assert names & {"S20exim4", "K80exim4"}, where
        assert {os.readlink(top / "etc/rc2.d" / name) for name in names} == {"../init.d/exim4"}, where
        state = (top / "etc/network/interfaces").read_bytes()
        assert state in (b"old", NEW.content), where
        root = Root(str(top))
        swept = root.sweep("/etc/network")
        assert len(swept) <= 1
        if kind == "write":
            assert swept or listing(top) in (faults.before, new), where
        again(kind, root)
        assert set(listing(top)) == set(new), where
        root.close()


def again(kind: str, root: Root) -> None:
    """What the next pass would do: act on what it sees."""
    if kind == "unlink" and root.entry(UNLINK.path):
        root.unlink(UNLINK)
    elif kind == "link":
        root.link(Link(UNLINK.path, LinkState(UNLINK.target, os.geteuid(), os.getegid(), 5), UNLINK.leave))
    elif kind == "write":
        root.write(WriteFile("/etc/network/interfaces", NEW, root.entry("/etc/network/interfaces")))

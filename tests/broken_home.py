"""A disk that fails below /var/lib/dom0-reconciler alone, within this process, and kills that it outlives."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.storage import store
from tests.crash.faults import CALLS, refusal


class Killed(BaseException):
    """The process is dead: whatever it calls from now on is not done either."""


@dataclass
class Trouble:
    """``how`` home fails (``tests.crash.faults.AT_HOME``, "" not at all) after so many calls, or a kill comes then."""

    home: str
    how: str = ""
    after: int = 0
    kill: bool = False
    made: list[str] = field(default_factory=list)

    def heal(self) -> None:
        """All is well from now on."""
        self.how, self.kill = "", False

    def set(self, how: str, after: int = 0) -> None:
        """From that call on, home fails, or the process is dead (``how`` is "kill")."""
        self.how, self.kill, self.after = ("" if how == "kill" else how), how == "kill", after
        self.made.clear()

    def wrap(self, name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        """The call, as this trouble has it answered."""

        def call(*args: Any, **more: Any) -> Any:
            self.made.append(name)
            due = len(self.made) > self.after
            if due and self.kill and name != "close":
                raise Killed
            error = refusal(self.how, self.home, name, args, more) if due and self.how else None
            if error is not None:
                raise error
            return really(*args, **more)

        return call


@contextmanager
def trouble(root: Path, how: str = "") -> Iterator[Trouble]:
    """Home below that root fails until ``heal`` is called, or the block ends."""
    one = Trouble(os.path.join(os.path.realpath(root), store.HOME[1:]), how)
    real = {name: getattr(os, name) for name in CALLS}
    try:
        for name, really in real.items():
            setattr(os, name, one.wrap(name, really))
        yield one
    finally:
        for name, really in real.items():
            setattr(os, name, really)

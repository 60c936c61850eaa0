"""``apply`` waits for the stops it began, however they end."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import pytest

from reconciler.attempts import Attempt
from reconciler.commands import apply
from reconciler.converge import Converger
from reconciler.errors import ActionFailed
from reconciler.host.files import Root
from reconciler.log import for_command
from reconciler.model import Outcome, Ref, Step, StopService, Unlink
from reconciler.session import Session
from tests.odd_roots import call
from tests.trees import Tree


class Stubborn:
    """A stop that ends only some time after it was killed, as ``ScriptHandle`` does: no deadline is left by then."""

    def __init__(self) -> None:
        self.fd, self._end = os.pipe()
        self.deadline = time.monotonic()
        self.pressed = 0

    def expire(self) -> None:
        self.pressed += 1
        if self.pressed == 1:
            self.deadline = time.monotonic() + 0.05
            return
        self.deadline = math.inf
        threading.Timer(0.1, os.close, [self._end]).start()

    def finish(self) -> Outcome:
        os.close(self.fd)
        return Outcome("failed", "not over after 60 s, ended by KILL")


def test_a_script_that_has_to_be_killed_is_waited_for(tmp_path: Path) -> None:
    session = Session(str(Tree(tmp_path).path), None)
    converger = Converger(session.observer(), session.tools(for_command(live=False)))
    step = Step(StopService("hang", "hang"), "hang", (Ref("rclinks", "rc2.d/S01hang"),))
    converger.in_flight["hang"] = (Stubborn(), Attempt("p.1", "p", "a test", step, Outcome("pending")))
    [ended] = apply._wait(converger).values()
    assert ended.outcome == Outcome("failed", "not over after 60 s, ended by KILL")
    assert not converger.in_flight


def test_what_was_tried_in_vain_is_shown_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = Tree(tmp_path)
    for link in ("rc2.d/S20canna", "rc3.d/S20canna"):
        tree.link(link)
    really = Root.unlink

    def refused(root: Root, action: Unlink) -> None:
        if "rc3.d" in action.path:
            raise ActionFailed("Operation not permitted")
        really(root, action)

    monkeypatch.setattr(Root, "unlink", refused)
    lines = call("--root", str(tree.path), "apply").out.splitlines()
    assert [line for line in lines if "unlink" in line] == [
        "done       unlink /etc/rc2.d/S20canna",
        "failed     unlink /etc/rc3.d/S20canna  (it is still there; Operation not permitted)",
    ]
    assert lines[-1] == "not converged: 1 to do"

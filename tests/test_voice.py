"""The daemon's voice towards the service manager."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reconciler import voice
from reconciler.daemon import Daemon, Status
from reconciler.host.files import Root
from reconciler.log import for_daemon
from reconciler.model import Wake
from reconciler.moment import Moment, Span
from reconciler.overrides import Order, Overrides
from reconciler.shapes import last_pass_shape, status_shape


def test_a_manager_that_has_gone_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``start-stop-daemon --notify-await`` removes its socket as soon as it was told READY=1."""
    told: list[str] = []

    def notify(message: str) -> None:
        told.append(message)
        if message != "READY=1":
            raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(voice, "_notifier", lambda: notify)
    speaker = voice.RealVoice(Root(str(tmp_path)), for_daemon(live=False))
    speaker.notify("READY=1")
    speaker.notify("STATUS=nobody listens")
    assert told == ["READY=1", "STATUS=nobody listens"]


def test_a_status_in_which_nothing_is_new_tells_of_its_last_pass(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    speaker = voice.RealVoice(root, for_daemon(live=False))
    status = Status("enforce", "inotify", 1.0)
    told = []
    orders = Overrides(pauses=(Order("root", "why", Span(Moment(), 60.0)),))
    passed = {"last_pass": 2.0, "last_pass_id": "p2"}
    for change in ({}, passed, {"corrections": 3}, {"overrides": orders}, {"fault": "f"}):
        for name, value in change.items():
            setattr(status, name, value)
        speaker.publish(status)
        told.append(json.loads((tmp_path / "run/dom0-reconciler/status.json").read_bytes()))
    assert [each["last_pass"]["id"] for each in told] == ["", "p2", "p2", "p2", "p2"]
    assert [each["corrections"] for each in told] == [0, 0, 3, 3, 3]
    assert [len(each["pauses"]) for each in told] == [0, 0, 0, 1, 1]
    assert [each["fault"] for each in told] == [None, None, None, None, "f"]
    assert all(each.keys() == told[0].keys() for each in told)


def test_a_host_in_trouble_is_no_hung_daemon() -> None:
    """A full disk makes each pass fail; the service manager is told all the same that somebody is at work."""
    told: list[str] = []

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    here, there = os.pipe()
    source: Any = SimpleNamespace(fd=here, name="inotify")
    desired = SimpleNamespace(mode="enforce", interval=300.0)
    converger: Any = SimpleNamespace(observer=SimpleNamespace(desired=desired), run=fail, restraints=fail, in_flight={})
    speaker = SimpleNamespace(notify=told.append, publish=lambda _: None, say=lambda *_: None)
    seams: Any = SimpleNamespace(watcher=source, state_watcher=source, voice=speaker, rearm=lambda _: None)
    daemon = Daemon(converger, seams, cast(Any, source))
    daemon._pass(Wake("the daemon started"))
    os.close(here)
    os.close(there)
    fault = "nothing was corrected: [Errno 28] No space left on device"
    assert told == [f"WATCHDOG=1\nSTATUS=enforce: {fault}"]
    shape = status_shape(daemon.status)
    assert (shape["fault"], shape["converged"]) == (fault, False)
    assert last_pass_shape(daemon.status) == {"id": "", "time": ""}

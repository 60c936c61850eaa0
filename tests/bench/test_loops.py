"""The bare loop that keeps the promises does what it is the floor of: it stops what it took the links of."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from bench.peers import Loop
from bench.run import guarded
from bench.stage import Stage
from bench.tree import STARTED, Shape
from bench.workloads import storms
from bench.workloads.reaction import stop_started

PATIENCE = 20.0


@pytest.mark.host
def test_each_stop_has_an_intent_before_it_and_an_outcome_after_it(tmp_path: Path) -> None:
    loop = Loop("with_promises", "the loop", tmp_path, None)
    with guarded(Stage(tmp_path), loop.start_live, Shape(links=20, strangers=40)) as one:
        assert stop_started(one.tree) > 0
        storms.strike(one.tree, 40, stops=True)
        assert {path.name for path in (one.tree.path / STARTED).iterdir()} == {f"bad{n:05}" for n in range(40)}
        deadline = time.monotonic() + PATIENCE
        while (records := _stops(one.tree.path))["intent"] != records["outcome"] and time.monotonic() < deadline:
            time.sleep(0.05)
    assert records["intent"] == records["outcome"]
    assert {service for _, service in records["intent"]} >= {f"bad{n:05}" for n in range(40)}


def _stops(root: Path) -> dict[str, set[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {"intent": set(), "outcome": set()}
    for line in (root / "var/lib/dom0-reconciler/journal.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["action"] == "stop-service":
            found[record["record"]].add((record["id"], record["service"]))
    return found

"""A daemon on a real host, killed at a random moment while the host's own tools bring back what it takes away.

Two kinds of moments: while it corrects what comes back, and while it starts and mends what the last kill left. After
each kill the chain of its records is followed and the quarantine looked through; at each start that is let live, the
host must become as declared, every intent must have its outcome, and nothing may be there twice or half.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from reconciler.storage import chain
from tests.hosts import product, states
from tests.hosts.commands import Job
from tests.hosts.host import INTERFACES, STATIC
from tests.hosts.scenario import Scene

PATIENCE = 120.0
"""Seconds for a start, and for the host to become as declared: the machine may be busy with others."""

EARLY = 0.3
"""The share of kills that come while the daemon starts."""

HOME = "/var/lib/dom0-reconciler"
HEAD = f"{HOME}/journal.head"
BACK = ("canna", "lpd", "atd", "exim4")
"""What comes back, with links, units, processes and sockets."""

_GO = "/run/load"
_LOAD = f"""\
cd /
while :; do
    [ -e {_GO} ] || {{ sleep 0.02; continue; }}
    case $(( $(date +%N | sed 's/^0*//') / 1000 % 7 )) in
        0) update-rc.d canna enable ;;
        1) update-rc.d lpd enable; service lpd start ;;
        2) ln -sf ../init.d/atd /etc/rc2.d/S20atd; ln -sf ../init.d/exim4 /etc/rc3.d/S20exim4 ;;
        3) update-inetd --enable ident,daytime,discard ;;
        4) echo "# $(date)" >>{INTERFACES} ;;
        5) rm -f /etc/rc?.d/[SK]??canna; update-rc.d canna defaults; service canna start ;;
        6) [ -d /run/systemd/system ] && systemctl enable --now atd.service || service atd start ;;
    esac
done >/dev/null 2>&1
"""


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass
class Tally:
    """What was seen."""

    kills: int = 0
    early: int = 0
    lives: int = 0
    """Starts that were let live until the host was as declared."""
    records: int = 0
    corrected: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    """Intents that a kill left without an outcome, each explained at a later start."""
    torn: int = 0
    slowest: float = 0.0
    """Seconds from a start to a host that is as declared."""

    def __str__(self) -> str:
        actions = ", ".join(f"{count} {action}" for action, count in sorted(self.corrected.items()))
        return (
            f"{self.kills} kills ({self.early} of them at a start), {self.lives} convergences, the slowest after "
            f"{self.slowest:.1f} s; {self.records} records, chain whole after each kill; done: {actions}; "
            f"{self.unfinished} intents cut off and explained, {self.torn} torn ends mended"
        )


class Killing:
    """One host, killed again and again."""

    def __init__(self, scene: Scene, seed: int) -> None:
        self.scene, self.host, self.tally = scene, scene.host, Tally()
        self._random = random.Random(seed)
        self._kept: set[str] = set()
        self._load: Job | None = None

    def prepare(self) -> None:
        """The product in, the state declared, the load waiting for its go."""
        host = self.host
        host.use_static_address()
        host.put("/etc/dom0-reconciler/interfaces", STATIC)
        self.scene.install(states.state(extra='[network]\ninterfaces = "interfaces"\n'))
        host.put("/run/load.sh", _LOAD, 0o755)
        self._load = host.spawn("exec sh /run/load.sh")

    def round(self) -> None:
        """A start, peace, a load, a kill; or a kill at the start."""
        with suppress(FileNotFoundError):  # what is contested waits for an hour: that is another test's
            self.host.run(["rm", "-f", f"{HOME}/memory.json"])
        began, daemon = time.monotonic(), self._start()
        if self._random.random() < EARLY:
            time.sleep(self._random.uniform(0.0, 1.0))
            self.tally.early += 1
        else:
            self._wait_converged(daemon)
            self.tally.lives += 1
            self.tally.slowest = max(self.tally.slowest, time.monotonic() - began)
            self._check_records()
            self.host.put(_GO, "")
            time.sleep(self._random.uniform(0.0, 1.0))
        self._kill(daemon)
        self.host.run(["rm", "-f", _GO])
        self._check_chain()

    def end(self) -> None:
        """One more life, so that all is explained and as declared at the last."""
        daemon = self._start()
        self._wait_converged(daemon)
        self._check_records()
        self._kill(daemon)
        self._check_chain()
        traces = [trace for name in BACK for trace in self.scene.traces(name)]
        _must(not traces, f"these are there still: {traces}")
        _must(self.host.read(INTERFACES) == STATIC, "the interfaces file is not the canonical one")
        plan = self.scene.plan()
        _must(plan["converged"], f"a fresh look disagrees: {json.dumps(plan)[:2000]}")

    def _start(self) -> Job:
        self.host.run(["rm", "-f", "/run/guard.pid"])
        return self.host.spawn(f"echo $$ >/run/guard.pid; exec {product.COMMAND} run")

    def _kill(self, job: Job) -> None:
        """SIGKILL to the daemon itself; it must have been alive."""
        said = job.so_far
        _must(said.rc == -1, f"the daemon ended by itself with {said.rc}: {said.err[-2000:]}")
        for pid in _children(job.pid) or [job.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait()
        self.tally.kills += 1

    def _wait_converged(self, job: Job) -> None:
        deadline = time.monotonic() + PATIENCE
        while not self._is_converged():
            said = job.so_far
            _must(said.rc == -1, f"the daemon ended by itself with {said.rc}: {said.err[-2000:]}")
            _must(time.monotonic() < deadline, f"not converged: {self._status()}\n{said.err[-2000:]}")
            time.sleep(0.02)

    def _is_converged(self) -> bool:
        status = self._status()
        ours = self.host.exists("/run/guard.pid") and str(status.get("pid")) == self.host.read("/run/guard.pid").strip()
        return ours and bool(status["converged"]) and not status["in_flight"] and not self._traces()

    def _status(self) -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads(self.host.read("/run/dom0-reconciler/status.json"))
        except FileNotFoundError:
            return {}
        return found

    def _traces(self) -> bool:
        return any(self.scene.traces(name) for name in BACK)

    # --- what must be true

    def _files(self) -> Iterator[tuple[str, bytes]]:
        """The journal's files, the oldest first."""
        names = self.host.files.names(HOME) if self.host.exists(HOME) else []
        numbered = sorted(
            (n for n in names if n.startswith("journal.jsonl.")), key=lambda n: -int(n.rpartition(".")[2])
        )
        for name in (*numbered, "journal.jsonl"):
            if name in names:
                yield name, self.host.files.read(f"{HOME}/{name}")

    def _check_chain(self) -> None:
        head = chain.head_of(self.host.files.read(HEAD)) if self.host.exists(HEAD) else None
        found = chain.verify([(name, BytesIO(text)) for name, text in self._files()], head, lossy=False)
        _must(found.ok, f"the chain is broken after kill {self.tally.kills}: {found}")
        self.tally.records = found.records

    def _records(self) -> Iterator[dict[str, str]]:
        for _, text in self._files():
            yield from (json.loads(line) for line in text.splitlines() if line.endswith(b"}"))

    def _check_records(self) -> None:
        """All is explained, nothing was done without an intent, what was taken away is kept."""
        deadline = time.monotonic() + PATIENCE
        while True:
            records = list(self._records())
            intents = {r["id"] for r in records if r["record"] == "intent"}
            outcomes = {r["id"]: r for r in records if r["record"] == "outcome"}
            if intents == outcomes.keys() or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        _must(intents == outcomes.keys(), f"intents and outcomes differ: {intents ^ outcomes.keys()}")
        self.tally.corrected = Counter(r["action"] for r in outcomes.values() if r["outcome"] == "done")
        self.tally.unfinished = sum("was killed" in r["detail"] for r in outcomes.values())
        self.tally.torn = sum(r["record"] == "torn" for r in records)
        for one in outcomes.values():
            changed = one["outcome"] == "done" and one["action"] in ("unlink", "write-file")
            if changed and one["id"] not in self._kept:
                self._check_kept(one["id"])

    def _check_kept(self, action_id: str) -> None:
        manifest = f"{HOME}/quarantine/{action_id.rpartition('.')[0]}/manifest.jsonl"
        _must(self.host.exists(manifest), f"nothing is kept of {action_id}")
        ids = {json.loads(line)["id"] for line in self.host.read(manifest).splitlines() if line.endswith("}")}
        _must(action_id in ids, f"{action_id} is not kept")
        self._kept |= ids


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _must(true: object, why: str) -> None:
    if not true:
        raise Broken(why)

"""The throw-away host and the product on it, as the tour uses them. What is shown is looked up here independently."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from demo_parts.furnish import DAEMONS

PATIENCE = 10.0
_TCP_LISTENS, _UNIX_ACCEPTS = "0A", "00010000"
_PORT_FIELD, _STATE_FIELD, _UNIX_FIELDS = 1, 3, 8

Record = dict[str, Any]


class Host:
    """A root, live or a bare tree."""

    def __init__(self, root: Path, *, live: bool) -> None:
        self.root, self.live = root, live
        self.said = root / "daemon.out"  # shown when something goes wrong

    # --- the product ---

    def argv(self, *arguments: str) -> list[str]:
        """How the product is called here."""
        where = [] if self.live else ["--root", str(self.root)]
        return [sys.executable, "-m", "reconciler", *where, *arguments]

    def settled(self) -> bool:
        """Nothing is left to do, nor under way, as the daemon itself says."""
        status: Record = json.loads(self.product("--json", "status"))
        return bool(status["converged"]) and not status.get("in_flight") and not self.unfinished()

    def unfinished(self) -> set[str]:
        """Actions that were begun and not concluded."""
        records = self.records()
        ended = {record["id"] for record in records if record["record"] == "outcome"}
        return {record["id"] for record in records if record["record"] == "intent"} - ended

    def product(self, *arguments: str) -> str:
        """What one command prints."""
        result = subprocess.run(self.argv(*arguments), capture_output=True, text=True, check=False)
        return result.stdout + result.stderr

    @contextmanager
    def daemon(self) -> Iterator[float]:
        """The daemon while the block lasts; gives the moment it was started."""
        started = time.time()
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *self.argv("run")]
        with self.said.open("wb") as said, subprocess.Popen(argv, stdout=said, stderr=said) as process:
            try:
                yield started
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)

    def records(self) -> list[Record]:
        """The journal of corrective actions."""
        file = self.root / "var/lib/dom0-reconciler/journal.jsonl"
        text = file.read_text() if file.exists() else ""
        whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [{**record, "time": datetime.fromisoformat(record["time"]).timestamp()} for record in whole]

    def outcomes(self, since: float) -> list[Record]:
        """How each action ended that was concluded after a moment."""
        return [r for r in self.records() if r["record"] == "outcome" and r["time"] >= since]

    def targets(self, since: float) -> set[str]:
        """What the actions since a moment acted on."""
        return {record["target"] for record in self.outcomes(since)}

    # --- the host ---

    def start(self, script: str) -> None:
        """Run an init script, as init or a package would."""
        if self.live:
            subprocess.run([str(self.root / "etc/init.d" / script), "start"], check=True)

    def boot(self) -> None:
        """Start what rc2.d starts, and the DHCP client that ifup would."""
        for script in DAEMONS:
            self.start(script)
        if self.live and Path("/sys/class/net/eth0").exists() and "dhclient" not in self.running():
            subprocess.run(["/usr/local/sbin/dhclient", "eth0"], check=True)

    def running(self) -> list[str]:
        """The daemons that run, by name."""
        found = {_name(entry) for entry in os.listdir("/proc") if entry.isdigit()} if self.live else set()
        return [daemon for daemon in (*DAEMONS.values(), "dhclient") if daemon in found]

    def listening(self) -> list[str]:
        """Where somebody listens, as the kernel says."""
        if not self.live:
            return []
        tcp = {f"tcp {port}" for port, state in _ports("tcp") if state == _TCP_LISTENS}
        udp = {f"udp {port}" for port, _ in _ports("udp")}
        return [*sorted(tcp, key=_by_number), *sorted(udp, key=_by_number), *sorted(_unix())]

    def wait(self, until: Callable[[], object]) -> None:
        """Wait until something is so; it always is within a second or the demonstration is broken."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            if time.monotonic() > deadline:
                said = self.said.read_text() if self.said.exists() else ""
                raise SystemExit(f"demo: nothing happened for {PATIENCE:.0f} s\n{self.product('status')}{said}")
            time.sleep(0.005)


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _ports(protocol: str) -> Iterator[tuple[int, str]]:
    for line in Path(f"/proc/net/{protocol}").read_text().splitlines()[1:]:
        words = line.split()
        yield int(words[_PORT_FIELD].rpartition(":")[2], 16), words[_STATE_FIELD]


def _unix() -> Iterator[str]:
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        named = len(words) == _UNIX_FIELDS and words[-1].startswith("/")
        if named and (words[_STATE_FIELD] == _UNIX_ACCEPTS or words[-1] == "/dev/log"):
            yield f"unix {words[-1]}"


def _by_number(text: str) -> int:
    return int(text.partition(" ")[2])

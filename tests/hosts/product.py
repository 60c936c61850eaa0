"""The product in a host: put there, started and stopped as the host's init would do it, its records read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tests.hosts.commands import CommandError, Result
from tests.hosts.recipes import Init

DEB_VARIABLE = "DOM0_RECONCILER_DEB"
SOURCE = Path(__file__).parents[2] / "reconciler"
PACKAGE = "/usr/lib/python3/dist-packages/reconciler"
COMMAND = "/usr/sbin/dom0-reconciler"
STATE = "/etc/dom0-reconciler/state.toml"
JOURNAL = "/var/lib/dom0-reconciler/journal.jsonl"
OUTPUT = "/var/log/dom0-reconciler.out"
PID_FILE = "/run/dom0-reconciler.harness.pid"
NAME = "dom0-reconciler"

# Seconds that a stop may take by right. atd and rpc.statd lose a TERM that reaches them while they start; systemd kills
# what has not stopped after 90 s (DefaultTimeoutStopSec), twice where one service has to wait for another's end.
PATIENCE = 200

_LAUNCHER = '#!/bin/sh\nexec /usr/bin/python3 -m reconciler "$@"\n'
_NOT_RUNNING = 3  # what `status` exits with


class Place(Protocol):
    """What of a host the product's coming and going needs: one in namespaces has it, and a virtual machine."""

    @property
    def init(self) -> Init: ...
    def run(self, command: str | Sequence[str], *, check: bool = True, timeout: float = 60) -> Result: ...
    def put(self, path: str, content: str | bytes, mode: int = 0o644) -> None: ...
    def read(self, path: str) -> str: ...
    def exists(self, path: str) -> bool: ...
    def wait_for(self, predicate: Callable[[], bool], timeout: float = 10, why: str = "") -> bool: ...


def install(host: Place, source: Path = SOURCE) -> None:
    """From the package where the variable names one, else straight from the checkout."""
    if deb := os.environ.get(DEB_VARIABLE):
        host.put("/var/tmp/dom0-reconciler.deb", Path(deb).read_bytes())
        host.run("dpkg -i /var/tmp/dom0-reconciler.deb", timeout=120)
        return
    for file in sorted(source.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            host.put(f"{PACKAGE}/{file.relative_to(source)}", file.read_bytes())
    host.put(COMMAND, _LAUNCHER, 0o755)


def start(host: Place, timeout: float) -> None:
    """Returns once the daemon says it is up: to systemd by notification, else by its own `status`."""
    if host.init == "systemd":
        host.run(_by_systemd(host), timeout=timeout)
    else:
        host.run(_by_sysvinit(host))
        why = f"{COMMAND} status still says that nothing runs"
        host.wait_for(lambda: status_code(host) not in (_NOT_RUNNING, None), timeout, why)


def stop(host: Place, timeout: float) -> None:
    """SIGTERM, and its end."""
    if host.init == "systemd":
        host.run(["systemctl", "stop", f"{NAME}.service"], timeout=timeout)
    elif host.exists(f"/etc/init.d/{NAME}"):
        host.run(["service", NAME, "stop"], timeout=timeout)
    else:
        how = f"--oknodo --retry TERM/{timeout:.0f} --pidfile {PID_FILE} --remove-pidfile"
        host.run(["start-stop-daemon", "--stop", *how.split()], timeout=timeout + 5)


def ask(host: Place, command: str, *expected: int, timeout: float = 180) -> dict[str, Any]:
    """What a command answers in JSON; with another exit code than 0 and 2, or those that are expected, it raises."""
    result = host.run([COMMAND, "--json", command], check=False, timeout=timeout)
    if result.rc not in (expected or (0, 2)):
        raise CommandError([COMMAND, command], result)
    answer: dict[str, Any] = json.loads(result.out)
    return answer


def status(host: Place) -> dict[str, Any]:
    """What the daemon says of itself, or that none runs."""
    return ask(host, "status", 0, 2, _NOT_RUNNING)


def converge(host: Place, timeout: float, look: Callable[[Place], dict[str, Any]] = status) -> None:
    """Waits until the daemon has nothing left to do and nothing under way; past the timeout it shows what is left.

    What it says of itself is of its last pass: that one is under way now, only the journal tells.
    """
    deadline = time.monotonic() + timeout
    while not (said := look(host))["converged"] or said.get("in_flight") or open_intents(host):
        if time.monotonic() > deadline:
            told = {"seen last": said, "status": status(host), "plan": ask(host, "plan")}
            left = {who: {key: value for key, value in said.items() if value} for who, said in told.items()}
            begun = f"begun and without an outcome: {sorted(open_intents(host))}"
            raise AssertionError(f"not converged after {timeout} s: {json.dumps(left, indent=1)}; {begun}")
        time.sleep(0.02)


def status_code(host: Place) -> int | None:
    """0 converged, 2 not, 3 nothing runs; None for an answer the contract does not know."""
    code = host.run([COMMAND, "status"], check=False).rc
    return code if code in (0, 2, _NOT_RUNNING) else None


def records(host: Place) -> list[dict[str, Any]]:
    """The corrective actions, oldest first; none before the first one."""
    if not host.exists(JOURNAL):
        return []
    return [json.loads(line) for line in host.read(JOURNAL).splitlines() if line]


def open_intents(host: Place) -> set[str]:
    """The ids of what was begun and has no outcome yet."""
    ids: dict[str, set[str]] = {"intent": set(), "outcome": set()}
    for one in records(host):
        ids.setdefault(one["record"], set()).add(one["id"])
    return ids["intent"] - ids["outcome"]


def said(host: Place) -> str:
    """What the daemon wrote outside its journal: the first thing to read when it did not start."""
    if host.init == "systemd":
        return host.run(["journalctl", "--no-pager", "--quiet", "-u", NAME], check=False).out
    return host.read(OUTPUT) if host.exists(OUTPUT) else ""


def _by_systemd(host: Place) -> list[str]:
    folders = ("/lib/systemd/system", "/etc/systemd/system")
    if any(host.exists(f"{folder}/{NAME}.service") for folder in folders):
        return ["systemctl", "start", f"{NAME}.service"]
    properties = ("Type=notify", "NotifyAccess=all", "ExecReload=/bin/kill -HUP $MAINPID")
    options = [f"--property={one}" for one in properties]
    return ["systemd-run", f"--unit={NAME}", "--collect", *options, COMMAND, "run"]


def _by_sysvinit(host: Place) -> list[str]:
    if host.exists(f"/etc/init.d/{NAME}"):
        return ["service", NAME, "start"]
    how = f"--background --make-pidfile --pidfile {PID_FILE} --output {OUTPUT}"
    return ["start-stop-daemon", "--start", *how.split(), "--startas", COMMAND, "--", "run"]

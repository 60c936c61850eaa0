"""What the scenarios share: a host under guard, and what it means that a service is off.

    def test_enabled_again(scene: Scene) -> None:
        scene.host.run("update-rc.d canna enable")
        scene.off("canna")
        assert scene.corrected("canna")

Judged from outside: by links, processes and sockets as this machine sees them, then by a fresh look of the product's
own, and only then by what its journal says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from tests.hosts import product, states
from tests.hosts.commands import Result
from tests.hosts.host import Host
from tests.hosts.plugin import NAMES


@dataclass(frozen=True)
class Service:
    """One service of the article: the packages that bring it, its init script, its process, its units and sockets."""

    packages: tuple[str, ...]
    script: str
    comm: str
    units: tuple[str, ...]
    sockets: tuple[str, ...] = ()


SERVICES = {
    "canna": Service(("canna",), "canna", "cannaserver", ("canna.service",), ("/tmp/.iroha_unix/IROHA",)),
    "exim4": Service(("exim4-base", "exim4-daemon-light"), "exim4", "exim4", ("exim4.service",), ("tcp/25", "tcp6/25")),
    "atd": Service(("at",), "atd", "atd", ("atd.service",)),
    "lpd": Service(("lpr",), "lpd", "lpd", ("lpd.service",), ("/dev/printer",)),
    "inetd": Service(("openbsd-inetd",), "openbsd-inetd", "inetd", ("inetd.service",), ("tcp/9", "tcp/13", "tcp/113")),
    "rpcbind": Service(
        ("rpcbind",), "rpcbind", "rpcbind", ("rpcbind.service", "rpcbind.socket"), ("tcp/111", "udp/111", "tcp6/111")
    ),
    "statd": Service(("nfs-common",), "nfs-common", "rpc.statd", ("rpc-statd.service",)),
    "avahi": Service(
        ("avahi-daemon",),
        "avahi-daemon",
        "avahi-daemon",
        ("avahi-daemon.service", "avahi-daemon.socket"),
        ("udp/5353",),
    ),
    "tftpd": Service(("tftpd-hpa",), "tftpd-hpa", "in.tftpd", ("tftpd-hpa.service",), ("udp/69",)),
}
ARTICLE = ("canna", "exim4", "atd", "lpd", "inetd", "rpcbind", "statd")
SCRIPTS = tuple(SERVICES[name].script for name in ARTICLE)

# For scenarios that only the hosts with one of the inits can play.
SCENE_SYSVINIT = pytest.mark.parametrize("shared_host", [name for name in NAMES if "sysvinit" in name], indirect=True)
SCENE_SYSTEMD = pytest.mark.parametrize("shared_host", [name for name in NAMES if "systemd" in name], indirect=True)

# What a package operation must not say: that something of it was refused, broken or fatal.
_TROUBLE = re.compile(r"^.*(?:insserv: FATAL|dpkg: error|initscript \S+, action \S+ failed|Job for .* failed).*$", re.M)


class Scene:
    """One host under guard. What its journal held before the scenario began is no part of it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.mark = 0

    def guard(self, state: str | None = None, timeout: float = product.PATIENCE) -> None:
        """The product in, the state declared, the daemon up and at peace with the host."""
        self.install(state)
        self.host.start_daemon()
        self.converge(timeout)

    def install(self, state: str | None = None) -> None:
        """The product in and the state declared; nothing runs yet."""
        self.host.install_product()
        if not self.host.exists(states.BOOT):
            self.host.put(states.BOOT, states.BOOT_SOURCE.read_bytes())
        self.declare(states.state() if state is None else state)

    def declare(self, state: str) -> None:
        """Makes this the desired state, as an editor would that writes in place."""
        self.host.put(states.PATH, state, 0o644)

    def begin(self) -> None:
        """From here on it is another scenario's journal; the last one must have left a host at peace."""
        self.converge()
        self.mark = len(self.host.journal())

    # -- what the product says --

    def converge(self, timeout: float = product.PATIENCE) -> None:
        """Waits until the daemon has nothing left to do and nothing under way."""
        product.converge(self.host, timeout)

    def status(self) -> dict[str, Any]:
        """What the daemon says of itself."""
        return product.status(self.host)

    def records(self) -> list[dict[str, Any]]:
        """What the product wrote down since the scenario began."""
        return self.host.journal()[self.mark :]

    def corrected(self, *names: str) -> list[dict[str, Any]]:
        """The corrections done since then, of these services under any name of theirs."""
        wanted = {one for name in names for one in _names(name)}
        return [r for r in self.records() if r["outcome"] == "done" and r["service"] in wanted]

    def plan(self) -> dict[str, Any]:
        """A fresh look by another process."""
        return product.ask(self.host, "plan")

    def sound(self) -> None:
        """Every intent gets its outcome, nothing was done without one, and the chain of records is whole."""
        self.converge()
        done = {r["id"] for r in self.host.journal() if r["outcome"] == "done"}
        assert done <= self._ids("intent")
        assert self.host.run([product.COMMAND, "log", "--verify"], check=False).rc == 0

    def _ids(self, record: str) -> set[str]:
        return {one["id"] for one in self.host.journal() if one["record"] == record}

    # -- what the host is --

    def traces(self, name: str) -> list[str]:
        """All that makes a service run or shows that it does; empty when it is off and unlinked."""
        service = SERVICES[name]
        links = [one for one in self.host.start_links() if re.fullmatch(rf".*/S\d\d{service.script}", one)]
        running = [f"{one.comm} (process {one.pid})" for one in self.host.running(service.comm)]
        sockets = [one.name for one in self.host.listeners() if one.name in service.sockets]
        return [*links, *running, *sockets, *self._units(service)]

    def _units(self, service: Service) -> list[str]:
        """Units that are active or that a link in /etc starts."""
        if self.host.init != "systemd":
            return []
        active = [one for one in service.units if self.host.exists(f"/run/systemd/units/invocation:{one}")]
        farms = (one for one in self.host.files.names("/etc/systemd/system") if one.endswith(".wants"))
        paths = (f"/etc/systemd/system/{farm}/{unit}" for farm in farms for unit in service.units)
        return [*active, *(path for path in paths if self.host.exists(path))]

    def off(self, *names: str, timeout: float = product.PATIENCE) -> None:
        """Waits until these are off, unlinked and closed; then that is no passing state: a fresh look agrees."""
        self.host.wait_for(lambda: not self._all_traces(names), timeout, f"{', '.join(names)} to be off")
        self.converge()
        left = self.plan()
        assert (left["steps"], left["gaps"]) == ([], [])
        assert self._all_traces(names) == []

    def _all_traces(self, names: Sequence[str]) -> list[str]:
        return [trace for name in names for trace in self.traces(name)]

    # -- what changes it --

    def package(self, command: str | Sequence[str], timeout: float = 240) -> Result:
        """A package operation: it must end well and say nothing of trouble, guard or no guard."""
        result = self.host.run(command, timeout=timeout)
        assert _TROUBLE.findall(result.out + result.err) == []
        assert self.host.run(["dpkg", "--audit"]).out == ""
        return result


def _names(name: str) -> set[str]:
    service = SERVICES[name]
    return {name, service.script, service.comm, *service.packages, *(unit.partition(".")[0] for unit in service.units)}


def timed(scene: Scene, *names: str) -> float:
    """How long it takes from now until these are off, in seconds."""
    began = time.monotonic()
    scene.off(*names)
    return time.monotonic() - began

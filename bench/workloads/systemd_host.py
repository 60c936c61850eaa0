"""Two real systemd hosts, one with the daemon, one without: the difference is what it costs, PID 1's share included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peerroot import suite
from tests.hosts import cgroups, levels
from tests.hosts.host import Host, boot
from tests.hosts.product import COMMAND, STATE

NAME = "dom0-reconciler, all six kinds, a systemd host, 60 s"


@dataclass(frozen=True)
class Pair:
    """Both hosts, up."""

    guarded: Host
    bare: Host
    name: str = NAME

    def cost(self) -> float:
        """Seconds of processor that the one has used more than the other, everything in it counted."""
        return _used(self.guarded) - _used(self.bare)


def _used(host: Host) -> float:
    """By the cgroup of the host, in which its ended processes count as well."""
    text = Path(cgroups.of(host.control.pid), "cpu.stat").read_text()
    return int(text.split()[1]) / 1e6


@contextmanager
def hosts(say: Callable[[str], None]) -> Iterator[Pair | None]:
    """Both booted and settled; ``None`` where this machine cannot."""
    if reason := levels.missing("systemd"):
        say(f"no systemd host: {reason}")
        yield None
        return
    say("booting two systemd hosts")
    with boot(suite(), "systemd") as guarded, boot(suite(), "systemd") as bare:
        guarded.install_product()
        guarded.run([COMMAND, "init"])
        text = guarded.read(STATE)
        guarded.put(STATE, text.replace('mode = "observe"', 'mode = "enforce"\ninterval = "60s"'))
        guarded.start_daemon()
        yield Pair(guarded, bare)

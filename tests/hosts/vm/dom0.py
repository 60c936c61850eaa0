"""A running Domain-0, as a scenario sees it: the words of `tests.hosts.host.Host`, and a guest.

    with dom0("bookworm") as host:
        host.run("xl list")
        assert host.guest_alive()

Every Domain-0 goes on from the same moment: all started, one PV guest counting on its console, once a second.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.hosts import product, roots
from tests.hosts.commands import CommandError, Result, argv_of
from tests.hosts.recipes import Init, Suite
from tests.hosts.vm import qemu, snapshot
from tests.hosts.vm.link import Link

T = TypeVar("T")
GUEST = "ticker"

_TICK = re.compile(r"^tick (\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Domain:
    """A line of `xl list`."""

    name: str
    id: int
    memory: int
    state: str


class Dom0:
    """One Domain-0. Made by `dom0`; commands run one after the other, and slowly where the processor is emulated."""

    def __init__(self, kept: snapshot.Snapshot) -> None:
        self.root = kept.root
        self.suite: Suite = kept.root.recipe.suite
        self.init: Init = kept.root.recipe.init
        self._kept, self._disk = kept, kept.disk()
        self._former = ""  # what its consoles said before the power was cut
        self._use(kept.resumed(self._disk))

    def _use(self, machine: qemu.Machine) -> None:
        self._machine = machine
        self._link = Link(machine.agent, machine.alive)

    @property
    def pid(self) -> int:
        """Of its qemu."""
        return self._machine.pid

    @property
    def console(self) -> str:
        """What hypervisor and kernel have said on the serial line since the machine was resumed."""
        return self._former + self._machine.console()

    def close(self) -> None:
        """The end: nothing is left of it when this returns."""
        self._machine.close()
        self._disk.close()

    def power_cut(self, arguments: str = "", timeout: float = 900) -> None:
        """Pulls the plug, and boots from what is on the disk then; returns when all has started, the guest too.

        The kernel is told these arguments besides. What was not yet written is lost, as in life.
        """
        self._former = self.console
        self._machine.close()
        self._use(self._kept.booted(self._disk, arguments))
        self._link.wait(timeout)
        if self.init == "systemd":
            self.run("systemctl is-system-running --wait", check=False, timeout=timeout)
        self.wait_for(self.guest_alive, timeout, "the guest, which starts with the host")

    # -- commands and files --

    def run(self, command: str | Sequence[str], *, check: bool = True, timeout: float = 300, stdin: str = "") -> Result:
        """A command as root: a string through /bin/sh, a sequence as it is."""
        result = self._link.run(command, timeout, stdin)
        if check and result.rc != 0:
            raise CommandError(argv_of(command), result)
        return result

    def wait_for(self, predicate: Callable[[], T], timeout: float = 300, why: str = "") -> T:
        """The predicate's first true answer; past the timeout the test fails."""
        deadline = time.monotonic() + timeout
        while not (answer := predicate()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout} s in vain for {why or predicate}")
            time.sleep(0.2)
        return answer

    def put(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Writes a file in place; the folders above are made."""
        self._link.put(path, content.encode() if isinstance(content, str) else content, mode)

    def read(self, path: str) -> str:
        """A file's text."""
        content = self._link.get(path)
        if content is None:
            raise FileNotFoundError(path)
        return content.decode(errors="surrogateescape")

    def exists(self, path: str) -> bool:
        """Whether the name is there, be it a dangling link."""
        return self.run(["/bin/sh", "-c", '[ -e "$0" ] || [ -L "$0" ]', path], check=False).rc == 0

    def start_links(self) -> list[str]:
        """The S links that start something: `rc2.d/S01cron`, `rcS.d/S10rpcbind`."""
        found = self.run("cd /etc && ls -d rcS.d/S* rc[1-5].d/S* 2>/dev/null", check=False)
        return found.lines

    def deb(self, package: str) -> str:
        """The path in the Domain-0 of a package's .deb: what `dpkg -i` needs, without a network."""
        name = self.root.deb(package)
        self.put(f"/media/debs/{name}", (self.root.debs / name).read_bytes())
        return f"/media/debs/{name}"

    def running(self, comm: str) -> list[int]:
        """The pids of that name."""
        return [int(pid) for pid in self.run(["pgrep", "-x", comm], check=False).lines]

    def processes(self) -> dict[int, str]:
        """All that runs, by pid, as `ps` names it: without `ps` itself, and the kernel's own, which are kthreadd's."""
        rows = [line.split(None, 2) for line in self.run(["ps", "-e", "-o", "pid=,ppid=,comm="]).lines]
        return {int(pid): comm for pid, parent, comm in rows if "2" not in (pid, parent) and comm != "ps"}

    # -- Xen --

    def domains(self) -> list[Domain]:
        """What `xl list` shows; none where the toolstack itself is gone."""
        lines = self.run(["xl", "list"], check=False).lines[1:]
        rows = [line.split() for line in lines]
        return [Domain(row[0], int(row[1]), int(row[2]), row[4]) for row in rows]

    def guest_ticks(self) -> int:
        """What the guest counted last on its console, as xenconsoled wrote it down."""
        seen = _TICK.findall(self.run(["tail", "-c", "200", snapshot.TICKS]).out)
        return int(seen[-1]) if seen else 0

    def guest_alive(self, within: float = 60) -> bool:
        """Whether it is there and counts on: a guest that hangs, and one that nobody hears, is not alive."""
        before, deadline = self.guest_ticks(), time.monotonic() + within
        while self.guest_ticks() == before:  # less, where another has just begun
            if time.monotonic() > deadline:
                return False
            time.sleep(0.3)
        return GUEST in {domain.name for domain in self.domains()}

    # -- the product --

    def install_product(self, source: Path = product.SOURCE) -> None:
        """The checkout's package and a launcher, or the .deb that DOM0_RECONCILER_DEB names."""
        product.install(self, source)

    def start_daemon(self, timeout: float = 300) -> None:
        """Returns once the daemon is ready."""
        product.start(self, timeout)

    def stop_daemon(self, timeout: float = 300) -> None:
        """SIGTERM, and its end."""
        product.stop(self, timeout)

    def journal(self) -> list[dict[str, Any]]:
        """The product's records of its corrective actions."""
        return product.records(self)

    def plan(self) -> dict[str, Any]:
        """What `plan --json` says now."""
        return product.ask(self, "plan")

    def status(self) -> dict[str, Any]:
        """Likewise `status`."""
        return product.status(self)


@contextlib.contextmanager
def dom0(suite: Suite, init: Init = "systemd", *, progress: roots.Progress = lambda _line: None) -> Iterator[Dom0]:
    """A Domain-0 resumed from the snapshot, which is taken when it must be: that is minutes, and once."""
    host = Dom0(snapshot.take(suite, init, progress))
    try:
        yield host
    finally:
        host.close()

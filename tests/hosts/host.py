"""A running Debian host, as a scenario sees it: commands, files, sockets, processes, journals.

    with boot("bookworm", "sysvinit") as host:
        host.run("update-rc.d canna defaults")
        assert "tcp/22" in {one.name for one in host.listeners()}

Every host is pristine, and gone when the block ends or the test run dies (see `tests.hosts.supervisor`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.hosts import commands, looking, product, readiness, roots
from tests.hosts.commands import CommandError, Job, Result
from tests.hosts.control import Control, HostGoneError
from tests.hosts.looking import Listener, Process
from tests.hosts.recipes import Init, Suite
from tests.hosts.supervisor import LAN_ADDRESS
from tests.hosts.trees import Files, Tree, difference

T = TypeVar("T")

ADDRESS = "192.0.2.10"
INTERFACES = "/etc/network/interfaces"
STATIC = f"""\
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
    address {ADDRESS}/24
"""


class Host:
    """One host. Made by `boot`; a scenario that must change files before the first boot passes `prepare`."""

    def __init__(self, root: roots.Root) -> None:
        self.root = root
        self.suite: Suite = root.recipe.suite
        self.init: Init = root.recipe.init
        self.control = Control(root)
        self.pid = 0  # of the host's init, on this machine; 0 while it is down

    # -- power --

    def power_on(self, timeout: float = 30) -> None:
        """Boots, up to the moment the init says it is done."""
        before = len(self.console)
        self.control.tell("boot")
        self._wait_up(before, timeout)

    def power_off(self) -> None:
        """Pulls the plug: nothing is stopped in order, the files stay as they are at this moment."""
        self.control.tell("kill")
        self.control.expect("down", 20)
        self.pid = 0

    def reboot(self, *, hard: bool = False, timeout: float = 60) -> None:
        """Down and up again with the same files: in order, or by a power cut."""
        if hard:
            self.power_off()
            self.power_on(timeout)
            return
        before = len(self.console)
        self.spawn(["reboot"])
        self.control.expect("down", timeout)
        self._wait_up(before, timeout)

    def settle(self, timeout: float = 20) -> None:
        """Waits until every service of the article runs and listens, as on each pristine host."""
        self.wait_for(lambda: readiness.is_settled(self), timeout, "the article's services to listen")

    def close(self) -> None:
        """The end: processes, mounts, network and changes are gone when this returns."""
        self.pid = 0
        self.control.close()

    def _wait_up(self, console_before: int, timeout: float) -> None:
        self.pid = int(self.control.expect("up", timeout)["pid"])
        why = f"{self.init} to finish booting"
        self.wait_for(lambda: readiness.init_is_done(self, console_before), timeout, why)

    # -- commands --

    def run(self, command: str | Sequence[str], *, check: bool = True, timeout: float = 60, stdin: str = "") -> Result:
        """A command as root: a string through /bin/sh, a sequence as it is."""
        job = self.spawn(command, stdin=stdin)
        result = job.wait(timeout)
        if check and result.rc != 0:
            raise CommandError(job.argv, result)
        return result

    def spawn(self, command: str | Sequence[str], *, stdin: str = "") -> Job:
        """A command that goes on beside the scenario; it ends with the host at the latest."""
        if not self.pid:
            raise HostGoneError("the host is down")
        return Job(commands.argv_of(command), self.entry, stdin)

    @property
    def entry(self) -> list[str]:
        """What goes before a command's words to run it in the host."""
        return commands.entry_to(self.pid, self.control.commands_cgroup)

    def from_lan(self, command: str | Sequence[str], *, check: bool = True, timeout: float = 60) -> Result:
        """One of this machine's commands, at the other end of the host's cable: what outsiders see."""
        job = self.spawn_on_lan(command)
        result = job.wait(timeout)
        if check and result.rc != 0:
            raise CommandError(job.argv, result)
        return result

    def spawn_on_lan(self, command: str | Sequence[str]) -> Job:
        """Likewise, beside the scenario."""
        return Job(commands.argv_of(command), commands.entry_to_lan(self.control.pid))

    def wait_for(self, predicate: Callable[[], T], timeout: float = 10, why: str = "") -> T:
        """The predicate's first true answer, asked for every 10 ms; past the timeout the test fails."""
        deadline = time.monotonic() + timeout
        while not (answer := predicate()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout} s in vain for {why or predicate}")
            time.sleep(0.01)
        return answer

    # -- files --

    @property
    def files(self) -> Files:
        """As the host's processes see them; its disk alone while it is down."""
        return Files(f"/proc/{self.pid}/root" if self.pid else self.control.merged)

    def put(self, path: str, content: str | bytes, mode: int = 0o644) -> None:
        """Writes a file in place; the folders above are made."""
        self.files.write(path, content.encode() if isinstance(content, str) else content, mode)

    def read(self, path: str) -> str:
        """A file's text."""
        return self.files.read(path).decode(errors="surrogateescape")

    def exists(self, path: str) -> bool:
        """Whether the name is there, be it a dangling link."""
        return self.files.lstat(path) is not None

    def start_links(self) -> list[str]:
        """The S links that start something: `rc2.d/S01cron`, `rcS.d/S10rpcbind`."""
        folders = ("rcS.d", *(f"rc{level}.d" for level in range(1, 6)))
        present = [folder for folder in folders if self.exists(f"/etc/{folder}")]
        links = [f"{folder}/{name}" for folder in present for name in self.files.names(f"/etc/{folder}")]
        return [link for link in links if "/S" in link]

    def tree(self, folder: str = "/etc") -> Tree:
        """A folder with all that is in it, to compare with `trees.difference` later."""
        return self.files.tree(folder)

    def etc_diff(self) -> str:
        """What is different in /etc from the pristine root, as text; empty when nothing is."""
        return difference(Files(str(self.root.path)).tree("/etc"), self.tree("/etc"))

    def deb(self, package: str) -> str:
        """The path in the host of a package's .deb: what `dpkg -i` needs, without a network."""
        return f"/media/debs/{self.root.deb(package)}"

    # -- what goes on --

    @property
    def console(self) -> str:
        """Everything the console has shown."""
        return self.control.console()

    def listeners(self) -> list[Listener]:
        """The sockets that wait for somebody, with who holds them."""
        return looking.listeners(self.pid)

    def processes(self) -> list[Process]:
        """Everything that runs."""
        return looking.processes(self.pid)

    def running(self, comm: str) -> list[Process]:
        """The processes of that name."""
        return [process for process in self.processes() if process.comm == comm]

    def journalctl(self, *arguments: str) -> list[dict[str, Any]]:
        """Entries of the systemd journal, all fields."""
        lines = self.run(["journalctl", "--no-pager", "--output=json", "--all", *arguments]).lines
        return [json.loads(line) for line in lines if line.startswith("{")]

    def syslog(self) -> str:
        """What rsyslog has written, on sysvinit."""
        return self.read("/var/log/syslog") if self.exists("/var/log/syslog") else ""

    # -- network --

    def use_static_address(self) -> None:
        """eth0 up with 192.0.2.10, from the interfaces file."""
        self.put(INTERFACES, STATIC)
        self.run("ifdown --force eth0 >/dev/null 2>&1; ifup eth0")

    def addresses(self, interface: str = "eth0") -> list[str]:
        """The IPv4 addresses an interface holds now."""
        found = json.loads(self.run(["ip", "-json", "-4", "addr", "show", "dev", interface]).out)
        return [one["local"] for link in found for one in link.get("addr_info", [])]

    # -- the product --

    def install_product(self, source: Path = product.SOURCE) -> None:
        """The checkout's package and a launcher, or the .deb that DOM0_RECONCILER_DEB names."""
        product.install(self, source)

    def start_daemon(self, timeout: float = 30) -> None:
        """Returns once the daemon is ready."""
        product.start(self, timeout)

    def stop_daemon(self, timeout: float = 30) -> None:
        """SIGTERM, and its end."""
        product.stop(self, timeout)

    def journal(self) -> list[dict[str, Any]]:
        """The product's records of its corrective actions."""
        return product.records(self)


@contextlib.contextmanager
def boot(
    suite: Suite, init: Init, *, prepare: Callable[[Host], None] | None = None, settle: bool | None = None
) -> Iterator[Host]:
    """A pristine host, up, with the article's services listening; the root is built when it must be.

    `prepare` works on the host's files before its first boot. After it the article's services may no longer
    be the ones to wait for, so then `settle` must be asked for.
    """
    host = Host(roots.build(suite, init))
    try:
        if prepare is not None:
            prepare(host)
        host.power_on()
        if settle if settle is not None else prepare is None:
            host.settle()
        yield host
    finally:
        host.close()


__all__ = ["ADDRESS", "INTERFACES", "LAN_ADDRESS", "STATIC", "Host", "boot"]

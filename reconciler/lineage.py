"""Who a process belongs to, and what must never be ended: pure, from the process table and the catalogue.

Under systemd a process belongs to the unit of its control group; under sysvinit to the script that runs its
program or whose package owns it, else to what its parent belongs to. What the guests, a login, the init
system or this daemon live on is *kept*: no correction ends it, whatever the state says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise

from reconciler.desired import DesiredState
from reconciler.model import Address, Host, Process, Resource, Signal, Snapshot, StopService
from reconciler.patterns import pattern
from reconciler.services import UNIT_SUFFIXES, Catalogue, base_name, program_of

INIT = 1
"""The first process: of every pid namespace, init(8)."""

OURS = "dom0-reconciler"


class Running(Resource):
    """A program with every process that runs it; ``guarding`` are those that hold a watchdog device."""

    program: str = ""
    processes: tuple[Process, ...] = ()
    guarding: frozenset[int] = frozenset()


ADDRESSES = "addresses"
"""What a look at what runs is called that is at the addresses as well."""


class HeldAddress(Resource):
    """An address that an interface holds."""

    address: Address = Address("", "", 0)


class Mounted(Resource):
    """The types of all file systems that are mounted (``proc(5)``, /proc/PID/mounts)."""

    types: frozenset[str] = frozenset()


_GUESTS = pattern(
    r"qemu-(system-.*|dm|xen.*|nbd|storage-daemon)|xl|xenstored|oxenstored|xenconsoled|xenwatchdogd|xen-.*"
    r"|libxl-save-helper|tapdisk[0-9]*|blktap.*|pygrub|virtiofsd|swtpm|varstored|stubdom-.*|vhost-.*"
)
"""Programs that guests run on: the toolstack's own, and one or more helpers for each domain (xl(1), xen(7))."""

_GUEST_FOLDERS = ("/usr/lib/xen-", "/usr/lib/xen/", "/usr/libexec/xen", "/usr/local/lib/xen/")
_INSTALLED = ("/usr/", "/lib", "/opt/", "/bin/", "/sbin/", "[")
_BASE = pattern(
    r"init|systemd|systemd-(journald|udevd|logind|userdbd|userwork|executor|homed|machined|oomd|shutdown)"
    r"|\(sd-.*\)|udevd|udevadm|elogind.*|dbus-daemon|dbus-broker.*"
)
"""What init itself brings up whatever anybody approves: static units, udev from rcS.d, the message bus."""

_RUNNERS = pattern(
    r"/etc/init\.d/rcS?|(/usr)?/lib/init/rcS?|(/usr)?/s?bin/(startpar|shutdown|telinit|halt|reboot|poweroff)"
)
"""What runs the scripts of a runlevel under sysvinit, and what asks for another one."""

_GETTY = pattern(r"a?getty|mingetty|fgetty|mgetty|login")
_DOOR = pattern(r"a?getty|mingetty|fgetty|mgetty|login|sshd.*|dropbear|in\.(telnetd|rlogind|rshd)|telnetd")
_LOGIN = pattern(r"login|sshd-(session|auth)|in\.(telnetd|rlogind|rshd)|telnetd")
_CONNECTIONS = ("sshd", "dropbear")
_GETTYS = frozenset(("", "getty", "serial-getty", "console-getty", "container-getty", "dom0-reconciler"))
_STARTERS = frozenset(("cron", "anacron", "at", "atd", "networking", "ifup", "rc-local", "rc.local"))
"""Services whose work is to start others: what they leave behind as an orphan is not theirs."""

DHCP_CLIENT = pattern(r"dhclient([0-9]|-2\.2\.x)?|dhcpcd[0-9]*|udhcpc6?|pump")


class Lineage:
    """The process table of one snapshot, with who is whose."""

    def __init__(
        self,
        processes: Iterable[Process],
        catalogue: Catalogue,
        desired: DesiredState,
        host: Host,
        guarding: Iterable[int] = (),
    ) -> None:
        self.processes = {process.pid: process for process in processes}
        self._catalogue, self._desired, self._host = catalogue, desired, host
        self._guarding = frozenset(guarding)
        self._own: dict[int, str] = {}
        self._lines: dict[int, tuple[Process, ...]] = {}
        self._ours = self._our_own()
        self._ways_in = self._above_logins()

    @classmethod
    def of(cls, snapshot: Snapshot, catalogue: Catalogue, desired: DesiredState) -> Lineage:
        """The lineage of what a snapshot holds."""
        running = [r for sight in snapshot.sights.values() for r in sight.resources if isinstance(r, Running)]
        processes = (process for each in running for process in each.processes)
        guarding = (pid for each in running for pid in each.guarding)
        return cls(processes, catalogue, desired, snapshot.host, guarding)

    def line(self, process: Process) -> tuple[Process, ...]:
        """The process, its parent and so on; init is nobody's ancestor."""
        found = self._lines.get(process.pid)
        if found is None:
            found = self._lines[process.pid] = tuple(self._walk(process))
        return found

    def _walk(self, process: Process) -> Iterator[Process]:
        seen: set[int] = set()
        current: Process | None = process
        while current is not None and current.pid not in seen:
            if current.pid == INIT and current is not process:
                return
            seen.add(current.pid)
            yield current
            current = self.processes.get(current.parent)

    def _our_own(self) -> frozenset[int]:
        """This process, and those it was started by."""
        own = self.processes.get(self._host.own)
        return frozenset(each.pid for each in self.line(own)) if own is not None else frozenset()

    def _above_logins(self) -> frozenset[int]:
        logins = [process for process in self.processes.values() if self._is_login(process)]
        return frozenset(each.pid for login in logins for each in self.line(login))

    def _is_login(self, process: Process) -> bool:
        parent = self.processes.get(process.parent)
        forked = parent is not None and process.name.startswith("sshd") and parent.name.startswith("sshd")
        return bool(forked or _LOGIN.fullmatch(base_of(process)))

    def login_services(self) -> frozenset[str]:
        """The services through which somebody is logged in; a getty, which no state takes away, is not among them."""
        above = (self.processes[pid] for pid in self._ways_in)
        return frozenset(
            own
            for each in above
            if not _GETTY.fullmatch(base_of(each)) and (own := self.own_service(each)) not in _GETTYS
        )

    # --- whose it is ------------------------------------------------------------------------------------------

    def service(self, process: Process) -> str:
        """The service it belongs to, by itself or by its parents, under the name this host uses; "" unknown."""
        return next((own for each in self.line(process) if (own := self.own_service(each))), "")

    def own_service(self, process: Process) -> str:
        """The service it belongs to for certain: its unit's, else the one that runs its program; "" none."""
        found = self._own.get(process.pid)
        if found is None:
            found = self._own[process.pid] = self._find_own(process)
        return found

    def _find_own(self, process: Process) -> str:
        if self._host.init == "systemd":
            unit = unit_of(process.cgroup)
            if unit:
                return "" if self._left_behind(process) else base_name(unit)
        return self._catalogue.owner(process)

    def surely(self, process: Process, service: str) -> bool:
        """True when it belongs to that service by itself, under any of the names of either."""
        own = self.own_service(process)
        return bool(own) and own in self._catalogue.service(service).names

    def _left_behind(self, process: Process) -> bool:
        """An orphan in the unit of something whose work is to start others."""
        unit = base_name(unit_of(process.cgroup))
        if unit not in _STARTERS or process.parent != INIT:
            return False
        return self._catalogue.owner(process) not in self._catalogue.service(unit).names

    def approved(self, process: Process) -> bool:
        """True when it, or one that it descends from, belongs to an approved service."""
        services = self._desired.services
        if services is None:
            return False
        names = {name for each in self.line(process) if (name := self.own_service(each))}
        return any(self._catalogue.approved(name, services.approved) for name in names)

    # --- what is nobody's business ----------------------------------------------------------------------------

    def exempt(self, process: Process) -> bool:
        """True for what is judged by nobody: approved, or of a guest, login, container, boot, init, or ours.

        A name counts only of what lies where root alone puts programs: ``/tmp/xl`` is spared nothing by its own.
        """
        return (
            (self.is_system(process) and (process.pid == INIT or installed(process)))
            or (self._is_ours(process) and (process.uid == 0 or not _says_ours(process)))
            or self._in_session(process)
            or self._is_of_a_boot(process)
            or any(_is_guests(each) and installed(each) for each in self.line(process))
            or self.approved(process)
        )

    def is_system(self, process: Process) -> bool:
        """True for init, what it brings up whatever anybody approves, and a terminal that waits for a login."""
        by_name = _BASE.fullmatch(base_of(process)) or _GETTY.fullmatch(base_of(process))
        return process.pid == INIT or bool(by_name) or _is_runner(process)

    def _is_of_a_boot(self, process: Process) -> bool:
        """Of a change of the runlevel that is under way, and of no service; what it leaves behind is judged."""
        return any(_is_runner(each) for each in self.line(process)) and not self.service(process)

    def _is_ours(self, process: Process) -> bool:
        if process.pid in self._ours or any(each.pid == self._host.own for each in self.line(process)):
            return True
        return _says_ours(process) or OURS in self._catalogue.service(self.service(process)).names

    def _in_session(self, process: Process) -> bool:
        """Of a login, or of a container: those have control groups of their own."""
        if process.cgroup.startswith(("/user.slice/", "/machine.slice/", "/lxc", "/docker/", "/libpod")):
            return True
        above = (each for each in self.line(process) if each is not process)
        return any(_DOOR.fullmatch(base_of(each)) and installed(each) for each in above)

    # --- what is never ended ----------------------------------------------------------------------------------

    def kept(self, process: Process) -> str:
        """Why no correction may end it, else ""."""
        reasons = (
            (process.pid == INIT, "it is init"),
            (self._is_ours(process), "it is this daemon"),
            (process.pid in self._guarding, "it holds /dev/watchdog: the host is reset when it ends"),
            (_is_guests(process), "guests live on it"),
            (process.pid in self._ways_in, "a login lives on it"),
            (self.is_system(process), "the running system depends on it"),
        )
        return next((why for true, why in reasons if true), "")

    def kept_in(self, service: str) -> str:
        """Why no correction may stop a service, for the sake of a process that belongs to it, else ""."""
        names = self._catalogue.service(service).names
        for process in self.processes.values():
            if self.service(process) in names and (why := self.kept(process) or leasing(process)):
                return f"{why} (process {process.pid}, {process.name})"
        return ""


def way_in(processes: Iterable[Process], own: int) -> tuple[Process, ...]:
    """What came with the login that a process belongs to, from itself upwards; nothing where it belongs to none.

    Of a connection its own process counts, shared by whatever is said over it; a terminal waits for logins for ever.
    """
    by_pid, line = {process.pid: process for process in processes}, list[Process]()
    current = by_pid.get(own)
    while current is not None and current.pid != INIT and current not in line:
        line.append(current)
        if current.name.startswith(_CONNECTIONS):
            return tuple(line)
        if _DOOR.fullmatch(base_of(current)) or _DOOR.fullmatch(current.name):
            return tuple(line[:-1])
        current = by_pid.get(current.parent)
    return ()


def stop_of(service: str, catalogue: Catalogue, host: Host) -> StopService | None:
    """What stops a service; a unit that no file describes (``systemd-run``) is stopped by its name."""
    stop = catalogue.stop(catalogue.service(service), host)
    if stop is None and host.init == "systemd":
        return StopService(service, units=(f"{service}.service",))
    return stop


def signal_to(name: str, processes: Sequence[Process], tried: Mapping[str, str]) -> Signal:
    """TERM to processes of a service, or of a program that belongs to none; KILL once that was tried."""
    signal = "KILL" if tried.get(name) == "TERM" else "TERM"
    return Signal(name, signal, program_of(processes[0]), who(processes))


def who(processes: Iterable[Process]) -> tuple[tuple[int, int], ...]:
    """Processes as a signal names them: pid and start."""
    return tuple(sorted((process.pid, process.started) for process in processes))


def leasing(process: Process) -> str:
    """Why a DHCP client is not simply ended, "" for all else."""
    return "an address lives on this DHCP client" if DHCP_CLIENT.fullmatch(base_of(process)) else ""


def unit_of(cgroup: str) -> str:
    """The unit that systemd itself put a process into, "" for a session's, a container's or none.

    What a service delegates below its own group is the service's still: the first unit of the path counts.
    """
    if not cgroup.startswith("/system.slice/"):
        return ""
    return next((part for part in cgroup.split("/") if part.endswith((*UNIT_SUFFIXES, ".mount"))), "")


def named(process: Process, patterns: Iterable[str]) -> str:
    """The first pattern that its program or that program's last part matches, else "".

    Any process may rename itself (``PR_SET_NAME``, prctl(2)): the name counts where nobody could see the executable,
    and of root's own, for a program of many names (busybox) is known by nothing else.
    """
    program = program_of(process)
    name = process.name if process.uid == 0 or not process.executable else ""
    names = (program, program.rpartition("/")[2], process.executable, name)
    return next((each for each in patterns if any(fnmatchcase(name, each) for name in names if name)), "")


def _says_ours(process: Process) -> bool:
    """Its arguments are those of this command from an uninstalled tree; any process may have them."""
    return any(pair == ("-m", "reconciler") for pair in pairwise(process.arguments))


def installed(process: Process) -> bool:
    """True where only root puts programs; what nobody could see is believed by its name."""
    return program_of(process).startswith(_INSTALLED)


def base_of(process: Process) -> str:
    """The last part of what runs."""
    return program_of(process).rpartition("/")[2].strip("[]")


def _is_runner(process: Process) -> bool:
    """Root's alone: whoever else gives his shell such a script changes no runlevel."""
    return process.uid == 0 and bool(_RUNNERS.fullmatch(program_of(process)))


def _is_guests(process: Process) -> bool:
    in_folder = process.executable.startswith(_GUEST_FOLDERS)
    return in_folder or bool(_GUESTS.fullmatch(base_of(process)))

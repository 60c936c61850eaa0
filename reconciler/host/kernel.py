"""What only the running kernel knows: what kind of host this is, and what runs on it (``proc(5)``)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from reconciler.errors import Unobservable
from reconciler.host.files import Root
from reconciler.host.walk import unobservable
from reconciler.model import Host, Init, LinkState, Process
from reconciler.text import escape

PROC = "/proc"

ARGUMENT_BYTES = 4096
"""So much is read of a command line or a cgroup: enough to judge by, and no process can make it more."""

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD of include/linux/sched.h, in field 9 of /proc/PID/stat
_LIST_LIMIT = 16 << 20  # bytes of one dpkg file list; a kernel's headers make about 2 MiB
_MERGED = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin")  # links into a merged /usr (Debian 12)


# --- the host -----------------------------------------------------------------------------------------------


def host_facts(root: Root, before: Host | None = None) -> Host:
    """Say what kind of host a root is. What cannot be looked at is as it was ``before``; the first time, absent."""
    live, known = is_live(root), before or Host(insserv=False)
    return Host(
        live=live,
        init=_init(root, live=live, known=known.init),
        domain0=live and (known.domain0 or _is_domain0(root)),
        privileged=root.path != "/" or os.geteuid() == 0,
        insserv=_exists(root, "/etc/insserv.conf", known=known.insserv),  # the test that update-rc.d(8) itself makes
        own=os.getpid() if live else 0,
    )


def is_live(root: Root) -> bool:
    """True for the running system itself: ``/`` is also what the first process sees."""
    if root.path != "/":
        return False
    try:
        first = os.stat(f"{PROC}/1/root")
    except PermissionError:
        return True  # an ordinary user may not look, and is seldom put into a chroot
    except OSError:
        return os.path.lexists(f"{PROC}/self")  # hidepid hides process 1; a chroot may have no /proc at all
    return os.path.samestat(first, os.stat("/"))


def _init(root: Root, *, live: bool, known: Init) -> Init:
    if live:
        booted = _exists(root, "/run/systemd/system", known=known == "systemd")  # sd_booted(3)
        return "systemd" if booted else "sysvinit"
    try:
        init = root.entry("/sbin/init")
    except Unobservable:
        return known
    return "systemd" if isinstance(init, LinkState) and init.target.endswith("systemd") else "sysvinit"


def _is_domain0(root: Root) -> bool:
    """Early in boot xenfs is not mounted: then a kernel that runs on Xen is taken for Domain-0."""
    capabilities = _text(root, "/proc/xen/capabilities")
    if capabilities is not None:
        return b"control_d" in capabilities
    return (_text(root, "/sys/hypervisor/type") or b"").strip() == b"xen"


def _text(root: Root, path: str) -> bytes | None:
    try:
        file = root.read(path)
    except Unobservable:
        return None
    return None if file is None else file.content


def _exists(root: Root, path: str, *, known: bool) -> bool:
    try:
        return root.exists(path)
    except Unobservable:
        return known


# --- processes ----------------------------------------------------------------------------------------------


_Seen = tuple[int, int, str, str, tuple[str, ...], int, int, str]
_Known = tuple[bytes, str, tuple[str, ...]]  # what /proc/PID/stat said, and what it ran: executable and arguments
_NONE_KNOWN: Mapping[int, _Known] = {}


class ProcessTable:
    """The processes of this host. It remembers what cannot change: a process's namespace, a file's owner."""

    def __init__(self, root: Root) -> None:
        self._packages = Packages(root)
        self._ours: frozenset[tuple[int, int]] = frozenset()  # pid, start: for life in our pid namespace
        self._known: dict[int, _Known] = {}
        self._merged = tuple(f"{folder}/" for folder in _MERGED if _is_merged(root, folder))

    def normal(self, executable: str) -> str:
        """An executable's one name: without the mark of an upgrade, and below /usr where /usr is merged."""
        executable = executable.removesuffix(" (deleted)")
        return f"/usr{executable}" if executable.startswith(self._merged) else executable

    def look(self, *, again: bool = False) -> tuple[Process, ...]:
        """Every process, by pid; ``executable`` always as :meth:`normal` gives it.

        Left out are kernel threads, zombies, what ends meanwhile, and what lives in another pid namespace: a
        container's. A chroot alone makes no container: postfix and bind9 chroot their own daemons, and those
        must be seen. Raises ``Unobservable`` without /proc.

        ``again``: what it ran at the last look is not read anew of one that still runs it, as its stat tells.
        """
        try:
            namespace = os.readlink(f"{PROC}/self/ns/pid")
            pids = sorted(int(name) for name in os.listdir(PROC) if name.isdecimal())
        except OSError as error:
            raise unobservable(PROC, error) from error
        known, self._known = self._known if again else {}, {}
        seen = [process for pid in pids if (process := self._process(pid, namespace, known)) is not None]
        self._ours = frozenset((process[0], process[6]) for process in seen)
        return tuple(self._with_packages(seen))

    def some(self, pids: Iterable[int]) -> dict[int, Process]:
        """These processes, but for those that :meth:`look` would leave out."""
        try:
            namespace = os.readlink(f"{PROC}/self/ns/pid")
        except OSError as error:
            raise unobservable(PROC, error) from error
        seen = [process for pid in pids if (process := self._process(pid, namespace)) is not None]
        return {process.pid: process for process in self._with_packages(seen)}

    def _with_packages(self, seen: Sequence[_Seen]) -> Iterator[Process]:
        owners = self._packages.owners({process[3] for process in seen})
        return (Process(*process, package=owners.get(process[3], "")) for process in seen)

    def _process(self, pid: int, namespace: str, known: Mapping[int, _Known] = _NONE_KNOWN) -> _Seen | None:
        base = f"{PROC}/{pid}"
        try:
            text = _read(f"{base}/stat")
            stat = parse_stat(text)
            if stat is None:
                return None
            if (pid, stat.started) not in self._ours and _readlink(f"{base}/ns/pid") not in (namespace, ""):
                return None
            executable, words = self._program(base, text, known.get(pid))
            self._known[pid] = text, executable, words
            cgroup = parse_cgroup(_read(f"{base}/cgroup"))
            uid = os.stat(base).st_uid
        except OSError:
            return None  # ENOENT or ESRCH: it ended meanwhile
        return pid, stat.parent, stat.name, executable, words, uid, stat.started, cgroup

    def _program(self, base: str, stat: bytes, known: _Known | None) -> tuple[str, tuple[str, ...]]:
        if known is not None and image_of(known[0]) == image_of(stat):
            return known[1:]
        return self.normal(_readlink(f"{base}/exe")), parse_arguments(_read(f"{base}/cmdline"))


class Stat(NamedTuple):
    """What is needed of /proc/PID/stat."""

    name: str
    parent: int
    started: int


def parse_stat(text: bytes) -> Stat | None:
    """Read it; ``None`` for a kernel thread or a zombie. A name may hold anything, blanks and brackets too.

    Raises ``Unobservable`` for what is no such text: a process must not be left out because it was not understood.
    """
    head, _, rest = text.rpartition(b")")
    fields = rest.split(None, 20)
    try:
        if _is_no_process(fields):
            return None
        return Stat(os.fsdecode(head.partition(b"(")[2]), int(fields[1]), int(fields[19]))
    except (IndexError, ValueError) as error:
        raise Unobservable(f"{PROC}/PID/stat makes no sense: {escape(os.fsdecode(text[:100]))}") from error


def image_of(text: bytes) -> tuple[bytes, ...]:
    """What of /proc/PID/stat is another once a process is another, or has begun to run another program.

    Its name, parent, group, session, terminal and start; and where its program, its stack and its arguments lie, which
    each execve(2) sets anew, at random places (fields 26 to 28 and 45 to 51 of ``proc(5)``).
    """
    head, _, rest = text.rpartition(b")")
    fields = rest.split()
    return (head, *fields[1:5], fields[19], *fields[23:26], *fields[42:49])


def parse_arguments(text: bytes) -> tuple[str, ...]:
    """A command line; a process may write what it likes there."""
    arguments = text.rstrip(b"\0")
    return tuple(os.fsdecode(word) for word in arguments.split(b"\0")) if arguments else ()


def started(pid: int) -> int:
    """When a process started, in clock ticks since boot. Raises ``ProcessLookupError`` if there is none."""
    try:
        return int(_fields(pid)[19])
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def at_terminals(pids: Iterable[int]) -> frozenset[int]:
    """Those that somebody has on a terminal: they have one, and it was not init that began their session.

    A session (``setsid(2)``) that init began on a terminal is the host's own, such as a line of inittab(5) asks for.
    """
    return frozenset(pid for pid in pids if _is_at_a_terminal(pid))


def _is_at_a_terminal(pid: int) -> bool:
    try:
        session, terminal = _fields(pid)[3:5]
        outside = session == b"0"  # of another pid namespace
        return terminal != b"0" and (outside or _fields(int(session))[1] != b"1")
    except OSError:
        return False  # it ended meanwhile, or its session, and so it has no terminal any more


def _fields(pid: int) -> list[bytes]:
    """What /proc/PID/stat says after the name, which may hold anything: state, parent, group, session, terminal, ..."""
    return _read(f"{PROC}/{pid}/stat").rpartition(b")")[2].split()


def arguments(pid: int) -> tuple[str, ...]:
    """The command line of a process, none of a zombie. Raises ``OSError`` where we may not look, or there is none."""
    return parse_arguments(_read(f"{PROC}/{pid}/cmdline"))


def _is_no_process(fields: list[bytes]) -> bool:
    """A kernel thread, or a zombie none of whose threads runs on (the first may end before the others)."""
    return bool(int(fields[6]) & _KERNEL_THREAD) or (fields[0] in (b"Z", b"X") and int(fields[17]) <= 1)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, ARGUMENT_BYTES)
    finally:
        os.close(fd)


def _readlink(path: str) -> str:
    """A link of a process, "" where we may not look at it or it has none."""
    try:
        return os.readlink(path)
    except (PermissionError, FileNotFoundError):
        return ""


def parse_cgroup(text: bytes) -> str:
    """The path in the unified hierarchy, else in systemd's own (``cgroups(7)``: ``ID:CONTROLLERS:PATH``).

    Who may make groups may make long names: the last line may be cut off, and then it says nothing.
    """
    path = b""
    for line in text.split(b"\n"):
        _, colon, rest = line.partition(b":")
        controllers, colon, where = rest.partition(b":")
        if not colon:
            continue
        if controllers == b"name=systemd" or (controllers == b"" and where != b"/") or not path:
            path = where
    return os.fsdecode(path)


def _is_merged(root: Root, folder: str) -> bool:
    try:
        entry = root.entry(folder)
    except Unobservable:
        return False
    return isinstance(entry, LinkState) and entry.target.strip("/") == f"usr{folder}"


# --- packages -----------------------------------------------------------------------------------------------


class Packages:
    """Which Debian package owns an executable, by dpkg's file lists; each is looked for once.

    dpkg renames a new list into place, or removes one, with every package: while the time of their folder
    stands still, so do the answers.
    """

    FOLDER = "/var/lib/dpkg/info"

    def __init__(self, root: Root) -> None:
        self._root = root
        self._known: dict[str, str] = {}
        self._time = 0

    def owners(self, executables: Iterable[str]) -> dict[str, str]:
        """The package of each executable, "" where none owns it or dpkg's lists cannot be read."""
        wanted = {path for path in executables if path}
        try:
            fd = self._root.folder_fd(self.FOLDER)
        except (FileNotFoundError, Unobservable):
            return {}
        try:
            self._refresh(fd, wanted)
        except OSError:
            return {}
        finally:
            os.close(fd)
        return {path: self._known[path] for path in wanted}

    def _refresh(self, fd: int, wanted: set[str]) -> None:
        time = os.fstat(fd).st_mtime_ns
        if time != self._time:
            self._known, self._time = {}, time
        fresh = wanted.difference(self._known)
        if fresh:
            self._known |= dict.fromkeys(fresh, "")
            self._known |= _search(fd, fresh)


def _search(fd: int, paths: set[str]) -> dict[str, str]:
    """One scan of all lists. Lists name a file by the path it was packed with, so before /usr was merged."""
    names = {os.fsencode(name): path for path in paths for name in (path, path.removeprefix("/usr"))}
    wanted = frozenset(names)
    found = {}
    for package, text in _lists(fd):
        for name in wanted.intersection(text.split(b"\n")):  # 15 ms for 700 lists, however many are wanted
            found[names[name]] = package
    return found


def _lists(fd: int) -> Iterator[tuple[str, bytes]]:
    for name in os.listdir(fd):
        if name.endswith(".list"):
            with suppress(OSError):  # dpkg may be at work, and what is no file is no list
                yield name.removesuffix(".list").partition(":")[0], _list_text(fd, name)


def _list_text(fd: int, name: str) -> bytes:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)
    try:
        return os.read(file, min(os.fstat(file).st_size, _LIST_LIMIT))
    finally:
        os.close(file)

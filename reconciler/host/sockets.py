"""Who listens: sockets from ``sock_diag(7)``, from /proc/net where that is not to be had; and who holds them.

A table that netlink refuses (no diag module, a sandbox without AF_NETLINK) is read from /proc/net instead,
table by table. Owners cost a walk over every descriptor of every process, so they are looked for only where
somebody wants them, and remembered by the socket's inode for as long as the descriptor still leads to it.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache, partial

from reconciler.errors import Unobservable
from reconciler.host.netlink import attributes, dump
from reconciler.model import Listener, Process
from reconciler.values import Value, replace

PROC = "/proc"

_SOCK_DIAG = 4  # NETLINK_SOCK_DIAG
_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_CLOSE, _LISTEN = 1 << 7, 1 << 10  # include/net/tcp_states.h; an unconnected udp socket is in "close"
_INET_REQUEST = struct.Struct("=BBBxI48x")
_INET = struct.Struct(">BBxxHH16s16s")  # family, state, source port, (destination port), source address, ...
_INET_SIZE, _INODE = 72, struct.Struct("=I")
_UNIX_REQUEST = struct.Struct("=BBHIII8x")
_UNIX = struct.Struct("=BBBxI8x")
_NAME, _SHOW_NAME = 0, 1
_STREAM, _SEQPACKET = 1, 5
_ACCEPTS = 0x10000  # __SO_ACCEPTCON in the flags of /proc/net/unix
_UNIX_LINE = re.compile(
    rb"^[0-9a-f]+: [0-9A-F]+ [0-9A-F]+ (?P<flags>[0-9A-F]{8}) (?P<kind>[0-9A-F]{4}) [0-9A-F]{2} +"
    rb"(?P<inode>[0-9]{1,20}) (?P<path>.+)$",
    re.MULTILINE,
)

_PORT_MAX = 0xFFFF
_REMEMBERED = 4096  # sockets of each table
_V4_IN_V6 = bytes(10) + b"\xff\xff"

Describe = Callable[[Iterable[int]], Mapping[int, Process]]
"""The processes of these pids; one that ended meanwhile is missing."""


class Sockets:
    """The listening sockets of this network namespace. Remembers who held a socket when last asked."""

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._known: dict[int, tuple[str, ...]] = {}  # inode -> descriptors, /proc/PID/fd/N

    def look(self, wanted: Callable[[Listener], bool] | None = None) -> tuple[Listener, ...]:
        """Every listener, with the owners of the wanted ones. Raises ``Unobservable``."""
        found = tuple(listeners())
        asked = {one.inode for one in found if one.inode and wanted is not None and wanted(one)}
        holders = self._holders(asked)
        people = self._describe({pid for pids in holders.values() for pid in pids})
        return tuple(_with_owners(one, holders.get(one.inode, ()), people) for one in found)

    def _holders(self, inodes: set[int]) -> dict[int, tuple[int, ...]]:
        """Inode -> pids. One walk over /proc for all that are new or have changed hands."""
        self._known = {inode: paths for inode, paths in self._known.items() if inode in inodes}
        stale = {inode for inode in inodes if not self._still_held(inode)}
        if stale:
            self._known |= dict.fromkeys(stale, ()) | descriptors_of(stale)
        return {inode: _pids(paths) for inode, paths in self._known.items()}

    def _still_held(self, inode: int) -> bool:
        """Known, and by all who held it. Nobody holds a socket of the kernel itself (nfsd, lockd), ever."""
        return inode in self._known and all(_leads_to(path) == f"socket:[{inode}]" for path in self._known[inode])


def _with_owners(one: Listener, pids: Iterable[int], people: Mapping[int, Process]) -> Listener:
    owners = tuple(people[pid] for pid in pids if pid in people)
    return replace(one, owners=owners) if owners else one


def _pids(paths: Iterable[str]) -> tuple[int, ...]:
    return tuple(sorted({int(path.split("/")[2]) for path in paths}))


# --- tables ------------------------------------------------------------------------------------------------


class _Table(Value):
    """One table of the kernel: how netlink is asked for it and read, and how /proc/net shows it."""

    name: str
    request: bytes
    parse: Callable[[bytes], Listener | None]
    parse_text: Callable[[bytes], Iterator[Listener]]


def listeners() -> Iterator[Listener]:
    """Every socket that waits for somebody, without owners. Raises ``Unobservable``."""
    for table in _TABLES:
        try:
            seen = [table.parse(data) for data in dump(_SOCK_DIAG, _BY_FAMILY, table.request)]
        except Unobservable as refused:
            yield from table.parse_text(_read_table(table.name, refused))
        else:
            yield from (one for one in seen if one is not None)


def parse_inet(data: bytes, protocol: str) -> Listener:
    """One ``struct inet_diag_msg`` (linux/inet_diag.h). Raises ``Unobservable`` for what is none."""
    if len(data) < _INET_SIZE:
        raise Unobservable("sock_diag: a socket is cut short")
    family, _, port, _, source, _ = _INET.unpack_from(data)
    if family not in (socket.AF_INET, socket.AF_INET6):
        raise Unobservable(f"sock_diag: a socket of family {family}")
    address = _address(source[:4] if family == socket.AF_INET else source)
    return Listener(protocol, address, port, inode=_INODE.unpack_from(data, _INET_SIZE - _INODE.size)[0])


def _address(packed: bytes) -> str:
    if packed.startswith(_V4_IN_V6):
        packed = packed[len(_V4_IN_V6) :]
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)  # noqa: PLR2004


def parse_unix(data: bytes) -> Listener | None:
    """One ``struct unix_diag_msg`` with its name; ``None`` for a socket without one: nobody can find it."""
    if len(data) < _UNIX.size:
        raise Unobservable("sock_diag: a socket is cut short")
    _, kind, _, inode = _UNIX.unpack_from(data)
    name = attributes(data[_UNIX.size :]).get(_NAME, b"")
    if kind not in (_STREAM, _SEQPACKET) or not name:
        return None
    return Listener("unix", path=_path(name), inode=inode)


def _path(name: bytes) -> str:
    """As /proc/net/unix shows it: ``@`` for each NUL of an abstract name."""
    if name.startswith(b"\0"):
        return os.fsdecode(name.replace(b"\0", b"@"))
    return os.fsdecode(name.partition(b"\0")[0])


# --- the same from /proc/net -------------------------------------------------------------------------------


def _read_table(table: str, refused: Unobservable) -> bytes:
    """A table of /proc/net; without IPv6 in the kernel its tables are missing, and nothing listens there."""
    try:
        with open(f"{PROC}/self/net/{table}", "rb") as file:
            return file.read()
    except FileNotFoundError:
        if table.endswith("6"):
            return b""
        raise refused from None
    except OSError as error:
        raise Unobservable(f"{refused}; {PROC}/net/{table}: {error.strerror}") from error


def parse_proc_inet(text: bytes, protocol: str) -> Iterator[Listener]:
    """/proc/net/{tcp,tcp6,udp,udp6} (``proc_net_tcp``): ``sl local remote st ... inode``."""
    state = b"0A" if protocol == "tcp" else b"07"
    for line in text.splitlines()[1:]:
        fields = line.split()
        try:
            local, inode = fields[1], int(fields[9])
            if fields[3] == state:
                address, _, port = local.partition(b":")
                yield Listener(protocol, _address(_words(address)), _port(port), inode=inode)
        except (IndexError, ValueError) as error:
            raise Unobservable(f"{PROC}/net/{protocol}: a line that is none") from error


def _port(text: bytes) -> int:
    port = int(text, 16)
    if not 0 <= port <= _PORT_MAX:
        raise ValueError(text)
    return port


def _words(text: bytes) -> bytes:
    """The kernel prints an address as the 32-bit words it holds in memory."""
    if len(text) not in (8, 32) or b"-" in text:
        raise ValueError(text)
    return b"".join(struct.pack("=I", int(text[at : at + 8], 16)) for at in range(0, len(text), 8))


def parse_proc_unix(text: bytes) -> Iterator[Listener]:
    """/proc/net/unix (``unix(7)``): ``Num RefCount Protocol Flags Type St Inode Path``.

    A path may hold a line break: what does not begin like a line belongs to the one before it.
    """
    for line in _UNIX_LINE.finditer(text):
        flags, kind = int(line["flags"], 16), int(line["kind"], 16)
        if flags & _ACCEPTS and kind in (_STREAM, _SEQPACKET):
            yield Listener("unix", path=os.fsdecode(line["path"]), inode=int(line["inode"]))


def _inet_table(name: str, family: int, protocol: int, states: int) -> _Table:
    """What the kernel says of an idle listener is the same bytes in each pass: they are read once."""
    word, request = name.removesuffix("6"), _INET_REQUEST.pack(family, protocol, 0, states)
    parse = lru_cache(_REMEMBERED)(partial(parse_inet, protocol=word))
    return _Table(name, request, parse, partial(parse_proc_inet, protocol=word))


_TABLES = (
    _inet_table("tcp", socket.AF_INET, socket.IPPROTO_TCP, _LISTEN),
    _inet_table("tcp6", socket.AF_INET6, socket.IPPROTO_TCP, _LISTEN),
    _inet_table("udp", socket.AF_INET, socket.IPPROTO_UDP, _CLOSE),
    _inet_table("udp6", socket.AF_INET6, socket.IPPROTO_UDP, _CLOSE),
    _Table(
        "unix",
        _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _LISTEN, 0, _SHOW_NAME),
        lru_cache(_REMEMBERED)(parse_unix),
        parse_proc_unix,
    ),
)


# --- who holds what ----------------------------------------------------------------------------------------


def descriptors_of(inodes: set[int]) -> dict[int, tuple[str, ...]]:
    """Which descriptors lead to these sockets: one walk over every process. Others' are seen by root only."""
    targets = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, list[str]] = {}
    for path, target in _descriptors():
        if target in targets:
            found.setdefault(targets[target], []).append(path)
    return {inode: tuple(paths) for inode, paths in found.items()}


def _descriptors() -> Iterator[tuple[str, str]]:
    """Every descriptor and where it leads. Processes that end meanwhile, or are others', have none."""
    try:
        pids = [name for name in os.listdir(PROC) if name.isdecimal()]
    except OSError as error:
        raise Unobservable(f"{PROC}: {error.strerror}") from error
    for pid in pids:
        folder = f"{PROC}/{pid}/fd"
        try:
            numbers = os.listdir(folder)
        except OSError:
            continue
        for number in numbers:
            path = f"{folder}/{number}"
            yield path, _leads_to(path)


def _leads_to(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


WATCHDOGS = "/sys/class/watchdog"


def watchdog_holders() -> frozenset[int]:
    """The processes that hold a watchdog device. Nobody is looked for where the kernel says none is in use."""
    if not any(_in_use(f"{WATCHDOGS}/{name}/state") for name in _names(WATCHDOGS)):
        return frozenset()
    holding = (path for path, target in _descriptors() if target.startswith("/dev/watchdog"))
    return frozenset(_pids(holding))


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _in_use(path: str) -> bool:
    """Documentation/ABI/testing/sysfs-class-watchdog: ``active`` while it runs; a kernel may not say."""
    try:
        with open(path, "rb") as file:
            return file.read(16).strip() != b"inactive"
    except OSError:
        return True

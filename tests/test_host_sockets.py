"""Sockets and addresses as the kernel gives them: real ones, both sources, and bytes that are none."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import Stale, Unobservable
from reconciler.host import addresses, netlink, sockets
from reconciler.host.sockets import Sockets
from reconciler.model import Address, KeepAddress, Listener, Process

ROOT = Path(__file__).parents[1]


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[dict[str, Listener]]:
    """One socket of each kind that waits, by a word for it; and some that do not."""
    with ExitStack() as stack:

        def make(family: int, kind: int, address: object, *, listen: bool = True) -> socket.socket:
            one = stack.enter_context(socket.socket(family, kind))
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            one.bind(address)  # type: ignore[arg-type]
            if listen and kind != socket.SOCK_DGRAM:
                one.listen()
            return one

        stream, datagram = socket.SOCK_STREAM, socket.SOCK_DGRAM
        path, abstract = str(tmp_path / "a b\xe9"), f"\0of {tmp_path}"
        made = {
            "tcp": make(socket.AF_INET, stream, ("127.0.0.1", 0)),
            "tcp6": make(socket.AF_INET6, stream, ("::1", 0)),
            "any": make(socket.AF_INET6, stream, ("::", 0)),
            "mapped": make(socket.AF_INET6, stream, ("::ffff:127.0.0.1", 0)),
            "udp": make(socket.AF_INET, datagram, ("127.0.0.1", 0)),
            "udp6": make(socket.AF_INET6, datagram, ("::1", 0)),
            "unix": make(socket.AF_UNIX, stream, path),
            "seqpacket": make(socket.AF_UNIX, socket.SOCK_SEQPACKET, f"{path}.seq"),
            "abstract": make(socket.AF_UNIX, stream, abstract),
        }
        make(socket.AF_UNIX, datagram, f"{path}.dgram")
        make(socket.AF_INET, stream, ("127.0.0.1", 0), listen=False)
        connected = make(socket.AF_INET, datagram, ("127.0.0.1", 0))
        connected.connect(made["udp"].getsockname())
        yield {word: _expected(word, one) for word, one in made.items()}


def _expected(word: str, one: socket.socket) -> Listener:
    name, inode = one.getsockname(), os.fstat(one.fileno()).st_ino
    if one.family == socket.AF_UNIX:
        path = name if isinstance(name, str) else os.fsdecode(name.replace(b"\0", b"@"))
        return Listener("unix", path=path, inode=inode)
    protocol = "udp" if one.type == socket.SOCK_DGRAM else "tcp"
    address = "127.0.0.1" if word == "mapped" else name[0]
    return Listener(protocol, address, name[1], inode=inode)


def _ours(found: tuple[Listener, ...] | list[Listener], waiting: dict[str, Listener]) -> set[Listener]:
    """Those in view that this process made: by their inode, or made by anybody under our ports and paths."""
    inodes = {one.inode for one in waiting.values()}
    return {one for one in found if one.inode in inodes}


def test_netlink_shows_every_kind_of_socket_that_waits(waiting: dict[str, Listener]) -> None:
    assert _ours(list(sockets.listeners()), waiting) == set(waiting.values())


def test_proc_shows_the_same_where_netlink_is_refused(
    waiting: dict[str, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> list[bytes]:
        raise Unobservable("netlink: Address family not supported by protocol")

    monkeypatch.setattr(sockets, "dump", refuse)
    found = list(sockets.listeners())
    assert _ours(found, waiting) == set(waiting.values())


def test_one_refused_table_does_not_cost_the_others(
    waiting: dict[str, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = netlink.dump

    def refuse_unix(protocol: int, kind: int, request: bytes) -> list[bytes]:
        if request[0] == socket.AF_UNIX:
            raise Unobservable("netlink: No such file or directory")
        return real(protocol, kind, request)

    monkeypatch.setattr(sockets, "dump", refuse_unix)
    assert _ours(list(sockets.listeners()), waiting) == set(waiting.values())


def test_without_both_sources_it_is_unobservable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> list[bytes]:
        raise Unobservable("netlink: refused")

    monkeypatch.setattr(sockets, "dump", refuse)
    monkeypatch.setattr(sockets, "PROC", str(tmp_path))
    with pytest.raises(Unobservable, match="refused"):
        list(sockets.listeners())
    (tmp_path / "self/net").mkdir(parents=True)
    for name in ("tcp", "udp", "unix"):
        (tmp_path / "self/net" / name).write_text("header\n")
    assert list(sockets.listeners()) == []  # a kernel without IPv6 has no such tables


# --- owners ------------------------------------------------------------------------------------------------


def _describe(pids: object) -> dict[int, Process]:
    return {pid: Process(pid, 0, f"p{pid}", "/x") for pid in pids}  # type: ignore[attr-defined]


def test_owners_are_looked_for_only_where_wanted(waiting: dict[str, Listener]) -> None:
    tcp = waiting["tcp"]
    found = Sockets(_describe).look(lambda one: one.inode == tcp.inode)
    owners = {one.inode: [owner.pid for owner in one.owners] for one in found}
    assert owners[tcp.inode] == [os.getpid()]
    assert owners[waiting["udp"].inode] == []


def test_what_is_remembered_is_true(waiting: dict[str, Listener], monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[set[int]] = []
    real = sockets.descriptors_of

    def walk(inodes: set[int]) -> dict[int, tuple[str, ...]]:
        walks.append(inodes)
        return real(inodes)

    monkeypatch.setattr(sockets, "descriptors_of", walk)
    seen, inode = Sockets(_describe), waiting["tcp"].inode
    with socket.socket() as another:
        another.bind(("127.0.0.1", 0))
        another.listen()
        fresh = os.fstat(another.fileno()).st_ino
        wanted = {inode}
        for _ in range(3):
            seen.look(lambda one: one.inode in wanted)
        assert walks == [{inode}]
        wanted.add(fresh)
        seen.look(lambda one: one.inode in wanted)
        assert walks[1:] == [{fresh}]
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:  # closed here, held by the child alone
        found = seen.look(lambda one: one.inode in wanted)
        assert [o.pid for one in found if one.inode == fresh for o in one.owners] == [child]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_socket_that_nobody_holds_costs_one_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[set[int]] = []
    monkeypatch.setattr(sockets, "listeners", lambda: iter([Listener("tcp", "0.0.0.0", 2049, inode=7)]))

    def walk(inodes: set[int]) -> dict[int, tuple[str, ...]]:
        walks.append(inodes)
        return {}

    monkeypatch.setattr(sockets, "descriptors_of", walk)
    seen = Sockets(_describe)
    assert [seen.look(lambda one: True)[0].owners for _ in range(2)] == [(), ()]
    assert walks == [{7}]


def test_nobody_is_looked_for_while_no_watchdog_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "WATCHDOGS", str(tmp_path))
    monkeypatch.setattr(sockets, "_descriptors", lambda: iter([("/proc/7/fd/3", "/dev/watchdog0")]))
    assert sockets.watchdog_holders() == frozenset()
    (tmp_path / "watchdog0").mkdir()
    (tmp_path / "watchdog0/state").write_text("inactive\n")
    assert sockets.watchdog_holders() == frozenset()
    (tmp_path / "watchdog0/state").write_text("active\n")
    assert sockets.watchdog_holders() == frozenset({7})
    (tmp_path / "watchdog0/state").unlink()  # a kernel that does not say
    assert sockets.watchdog_holders() == frozenset({7})


# --- bytes that are none -----------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_any_datagram_is_read_or_refused(data: bytes) -> None:
    answer = netlink.Answer()
    try:
        answer.take(data)
    except Unobservable:
        return
    for payload in answer.payloads:
        for parse in (
            lambda d: sockets.parse_inet(d, "tcp"),
            sockets.parse_unix,
            lambda d: addresses.parse(d, {1: "a"}),
        ):
            try:
                parse(payload)
            except Unobservable:
                continue


@given(st.binary(max_size=200))
def test_any_payload_is_read_or_refused(data: bytes) -> None:
    for parse in (
        netlink.attributes,
        lambda d: sockets.parse_inet(d, "tcp"),
        lambda d: sockets.parse_inet(b"\x02\x0a" + d, "tcp"),
        lambda d: sockets.parse_unix(b"\x01\x01" + d),
        lambda d: addresses.parse(b"\x02\x18\0\0\x01\0\0\0" + d, {1: "a"}),
    ):
        try:
            parse(data)
        except Unobservable:
            continue


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_any_text_of_proc_is_read_or_refused(lines: list[bytes]) -> None:
    text = b"\n".join([b"header", *lines])
    list(sockets.parse_proc_unix(text))
    try:
        list(sockets.parse_proc_inet(text, "tcp"))
    except Unobservable:
        return


@given(st.binary(min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_a_message_cut_short_anywhere_is_refused(value: bytes, kind: int) -> None:
    whole = netlink.message(20, 0, netlink.attribute(kind & 0x3FFF, value))
    assert [payload for _, _, payload in netlink.messages(whole)] == [whole[16:]]
    for end in range(1, len(whole)):
        with pytest.raises(Unobservable):
            list(netlink.messages(whole[:end]))


def test_a_path_with_a_line_break_forges_no_listener() -> None:
    forged = b"0000000000000000: 00000002 00000000 00010000 0001 01    42 /forged"
    line = b"ffff88: 00000002 00000000 00010000 0001 01 1066 /run/a"
    found = list(sockets.parse_proc_unix(b"Num\n" + line + b"\n"))
    assert [(one.path, one.inode) for one in found] == [("/run/a", 1066)]
    # /proc/net/unix cannot tell the two apart; sock_diag, which is asked first, can
    assert len(list(sockets.parse_proc_unix(b"Num\n" + line + b"\n" + forged + b"\n"))) == 2


def test_the_kernels_error_is_told() -> None:
    refused = netlink.message(2, 0, struct.pack("=i", -errno.ENOENT))
    with pytest.raises(Unobservable, match="No such file"):
        netlink.Answer().take(refused)


def test_a_dump_that_keeps_changing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def torn(*_: object) -> netlink.Answer:
        asked.append(1)
        answer = netlink.Answer()
        answer.take(netlink.message(3, 0x10, bytes(4)))
        return answer

    monkeypatch.setattr(netlink, "ask", torn)
    with pytest.raises(Unobservable, match="changes faster"):
        netlink.dump(4, 20, b"")
    assert len(asked) == netlink.TRIES


def test_no_answer_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "DEADLINE", 0.05)
    start = time.monotonic()
    with pytest.raises(Unobservable):
        netlink.ask(4, b"")  # too short for a request: the kernel says nothing
    assert time.monotonic() - start < 1


# --- addresses ---------------------------------------------------------------------------------------------


def test_loopback_has_its_address_for_ever() -> None:
    assert Address("lo", "127.0.0.1", 8) in addresses.addresses()


def test_an_address_that_is_not_held_is_stale() -> None:
    with pytest.raises(Stale, match=r"lo does not hold 192\.0\.2\.77/24"):
        addresses.keep(KeepAddress("lo", "192.0.2.77", 24))
    with pytest.raises(Stale):
        addresses.must_last([("lo", "127.0.0.1", 8), ("lo", "192.0.2.77", 24)])


INSIDE = """
import subprocess, sys, json
from reconciler.errors import Stale
from reconciler.host.addresses import addresses, keep, must_last
from reconciler.model import Address, KeepAddress
def ip(words): return subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True).stdout
def shown(): return json.loads(ip("-d -j addr show dev one"))[0]["addr_info"]
ip("link add one type veth peer name two"); ip("link set two up"); ip("link set one up")
ip("addr add 192.0.2.5/24 brd + dev one label one:x valid_lft 300 preferred_lft 200 noprefixroute")
ip("addr add 198.51.100.1 peer 198.51.100.9/32 dev one valid_lft 300 preferred_lft 200")
ip("addr add 2001:db8::5/64 dev one valid_lft 300 preferred_lft 200 nodad")
ip("route add 192.0.2.0/24 dev one metric 7")
routes, before = ip("route; ".strip("; ")), shown()
held = {(a.address, a.prefix): a.valid for a in addresses() if a.interface == "one"}
assert 290 < held["192.0.2.5", 24] <= 300, held
try: must_last([("one", "192.0.2.5", 24)])
except Stale as error: assert "only on lease" in str(error), error
else: raise AssertionError
for address, prefix in (("192.0.2.5", 24), ("198.51.100.1", 32), ("2001:0db8:0::5", 64)):
    assert keep(KeepAddress("one", address, prefix)).word == "done"
    assert keep(KeepAddress("one", address, prefix)).detail == "it was for ever already"
must_last([("one", "192.0.2.5", 24), ("one", "2001:db8::5", 64)])
for was, now in zip(before, shown(), strict=True):
    changed = {key for key in was.keys() | now.keys() if was.get(key) != now.get(key)}
    assert changed <= {"valid_life_time", "preferred_life_time", "dynamic"}, (was, now)
assert ip("route") == routes
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and iproute2")
def test_keeping_an_address_changes_its_lifetimes_and_nothing_else() -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", INSIDE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

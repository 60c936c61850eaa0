"""What systemd is asked and told, with a bus daemon and a systemctl of our own: real sockets, real processes."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.errors import ActionFailed, Stale, Unobservable
from reconciler.expectations import states_before
from reconciler.host import bus, systemd
from reconciler.host.eyes import RealEyes
from reconciler.host.files import Root
from reconciler.host.systemd import SystemctlHandle, Systemd, pieces
from reconciler.model import (
    DisableUnit,
    EnableUnit,
    Link,
    LinkState,
    MaskUnit,
    Outcome,
    ReloadManager,
    StartService,
    StopService,
    Unlink,
    UnmaskUnit,
)
from reconciler.storage.kept import Kept, inverse

WANTS = "/etc/systemd/system/multi-user.target.wants"
Answer = Callable[[bytes, int], bytes]


# --- a bus daemon --------------------------------------------------------------------------------------------------


def string(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode() + b"\0"


def padded(data: bytes, size: int) -> bytes:
    return data + b"\0" * (-len(data) % size)


def units(*found: tuple[str, str]) -> bytes:
    """The body of a ListUnits answer."""
    data = b""
    for name, state in found:
        data = padded(data, 8)
        for text in (name, "A description.", "loaded", state, "running", "", f"/unit/{name}"):
            data = padded(data, 4) + string(text)
        data = padded(data, 4) + struct.pack("<I", 0)
        data += string("")
        data = padded(data, 4) + string("/")
    return struct.pack("<II", len(data), 0) + data


def message(kind: int, serial: int, body: bytes = b"", error: str = "") -> bytes:
    """A message: 2 is an answer, 3 an error, 4 a signal."""
    fields = b"\x05\x01u\0" + struct.pack("<I", serial)
    if error:
        fields = padded(fields, 8) + b"\x04\x01s\0" + string(error)
    fields = padded(fields, 8) + b"\x08\x01g\0\x01s\0"
    header = struct.pack("<4BIII", ord("l"), kind, 0, 1, len(body), 9, len(fields))
    return padded(header + fields, 8) + body


class Daemon:
    """Answers each question by a function of it and its serial; what it was asked is kept."""

    def __init__(self, path: Path, answer: Answer, greeting: bytes = b"OK 0123\r\n") -> None:
        self.path, self.answer, self.greeting = str(path), answer, greeting
        self.asked: list[bytes] = []
        self.end = socket.socket(socket.AF_UNIX)
        self.end.bind(self.path)
        self.end.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self.end.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(peer,), daemon=True).start()

    def _talk(self, peer: socket.socket) -> None:
        with peer:
            got = b""
            while b"BEGIN\r\n" not in got:
                got += peer.recv(4096)
            peer.sendall(self.greeting)
            got = got.partition(b"BEGIN\r\n")[2]
            while True:
                part = peer.recv(4096)
                if not part:
                    return
                got += part
                while (size := _whole(got)) and len(got) >= size:
                    question, got = got[:size], got[size:]
                    self._reply(peer, question)

    def _reply(self, peer: socket.socket, question: bytes) -> None:
        (serial,) = struct.unpack_from("<I", question, 8)
        if b"Hello" in question:
            peer.sendall(message(2, serial, string(":1.5")) + message(4, 77, string("a signal in between")))
            return
        self.asked.append(question)
        for byte in self.answer(question, serial):  # in the smallest pieces there are
            peer.sendall(bytes((byte,)))


def _whole(data: bytes) -> int:
    if len(data) < 16:
        return 0
    body, _, fields = struct.unpack_from("<III", data, 4)
    return int((16 + fields + 7) // 8 * 8 + body)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    started: list[Daemon] = []

    def start(answer: Answer, **options: bytes) -> Daemon:
        started.append(Daemon(tmp_path / f"bus{len(started)}", answer, **options))
        return started[-1]

    yield start
    for one in started:
        one.end.close()


def answering(body: bytes) -> Answer:
    return lambda _question, serial: message(2, serial, body)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    (tmp_path / "root" / WANTS[1:]).mkdir(parents=True)
    opened = Root(str(tmp_path / "root"))
    yield opened
    opened.close()


# --- asking --------------------------------------------------------------------------------------------------------


def test_it_tells_what_is_active(root: Root, daemon: Callable[..., Daemon]) -> None:
    server = daemon(answering(units(("b.socket", "active"), ("a.timer", "activating"), ("c.path", "failed"))))
    assert Systemd(root, sockets=[server.path]).triggers() == ("a.timer", "b.socket")
    assert b"*.socket" in server.asked[0]


def test_the_next_socket_is_tried_when_one_lets_nobody_in(root: Root, daemon: Callable[..., Daemon]) -> None:
    refusing = daemon(answering(units()), greeting=b"REJECTED\r\n")
    server = daemon(answering(units(("a.socket", "active"))))
    sockets = ["/nowhere/bus", refusing.path, server.path]
    assert Systemd(root, sockets=sockets).triggers() == ("a.socket",)


def test_nobody_to_ask_is_unobservable(root: Root) -> None:
    with pytest.raises(Unobservable, match="/nowhere/bus: No such file or directory"):
        Systemd(root, sockets=["/nowhere/bus"]).triggers()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda _q, serial: message(3, serial, error="org.freedesktop.DBus.Error.AccessDenied"), "AccessDenied"),
        (lambda _q, serial: message(2, serial, b"\xff" * 64), "makes no sense"),
        (lambda _q, _s: b"B" + b"\0" * 15, "byte order"),
        (lambda _q, _s: struct.pack("<4BIII", ord("l"), 2, 0, 1, 1 << 30, 1, 0), "too large"),
    ],
)
def test_what_makes_no_sense_is_unobservable(
    root: Root, daemon: Callable[..., Daemon], answer: Answer, why: str
) -> None:
    with pytest.raises(Unobservable, match=why):
        Systemd(root, sockets=[daemon(answer).path]).triggers()


def test_an_answer_that_never_comes_has_a_time_limit(daemon: Callable[..., Daemon]) -> None:
    server = daemon(lambda _question, _serial: b"")
    before = time.monotonic()
    with pytest.raises(bus.BusError, match="no answer in time"):
        bus.ask("Reload", seconds=0.2, sockets=[server.path])
    assert time.monotonic() - before < 2


@given(st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(body: bytes) -> None:
    with contextlib.suppress(bus.BusError):
        bus.read_units(body)


def test_a_reload_is_asked_for(root: Root, daemon: Callable[..., Daemon]) -> None:
    server = daemon(answering(b""))
    assert Systemd(root, sockets=[server.path]).do(ReloadManager()) == Outcome("done")
    assert b"Reload" in server.asked[-1]


def test_who_does_not_answer_at_all_is_not_waited_for_as_long_as_a_reload_may_take(
    root: Root, daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "ANSWER_SECONDS", 0.2)
    server = daemon(lambda _question, _serial: b"")
    with pytest.raises(ActionFailed, match="no answer in time"):
        Systemd(root, sockets=[server.path]).do(ReloadManager())
    assert not [question for question in server.asked if b"Reload" in question]


def test_a_reload_that_cannot_be_asked_for_has_failed(root: Root) -> None:
    with pytest.raises(ActionFailed, match="cannot be asked"):
        Systemd(root, sockets=[]).do(ReloadManager())


# --- links ---------------------------------------------------------------------------------------------------------


def test_disabling_takes_the_links_away_and_enabling_puts_the_same_back(root: Root) -> None:
    links = ((f"{WANTS}/a.service", "/lib/systemd/system/a.service"), (f"{WANTS}/a.socket", "../a.socket"))
    for path, target in links:
        os.symlink(target, root.path + path)
    systemd = Systemd(root)
    assert systemd.do(DisableUnit("a", ("a.service",), links)) == Outcome("done")
    assert os.listdir(root.path + WANTS) == []
    os.rmdir(root.path + WANTS)  # as systemctl does with an empty farm
    assert systemd.do(EnableUnit("a", ("a.service",), links)) == Outcome("done")
    assert {os.readlink(root.path + path) for path, _ in links} == {target for _, target in links}


def test_a_link_comes_back_with_its_owner_and_time(root: Root) -> None:
    links = ((f"{WANTS}/a.service", "a"), (f"{WANTS}/b.service", "a"), (f"{WANTS}/gone.service", "c"))
    for moment, (path, target) in enumerate(links[:2], 1_700_000_000):
        os.symlink(target, root.path + path)
        os.utime(root.path + path, ns=(moment * 10**9 + 7, moment * 10**9 + 7), follow_symlinks=False)
    before = [root.entry(path) for path, _ in links[:2]]
    disable = DisableUnit("a", ("a.service",), links)
    [kept] = states_before([disable], RealEyes(root))
    assert not isinstance(kept, Outcome)
    Systemd(root).do(disable)
    [enable] = inverse(Kept("p.1", disable, kept))
    Systemd(root).do(enable)  # type: ignore[arg-type]  # the inverse of an action on units is one
    assert [root.entry(path) for path, _ in links[:2]] == before


def test_a_link_that_changed_stays_and_the_others_go(root: Root) -> None:
    os.symlink("elsewhere", f"{root.path}{WANTS}/a.service")
    os.symlink("b", f"{root.path}{WANTS}/b.service")
    links = ((f"{WANTS}/a.service", "a"), (f"{WANTS}/b.service", "b"), (f"{WANTS}/gone.service", "c"))
    outcome = Systemd(root).do(DisableUnit("a", (), links))
    assert outcome.word == "done"
    assert "no longer a link to a" in outcome.detail
    assert os.listdir(root.path + WANTS) == ["a.service"]


def test_disabling_what_is_gone_is_stale(root: Root) -> None:
    with pytest.raises(Stale):
        Systemd(root).do(DisableUnit("a", (), ((f"{WANTS}/a.service", "a"),)))


def test_nothing_to_change_has_failed(root: Root) -> None:
    with pytest.raises(ActionFailed):
        Systemd(root).do(EnableUnit("a", ("a.service",)))


def test_a_mask_is_a_link_and_goes_again(root: Root) -> None:
    path = f"{root.path}/etc/systemd/system/a.service"
    systemd = Systemd(root)
    assert systemd.do(MaskUnit("a", ("a.service",))) == Outcome("done")
    assert systemd.do(MaskUnit("a", ("a.service",))) == Outcome("done")
    assert os.readlink(path) == "/dev/null"
    assert systemd.do(UnmaskUnit("a", ("a.service",))) == Outcome("done")
    assert not os.path.lexists(path)
    with pytest.raises(Stale):
        systemd.do(UnmaskUnit("a", ("a.service",)))


def test_a_unit_of_the_administrators_own_is_never_overwritten_by_a_mask(root: Root) -> None:
    own = Path(f"{root.path}/etc/systemd/system/a.service")
    own.write_text("[Service]\n")
    with pytest.raises(ActionFailed, match=r"a\.service.*administrator's own is not masked"):
        Systemd(root).do(MaskUnit("a", ("a.service", "a.socket")))
    assert own.read_text() == "[Service]\n"
    assert os.readlink(f"{root.path}/etc/systemd/system/a.socket") == "/dev/null"


def test_the_pieces_are_what_is_made_durable() -> None:
    mask = "/etc/systemd/system/a.service"
    assert pieces(MaskUnit("a", ("a.service",))) == (Link(mask, LinkState("/dev/null")),)
    assert pieces(UnmaskUnit("a", ("a.service",))) == (Unlink(mask, "/dev/null"),)
    assert pieces(ReloadManager()) == ()


# --- stops ---------------------------------------------------------------------------------------------------------


class Program:
    """A systemctl of ours: it keeps its arguments, then does what its text says."""

    def __init__(self, folder: Path, text: str) -> None:
        self.path, self.log = folder / "systemctl", folder / "arguments"
        self.path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{self.log}\nenv >{self.log}.env\n{text}\n')
        self.path.chmod(0o755)

    @property
    def arguments(self) -> list[str]:
        return self.log.read_text().splitlines()


def ended(handle: SystemctlHandle, timeout: float = 10) -> Outcome:
    poll = select.poll()
    poll.register(handle.fd, select.POLLIN)
    assert poll.poll(timeout * 1000), "it never ended"
    return handle.finish()


def test_all_units_are_stopped_by_one_child(root: Root, tmp_path: Path) -> None:
    program = Program(tmp_path, "exit 0")
    systemd = Systemd(root, systemctl=str(program.path))
    handle = systemd.begin(StopService("a", units=("a.socket", r"a\x2db@*.service", "a.service")))
    assert ended(handle) == Outcome("done")
    assert program.arguments[-5:] == ["stop", "--", "a.socket", r"a\\x2db@*.service", "a.service"]
    environment = Path(f"{program.log}.env").read_text()
    assert "PATH=/usr/sbin:/usr/bin:/sbin:/bin" in environment
    assert "HOME" not in environment


def test_names_that_are_none_of_a_unit_reach_nobody(root: Root, tmp_path: Path) -> None:
    program = Program(tmp_path, "exit 0")
    systemd = Systemd(root, systemctl=str(program.path))
    odd = ("--root=/", "a b.service", "a\n.service", "a.target", "$(reboot).service")
    with pytest.raises(ActionFailed, match="no unit"):
        systemd.begin(StopService("a", units=odd))
    handle = systemd.begin(StopService("a", units=(*odd, "-a.service")))
    assert ended(handle) == Outcome("done")
    assert program.arguments[-2:] == ["--", "-a.service"]


def test_an_error_about_what_is_not_loaded_is_a_stop_all_the_same(
    root: Root, tmp_path: Path, daemon: Callable[..., Daemon]
) -> None:
    program = Program(tmp_path, "echo 'Failed to stop b.service: Unit b.service not loaded.' >&2; exit 5")
    server = daemon(answering(units()))
    systemd = Systemd(root, systemctl=str(program.path), sockets=[server.path])
    assert ended(systemd.begin(StopService("a", units=("a.service", "b.service")))) == Outcome("done")
    assert b"b.service" in server.asked[0]


def test_what_is_still_active_has_not_been_stopped(root: Root, tmp_path: Path, daemon: Callable[..., Daemon]) -> None:
    program = Program(tmp_path, "echo no >&2; exit 1")
    server = daemon(answering(units(("a.service", "active"))))
    outcome = ended(
        Systemd(root, systemctl=str(program.path), sockets=[server.path]).begin(StopService("a", units=("a.service",)))
    )
    assert outcome == Outcome("failed", "no; still active: a.service")


def test_a_stop_that_hangs_is_pressed_and_given_up(root: Root, tmp_path: Path) -> None:
    program = Program(tmp_path, f"trap '' TERM; : >{tmp_path}/ready; while :; do sleep 0.05; done")
    handle = Systemd(root, systemctl=str(program.path), seconds=0.1).begin(StopService("a", units=("a.service",)))
    assert handle.finish() == Outcome("pending", "it still runs")
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    handle.expire()
    assert handle.deadline > time.monotonic()
    time.sleep(0.2)
    assert handle.finish().word == "pending"
    handle.expire()
    outcome = ended(handle)
    assert outcome.word == "failed"
    assert "systemd goes on" in outcome.detail
    assert handle.fd == -1


def test_no_descriptor_for_the_watch_leaves_no_systemctl(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def refuse(pid: int) -> int:
        started.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    program = Program(tmp_path, "exec sleep 987")
    with pytest.raises(ActionFailed, match="cannot be watched: Too many open files"):
        Systemd(root, systemctl=str(program.path)).begin(StopService("a", units=("a.service",)))
    (pid,) = started
    with pytest.raises(ChildProcessError):  # it was ended, and reaped
        os.waitpid(pid, os.WNOHANG)


def test_a_systemctl_that_is_not_there_has_failed(root: Root) -> None:
    with pytest.raises(ActionFailed, match="cannot be run"):
        Systemd(root, systemctl="/nowhere/systemctl").begin(StopService("a", units=("a.service",)))


def test_what_it_prints_blocks_nobody(root: Root, tmp_path: Path) -> None:
    program = Program(tmp_path, "head -c 300000 /dev/zero | tr '\\0' x >&2; echo; echo last >&2; exit 1")
    outcome = ended(
        Systemd(root, systemctl=str(program.path), sockets=[]).begin(StopService("a", units=("a.service",)))
    )
    assert outcome.word == "failed"
    assert "last" in outcome.detail
    assert len(outcome.detail) < 3000


def test_starting_again_leaves_out_what_waits_for_its_time(root: Root, tmp_path: Path) -> None:
    program = Program(tmp_path, "exit 0")
    stopped = ("a.timer", "a.service", "b.socket", "b.service", "c@*.service")
    handle = Systemd(root, systemctl=str(program.path)).begin(StartService("a", units=stopped))
    assert ended(handle) == Outcome("done")
    assert program.arguments[-4:] == ["--", "a.timer", "b.socket", "b.service"]


def test_no_descriptor_is_left_behind(root: Root, tmp_path: Path) -> None:
    program = Program(tmp_path, "exit 0")
    systemd = Systemd(root, systemctl=str(program.path))
    ended(systemd.begin(StopService("a", units=("a.service",))))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        ended(systemd.begin(StopService("a", units=("a.service",))))
        with pytest.raises(ActionFailed):
            Systemd(root, systemctl="/nowhere").begin(StopService("a", units=("a.service",)))
        with pytest.raises(Unobservable):
            Systemd(root, sockets=["/nowhere"]).triggers()
    assert len(os.listdir("/proc/self/fd")) == before

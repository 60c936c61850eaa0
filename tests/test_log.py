"""The system's log: the right fields, the best sink there is at this moment, and never a wait for it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler import sinks
from reconciler.log import KINDS, Log, _by_structlog, _shape, for_command, for_daemon, word_of
from reconciler.model import Record
from reconciler.sinks import Console, Fields, NativeJournald, Outlet, Syslog, SystemdJournald

SOURCE = Path(__file__).parent.parent
DONE = Record(
    "p1.3",
    1.5,
    "p1",
    "outcome",
    "unlink",
    "rclinks",
    "exim4",
    "/etc/rc2.d/S20exim4",
    "done",
    "boot",
    "unapproved",
)


def announce(detail: str) -> Fields:
    return {"MESSAGE": detail, "SYSLOG_IDENTIFIER": "x"}


class Listener:
    """A log daemon: a socket that can be there, be full, go away and come back."""

    def __init__(self, path: Path, kind: socket.SocketKind = socket.SOCK_DGRAM) -> None:
        self.path, self.kind = path, kind
        self.listen()

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.socket = socket.socket(socket.AF_UNIX, self.kind)
        self.socket.bind(str(self.path))
        if self.kind == socket.SOCK_STREAM:
            self.socket.listen()
        self.socket.setblocking(False)

    def received(self) -> list[bytes]:
        """Each datagram; of one with a file in it, the file."""
        found: list[bytes] = []
        while True:
            try:
                data, files, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
            except BlockingIOError:
                return found
            for fd in files:
                data += os.pread(fd, 1 << 22, 0)
                os.close(fd)
            found.append(data)


@pytest.fixture
def journald(tmp_path: Path) -> Listener:
    return Listener(tmp_path / "journald")


@pytest.fixture
def syslog(tmp_path: Path) -> Listener:
    return Listener(tmp_path / "syslog")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "PATIENCE", 0.05)


def outlet(journald: Listener, syslog: Listener) -> Outlet:
    return Outlet([NativeJournald(str(journald.path)), Syslog(str(syslog.path)), Console()], announce)


# --- what a message says ----------------------------------------------------------------------


def test_a_record_becomes_native_fields() -> None:
    assert _shape(word_of(DONE), record=DONE) == {
        "MESSAGE": "unlink /etc/rc2.d/S20exim4 of exim4: done (unapproved; boot)",
        "MESSAGE_ID": KINDS["done"].message_id,
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "dom0-reconciler",
        "RECONCILER_PASS": "p1",
        "RECONCILER_ACTION": "unlink",
        "RECONCILER_KIND": "rclinks",
        "RECONCILER_SERVICE": "exim4",
        "RECONCILER_TARGET": "/etc/rc2.d/S20exim4",
        "RECONCILER_OUTCOME": "done",
        "RECONCILER_CAUSE": "boot",
        "RECONCILER_RULE": "unapproved",
        "RECONCILER_ID": "p1.3",
    }


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Record("a.1", 0, "a", "intent", "unlink", target="/x", cause="boot"), "about to unlink /x (boot)"),
        (
            Record(
                "a.1",
                0,
                "a",
                "outcome",
                "stop-service",
                service="lpd",
                target="",
                outcome="failed",
                detail="exit 1",
            ),
            "stop-service lpd: failed, exit 1",
        ),
        (Record("t", 0, "", "torn", detail="12 bytes"), "journal torn by a crash: 12 bytes"),
        (Record("t", 0, "", "start"), "started"),
        (Record("t", 0, "", "novel", detail="something"), "novel: something"),
    ],
)
def test_a_record_reads_as_a_sentence(record: Record, message: str) -> None:
    assert _shape(word_of(record), record=record)["MESSAGE"] == message


def test_an_unknown_word_is_logged_all_the_same() -> None:
    assert _shape("novel", detail="x") == {
        "MESSAGE": "novel: x",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "dom0-reconciler",
    }


def test_message_ids_are_distinct_128_bit_ids() -> None:
    ids = [kind.message_id for kind in KINDS.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    assert set(KINDS) >= {"intent", "done", "pending", "stale", "held", "failed", "unverified"}


@pytest.mark.parametrize("word", KINDS)
def test_structlog_shapes_a_message_just_the_same(word: str) -> None:
    pytest.importorskip("structlog")
    by_structlog = _by_structlog()
    assert by_structlog(word, detail="x", path="/y") == _shape(word, detail="x", path="/y")
    record = Record("i", 1.0, "p", word, detail="d")
    assert by_structlog(word, record=record) == _shape(word, record=record)


# --- the wire ---------------------------------------------------------------------------------


def parse(data: bytes) -> dict[str, str]:
    """The native protocol, read back."""
    found = {}
    while data:
        line, _, rest = data.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        found[key.decode()] = value.decode()
        data = rest
    return found


def test_a_datagram_of_the_native_protocol_says_it_all(journald: Listener) -> None:
    fields = {"MESSAGE": "two\nlines=x", "PRIORITY": "6", "RECONCILER_TARGET": "/ä\udcff"}
    Outlet([NativeJournald(str(journald.path))], announce).burst([fields])
    (data,) = journald.received()
    assert parse(data) == {**fields, "RECONCILER_TARGET": "/ä\\udcff"}


def test_what_is_too_large_for_a_datagram_goes_as_a_sealed_file(journald: Listener) -> None:
    fields = {"MESSAGE": "x" * 1_000_000}
    Outlet([NativeJournald(str(journald.path))], announce).burst([fields])
    assert [parse(data) for data in journald.received()] == [fields]


def test_syslog_gets_one_line_with_the_id_that_undo_takes() -> None:
    fields = {**_shape("done", record=DONE), "MESSAGE": "a\nb"}
    line = sinks.syslog_line(fields, time.strptime("2005-06-06 12:03:04", "%Y-%m-%d %H:%M:%S"))
    assert line == f"<29>Jun  6 12:03:04 dom0-reconciler[{os.getpid()}]: a b [p1.3]"


def test_syslog_may_listen_with_a_stream(tmp_path: Path) -> None:
    listener = Listener(tmp_path / "log", socket.SOCK_STREAM)
    Outlet([Syslog(str(listener.path))], announce).burst([_shape("start"), _shape("stop")])
    connection, _ = listener.socket.accept()
    assert [line.split(b"]: ")[1] for line in connection.recv(4096).split(b"\0")[:-1]] == [
        b"started",
        b"stopped",
    ]


def test_python_systemd_gets_the_fields_as_they_are(journald: Listener) -> None:
    sent: list[dict[str, str]] = []
    sink = SystemdJournald(lambda **fields: sent.append(fields), str(journald.path))
    Outlet([sink], announce).burst([{"MESSAGE": "ä\udcff", "PRIORITY": "6"}])
    assert sent == [{"MESSAGE": "ä\\udcff", "PRIORITY": "6", "CODE_FUNC": "reconciler"}]


# --- the best log there is --------------------------------------------------------------------


def words(data: list[bytes]) -> list[str]:
    return [re.sub(rb"^<.*\]: |^MESSAGE=|\n(?s:.*)", b"", each).decode() for each in data]


def test_journald_then_syslog_then_the_console_and_back(
    journald: Listener, syslog: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(outlet(journald, syslog))
    log.say("start")
    journald.socket.close()  # the name is still there, and nobody listens: what libsystemd calls a success
    log.say("gap", "one")
    syslog.path.unlink()
    log.say("gap", "two")
    journald.listen()
    log.say("gap", "three")
    assert words(journald.received()) == [
        "goes to journald now, went to console before",
        "could not look: three",
    ]
    assert words(syslog.received()) == ["goes to syslog now, went to journald before", "could not look: one"]
    assert capsys.readouterr().err.splitlines() == [
        "goes to console now, went to syslog before",
        "could not look: two",
    ]


@pytest.mark.parametrize("by_systemd", [False, True])
def test_a_log_that_does_not_read_holds_up_nobody(
    journald: Listener, syslog: Listener, by_systemd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue fills up; the rest of the burst goes on to the next one, and it is not asked again for a
    while.
    """
    out = outlet(journald, syslog)
    if by_systemd:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        peer.connect(str(journald.path))
        out.replace(SystemdJournald(lambda **f: peer.send(f["MESSAGE"].encode()), str(journald.path)))
    messages = [{"MESSAGE": str(n), "SYSLOG_IDENTIFIER": "x"} for n in range(2000)]
    monkeypatch.setattr(Console, "connect", lambda self: False)
    begin = time.monotonic()
    for start in range(0, 2000, 10):
        out.burst(messages[start : start + 10])
    assert time.monotonic() - begin < 2
    first, second = words(journald.received()), words(syslog.received())
    assert first == [str(n) for n in range(len(first))]
    assert first
    assert second[:2] == ["goes to syslog now, went to journald before", str(len(first))]
    monkeypatch.setattr(sinks, "SULK", 0)
    out._sulking.clear()
    out.burst(messages[:1])
    lost = 2000 - len(first) - (len(second) - 1)
    assert words(journald.received())[-2:] == [f"{lost} messages were lost: no log took them", "0"]


def test_without_any_log_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    log = Log(Outlet([NativeJournald(str(tmp_path / "none")), Console()], announce))
    log.records([DONE] * 3)
    log.say("start")


def test_another_tree_logs_to_the_console_only(
    capsys: pytest.CaptureFixture[str], journald: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("a socket of this host was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    for_daemon(live=False).say("start")
    for_command(live=False).records([DONE])
    assert capsys.readouterr().err == "started\n"


def test_a_context_is_on_every_message(journald: Listener) -> None:
    log = Log(Outlet([NativeJournald(str(journald.path))], announce)).bind(**{"pass": "p7"})
    log.say("gap", "one")
    log.say("gap", "two", ref="rclinks:rc2.d")
    one, two = map(parse, journald.received())
    assert one["RECONCILER_PASS"] == two["RECONCILER_PASS"] == "p7"
    assert two["RECONCILER_REF"] == "rclinks:rc2.d"


# --- what is imported when --------------------------------------------------------------------


def run(script: str) -> str:
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=SOURCE, capture_output=True, text=True, check=True, timeout=60
    )
    return found.stdout.strip()


def test_a_command_imports_no_library_for_its_records() -> None:
    script = (
        "import sys; from reconciler.log import for_command;"
        "import reconciler.journal, reconciler.quarantine;"
        "from reconciler.model import Record;"
        "for_command(live=True).records([Record('a.1', 0.0, 'a', 'intent', 'unlink', target='/x')]);"
        "print({'structlog', 'systemd', 'pyinotify', 'watchdog', 'logging', 'asyncio'} & set(sys.modules))"
    )
    assert run(script) == "set()"


def test_the_daemon_goes_on_by_structlog_and_hears_libraries() -> None:
    pytest.importorskip("structlog")
    script = (
        "import sys; from reconciler.log import for_daemon; log = for_daemon(live=False); log.adopt();"
        "assert 'structlog' in sys.modules; sys.stderr = sys.stdout;"
        "log.say('start'); import logging; logging.getLogger('watchdog').warning('odd\\n%s', 'thing')"
    )
    assert run(script).splitlines() == ["started", "a library says: watchdog: odd\\x0athing"]


def test_without_structlog_the_daemon_still_logs() -> None:
    script = (
        "import sys; sys.modules['structlog'] = sys.modules['systemd'] = None; sys.stderr = sys.stdout;"
        "from reconciler.log import for_daemon; log = for_daemon(live=False); log.adopt(); log.say('start')"
    )
    first, second = run(script).splitlines()
    assert first.startswith("fault: structlog does not load")
    assert second == "started"


# --- a real journald --------------------------------------------------------------------------

JOURNALD = "/lib/systemd/systemd-journald"
REAL = """
set -e
mount -t tmpfs none /run; mount -t tmpfs none /var/log
mkdir -p /run/systemd/journal /run/log/journal
{journald} & daemon=$!
for i in $(seq 100); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
{python} - <<'END'
from reconciler.log import for_daemon
from reconciler.model import Record
record = Record("p1.1", 1.5, "p1", "intent", "unlink", "rclinks", "exim4", "/x", cause="two\\nlines")
log = for_daemon(live=True)
log.records([record]); log.say("gap", "x" * 300000)
log.adopt()
log.records([record]); log.say("gap", "x" * 300000)
END
sleep 1
journalctl -D /run/log/journal -t dom0-reconciler -o json --all --no-pager
kill $daemon
"""


@pytest.fixture
def _real() -> None:
    if os.geteuid() != 0 or not all(map(shutil.which, (JOURNALD, "unshare", "journalctl"))):
        pytest.skip("needs root, unshare(1) and systemd-journald")
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/run"], check=False).returncode:
        pytest.skip("needs to mount in a namespace of its own")


@pytest.mark.usefixtures("_real")
def test_a_real_journald_keeps_every_field_both_ways() -> None:
    """In a mount namespace of its own, so that nothing of this host is written to."""
    import json

    script = REAL.format(journald=JOURNALD, python=sys.executable)
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
    found = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=True, timeout=60)
    entries = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(entries) == 4
    for entry in entries[::2]:
        assert entry["RECONCILER_CAUSE"] == "two\nlines"
        assert entry["MESSAGE_ID"] == KINDS["intent"].message_id
        assert {key for key in entry if key.startswith("RECONCILER_")} == {
            f"RECONCILER_{key}" for key in ("PASS", "ACTION", "KIND", "SERVICE", "TARGET", "CAUSE", "ID")
        }
    assert {len(entry["MESSAGE"]) for entry in entries[1::2]} == {len("could not look: ") + 300_000}

"""The ways out to the system's log: journald, syslog, the console. Each message goes to the best one there
is.

A message is a mapping of journal fields (``systemd.journal-fields(7)``): ``MESSAGE``, ``PRIORITY`` and our
own.

journald is spoken to in its native protocol, which systemd documents for clients that do without its library
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL/): a datagram of ``KEY=value`` lines. One-shot commands use it
because the other ways cost more or say less: python-systemd is 25 ms of import, ``logger --journald`` a
process for each record, and neither tells when nobody listens (libsystemd makes success of a missing
journald), while a datagram fails with an errno. The daemon sends through python-systemd where it is
installed, with the same check before each message. No log is waited for longer than :data:`PATIENCE`: a
stopped journald must not stop a correction.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

Fields = Mapping[str, str]

JOURNALD = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"

PATIENCE = 0.5
"""Seconds that a log may let a message wait; its queue is full then, and nobody empties it."""

SULK = 30.0
"""Seconds for which a log that let one wait is not asked again."""

_DAEMON = 3 << 3  # the facility, RFC 5424
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Sink(Protocol):
    """One way out."""

    name: str

    def connect(self) -> bool:
        """Say whether anybody listens now; :meth:`close` ends it."""
        ...

    def send(self, fields: Fields) -> None:
        """Hand one message over; ``OSError`` where it is not taken."""
        ...

    def close(self) -> None:
        """Let the connection go: the next burst finds a log that was restarted."""
        ...


class _Socket:
    """A local socket that a log listens at. Connecting tells a dead socket from a live one."""

    name = ""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.close()

    def connect(self) -> bool:
        try:
            self._open(socket.SOCK_DGRAM)
        except OSError as error:
            return error.errno == errno.EPROTOTYPE and self._stream()
        return True

    def _stream(self) -> bool:
        """Some syslog daemons listen with a stream socket."""
        with suppress(OSError):
            self._open(socket.SOCK_STREAM)
            return True
        return False

    def _open(self, kind: socket.SocketKind) -> None:
        self._socket = socket.socket(socket.AF_UNIX, kind)
        try:
            self._socket.settimeout(PATIENCE)
            self._socket.connect(self._path)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()


class NativeJournald(_Socket):
    """journald, by its native protocol."""

    name = "journald"

    def __init__(self, path: str = JOURNALD) -> None:
        super().__init__(path)

    def send(self, fields: Fields) -> None:
        data = native(fields)
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            self._send_file(data)

    def _send_file(self, data: bytes) -> None:
        """What is too large for a datagram goes as a sealed memfd."""
        fd = os.memfd_create("journal-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(fd, data)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            self._socket.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))])
        finally:
            os.close(fd)


class SystemdJournald(_Socket):
    """journald, by ``systemd.journal.send``: handed in, so that only the daemon imports it."""

    name = "journald"

    def __init__(self, send: Callable[..., object], path: str = JOURNALD) -> None:
        super().__init__(path)
        self._send = send

    def send(self, fields: Fields) -> None:
        """``TimeoutError`` where journald's queue stays full: ``journal.send`` itself would wait for ever."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        if not poll.poll(PATIENCE * 1000):
            raise TimeoutError("journald does not read")
        # Without a CODE_ field it would read our source files to find the line that called it.
        self._send(**{key: _sendable(value) for key, value in fields.items()}, CODE_FUNC="reconciler")


class Syslog(_Socket):
    """The local syslog daemon, in the form of RFC 3164 without a host, as ``syslog(3)`` writes it.

    Not the stdlib's modules: ``syslog`` loses messages in silence, ``logging.handlers`` costs 10 ms to
    import.
    """

    name = "syslog"

    def __init__(self, path: str = SYSLOG) -> None:
        super().__init__(path)

    def send(self, fields: Fields) -> None:
        ends = b"\0" if self._socket.type == socket.SOCK_STREAM else b""
        self._socket.sendall(_bytes(syslog_line(fields, time.localtime())) + ends)


class Console:
    """Standard error, for a person or whatever the daemon was started by."""

    name = "console"

    def connect(self) -> bool:
        return True

    def send(self, fields: Fields) -> None:
        """A closed standard error is an ``OSError`` like any other."""
        try:
            sys.stderr.write(_sendable(fields["MESSAGE"]) + "\n")
            sys.stderr.flush()
        except (AttributeError, ValueError) as error:  # none at all, or closed
            raise OSError(errno.EBADF, "standard error is closed") from error

    def close(self) -> None:
        pass


class Outlet:
    """Sends each burst of messages to the first of ``sinks`` that takes it; what one leaves, the next one
    gets.

    Who listens is looked for anew at each burst: so a journald that comes up, or back, is found.
    """

    def __init__(self, sinks: Sequence[Sink], announce: Callable[[str], Fields]) -> None:
        """``announce`` makes the message that says something about the log itself."""
        self._sinks = list(sinks)
        self._announce = announce
        self._sulking: dict[str, float] = {}
        self._last = ""
        self._lost = 0

    def replace(self, sink: Sink) -> None:
        """Use another sink for the log of that name."""
        self._sinks = [sink if each.name == sink.name else each for each in self._sinks]

    def burst(self, messages: Sequence[Fields]) -> None:
        """Deliver, in order. What no log takes is counted, and said in the next one that does."""
        for sink in self._sinks:
            if messages:
                messages = self._through(sink, messages)
        if self._sinks:
            self._lost += len(messages)

    def _through(self, sink: Sink, messages: Sequence[Fields]) -> Sequence[Fields]:
        """What is left of the messages."""
        if time.monotonic() < self._sulking.get(sink.name, 0.0) or not sink.connect():
            return messages
        sent = 0
        try:
            for note in self._notes(sink):
                sink.send(note)
            self._last, self._lost = sink.name, 0
            for fields in messages:
                sink.send(fields)
                sent += 1
        except OSError as error:
            if isinstance(error, TimeoutError):
                self._sulking[sink.name] = time.monotonic() + SULK
        finally:
            sink.close()
        return messages[sent:]

    def _notes(self, sink: Sink) -> list[Fields]:
        notes = []
        if self._last not in ("", sink.name):
            notes.append(self._announce(f"goes to {sink.name} now, went to {self._last} before"))
        if self._lost:
            notes.append(self._announce(f"{self._lost} messages were lost: no log took them"))
        return notes


def native(fields: Fields) -> bytes:
    """One entry in the native protocol: a value with a newline in it is preceded by its length."""
    return b"".join(_assignment(key, _bytes(value)) for key, value in fields.items())


def _assignment(key: str, value: bytes) -> bytes:
    name = key.encode("ascii")
    if b"\n" in value:
        return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name + b"=" + value + b"\n"


def syslog_line(fields: Fields, now: time.struct_time) -> str:
    """``<PRI>Mmm dd hh:mm:ss NAME[pid]: message [id]`` on one line; the id is what ``undo`` takes."""
    stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2} {now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
    number = f" [{fields['RECONCILER_ID']}]" if "RECONCILER_ID" in fields else ""
    message = " ".join(fields["MESSAGE"].split("\n")) + number
    priority = _DAEMON | int(fields.get("PRIORITY", "6"))
    return f"<{priority}>{stamp} {fields['SYSLOG_IDENTIFIER']}[{os.getpid()}]: {message}"


# strftime's depend on the locale
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _sendable(text: str) -> str:
    """The text without what UTF-8 cannot say: names from disk may hold any byte."""
    return text if text.isascii() else _bytes(text).decode()

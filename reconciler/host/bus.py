"""As much D-Bus as one question to PID 1 needs: connect, ask, goodbye, all within a time limit.

``systemctl`` would cost a process for each look, libdbus a dependency. The system bus is tried first: a question costs
PID 1 0.1 ms there, but 2 ms on the socket that systemd keeps for root (it authenticates each caller itself), which
serves where there is no bus daemon (measured, systemd 252 and 257). The format is that of the D-Bus Specification,
"Message Protocol" and "Authentication Protocol"; the methods are those of ``org.freedesktop.systemd1(5)``.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence

from reconciler.errors import ReconcilerError
from reconciler.values import Value

SYSTEM_BUS = "/run/dbus/system_bus_socket"
PRIVATE = "/run/systemd/private"
SOCKETS = (SYSTEM_BUS, PRIVATE)

LARGEST = 1 << 24
"""Bytes of one answer; ten thousand units fit in 4 MiB. The specification's own limit is eight times this."""

_MANAGER = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", "org.freedesktop.systemd1")
_BUS = ("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
_ERROR = 3  # the type of a message
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = (
    1,
    2,
    3,
    4,
    5,
    6,
    8,
)  # header fields
_FIXED = 16  # bytes of a header before its fields


class BusError(ReconcilerError):
    """systemd cannot be asked, does not answer in time, or answers with an error."""


class _Message(Value):
    error: str  # the name of the error, "" for an answer
    answers: int  # the serial of the question, 0 for a signal
    body: bytes


def ask(method: str, *lists: Sequence[str], seconds: float, sockets: Sequence[str] = SOCKETS) -> bytes:
    """Call a method of systemd's manager with lists of strings; the body of its answer. Raises ``BusError``."""
    until = time.monotonic() + seconds
    why = "there is no socket to ask on"
    for path in sockets:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as end:
            talk = _Talk(end, until)
            try:
                talk.begin(path, hello=path != PRIVATE)
            except (OSError, BusError) as error:  # nothing was asked yet: the next may let us in
                why = f"{path}: {_why(error)}"
                continue
            try:
                return talk.ask(method, _MANAGER, *lists)
            except OSError as error:
                raise BusError(f"systemd does not answer {method}: {_why(error)}") from error
    raise BusError(f"systemd cannot be asked: {why}")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class _Talk:
    """One connection; ``until`` is when everything must be over (monotonic)."""

    def __init__(self, end: socket.socket, until: float) -> None:
        self._end, self._until = end, until
        self._got = bytearray()
        self._serial = 0

    def begin(self, path: str, *, hello: bool) -> None:
        """Connect and authenticate as our user; a bus (not systemd itself) wants to be greeted before all else.

        The question waits for the ``OK``: systemd 252 leaves what comes in one packet with BEGIN unread (measured).
        """
        self._time()
        self._end.connect(path)
        uid = str(os.geteuid()).encode().hex()
        self._send(f"\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n".encode())
        while b"\r\n" not in self._got:
            self._receive()
        line, _, rest = bytes(self._got).partition(b"\r\n")
        if not line.startswith(b"OK"):
            raise BusError("this user may not ask")
        self._got[:] = rest
        if hello:
            self.ask("Hello", _BUS)

    def ask(self, method: str, whom: tuple[str, str, str], *lists: Sequence[str]) -> bytes:
        """Call one method and wait for its answer; signals in between are let go by."""
        self._serial += 1
        body = b""
        for words in lists:
            body = _padded(body, 4) + _strings(words)
        self._send(_header(self._serial, method, whom, "as" * len(lists), len(body)) + body)
        while True:
            message = self._message()
            if message.answers == self._serial:
                break
        if message.error:
            raise BusError(f"systemd answers {method} with {message.error}")
        return message.body

    def _message(self) -> _Message:
        self._fill(_FIXED)
        body, _, fields = struct.unpack_from("<III", self._got, 4)
        start = _aligned(_FIXED + fields, 8)
        if self._got[0] != ord("l") or start + body > LARGEST:
            raise BusError("systemd's answer is too large, or in a byte order that is not ours")
        self._fill(start + body)
        whole = bytes(self._got[: start + body])
        del self._got[: start + body]
        return parse_message(whole)

    def _fill(self, size: int) -> None:
        while len(self._got) < size:
            self._receive()

    def _receive(self) -> None:
        self._time()
        part = self._end.recv(1 << 16)
        if not part:
            raise BusError("the connection was closed")
        self._got += part

    def _send(self, message: bytes) -> None:
        self._time()
        self._end.sendall(message)

    def _time(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._end.settimeout(left)


# --- the format, little-endian ---------------------------------------------------------------------------------


def _aligned(position: int, size: int) -> int:
    return -(-position // size) * size


def _padded(data: bytes, size: int) -> bytes:
    return data.ljust(_aligned(len(data), size), b"\0")


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    return struct.pack("<I", len(raw)) + raw + b"\0"


def _strings(words: Sequence[str]) -> bytes:
    data = b""
    for word in words:
        data = _padded(data, 4) + _string(word)
    return struct.pack("<I", len(data)) + data


def _header(serial: int, method: str, whom: tuple[str, str, str], signature: str, size: int) -> bytes:
    path, interface, destination = whom
    texts = (
        (_PATH, "o", path),
        (_INTERFACE, "s", interface),
        (_MEMBER, "s", method),
        (_DESTINATION, "s", destination),
    )
    fields = b""
    for code, kind, text in texts:
        fields = _padded(fields, 8) + bytes((code, 1, ord(kind), 0)) + _string(text)
    if signature:
        fields = _padded(fields, 8) + bytes((_SIGNATURE, 1, ord("g"), 0, len(signature))) + signature.encode() + b"\0"
    return _padded(struct.pack("<4BIII", ord("l"), 1, 0, 1, size, serial, len(fields)) + fields, 8)


def parse_message(whole: bytes) -> _Message:
    """Read a whole message, header and all. Raises ``BusError`` for what is none."""
    try:
        end = _FIXED + struct.unpack_from("<I", whole, 12)[0]
        return _parse(whole, end, _aligned(end, 8))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise BusError("systemd's answer makes no sense") from error


def _parse(whole: bytes, end: int, start: int) -> _Message:
    """Read the two header fields that matter: which question it answers, and with what error."""
    error, answers, at = "", 0, _FIXED
    while at < end:
        at = _aligned(at, 8)
        code, kind = whole[at], chr(whole[at + 2])
        if kind == "u":
            (number,) = struct.unpack_from("<I", whole, at + 4)
            answers = number if code == _REPLY_SERIAL else answers
            at += 8
        elif kind == "g":
            at += 4 + 1 + whole[at + 4] + 1
        else:
            text, at = read_string(whole, at + 4)
            error = text if code == _ERROR_NAME else error
    if whole[1] == _ERROR:
        error = error or "an error"
    return _Message(error, answers, whole[start:])


def read_string(data: bytes, at: int) -> tuple[str, int]:
    """The string at this position, and where it ends; positions are aligned as the format wants it."""
    at = _aligned(at, 4)
    (size,) = struct.unpack_from("<I", data, at)
    end = at + 4 + size
    if end >= len(data):
        raise IndexError(end)
    return data[at + 4 : end].decode("utf-8", "surrogateescape"), end + 1


def read_units(body: bytes) -> list[tuple[str, str]]:
    """Name and active state of each unit in a ``ListUnits*`` answer, ``a(ssssssouso)``. Raises ``BusError``."""
    try:
        return list(_units(body))
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise BusError("systemd's list of units makes no sense") from error


def _units(body: bytes) -> Sequence[tuple[str, str]]:
    (size,) = struct.unpack_from("<I", body, 0)
    at, found = 8, []
    while at < 8 + size:
        at = _aligned(at, 8)
        texts = []
        for _ in range(7):  # name, description, load, active and sub state, followed, path
            text, at = read_string(body, at)
            texts.append(text)
        at = _aligned(at, 4) + 4  # the number of a queued job
        _, at = read_string(body, at)
        _, at = read_string(body, at)
        found.append((texts[0], texts[3]))
    return found

"""Dumps over netlink (``netlink(7)``): a request, and the kernel's whole answer.

What the kernel says is read as data that may be wrong: a message is never taken for longer than what arrived,
each step goes forward by at least a header, and a dump ends at a deadline. Whatever is not as it should be is
``Unobservable``.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator

from reconciler.errors import Unobservable

DEADLINE = 2.0
"""Seconds for a whole dump. The kernel answers at once; this only bounds what it never does."""

TRIES = 4
"""How often a dump is asked for that changed while it was read (NLM_F_DUMP_INTR)."""

REQUEST, ACK, DUMP, REPLACE = 0x1, 0x4, 0x300, 0x100
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_INTERRUPTED = 0x10
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_BUFFER = 1 << 16  # bytes; the kernel fills at most 32 KiB at once


def message(kind: int, flags: int, payload: bytes) -> bytes:
    """One request, header and all."""
    return _HEADER.pack(_HEADER.size + len(payload), kind, flags, 1, 0) + payload


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and payload of each message of one datagram. Raises ``Unobservable`` for what is none."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise Unobservable("netlink: a message is cut short")
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            raise Unobservable(f"netlink: a message of {length} bytes where {len(data) - at} are left")
        yield kind, flags, data[at + _HEADER.size : at + length]
        at += length + -length % 4


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message, the last of each type. Raises ``Unobservable`` for what is none."""
    found: dict[int, bytes] = {}
    at = 0
    while len(data) - at >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            raise Unobservable(f"netlink: an attribute of {length} bytes where {len(data) - at} are left")
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += length + -length % 4
    return found


class Answer:
    """A dump as it comes in, datagram by datagram, until ``done``; ``torn``: it changed meanwhile."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.done = False
        self.torn = False

    def take(self, datagram: bytes) -> None:
        """Read one datagram. Raises ``Unobservable`` for the kernel's error or anything malformed."""
        if not datagram:
            raise Unobservable("netlink: an empty datagram")
        for kind, flags, payload in messages(datagram):
            self.torn = self.torn or bool(flags & _INTERRUPTED)
            if kind in (_ERROR, _DONE):
                _raise_error(payload)
                self.done = True
                return
            if kind == _OVERRUN:
                raise Unobservable("netlink: data were lost")
            if kind > _OVERRUN:
                self.payloads.append(payload)


def _raise_error(payload: bytes) -> None:
    """An acknowledgement is error 0; the end of a dump carries an error too."""
    code = _ERRNO.unpack_from(payload)[0] if len(payload) >= _ERRNO.size else 0
    if code < 0:
        raise Unobservable(f"netlink: {os.strerror(-code)}")


def dump(protocol: int, kind: int, request: bytes) -> list[bytes]:
    """The payloads of a dump. Raises ``Unobservable`` where this kernel or sandbox does not give it."""
    for _ in range(TRIES):
        answer = ask(protocol, message(kind, REQUEST | DUMP, request))
        if not answer.torn:
            return answer.payloads
    raise Unobservable("netlink: it changes faster than it can be read")


def ask(protocol: int, request: bytes) -> Answer:
    """Send one request and read the answer to its end. Raises ``Unobservable``."""
    answer, deadline = Answer(), time.monotonic() + DEADLINE
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as wire:
            wire.sendto(request, (0, 0))
            while not answer.done:
                answer.take(_receive(wire, deadline))
    except OSError as error:
        raise Unobservable(f"netlink: {error.strerror or error}") from error
    return answer


def _receive(wire: socket.socket, deadline: float) -> bytes:
    while (left := deadline - time.monotonic()) > 0:
        wire.settimeout(left)
        data, _, flags, sender = wire.recvmsg(_BUFFER)
        if flags & socket.MSG_TRUNC:
            raise Unobservable("netlink: a datagram is larger than any should be")
        if sender[0] == 0:  # the kernel; anybody may send to a netlink socket
            return data
    raise Unobservable("netlink: no answer")

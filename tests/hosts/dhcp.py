"""A DHCP server at the other end of the host's cable, so that a real dhclient holds a real, short lease.

    with dhcp.serve(host, lease=20) as server:
        dhcp.configure(host)                  # iface eth0 inet dhcp; ifup eth0
        server.stop()                         # nobody renews any more

Small enough to own: one client, one address, no state; it needs nothing but Python where a packaged server
would have to be installed on the machine. It runs as a program of its own (`dhcp.py INTERFACE SECONDS`) in
the LAN's network namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.hosts.commands import Job
    from tests.hosts.host import Host

SERVER = "192.0.2.1"
OFFERED = "192.0.2.50"
DYNAMIC = """\
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet dhcp
"""

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE = range(1, 8)
_NAMES = {DISCOVER: "discover", REQUEST: "request", DECLINE: "decline", RELEASE: "release"}
_MAGIC = b"\x63\x82\x53\x63"
_HEADER = struct.Struct("!4B4s2H4s4s4s4s16s64s128s4s")
_MASK, _ROUTER, _LEASE, _TYPE, _SERVER_ID, _END = 1, 3, 51, 53, 54, 255


class Server:
    """The running server, as a scenario holds it."""

    def __init__(self, host: Host, lease: int) -> None:
        command = [sys.executable, "-u", __file__, "peer0", str(lease)]
        self._job: Job = host.spawn_on_lan(command)
        host.wait_for(lambda: "ready" in self.heard or not self._job.running, 10, "the DHCP server")
        assert self._job.running, self._job.so_far.err

    @property
    def heard(self) -> list[str]:
        """What came in, in order: `ready`, then `discover`, `request`, `release`."""
        return self._job.so_far.lines

    def stop(self) -> None:
        """Falls silent: the lease can only run out from now on."""
        self._job.kill()


@contextlib.contextmanager
def serve(host: Host, lease: int = 20) -> Iterator[Server]:
    """A server for one host, with leases of so many seconds."""
    server = Server(host, lease)
    try:
        yield server
    finally:
        server.stop()


def configure(host: Host) -> None:
    """eth0 by DHCP, from the interfaces file; returns once the address is there."""
    host.put("/etc/network/interfaces", DYNAMIC)
    host.run("ifdown --force eth0 >/dev/null 2>&1; ifup eth0")


def reply_to(request: bytes, lease: int) -> tuple[int, bytes | None]:
    """The kind of a client's message, and what to answer."""
    fields = _HEADER.unpack_from(request)
    kind = _kind(request[_HEADER.size :])
    if kind not in (DISCOVER, REQUEST):
        return kind, None
    transaction, hardware = fields[4], fields[11]
    nobody, client, server = bytes(4), socket.inet_aton(OFFERED), socket.inet_aton(SERVER)
    header = (2, 1, 6, 0, transaction, 0, 0x8000, nobody, client, server, nobody, hardware, b"", b"", _MAGIC)
    options = [
        (_TYPE, bytes([OFFER if kind == DISCOVER else ACK])),
        (_SERVER_ID, server),
        (_LEASE, struct.pack("!I", lease)),
        (_MASK, socket.inet_aton("255.255.255.0")),
        (_ROUTER, server),
    ]
    body = b"".join(bytes([code, len(value)]) + value for code, value in options)
    return kind, (_HEADER.pack(*header) + body + bytes([_END])).ljust(300, b"\0")


def _kind(options: bytes) -> int:
    """Option 53 among the options; 0 where there is none."""
    at = 0
    while at + 1 < len(options) and options[at] != _END:
        if options[at] == 0:
            at += 1
            continue
        if options[at] == _TYPE:
            return options[at + 2]
        at += 2 + options[at + 1]
    return 0


def main() -> None:
    """Answers until it is killed. A client that renews has an address and is answered there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("interface")
    parser.add_argument("lease", type=int)
    chosen = parser.parse_args()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, chosen.interface.encode())
        wire.bind(("", 67))
        sys.stdout.write("ready\n")
        while True:
            request, (sender, _port) = wire.recvfrom(4096)
            kind, answer = reply_to(request, chosen.lease)
            sys.stdout.write(f"{_NAMES.get(kind, kind)}\n")
            if answer is not None:
                wire.sendto(answer, ("255.255.255.255" if sender == "0.0.0.0" else sender, 68))


if __name__ == "__main__":
    main()

#!/usr/bin/python3 -SE
"""A stand-in for one daemon of a default Debian 3.1: listens where that one did, and does nothing else.

It goes by the name it is called by. ``inetd`` listens for what /etc/inetd.conf says and reads it anew on SIGHUP;
``syslogd`` writes what it is sent to /var/log/syslog.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

SOCKETS = {
    "portmap": ("tcp/0.0.0.0:111", "udp/0.0.0.0:111"),
    "rpc.statd": ("tcp/0.0.0.0:704", "udp/0.0.0.0:698", "udp/0.0.0.0:701"),
    "exim4": ("tcp/127.0.0.1:25",),
    "sshd": ("tcp/0.0.0.0:22",),
    "dhclient": ("udp/0.0.0.0:68",),
    "lpd": ("unix//dev/printer",),
    "cannaserver": ("unix//tmp/.iroha_unix/IROHA",),
    "syslogd": ("log//dev/log",),
}
INETD_PORTS = {"ident": 113, "daytime": 13, "discard": 9}


def wanted(name: str) -> tuple[str, ...]:
    """Where it listens."""
    if name != "inetd":
        return SOCKETS.get(name, ())
    with open("/etc/inetd.conf", encoding="ascii") as file:
        words = [line.split() for line in file if not line.startswith(("#", "\n"))]
    return tuple(f"tcp/0.0.0.0:{INETD_PORTS[first[0]]}" for first in words if first[0] in INETD_PORTS)


def opened(where: str) -> socket.socket:
    """One of its sockets."""
    protocol, _, address = where.partition("/")
    if protocol in ("unix", "log"):
        os.makedirs(os.path.dirname(address), exist_ok=True)
        if os.path.lexists(address):
            os.unlink(address)
        one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM if protocol == "log" else socket.SOCK_STREAM)
        one.bind(address)
        os.chmod(address, 0o666)  # noqa: S103 - /dev/log is everybody's
    else:
        host, _, port = address.partition(":")
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, int(port)))
    if one.type == socket.SOCK_STREAM:
        one.listen()
    return one


def serve(name: str, ready: int) -> None:
    """Be that daemon until SIGTERM."""
    sockets = [opened(where) for where in wanted(name)]

    def reread(*_: object) -> None:
        for one in sockets:
            one.close()
        sockets[:] = [opened(where) for where in wanted(name)]

    signal.signal(signal.SIGHUP, reread)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with open(f"/run/{name}.pid", "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    os.write(ready, b"!")
    os.close(ready)
    while True:
        if name == "syslogd":
            write_log(sockets[0])
        else:
            select.select([], [], [], 60)


def write_log(one: socket.socket) -> None:
    """Write one message down."""
    message = one.recv(65536)
    with open("/var/log/syslog", "ab") as file:
        file.write(message.rstrip(b"\0\n") + b"\n")


def main() -> None:
    """Return once the daemon is up, as a daemon's parent does."""
    name = os.path.basename(sys.argv[0])
    up, ready = os.pipe()
    if os.fork():
        os.close(ready)
        sys.exit(0 if os.read(up, 1) else 1)
    os.setsid()
    os.close(up)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.chdir("/")
    serve(name, ready)


if __name__ == "__main__":
    main()

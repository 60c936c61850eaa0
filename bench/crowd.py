"""A crowd in a contender's host: so many listening sockets, or so many processes. Usage: listeners|processes COUNT."""

from __future__ import annotations

import os
import signal
import socket
import sys

FIRST_PORT = 20_000


def main() -> None:
    """Say so when all are there, and go with the end of the input."""
    what, count = sys.argv[1], int(sys.argv[2])
    kept = [socket.create_server(("127.0.0.1", FIRST_PORT + n)) for n in range(count if what == "listeners" else 0)]
    pids = [_idler() for _ in range(count if what == "processes" else 0)]
    print(len(kept) + len(pids), flush=True)
    sys.stdin.read()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _idler() -> int:
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    return pid


if __name__ == "__main__":
    main()

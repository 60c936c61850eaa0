"""The least that Python itself asks: inotify by ctypes, ``os.unlink``, nothing else. Usage: FOLDER..."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import sys

CREATE_OR_MOVED_TO = 0x100 | 0x80
OVERFLOW = 0x4000
HEADER = struct.Struct("iIII")


def is_stranger(name: bytes) -> bool:
    """A start link that nobody approved."""
    return name.startswith(b"S") and name[3:6] == b"bad"


def sweep(folders: dict[int, bytes]) -> None:
    """Look everywhere: the queue ran over."""
    for folder in folders.values():
        for name in os.listdir(folder):
            remove(folder, name)


def remove(folder: bytes, name: bytes) -> None:
    """Take a stranger away."""
    if is_stranger(name):
        try:
            os.unlink(folder + b"/" + name)
        except FileNotFoundError:
            pass


def main() -> None:
    """Guard the folders until killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK)
    folders = {libc.inotify_add_watch(fd, f.encode(), CREATE_OR_MOVED_TO): f.encode() for f in sys.argv[1:]}
    sweep(folders)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll():
        chunk, at = os.read(fd, 65536), 0
        while at < len(chunk):
            wd, mask, _, length = HEADER.unpack_from(chunk, at)
            at += HEADER.size + length
            if mask & OVERFLOW:
                sweep(folders)
            elif length:
                remove(folders[wd], chunk[at - length : at].rstrip(b"\0"))


if __name__ == "__main__":
    main()

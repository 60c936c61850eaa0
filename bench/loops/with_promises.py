"""The least that the promises ask of Python: kept first, the intent durable, proved by a look. Usage: FOLDER...

The same files, the same records and the same calls that make them durable as the product's, and nothing else: no state,
no rails, no plan. What it needs is what a Python program that keeps these promises cannot be without.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import struct
import sys
import time
from contextlib import suppress
from hashlib import sha256

CREATE_OR_MOVED_TO = 0x100 | 0x80
OVERFLOW = 0x4000
HEADER = struct.Struct("iIII")
NEXT = ".next"
HOME = "../../var/lib/dom0-reconciler"
CREATE = os.O_RDWR | os.O_CREAT | os.O_APPEND
encode = json.JSONEncoder(separators=(",", ":")).encode

Found = tuple[int, str, str, os.stat_result]
"""The folder, a name in it, where it leads and its status."""


class Records:
    """The lock, the quarantine and the journal below one folder of our own."""

    def __init__(self, home: str) -> None:
        os.makedirs(f"{home}/quarantine", exist_ok=True)
        self.quarantine = os.open(f"{home}/quarantine", os.O_RDONLY)
        self.lock = os.open(f"{home}/lock", CREATE, 0o600)
        self.journal = os.open(f"{home}/journal.jsonl", CREATE, 0o600)
        self.head = os.open(f"{home}/journal.head", os.O_RDWR | os.O_CREAT, 0o600)
        self.prev = "0" * 64
        self.prepare()

    def prepare(self) -> None:
        """Make the next pass's folder, so that it costs nothing when it is needed."""
        os.mkdir(NEXT, 0o700, dir_fd=self.quarantine)
        folder = os.open(NEXT, os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.quarantine)
        self.manifest = os.open("manifest.jsonl", CREATE | os.O_EXCL, 0o600, dir_fd=folder)
        os.fsync(folder)
        os.close(folder)

    def keep(self, pass_id: str, found: list[Found]) -> None:
        """Make durable what is about to go."""
        lines = "".join([_manifest(f"{pass_id}.{n}", each) for n, each in enumerate(found, 1)])
        os.write(self.manifest, lines.encode())
        os.fdatasync(self.manifest)
        os.rename(NEXT, pass_id, src_dir_fd=self.quarantine, dst_dir_fd=self.quarantine)
        os.fsync(self.quarantine)

    def write(self, record: str, outcome: str, pass_id: str, found: list[Found]) -> None:
        """Make a record of each durable, each with the hash of the one before."""
        now, lines = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), []
        for number, (_, name, _, _) in enumerate(found, 1):
            line = _record(f"{pass_id}.{number}", now, pass_id, record, outcome, name, self.prev)
            self.prev = sha256(line).hexdigest()
            lines.append(line)
        os.write(self.journal, b"".join(lines))
        os.fdatasync(self.journal)


def _manifest(action_id: str, found: Found) -> str:
    _, name, target, status = found
    action = {"is": "Unlink", "path": f"/etc/rc2.d/{name}", "target": target, "leave": leave(name)}
    state = {"is": "LinkState", "target": target, "uid": status.st_uid, "gid": status.st_gid, "at": status.st_mtime_ns}
    return encode({"id": action_id, "action": action, "state": state}) + "\n"


def _record(action_id: str, now: str, pass_id: str, record: str, outcome: str, name: str, prev: str) -> bytes:
    fields = {"id": action_id, "time": now, "pass": pass_id, "record": record, "action": "unlink", "kind": "rclinks"}
    fields |= {"service": name[3:], "target": f"/etc/rc2.d/{name}", "outcome": outcome, "cause": f"create rc2.d/{name}"}
    return (encode(fields | {"rule": "unapproved", "detail": "", "prev": prev}) + "\n").encode()


def leave(name: str) -> str:
    """The link that stops the service there instead."""
    return f"K{100 - int(name[1:3]):02}{name[3:]}"


def look(folder: int, name: str) -> Found | None:
    """A start link that nobody approved, as it lies there."""
    if name[:1] != "S" or name[3:6] != "bad":
        return None
    try:
        return folder, name, os.readlink(name, dir_fd=folder), os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return None


def remove(found: Found) -> None:
    """Take one away; the link in its place first."""
    folder, name, _, _ = found
    with suppress(FileExistsError, FileNotFoundError):
        os.link(name, leave(name), src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def correct(records: Records, found: list[Found]) -> None:
    """One pass."""
    if not found:
        return
    fcntl.flock(records.lock, fcntl.LOCK_EX)
    pass_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"
    records.keep(pass_id, found)
    records.write("intent", "", pass_id, found)
    for each in found:
        remove(each)
    for folder in {each[0] for each in found}:
        os.fsync(folder)
    outcome = "failed" if any(look(folder, name) for folder, name, _, _ in found) else "done"
    records.write("outcome", outcome, pass_id, found)
    os.pwrite(records.head, records.prev.encode(), 0)
    os.close(records.manifest)
    records.prepare()
    fcntl.flock(records.lock, fcntl.LOCK_UN)


def batch(inotify: int, folders: dict[int, int]) -> list[Found]:
    """What all events of the queue are about, each once; everything where it ran over."""
    names: dict[tuple[int, str], None] = {}
    with suppress(BlockingIOError):
        while chunk := os.read(inotify, 65536):
            at = 0
            while at < len(chunk):
                wd, mask, _, length = HEADER.unpack_from(chunk, at)
                at += HEADER.size + length
                if mask & OVERFLOW:
                    names |= dict.fromkeys((fd, name) for fd in folders.values() for name in os.listdir(fd))
                elif length:
                    names[folders[wd], os.fsdecode(chunk[at - length : at].rstrip(b"\0"))] = None
    return [found for folder, name in names if (found := look(folder, name))]


def main() -> None:
    """Guard the folders until killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    inotify = libc.inotify_init1(os.O_NONBLOCK)
    folders = {
        libc.inotify_add_watch(inotify, path.encode(), CREATE_OR_MOVED_TO): os.open(path, os.O_RDONLY)
        for path in sys.argv[1:]
    }
    records = Records(os.path.join(sys.argv[1], HOME))
    correct(records, [found for fd in folders.values() for name in os.listdir(fd) if (found := look(fd, name))])
    poll = select.poll()
    poll.register(inotify, select.POLLIN)
    while poll.poll():
        correct(records, batch(inotify, folders))


if __name__ == "__main__":
    main()

"""The least that the promises ask of Python: nothing against an order or dpkg, kept first, the intent durable, proved.

Usage: [--stops] FOLDER...   with --stops the service of each link that went is stopped, on a host of its own

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
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.loops import stopping

CREATE_OR_MOVED_TO = 0x100 | 0x80
OVERFLOW = 0x4000
HEADER = struct.Struct("iIII")
NEXT = ".next"
HOME = "../../var/lib/dom0-reconciler"
DPKG = f"{HOME}/../dpkg/lock"
ORDERS = ("overrides.json", "network.json")
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64 bit Linux: type, whence, start, len, pid
CREATE = os.O_RDWR | os.O_CREAT | os.O_APPEND
encode = json.JSONEncoder(separators=(",", ":")).encode

STRANGERS = ("bad", "hung")
FEW = 8
"""Stops that are written down with their links; more of them afterwards."""

Found = tuple[int, str, str, os.stat_result]
"""The folder, a name in it, where it leads and its status."""

Item = tuple[str, str, str, str, str]
"""What is to be done: its id, its pass, the word, the service and the target."""

Stop = Callable[[list[Item], bool], None]
"""Is handed what to stop, and whether that is written down already."""


class Questions:
    """What may have changed since anybody looked, and forbids an act."""

    def __init__(self, folders: dict[int, str], records: Records) -> None:
        first = next(iter(folders.values()))
        self._dpkg = os.path.join(first, DPKG)
        self._home = os.open(os.path.join(first, HOME), os.O_RDONLY | os.O_CLOEXEC)
        self._ours = {"lock": os.fstat(records.lock).st_ino, "journal.jsonl": os.fstat(records.journal).st_ino}
        self._folders = {fd: (path, os.fstat(fd).st_ino) for fd, path in folders.items()}

    def may_act(self, in_folders: set[int]) -> bool:
        """No order, no dpkg at work, and each folder and file of ours is still what its path leads to."""
        found = [os.lstat(path).st_ino == inode for path, inode in map(self._folders.__getitem__, in_folders)]
        found += [os.lstat(name, dir_fd=self._home).st_ino == inode for name, inode in self._ours.items()]
        return all(found) and not self.ordered() and not self._packaging()

    def ordered(self) -> bool:
        """Whether somebody ordered something for a while; it would have to be read."""
        for name in ORDERS:
            with suppress(FileNotFoundError):
                os.lstat(name, dir_fd=self._home)
                return True
        return False

    def _packaging(self) -> bool:
        lock = os.open(self._dpkg, READ)
        asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind = FLOCK.unpack(fcntl.fcntl(lock, fcntl.F_GETLK, asked))[0]
        os.close(lock)
        return bool(kind != fcntl.F_UNLCK)


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

    def keep(self, pass_id: str, lines: list[str]) -> None:
        """Make durable what is about to go."""
        os.write(self.manifest, "".join(lines).encode())
        os.fdatasync(self.manifest)
        os.rename(NEXT, pass_id, src_dir_fd=self.quarantine, dst_dir_fd=self.quarantine)
        os.fsync(self.quarantine)

    def keep_more(self, pass_id: str, lines: list[str]) -> None:
        """The same for a pass of which something is kept already."""
        manifest = os.open(f"{pass_id}/manifest.jsonl", os.O_WRONLY | os.O_APPEND, dir_fd=self.quarantine)
        os.write(manifest, "".join(lines).encode())
        os.fdatasync(manifest)
        os.close(manifest)

    def write(self, record: str, items: list[tuple[Item, str]]) -> None:
        """Make a record of each durable, with its outcome, each with the hash of the one before."""
        now, lines = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), []
        for item, outcome in items:
            line = _record(item, now, record, outcome, self.prev)
            self.prev = sha256(line).hexdigest()
            lines.append(line)
        os.write(self.journal, b"".join(lines))
        os.fdatasync(self.journal)

    def end(self) -> None:
        """After a pass: the head for who reads it, and the next pass's folder."""
        os.pwrite(self.head, self.prev.encode(), 0)
        os.close(self.manifest)
        self.prepare()


def _manifest(item: Item, found: Found) -> str:
    _, name, target, status = found
    action = {"is": "Unlink", "path": item[4], "target": target, "leave": leave(name)}
    state = {"is": "LinkState", "target": target, "uid": status.st_uid, "gid": status.st_gid, "at": status.st_mtime_ns}
    return encode({"id": item[0], "action": action, "state": state}) + "\n"


def _manifest_of_stop(item: Item) -> str:
    action = {"is": "StopService", "service": item[3], "script": item[4], "units": []}
    return encode({"id": item[0], "action": action, "state": None}) + "\n"


def _record(item: Item, now: str, record: str, outcome: str, prev: str) -> bytes:
    action_id, pass_id, action, service, target = item
    fields = {"id": action_id, "time": now, "pass": pass_id, "record": record, "action": action, "kind": "rclinks"}
    fields |= {"service": service, "target": target, "outcome": outcome, "cause": f"create {target}"}
    return (encode(fields | {"rule": "unapproved", "detail": "", "prev": prev}) + "\n").encode()


def leave(name: str) -> str:
    """The link that stops the service there instead."""
    return f"K{100 - int(name[1:3]):02}{name[3:]}"


def look(folder: int, name: str) -> Found | None:
    """A start link that nobody approved, as it lies there."""
    if name[:1] != "S" or not name[3:].startswith(STRANGERS):
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


def correct(records: Records, questions: Questions, found: list[Found], stop: Stop | None = None) -> None:
    """One pass; what an order or dpkg forbids is left to a later one."""
    if not found:
        return
    fcntl.flock(records.lock, fcntl.LOCK_EX)
    if not questions.may_act({folder for folder, _, _, _ in found}):
        fcntl.flock(records.lock, fcntl.LOCK_UN)
        return
    pass_id = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"
    links = [(f"{pass_id}.{n}", pass_id, "unlink", f[1][3:], f"/etc/rc2.d/{f[1]}") for n, f in enumerate(found, 1)]
    names = dict.fromkeys(name[3:] for _, name, _, _ in found) if stop else ()
    stops = [(f"{pass_id}.{n}", pass_id, "stop-service", s, s) for n, s in enumerate(names, len(found) + 1)]
    first = stops if len(stops) <= FEW else []
    records.keep(pass_id, [*map(_manifest, links, found), *map(_manifest_of_stop, first)])
    records.write("intent", [(item, "") for item in (*links, *first)])
    for each in found:
        remove(each)
    for folder in {each[0] for each in found}:
        os.fsync(folder)
    if stop:
        stop(stops, bool(first))
    outcome = "failed" if any(look(folder, name) for folder, name, _, _ in found) else "done"
    records.write("outcome", [(item, outcome) for item in links])
    records.end()
    fcntl.flock(records.lock, fcntl.LOCK_UN)


class Stops:
    """The stops under way, by their descriptor, and those that wait while more links come."""

    def __init__(self, records: Records, questions: Questions, poll: select.poll, inotify: int) -> None:
        os.chdir("/")
        os.umask(0o022)
        self._records, self._questions, self._poll, self._more = records, questions, poll, select.poll()
        self._more.register(inotify, select.POLLIN)
        self._begun: dict[int, tuple[Item, stopping.Begun]] = {}
        self._untold: list[Item] = []
        self._waiting: list[Item] = []

    def add(self, items: list[Item], told: bool) -> None:
        """Begin them, or leave them for later where more links have come."""
        (self._waiting if told else self._untold).extend(items)
        self.go_on()

    def go_on(self) -> None:
        """Begin those on which nobody lives, as a look just now tells; then let them go first."""
        if not (self._untold or self._waiting) or self._more.poll(0):
            return
        if self._untold:
            self._records.keep_more(self._untold[0][1], [*map(_manifest_of_stop, self._untold)])
            self._records.write("intent", [(item, "") for item in self._untold])
            self._waiting += self._untold
            self._untold = []
        kept, refused = stopping.lived_on(), []
        ordered = self._questions.ordered()
        while self._waiting and not self._more.poll(0):
            item = self._waiting.pop()
            begun = stopping.begin(item[3]) if item[3] not in kept and not ordered else None
            if begun is None:
                refused.append((item, "held"))
            else:
                self._begun[begun[0]] = item, begun
                self._poll.register(begun[0], select.POLLIN)
        if refused:
            self._records.write("outcome", refused)
        os.sched_yield()

    def end(self, ready: list[int]) -> None:
        """Write down how those ended whose descriptors are ready."""
        ended = []
        for fd in ready:
            if fd in self._begun:
                self._poll.unregister(fd)
                item, begun = self._begun.pop(fd)
                ended.append((item, stopping.finish(begun)))
        if ended:
            fcntl.flock(self._records.lock, fcntl.LOCK_EX)
            self._records.write("outcome", ended)
            fcntl.flock(self._records.lock, fcntl.LOCK_UN)


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
    inotify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    paths = [word for word in sys.argv[1:] if word != "--stops"]
    folders = {
        libc.inotify_add_watch(inotify, path.encode(), CREATE_OR_MOVED_TO): os.open(path, os.O_RDONLY) for path in paths
    }
    records, poll = Records(os.path.join(paths[0], HOME)), select.poll()
    questions = Questions(dict(zip(folders.values(), paths, strict=True)), records)
    stops = Stops(records, questions, poll, inotify) if "--stops" in sys.argv else None
    stop = stops.add if stops else None
    everything = [found for fd in folders.values() for name in os.listdir(fd) if (found := look(fd, name))]
    correct(records, questions, everything, stop)
    poll.register(inotify, select.POLLIN)
    while ready := [fd for fd, _ in poll.poll()]:
        if inotify in ready:
            correct(records, questions, batch(inotify, folders), stop)
        if stops:
            stops.end(ready)
            stops.go_on()


if __name__ == "__main__":
    if "--stops" in sys.argv:
        from bench.loops import stopping
    main()

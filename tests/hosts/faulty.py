"""A folder of a host on a disk that fails: a file system in user space (FUSE), which passes through to the folder.

    with faulty.mounted(host, "/etc") as disk:
        with disk.failing(("read", "inetd.conf"), ("readdir", "rc2.d")):
            ...  # these answer EIO

An operation is a name of `OPERATIONS`; a path is below the folder, and means all that lies below it too. The kernel is
told to remember nothing, so each look is asked for anew. One process serves it, `python -m tests.hosts.faulty`, outside
of the host: it ends with the test, and then the kernel answers ENOTCONN in its place.

What is implemented is what the hosts do (linux/fuse.h, version 7.31): the rest is refused with ENOSYS.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import select
import signal
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import syscalls
from tests.hosts.host import Host

OPERATIONS = {
    int(number): name
    for number, name in re.findall(
        r"(\d+) (\w+)",
        """
    1 lookup  2 forget  3 getattr  4 setattr  5 readlink  6 symlink  8 mknod  9 mkdir  10 unlink  11 rmdir  12 rename
    13 link  14 open  15 read  16 write  17 statfs  18 release  20 fsync  26 init  27 opendir  28 readdir  29 release
    30 fsync  35 create  42 batch_forget  45 rename
""",
    )
}
CHANGES = ("setattr", "symlink", "mknod", "mkdir", "unlink", "rmdir", "rename", "link", "create", "write")
_UNANSWERED = ("forget", "batch_forget")
_ROOT = 1
_MAX_WRITE, _BIG_WRITES = 1 << 17, 1 << 5
_MODE, _UID, _GID, _SIZE, _ATIME, _MTIME = 1, 2, 4, 8, 16, 32  # of a setattr
_RENAME2 = 45
_NEW = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOFOLLOW | os.O_APPEND

Fault = tuple[str, str]


class Disk:
    """The test's end of one such file system."""

    def __init__(self, host: Host, folder: str) -> None:
        argv = [sys.executable, "-m", "tests.hosts.faulty", str(host.pid), folder]
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=Path(__file__).parents[2])
        self._answer()

    @contextlib.contextmanager
    def failing(self, *faults: Fault, error: int = errno.EIO) -> Iterator[None]:
        """These meanwhile, and no others."""
        self._set(faults, error)
        try:
            yield
        finally:
            self._set((), 0)

    def read_only(self) -> AbstractContextManager[None]:
        """As the kernel makes one that it found broken, files open for writing or not."""
        return self.failing(*((operation, "") for operation in CHANGES), error=errno.EROFS)

    def _set(self, faults: tuple[Fault, ...], error: int) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([faults, error]) + "\n")
        self._server.stdin.flush()
        self._answer()

    def close(self) -> None:
        """Its end."""
        self._server.communicate(timeout=10)

    def _answer(self) -> None:
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ok\n", "the file system's process ended"


@contextlib.contextmanager
def mounted(host: Host, folder: str) -> Iterator[Disk]:
    """The folder on such a disk, for all processes of the host that look there from now on."""
    disk = Disk(host, folder)
    try:
        yield disk
    finally:
        host.run(["umount", "--lazy", folder], check=False)
        disk.close()


# --- the process that serves it ------------------------------------------------------------------------------


@dataclass
class Node:
    """What the kernel knows by a number: held by a descriptor, so that it may be renamed; forgotten when it says so."""

    fd: int
    key: tuple[int, int]
    path: str = ""  # when it was last looked up
    looked_up: int = 0

    @property
    def magic(self) -> str:
        """A path to the very thing, a symbolic link too."""
        return f"/proc/self/fd/{self.fd}"


@dataclass(frozen=True)
class Request:
    """One question of the kernel's."""

    opcode: int
    node: Node
    uid: int
    gid: int
    body: bytes

    def numbers(self, layout: str) -> tuple[int, ...]:
        """What the body begins with."""
        return struct.unpack_from(f"={layout}", self.body)

    def names(self, skip: int = 0) -> list[str]:
        """What follows so many bytes."""
        return [os.fsdecode(name) for name in self.body[skip:].split(b"\0")[:-1]]


class Server:
    """Answers each question by asking the folder itself, unless that is to fail."""

    def __init__(self, device: int, top: int) -> None:
        self._device = device
        self._nodes = {_ROOT: Node(top, (0, 0))}
        self._lists: dict[int, list[bytes]] = {}
        self._faults: list[Fault] = []
        self._error = 0

    def serve(self) -> None:
        """Until the test closes its end, or the file system is gone."""
        while True:
            ready, _, _ = select.select([self._device, sys.stdin], [], [])
            if sys.stdin in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                self._faults, self._error = json.loads(line)
                _say_ok()
            elif not self._turn():
                return

    def _turn(self) -> bool:
        try:
            data = os.read(self._device, _MAX_WRITE + 4096)
        except OSError as error:
            return error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN)  # ENOENT: it was interrupted meanwhile
        _length, opcode, unique, number, uid, gid = struct.unpack_from("=IIQQII", data)
        request = Request(opcode, self._nodes.get(number, self._nodes[_ROOT]), uid, gid, data[40:])
        operation = OPERATIONS.get(opcode, "")
        if operation in _UNANSWERED:
            self._forget(operation, number, request)
            return True
        failed, answer = self._answer(operation, request)
        with contextlib.suppress(FileNotFoundError):  # who asked is gone
            os.write(self._device, struct.pack("=IiQ", 16 + len(answer), -failed, unique) + answer)
        return True

    def _answer(self, operation: str, request: Request) -> tuple[int, bytes]:
        handler: Callable[[Request], bytes] | None = getattr(self, f"_on_{operation}", None)
        if handler is None:
            return errno.ENOSYS, b""
        if any(operation == of and _is_below(request.node.path, path) for of, path in self._faults):
            return self._error, b""
        try:
            return 0, handler(request)
        except OSError as error:
            return error.errno or errno.EIO, b""

    def _forget(self, operation: str, number: int, request: Request) -> None:
        if operation == "forget":
            forgotten = [(number, *request.numbers("Q"))]
        else:
            forgotten = list(struct.iter_unpack("=QQ", request.body[8:]))
        for each, times in forgotten:
            node = self._nodes[each]
            node.looked_up -= times
            if each != _ROOT and node.looked_up <= 0:
                os.close(self._nodes.pop(each).fd)

    # --- what things are

    def _entry(self, request: Request, name: str) -> bytes:
        """What a name stands for, by its number from now on: always the same one for the same thing."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=request.node.fd)
        status = os.stat(fd)
        key = status.st_dev, status.st_ino
        known = next((number for number, node in self._nodes.items() if node.key == key), None)
        if known is not None:
            os.close(fd)
        number = known or max(self._nodes) + 1
        node = self._nodes.setdefault(number, Node(fd, key))
        node.looked_up += 1
        node.path = f"{request.node.path}/{name}".lstrip("/")
        return struct.pack("=QQQQII", number, 0, 0, 0, 0, 0) + _attributes(status)

    def _made(self, request: Request, name: str) -> bytes:
        """The same for what was just made for somebody."""
        os.chown(name, request.uid, request.gid, dir_fd=request.node.fd, follow_symlinks=False)
        return self._entry(request, name)

    def _on_init(self, request: Request) -> bytes:
        major, _minor, readahead, _flags = request.numbers("IIII")
        return struct.pack("=IIIIHHII36x", major, 31, readahead, _BIG_WRITES, 0, 0, _MAX_WRITE, 1)

    def _on_lookup(self, request: Request) -> bytes:
        return self._entry(request, request.names()[0])

    def _on_getattr(self, request: Request) -> bytes:
        return struct.pack("=QII", 0, 0, 0) + _attributes(os.stat(request.node.fd))

    def _on_setattr(self, request: Request) -> bytes:
        valid, size, *times, mode, uid, gid = request.numbers("I4x8xQ8xQQ8xII4xI4xII")
        it = request.node.magic
        if valid & _MODE:
            os.chmod(it, stat.S_IMODE(mode))
        if valid & (_UID | _GID):
            os.chown(it, uid if valid & _UID else -1, gid if valid & _GID else -1)
        if valid & _SIZE:
            os.truncate(it, size)
        if valid & (_ATIME | _MTIME):
            status = os.stat(request.node.fd)
            given = [seconds * 10**9 + rest for seconds, rest in zip(times[:2], times[2:], strict=True)]
            atime = given[0] if valid & _ATIME else status.st_atime_ns
            os.utime(it, ns=(atime, given[1] if valid & _MTIME else status.st_mtime_ns))
        return self._on_getattr(request)

    def _on_readlink(self, request: Request) -> bytes:
        return os.fsencode(os.readlink("", dir_fd=request.node.fd))

    def _on_statfs(self, request: Request) -> bytes:
        found = os.statvfs(request.node.fd)
        sizes = found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree
        return struct.pack("=QQQQQIII28x", *sizes, found.f_bsize, found.f_namemax, found.f_frsize)

    # --- names

    def _on_symlink(self, request: Request) -> bytes:
        name, target = request.names()
        os.symlink(target, name, dir_fd=request.node.fd)
        return self._made(request, name)

    def _on_mknod(self, request: Request) -> bytes:
        mode, device = request.numbers("II")
        (name,) = request.names(16)
        os.mknod(name, mode, device, dir_fd=request.node.fd)
        return self._made(request, name)

    def _on_mkdir(self, request: Request) -> bytes:
        (name,) = request.names(8)
        os.mkdir(name, request.numbers("I")[0], dir_fd=request.node.fd)
        return self._made(request, name)

    def _on_unlink(self, request: Request) -> bytes:
        os.unlink(request.names()[0], dir_fd=request.node.fd)
        return b""

    def _on_rmdir(self, request: Request) -> bytes:
        os.rmdir(request.names()[0], dir_fd=request.node.fd)
        return b""

    def _on_rename(self, request: Request) -> bytes:
        number, *flags = request.numbers("QI" if request.opcode == _RENAME2 else "Q")
        if any(flags):
            raise OSError(errno.EINVAL, "only renames without a condition")
        old, new = request.names(16 if flags else 8)
        os.rename(old, new, src_dir_fd=request.node.fd, dst_dir_fd=self._nodes[number].fd)
        return b""

    def _on_link(self, request: Request) -> bytes:
        (name,) = request.names(8)
        os.link(self._nodes[request.numbers("Q")[0]].magic, name, dst_dir_fd=request.node.fd)
        return self._entry(request, name)

    # --- contents

    def _on_open(self, request: Request) -> bytes:
        return _opened(os.open(request.node.magic, request.numbers("I")[0] & ~_NEW))

    def _on_create(self, request: Request) -> bytes:
        flags, mode = request.numbers("II")
        (name,) = request.names(16)
        fd = os.open(name, (flags | os.O_CREAT) & ~os.O_APPEND, mode, dir_fd=request.node.fd)
        return self._made(request, name) + _opened(fd)

    def _on_read(self, request: Request) -> bytes:
        fd, offset, size = request.numbers("QQI")
        return os.pread(fd, size, offset)

    def _on_write(self, request: Request) -> bytes:
        fd, offset, size = request.numbers("QQI")
        return struct.pack("=II", os.pwrite(fd, request.body[40 : 40 + size], offset), 0)

    def _on_fsync(self, request: Request) -> bytes:
        os.fsync(request.numbers("Q")[0])
        return b""

    def _on_release(self, request: Request) -> bytes:
        fd = request.numbers("Q")[0]
        self._lists.pop(fd, None)
        os.close(fd)
        return b""

    def _on_opendir(self, request: Request) -> bytes:
        return _opened(os.open(request.node.magic, os.O_RDONLY | os.O_DIRECTORY))

    def _on_readdir(self, request: Request) -> bytes:
        fd, offset, size = request.numbers("QQI")
        if offset == 0:
            self._lists[fd] = [os.fsencode(name) for name in (".", "..", *os.listdir(fd))]
        answer = b""
        for next_one, name in enumerate(self._lists[fd][offset:], offset + 1):
            each = struct.pack("=QQII", next_one, next_one, len(name), 0) + name  # of a type that is not told
            each += b"\0" * (-len(each) % 8)
            if len(answer) + len(each) > size:
                break
            answer += each
        return answer


def _is_below(path: str, of: str) -> bool:
    return of in ("", path) or path.startswith(f"{of}/")


def _opened(fd: int) -> bytes:
    return struct.pack("=QII", fd, 0, 0)


def _attributes(status: os.stat_result) -> bytes:
    times = status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns
    seconds, rest = [each // 10**9 for each in times], [each % 10**9 for each in times]
    rights = status.st_mode, status.st_nlink, status.st_uid, status.st_gid
    return struct.pack(
        "=QQQ3Q3I4IIII",
        *(status.st_ino, status.st_size, status.st_blocks, *seconds, *rest),
        *(*rights, status.st_rdev, status.st_blksize, 0),
    )


def _mount(device: int, init: int, folder: str) -> None:
    """By a child, which enters the host's mounts for it."""
    options = f"fd={device},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,allow_other,default_permissions"
    child = os.fork()
    if child == 0:
        try:
            syscalls.setns(os.open(f"/proc/{init}/ns/mnt", os.O_RDONLY), syscalls.CLONE_NEWNS)
            syscalls.mount("faulty", folder, "fuse", syscalls.MS_NOSUID | syscalls.MS_NODEV, options)
            os._exit(0)
        finally:
            os._exit(1)
    _pid, status = os.waitpid(child, 0)
    assert status == 0, f"{folder} cannot be mounted over"


def missing() -> str | None:
    """Why there can be no such file system here, or None."""
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "/dev/fuse is not there"


def _say_ok() -> None:
    sys.stdout.write("ok\n")
    sys.stdout.flush()


def main(init: int, folder: str) -> None:
    """The folder is opened before it is mounted over."""
    syscalls.die_with_parent(signal.SIGKILL)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one for each file that the kernel knows
    root = os.open(f"/proc/{init}/root", os.O_PATH)
    top = syscalls.open_in_root(root, folder, os.O_PATH | os.O_DIRECTORY)
    device = os.open("/dev/fuse", os.O_RDWR)
    _mount(device, init, folder)
    _say_ok()
    os.umask(0)  # the kernel has applied the one of who asks
    Server(device, top).serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])

"""Who did it: the process behind a change, where the kernel tells (``fanotify(7)``, Linux 5.9 and CAP_SYS_ADMIN).

Evidence for the record of a correction and nothing else: no decision is made on it, and none waits for it. It is read
when inotify has told of a change. What a process is called can be read while it lives only; of one that is gone its
number is left. Where the kernel does not permit it there is no witness, and nothing is missing but these words.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress

from reconciler.text import escape

_INIT = 0x1 | 0x2 | 0x400 | 0x800  # FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DIR_FID | FAN_REPORT_NAME
_ADD, _FLUSH = 0x1, 0x80  # FAN_MARK_ADD, FAN_MARK_FLUSH
_MASK = 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x8000000  # CLOSE_WRITE MOVED_FROM MOVED_TO CREATE DELETE EVENT_ON_CHILD
_AT_FDCWD = -100
_AT_HANDLE_FID = 0x200  # Linux 6.5: also where handles cannot be opened again (overlayfs)
_HANDLE_MAX = 128  # MAX_HANDLE_SZ
_CAP_SYS_ADMIN = 1 << 21

_EVENT = struct.Struct("=IBBHQii")  # event_len, vers, reserved, metadata_len, mask, fd, pid
_INFO = struct.Struct("=BBH8sIi")  # info_type, pad, len, fsid, handle_bytes, handle_type
_HANDLE = struct.Struct("=Ii")  # handle_bytes, handle_type
_DFID_NAME = 2  # FAN_EVENT_INFO_TYPE_DFID_NAME

_CHUNK = 65536
_CHUNKS_MAX = 64  # of a full queue (16,384 events)
_COMMAND = 120  # characters shown of a command line


class Witness:
    """Remembers, for the folders it watches, which process last changed each name since the last look."""

    def __init__(self) -> None:
        """Raises ``OSError`` where the kernel does not tell, or does not tell us."""
        if not _is_privileged():
            raise PermissionError("only who has CAP_SYS_ADMIN is told of other processes")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._folders: dict[bytes, str] = {}
        self._seen: dict[tuple[str, bytes], int] = {}
        self._fd = self._checked(self._libc.fanotify_init(_INIT, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        """Give the marks back. A second call is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def watch(self, folders: Iterable[str]) -> None:
        """Watch these folders instead; one that cannot be is not told of."""
        wanted = set(folders)
        if wanted == set(self._folders.values()):
            return
        with suppress(OSError):
            self._mark(_FLUSH, 0, "/")
        self._folders.clear()
        for folder in wanted:
            with suppress(OSError):
                handle = self._handle(folder)
                self._mark(_ADD, _MASK, folder)
                self._folders[handle] = folder

    def look(self) -> None:
        """Take in what was done since the last look; what was seen then is forgotten."""
        self._seen.clear()
        for _ in range(_CHUNKS_MAX):
            try:
                chunk = os.read(self._fd, _CHUNK)
            except OSError:  # nothing more
                return
            for handle, name, pid in _events(chunk):
                folder = self._folders.get(handle)
                if folder is not None and pid > 0:
                    self._seen[folder, name] = pid

    def who(self, folder: str, name: bytes) -> str:
        """In words who changed that name, "" where that is not known."""
        pid = self._seen.get((folder, name))
        return _words(pid) if pid is not None else ""

    def _mark(self, flags: int, mask: int, folder: str) -> None:
        path = os.fsencode(folder)
        self._checked(self._libc.fanotify_mark(self._fd, flags, ctypes.c_uint64(mask), _AT_FDCWD, path))

    def _handle(self, folder: str) -> bytes:
        """Type and bytes of a folder's handle, as an event names it (``name_to_handle_at(2)``)."""
        buffer = ctypes.create_string_buffer(_HANDLE.pack(_HANDLE_MAX, 0), _HANDLE.size + _HANDLE_MAX)
        mount, path = ctypes.c_int(), os.fsencode(folder)
        call = self._libc.name_to_handle_at
        try:
            self._checked(call(_AT_FDCWD, path, buffer, ctypes.byref(mount), _AT_HANDLE_FID))
        except OSError:  # an older kernel
            self._checked(call(_AT_FDCWD, path, buffer, ctypes.byref(mount), 0))
        size, kind = _HANDLE.unpack_from(buffer)
        return _key(kind, buffer.raw[_HANDLE.size : _HANDLE.size + size])

    def _checked(self, result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def open_witness() -> Witness | None:
    """One where the kernel lets us have one."""
    try:
        return Witness()
    except (OSError, AttributeError):  # AttributeError: a C library without fanotify
        return None


def _is_privileged() -> bool:
    with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        held = next((line for line in lines if line.startswith("CapEff:")), "CapEff: 0")
    return bool(int(held.split()[1], 16) & _CAP_SYS_ADMIN)


def _key(kind: int, handle: bytes) -> bytes:
    return kind.to_bytes(4, "little", signed=True) + handle


def _events(chunk: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """Of each event: the handle of the folder, the name in it, the process."""
    at = 0
    while at + _EVENT.size <= len(chunk):
        length, _, _, head, _, _, pid = _EVENT.unpack_from(chunk, at)
        if length < _EVENT.size or at + length > len(chunk):
            return
        info = at + head
        if info + _INFO.size <= at + length:
            kind, _, size, _, handle_bytes, handle_type = _INFO.unpack_from(chunk, info)
            start = info + _INFO.size
            name = chunk[start + handle_bytes : info + size].partition(b"\0")[0]
            if kind == _DFID_NAME:
                yield _key(handle_type, chunk[start : start + handle_bytes]), name, pid
        at += length


def _words(pid: int) -> str:
    """A process and the one that started it, as far as they live."""
    command = _read(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ")
    if not command:
        return f"by process {pid}, which is gone"
    shown = escape(command[:_COMMAND].decode("utf-8", "surrogateescape"))
    return f'by "{shown}" (process {pid}){_parent(pid)}'


def _parent(pid: int) -> str:
    fields = _read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()
    above = int(fields[1]) if len(fields) > 1 else 0
    name = _read(f"/proc/{above}/comm").strip() if above > 1 else b""
    return f" of {escape(name.decode('utf-8', 'surrogateescape'))} (process {above})" if name else ""


def _read(path: str) -> bytes:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(4096)
    return b""

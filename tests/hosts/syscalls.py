"""The few system calls Python 3.11 does not offer. Each raises OSError, with the path where there is one."""

from __future__ import annotations

import ctypes
import os
import platform

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

RESOLVE_IN_ROOT = 0x10

_PR_SET_PDEATHSIG = 1
_OPENAT2 = 437  # the same on every architecture
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def _checked(result: int, name: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def unshare(flags: int) -> None:
    """Leave the named namespaces for new ones; with CLONE_NEWPID the next child is the new one's init."""
    _checked(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind a descriptor."""
    _checked(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    encoded = [os.fsencode(text) for text in (source, target, kind)]
    _checked(_libc.mount(*encoded, ctypes.c_ulong(flags), os.fsencode(data)), target)


def bind(source: str, target: str, flags: int = 0) -> None:
    """A bind mount; flags such as MS_RDONLY take effect only in a second call, which this makes."""
    mount(source, target, flags=MS_BIND)
    if flags:
        mount("", target, flags=MS_BIND | MS_REMOUNT | flags)


def umount(target: str) -> None:
    """Lazily: whoever still holds a file in it must not keep a host from ending."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def enter_root(new: str) -> None:
    """Make a mount the root and forget the old one, by stacking both on one place: no directory is needed."""
    os.chdir(new)
    _checked(_libc.syscall(_PIVOT_ROOT[platform.machine()], b".", b"."), new)
    umount(".")
    os.chdir("/")


def die_with_parent(number: int) -> None:
    """Have the kernel send a signal when the parent ends, however it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl")


def open_in_root(root: int, path: str, flags: int, mode: int = 0) -> int:
    """Open a path as a process inside that root would: no symlink of a guest leads onto this machine."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT)
    size = ctypes.sizeof(how)
    return _checked(_libc.syscall(_OPENAT2, root, os.fsencode(path), ctypes.byref(how), size), path)

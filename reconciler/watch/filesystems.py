"""Which file systems another machine, or a process behind the kernel's back, may change: inotify is deaf to that."""

from __future__ import annotations

import os
from collections.abc import Iterable

from reconciler.model import Place
from reconciler.watch.trail import real_root, trail

_NETWORK = {"afs", "ceph", "cifs", "coda", "lustre", "ncpfs", "nfs", "nfs4", "orangefs", "pvfs2", "smb3", "smbfs"}
_CLUSTER = {"gfs2", "ocfs2"}
_HYPERVISOR = {"9p", "prl_fs", "vboxsf", "virtiofs", "vmhgfs"}
_REMOTE = _NETWORK | _CLUSTER | _HYPERVISOR  # and all of FUSE


def remote(places: Iterable[Place], root: str) -> str:
    """Where one of the folders to watch lies on such a file system, say so (``/etc is on nfs4``); else ""."""
    start = real_root(root)
    devices: set[int] = set()
    for folder in dict.fromkeys(step.folder for place in places for step in trail(start, place)):
        try:
            device = os.stat(folder).st_dev
        except OSError:
            continue
        if device in devices:
            continue
        devices.add(device)
        kind = file_system(folder)
        if kind in _REMOTE or kind.startswith("fuse"):
            return f"{folder} is on {kind}"
    return ""


def file_system(folder: str) -> str:
    """The type of the file system a folder lies on, as ``proc(5)`` names it in mountinfo; "" where it is not told.

    The mount's id comes from an open descriptor: comparing device numbers goes wrong on btrfs, and ``statfs(2)`` has
    numbers for names, and a structure that each architecture lays out in its own way.
    """
    try:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mount = mount_of(_lines(f"/proc/self/fdinfo/{fd}"))
        finally:
            os.close(fd)
        return type_of(_lines("/proc/self/mountinfo"), mount)
    except OSError:
        return ""


def mount_of(info: Iterable[str]) -> str:
    """The id of a descriptor's mount, by the lines of its fdinfo; "" where they do not say."""
    found = (line.split() for line in info if line.startswith("mnt_id:"))
    return next((words[1] for words in found if len(words) > 1), "")


def type_of(mounts: Iterable[str], mount: str) -> str:
    """The type of the mount with this id, by the lines of a mountinfo; "" where none has it."""
    found = next((line for line in mounts if mount and line.split(" ", 1)[0] == mount), "")
    return found.partition(" - ")[2].split(" ", 1)[0]


def _lines(path: str) -> list[str]:
    with open(path, errors="surrogateescape", newline="\n") as file:  # a path in there may hold a carriage return
        return file.read().split("\n")

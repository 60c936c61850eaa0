"""Control groups: one of cgroup2 for each systemd host, and those that limit a process (`tests.hosts.limits`).

They are the one thing of a host that a kernel does not clean up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

PREFIX = "dom0-reconciler-host-"
# What the test runs in the host sits here, as a login's commands sit in their session.
COMMANDS = "harness.scope"


def mount_point() -> Path | None:
    """Where this machine has cgroup2: the whole tree, or `unified` beside the old hierarchies."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, target, kind = line.split()[:3]
        if kind == "cgroup2":
            return Path(target)
    return None


def refusal(top: Path) -> str | None:
    """Why no group can be made there, or None."""
    probe = top / f"dom0-reconciler-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"{top} is not writable: {error}"
    return None


def of(supervisor: int) -> Path:
    """The group of one host, named after its supervisor."""
    top = mount_point()
    assert top is not None, "systemd hosts are skipped where there is no cgroup2"
    return top / f"{PREFIX}{supervisor}"


class Group:
    """A group of this process's, its host's unless told. Held by a lock: what nobody holds was left by a killed one."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or of(os.getpid())
        _sweep(self.path.parent)
        while (lock := _make(self.path)) is None:
            pass
        self._lock = lock

    def furnish(self) -> None:
        """Before each boot: a systemd that goes down clears away every group below its own."""
        (self.path / COMMANDS).mkdir(exist_ok=True)

    def remove(self) -> None:
        """It can go only once its last process is not just dead but gone."""
        for _ in range(100):
            if _rmdirs(self.path):
                break
            time.sleep(0.02)
        os.close(self._lock)


def _make(group: Path) -> int | None:
    """The group's lock; None where a sweep elsewhere took the group away before it was held."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(group)
    with contextlib.suppress(FileNotFoundError):
        return _lock(group)
    return None


def _lock(group: Path, how: int = 0) -> int:
    """Holds what bears that name now: while the lock was waited for, it may have gone, and been made anew."""
    with contextlib.ExitStack() as stack:
        lock = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | how)
        if not os.path.samestat(os.fstat(lock), os.stat(group)):
            raise FileNotFoundError(errno.ENOENT, "made anew meanwhile", str(group))
        stack.pop_all()
    return lock


def _sweep(top: Path) -> None:
    for group in top.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            lock = _lock(group, fcntl.LOCK_NB)
            _rmdirs(group)
            os.close(lock)


def _rmdirs(group: Path) -> bool:
    """Whether it is gone."""
    with contextlib.suppress(OSError):
        for folder, _folders, _files in os.walk(group, topdown=False):
            os.rmdir(folder)
    return not group.exists()

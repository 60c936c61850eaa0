"""Control groups that give a process of a host less memory, or fewer processes, than it asks for.

    with limits.memory(daemon.outer, more=4 * MIB) as group:
        ...
        assert group.kills == 1

The old hierarchies are taken where they have the controller, else cgroup2. Whatever happens, what is in the group goes
back to where it came from, and the group goes. The kernel leaves what a process had before where it was: a limit is for
what comes on top.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import cgroups

MIB = 1 << 20
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """One tree of groups with a controller in it."""

    top: Path
    controller: str  # its name where it is an old hierarchy of that controller alone; "" for cgroup2

    def home_of(self, pid: int) -> Path:
        """The group that a process is in."""
        lines = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
        path = next(path for _, names, path in lines if self.controller in names.split(","))
        return self.top / path.lstrip("/")


class Limited:
    """One group; `kills` of it, and `refusals` of another process, are the kernel's own count."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._group = cgroups.Group(hierarchy.top / f"{cgroups.PREFIX}{os.getpid()}-limit-{next(_numbers)}")
        self._home: Path | None = None

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._group.path

    def take(self, pid: int) -> None:
        """From now on what it asks for counts, and what its children will."""
        self._home = self._hierarchy.home_of(pid)
        self.write("cgroup.procs", str(pid))

    def write(self, name: str, text: str) -> None:
        """One of the group's files."""
        (self._group.path / name).write_text(text)

    def number(self, name: str, word: str) -> int:
        """What follows a word in one of the group's files."""
        lines = (line.split() for line in (self._group.path / name).read_text().splitlines())
        return next(int(number) for found, number in lines if found == word)

    @property
    def kills(self) -> int:
        """How many processes were killed because memory was short."""
        return self.number("memory.oom_control" if self._hierarchy.controller else "memory.events", "oom_kill")

    @property
    def refusals(self) -> int:
        """How many processes could not be started."""
        return self.number("pids.events", "max")

    def remove(self) -> None:
        """What still runs in it is free again."""
        if self._home is not None:
            for pid in (self._group.path / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):  # it just ended
                    (self._home / "cgroup.procs").write_text(pid)
        self._group.remove()


@contextlib.contextmanager
def memory(*pids: int, more: int) -> Iterator[Limited]:
    """So many bytes more for these, and none of them swapped out."""
    with _limited("memory") as (group, old):
        group.write("memory.limit_in_bytes" if old else "memory.max", str(more))
        group.write(*("memory.swappiness", "0") if old else ("memory.swap.max", "0"))
        for pid in pids:
            group.take(pid)
        yield group


@contextlib.contextmanager
def processes(*pids: int, most: int) -> Iterator[Limited]:
    """So many processes for these together, themselves included."""
    with _limited("pids") as (group, _):
        group.write("pids.max", str(most))
        for pid in pids:
            group.take(pid)
        yield group


@contextlib.contextmanager
def _limited(controller: str) -> Iterator[tuple[Limited, bool]]:
    """The group, and whether it is of an old hierarchy."""
    found = hierarchy(controller)
    assert found is not None, "tests that limit are skipped where that cannot be"
    group = Limited(found)
    try:
        yield group, bool(found.controller)
    finally:
        group.remove()


def hierarchy(controller: str) -> Hierarchy | None:
    """Where a controller can be used on this machine."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _source, target, kind, options = line.split()[:4]
        if kind == "cgroup" and controller in options.split(","):
            return Hierarchy(Path(target), controller)
    top = cgroups.mount_point()
    enabled = (top / "cgroup.subtree_control").read_text().split() if top is not None else []
    return Hierarchy(top, "") if top is not None and controller in enabled else None


def missing() -> str | None:
    """Why nothing can be limited here, or None."""
    for controller in ("memory", "pids"):
        found = hierarchy(controller)
        if found is None:
            return f"the kernel's controller {controller!r} is in no hierarchy here, or not enabled"
        if why := cgroups.refusal(found.top):
            return why
    return None

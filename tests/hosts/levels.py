"""What this machine can do for the tests, and what is missing where it cannot.

A level that is missing skips its tests and is named in the summary, so that nobody takes a green run for more
than it was. Where a level must be there, as in CI, `DOM0_RECONCILER_REQUIRE=namespaces,systemd` says so.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
from pathlib import Path

from tests.hosts import cgroups, faulty, limits, roots
from tests.hosts.recipes import all_recipes
from tests.hosts.vm import qemu, snapshot

REQUIRE_VARIABLE = "DOM0_RECONCILER_REQUIRE"
LEVELS = {
    "roots": "Debian roots, cached or built by mmdebstrap",
    "namespaces": "hosts with sysvinit: root, namespaces, overlayfs",
    "systemd": "hosts with systemd: the same and a writable cgroup2",
    "limits": "the kernel's controllers for memory and processes, of the old hierarchies or of cgroup2",
    "fuse": "a file system in user space, for disks that fail: /dev/fuse",
    "dom0": "a Xen Domain-0 in a virtual machine: qemu, and a snapshot that scripts/test-dom0 has taken",
}

_SYS_ADMIN, _NET_ADMIN = 21, 12


def required() -> list[str]:
    """The levels that must not be missing."""
    return [name for name in os.environ.get(REQUIRE_VARIABLE, "").replace(",", " ").split() if name]


@functools.cache
def missing(level: str) -> str | None:
    """Why a level is not there, or None when it is. Hosts need the levels before their own, the others none of them."""
    if level in _OF_ITS_OWN:
        return _OF_ITS_OWN[level]()
    for name, probe in {"roots": _roots, "namespaces": _namespaces, "systemd": _systemd}.items():
        if reason := probe():
            return reason
        if name == level:
            return None
    return f"there is no level {level!r}, only {', '.join(LEVELS)}"


def _roots() -> str | None:
    if all(roots.find(one.suite, one.init) for one in all_recipes()):
        return None
    reason = roots.can_build()
    return reason and f"{reason}; and not all roots are in {roots.cache()}"


def _namespaces() -> str | None:
    if os.geteuid() != 0:
        return "not root"
    held = int(_status("CapEff"), 16)
    if not (held >> _SYS_ADMIN & 1 and held >> _NET_ADMIN & 1):
        return "root here lacks the capability to make namespaces"
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"the harness does not know the system calls of {platform.machine()}"
    if not shutil.which("ip") or not shutil.which("nsenter"):
        return "iproute2 or util-linux is not installed"
    has_overlay = "\toverlay\n" in Path("/proc/filesystems").read_text() or shutil.which("modprobe")
    return None if has_overlay else "the kernel has no overlayfs"


def _systemd() -> str | None:
    top = cgroups.mount_point()
    if top is None:
        return "cgroup2 is not mounted"
    return cgroups.refusal(top)


def _dom0() -> str | None:
    """Minutes of building are never begun unasked, in the middle of a test run."""
    if reason := qemu.missing():
        return reason
    return None if snapshot.kept() else f"no snapshot in {roots.cache()}: scripts/test-dom0 takes one"


_OF_ITS_OWN = {"limits": limits.missing, "fuse": faulty.missing, "dom0": _dom0}


def _status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}:"))

"""What happens between the fork and the host's init: the child that becomes PID 1 furnishes its own world.

Whatever an init or a root shell in the host could do to the machine's kernel is taken away here: sysctls and
sysrq are read-only or gone, and the capabilities that reach beyond a namespace are dropped.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import syscalls
from tests.hosts.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY

NAMESPACES = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWNET

# sys_boot stays: reboot(2) in a pid namespace ends only that, and is how an init says what it wants next.
# Without syslog rsyslog's imklog fails once; with it, it would drain the machine's kernel log.
_DROPPED = (
    *("sys_time", "sys_module", "sys_rawio", "mknod", "syslog", "wake_alarm", "audit_control"),
    *("mac_admin", "mac_override", "perfmon", "bpf"),
)
CONFINE = ("/usr/bin/setpriv", "--inh-caps=-all", "--bounding-set=" + ",".join(f"-{one}" for one in _DROPPED))
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM": "linux"}

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}


@dataclass(frozen=True)
class World:
    """What the child needs to know of the outside."""

    root: str  # the mounted overlay
    pool: str  # the .debs
    console: str  # the pty's slave
    hostname: str
    cgroup: str | None  # an empty cgroup2 group of the host's own, for systemd


def become_init(world: World) -> None:
    """Furnish the namespaces this process is in and turn into the host's init. Does not return."""
    _mount_kernel(world)
    _mount_dev(world)
    syscalls.bind(world.pool, f"{world.root}/media/debs", MS_RDONLY | MS_NODEV | MS_NOSUID)
    socket.sethostname(world.hostname)
    console = os.open(world.console, os.O_RDWR | os.O_NOCTTY)
    for fd in range(3):
        os.dup2(console, fd)
    syscalls.enter_root(world.root)
    # `container` tells systemd what it cannot do here; the value is free.
    os.execve(CONFINE[0], [*CONFINE, "--", "/sbin/init"], {**ENVIRONMENT, "container": "namespaces"})


def _mount_kernel(world: World) -> None:
    common = MS_NOSUID | MS_NODEV | MS_NOEXEC
    proc, sys = f"{world.root}/proc", f"{world.root}/sys"
    syscalls.mount("proc", proc, "proc", common)
    syscalls.bind(f"{proc}/sys", f"{proc}/sys", MS_RDONLY | common)
    if Path(f"{proc}/sysrq-trigger").exists():
        syscalls.bind("/dev/null", f"{proc}/sysrq-trigger")
    syscalls.mount("sysfs", sys, "sysfs", common | MS_RDONLY)
    syscalls.mount("tmpfs", f"{world.root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    Path(f"{world.root}/run/lock").mkdir(mode=0o1777)
    if world.cgroup is not None:
        Path(world.cgroup, "cgroup.procs").write_text("0")
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        syscalls.mount("cgroup2", f"{sys}/fs/cgroup", "cgroup2", common)


def _mount_dev(world: World) -> None:
    dev = f"{world.root}/dev"
    syscalls.mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755")
    for name in ("pts", "shm"):
        Path(dev, name).mkdir()
    syscalls.mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666,mode=0620,gid=5")
    syscalls.mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV)
    sources = {name: f"/dev/{name}" for name in _DEVICES} | {"console": world.console}
    for name, source in sources.items():
        Path(dev, name).touch()
        syscalls.bind(source, f"{dev}/{name}")
    for name, target in _LINKS.items():
        Path(dev, name).symlink_to(target)

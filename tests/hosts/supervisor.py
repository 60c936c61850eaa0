"""The process that owns one host: `python3 -m tests.hosts.supervisor JSON`, started by `tests.hosts.host`.

It exists so that nothing is left whatever happens to the test run. Everything a host consists of hangs on
this process: its private mount namespace holds the tmpfs with the host's changes, its network namespace is
the LAN at the other end of the host's cable, and the kernel kills the host's init when it ends. It ends when
the test run closes the control socket, which the kernel does even for a `kill -9`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.hosts import cgroups, inside, syscalls

STAGE = "/mnt"  # every Debian has it, and what the machine keeps there is covered in our mount namespace only
LAN_ADDRESS = "192.0.2.1"
HOST_MAC = "02:00:00:00:02:0a"
_LINE_HUNG_UP = 0.02


@dataclass(frozen=True)
class Settings:
    """What the test run hands over, as JSON."""

    root: str
    pool: str
    hostname: str
    systemd: bool
    control: int
    console: int


class Supervisor:
    """Boots the host, reads its console, boots it again when it asks for that, and takes it all away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._control = socket.socket(fileno=settings.control)
        self._commands = b""
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._init: int | None = None
        self._pidfd = -1
        self._master = self._slave = -1
        self._cgroup = cgroups.Group() if settings.systemd else None

    def serve(self) -> None:
        """Until the control socket closes."""
        try:
            self._prepare()
            self._tell(event="ready")
            while self._turn():
                pass
        finally:
            self._kill()
            if self._cgroup is not None:
                self._cgroup.remove()

    def _prepare(self) -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        sources = {"lower": self._settings.root, "pool": self._settings.pool}
        # Opened here: they may lie below the stage, and a mount accepts only what is of its own namespace.
        opened = {name: os.open(source, os.O_PATH) for name, source in sources.items()}
        syscalls.mount("tmpfs", STAGE, "tmpfs", syscalls.MS_NOSUID, "mode=755")
        for name in ("lower", "pool", "upper", "work", "root"):
            Path(STAGE, name).mkdir(mode=0o755)
        for name, fd in opened.items():
            syscalls.bind(f"/proc/self/fd/{fd}", f"{STAGE}/{name}", syscalls.MS_RDONLY)
            os.close(fd)
        self._mount_overlay()

    def _mount_overlay(self) -> None:
        layers = f"lowerdir={STAGE}/lower,upperdir={STAGE}/upper,workdir={STAGE}/work"
        plain = "redirect_dir=off,metacopy=off,index=off"
        syscalls.mount("overlay", f"{STAGE}/root", "overlay", 0, f"{layers},{plain}")

    def _turn(self) -> bool:
        """One wait for the control socket, the console and the end of the host's init."""
        watched = [self._control.fileno()]
        if self._init is not None:
            watched += [self._master, self._pidfd]
        readable, _, _ = select.select(watched, [], [])
        if self._master in readable:
            self._read_console()
        if self._pidfd in readable:
            self._reap()
        return self._control.fileno() not in readable or self._obey()

    def _obey(self) -> bool:
        data = self._control.recv(4096)
        *whole, self._commands = (self._commands + data).split(b"\n")
        for command in whole:
            if command == b"boot":
                self._boot()
            elif command == b"kill":
                self._kill()
                self._tell(event="down", how="killed")
        return bool(data)

    def _boot(self) -> None:
        syscalls.umount(f"{STAGE}/root")  # a host that went down has left its root remounted read-only
        self._mount_overlay()
        if self._cgroup is not None:
            self._cgroup.furnish()
        self._open_console()
        theirs, ours = os.pipe(), os.pipe()
        syscalls.unshare(syscalls.CLONE_NEWPID)
        pid = os.fork()
        if pid == 0:
            self._child(ready=theirs[1], go=ours[0], unused=(theirs[0], ours[1]))
        syscalls.setns(self._own_pids, syscalls.CLONE_NEWPID)  # else the next boot could not make a new one
        self._init, self._pidfd = pid, os.pidfd_open(pid)
        os.close(theirs[1])
        os.close(ours[0])
        os.read(theirs[0], 1)
        self._lay_cable(pid)
        os.write(ours[1], b"g")
        os.read(theirs[0], 1)  # closes when the init is executed: before that /proc/PID/root is still our own
        os.close(theirs[0])
        os.close(ours[1])
        self._tell(event="up", pid=pid)

    def _child(self, ready: int, go: int, unused: tuple[int, int]) -> None:
        """In the fork: never returns. An error ends up on the console, which is where a boot is looked at."""
        try:
            syscalls.die_with_parent(signal.SIGKILL)
            for fd in unused:
                os.close(fd)
            os.setsid()
            syscalls.unshare(inside.NAMESPACES)
            os.write(ready, b"r")
            if os.read(go, 1) == b"g":
                inside.become_init(self._world())
        except BaseException as error:  # noqa: BLE001 - a fork must not return into serve()
            os.write(self._settings.console, f"harness: {error!r}\n".encode())
        finally:
            os._exit(125)

    def _world(self) -> inside.World:
        return inside.World(
            root=f"{STAGE}/root",
            pool=f"{STAGE}/pool",
            console=os.ttyname(self._slave),
            hostname=self._settings.hostname,
            cgroup=str(self._cgroup.path) if self._cgroup is not None else None,
        )

    def _lay_cable(self, pid: int) -> None:
        """eth0 in the host, peer0 here. A dead host's cable goes with its namespace, a little later."""
        commands = f"""
            link set lo up
            link add peer0 type veth peer name eth0 address {HOST_MAC} netns {pid}
            addr add {LAN_ADDRESS}/24 dev peer0
            link set peer0 up
        """
        subprocess.run(["ip", "link", "del", "peer0"], stderr=subprocess.DEVNULL, check=False)
        subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)

    def _open_console(self) -> None:
        """A fresh pty for each boot; our own slave keeps the line up between two users."""
        for fd in (self._master, self._slave):
            if fd >= 0:
                os.close(fd)
        self._master, self._slave = os.openpty()

    def _read_console(self) -> None:
        try:
            os.write(self._settings.console, os.read(self._master, 65536))
        except OSError:
            time.sleep(_LINE_HUNG_UP)  # a session ended and hung the line up: the next getty opens it again

    def _reap(self) -> None:
        status = self._collect()
        # reboot(2) in a pid namespace: its init dies of SIGHUP for a restart, of SIGINT for a halt.
        code = os.waitstatus_to_exitcode(status)
        how = signal.Signals(-code).name if code < 0 else str(code)
        self._tell(event="down", how=how)
        if how == "SIGHUP":
            self._boot()

    def _collect(self) -> int:
        """Waiting for a pid namespace's init is waiting for every process in it."""
        assert self._init is not None
        _pid, status = os.waitpid(self._init, 0)
        os.close(self._pidfd)
        self._init, self._pidfd = None, -1
        return status

    def _kill(self) -> None:
        if self._init is not None:
            os.kill(self._init, signal.SIGKILL)
            self._collect()

    def _tell(self, **message: object) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")


def main() -> None:
    """SIGTERM is an orderly end too: the cgroup goes as well."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    Supervisor(Settings(**json.loads(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()

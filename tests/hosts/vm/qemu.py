"""One qemu: its command, its monitor, its end.

Everything it shares with the test run is an inherited descriptor (monitor, agent, console): there is no socket
to find, no file to remove, and when the run dies the kernel kills it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.hosts import commands

PROGRAM = "qemu-system-x86_64"
MEMORY = 800  # MiB: Domain-0 has 512 of them, the guest 96, the hypervisor its own
STATE = "state"


class MachineError(RuntimeError):
    """qemu ended, or refused what it was asked for."""


def accelerator() -> str:
    """The device may be there and be of no use: only the processor's flags tell."""
    words = set(Path("/proc/cpuinfo").read_text().split())
    hardware = words & {"svm", "vmx"} and os.access("/dev/kvm", os.R_OK | os.W_OK)
    return "kvm" if hardware else "tcg,thread=multi,tb-size=256"


def missing() -> str | None:
    """What keeps this machine from running one, or None."""
    return None if shutil.which(PROGRAM) else f"{PROGRAM} is not installed"


@functools.cache
def version() -> str | None:
    """What qemu says it is; a saved state is resumed by the version that saved it alone."""
    if shutil.which(PROGRAM) is None:
        return None
    return subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def hardware() -> list[str]:
    """The machine; without the files that it boots from. Nothing outside can be reached from its network."""
    return [
        *("-machine", "q35", "-accel", accelerator(), "-m", str(MEMORY), "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-netdev", "user,id=lan,restrict=on", "-device", "virtio-net-pci,netdev=lan,romfile="),
        *("-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=harness"),
    ]


class Machine:
    """A qemu of ours, in the folder that holds its files."""

    def __init__(self, folder: Path, options: Sequence[str], files: Sequence[int] = ()) -> None:
        """`files` are the open ones that the options name, as /proc/self/fd/NUMBER."""
        self._console = os.memfd_create("console")
        monitor, self.agent = self._start(folder, options, files)
        self._monitor = monitor.makefile("rwb")
        self._end = self._ending()
        monitor.settimeout(60)
        self._hear()  # the greeting
        self.ask("qmp_capabilities")

    def _start(self, folder: Path, options: Sequence[str], files: Sequence[int]) -> tuple[socket.socket, socket.socket]:
        ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
        fds = [end.fileno() for end in theirs]
        channels = [
            *("-chardev", f"socket,id=monitor,fd={fds[0]}", "-mon", "chardev=monitor,mode=control"),
            *("-chardev", f"socket,id=agent,fd={fds[1]}"),
            *("-chardev", f"file,id=console,path=/proc/self/fd/{self._console}", "-serial", "chardev:console"),
        ]
        try:
            self._process = subprocess.Popen(
                ["nice", "-n", "5", *commands.dying_with_us(), PROGRAM, *channels, *hardware(), *options],
                stdin=subprocess.DEVNULL,
                stdout=self._console,
                stderr=self._console,
                pass_fds=(*fds, self._console, *files),
                cwd=folder,
                start_new_session=True,
            )
        finally:
            for end in theirs:
                end.close()
        return ours

    def ask(self, command: str, **arguments: Any) -> Any:
        """One command of qemu's monitor, and what it returned; events in between are passed over."""
        line = json.dumps({"execute": command, "arguments": arguments}).encode()
        with contextlib.suppress(BrokenPipeError):
            self._monitor.write(line + b"\n")
            self._monitor.flush()
        while True:
            message = self._hear()
            if "error" in message:
                raise MachineError(f"{command}: {message['error']}")
            if "return" in message:
                return message["return"]

    def _hear(self) -> dict[str, Any]:
        line = self._monitor.readline()
        if not line:
            raise MachineError(f"qemu ended\n{self.console()[-4000:]}")
        message: dict[str, Any] = json.loads(line)
        return message

    def save(self) -> None:
        """Stops it and writes the state of its memory and devices: with the disk as it now is, the snapshot."""
        self.ask("stop")
        self.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.ask("migrate", uri=f"exec:cat >{STATE}")
        self._wait("query-migrate", {"completed"}, {"failed", "cancelled"})
        self.ask("quit")
        self._process.wait(60)

    def resume(self) -> None:
        """Goes on from the saved state, which was loaded because `-incoming` said so."""
        self._wait("query-status", {"paused", "postmigrate", "prelaunch"}, {"internal-error"})
        self.ask("cont")

    def _wait(self, query: str, until: set[str], failed: set[str]) -> None:
        deadline = time.monotonic() + 120
        while (status := self.ask(query).get("status")) not in until:
            if status in failed or time.monotonic() > deadline:
                raise MachineError(f"{query}: {status}")
            time.sleep(0.02)

    def console(self) -> str:
        """All that hypervisor and Domain-0 wrote to the serial line."""
        return Path(f"/proc/self/fd/{self._console}").read_bytes().decode(errors="replace").replace("\r\n", "\n")

    @property
    def pid(self) -> int:
        """On this machine: `nice` and the others each become the next by exec."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether qemu still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """The end, without any order, as by a power cut; a second time nothing."""
        self._end.close()

    def _ending(self) -> contextlib.ExitStack:
        """What is to be done for it, the last first."""
        stack = contextlib.ExitStack()
        stack.callback(os.close, self._console)
        stack.callback(self.agent.close)
        stack.callback(self._monitor.close)
        stack.callback(self._process.wait, 30)
        stack.callback(self._process.kill)
        return stack

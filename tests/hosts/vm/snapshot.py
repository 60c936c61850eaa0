"""Boots a Domain-0 once and keeps it: its disk, and the state of its memory at the moment it was up.

The memory's state is a file beside the disk (qemu's migration to a file) and not inside a qcow2 (`savevm`): so a
resumed machine never writes what is kept, and any number run from one snapshot, each on a copy of its disk.
Like a root, a snapshot appears under its final name only when it is whole.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.hosts import roots
from tests.hosts.recipes import Dom0Recipe, Init, Suite, all_dom0_recipes, dom0_recipe
from tests.hosts.vm import qemu
from tests.hosts.vm.link import Link

ONLY_VARIABLE = "DOM0_RECONCILER_DOM0S"
DISK = "disk"
DISK_SIZE = "2G"  # sparse: it costs what is in it
HYPERVISOR = "console=com1 com1=115200,8n1 dom0_mem=512M,max:512M"
KERNEL = "root=LABEL=root ro console=hvc0 net.ifnames=0 systemd.wants=harness-agent.service"
TICKS = "/var/log/xen/console/guest-ticker.log"

VERSION = 1  # raise it to take every snapshot anew although nothing of the below has changed


@dataclass(frozen=True)
class Snapshot:
    """A Domain-0, kept at the moment when all had started and the guest counted."""

    root: roots.Root
    path: Path

    def disk(self) -> IO[bytes]:
        """A copy for one test: without a name, so that it lasts as long as somebody has it open, and no longer."""
        copy = tempfile.TemporaryFile(dir=self.path)  # noqa: SIM115 - whoever asks for it closes it
        target = f"/proc/self/fd/{copy.fileno()}"
        subprocess.run(["cp", "--sparse=always", self.path / DISK, target], pass_fds=[copy.fileno()], check=True)
        return copy

    def booted(self, disk: IO[bytes], arguments: str) -> qemu.Machine:
        """One that starts anew from that disk, its kernel told these arguments besides."""
        return qemu.Machine(self.path, [*boots_from(arguments), *_drive(disk)], [disk.fileno()])

    def resumed(self, disk: IO[bytes]) -> qemu.Machine:
        """One that goes on from the moment that is kept."""
        options = [*boots_from(), *_drive(disk), "-incoming", f"exec:cat {qemu.STATE}"]
        machine = qemu.Machine(self.path, options, [disk.fileno()])
        try:
            machine.resume()
        except BaseException:
            machine.close()
            raise
        return machine


def find(suite: Suite, init: Init) -> Snapshot | None:
    """The cached snapshot, or None while it has not been taken."""
    snapshot = _expected(dom0_recipe(suite, init))
    return snapshot if snapshot.path.is_dir() else None


def kept() -> list[str]:
    """`bookworm-systemd` and so on: those that are in the cache, and of these the ones that the variable names."""
    if qemu.missing():
        return []
    found = [f"{one.suite}-{one.init}" for one in all_dom0_recipes() if _expected(one).path.is_dir()]
    wanted = os.environ.get(ONLY_VARIABLE, "").split() or found
    return [name for name in found if name in wanted]


def take(suite: Suite, init: Init, progress: roots.Progress = lambda _line: None) -> Snapshot:
    """The snapshot, from the cache or taken now, its root built when it must be."""
    of = dom0_recipe(suite, init)
    snapshot = _expected(of)
    if not snapshot.path.is_dir():
        roots.build_from(of, progress)
        snapshot.path.parent.mkdir(parents=True, exist_ok=True)
        with roots.locked(snapshot.path.with_suffix(".lock")):
            if not snapshot.path.is_dir():
                _take(snapshot, progress)
    os.utime(snapshot.path.with_suffix(".lock"))
    return snapshot


def prune() -> Iterator[str]:
    """As for the roots: what is of no use to this checkout, nor was to another for a day."""
    return roots.prune_folder(_folder(), {_expected(one).path.name for one in all_dom0_recipes()})


def _folder() -> Path:
    return roots.cache() / "machines"


def _expected(of: Dom0Recipe) -> Snapshot:
    """What is saved depends on the root, on qemu, and on all that qemu is told."""
    parts = (of.digest, HYPERVISOR, KERNEL, DISK_SIZE, VERSION, qemu.version(), qemu.hardware())
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
    return Snapshot(roots.expected(of), _folder() / f"{of.name}-{digest}")


def _take(snapshot: Snapshot, progress: roots.Progress) -> None:
    raw = snapshot.path.with_name(f".{snapshot.path.name}.tmp")
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir()
    name, started = snapshot.root.recipe.name, time.monotonic()

    def say(what: str) -> None:
        progress(f"{name}: {what} after {time.monotonic() - started:.0f} s")

    try:
        _files(snapshot.root.path, raw)
        say("disk made")
        _boot(raw, snapshot.path.with_suffix(".log"), say)
        raw.rename(snapshot.path)
    finally:
        shutil.rmtree(raw, ignore_errors=True)


def _files(root: Path, folder: Path) -> None:
    """What qemu loads by itself, and the disk with all of the root."""
    boot = root / "boot"
    shutil.copy(next(boot.glob("vmlinuz-*")), folder / "vmlinuz")
    shutil.copy(next(boot.glob("initrd.img-*")), folder / "initrd")
    with gzip.open(next(boot.glob("xen-*.gz"))) as packed, (folder / "xen").open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    options = ["-q", "-t", "ext4", "-L", "root", "-O", "^metadata_csum_seed", "-d", str(root)]
    subprocess.run(["mke2fs", *options, str(folder / DISK), DISK_SIZE], check=True, stdout=subprocess.DEVNULL)


def _boot(folder: Path, log: Path, say: Callable[[str], None]) -> None:
    with (folder / DISK).open("r+b") as disk:
        machine = qemu.Machine(folder, [*boots_from(), *_drive(disk)], [disk.fileno()])
    try:
        link = Link(machine.agent, machine.alive)
        link.wait(600)
        say("agent answered")
        _until_up(link)
        say("guest counted")
        machine.save()
        say("state saved")
    finally:
        log.write_text(machine.console())
        machine.close()


def _until_up(link: Link) -> None:
    """All started, and the guest's kernel far enough to count; then what was written is on the disk."""
    done = "systemctl is-system-running --wait" if link.run("test -d /run/systemd/system", 60).rc == 0 else "true"
    link.run(done, 600)
    counting = f"until grep -qs '^tick 3' {TICKS}; do sleep 0.2; done; sync"
    result = link.run(counting, 300)
    if result.rc:
        raise qemu.MachineError(f"the guest does not count\n{link.run(f'xl list; tail {TICKS}', 60).out}")


def boots_from(more: str = "") -> list[str]:
    """qemu's options for hypervisor, kernel and initramfs. A comma separates the latter two: within, it is doubled."""
    arguments = f"{KERNEL} {more}".rstrip().replace(",", ",,")
    return ["-kernel", "xen", "-append", HYPERVISOR, "-initrd", f"vmlinuz {arguments},initrd"]


def _drive(disk: IO[bytes]) -> list[str]:
    """Flushes are not waited for: a power cut ends qemu and not this machine, which still has all that was written."""
    return ["-drive", f"file=/proc/self/fd/{disk.fileno()},format=raw,if=virtio,cache=unsafe"]

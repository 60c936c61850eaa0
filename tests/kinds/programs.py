"""A host on which some programs run, and what processes finds on it."""

from __future__ import annotations

from reconciler.desired import DesiredState
from reconciler.model import Process
from tests.scenes import INIT, Scene, process, refs, script

SSHD = process(10, "/usr/sbin/sshd")
CANNA = process(20, "/usr/sbin/cannaserver", package="canna")
SCRIPTS = (
    script("ssh", "/usr/sbin/sshd"),
    script("canna", "/usr/sbin/cannaserver", "/usr/bin/perl"),
    script("cron", "/usr/sbin/cron"),
    script("xen"),
)


def scene(*running: Process, **more: object) -> Scene:
    return Scene(running=(INIT, *running), **{"scripts": SCRIPTS, **more})  # type: ignore[arg-type]


def found(seen: Scene, desired: DesiredState) -> list[str]:
    return [ref.removeprefix("processes:") for ref in refs(seen.plan(desired).findings)]

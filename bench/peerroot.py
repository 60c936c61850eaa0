"""Where the peers live: a Debian root of its own, so that none of their daemons ever starts on this machine.

It is built by mmdebstrap once, kept beside the tests' roots, never written afterwards (each run sees it through an
overlay in memory), and entered by chroot(8).
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.stage import MS_BIND, MS_RDONLY, mount
from tests.hosts import roots
from tests.hosts.recipes import SUITES, Recipe, Suite

PEERS = ("inotify-tools", "direvent", "incron", "monit", "cfengine3", "fail2ban")
LIBRARIES = ("python3", "python3-pyinotify", "python3-structlog", "python3-watchdog", "python3-systemd")
HEAVY = ("puppet", "ansible")
_DEVICES = ("null", "zero", "urandom", "random")


@dataclass(frozen=True)
class PeersRecipe(Recipe):
    """What the root is made from."""

    heavy: bool = False

    @property
    def name(self) -> str:
        """`bookworm-peers`, or with puppet and ansible `bookworm-all-peers`."""
        return f"{self.suite}-{'all-' if self.heavy else ''}peers"

    @property
    def options(self) -> list[str]:
        """Nothing besides the packages."""
        return []


def recipe(*, heavy: bool) -> PeersRecipe:
    """The peers of this machine's own release, so that all of them run on the same libraries as the product."""
    packages = (
        *PEERS,
        *LIBRARIES,
        *(("python3-pyasyncore",) if suite() == "trixie" else ()),
        *(HEAVY if heavy else ()),
    )
    return PeersRecipe(suite(), "sysvinit", packages, ("inotify-tools",), "", heavy=heavy)


def suite() -> Suite:
    """This machine's release where the recipes know it."""
    codename = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
    return next((known for known in SUITES if known == codename), "bookworm")


class PeerRoot:
    """The root as one run sees it: writable in memory, with the stage at its own path."""

    def __init__(self, root: roots.Root, stage: Path) -> None:
        self.versions = root.installed()
        self.path = stage / "peers"
        upper, work = stage / "peers.upper", stage / "peers.work"
        for folder in (self.path, upper, work):
            folder.mkdir()
        mount("overlay", self.path, "overlay", f"lowerdir={root.path},upperdir={upper},workdir={work}")
        inside = self.path / str(stage).lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        mount(str(stage), inside, flags=MS_BIND)
        mount("proc", self.path / "proc", "proc")
        mount("sysfs", self.path / "sys", "sysfs", flags=MS_RDONLY)
        for name in _DEVICES:
            (self.path / "dev" / name).touch()
            mount(f"/dev/{name}", self.path / "dev" / name, flags=MS_BIND)

    def enter(self, *command: str) -> list[str]:
        """The command line that runs a command in it."""
        return ["/usr/sbin/chroot", str(self.path), *command]

    @property
    def libraries(self) -> Path:
        """Debian's Python packages."""
        return self.path / "usr/lib/python3/dist-packages"


def build(*, heavy: bool, progress: Callable[[str], None]) -> roots.Root | str:
    """The root, from the cache or built now; else why there is none."""
    if reason := roots.can_build():
        return reason
    try:
        return roots.build_from(recipe(heavy=heavy), progress)
    except roots.RootError as error:
        return str(error)

"""What the roots hold: the article's services on each suite and init, and what the product needs to run.

The recipe is data, and its digest names the cached root: change a package or the customizing script and the
next run builds anew, while older checkouts keep finding their own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

Suite = Literal["bookworm", "trixie"]
Init = Literal["sysvinit", "systemd"]
SUITES: tuple[Suite, ...] = get_args(Suite)
INITS: tuple[Init, ...] = get_args(Init)

VERSION = 1  # raise it to rebuild every root although no list below has changed
CUSTOMIZE = Path(__file__).with_name("customize.sh")
VM = Path(__file__).with_name("vm")

ARTICLE = [
    "ifupdown",
    "openbsd-inetd",
    "rpcbind",
    "nfs-common",
    "exim4-daemon-light",
    "cron",
    "at",
    "openssh-server",
    "lpr",
    "isc-dhcp-client",
    "canna",
]
TOOLS = ["iproute2", "iputils-ping", "procps", "kmod", "python3", "netbase", "netcat-openbsd"]
PRODUCT = ["python3-pyinotify", "python3-structlog", "python3-watchdog", "python3-systemd", "python3-tomlkit"]

OF_INIT: dict[Init, list[str]] = {
    "sysvinit": ["sysvinit-core", "sysv-rc", "initscripts", "insserv", "orphan-sysvinit-scripts", "rsyslog"],
    "systemd": ["systemd-sysv", "dbus", "libpam-systemd"],
}
OF_SUITE: dict[Suite, list[str]] = {
    "bookworm": [],
    "trixie": ["python3-pyasyncore"],  # pyinotify imports asyncore, which Python 3.12 dropped
}

# Not installed, but in the pool with all it depends on: what a scenario brings in by dpkg or apt to see it noticed.
# An inetd service through update-inetd, another mail transport, a standalone identd, a second super-server; what
# recommends a daemon, and that daemon; what a release upgrade turns from script to unit; a clock that can be set;
# the other DHCP client.
POOL = [
    *("ident2", "tftpd-hpa", "nullmailer", "oidentd", "xinetd"),
    *("libnss-mdns", "avahi-daemon", "xen-utils-common", "libfaketime", "dhcpcd-base"),
]

# A Domain-0 besides: Debian's kernel (the cloud kernel cannot be one), its hypervisor of that suite, and what
# the counting guest is made of. Drivers that no emulated machine has only make the disk twice as big.
XEN: dict[Suite, str] = {"bookworm": "4.17", "trixie": "4.20"}
DOM0 = ["linux-image-amd64", "initramfs-tools", "busybox-static", "cpio", "udev", "fdisk", "xenstore-utils"]
UNWANTED = ("drivers/gpu", "drivers/media", "drivers/net/wireless", "drivers/infiniband", "drivers/staging", "sound")


@dataclass(frozen=True)
class Recipe:
    """Everything a root's content depends on, the moment of the archive apart."""

    suite: Suite
    init: Init
    packages: tuple[str, ...]
    pool: tuple[str, ...]
    customize: str
    version: int = VERSION

    @property
    def name(self) -> str:
        """How people call it: `bookworm-sysvinit`."""
        return f"{self.suite}-{self.init}"

    @property
    def options(self) -> list[str]:
        """What mmdebstrap is told besides the packages."""
        return [f"--customize-hook={CUSTOMIZE}"]

    @property
    def digest(self) -> str:
        """Names the cached root; equal recipes share one."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Dom0Recipe(Recipe):
    """The same host made to boot from a disk, below the hypervisor, with a guest."""

    excluded: tuple[str, ...] = UNWANTED

    @property
    def name(self) -> str:
        """`bookworm-systemd-dom0`."""
        return f"{super().name}-dom0"

    @property
    def options(self) -> list[str]:
        """Its own scripts stand before and after the hosts' one."""
        folders = [f"--dpkgopt=path-exclude=/lib/modules/*/kernel/{folder}/*" for folder in self.excluded]
        before, after = f"--setup-hook={VM / 'before.sh'}", f"--customize-hook={VM / 'after.sh'}"
        return [*folders, before, *super().options, after]


def recipe(suite: Suite, init: Init) -> Recipe:
    """The recipe of one of the four hosts."""
    packages = (*OF_INIT[init], *ARTICLE, *TOOLS, *PRODUCT, *OF_SUITE[suite])
    return Recipe(suite, init, packages, tuple(POOL), CUSTOMIZE.read_text())


def all_recipes() -> list[Recipe]:
    """The four hosts, in the order they are named everywhere."""
    return [recipe(suite, init) for suite in SUITES for init in INITS]


def dom0_recipe(suite: Suite, init: Init) -> Dom0Recipe:
    """One of the four as a Domain-0."""
    host = recipe(suite, init)
    packages = (*host.packages, *DOM0, f"xen-hypervisor-{XEN[suite]}-amd64", f"xen-utils-{XEN[suite]}")
    scripts = "".join((VM / name).read_text() for name in ("before.sh", "after.sh", "agent.py"))
    return Dom0Recipe(suite, init, packages, host.pool, host.customize + scripts)


def all_dom0_recipes() -> list[Dom0Recipe]:
    """Likewise for the Domain-0s."""
    return [dom0_recipe(suite, init) for suite in SUITES for init in INITS]

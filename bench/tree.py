"""Throw-away trees: a Debian host's files, so many of each, and a state that approves them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Init = Literal["sysvinit", "systemd"]

SCRIPTS = 50
"""Approved init scripts; more links are more numbers of these, so that only the links grow."""

STRANGERS = 1000
LEVELS = "2345"
NUMBERS = 100

INTERFACES = "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n    address 192.0.2.10/24\n"
DRIFTED = INTERFACES.replace("static\n    address 192.0.2.10/24", "dhcp")
INETD = "# /etc/inetd.conf\n#ident\tstream\ttcp\twait\tidentd\t/usr/sbin/identd\tidentd\n"
INETD_LINE = "daytime\tstream\ttcp\tnowait\troot\tinternal\n"
WANTS = "etc/systemd/system/multi-user.target.wants"
VENDOR = "usr/lib/systemd/system"
STARTED = "run/started"

_SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides:          {name}
# Required-Start:    $remote_fs $syslog
# Required-Stop:     $remote_fs $syslog
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: {name}
### END INIT INFO
DAEMON=/usr/sbin/{name}d
case "$1" in
  stop) : >/run/started/{name}{stop} ;;
esac
"""
_UNIT = (
    "[Unit]\nDescription={name}\n\n[Service]\nExecStart=/usr/sbin/{name}d\n\n[Install]\nWantedBy=multi-user.target\n"
)


@dataclass(frozen=True)
class Shape:
    """How large a tree is. ``hung`` is a stranger whose stop script does not come back."""

    links: int = 200
    units: int = 0
    strangers: int = 64
    init: Init = "sysvinit"
    interval: str = "5min"
    stop: bool = False
    extra: str = ""  # more TOML


def script(number: int) -> str:
    """An approved script."""
    return f"svc{number:02}"


def stranger(number: int) -> str:
    """A script that nobody approved; its links are what the workloads make."""
    return f"bad{number:05}"


def start_link(number: int, level: str = "2") -> str:
    """The path of a stranger's start link below the tree."""
    return f"etc/rc{level}.d/S20{stranger(number)}"


def approved_links(count: int) -> list[str]:
    """So many start links of approved scripts, over the four runlevels."""
    of = [(LEVELS[n % 4], (n // 4) % SCRIPTS, (20 + n // (4 * SCRIPTS)) % NUMBERS) for n in range(count)]
    return [f"etc/rc{level}.d/S{number:02}{script(which)}" for level, which, number in of]


def furnish(root: Path, shape: Shape) -> None:
    """Write a tree. Nobody has watched it yet."""
    for folder in ("init.d", "network", "dom0-reconciler", *(f"rc{level}.d" for level in "0123456S")):
        (root / "etc" / folder).mkdir(parents=True, exist_ok=True)
    for folder in (STARTED, "var/lib/dpkg", "tmp", "stage"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "var/lib/dpkg/lock").touch()
    names = [script(number) for number in range(SCRIPTS)] + [stranger(n) for n in range(shape.strangers)]
    for name in names:
        write_script(root, name)
    write_script(root, "hung", "; exec sleep 600")
    for link in approved_links(shape.links):
        os.symlink(f"../init.d/{Path(link).name[3:]}", root / link)
    (root / "etc/inetd.conf").write_text(INETD)
    (root / "etc/network/interfaces").write_text(INTERFACES)
    if shape.init == "systemd":
        _furnish_units(root, shape.units)
    declare(root, shape)


def write_script(root: Path, name: str, stop: str = "") -> None:
    """An init script whose stop leaves a mark as its first act."""
    path = root / "etc/init.d" / name
    path.write_text(_SCRIPT.format(name=name, stop=stop))
    path.chmod(0o755)


def _furnish_units(root: Path, count: int) -> None:
    (root / "sbin").mkdir(exist_ok=True)
    (root / "sbin/init").symlink_to("/lib/systemd/systemd")
    for folder in (VENDOR, WANTS, "var/lib/dpkg/info"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "var/lib/dpkg/info/systemd.list").write_text(f"/{VENDOR}/systemd-journald.service\n")
    for number in range(count):
        name = f"unit{number:04}"
        (root / VENDOR / f"{name}.service").write_text(_UNIT.format(name=name))
        if number % 4 == 0:
            (root / WANTS / f"{name}.service").symlink_to(f"/{VENDOR}/{name}.service")
    for number in range(64):
        (root / VENDOR / f"{stranger(number)}.service").write_text(_UNIT.format(name=stranger(number)))


def declare(root: Path, shape: Shape) -> None:
    """The desired state: everything that ``furnish`` has put there may stay."""
    approved = [script(number) for number in range(SCRIPTS)]
    if shape.init == "systemd":
        approved += [f"unit{number:04}" for number in range(shape.units)]
    own = root / "etc/dom0-reconciler"
    (own / "interfaces").write_text(INTERFACES)
    quoted = ", ".join(f'"{name}"' for name in approved)
    (own / "state.toml").write_text(
        f'version = 1\nmode = "enforce"\ninterval = "{shape.interval}"\n{shape.extra}\n'
        f"[services]\napproved = [{quoted}]\nstop = {str(shape.stop).lower()}\n"
        '[inetd]\napproved = []\n[network]\ninterfaces = "interfaces"\n'
    )
    limit = [*(script(n) for n in range(SCRIPTS)), *(f"{name}.service" for name in approved)]
    (root / "approved").write_text("".join(f"{name}\n" for name in limit))

"""The state that the scenarios declare: what a Domain-0 needs of the article's host, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

PATH = "/etc/dom0-reconciler/state.toml"
BOOT = "/usr/share/dom0-reconciler/states/debian-boot.toml"
BOOT_SOURCE = Path(__file__).parents[2] / "states" / "debian-boot.toml"

WANTED = ("ssh", "cron", "rsyslog", "networking")


def state(
    *more: str,
    interval: str = "5min",
    unapproved: str = "stop",
    mask: bool = False,
    inetd: Iterable[str] = (),
    listeners: Iterable[str] = (),
    extra: str = "",
) -> str:
    """A state that approves ssh, cron, logging, what boots the host, and `more`.

    The interval is the product's own, far longer than any scenario waits: what is noticed, a watch has noticed.
    """
    return f"""\
version = 1
mode = "enforce"
interval = "{interval}"
include = ["{BOOT}"]

[services]
approved = {json.dumps([*WANTED, *more])}
mask = {json.dumps(mask)}

[inetd]
approved = {json.dumps([*inetd])}

[listeners]
approved = {json.dumps(["tcp/22", *listeners])}
unapproved = "{unapproved}"

[processes]
unapproved = "report"
{extra}"""

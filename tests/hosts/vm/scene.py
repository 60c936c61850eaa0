"""What the Domain-0's tests share: states to declare, a guest that must not notice, a daemon at peace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.hosts import product
from tests.hosts.vm.dom0 import GUEST, Dom0

CHECKOUT = Path(__file__).parents[3]
SHIPPED = "/usr/share/dom0-reconciler/states"
UNAPPROVED = ("cannaserver", "exim4", "inetd", "lpd", "rpc.statd", "rpcbind")
PATIENCE = 1800  # seconds; an emulated processor is some twenty times slower, and may have to share the real one

# The harness's agent is a service as any other. dhclient holds the address, so it is the administrator's to keep.
STATE = f"""\
version = 1
mode = "enforce"
include = ["{SHIPPED}/%s-xen.toml"]
[services]
approved = ["harness-agent"]
"""


def install(host: Dom0, state: str) -> None:
    """The product from the checkout, the states that it ships, and ours."""
    host.install_product()
    for file in sorted((CHECKOUT / "states").glob("*.toml")):
        host.put(f"{SHIPPED}/{file.name}", file.read_bytes())
    host.put(product.STATE, state % host.suite)


def install_package(host: Dom0, deb: Path) -> None:
    """By dpkg, as a user does; returns once the daemon has looked at the host."""
    host.put("/var/tmp/it.deb", deb.read_bytes())
    host.run(["dpkg", "--install", "/var/tmp/it.deb"], timeout=PATIENCE)
    host.run(["rm", "/var/tmp/it.deb"])
    host.wait_for(lambda: product.status_code(host) in (0, 2), PATIENCE, "the daemon to have looked once")


def converge(host: Dom0) -> None:
    """Waits until the daemon has nothing left to do, and nothing under way."""
    product.converge(host, PATIENCE)


def intents(host: Dom0) -> list[dict[str, Any]]:
    """What was begun: a journal has the daemon's starts besides."""
    return [record for record in host.journal() if record["record"] == "intent"]


@contextmanager
def guest_stays_up(host: Dom0) -> Iterator[None]:
    """The same domain, not a new one of the same name, and its console went on all the while."""
    before, ticks, started = host.domains(), host.guest_ticks(), time.monotonic()
    assert {one.name for one in before} == {"Domain-0", GUEST}
    yield
    seconds = time.monotonic() - started
    assert host.guest_alive()
    assert [(one.name, one.id) for one in host.domains()] == [(one.name, one.id) for one in before]
    assert host.guest_ticks() - ticks > seconds / 10, "it counted on, and not only at the end"

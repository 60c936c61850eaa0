"""The package's life on a real Domain-0: whatever is done to it, the guest and its Xen run on."""

from __future__ import annotations

from pathlib import Path

from tests.hosts import debs, product
from tests.hosts.vm.dom0 import Dom0
from tests.hosts.vm.scene import PATIENCE, STATE, UNAPPROVED, converge, guest_stays_up, install_package, intents

FORMER = "0.0.9"


def running(host: Dom0) -> set[str]:
    """Those of the unapproved that run."""
    return set(UNAPPROVED) & set(host.processes().values())


def xen(host: Dom0) -> dict[int, str]:
    """The processes that guests live on."""
    return {pid: comm for pid, comm in host.processes().items() if comm.startswith(("xen", "oxen", "xl", "qemu"))}


def installed(host: Dom0) -> str:
    """dpkg's word for the package."""
    return host.run("dpkg-query -W -f '${db:Status-Status} ${Version}' dom0-reconciler", check=False).out


def test_installed_observing_enforced_upgraded_removed_purged(dom0: Dom0, deb: Path, tmp_path: Path) -> None:
    before = xen(dom0)
    with guest_stays_up(dom0):
        install_package(dom0, debs.of_version(deb, FORMER, tmp_path))
        assert running(dom0) == set(UNAPPROVED)
        assert intents(dom0) == []
    with guest_stays_up(dom0):
        dom0.put(product.STATE, STATE.replace('"enforce"', '"observe"') % dom0.suite)
        dom0.wait_for(lambda: product.status_code(dom0) == 2, PATIENCE, "the new state's findings")
        shown = dom0.run([product.COMMAND, "enforce"], timeout=PATIENCE).out
        assert "canna" in shown
        dom0.wait_for(lambda: running(dom0) == set(), PATIENCE, "the corrections")
        converge(dom0)
    with guest_stays_up(dom0):
        install_package(dom0, deb)
        assert installed(dom0) != f"installed {FORMER}"
        install_package(dom0, deb)
        converge(dom0)
        assert dom0.run([product.COMMAND, "log", "--verify"]).rc == 0
    with guest_stays_up(dom0):
        dom0.run(["dpkg", "--remove", "dom0-reconciler"], timeout=PATIENCE)
        assert installed(dom0).startswith("config-files")
        install_package(dom0, deb)
        dom0.run(["dpkg", "--purge", "dom0-reconciler"], timeout=PATIENCE)
        assert not dom0.exists("/var/lib/dom0-reconciler")
        assert not dom0.exists(product.COMMAND)
    assert running(dom0) == set(), "what was corrected stays so"
    assert xen(dom0) == before
    assert {"xen", "xendomains"} <= {link.rpartition("/")[2][3:] for link in dom0.start_links()}

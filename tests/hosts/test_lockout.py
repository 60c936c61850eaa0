"""A state that would lock the administrator out is refused, on hosts where somebody really is connected."""

from __future__ import annotations

import sys

from tests.hosts.host import ADDRESS, STATIC, Host

STATE = "/etc/dom0-reconciler/state.toml"
HEAD = 'version = 1\nmode = "enforce"\n'
SSH = HEAD + '[services]\napproved = ["ssh", "cron"]\n'
CONNECT = f"import socket, time; s = socket.create_connection(('{ADDRESS}', 22)); s.recv(99); time.sleep(60)"


def test_nobody_is_locked_out(host: Host) -> None:
    host.install_product()
    host.use_static_address()
    host.put(STATE, SSH.replace('"ssh", ', ""))
    assert host.run("dom0-reconciler check").rc == 0, "nobody is logged in"
    job = host.spawn_on_lan([sys.executable, "-c", CONNECT])
    host.wait_for(lambda: "sshd" in host.run("ss -Htnp state established").out, why="a connection to sshd")
    refused = host.run("dom0-reconciler check", check=False)
    assert (refused.rc, refused.out) == (1, "")
    assert 'services.approved: somebody is logged in through "ssh", which is not approved' in refused.err
    assert host.run("dom0-reconciler apply", check=False).rc == 1
    host.put(STATE, "accept_lockout = true\n" + SSH.replace('"ssh", ', ""))
    assert host.run("dom0-reconciler check").rc == 0
    _the_network_under_it(host)
    job.kill()


def _the_network_under_it(host: Host) -> None:
    network = SSH + '[network]\ninterfaces = "interfaces"\n'
    host.put("/etc/dom0-reconciler/interfaces", "auto lo\niface lo inet loopback\n")
    host.put(STATE, network)
    refused = host.run("dom0-reconciler check", check=False)
    assert refused.rc == 1
    assert "network.interfaces: does not define eth0, which carries a login" in refused.err
    host.put("/etc/dom0-reconciler/interfaces", STATIC)
    assert host.run("dom0-reconciler check").rc == 0
    host.put("/etc/dom0-reconciler/interfaces", "auto lo\niface lo inet loopback\n")
    host.run("ip route add default via 192.0.2.1 dev eth0")
    assert "does not define eth0, which holds the default route" in host.run("dom0-reconciler check", check=False).err

"""Listeners on real hosts: all are seen, whose they are is known, and a port that is closed stays closed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.hosts.host import Host
from tests.hosts.looking import Listener
from tests.hosts.plugin import SYSTEMD
from tests.hosts.product import ask

STATE = "/etc/dom0-reconciler/state.toml"
BASE = '["*"]'
"""Every service is approved: what is left to find are ports."""

STRANGER = """
import os, socket, sys
one = socket.socket()
one.bind(("192.0.2.10", 4444))
one.listen()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.close(0); os.close(1); os.close(2)
        one.accept()
    os._exit(0)
"""


def declare(host: Host, text: str) -> None:
    host.put(STATE, f"version = 1\n{text}\n")


def findings(host: Host) -> dict[str, dict[str, Any]]:
    return {f["ref"]: f for f in ask(host, "plan")["findings"] if f["kind"] == "listeners"}


def ref(one: Listener) -> str:
    """As the product should call what was seen from outside."""
    if one.proto == "unix":
        return f"listeners:unix/{one.address}"
    protocol, wide = one.proto.removesuffix("6"), one.address in ("0.0.0.0", "::")
    address = f"[{one.address}]" if ":" in one.address else one.address
    return f"listeners:{protocol}/{one.port if wide else f'{address}:{one.port}'}"


def test_every_port_is_seen_with_its_owner(host: Host) -> None:
    host.install_product()
    declare(host, f'[services]\napproved = {BASE}\n[listeners]\napproved = ["tcp/22"]')
    outside = {ref(one): one for one in host.listeners() if one.proto != "unix" and one.port != 22}
    found = findings(host)
    assert {name for name in found if ":unix/" not in name} == outside.keys()
    for name, one in outside.items():
        assert all(str(pid) in found[name]["detail"] for pid in one.pids), found[name]
    assert {finding["rule"] for finding in found.values()} == {"reported"}
    assert found["listeners:tcp/111"]["service"] == "rpcbind"
    assert found["listeners:tcp/127.0.0.1:25"]["service"] == "exim4"


def test_unix_sockets_count_where_their_service_is_not_approved(host: Host) -> None:
    host.install_product()
    declare(host, '[services]\napproved = ["ssh", "cron", "rpcbind"]\nstop = false\n[listeners]\napproved = ["tcp/22"]')
    unix = {name.removeprefix("listeners:unix/") for name in findings(host) if ":unix/" in name}
    assert unix == {"/dev/printer", "/tmp/.iroha_unix/IROHA"}


def test_a_program_of_nobody_on_a_new_port_is_ended(host: Host) -> None:
    host.install_product()
    host.use_static_address()
    text = f'[services]\napproved = {BASE}\n[listeners]\napproved = ["tcp/1-1023", "udp/1-65535", "tcp/1024-65535"]'
    declare(host, text.replace('"tcp/1024-65535"', '"tcp/1024-4443", "tcp/4445-65535"') + '\nunapproved = "stop"')
    assert findings(host) == {}
    host.run(["python3", "-c", STRANGER])
    (finding,) = findings(host).values()
    assert finding["ref"] == "listeners:tcp/192.0.2.10:4444"
    assert "python3" in finding["detail"]
    done = ask(host, "apply")
    assert done["converged"], done
    assert not [one for one in host.listeners() if one.port == 4444]


INETD_LINES = "[inetd]\napproved = ['discard/tcp', 'daytime/tcp'{}]"
BUT_IDENT = '["tcp/1-112", "tcp/114-65535", "udp/1-65535"]'


@pytest.mark.parametrize("table", ["", INETD_LINES.format("")])
def test_the_line_of_inetd_is_what_is_corrected(host: Host, table: str) -> None:
    host.install_product()
    declare(host, f'{table}\n[services]\napproved = {BASE}\n[listeners]\napproved = {BUT_IDENT}\nunapproved = "stop"')
    before = host.read("/etc/inetd.conf")
    pid = [process.pid for process in host.running("inetd")]
    (finding,) = findings(host).values()
    assert "opened by inetd:inetd.conf/ident/tcp" in finding["detail"]
    ask(host, "apply")
    host.wait_for(lambda: not [one for one in host.listeners() if one.port == 113], 5, "port 113 to close")
    assert host.read("/etc/inetd.conf") == before.replace("\nident", "\n#ident")
    assert pid == [process.pid for process in host.running("inetd")]
    assert {9, 13} <= {one.port for one in host.listeners()}
    assert ask(host, "plan")["converged"]


@pytest.mark.parametrize("host", ["bookworm-sysvinit"], indirect=True)
def test_what_an_approved_line_of_inetd_opens_is_reported(host: Host) -> None:
    host.install_product()
    table = INETD_LINES.format(", 'ident/tcp'")
    declare(host, f'{table}\n[services]\napproved = {BASE}\n[listeners]\napproved = {BUT_IDENT}\nunapproved = "stop"')
    before = host.read("/etc/inetd.conf")
    assert ask(host, "apply")["converged"]
    (finding,) = findings(host).values()
    assert (finding["rule"], "inetd.approved" in finding["detail"]) == ("reported", True)
    assert host.read("/etc/inetd.conf") == before
    assert [one for one in host.listeners() if one.port == 113]


def test_the_port_of_an_approved_service_is_held(host: Host) -> None:
    host.install_product()
    others = '["tcp/1-110", "tcp/112-65535", "udp/1-65535"]'
    declare(host, f'[services]\napproved = {BASE}\n[listeners]\napproved = {others}\nunapproved = "stop"')
    steps = ask(host, "apply")["steps"]
    held = [step["held"] for step in steps if "listeners:tcp/111" in step["findings"]]
    assert held, steps
    assert all("approved" in why for why in held), held  # or needed by another one that is
    assert [one for one in host.listeners() if one.port == 111]


@SYSTEMD
def test_a_port_that_init_still_holds_is_closed_with_its_socket_unit(host: Host) -> None:
    host.install_product()
    # one after the other: rpc.statd says goodbye to rpcbind, and waits for one that may not start
    host.run("systemctl stop rpc-statd.service && systemctl stop rpcbind.service")
    others = '["tcp/1-110", "tcp/112-65535", "udp/1-65535"]'
    approved = ["ssh", "cron", "networking", "openbsd-inetd", "exim4", "lpd", "canna", "atd"]
    declare(host, f"[services]\napproved = {approved}\n[listeners]\napproved = {others}\nunapproved = 'stop'")
    finding = findings(host)["listeners:tcp/111"]
    assert finding["service"] == "rpcbind"
    assert finding["detail"].startswith("systemd (process 1")
    ask(host, "apply")
    assert not [one for one in host.listeners() if one.port == 111]

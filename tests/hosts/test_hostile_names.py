"""Names that a hostile user would choose, on real hosts: no log, status or service manager is steered by them."""

from __future__ import annotations

import os

import pytest

from tests.fuzz.targets.bytes import printable
from tests.hosts import product
from tests.hosts.host import Host
from tests.hosts.plugin import BootHost
from tests.hosts.scenario import Scene

NAMES = ("new\nMESSAGE=forged\nPRIORITY=0", "\x1b]0;owned\x07\x1b[2J", "rtl\u202egpj", "bytes\udcff\udc9b", "$(reboot)")


def _bring(host: Host) -> None:
    for number, name in enumerate(NAMES):
        host.run(["ln", "-s", f"../init.d/{name}", f"/etc/rc2.d/S{20 + number}{name}"])
        host.run(["sh", "-c", 'printf "iface x inet dhcp\\n" >"$1"', "sh", f"/etc/network/interfaces.d/{name}"])


def _clean(text: str) -> None:
    for line in text.split("\n"):
        assert printable(line.replace("\t", " ")), ascii(line)


@pytest.mark.parametrize("init", ["systemd", "sysvinit"])
def test_names_are_only_names(boot_host: BootHost, init: str) -> None:
    host = boot_host("bookworm", init)
    scene = Scene(host)
    scene.guard(timeout=60)
    _bring(host)
    folder = os.fsencode("/etc/rc2.d")
    host.wait_for(lambda: not any("/S2" in link for link in host.start_links()), 60, f"{folder!r} to be corrected")
    scene.converge(60)
    assert {record["service"] for record in host.journal() if record["outcome"] == "done"} >= {
        r"new\x0aMESSAGE=forged\x0aPRIORITY=0",
        "$(reboot)",
    }
    for command in (["status"], ["log"], ["plan"], ["log", "--verify"]):
        _clean(host.run([product.COMMAND, *command], check=False).out)
    _judge_the_journal(host) if init == "systemd" else _judge_the_syslog(host)


def _judge_the_journal(host: Host) -> None:
    entries = host.journalctl("SYSLOG_IDENTIFIER=dom0-reconciler")
    named = [entry for entry in entries if "MESSAGE=forged" in str(entry["MESSAGE"])]
    assert named
    for entry in entries:
        assert isinstance(entry["MESSAGE"], str), "journald shows what does not print as numbers"
        assert printable(entry["MESSAGE"])
        assert entry["MESSAGE"] != "forged"
        assert entry["PRIORITY"] != "0"
    _clean(host.run(["systemctl", "show", "-p", "StatusText", product.NAME]).out)


def _judge_the_syslog(host: Host) -> None:
    lines = [line for line in host.syslog().split("\n") if "dom0-reconciler[" in line]
    assert any("MESSAGE=forged" in line for line in lines)
    for line in lines:
        assert printable(line), ascii(line)

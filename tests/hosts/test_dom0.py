"""The product in a real Domain-0: it corrects what it may, and a guest that runs there never notices.

Each test goes on from one snapshot: the article's services run, and a PV guest counts on its console.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import levels, product
from tests.hosts.recipes import UNWANTED, all_dom0_recipes, all_recipes, dom0_recipe
from tests.hosts.vm import qemu, snapshot
from tests.hosts.vm.dom0 import Dom0
from tests.hosts.vm.scene import CHECKOUT, PATIENCE, STATE, UNAPPROVED, converge, guest_stays_up, install

WITHOUT_XEN = STATE.replace('"harness-agent"]', '"harness-agent", "!xen", "!xendomains"]')

FACTS = """
import json
from reconciler.host.files import Root
from reconciler.host.kernel import host_facts
host = host_facts(Root("/"))
print(json.dumps({key: getattr(host, key) for key in host.__match_args__}))
"""
KERNEL = """
import ctypes, json, os, socket
connector = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11)  # NETLINK_CONNECTOR
connector.bind((os.getpid(), 1))                                     # CN_IDX_PROC
libc = ctypes.CDLL(None, use_errno=True)
group = libc.fanotify_init(0xC00, os.O_RDONLY)                       # FAN_REPORT_DIR_FID | FAN_REPORT_NAME
marked = libc.fanotify_mark(group, 0x101, ctypes.c_uint64(0x100), -100, b"/")  # FAN_MARK_ADD | _FILESYSTEM, FAN_CREATE
print(json.dumps([group >= 0, marked]))
"""
RUN = """
import time
from tests.hosts.vm.dom0 import dom0
with dom0("{suite}", "{init}") as host:
    host.put("/root/mark", "")
    print(host.pid, flush=True)
    time.sleep(1000)
"""


def what_is_left(host: Dom0) -> list[dict[str, Any]]:
    """The steps that an `apply` leaves, once all are held; a slow systemd is a gap, and asked again."""
    applied = host.run([product.COMMAND, "apply"], check=False, timeout=PATIENCE)
    assert applied.rc == 2, applied.out + applied.err
    plan = host.plan()
    steps: list[dict[str, Any]] = plan["steps"]
    return steps if all(step["held"] for step in steps) and not plan["gaps"] else []


def test_what_the_snapshot_holds(dom0: Dom0) -> None:
    with guest_stays_up(dom0):
        facts = json.loads(dom0.run(["python3", "-c", KERNEL]).out)
        assert facts == [True, 0]  # an own kernel: proc connector, and fanotify marks on a whole file system
        assert dom0.running("cannaserver")
        assert dom0.run("cat /proc/xen/capabilities").out.strip() == "control_d"


def test_the_product_knows_where_it_is(dom0: Dom0) -> None:
    dom0.install_product()
    with guest_stays_up(dom0):
        facts = json.loads(dom0.run(["python3", "-c", FACTS]).out)
    assert facts == {**facts, "live": True, "domain0": True, "privileged": True, "init": dom0.init}


def test_a_guest_stays_up_while_everything_else_goes(dom0: Dom0) -> None:
    install(dom0, STATE)
    with guest_stays_up(dom0):
        dom0.start_daemon(PATIENCE)
        dom0.wait_for(lambda: not any(map(dom0.running, UNAPPROVED)), PATIENCE, "the unapproved to end")
        converge(dom0)
        assert dom0.running("sshd")
        assert dom0.running("cron")
        assert dom0.running("xenconsoled")
        dom0.run(["dpkg", "-i", dom0.deb("canna")], timeout=PATIENCE)  # an upgrade in the midst of it
        dom0.wait_for(lambda: not dom0.running("cannaserver"), PATIENCE, "the upgraded to end")
        dom0.stop_daemon()
    corrected = {record["service"] for record in dom0.journal() if record.get("record") == "outcome"}
    assert {"canna", "exim4", "rpcbind"} <= corrected
    assert not corrected & {"xen", "xendomains", "ssh", "networking"}
    assert any(link.endswith("xendomains") for link in dom0.start_links())


def test_a_state_without_xen_is_refused(dom0: Dom0) -> None:
    install(dom0, WITHOUT_XEN)
    with guest_stays_up(dom0):
        refused = dom0.run([product.COMMAND, "apply"], check=False, timeout=PATIENCE)
    assert refused.rc == 1
    assert "this is a Domain-0" in refused.err
    assert dom0.journal() == []
    assert dom0.running("cannaserver")


def test_what_would_stop_xen_is_held_by_the_rails(dom0: Dom0) -> None:
    """Who says `accept_lockout = true` gets past the refusal, and meets the rails."""
    install(dom0, WITHOUT_XEN.replace("version = 1\n", "version = 1\naccept_lockout = true\n"))
    with guest_stays_up(dom0):
        steps = dom0.wait_for(lambda: what_is_left(dom0), PATIENCE, "all that is left to be held")
    held = {(step["service"], step["action"]): step["held"] for step in steps}
    assert held[("xen", "unlink")] == held[("xendomains", "unlink")]
    assert held[("xen", "unlink")] == "rail: without it no guest starts at the next boot"
    stops = {service: why for (service, action), why in held.items() if action == "stop-service"}
    assert stops["xen"].startswith("rail: stopping it ends xenconsoled")
    assert stops["xendomains"] == "rail: its stop shuts every guest down"
    assert not dom0.running("cannaserver")
    assert dom0.running("xenconsoled")


# --- the harness itself --------------------------------------------------------------------------------------------


def test_roots_of_domain0s_are_roots_of_their_own() -> None:
    digests = {one.digest for one in (*all_recipes(), *all_dom0_recipes())}
    assert len(digests) == 8
    assert all(folder in "".join(dom0_recipe("trixie", "systemd").options) for folder in UNWANTED)


def test_without_a_snapshot_the_reason_says_who_takes_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOM0_RECONCILER_CACHE", str(tmp_path))
    monkeypatch.setattr(qemu, "missing", lambda: None)
    why = levels.missing.__wrapped__("dom0")
    assert why == f"no snapshot in {tmp_path}: scripts/test-dom0 takes one"


def test_a_machine_without_qemu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "PROGRAM", "qemu-of-nowhere")
    assert levels.missing.__wrapped__("dom0") == "qemu-of-nowhere is not installed"
    assert snapshot.kept() == []


def test_a_machine_ends_with_the_run_that_resumed_it(dom0: Dom0) -> None:
    """By `kill -9`, too. Its disk and state are as they were: the next goes on from the same moment."""
    program = RUN.format(suite=dom0.suite, init=dom0.init)
    with subprocess.Popen([sys.executable, "-c", program], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        machine = Path("/proc", run.stdout.readline().strip())
        assert "-incoming" in (machine / "cmdline").read_text()
        run.kill()
    deadline = time.monotonic() + 20
    while machine.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not machine.exists()
    assert not dom0.exists("/root/mark")

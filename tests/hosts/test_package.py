"""The Debian package through its life, on each of the four hosts: nothing that ran stops, nothing of it stays."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from reconciler.storage import store
from tests.hosts import debs, product
from tests.hosts.commands import Result
from tests.hosts.host import Host
from tests.hosts.looking import Process
from tests.hosts.plugin import SYSTEMD, SYSVINIT
from tests.hosts.trees import Tree, difference

STATE = product.STATE
OLD, NEW = "0.0.9", "9.0"
MINE = """\
version = 1
mode = "observe"
[services]
approved = ["ssh", "cron"]      # mine
"""


SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides: {name}
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop:
# Short-Description: {name}
### END INIT INFO
"""
SHIPPED = """\
version = 1
mode = "{mode}"
include = ["/usr/share/dom0-reconciler/states/{suite}-xen.toml"]
"""
"""What a Domain-0 needs, and so less than what the article's host runs."""


@pytest.fixture
def other(deb: Path, tmp_path: Path) -> dict[str, Path]:
    """The package as the version before and the one to come."""
    return {version: debs.of_version(deb, version, tmp_path) for version in (OLD, NEW)}


def _dpkg(host: Host, deb: Path) -> Result:
    host.put("/var/tmp/it.deb", deb.read_bytes())
    result = host.run(["dpkg", "--install", "/var/tmp/it.deb"], timeout=180)
    host.run("rm /var/tmp/it.deb")
    return result


def _install(host: Host, deb: Path) -> None:
    _dpkg(host, deb)
    host.wait_for(lambda: product.status_code(host) in (0, 2), 30, "the daemon to have looked once")


def _daemons(host: Host) -> list[Process]:
    return [one for one in host.processes() if one.args[-2:] == (product.COMMAND, "run")]


def _daemon(host: Host) -> Process:
    (found,) = _daemons(host)
    return found


def _others(host: Host) -> set[tuple[int, str]]:
    """What runs for long and is not ours: not the workers that init systems start and end at will."""
    ours = {one.outer for one in _daemons(host)}
    passing = ("systemd-", "(sd-", "agetty", "getty", "sleep", "sh", "systemctl", "keeper")
    return {(p.outer, p.comm) for p in host.processes() if p.outer not in ours and not p.comm.startswith(passing)}


def _etc(host: Host) -> Tree:
    """Without what every package's installation touches: the caches of ld.so and of insserv's order."""
    return {path: entry for path, entry in host.tree().items() if not re.search(r"ld\.so\.cache|\.depend\.", path)}


def _mode(host: Host) -> str:
    found = re.search(r'^mode = "(\w+)"', host.read(STATE), re.MULTILINE)
    assert found is not None
    return found[1]


def _kept(host: Host) -> Tree:
    """All that is in the quarantine, without the folder that each daemon makes ahead for its next pass."""
    there = host.tree("/var/lib/dom0-reconciler/quarantine")
    return {path: entry for path, entry in there.items() if f"/{store.TEMPORARY}" not in path}


def _lasting(host: Host) -> set[tuple[int, str]]:
    """The processes that stay: exim4 forks a runner for its queue at the start, which ends by itself."""
    first = _others(host)
    time.sleep(2)
    return first & _others(host)


def _actions(host: Host) -> list[str]:
    return [record["action"] for record in host.journal() if record.get("action")]


def _said(host: Host) -> str:
    """What the daemon has said outside its own journal."""
    return product.said(host) if host.init == "systemd" else host.syslog() + host.read("/run/dom0-reconciler/output")


def _all_ended(host: Host) -> bool:
    """Whether each stop that was begun has its outcome."""
    stops = [record for record in host.journal() if record.get("action") == "stop-service"]
    begun, ended = ({r["id"] for r in stops if r["record"] == which} for which in ("intent", "outcome"))
    return bool(begun) and begun <= ended


# --- first contact -------------------------------------------------------------------------------------------------


def test_installing_stops_nothing(host: Host, deb: Path) -> None:
    before, listening, links = _lasting(host), {one.name for one in host.listeners()}, set(host.start_links())
    _install(host, deb)
    assert _mode(host) == "observe"
    assert f"{host.suite}-xen.toml" in host.read(STATE)
    assert product.status_code(host) == 0, host.run([product.COMMAND, "plan"], check=False).out
    assert before <= _others(host)
    assert {one.name for one in host.listeners()} == listening
    assert {link for link in host.start_links() if product.NAME not in link} == links
    assert _actions(host) == []
    assert host.run([product.COMMAND, "check"]).rc == 0


def test_its_first_status_forgets_what_installed_it(host: Host, deb: Path) -> None:
    """The first pass comes while dpkg runs, and sees it; the next one, in five minutes, is not waited for."""

    def passing() -> list[str]:
        status = json.loads(host.run([product.COMMAND, "--json", "status"], check=False).out)
        return [finding["ref"] for finding in status["findings"] if "dpkg" in finding["ref"]]

    host.put("/var/tmp/it.deb", deb.read_bytes())
    installing = host.spawn("dpkg --install /var/tmp/it.deb; sleep 1")
    host.wait_for(lambda: product.status_code(host) in (0, 2), 60, "the daemon to have looked once")
    assert installing.wait(60).rc == 0
    host.wait_for(lambda: not passing(), 20, "the installation to be forgotten")


def test_it_runs_after_the_next_boot(host: Host, deb: Path) -> None:
    _install(host, deb)
    host.reboot()
    host.wait_for(lambda: product.status_code(host) in (0, 2), 30, "the daemon, started by init")
    assert len(_daemons(host)) == 1


def test_a_state_put_there_beforehand_is_left_alone(host: Host, deb: Path) -> None:
    host.put(STATE, MINE, 0o640)
    host.run("echo 'dom0-reconciler dom0-reconciler/mode select enforce' | debconf-set-selections")
    _install(host, deb)
    assert host.read(STATE) == MINE
    assert _actions(host) == []


def test_a_roll_out_may_ask_to_enforce(host: Host, deb: Path) -> None:
    """The host is held as it is: nothing stops, and what comes later does not stay."""
    host.run("echo 'dom0-reconciler dom0-reconciler/mode select enforce' | debconf-set-selections")
    before = _lasting(host)
    _install(host, deb)
    assert _mode(host) == "enforce"
    assert _actions(host) == []
    host.put("/etc/init.d/intruder", SCRIPT.format(name="intruder"), 0o755)
    host.run("update-rc.d intruder defaults")
    host.wait_for(lambda: not [link for link in host.start_links() if "intruder" in link], 30, "the correction")
    assert before <= _others(host)


def test_a_roll_out_may_bring_its_state(host: Host, deb: Path) -> None:
    host.put(STATE, SHIPPED.format(mode="enforce", suite=host.suite))
    _install(host, deb)
    host.wait_for(lambda: not host.running("cannaserver"), 60, "the correction")
    host.wait_for(lambda: not host.running("rpcbind"), 30, "another")
    assert host.running("sshd")
    assert host.running("cron")


# --- upgrades ------------------------------------------------------------------------------------------------------


def test_up_and_down_again_all_is_kept(host: Host, deb: Path, other: dict[str, Path]) -> None:
    _install(host, other[OLD])
    host.put(STATE, SHIPPED.format(mode="enforce", suite=host.suite))
    host.wait_for(lambda: not host.running("cannaserver"), 30, "the correction")
    host.wait_for(lambda: _all_ended(host), 60, "the other stops")
    kept, state, records = _kept(host), host.read(STATE), len(host.journal())
    assert kept
    host.put("/run/dom0-reconciler/of-a-command", "kept")
    host.run([product.COMMAND, "pause", "2h", "exim4", "--reason", "an upgrade"])
    for version in (deb, other[NEW], deb, other[OLD]):
        before, others = _daemon(host), _lasting(host)
        _install(host, version)
        host.wait_for(lambda old=before.outer: _daemon(host).outer != old, 30, "the new daemon")  # type: ignore[misc]
        assert others <= _others(host)
    assert host.read(STATE) == state
    assert kept.items() <= _kept(host).items()
    assert len(host.journal()) > records
    assert host.run([product.COMMAND, "log", "--verify"]).rc == 0
    assert host.read("/run/dom0-reconciler/of-a-command") == "kept"
    assert "an upgrade" in host.run([product.COMMAND, "status"], check=False).out


def test_disabled_it_stays(host: Host, deb: Path, other: dict[str, Path]) -> None:
    _install(host, other[OLD])
    host.stop_daemon()
    host.run("systemctl disable dom0-reconciler" if host.init == "systemd" else "update-rc.d dom0-reconciler disable")
    _dpkg(host, deb)
    assert _daemons(host) == []
    assert [link for link in host.start_links() if link.endswith("dom0-reconciler")] == []


def test_a_state_that_is_refused_breaks_no_upgrade(host: Host, deb: Path, other: dict[str, Path]) -> None:
    _install(host, other[OLD])
    host.put(STATE, "version = 1\nmdoe = 'enforce'\n")
    _dpkg(host, deb)
    assert "install ok installed" in host.run("dpkg-query -W -f '${Status}' dom0-reconciler").out
    host.put(STATE, MINE)
    host.wait_for(lambda: product.status_code(host) == 2, 60, "systemd, or the keeper, to try again")


# --- the end -------------------------------------------------------------------------------------------------------


def test_removed_and_back_again(host: Host, deb: Path) -> None:
    _install(host, deb)
    host.put(STATE, MINE)
    before = _lasting(host)
    host.run(["dpkg", "--remove", "dom0-reconciler"])
    assert _daemons(host) == []
    assert host.read(STATE) == MINE
    assert host.exists(product.JOURNAL)
    assert not host.exists("/usr/share/dom0-reconciler")
    _install(host, deb)
    assert host.read(STATE) == MINE
    assert before <= _others(host)


def test_purged_the_host_is_as_before(host: Host, deb: Path) -> None:
    etc, running = _etc(host), _lasting(host)
    _install(host, deb)
    host.run(["dpkg", "--purge", "dom0-reconciler"])
    assert difference(etc, _etc(host)) == ""
    for folder in ("/usr/share", "/var/lib", "/run", "/usr/lib/python3/dist-packages"):
        assert [name for name in host.files.names(folder) if "reconciler" in name] == []
    assert running <= _others(host)
    assert "dom0-reconciler" not in host.run("debconf-show dom0-reconciler", check=False).out


def test_purge_leaves_what_is_the_administrators(host: Host, deb: Path) -> None:
    _install(host, deb)
    host.put(STATE, MINE)
    host.put("/etc/dom0-reconciler/interfaces", "auto lo\n")
    purged = host.run(["dpkg", "--purge", "dom0-reconciler"])
    assert host.read(STATE) == MINE
    said = purged.out + purged.err
    assert said.count(STATE) == said.count("/etc/dom0-reconciler/interfaces") == 1
    assert not host.exists("/var/lib/dom0-reconciler")


# --- the service ---------------------------------------------------------------------------------------------------


def test_never_stopped_in_the_middle_of_a_correction(host: Host, deb: Path) -> None:
    """A stop that takes three seconds is waited for, and its outcome is in the record."""
    _install(host, deb)
    slow = SCRIPT.format(name="slow")
    slow += '[ "$1" != stop ] || { touch /run/slow.began; sleep 3; touch /run/slow.ended; }\n'
    host.put("/etc/init.d/slow", slow, 0o755)
    host.run("update-rc.d slow defaults")
    if host.init == "systemd":
        host.run("systemctl daemon-reload; systemctl start slow")
    host.put(STATE, MINE.replace("observe", "enforce"))
    host.wait_for(lambda: host.exists("/run/slow.began"), 30, "the stop to begin")
    host.stop_daemon()
    assert host.exists("/run/slow.ended")
    assert _daemons(host) == []
    ends = {r["outcome"] for r in host.journal() if r.get("service") == "slow" and r["record"] == "outcome"}
    assert "done" in ends
    assert not ends & {"unverified", "failed"}


def test_nothing_is_imported_late(host: Host, deb: Path) -> None:
    """Python and all its libraries go, as in a release upgrade: the daemon that runs has all that it will ever need."""
    _install(host, deb)
    pid = _daemon(host).outer
    python = [f"/usr/lib/{name}" for name in host.files.names("/usr/lib") if name.startswith("python3")]
    folders = ["/usr/share/dom0-reconciler/reconciler", *python]
    host.run("; ".join(["set -e", *(f"mv {folder} {folder}.gone" for folder in folders)]))
    everything = '[processes]\n[listeners]\napproved = [{ port = "tcp/22", address = "192.0.2.10" }]\n[inetd]\n'
    wanted = SHIPPED.format(mode="enforce", suite=host.suite) + everything
    host.put(STATE, wanted.replace("interfaces", "interfacse").replace("mode", "mdoe"))
    host.wait_for(lambda: "refused" in _said(host), 30, "the refusal of a wrong state")
    host.put(STATE, wanted)
    host.wait_for(lambda: not host.running("cannaserver"), 60, "the correction")
    host.wait_for(lambda: _all_ended(host), 60, "the other stops")
    host.run(f"kill -HUP {_daemon(host).pid}")
    host.put("/etc/init.d/intruder", SCRIPT.format(name="intruder"), 0o755)
    host.run("update-rc.d intruder defaults")
    host.wait_for(lambda: not [link for link in host.start_links() if "intruder" in link], 30, "the next correction")
    # What it is about to start has its arguments until it runs its own program.
    host.wait_for(lambda: [one.outer for one in _daemons(host)] == [pid], 10, "the same daemon, and no other")
    host.stop_daemon()
    host.run("; ".join(["set -e", *(f"mv {folder}.gone {folder}" for folder in folders)]))
    assert host.run([product.COMMAND, "log", "--verify"]).rc == 0
    assert "the daemon stopped" in host.run([product.COMMAND, "log"]).out
    assert not re.search(r"Traceback|No module named|ImportError", _said(host))


def test_killed_it_comes_back(host: Host, deb: Path) -> None:
    """Under sysvinit by the keeper, of which test_keeper.py knows more."""
    _install(host, deb)
    old = _daemon(host)
    host.run(f"kill -9 {old.pid}")
    host.wait_for(lambda: [one for one in _daemons(host) if one.outer != old.outer], 30, "it to be started anew")


@SYSTEMD
def test_the_sandbox_is_tight_and_hides_nothing(host: Host, deb: Path) -> None:
    _install(host, deb)
    verdict = host.run("systemd-analyze security --no-pager --threshold=35 dom0-reconciler.service", check=False)
    assert verdict.rc == 0, verdict.out
    host.put(STATE, SHIPPED.format(mode="observe", suite=host.suite) + "[processes]\n[listeners]\n")
    outside = _plan(host)
    assert {"inetd", "listeners", "processes", "rclinks", "units"} <= {f["kind"] for f in outside["findings"]}
    inside = _plan(host, "systemd-run", "--unit=looking", "--quiet", "--wait", "--pipe", *_sandbox(host))
    assert inside["gaps"] == outside["gaps"]
    assert _refs(inside) - {"units:looking.service", "processes:/usr/bin/systemd-run"} == _refs(outside)


@SYSTEMD
def test_the_real_time_option_is_what_it_says(host: Host, deb: Path) -> None:
    """docs/realtime.conf: the lowest real-time priority, for the daemon and not for what it starts, with a limit."""
    _install(host, deb)
    option = (debs.CHECKOUT / "docs/realtime.conf").read_bytes()
    host.put("/etc/systemd/system/dom0-reconciler.service.d/realtime.conf", option)
    verdict = host.run("systemd-analyze verify dom0-reconciler.service", check=False)
    assert "realtime.conf" not in verdict.out + verdict.err
    host.run("systemctl daemon-reload && systemctl restart dom0-reconciler")
    pid = host.run("systemctl show -P MainPID dom0-reconciler").out.strip()
    assert re.findall(r"policy: (\S+)|priority: (\d+)", host.run(["chrt", "--pid", pid]).out) == [
        ("SCHED_FIFO|SCHED_RESET_ON_FORK", ""),
        ("", "1"),
    ]
    assert re.search(r"Max realtime timeout +3000000 +3000000 +us", host.read(f"/proc/{pid}/limits"))
    assert product.status_code(host) in (0, 2)


@SYSTEMD
def test_the_catalog_explains(host: Host, deb: Path) -> None:
    _install(host, deb)
    assert "The reconciler has started" in host.run("journalctl --list-catalog 0216557bdff5434f8c75dbbc15fc9db8").out


@SYSVINIT
def test_the_init_script_keeps_to_the_standard(host: Host, deb: Path) -> None:
    _install(host, deb)
    script = "/etc/init.d/dom0-reconciler"
    pid = _daemon(host).outer
    assert host.run([script, "status"]).rc == 0
    assert host.run([script, "start"]).rc == 0
    host.put(STATE, MINE)
    assert host.run([script, "reload"]).rc == 0
    assert _daemon(host).outer == pid
    assert host.run([script, "restart"]).rc == 0
    assert _daemon(host).outer != pid
    assert host.run([script, "stop"]).rc == 0
    assert host.run([script, "status"], check=False).rc == 3
    assert host.run([script, "stop"]).rc == 0
    assert host.run([script, "try-restart"]).rc == 0
    assert _daemons(host) == []
    assert host.run([script, "nonsense"], check=False).rc == 2


def test_the_boot_prompt_has_the_last_word(host: Host, deb: Path) -> None:
    """Of a host in namespaces systemd does not read /proc/cmdline: it is asked. The daemon reads it, and the script."""
    host.put("/run/cmdline", "quiet dom0-reconciler=observe\n")
    host.run("mount --bind /run/cmdline /proc/cmdline")
    host.put(STATE, MINE.replace("observe", "enforce"))
    _install(host, deb)
    assert _actions(host) == []
    assert '"mode": "observe"' in host.run([product.COMMAND, "--json", "status"], check=False).out
    host.stop_daemon()
    host.put("/run/cmdline", "quiet dom0-reconciler=off\n")
    refused = host.run([product.COMMAND, "run"])
    assert refused.rc == 0
    assert "dom0-reconciler=off" in refused.err
    if host.init == "sysvinit":
        assert host.run(["service", "dom0-reconciler", "start"]).rc == 0
        assert _daemons(host) == []
    else:
        ask = "systemd-analyze condition --unit=dom0-reconciler.service"
        assert host.run(f"SYSTEMD_PROC_CMDLINE='quiet dom0-reconciler=off' {ask}", check=False).rc != 0
        assert host.run(f"SYSTEMD_PROC_CMDLINE='quiet dom0-reconciler=observe' {ask}").rc == 0


def test_maintenance_is_none_of_its_own(host: Host, deb: Path) -> None:
    """The rescue target and runlevel 1 end it: nothing corrects what is mended there. The way back up starts it."""
    _install(host, deb)
    down, up = ("telinit 1", "telinit 2")
    if host.init == "systemd":
        down, up = ("systemctl isolate rescue.target", "systemctl isolate multi-user.target")
    host.spawn(down)
    host.wait_for(lambda: not _daemons(host) and not host.running("cron"), 60, "the maintenance")
    assert not _daemons(host)
    host.spawn(up)
    host.wait_for(
        lambda: host.running("cron") and product.status_code(host) in (0, 2), 60, "the daemon, started by init"
    )


@SYSVINIT
def test_a_slow_first_pass_is_no_failed_start(host: Host, deb: Path) -> None:
    """Nobody waits longer than so long for it; it goes on behind, and then it is on guard."""
    _install(host, deb)
    host.stop_daemon()
    script = host.read("/etc/init.d/dom0-reconciler")
    host.put("/etc/init.d/dom0-reconciler", re.sub(r"(?m)^READY=\d+", "READY=1", script), 0o755)
    launcher = host.read(product.COMMAND).replace("import sys\n", "import os, sys, time\n", 1)
    waits = 'while "run" in sys.argv and not os.path.exists("/run/go"): time.sleep(0.1)\n'
    host.put(product.COMMAND, launcher.replace("if __name__", f"{waits}if __name__"), 0o755)
    started = host.run(["service", "dom0-reconciler", "start"])
    assert "goes on" in started.out
    assert len(_daemons(host)) == 1
    host.put("/run/go", "")
    host.wait_for(lambda: product.status_code(host) in (0, 2), 30, "the daemon to have looked once")


def test_the_smoke_test_that_debian_runs(host: Host, deb: Path) -> None:
    _install(host, deb)
    host.put("/var/tmp/smoke", (debs.CHECKOUT / "packaging/debian/tests/smoke").read_bytes(), 0o755)
    host.run(["/var/tmp/smoke"], timeout=120)


def _plan(host: Host, *wrapper: str) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads(host.run([*wrapper, product.COMMAND, "--json", "plan"], check=False).out)
    return plan


def _refs(plan: dict[str, Any]) -> set[str]:
    return {finding["ref"] for finding in plan["findings"]}


def _sandbox(host: Host) -> list[str]:
    """The unit's own properties, for another command."""
    unit = host.read("/usr/lib/systemd/system/dom0-reconciler.service")
    service = unit.split("[Service]")[1].split("[Install]")[0]
    wanted = r"^((?:Protect|Private|Restrict|Capab|System|Memory|Lock|NoNew|IPAddr|ReadWrite)\w*=.*)$"
    return [f"--property={line}" for line in re.findall(wanted, service, re.MULTILINE)]

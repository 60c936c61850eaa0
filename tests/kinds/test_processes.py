"""processes: what runs and should not, how it is ended, what never is."""

from __future__ import annotations

import pytest

from reconciler.desired import DesiredState, Listeners, Network, OnUnapproved, Processes, Rails, Services
from reconciler.kinds import processes
from reconciler.kinds.processes import TABLE
from reconciler.model import (
    Host,
    Process,
    Ref,
    Signal,
    StopService,
)
from reconciler.services import UnitFile
from reconciler.values import replace
from tests.kinds.programs import CANNA, SCRIPTS, SSHD, found, scene
from tests.scenes import INIT, SYSTEMD, SYSVINIT, Scene, process, script


def state(
    *approved: str,
    services: tuple[str, ...] | None = ("ssh", "cron"),
    unapproved: OnUnapproved = "stop",
    stop: bool = True,
) -> DesiredState:
    """With ``[processes]`` where something is approved by it; ``*`` alone approves nothing."""
    table = Processes(tuple(p for p in approved if p != "*"), unapproved) if approved else None
    return DesiredState(services=None if services is None else Services(services, stop=stop), processes=table)


# --- where it looks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "live", "looks"),
    [
        (DesiredState(), True, False),
        (state(), True, True),
        (state(), False, False),
        (DesiredState(listeners=Listeners()), True, True),
        (DesiredState(network=Network()), True, True),
    ],
)
def test_it_looks_on_a_live_host_where_anything_is_declared(desired: DesiredState, live: bool, looks: bool) -> None:
    assert list(processes.places(desired, Host(live=live))) == ([TABLE] if looks else [])


# --- services ----------------------------------------------------------------------------------------------


def test_what_belongs_to_a_service_that_is_not_approved_is_stopped_with_it() -> None:
    planned = scene(SSHD, CANNA).plan(state())
    (finding,) = planned.findings
    assert (str(finding.ref), finding.service, finding.rule) == (
        "processes:/usr/sbin/cannaserver",
        "canna",
        "unapproved",
    )
    assert finding.detail == "process 20; of the service canna"
    (step,) = planned.steps
    assert (step.action, step.held) == (StopService("canna", "canna"), None)


def test_an_alias_approves_it() -> None:
    assert found(scene(CANNA), state(services=("cannaserver",))) == []


def test_a_program_is_one_finding_however_many_run_it() -> None:
    many = [replace(CANNA, pid=pid) for pid in range(20, 30)]
    (finding,) = scene(*many).plan(state()).findings
    assert finding.detail == "processes 20, 21, 22, 23, 24 and 5 more; of the service canna"


def test_without_stop_it_is_reported() -> None:
    planned = scene(CANNA).plan(state(stop=False))
    assert [finding.rule for finding in planned.findings] == ["reported"]
    assert planned.converged


def test_a_package_alone_makes_a_helper_its_services() -> None:
    helper = process(21, "/usr/lib/canna/helper", package="canna")
    assert scene(helper).plan(state()).findings[0].service == "canna"


def test_what_several_scripts_run_belongs_to_none() -> None:
    both = (script("one", "/usr/sbin/shared"), script("two", "/usr/sbin/shared"))
    assert found(scene(process(20, "/usr/sbin/shared"), scripts=both), state()) == []


def test_an_interpreter_is_nobodys_but_its_script_is() -> None:
    perl = process(20, "/usr/bin/perl", 1, "-w", "/usr/sbin/starman")
    assert found(scene(perl), state()) == []
    assert found(scene(perl), state("*")) == ["/usr/sbin/starman"]
    assert found(scene(perl), state("starman")) == []
    assert found(scene(perl, scripts=(script("starman", "/usr/sbin/starman"),)), state()) == ["/usr/sbin/starman"]


def test_under_systemd_the_control_group_says_whose_it_is() -> None:
    units = (UnitFile(Ref("units", "x.service"), ("x",), "x.service"),)
    helper = process(20, "/usr/bin/helper", cgroup="/system.slice/x.service")
    delegated = process(21, "/usr/bin/below", 20, cgroup="/system.slice/x.service/inner.service")
    planned = scene(helper, delegated, facts=SYSTEMD, units=units).plan(state())
    assert [finding.service for finding in planned.findings] == ["x", "x"]
    (step,) = planned.steps
    assert step.action == StopService("x", units=("x.service",))


def test_a_transient_unit_is_stopped_by_its_name() -> None:
    helper = process(20, "/usr/bin/helper", cgroup="/system.slice/run-r5.service")
    (step,) = scene(helper, facts=SYSTEMD).plan(state()).steps
    assert step.action == StopService("run-r5", units=("run-r5.service",))


# --- other programs ----------------------------------------------------------------------------------------


def test_without_the_table_a_strange_program_is_nobodys_business() -> None:
    assert found(scene(process(30, "/opt/x")), state()) == []


@pytest.mark.parametrize("approved", ["/opt/x", "x", "/opt/*", "?"])
def test_a_program_is_approved_by_path_or_name(approved: str) -> None:
    assert found(scene(process(30, "/opt/x")), state(approved)) == []


def test_a_strange_program_is_reported_or_told_to_go() -> None:
    seen = scene(process(30, "/opt/x", started=7))
    assert seen.plan(state("*", unapproved="report")).converged
    (step,) = seen.plan(state("*")).steps
    assert (step.action, step.held) == (Signal("/opt/x", "TERM", "/opt/x", ((30, 7),)), None)
    (step,) = seen.plan(state("*"), {"/opt/x": "TERM"}).steps
    assert step.action == Signal("/opt/x", "KILL", "/opt/x", ((30, 7),))


@pytest.mark.parametrize(
    ("path", "text", "said"),
    [
        ("/etc/inittab", "x1:23:respawn:/opt/x --loop\n", "named in /etc/inittab (init starts it again)"),
        ("/etc/rc.local", "#!/bin/sh\n/opt/x &\n", "named in /etc/rc.local"),
        ("/etc/crontab", "@reboot root /opt/x\n", "named in /etc/crontab (@reboot)"),
        ("/etc/cron.d/x", "@reboot root x\n", "named in /etc/cron.d/x (@reboot)"),
        ("/var/spool/cron/crontabs/joe", "@reboot /opt/x\n", "named in /var/spool/cron/crontabs/joe (@reboot)"),
        ("/etc/network/if-up.d/x", "exec /opt/x\n", "named in /etc/network/if-up.d/x"),
        ("/etc/rc.local", "# /opt/x\n/opt/xyz\n", ""),
        ("/etc/crontab", "5 * * * * root /opt/x\n", ""),
    ],
)
def test_what_starts_it_is_named(path: str, text: str, said: str) -> None:
    seen = scene(process(30, "/opt/x"), files={path: text})
    (finding,) = seen.plan(state("*")).findings
    assert finding.detail == "; ".join(filter(None, ("process 30", "of no package", said)))


def test_a_starter_that_cannot_be_read_is_no_gap() -> None:
    seen = scene(process(30, "/opt/x"), gone=("/etc/inittab", "/etc/cron.d"))
    assert seen.plan(state("*")).gaps == ()
    assert found(seen, state("*")) == ["/opt/x"]


# --- exempt ------------------------------------------------------------------------------------------------

LOGIN = process(11, "/usr/bin/bash", SSHD.pid)


@pytest.mark.parametrize(
    "spared",
    [
        INIT,
        LOGIN,
        process(12, "/usr/bin/vim", LOGIN.pid),
        process(30, "/usr/sbin/agetty"),
        process(30, "/usr/lib/systemd/systemd-udevd"),
        process(30, "/usr/bin/udevadm"),
        process(30, "/usr/lib/systemd/systemd-journald"),
        process(30, "/usr/bin/dbus-daemon"),
        process(30, "/usr/sbin/xenstored"),
        process(30, "/usr/lib/xen-4.17/bin/xenconsoled"),
        process(30, "/usr/libexec/xen-qemu-system-i386"),
        process(30, "/usr/bin/qemu-system-x86_64"),
        process(30, "/usr/sbin/xl", 1, "create", "guest"),
        process(SYSVINIT.own, "/usr/bin/python3.11", 1, "/usr/sbin/dom0-reconciler", "plan"),
        process(31, "/usr/sbin/update-rc.d", SYSVINIT.own),
        process(30, "/usr/bin/python3.11", 1, "-m", "reconciler", "run"),
        process(30, "/usr/bin/x", cgroup="/machine.slice/one.scope"),
    ],
    ids=lambda one: f"{one.executable.rpartition('/')[2]}-{one.pid}",
)
def test_what_is_exempt_is_no_finding(spared: Process) -> None:
    others = (SSHD, LOGIN, process(SYSVINIT.own, "/usr/bin/python3.11"))
    running = {each.pid: each for each in (INIT, *others, spared)}
    seen = Scene(running=tuple(running.values()), scripts=SCRIPTS)
    assert spared.executable not in found(seen, state("bash", "python3.11"))


def test_a_helper_of_the_toolstack_is_exempt_too() -> None:
    xl = process(30, "/usr/sbin/xl", 1, "devd")
    hotplug = process(31, "/usr/bin/dash", xl.pid, "/etc/xen/scripts/block")
    assert found(scene(xl, hotplug), state("*")) == []


def test_children_of_an_approved_service_are_exempt() -> None:
    cron = process(30, "/usr/sbin/cron")
    job = process(31, "/opt/backup", cron.pid)
    mail = process(32, "/usr/sbin/cannaserver", job.pid)  # another service's program, but run by this one
    assert found(scene(cron, job, mail), state("*")) == []


BOOT = (
    process(600, "/usr/bin/dash", 1, "/etc/init.d/rc", "2", package="dash"),
    process(601, "/usr/bin/startpar", 600, "-p", "4", package="startpar"),
    process(602, "/usr/bin/dash", 601, "/etc/init.d/slowly", "start", package="dash"),
    process(603, "/usr/sbin/start-stop-daemon", 602, "--start", package="dpkg"),
)
SHUTDOWN = process(604, "/usr/sbin/shutdown", 1, "-r", "now", package="sysvinit-core")


def test_a_change_of_the_runlevel_under_way_is_exempt() -> None:
    """Ended in its midst it would leave the host without what comes after, the way in too."""
    assert found(scene(*BOOT, SHUTDOWN), state("*")) == []
    assert found(scene(*BOOT, replace(CANNA, parent=602)), state("*")) == ["/usr/sbin/cannaserver"]


def test_what_a_boot_leaves_behind_is_judged() -> None:
    assert found(scene(*BOOT, process(605, "/opt/left", 1)), state("*")) == ["/opt/left"]
    users = [replace(each, uid=1000) for each in BOOT]
    assert len(found(scene(*users), state("*"))) == len(users)


def test_what_a_starter_leaves_behind_is_not_its_own() -> None:
    group = "/system.slice/cron.service"
    cron = process(30, "/usr/sbin/cron", cgroup=group)
    job = process(31, "/opt/job", cron.pid, cgroup=group)
    orphan = process(32, "/opt/daemon", cgroup=group)
    assert found(scene(cron, job, orphan, facts=SYSTEMD), state("*")) == ["/opt/daemon"]


def test_a_circle_of_parents_ends() -> None:
    one, other = process(30, "/opt/a", 31), process(31, "/opt/b", 30)
    assert found(scene(one, other), state("*")) == ["/opt/a", "/opt/b"]


# --- stopping again ----------------------------------------------------------------------------------------


def test_what_stays_after_its_stop_gets_term_then_kill() -> None:
    seen = scene(replace(CANNA, started=5))
    for tried, signal in (("stop", "TERM"), ("TERM", "KILL"), ("KILL", "TERM")):
        (step,) = seen.plan(state(), {"canna": tried}).steps
        assert step.action == Signal("canna", signal, "/usr/sbin/cannaserver", ((20, 5),))
        assert step.held is None


def test_only_what_surely_belongs_to_the_service_is_told() -> None:
    child = process(21, "/opt/helper", CANNA.pid)
    planned = scene(CANNA, child).plan(state(), {"canna": "stop"})
    held = {step.findings[0].name: step.held for step in planned.steps}
    assert held == {
        "/usr/sbin/cannaserver": None,
        "/opt/helper": "process 21 (helper) does not surely belong to canna",
    }


# --- never -------------------------------------------------------------------------------------------------

ONE = (script("one", "/opt/one"),)


def stop_of_one(*running: Process, **more: object) -> str | None:
    """Why the stop of the service "one" is held, whose own process is /opt/one."""
    seen = scene(*running, **{"scripts": ONE, **more})
    (step,) = [step for step in seen.plan(state(services=("ssh",))).steps if step.service == "one"]
    return step.held


def test_a_service_of_nobodys_concern_is_not_held() -> None:
    assert stop_of_one(process(30, "/opt/one")) is None


def test_what_guests_live_on_is_held() -> None:
    one = process(30, "/opt/one")
    assert stop_of_one(one, process(31, "/usr/bin/qemu-system-i386", one.pid)) == (
        "rail: guests live on it (process 31, qemu-system-i38)"
    )


def test_the_holder_of_a_watchdog_is_held() -> None:
    assert stop_of_one(process(30, "/opt/one"), guarding=frozenset({30})) == (
        "rail: it holds /dev/watchdog: the host is reset when it ends (process 30, one)"
    )


def test_an_ancestor_of_a_login_is_held() -> None:
    telnetd = process(31, "/usr/sbin/in.telnetd", 30)
    assert stop_of_one(process(30, "/opt/one"), telnetd) == "rail: a login lives on it (process 30, one)"


def test_an_ancestor_of_this_process_is_held() -> None:
    own = process(SYSVINIT.own, "/usr/bin/python3.11", 30)
    another = process(33, "/opt/one")
    assert stop_of_one(process(30, "/opt/one"), another, own) == "rail: it is this daemon (process 30, one)"


def test_a_service_that_leases_an_address_is_held() -> None:
    assert "an address lives on this DHCP client" in str(
        stop_of_one(process(30, "/opt/one"), process(31, "/usr/sbin/dhclient", 30))
    )


def test_rails_allow_does_not_let_go_what_lives() -> None:
    seen = scene(process(30, "/opt/one"), process(31, "/usr/bin/qemu-system-i386", 30), scripts=ONE)
    desired = replace(state(), rails=Rails(allow=("one",)))
    assert [bool(step.held) for step in seen.plan(desired).steps] == [True]


def test_a_strange_program_that_is_kept_is_held() -> None:
    seen = scene(process(30, "/opt/one"), guarding=frozenset({30}))
    (step,) = seen.plan(state("*")).steps
    assert "it holds /dev/watchdog" in str(step.held)

"""Programs known by their name alone: what is never ended wherever it came from, and what nobody is spared by."""

from __future__ import annotations

import pytest

from reconciler.desired import DesiredState, ListenerRule, Listeners, Processes, Rails, Services
from reconciler.model import Listener, Process, Signal, StopService
from reconciler.services import program_of
from reconciler.values import replace
from tests.scenes import INIT, Scene, process, script

STOP = DesiredState(processes=Processes((), "stop"), listeners=Listeners((), "stop"))


def held(one: Process, desired: DesiredState = STOP, *more: Process) -> dict[str, str | None]:
    """What would be done about it, and why it is not; it listens as well."""
    sockets = (Listener("tcp", "0.0.0.0", 7, inode=7, owners=(one,)),)
    planned = Scene(running=(INIT, one, *more), sockets=sockets).plan(desired)
    return {type(step.action).__name__: step.held for step in planned.steps}


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("ovs-vswitchd", "guests' network goes through Open vSwitch"),
        ("ovsdb-server", "guests' network goes through Open vSwitch"),
        ("multipathd", "the host boots with it"),
        ("iscsid", "the host boots with it"),
        ("dmeventd", "the host boots with it"),
        ("mdmon", "the host boots with it"),
        ("dnsmasq", "guests may have their addresses from it"),
        ("libvirtd", "guests are run by it"),
        ("nbd-server", "guests may have their disks on what it exports"),
        ("watchdog", "killing the holder of /dev/watchdog resets the host"),
    ],
)
def test_an_orphan_by_the_name_of_what_guests_live_on_is_never_ended(program: str, why: str) -> None:
    """No script or unit says whose it is: it was started by hand, or what did so is gone."""
    reason = held(process(30, f"/usr/sbin/{program}"))["Signal"] or ""
    assert reason.startswith("rail: ")
    assert f"(process 30, {program})" in reason
    assert why in reason or "may lie on it" in reason


def test_a_program_of_many_names_is_known_by_the_one_it_runs_under() -> None:
    busybox = Process(30, 1, "watchdog", "/bin/busybox", ("watchdog", "-T", "60"))
    assert "resets the host" in (held(busybox)["Signal"] or "")


def test_a_users_own_program_by_such_a_name_is_ended() -> None:
    own = replace(process(30, "/tmp/dnsmasq"), uid=1000)
    assert held(own) == {"Signal": None}
    assert "rail: " in (held(replace(own, uid=0))["Signal"] or ""), "root's is not, wherever it lies"
    assert "rail: " in (held(replace(own, executable="/usr/sbin/dnsmasq"))["Signal"] or "")


def test_the_states_rails_know_programs_too() -> None:
    one = process(30, "/opt/one/bin/onesrv")
    assert held(one) == {"Signal": None}
    assert "rails.never_stop" in (held(one, replace(STOP, rails=Rails(never_stop=("onesrv",))))["Signal"] or "")
    dnsmasq = process(30, "/usr/sbin/dnsmasq")
    assert held(dnsmasq, replace(STOP, rails=Rails(allow=("dnsmasq",)))) == {"Signal": None}


def test_a_service_that_runs_such_a_program_is_not_stopped_either() -> None:
    main, child = process(30, "/opt/one"), process(31, "/usr/sbin/dnsmasq", 30)
    desired = DesiredState(services=Services(("ssh",)))
    seen = Scene(running=(INIT, main, child), scripts=(script("one", "/opt/one"),))
    stops = [step.held for step in seen.plan(desired).steps if isinstance(step.action, StopService)]
    assert stops == ["rail: guests may have their addresses from it (process 31, dnsmasq)"]
    allowed = replace(desired, rails=Rails(allow=("one",)))
    assert [step.held for step in seen.plan(allowed).steps] == [None], "whoever names it knows what it runs"
    again = seen.plan(desired, {"one": "stop"}).steps
    assert {type(step.action) for step in again} == {Signal}


# --- what is no finding by its name --------------------------------------------------------------------------------


def judged(*running: Process, approved: tuple[str, ...] = ()) -> bool:
    """True where the last of them is a finding."""
    desired = DesiredState(processes=Processes(approved, "stop"))
    findings = Scene(running=(INIT, *running)).plan(desired).findings
    return f"processes:{program_of(running[-1])}" in [str(finding.ref) for finding in findings]


def test_a_process_that_renames_itself_is_known_by_its_program() -> None:
    own = Process(30, 1, "collectd", "/home/joe/miner", ("collectd",), uid=1000)
    assert judged(own, approved=("collectd",))
    assert not judged(own, approved=("miner",))
    assert judged(replace(own, name="/usr/sbin/x"), approved=("/usr/sbin/x",))


def test_the_name_counts_where_the_executable_is_not_seen_and_of_a_program_of_many_names() -> None:
    assert not judged(Process(30, 1, "collectd", "", uid=1000), approved=("collectd",))
    assert not judged(Process(30, 1, "crond", "/bin/busybox", ("crond",)), approved=("crond",))


def test_a_listener_of_a_renamed_process_is_not_approved_by_the_name() -> None:
    rule = ListenerRule("tcp", (7, 7), process="collectd")
    desired = DesiredState(listeners=Listeners((rule,), "stop"))
    assert held(process(30, "/usr/sbin/collectd"), desired) == {}
    assert held(Process(30, 1, "collectd", "/home/joe/miner", uid=1000), desired) == {"Signal": None}


@pytest.mark.parametrize(
    "program",
    ["/tmp/xl", "/tmp/login", "/home/joe/qemu-system-x86_64", "/var/tmp/agetty", "/dev/shm/systemd", "/run/shm/udevd"],
)
def test_a_name_spares_nothing_that_lies_where_others_may_write(program: str) -> None:
    own, child = replace(process(30, program), uid=1000), replace(process(31, "/tmp/x", 30), uid=1000)
    assert judged(own)
    assert judged(own, child)
    assert held(own)["Signal"], "though it is not ended for that: a guest may live on it all the same"


def test_arguments_spare_no_user() -> None:
    ours = process(30, "/usr/bin/python3.11", 1, "-m", "reconciler", "run")
    assert not judged(ours)
    assert judged(replace(ours, uid=1000))
    assert held(replace(ours, uid=1000))["Signal"] == "rail: it is this daemon (process 30, python3.11)"

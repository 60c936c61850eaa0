"""What a draft says of ports: that of a service as it is, one that the kernel chose as what it will be next time.

And of what runs: a program that init began, by whatever way, is the host's; one on somebody's terminal is not.
"""

from __future__ import annotations

from reconciler.desired import DesiredState, Listeners, Processes
from reconciler.drafting import Draft, draft
from reconciler.model import Listener, Process
from tests.scenes import INIT, Scene, process

STATD, SSHD, ODD = process(10, "/usr/sbin/rpc.statd"), process(20, "/usr/sbin/sshd"), process(30, "/opt/odd*")
EVERYTHING = DesiredState(listeners=Listeners((), "report"))


def rules(*sockets: Listener) -> list[str]:
    scene = Scene(running=tuple({one.owners[0].pid: one.owners[0] for one in sockets}.values()), sockets=sockets)
    return sorted(draft(scene.plan(EVERYTHING), scene.context(EVERYTHING), live=True).tables["listeners"])


def test_ports_that_the_kernel_chose_are_approved_whichever_they_are() -> None:
    assert rules(
        Listener("tcp", "0.0.0.0", 38873, inode=1, owners=(STATD,)),
        Listener("tcp", "::", 60467, inode=2, owners=(STATD,)),
        Listener("udp", "127.0.0.1", 761, inode=3, owners=(STATD,)),
        Listener("udp", "127.0.0.1", 40000, inode=4, owners=(STATD,)),
    ) == [
        '{ port = "tcp/32768-60999", process = "rpc.statd" }',
        '{ port = "udp/32768-60999", address = "127.0.0.1", process = "rpc.statd" }',
        '{ port = "udp/512-1023", address = "127.0.0.1", process = "rpc.statd" }',
    ]


def test_a_port_of_its_own_stays_one() -> None:
    assert rules(
        Listener("tcp", "0.0.0.0", 22, inode=1, owners=(SSHD,)),
        Listener("udp", "127.0.0.1", 631, inode=2, owners=(SSHD,)),
        Listener("tcp", "0.0.0.0", 111, inode=3, owners=(STATD,)),
        Listener("tcp", "0.0.0.0", 38873, inode=4, owners=(STATD,)),
    ) == [
        "tcp/111",
        "tcp/22",
        '{ port = "tcp/32768-60999", process = "rpc.statd" }',
        '{ port = "udp/631", address = "127.0.0.1" }',
    ]


def test_a_name_that_no_rule_can_hold_leaves_the_port() -> None:
    assert rules(Listener("tcp", "0.0.0.0", 38873, inode=1, owners=(ODD,))) == ["tcp/38873"]


# --- what runs ---

RUNS = DesiredState(processes=Processes())
TAIL, COLLECTD = process(40, "/usr/bin/tail"), process(50, "/usr/sbin/collectd")


def drafted(*running: Process, at_terminals: frozenset[int] = frozenset()) -> Draft:
    scene = Scene(running=(INIT, *running))
    return draft(scene.plan(RUNS), scene.context(RUNS), live=True, at_terminals=at_terminals)


def test_what_init_began_is_approved() -> None:
    worker = process(51, "/usr/lib/collectd/worker", COLLECTD.pid)
    made = drafted(TAIL, COLLECTD, worker)
    assert sorted(made.tables["processes"]) == ["/usr/bin/tail", "/usr/lib/collectd/worker", "/usr/sbin/collectd"]
    assert made.odd == []


def test_what_somebody_has_on_a_terminal_is_told_and_not_approved() -> None:
    made = drafted(TAIL, COLLECTD, at_terminals=frozenset({TAIL.pid}))
    assert list(made.tables["processes"]) == ["/usr/sbin/collectd"]
    assert made.odd == ["not approved: processes:/usr/bin/tail (it is on somebody's terminal, no part of the host)"]


def test_what_came_from_outside_is_told_and_not_approved() -> None:
    """By nsenter(1) into the host: the line of such a process leads past init."""
    shell = process(39, "/opt/shell", 0)
    made = drafted(shell, process(TAIL.pid, TAIL.executable, shell.pid), COLLECTD)
    assert list(made.tables["processes"]) == ["/usr/sbin/collectd"]
    assert made.odd == [
        "not approved: processes:/opt/shell (init did not begin it)",
        "not approved: processes:/usr/bin/tail (init did not begin it)",
    ]


def test_a_program_that_the_host_runs_as_well_is_approved() -> None:
    made = drafted(TAIL, process(41, "/usr/bin/tail"), at_terminals=frozenset({TAIL.pid}))
    assert (list(made.tables["processes"]), made.odd) == (["/usr/bin/tail"], [])

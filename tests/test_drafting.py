"""What a draft says of ports: that of a service as it is, one that the kernel chose as what it will be next time."""

from __future__ import annotations

from reconciler.desired import DesiredState, Listeners
from reconciler.drafting import draft
from reconciler.model import Listener
from tests.scenes import Scene, process

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

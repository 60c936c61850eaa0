"""listeners: what is approved, whose the rest is, and what closes a port for good."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import DesiredState, Inetd, ListenerRule, Listeners, OnUnapproved, Processes, Services
from reconciler.kinds import listeners
from reconciler.kinds.listeners import name_of
from reconciler.model import Host, Listener, Ref, Signal, StopService, WriteFile
from reconciler.services import UnitFile
from reconciler.unitfiles import parse_unit
from tests.scenes import INIT, SYSTEMD, Scene, process, refs, script, step_for

SSHD = process(10, "/usr/sbin/sshd")
CUPSD = process(20, "/usr/sbin/cupsd")
INETD = process(30, "/usr/sbin/inetd")
STRANGER = process(40, "/opt/stranger")
SCRIPTS = (
    script("ssh", "/usr/sbin/sshd"),
    script("cups", "/usr/sbin/cupsd"),
    script("openbsd-inetd", "/usr/sbin/inetd"),
)


def tcp(port: int, *owners: object, address: str = "0.0.0.0", inode: int = 0) -> Listener:
    return Listener("tcp", address, port, inode=inode or port, owners=owners)  # type: ignore[arg-type]


def rule(text: str, **more: str) -> ListenerRule:
    protocol, _, rest = text.partition("/")
    if protocol == "unix":
        return ListenerRule(protocol, (0, 0), path=f"/{rest}", **more)
    first, _, last = rest.partition("-")
    return ListenerRule(protocol, (int(first), int(last or first)), **more)


def state(
    *rules: ListenerRule, unapproved: OnUnapproved = "stop", approved: tuple[str, ...] = ("ssh",)
) -> DesiredState:
    return DesiredState(services=Services(approved), listeners=Listeners(rules, unapproved))


def scene(*sockets: Listener) -> Scene:
    running = {owner.pid: owner for one in sockets for owner in one.owners} | {INIT.pid: INIT}
    return Scene(running=tuple(running.values()), sockets=sockets, scripts=SCRIPTS)


def findings(found: Scene, desired: DesiredState) -> list[str]:
    return [ref for ref in refs(found.plan(desired).findings) if ref.startswith("listeners:")]


# --- where it looks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "facts"), [(DesiredState(), Host(live=True)), (state(), Host(live=False))], ids=["no table", "an image"]
)
def test_nothing_is_looked_at(desired: DesiredState, facts: Host) -> None:
    assert not list(listeners.places(desired, facts))


def test_only_what_is_not_approved_anyway_is_looked_at_closely() -> None:
    desired = state(rule("tcp/22"), rule("tcp/80", process="nginx"))
    (place,) = listeners.places(desired, Host(live=True))
    found = scene(tcp(22, SSHD), tcp(80, STRANGER), tcp(81, STRANGER))
    seen = {r.ref.name: r for r in listeners.observe(place, found).resources}
    owners = {name: [o.name for one in r.listeners for o in one.owners] for name, r in seen.items()}  # type: ignore[attr-defined]
    assert owners == {"tcp/22": [], "tcp/80": ["stranger"], "tcp/81": ["stranger"]}


# --- identity ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "name"),
    [
        (Listener("tcp", "0.0.0.0", 111), "tcp/111"),
        (Listener("tcp", "::", 111), "tcp/111"),
        (Listener("udp", "127.0.0.1", 53), "udp/127.0.0.1:53"),
        (Listener("tcp", "::1", 25), "tcp/[::1]:25"),
        (Listener("unix", path="/dev/printer"), "unix//dev/printer"),
        (Listener("unix", path="@/tmp/x"), "unix/@/tmp/x"),
    ],
)
def test_a_listener_is_named_by_where_it_is(one: Listener, name: str) -> None:
    assert name_of(one) == name


def test_sockets_of_one_port_are_one_finding_whatever_their_pids() -> None:
    first = scene(tcp(9, INETD, inode=1), tcp(9, INETD, address="::", inode=2))
    later = scene(tcp(9, process(77, "/usr/sbin/inetd"), inode=3))
    assert findings(first, state()) == findings(later, state()) == ["listeners:tcp/9"]


# --- what is approved --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("approved", "left"),
    [
        (rule("tcp/631"), []),
        (rule("tcp/600-700"), []),
        (rule("tcp/632-700"), ["listeners:tcp/631"]),
        (rule("udp/631"), ["listeners:tcp/631"]),
        (rule("tcp/631", address="0.0.0.0"), []),
        (rule("tcp/631", address="127.0.0.1"), ["listeners:tcp/631"]),
        (rule("tcp/631", process="cupsd"), []),
        (rule("tcp/631", process="/usr/sbin/cupsd"), []),
        (rule("tcp/631", process="cups*"), []),
        (rule("tcp/631", process="sshd"), ["listeners:tcp/631"]),
        (rule("tcp/631", service="cups"), []),
        (rule("tcp/631", service="cupsd"), []),  # an alias
        (rule("tcp/631", service="ssh"), ["listeners:tcp/631"]),
        (rule("tcp/631", process="cupsd", service="ssh"), ["listeners:tcp/631"]),
    ],
)
def test_a_rule_approves_what_it_says_and_no_more(approved: ListenerRule, left: list[str]) -> None:
    assert findings(scene(tcp(631, CUPSD)), state(approved)) == left


def test_a_port_on_one_address_is_no_port_on_another() -> None:
    found = scene(tcp(25, CUPSD, address="127.0.0.1"), tcp(25, CUPSD, address="192.0.2.1"))
    assert findings(found, state(rule("tcp/25", address="127.0.0.1"))) == ["listeners:tcp/192.0.2.1:25"]


def test_loopback_counts() -> None:
    assert findings(scene(tcp(25, CUPSD, address="127.0.0.1")), state()) == ["listeners:tcp/127.0.0.1:25"]


def test_one_stranger_among_the_owners_is_enough() -> None:
    desired = state(rule("tcp/80", process="cupsd"))
    assert findings(scene(tcp(80, CUPSD, STRANGER)), desired) == ["listeners:tcp/80"]
    assert findings(scene(tcp(80, CUPSD, INIT)), desired) == []  # init lends its sockets


def test_an_approved_service_does_not_bring_its_ports() -> None:
    assert findings(scene(tcp(6010, SSHD)), state()) == ["listeners:tcp/6010"]


def test_unix_sockets_of_approved_services_and_of_the_system_are_no_findings() -> None:
    journald = process(50, "/usr/lib/systemd/systemd-journald")
    bash = process(60, "/usr/bin/bash", SSHD.pid)
    agent = process(61, "/usr/bin/ssh-agent", bash.pid)
    mine = [Listener("unix", path=f"/run/{o.pid}", inode=o.pid, owners=(o,)) for o in (INIT, journald, SSHD, agent)]
    strange = Listener("unix", path="/dev/printer", inode=99, owners=(CUPSD,))
    found = Scene(running=(INIT, journald, SSHD, bash, agent, CUPSD), sockets=(*mine, strange), scripts=SCRIPTS)
    assert findings(found, state()) == ["listeners:unix//dev/printer"]
    assert findings(found, state(rule("unix/dev/*"))) == []


@given(st.integers(0, 65535), st.integers(0, 65535), st.integers(0, 65535))
def test_a_range_is_closed(one: int, other: int, port: int) -> None:
    first, last = sorted((one, other))
    left = findings(scene(tcp(port, STRANGER)), state(ListenerRule("tcp", (first, last))))
    assert (left == []) == (first <= port <= last)


# --- what is said ------------------------------------------------------------------------------------------


def test_a_finding_names_process_address_and_service() -> None:
    (finding,) = [f for f in scene(tcp(631, CUPSD)).plan(state()).findings if f.kind == "listeners"]
    assert finding.service == "cups"
    assert finding.detail == "cupsd (process 20, /usr/sbin/cupsd) listens on 0.0.0.0; of the service cups"


def test_a_socket_of_the_kernel_has_no_owner_to_name() -> None:
    (finding,) = [f for f in scene(tcp(2049)).plan(state()).findings if f.kind == "listeners"]
    assert finding.service == ""
    assert "the kernel itself" in finding.detail


def test_with_report_nothing_is_done() -> None:
    desired = DesiredState(listeners=Listeners((), "report"))
    found = scene(tcp(631, CUPSD)).plan(desired)
    assert [(f.rule, f.verdict) for f in found.findings] == [("reported", "unapproved")]
    assert found.converged


# --- what is done ------------------------------------------------------------------------------------------


def test_the_service_is_stopped_once_for_all_that_saw_it() -> None:
    found = scene(tcp(631, CUPSD), Listener("unix", path="/run/cups.sock", inode=5, owners=(CUPSD,))).plan(state())
    (step,) = found.steps
    assert step.action == StopService("cups", "cups")
    assert set(map(str, step.findings)) == {
        "listeners:tcp/631",
        "listeners:unix//run/cups.sock",
        "processes:/usr/sbin/cupsd",
    }
    assert step.held is None


def test_an_approved_service_on_a_port_that_is_not_is_held() -> None:
    found = scene(tcp(6010, CUPSD)).plan(state(approved=("ssh", "cups")))
    step = step_for(found, "listeners:tcp/6010")
    assert step.action == StopService("cups", "cups")
    assert step.held == "cups is approved: what it opens, only its own configuration closes"


def test_a_process_of_no_service_is_told_to_go_and_then_killed() -> None:
    found = scene(tcp(4444, STRANGER))
    desired = DesiredState(
        services=Services(("ssh",)), listeners=Listeners((), "stop"), processes=Processes((), "stop")
    )
    step = step_for(found.plan(desired), "listeners:tcp/4444")
    assert step.action == Signal("/opt/stranger", "TERM", "/opt/stranger", ((40, 0),))
    assert set(map(str, step.findings)) == {"listeners:tcp/4444", "processes:/opt/stranger"}
    step = step_for(found.plan(desired, {"/opt/stranger": "TERM"}), "listeners:tcp/4444")
    assert isinstance(step.action, Signal)
    assert step.action.signal == "KILL"


SERVICES = "ident 113/tcp auth tap # names\nftp 21/tcp\n"
LINES = "auth stream tcp nowait nobody /usr/sbin/identd identd\nftp stream tcp nowait root /usr/sbin/ftpd ftpd\n"


@pytest.mark.parametrize("inetd", [None, Inetd(("ftp/tcp",))], ids=["lines not judged", "lines judged"])
def test_the_line_of_inetd_is_the_cause(inetd: Inetd | None) -> None:
    files = {"/etc/services": SERVICES, "/etc/inetd.conf": LINES, "/usr/sbin/inetd": ""}
    found = Scene(running=(INIT, INETD), sockets=(tcp(113, INETD), tcp(21, INETD)), files=files, scripts=SCRIPTS)
    desired = DesiredState(services=Services(("inetd",)), listeners=Listeners((rule("tcp/21"),), "stop"), inetd=inetd)
    planned = found.plan(desired)
    (finding,) = [f for f in planned.findings if f.kind == "listeners"]
    assert finding.detail.endswith("; opened by inetd:inetd.conf/auth/tcp")
    write, hup = (step.action for step in planned.steps)
    assert isinstance(write, WriteFile)
    assert write.state.content.decode() == "#" + LINES
    assert hup == Signal("openbsd-inetd", "HUP", "/usr/sbin/inetd")
    assert all("listeners:tcp/113" in map(str, step.findings) and not step.held for step in planned.steps)


@pytest.mark.parametrize("services", [("inetd",), ("ssh",)], ids=["inetd approved", "inetd not approved"])
def test_a_line_that_its_own_table_approves_is_left_to_it(services: tuple[str, ...]) -> None:
    """The port is told, and neither the line nor inetd is taken away for it: the state contradicts itself."""
    files = {"/etc/services": SERVICES, "/etc/inetd.conf": LINES, "/usr/sbin/inetd": ""}
    held = (tcp(113, INETD), tcp(21, INETD), tcp(113, STRANGER, address="127.0.0.1"))
    found = Scene(running=(INIT, INETD, STRANGER), sockets=held, files=files, scripts=SCRIPTS)
    desired = DesiredState(
        services=Services(services, stop=False),
        listeners=Listeners((), "stop"),
        inetd=Inetd(("auth/tcp", "f*/tcp")),
    )
    planned = found.plan(desired)
    told = {(str(f.ref), f.rule): f.detail for f in planned.findings if f.kind == "listeners"}
    assert set(told) == {
        ("listeners:tcp/113", "reported"),
        ("listeners:tcp/21", "reported"),
        ("listeners:tcp/127.0.0.1:113", "unapproved"),
    }
    opened = "; opened by inetd:inetd.conf/auth/tcp, which inetd.approved keeps"
    assert told["listeners:tcp/113", "reported"].endswith(opened)
    assert [step.action for step in planned.steps] == [Signal("/opt/stranger", "TERM", "/opt/stranger", ((40, 0),))]


def test_a_line_of_inetd_is_no_cause_for_another_server() -> None:
    files = {"/etc/inetd.conf": LINES, "/etc/services": SERVICES}
    oidentd = process(70, "/usr/sbin/oidentd")
    found = Scene(
        running=(INIT, oidentd),
        sockets=(tcp(113, oidentd),),
        files=files,
        scripts=(script("oidentd", "/usr/sbin/oidentd"),),
    )
    step = step_for(found.plan(state()), "listeners:tcp/113")
    assert step.action == StopService("oidentd", "oidentd")


@pytest.mark.parametrize(
    ("text", "opens"),
    [
        ("ListenStream=0.0.0.0:111\nListenDatagram=[::]:111\n", ("tcp/111", "udp/111")),
        ("ListenStream=/run/rpcbind.sock\nListenSequentialPacket=@x\n", ("unix//run/rpcbind.sock", "unix/@x")),
        ("ListenStream=22\nListenStream=\nListenStream=2222\n", ("tcp/2222",)),
        ("ListenStream=%t/x\nListenDatagram=/run/log\nListenStream=vsock::22\n", ("unix//run/x",)),
    ],
)
def test_a_socket_unit_says_what_it_opens(text: str, opens: tuple[str, ...]) -> None:
    assert parse_unit(Ref("units", "x.socket"), "/x.socket", f"[Socket]\n{text}").opens == opens


def test_what_init_holds_is_the_service_of_its_socket_unit() -> None:
    systemd = process(1, "/usr/lib/systemd/systemd", 0)
    units = (
        UnitFile(Ref("units", "rpcbind.socket"), ("rpcbind",), "rpcbind.socket", opens=("tcp/111",)),
        UnitFile(Ref("units", "rpcbind.service"), ("rpcbind",), "rpcbind.service"),
    )
    found = Scene(running=(systemd,), sockets=(tcp(111, systemd),), facts=SYSTEMD, units=units)
    planned = found.plan(state())
    (finding,) = planned.findings
    assert finding.service == "rpcbind"
    (step,) = planned.steps
    assert step.action == StopService("rpcbind", units=("rpcbind.socket", "rpcbind.service"))
    assert findings(found, state(rule("tcp/111", service="portmap"))) == []


def test_init_itself_is_never_told_to_go() -> None:
    systemd = process(1, "/usr/lib/systemd/systemd", 0)
    found = Scene(running=(systemd,), sockets=(tcp(111, systemd),), facts=SYSTEMD)
    (step,) = found.plan(state()).steps
    assert step.held == "rail: it is init (process 1, systemd)"

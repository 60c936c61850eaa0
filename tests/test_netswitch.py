"""A change of the network that reverts by itself: what has to change, what holds it, how far it came. Pure."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import DesiredState, Network
from reconciler.holds import Restraints, hold
from reconciler.kinds.interfaces import FILE, FOLDER
from reconciler.lineage import way_in
from reconciler.model import Address, FileState, Host, LinkState, OddState, Plan, Process, Ref
from reconciler.moment import Moment, Span
from reconciler.network.applying import ApplyNetwork
from reconciler.network.netswitch import RunningNetwork, Switch, applied, digest_of, parse, reshape, text_of
from reconciler.observer import Observer
from reconciler.services import CatalogueData
from reconciler.values import replace
from tests.fakes import MemoryEyes, Thing

LO = "auto lo\niface lo inet loopback\n"
ETH0 = LO + "auto eth0\niface eth0 inet static\n address 192.0.2.10/24\n"
DHCP = LO + "auto eth0\niface eth0 inet dhcp\n"
BRIDGE = LO + "auto xenbr0\niface xenbr0 inet static\n address 192.0.2.10/24\n bridge_ports eth0\n"
MANUAL = "iface eth0 inet manual\n"
VLANS = (
    "auto eth0.5\niface eth0.5 inet static\n address 10.0.0.1/8\nauto v6\niface v6 inet manual\n vlan-raw-device eth0\n"
)
NOWHERE = RunningNetwork(Ref("interfaces", "running"), ())


def held(*addresses: str, gateways: tuple[str, ...] = (), valid: int | None = None) -> RunningNetwork:
    """eth0 with these."""
    found = tuple(Address("eth0", a.partition("/")[0], int(a.partition("/")[2]), valid) for a in addresses)
    return replace(NOWHERE, addresses=found, gateways=tuple(("eth0", gateway) for gateway in gateways))


def shaped(before: str, after: str, now: RunningNetwork = NOWHERE) -> tuple[tuple[str, ...], ...]:
    found = reshape([before.encode()], Network(apply="ifup"), [after.encode()], now)
    return found.down, found.up, found.perhaps


# --- what has to change ---------------------------------------------------------------------------------------------

OTHER = ETH0.replace(".10/", ".66/")
CHANGED = (("eth0",), ("eth0",), ())
NOTHING: tuple[tuple[str, ...], ...] = ((), (), ())


@pytest.mark.parametrize(
    ("before", "after", "now", "wanted"),
    [
        (ETH0, ETH0, NOWHERE, NOTHING),
        (ETH0 + "# a comment\n", ETH0, NOWHERE, NOTHING),
        (ETH0, OTHER, held("192.0.2.10/24"), CHANGED),
        (OTHER, ETH0, held("192.0.2.10/24"), NOTHING),
        (DHCP, ETH0, held("192.0.2.10/24"), NOTHING),
        (DHCP, ETH0, held("192.0.2.10/24", valid=20), CHANGED),
        (OTHER, ETH0, held("192.0.2.10/24", "192.0.2.66/24"), CHANGED),
        (ETH0, DHCP, held("192.0.2.10/24"), CHANGED),
        (ETH0, ETH0 + " gateway 192.0.2.1\n", held("192.0.2.10/24"), CHANGED),
        (ETH0, ETH0 + " gateway 192.0.2.1\n", held("192.0.2.10/24", gateways=("192.0.2.1",)), NOTHING),
        (ETH0 + " gateway 192.0.2.1\n", ETH0, held("192.0.2.10/24", gateways=("192.0.2.1",)), CHANGED),
        (ETH0, ETH0 + " mtu 1400\n", held("192.0.2.10/24"), CHANGED),
        (ETH0, LO, NOWHERE, (("eth0",), (), ())),
        (LO, ETH0, NOWHERE, ((), ("eth0",), ())),
        (LO, MANUAL, NOWHERE, NOTHING),
        (MANUAL, MANUAL + " mtu 1400\n", NOWHERE, (("eth0",), (), ("eth0",))),
        (ETH0 + VLANS, OTHER + VLANS, NOWHERE, (("v6", "eth0.5", "eth0"), ("eth0", "eth0.5", "v6"), ())),
        (LO, LO.replace("loopback", "loopback\n up true"), NOWHERE, NOTHING),
    ],
)
def test_only_what_changed_and_does_not_run_so_goes_down_and_up(
    before: str, after: str, now: RunningNetwork, wanted: object
) -> None:
    assert shaped(before, after, now) == wanted


contents = st.binary(max_size=80) | st.sampled_from([ETH0, OTHER, DHCP, BRIDGE, MANUAL, VLANS]).map(str.encode)


@given(st.lists(contents, max_size=3), st.lists(contents, max_size=3))
def test_any_files_at_all_can_follow_any_others(before: list[bytes], after: list[bytes]) -> None:
    found = reshape(before, Network(apply="ifup"), after, NOWHERE)
    assert "lo" not in (*found.down, *found.up, *found.perhaps)
    same = reshape(before, Network(apply="ifup"), before, NOWHERE)
    assert (same.down, same.up, same.perhaps) == NOTHING


def test_another_file_mode_or_tool_is_another_change() -> None:
    one = Network(FileState(b"x"), {"a": FileState(b"y")}, apply="ifup")
    others = [
        replace(one, interfaces=FileState(b"y")),
        replace(one, interfaces=FileState(b"x", 0o600)),
        replace(one, interfaces_d={"b": FileState(b"y")}),
        replace(one, apply="ifreload"),
    ]
    assert len({digest_of(each) for each in (one, *others)}) == 1 + len(others)
    assert digest_of(one) == digest_of(replace(one, interfaces=FileState(b"x", mtime_ns=7), confirm=5.0))


# --- what holds it --------------------------------------------------------------------------------------------------

NOW = Moment(1000.0, "boot", 500.0)
TOOLS: dict[str, Thing] = {"/sbin/ifup": FileState(b""), "/sbin/ifdown": LinkState("ifup")}
GUESTS: dict[str, Thing] = {f"/sys/class/net/xenbr0/brif/{port}": LinkState("x") for port in ("eth0", "vif1.0")}


def observed(declared: str, there: str, more: dict[str, Thing] | None = None, stray: str = "") -> Observer:
    network = Network(FileState(declared.encode()), {}, apply="ifup")
    tree = {"/etc/network/interfaces": FileState(there.encode()), **(TOOLS if more is None else more)}
    tree |= {"/etc/network/interfaces.d/stray": FileState(stray.encode())} if stray else {}
    observer = Observer(MemoryEyes(tree, Host(live=True)), CatalogueData(), DesiredState(network=network))
    observer.look()
    return observer


def words(plan: Plan) -> list[tuple[str, str | None]]:
    return [(type(step.action).__name__, step.held) for step in plan.steps]


def test_the_network_follows_after_its_files() -> None:
    plan = observed(OTHER, ETH0, stray=VLANS).plan()
    assert words(plan) == [("WriteFile", None), ("Unlink", None), ("ApplyNetwork", None)]
    action = plan.steps[-1].action
    assert isinstance(action, ApplyNetwork)
    assert (action.tool, action.up, action.interfaces) == ("ifup", ("eth0",), "eth0 eth0.5 v6")


def test_all_files_are_one_change_wherever_it_was_looked() -> None:
    observer = observed(OTHER, ETH0, stray=VLANS)
    for focus in ({FILE}, {FOLDER}):
        assert observer.plan(focus=focus).steps == observer.plan().steps


def test_a_file_that_nobody_has_to_follow_is_restored_alone() -> None:
    assert words(observed(ETH0, ETH0 + "# x\n").plan()) == [("WriteFile", None)]


@pytest.mark.parametrize(
    ("observer", "why"),
    [
        (observed(OTHER, ETH0, {}), "ifup is not installed"),
        (observed(OTHER, ETH0, {**TOOLS, "/sbin/ifreload": FileState(b"")}), "ifupdown2 is installed"),
        (observed(LO, BRIDGE, TOOLS | GUESTS), r"rail: guests hang on the bridge xenbr0 \(vif1.0\)"),
        (observed(BRIDGE.replace(" bridge_ports eth0\n", ""), BRIDGE, TOOLS | GUESTS), "rail: guests hang"),
    ],
)
def test_all_of_it_is_held_or_none(observer: Observer, why: str) -> None:
    found = words(observer.plan())
    assert len(found) > 1
    assert all(held and re.match(why, held) for _, held in found)


def test_a_bridge_stays_one_and_an_empty_one_may_go() -> None:
    assert words(observed(BRIDGE.replace(".10/", ".66/"), BRIDGE, TOOLS | GUESTS).plan())[-1] == ("ApplyNetwork", None)
    alone: dict[str, Thing] = {"/sys/class/net/xenbr0/brif/eth0": LinkState("x")}
    assert words(observed(LO, BRIDGE, TOOLS | alone).plan())[-1] == ("ApplyNetwork", None)


def switch(observer: Observer, phase: str) -> Switch:
    action = observer.plan().steps[-1].action
    assert isinstance(action, ApplyNetwork)
    return Switch(phase, "p1", action, Span(NOW, 100.0))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("phase", "ordered", "held"),
    [
        ("staged", False, "under way"),
        ("applying", False, "under way"),
        ("applied", True, "under way"),
        ("reverting", True, "under way"),
        ("reverted", False, "it was applied and reverted (pass p1)"),
        ("reverted", True, None),
    ],
)
def test_one_change_at_a_time_and_what_was_reverted_once_not_again(phase: str, ordered: bool, held: str | None) -> None:
    observer = observed(OTHER, ETH0)
    plan = observer.plan(Restraints(now=NOW, switch=switch(observer, phase), ordered=ordered))
    last = words(plan)[-1][1]
    assert (last is None) if held is None else (last is not None and held in last)
    if held is not None:
        assert {why for _, why in words(plan)} == {last}


def test_what_was_just_staged_is_not_held_by_itself() -> None:
    observer = observed(OTHER, ETH0)
    last = observer.plan().steps[-1]
    restraints = Restraints(now=NOW, switch=switch(observer, "staged"))
    assert [step.held for step in hold([last], observer.context(), restraints)] == [None]
    other = replace(restraints.switch, action=replace(restraints.switch.action, digest="another"))
    assert [step.held is None for step in hold([last], observer.context(), replace(restraints, switch=other))] == [
        False
    ]


def test_another_change_than_the_one_that_was_reverted_is_made() -> None:
    reverted = switch(observed(DHCP, ETH0), "reverted")
    assert words(observed(OTHER, ETH0).plan(Restraints(now=NOW, switch=reverted)))[-1] == ("ApplyNetwork", None)


def test_a_file_that_makes_no_sense_holds_everything() -> None:
    plan = observed(OTHER, ETH0).plan(Restraints(now=NOW, switch=parse(b"{")))
    assert all(
        held and held.startswith("/var/lib/dom0-reconciler/network.json makes no sense") for _, held in words(plan)
    )


# --- how far it came ------------------------------------------------------------------------------------------------

names = st.text(max_size=8)
some = st.lists(names, max_size=3).map(tuple)
moments = st.builds(Moment, st.floats(0, 1e10), names, st.floats(0, 1e9))
changes = st.builds(
    Switch,
    st.sampled_from(["staged", "applying", "applied", "reverting", "reverted"]),
    names,
    st.builds(ApplyNetwork, names, some, some, some, names, st.floats(1, 1e6)),
    st.builds(Span, moments, st.floats(0, 1e6)),
    some,
    some,
    st.lists(st.tuples(names, some), max_size=3).map(tuple),
    names,
)


@given(changes)
def test_the_file_gives_back_what_was_written(change: Switch) -> None:
    assert parse(text_of(change)) == change


@given(st.binary(max_size=80))
def test_anything_else_is_a_fault_and_no_crash(text: bytes) -> None:
    assert parse(text).fault


@given(changes, st.data())
def test_a_damaged_file_never_raises(change: Switch, data: st.DataObject) -> None:
    text = text_of(change)
    at = data.draw(st.integers(0, len(text) - 1))
    parse(text[:at] + data.draw(st.binary(max_size=3)) + text[at + 1 :])


def test_it_can_be_confirmed_in_its_boot_and_within_its_time_only() -> None:
    change = applied(Switch("applying", "p1", ApplyNetwork("ifup", (), (), seconds=100.0)), NOW)
    assert (change.phase, change.left(NOW)) == ("applied", 100.0)
    assert change.left(replace(NOW, since_boot=550.0)) == 50.0
    assert change.left(replace(NOW, wall=0.0, since_boot=600.0)) == 0.0
    assert change.left(Moment(1001.0, "another", 1.0)) == 0.0
    assert replace(change, phase="reverting").left(NOW) == 0.0


# --- a new login ----------------------------------------------------------------------------------------------------


def process(pid: int, parent: int, name: str, *, title: str = "") -> Process:
    return Process(pid, parent, name, f"/usr/bin/{name}", (title or name,), started=pid)


TABLE = [
    process(1, 0, "init"),
    process(10, 1, "sshd", title="sshd: /usr/sbin/sshd -D [listener]"),
    process(20, 10, "sshd", title="sshd: root [priv]"),
    process(21, 20, "bash"),
    process(22, 21, "sudo"),
    process(30, 10, "sshd-session", title="sshd-session: root@pts/1"),
    process(31, 30, "bash"),
    process(40, 1, "login"),
    process(41, 40, "bash"),
    process(50, 1, "tmux"),
    process(51, 50, "bash"),
    process(60, 1, "cron"),
    process(61, 60, "sh"),
]


@pytest.mark.parametrize(
    ("own", "line"),
    [(22, [22, 21, 20]), (31, [31, 30]), (41, [41]), (51, []), (61, []), (1, []), (99, [])],
    ids=["ssh and sudo", "ssh of trixie", "a console", "tmux", "cron", "init", "gone"],
)
def test_what_came_with_a_login(own: int, line: list[int]) -> None:
    """Of a connection its own process counts as well; that of a terminal has waited there for ever."""
    assert [each.pid for each in way_in(TABLE, own)] == line


def test_where_the_network_cannot_be_looked_at_its_files_wait_as_well() -> None:
    observer = observed(OTHER, ETH0, {**TOOLS, "/proc/net/route": OddState("fifo")})
    assert [gap.kind for gap in observer.plan().gaps] == ["interfaces"]
    assert words(observer.plan()) == []

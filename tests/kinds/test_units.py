"""The units kind on trees as Debian makes them: what it sees, what it would do, what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import DesiredState, Rails, Services
from reconciler.errors import Unobservable
from reconciler.holds import Restraints
from reconciler.kinds import rclinks, units
from reconciler.kinds.base import Context
from reconciler.model import (
    DisableUnit,
    Entry,
    EntryState,
    FileState,
    Gap,
    Host,
    LinkState,
    MaskUnit,
    Place,
    Plan,
    Ref,
    ReloadManager,
    Sight,
    Snapshot,
    Step,
    StopService,
    Unlink,
)
from reconciler.planner import plan
from reconciler.services import Catalogue, parse_catalogue
from reconciler.unitfiles import parse_unit, settings
from reconciler.values import replace
from tests.kinds.eyes import FakeEyes

DATA = parse_catalogue((Path(units.__file__).parents[1] / "catalogue.toml").read_text())
ETC, LIB, LATE = "/etc/systemd/system", "/usr/lib/systemd/system", "/run/systemd/generator.late"
LIVE = Host(live=True, init="systemd")
IMAGE = Host(live=False, init="systemd")

SOCKET = "[Socket]\nListenStream=111\n[Install]\nWantedBy=sockets.target\n"
RPCBIND = "[Unit]\nRequires=rpcbind.socket\n[Install]\nAlso=rpcbind.socket\nWantedBy=multi-user.target\n"
GENERATED = "[Unit]\nSourcePath=/etc/init.d/exim4\n"
OWNED = f"{LIB}/systemd-journald.service\n{LIB}/getty@.service\n{LIB}/systemd-networkd.service\n/usr/lib/x\n"


Tree = Mapping[str, str | EntryState | Exception]


def states(tree: Tree) -> dict[str, EntryState | Exception]:
    """Text is a file, ``-> x`` a link."""

    def state(one: str | EntryState | Exception) -> EntryState | Exception:
        if not isinstance(one, str):
            return one
        return LinkState(one[3:]) if one.startswith("-> ") else FileState(one.encode())

    return {path: state(one) for path, one in tree.items()}


@dataclass
class UnitEyes(FakeEyes):
    """A tree whose folders are there by what is in them, and what systemd says when it is asked."""

    told: tuple[str, ...] | Exception = ()
    looked: list[str] = field(default_factory=list)

    def folder(self, path: str, wanted: Callable[[str], bool] | None = None) -> tuple[Entry, ...] | None:
        below = {name.removeprefix(f"{path}/") for name in self.tree if name.startswith(f"{path}/")}
        found = sorted({name.partition("/")[0] for name in below})
        return tuple(self._entry(f"{path}/{name}", name) for name in found) if found else None

    def _entry(self, path: str, name: str) -> Entry:
        state = self.tree.get(path)
        if isinstance(state, LinkState):
            return Entry(name, "link", state.target)
        return Entry(name, "directory" if state is None else "file")

    def read(self, path: str, limit: int = 1 << 20) -> FileState | None:
        self.looked.append(path)
        return super().read(path, limit)

    def triggers(self) -> tuple[str, ...]:
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


BASE: Tree = {
    "/lib": "-> usr/lib",
    "/var/lib/dpkg/info/systemd.list": OWNED,
    "/run/systemd/units/invocation:systemd-journald.service": "-> 1",
    "/run/systemd/units/invocation:run-lock.mount": "-> 1",
}


def look(
    tree: Tree,
    told: tuple[str, ...] | Exception = (),
    services: Services | None = None,
    host: Host = LIVE,
) -> Context:
    """Everything observed of a tree, the start links too, and a catalogue of it."""
    eyes = UnitEyes(states({**BASE, **tree}), told)
    desired = DesiredState(services=services or Services())
    sights = {}
    for kind in (rclinks, units):
        for place in kind.places(desired, host):
            try:
                sights[place] = kind.observe(place, eyes)
            except Unobservable as error:
                sights[place] = Sight(gaps=(Gap(units.NAME, Ref(units.NAME, place.path), str(error)),))
    snapshot = Snapshot(host, sights)
    return Context(desired, snapshot, Catalogue.of(DATA, snapshot))


def planned(context: Context, *, both: bool = False, focus: list[Place] | None = None) -> Plan:
    return plan(context, Restraints(), focus, (rclinks, units) if both else (units,))


def refs(found: Plan) -> list[str]:
    return [str(finding.ref) for finding in found.findings]


def actions(found: Plan) -> list[object]:
    return [step.action for step in found.steps]


RPC: Tree = {
    f"{LIB}/rpcbind.service": RPCBIND,
    f"{LIB}/rpcbind.socket": SOCKET,
    f"{LIB}/portmap.service": "-> rpcbind.service",
    f"{ETC}/multi-user.target.wants/rpcbind.service": f"-> {LIB}/rpcbind.service",
    f"{ETC}/sockets.target.wants/rpcbind.socket": f"-> {LIB}/rpcbind.socket",
    "/run/systemd/units/invocation:rpcbind.service": "-> 1",
}
STOP_RPC = StopService("rpcbind", units=("rpcbind.socket", "portmap.service", "rpcbind.service"))


def test_a_service_is_disabled_then_stopped_with_its_socket_in_one_batch() -> None:
    found = planned(look(RPC, ("rpcbind.socket",)))
    assert refs(found) == [
        "units:multi-user.target.wants/rpcbind.service",
        "units:sockets.target.wants/rpcbind.socket",
        "units:rpcbind.service",
        "units:rpcbind.socket",
    ]
    assert {finding.service for finding in found.findings} == {"rpcbind"}
    links = (
        (f"{ETC}/multi-user.target.wants/rpcbind.service", f"{LIB}/rpcbind.service"),
        (f"{ETC}/sockets.target.wants/rpcbind.socket", f"{LIB}/rpcbind.socket"),
    )
    disable = DisableUnit("rpcbind", ("rpcbind.service", "rpcbind.socket"), links)
    assert actions(found) == [disable, ReloadManager(), STOP_RPC]
    assert [len(step.findings) for step in found.steps] == [2, 2, 4]


def test_a_socket_alone_is_running() -> None:
    tree = {path: text for path, text in RPC.items() if path.startswith(LIB)}
    found = planned(look(tree, ("rpcbind.socket",)))
    assert refs(found) == ["units:rpcbind.socket"]
    assert "starts its service" in found.findings[0].detail
    assert actions(found) == [STOP_RPC]


@pytest.mark.parametrize("name", ["rpcbind", "portmap", "rpcbind.socket", "rpc*", "portmap.service"])
def test_any_name_approves_all_of_it(name: str) -> None:
    assert planned(look(RPC, ("rpcbind.socket",), Services((name,)))) == Plan()


def test_a_script_and_its_generated_unit_are_stopped_once() -> None:
    tree = {
        "/etc/init.d/exim4": "#!/bin/sh\n",
        "/etc/rc2.d/S12exim4": "-> ../init.d/exim4",
        f"{LATE}/exim4.service": GENERATED,
        f"{LATE}/multi-user.target.wants/exim4.service": "-> ../exim4.service",
        "/run/systemd/units/invocation:exim4.service": "-> 1",
    }
    found = planned(look(tree), both=True)
    assert refs(found) == [
        "rclinks:rc2.d/S12exim4",
        "units:generator.late/multi-user.target.wants/exim4.service",
        "units:exim4.service",
    ]
    unlink, reload, stop = found.steps
    assert isinstance(unlink.action, Unlink)
    assert reload.action == ReloadManager()
    assert reload.findings == (found.findings[0].ref,), "its rc link is what the reload is for"
    assert stop.action == StopService("exim4", units=("exim4.service",))
    assert len(stop.findings) == 3


def test_a_generated_unit_without_its_link_asks_for_the_reload_itself() -> None:
    tree = {
        f"{LATE}/exim4.service": GENERATED,
        f"{LATE}/multi-user.target.wants/exim4.service": "-> ../exim4.service",
        "/etc/rc2.d/K01exim4": "-> ../init.d/exim4",
    }
    assert actions(planned(look(tree))) == [ReloadManager(), StopService("exim4", units=("exim4.service",))]


def test_a_held_unlink_makes_no_reload_each_pass() -> None:
    tree = {
        "/etc/init.d/nfs-common": "### BEGIN INIT INFO\n# Required-Start: $portmap\n### END INIT INFO\n",
        "/etc/init.d/rpcbind": "### BEGIN INIT INFO\n# Provides: rpcbind\n### END INIT INFO\n",
        "/etc/rcS.d/S10rpcbind": "-> ../init.d/rpcbind",
    }
    found = planned(look(tree, services=Services(("nfs-common",))), both=True)
    assert [step.held is not None for step in found.steps] == [True, True, True]


def test_what_an_approved_unit_requires_is_neither_disabled_nor_stopped() -> None:
    tree = {**RPC, f"{LIB}/statd2.service": "[Unit]\nRequires=rpcbind.socket\n"}
    found = planned(look(tree, ("rpcbind.socket",), Services(("statd2",))))
    assert all(step.held for step in found.steps)
    assert {step.held for step in found.steps} == {
        "the approved statd2 needs it",
        "what it would take in is held",
    }


def test_vendor_and_generator_links_are_masked_because_they_would_come_back() -> None:
    tree = {
        f"{LIB}/foo.service": "[Service]\n",
        f"{LIB}/multi-user.target.wants/foo.service": "-> ../foo.service",
        "/run/systemd/generator/bar.socket": "[Socket]\nService=baz.service\n",
        "/run/systemd/generator/sockets.target.wants/bar.socket": "-> ../bar.socket",
    }
    found = planned(look(tree))
    assert MaskUnit("foo", ("foo.service",)) in actions(found)
    assert MaskUnit("bar", ("bar.socket",)) in actions(found)
    assert not any(isinstance(action, DisableUnit) for action in actions(found))
    masked = {f"{ETC}/foo.service": "-> /dev/null", f"{ETC}/bar.socket": "-> /dev/null"}
    assert planned(look({**tree, **masked})) == Plan()


def test_a_link_to_dev_null_takes_a_vendor_link_back() -> None:
    tree = {
        f"{LIB}/foo.service": "[Service]\n",
        f"{LIB}/multi-user.target.wants/foo.service": "-> ../foo.service",
        f"{ETC}/multi-user.target.wants/foo.service": "-> /dev/null",
    }
    assert planned(look(tree)) == Plan()


def test_mask_masks_every_unit_of_the_name_and_so_does_coming_back() -> None:
    context = look(RPC, ("rpcbind.socket",), Services(mask=True))
    mask = MaskUnit("rpcbind", ("rpcbind.service", "rpcbind.socket"))
    assert mask in actions(planned(context))
    context = look(RPC, ("rpcbind.socket",))
    assert mask not in actions(planned(context))
    assert mask in actions(planned(replace(context, contested=frozenset(("rpcbind",)))))


def test_an_alias_goes_with_its_unit() -> None:
    tree = {
        f"{LIB}/foo.service": "[Install]\nAlias=dbus-org.foo.service\n",
        f"{ETC}/multi-user.target.wants/foo.service": f"-> {LIB}/foo.service",
        f"{ETC}/dbus-org.foo.service": f"-> {LIB}/foo.service",
        f"{ETC}/other.service": f"-> {LIB}/another.service",
    }
    disable = next(a for a in actions(planned(look(tree))) if isinstance(a, DisableUnit))
    assert [path for path, _ in disable.links] == [
        f"{ETC}/dbus-org.foo.service",
        f"{ETC}/multi-user.target.wants/foo.service",
    ]


def test_base_units_this_daemon_and_ways_down_are_left_alone() -> None:
    tree = {
        f"{LIB}/sockets.target.wants/systemd-journald.service": "-> ../systemd-journald.service",
        f"{ETC}/getty.target.wants/getty@tty1.service": f"-> {LIB}/getty@.service",
        f"{LIB}/poweroff.target.wants/plymouth-poweroff.service": "-> ../plymouth-poweroff.service",
        f"{LIB}/initrd.target.wants/dracut.service": "-> ../dracut.service",
        f"{ETC}/multi-user.target.wants/nfs-client.target": f"-> {LIB}/nfs-client.target",
        "/run/systemd/units/invocation:getty@tty1.service": "-> 1",
        "/run/systemd/units/invocation:dom0-reconciler.service": "-> 1",
        "/run/systemd/units/invocation:systemd-cryptsetup@root.service": "-> 1",
        "/run/systemd/units/invocation:session-1.scope": "-> 1",
    }
    assert planned(look(tree)) == Plan()


def test_what_an_upgrade_of_systemd_left_active_is_systemds_still() -> None:
    """Debian 13 has no systemd-update-utmp any more; it stays active until the reboot, and nobody could stop it."""
    active = "/run/systemd/units/invocation:systemd-update-utmp.service"
    assert planned(look({active: "-> 1"})) == Plan()
    transient = {
        active: "-> 1",
        "/run/systemd/transient/systemd-update-utmp.service": "[Service]\nExecStart=/bin/nc -l",
    }
    assert refs(planned(look(transient))) == ["units:systemd-update-utmp.service"]


def test_of_the_base_packages_what_serves_is_judged() -> None:
    tree = {f"{ETC}/multi-user.target.wants/systemd-networkd.service": f"-> {LIB}/systemd-networkd.service"}
    found = planned(look(tree))
    assert refs(found) == ["units:multi-user.target.wants/systemd-networkd.service"]


def test_not_knowing_what_is_systemds_own_nothing_is_judged() -> None:
    context = look({**RPC, "/var/lib/dpkg/info/systemd.list": Unobservable("EIO")})
    found = planned(context)
    assert (found.findings, found.steps) == ((), ())
    assert [gap.why for gap in found.gaps] == ["EIO"]


def test_systemd_not_answering_is_one_gap() -> None:
    found = planned(look(RPC, Unobservable("no answer in time")))
    assert [(str(gap.ref), gap.why) for gap in found.gaps] == [("units:systemd", "no answer in time")]
    assert len(found.findings) == 3


def test_an_unreadable_unit_file_is_a_gap_and_the_others_are_read() -> None:
    found = planned(look({**RPC, f"{LIB}/bad.service": Unobservable("EACCES")}))
    assert [str(gap.ref) for gap in found.gaps] == ["units:usr/lib/systemd/system/bad.service"]
    assert len(found.findings) == 3


def test_a_file_in_a_farm_is_a_gap() -> None:
    found = planned(look({f"{ETC}/multi-user.target.wants/foo.service": "[Unit]\n"}))
    assert [gap.why for gap in found.gaps] == ["a file where a link belongs"]


def test_a_unit_whose_file_is_gone_is_stopped_by_its_own_name() -> None:
    found = planned(look({"/run/systemd/units/invocation:gone.service": "-> 1"}))
    assert actions(found) == [StopService("gone.service", units=("gone.service",))]


def test_instances_are_stopped_by_their_template() -> None:
    tree = {
        f"{LIB}/foo@.service": "[Service]\n",
        "/run/systemd/units/invocation:foo@1.service": "-> 1",
        "/run/systemd/units/invocation:foo@2.service": "-> 1",
    }
    found = planned(look(tree))
    assert actions(found) == [StopService("foo", units=("foo@*.service",))]
    assert planned(look(tree, services=Services(("foo@1", "foo@2.service")))) == Plan()


def test_an_image_is_judged_by_its_links_and_nothing_is_started_or_stopped_there() -> None:
    found = planned(look(RPC, Unobservable("asked"), host=IMAGE))
    assert refs(found) == [
        "units:multi-user.target.wants/rpcbind.service",
        "units:sockets.target.wants/rpcbind.socket",
    ]
    assert [type(action) for action in actions(found)] == [DisableUnit]
    assert found.gaps == ()


@pytest.mark.parametrize("host", [Host(live=True), Host()])
def test_where_systemd_is_not_the_init_its_links_start_nothing(host: Host) -> None:
    assert list(units.places(DesiredState(services=Services()), host)) == []


def test_without_its_table_nothing_is_looked_at() -> None:
    assert list(units.places(DesiredState(), LIVE)) == []


def test_stop_false_leaves_running_what_runs() -> None:
    found = planned(look(RPC, ("rpcbind.socket",), Services(stop=False)))
    assert [type(action) for action in actions(found)] == [DisableUnit, ReloadManager]


def test_rails_hold() -> None:
    context = look(RPC, ("rpcbind.socket",))
    desired = replace(context.desired, rails=Rails(never_stop=("rpcbind",), never_unlink=("portmap",)))
    found = planned(replace(context, desired=desired))
    assert all(step.held for step in found.steps)


PLACES = [Place(units.NAME, f) for f in (f"{ETC}/multi-user.target.wants", f"{ETC}/sockets.target.wants", "", LIB)]
VENDORED = {
    **RPC,
    f"{LIB}/multi-user.target.wants/foo.service": "-> ../foo.service",
    f"{LIB}/sockets.target.wants/foo.socket": "-> ../foo.socket",
}


@given(st.lists(st.sampled_from(PLACES), unique=True), st.booleans())
def test_a_focused_plan_is_a_part_of_the_full_plan(focus: list[Place], mask: bool) -> None:
    context = look(VENDORED, ("rpcbind.socket",), Services(mask=mask))
    full = planned(context)
    part = planned(context, focus=focus)
    assert set(actions(part)) <= set(actions(full))
    by_action: dict[object, Step] = {step.action: step for step in full.steps}
    assert all(set(step.findings) <= set(by_action[step.action].findings) for step in part.steps)


def test_a_pass_reads_no_unit_file_that_systemd_owns() -> None:
    tree = {**BASE, f"{LIB}/systemd-journald.service": "[Service]\n", f"{LIB}/foo.service": "[Service]\n"}
    eyes = UnitEyes(states(tree))
    units.observe(Place(units.NAME, LIB), eyes)
    assert f"{LIB}/foo.service" in eyes.looked
    assert f"{LIB}/systemd-journald.service" not in eyes.looked


def test_concerns_names_that_can_start_or_run_something() -> None:
    running, etc = Place(units.NAME, units.RUNNING), Place(units.NAME, ETC)
    assert units.concerns(running, "invocation:exim4.service")
    assert not units.concerns(running, "invocation:run-lock.mount")
    assert not units.concerns(running, "log-extra-fields:exim4.service")
    assert units.concerns(etc, "exim4.service")
    assert units.concerns(etc, "multi-user.target.wants")
    assert not units.concerns(etc, "exim4.service.d")
    assert not units.concerns(etc, ".#exim4.service1234")


def test_unit_files_relate_units() -> None:
    text = (
        "# Requires=no.service\n[Unit]\nRequires=a.service \\\n  b.socket c.target\nBindsTo=d.service\n"
        "[Socket]\nService=e@.service\n[Timer]\nUnit=f.service\n"
        "[Install]\nAlias=g.service\nAlso=h.socket i.service j%i.timer\n"
    )
    file = parse_unit(Ref("units", "x"), "/x/foo.service", text)
    assert file.requires == ("a.service", "b.socket", "d.service")
    assert file.triggers == ("e@.service", "f.service", "h.socket")
    assert file.aliases == ("g.service",)
    assert not file.masked
    assert parse_unit(Ref("units", "x"), "/x/foo.service", "").masked


def test_an_empty_assignment_clears() -> None:
    assert settings("[Unit]\nRequires=a.service\nRequires=\nRequires=b.service")["Unit.Requires"] == ["b.service"]


@given(st.text(alphabet="[]=\\\n #;%UnitRequires=a.socket") | st.text())
def test_any_text_is_a_unit_file(text: str) -> None:
    parse_unit(Ref("units", "x"), "/x/foo.service", text)

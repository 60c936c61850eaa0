"""Holding back: the rails, what an approved service needs, what is under way, what would be told in vain."""

from __future__ import annotations

import pytest

from reconciler.desired import DesiredState, Rails, Services
from reconciler.errors import Unobservable
from reconciler.holds import Restraints, hold
from reconciler.kinds import Context
from reconciler.model import (
    Action,
    DisableUnit,
    FileState,
    Host,
    KeepAddress,
    MaskUnit,
    Process,
    Ref,
    ReloadManager,
    Signal,
    Snapshot,
    Step,
    StopService,
    Unlink,
    WriteFile,
)
from reconciler.observer import Observer
from reconciler.rails import rails_of
from reconciler.services import parse_catalogue
from reconciler.values import replace
from tests.fakes import MemoryEyes, Thing, link, script, unit
from tests.trees import CHECKOUT

DATA = parse_catalogue((CHECKOUT / "reconciler/catalogue.toml").read_text())
LIVE, SYSTEMD = Host(live=True), Host(live=True, init="systemd")


# fmt: off
LIFELINES = (
    "xen", "xendomains", "ssh", "sshd", "nftables", "networking", "udev", "lvm2", "zfs-mount", "dropbear",
    "tailscaled", "wg-quick", "openvpn-client", "dnsmasq", "corosync", "blk-availability", "mdmon", "rbdmap",
    "sanlock", "wdmd", "lvmlockd", "dlm", "o2cb", "ocfs2", "nvmf-autoconnect", "nbd-client", "fcoe",
    "virtqemud", "virtxend", "libvirt-guests", "ebtables", "arptables", "ip6tables", "ipset",
    "iptables-persistent", "ipset-persistent", "dmraid", "frr", "keepalived", "glusterd", "glusterfsd",
    "ceph-osd", "tgtd", "dhcpd", "nvmefc-boot-connections",
)
# fmt: on


def context(
    *approved: str,
    tree: dict[str, Thing] | None = None,
    rails: Rails | None = None,
    host: Host = LIVE,
    running: tuple[Process, ...] = (),
) -> Context:
    desired = DesiredState(services=Services(approved or ("cron",)), rails=rails or Rails())
    observer = Observer(MemoryEyes(tree or {}, host, running), DATA, desired)
    observer.look()
    return observer.context()


def reason(action: Action, service: str, where: Context, restraints: Restraints | None = None) -> str | None:
    [step] = hold([Step(action, service, (Ref("rclinks", "rc2.d/S20x"),))], where, restraints or Restraints())
    return step.held


def unlink(name: str) -> Unlink:
    return Unlink(f"/etc/rc2.d/S20{name}", f"../init.d/{name}", f"K01{name}")


@pytest.mark.parametrize("name", LIFELINES)
def test_what_boots_guards_or_lets_in_is_never_unlinked(name: str) -> None:
    assert (reason(unlink(name), name, context()) or "").startswith("rail: ")
    assert (reason(DisableUnit(name, (f"{name}.service",)), name, context()) or "").startswith("rail: ")
    assert (reason(MaskUnit(name, (f"{name}.service",)), name, context()) or "").startswith("rail: ")
    assert (reason(StopService(name, name), name, context()) or "").startswith("rail: ")


def test_what_its_stop_alone_would_harm_is_a_choice_and_the_rest_is_kept_for_the_next_boot() -> None:
    """A host that lost its VPN or its guests' DHCP server at the next reboot would be no better off."""
    harmed_by_the_stop = {name for name in DATA.never_stop if name not in DATA.never_unlink}
    words = ("watchdog", "wd_keepalive", "getty", "session", "user", "systemd", "init", "logind")
    assert [name for name in harmed_by_the_stop if not any(word in name for word in words)] == []


def test_approving_lvm2_or_mdadm_approves_what_belongs_to_it() -> None:
    catalogue = context().catalogue
    assert catalogue.approved("blk-availability", ("lvm2",))
    assert catalogue.approved("mdmon@md127.service", ("mdadm",))


@pytest.mark.parametrize("name", ["exim4", "portmap", "lpd", "inetd", "xenial", "sshguard", "cupsd"])
def test_others_are(name: str) -> None:
    for action in (unlink(name), DisableUnit(name, ()), MaskUnit(name, ()), StopService(name, name)):
        assert reason(action, name, context()) is None


NFS = {"/proc/self/mounts": FileState(b"/dev/vda / ext4 rw 0 0\nnas:/guests /srv/guests nfs4 rw 0 0\n")}


@pytest.mark.parametrize("service", ["nfs-common", "rpcbind", "portmap"])
def test_what_a_mounted_file_system_lives_on_is_kept_while_it_is_mounted(service: str) -> None:
    local: dict[str, Thing] = {"/proc/self/mounts": FileState(b"/dev/vda / ext4 rw 0 0\n")}
    for action in (unlink(service), DisableUnit(service, ()), MaskUnit(service, ()), StopService(service, service)):
        assert "mounted over NFS" in (reason(action, service, context(tree={**NFS})) or "")
        assert reason(action, service, context(tree=local)) is None
        assert reason(action, service, context(tree={**NFS}, rails=Rails(allow=("rpcbind", "nfs-common")))) is None
        assert reason(action, service, context(tree={**NFS}, host=Host())) is None  # an image has nothing mounted


def test_mounts_that_cannot_be_read_are_a_gap_and_keep_everything_that_may_be_mounted_over() -> None:
    where = context(tree={"/proc/self/mounts": Unobservable("no right")})
    assert "not known" in (reason(StopService("rpcbind", "rpcbind"), "rpcbind", where) or "")
    assert reason(StopService("exim4", "exim4"), "exim4", where) is None


def test_what_is_only_never_stopped_may_be_unlinked_but_not_masked() -> None:
    assert reason(unlink("watchdog"), "watchdog", context()) is None
    for action in (StopService("watchdog", "watchdog"), MaskUnit("watchdog", ())):
        assert "watchdog" in (reason(action, "watchdog", context()) or "")


def test_what_is_only_never_unlinked_is_not_stopped_either() -> None:
    assert reason(StopService("procps", "procps"), "procps", context()) == "rail: the host boots with it"


@pytest.mark.parametrize("name", ["canna", "cannaserver", "canna.service"])
def test_added_rails_know_every_name(name: str) -> None:
    where = context(rails=Rails(never_unlink=("cannaserver",), never_stop=("can*",)))
    assert reason(unlink("canna"), "canna", where) == 'rail: rails.never_unlink names "cannaserver"'
    assert reason(StopService(name, name), name, where) == 'rail: rails.never_stop names "can*"'


def test_allow_outranks_both_lists_and_no_more() -> None:
    where = context(rails=Rails(never_unlink=("collectd",), allow=("sshd", "collectd")))
    assert reason(unlink("ssh"), "ssh", where) is None
    assert reason(unlink("collectd"), "collectd", where) is None
    assert (reason(unlink("xen"), "xen", where) or "").startswith("rail: ")


def test_approved_does_not_lift_a_rail() -> None:
    assert (reason(StopService("ssh", "ssh"), "ssh", context("ssh")) or "") == "rail: it is the way in"


def test_what_an_unread_script_would_say_is_missed() -> None:
    """It may be an approved service under another name, or need what is to go."""
    gone = Unobservable("Input/output error")
    tree = script("lpd") | script("canna") | {"/etc/init.d/lprng": gone}
    stop = StopService("lprng", "lprng")
    where = context("cron", tree=tree)
    why = "/etc/init.d/lprng cannot be read: it may be approved under another name"
    assert [reason(action, "lprng", where) for action in (unlink("lprng"), stop)] == [why, why]
    assert reason(unlink("canna"), "canna", where) is None, "another one is not concerned"
    where = context("lprng", tree=tree)
    assert reason(unlink("canna"), "canna", where) == "the approved lprng may need it: /etc/init.d/lprng cannot be read"
    where = context("cron", tree={"/etc/init.d": gone})
    assert reason(unlink("canna"), "canna", where) == (
        "/etc/init.d cannot be looked at: whether it is approved, or needed, is not known"
    )


def test_what_an_approved_script_needs() -> None:
    tree = script("portmap") | script("nfs-common", needs="$portmap")
    where = context("nfs-common", tree=tree)
    assert reason(unlink("portmap"), "portmap", where) == "the approved nfs-common needs it"
    assert reason(StopService("portmap", "portmap"), "portmap", where) is None, "init scripts take nothing along"
    assert reason(unlink("portmap"), "portmap", context("cron", tree=tree)) is None


def test_systemd_would_take_along_what_requires_it() -> None:
    tree = unit("rpcbind.service") | unit(
        "nfs-server.service", "[Unit]\nRequires=rpcbind.service\n[Service]\nExecStart=/x\n"
    )
    tree |= {"/var/lib/dpkg/info/systemd.list": FileState(b"")}
    where = context("nfs-server", tree=tree, host=SYSTEMD)
    stop = StopService("rpcbind", units=("rpcbind.service",))
    assert reason(stop, "rpcbind", where) == "the approved nfs-server needs it"


def test_one_stop_at_a_time() -> None:
    stop = StopService("exim4", "exim4")
    busy = Restraints(in_flight=frozenset(("exim4",)))
    assert reason(stop, "exim4", context(), busy) == "its stop is already under way"
    assert reason(unlink("exim4"), "exim4", context(), busy) is None
    assert reason(stop, "exim4", context(), Restraints(in_flight=frozenset(("exim",)))) is None


def test_an_approved_service_is_not_stopped_for_what_it_opens() -> None:
    why = reason(StopService("exim4", "exim4"), "exim4", context("exim4"))
    assert why == "exim4 is approved: what it opens, only its own configuration closes"


PROCESS = Process(7, 1, "odd", "/opt/odd", started=5)


@pytest.mark.parametrize(
    ("pids", "why"),
    [
        (((7, 5),), None),
        (((7, 6),), "process 7 is not the one that was seen"),
        (((8, 5),), "process 8 is not the one that was seen"),
    ],
)
def test_a_signal_goes_only_to_what_was_seen(pids: tuple[tuple[int, int], ...], why: str | None) -> None:
    where = context(running=(PROCESS,))
    assert reason(Signal("/opt/odd", "TERM", "/opt/odd", pids), "/opt/odd", where) == why
    assert reason(Signal("/opt/odd", "KILL", "/opt/odd", pids), "/opt/odd", where) == why


def test_a_signal_to_what_is_not_surely_its_own() -> None:
    where = context(running=(PROCESS,), tree=script("exim4"))
    why = reason(Signal("exim4", "TERM", "/opt/odd", ((7, 5),)), "exim4", where)
    assert why == "process 7 (odd) does not surely belong to exim4"


def test_a_hangup_is_never_held_by_a_rail() -> None:
    assert reason(Signal("ssh", "HUP", "/usr/sbin/sshd"), "ssh", context()) is None


def test_a_lease_is_ended_only_when_the_address_stays() -> None:
    client = Process(7, 1, "dhclient", "/usr/sbin/dhclient", started=5)
    wanted = ("eth0", "192.0.2.10", 24)
    kill = Signal("dhclient", "KILL", "/usr/sbin/dhclient", ((7, 5),), keeps=(wanted,))
    where = context(running=(client,))
    assert reason(kill, "dhclient", where) == "eth0 does not hold 192.0.2.10/24, which must outlive it"
    ref = (Ref("processes", "dhclient"),)
    both = hold([Step(KeepAddress(*wanted), "eth0", ref), Step(kill, "dhclient", ref)], where, Restraints())
    assert [step.held for step in both] == [None, None]


def test_network_files_belong_to_no_service_and_are_never_held() -> None:
    action = WriteFile("/etc/network/interfaces", FileState(b""), None)
    assert reason(action, "", context()) is None
    assert reason(Unlink("/etc/network/interfaces.d/ssh"), "", context()) is None


def test_a_reload_for_nothing_is_held() -> None:
    where = context(host=SYSTEMD)
    one, two = Ref("rclinks", "rc2.d/S20ssh"), Ref("rclinks", "rc2.d/S20lpd")
    steps = [Step(unlink("ssh"), "ssh", (one,)), Step(ReloadManager(), "systemd", (one,))]
    assert [bool(step.held) for step in hold(steps, where, Restraints())] == [True, True]
    steps = [*steps[:1], Step(unlink("lpd"), "lpd", (two,)), Step(ReloadManager(), "systemd", (one, two))]
    assert [bool(step.held) for step in hold(steps, where, Restraints())] == [True, False, False]
    left_over = [Step(ReloadManager(), "systemd", (one,))]
    assert [step.held for step in hold(left_over, where, Restraints())] == [None], (
        "the generator's, of a link long gone"
    )


def test_holding_changes_nothing_else_and_keeps_the_order() -> None:
    steps = [Step(unlink(name), name, (Ref("rclinks", name),)) for name in ("xen", "lpd", "ssh", "atd")]
    held = hold(steps, context(), Restraints())
    assert [replace(step, held=None) for step in held] == steps
    assert [bool(step.held) for step in held] == [True, False, True, False]
    assert hold(held, context(), Restraints()) == held


def test_rails_of_tells_both() -> None:
    assert rails_of("ssh", context()) == ("never stopped: it is the way in", "never unlinked: it is the way in")
    assert rails_of("lpd", context()) == ()


def test_without_a_services_table_only_rails_hold() -> None:
    where = Context(DesiredState(), Snapshot(LIVE), context(tree=link("rc2.d/S20lpd")).catalogue)
    assert reason(unlink("lpd"), "lpd", where) is None
    assert (reason(unlink("xen"), "xen", where) or "").startswith("rail: ")


def test_for_a_link_that_is_held_only_what_runs_is_stopped() -> None:
    """The link is there in each pass: the stop of what does not run would be made, and recorded, for ever."""
    needed = script("lib") | script("app", needs="lib") | link("rc2.d/S20lib")
    running = Process(7, 1, "lib", "/usr/sbin/lib", started=5)
    for processes, why in (((), "what starts it is held, and it is not seen to run"), ((running,), None)):
        eyes = MemoryEyes(needed, Host(live=True), running=processes)
        observer = Observer(eyes, DATA, DesiredState(services=Services(("app",))))
        observer.look()
        held = {type(step.action): step.held for step in observer.plan().steps}
        assert held == {Unlink: "the approved app needs it", StopService: why}

"""The catalogue: which names are one service, what stops it, who needs it, whose a process is."""

from __future__ import annotations

import pytest

from reconciler.model import FileState, Host, Process, Ref, StopService
from reconciler.services import (
    Catalogue,
    CatalogueData,
    InitScript,
    UnitFile,
    base_name,
    matches,
    parse_catalogue,
    program_of,
)
from tests.trees import CHECKOUT

DATA = parse_catalogue((CHECKOUT / "reconciler/catalogue.toml").read_text())
SYSTEMD, SYSVINIT = Host(live=True, init="systemd"), Host(live=True)


def script(
    name: str, *provides: str, needs: tuple[str, ...] = (), runs: tuple[str, ...] = (), package: str = ""
) -> InitScript:
    return InitScript(
        Ref("rclinks", name), (name,), script=name, provides=(name, *provides), needs=needs, runs=runs, package=package
    )


def unit(
    name: str, aliases: tuple[str, ...] = (), triggers: tuple[str, ...] = (), requires: tuple[str, ...] = ()
) -> UnitFile:
    return UnitFile(
        Ref("units", name), (base_name(name),), unit=name, aliases=aliases, triggers=triggers, requires=requires
    )


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("ssh.service", "ssh"),
        ("ssh.socket", "ssh"),
        ("apt-daily.timer", "apt-daily"),
        ("cups.path", "cups"),
        ("getty@tty1.service", "getty"),
        ("sshd@.service", "sshd"),
        ("mountall.sh", "mountall.sh"),
        ("a.b.service", "a.b"),
        ("user@host", "user@host"),  # an init script's name, no instance of a unit
        ("", ""),
    ],
)
def test_base_name(name: str, base: str) -> None:
    assert base_name(name) == base


@pytest.mark.parametrize(
    ("names", "patterns", "found"),
    [
        (("ssh",), ("ssh",), "ssh"),
        (("ssh",), ("ssh.service",), "ssh.service"),
        (("exim4",), ("a*", "ex*", "exim4"), "ex*"),
        (("exim4",), ("EXIM4",), ""),
        (("[x]",), ("[x]",), "[x]"),  # a name that looks like a glob is itself first
        (("x",), ("[x]",), "[x]"),
        (("getty",), ("getty@tty1.service",), "getty@tty1.service"),
        ((), ("*",), ""),
        (("a\nb",), ("a*",), "a*"),
    ],
)
def test_matches(names: tuple[str, ...], patterns: tuple[str, ...], found: str) -> None:
    assert matches(names, patterns) == found


def test_aliases_join_whatever_the_host_calls_it() -> None:
    assert Catalogue(DATA).approved("portmap", ("rpcbind",))
    assert Catalogue(DATA).approved("rpcbind", ("portmap",))
    assert not Catalogue(DATA).approved("portmap", ("exim4",))
    assert Catalogue(DATA).service("portmap").name == "portmap", "joined, never renamed"


def test_a_unit_and_what_triggers_it_are_one_service() -> None:
    catalogue = Catalogue(DATA, units=[unit("cups.service", triggers=("cups-lpd.socket",)), unit("cups-lpd.socket")])
    assert catalogue.approved("cups-lpd.socket", ("cups",))
    assert catalogue.service("cups").units == ("cups-lpd.socket", "cups.service")


def test_names_join_across_scripts_units_and_data() -> None:
    catalogue = Catalogue(DATA, [script("openbsd-inetd")], [unit("openbsd-inetd.service", aliases=("inetd.service",))])
    assert catalogue.service("netkit-inetd").names >= {"inetd", "openbsd-inetd", "netkit-inetd"}
    assert catalogue.service("inetd").script == "openbsd-inetd"


def test_what_a_script_provides_approves_it() -> None:
    catalogue = Catalogue(DATA, [script("exim4", "mail-transport-agent")])
    assert catalogue.approved("exim4", ("mail-transport-agent",))


def test_two_scripts_that_provide_the_same_are_two_services() -> None:
    """A removed package leaves its script behind: approving postfix must not approve exim4."""
    catalogue = Catalogue(DATA, [script("exim4", "mail-transport-agent"), script("postfix", "mail-transport-agent")])
    assert not catalogue.approved("exim4", ("postfix",))
    assert catalogue.approved("exim4", ("mail-transport-agent",))
    assert catalogue.approved("postfix", ("mail-transport-agent",))
    assert catalogue.service("exim4").script == "exim4"
    assert catalogue.service("postfix").script == "postfix"
    assert "postfix" not in catalogue.service("mail-transport-agent").names


def test_facilities_that_overlap() -> None:
    scripts = [script("exim4", "portmap", "mta"), script("portmap", "mta"), script("list", "mta", needs=("mta",))]
    catalogue = Catalogue(DATA, scripts)
    assert catalogue.service("exim4").names == catalogue.service("rpcbind").names >= {"exim4", "portmap", "mta"}
    assert not catalogue.approved("exim4", ("list",))


def test_a_stop_is_the_same_whoever_asks() -> None:
    catalogue = Catalogue(DATA, [script("rpcbind")], [unit("rpcbind.service"), unit("rpcbind.socket")])
    stops = {catalogue.stop(catalogue.service(name), SYSTEMD) for name in ("rpcbind", "portmap", "rpcbind.socket")}
    assert stops == {StopService("rpcbind", units=("rpcbind.socket", "rpcbind.service"))}, "the socket goes first"
    assert catalogue.stop(catalogue.service("portmap"), SYSVINIT) == StopService("rpcbind", "rpcbind")


def test_a_stop_of_a_script_alone_and_of_nothing() -> None:
    catalogue = Catalogue(DATA, [script("lpd")], [unit("sshd@.service")])
    assert catalogue.stop(catalogue.service("lpd"), SYSTEMD) == StopService("lpd", units=("lpd.service",))
    assert catalogue.stop(catalogue.service("unknown"), SYSTEMD) is None
    assert catalogue.stop(catalogue.service("unknown"), SYSVINIT) is None
    template = catalogue.stop(catalogue.service("ssh"), SYSTEMD)
    assert template is not None
    assert template.units == ("sshd@*.service",), "a template stands for its instances"


def test_needed_by_scripts_and_units_but_not_by_itself() -> None:
    scripts = [script("portmap"), script("nfs-common", needs=("portmap",)), script("self", needs=("self",))]
    catalogue = Catalogue(DATA, scripts, [unit("nfs-server.service", requires=("rpcbind.service",))])
    assert catalogue.needed_by("portmap", ("nfs-common",)) == "nfs-common"
    assert catalogue.needed_by("rpcbind", ("nfs-server",)) == "nfs-server"
    assert catalogue.needed_by("portmap", ("ssh",)) == ""
    assert catalogue.needed_by("self", ("self",)) == ""


def test_a_facility_that_two_provide_is_needed_of_both() -> None:
    scripts = [script("exim4", "mta"), script("postfix", "mta"), script("list", needs=("mta",))]
    catalogue = Catalogue(DATA, scripts)
    assert catalogue.needed_by("exim4", ("list",)) == catalogue.needed_by("postfix", ("list",)) == "list"


def test_owner_by_program_then_by_package() -> None:
    scripts = [
        script("exim4", runs=("/usr/sbin/exim4",), package="exim4-base"),
        script("one", runs=("/usr/sbin/shared",)),
        script("two", runs=("/usr/sbin/shared",)),
        script("shell", runs=("/bin/sh",)),
        script("lpd", runs=("/usr/sbin/lpd", "/usr/sbin/start-stop-daemon")),
    ]
    catalogue = Catalogue(DATA, scripts)
    assert catalogue.owner(Process(2, 1, "x", "/usr/sbin/start-stop-daemon")) == "", "nor is what starts others"
    assert catalogue.owner(Process(2, 1, "exim4", "/usr/sbin/exim4")) == "exim4"
    assert catalogue.owner(Process(2, 1, "x", "/usr/sbin/shared")) == "", "two scripts run it: it is neither's"
    assert catalogue.owner(Process(2, 1, "sh", "/bin/sh")) == "", "a shell is nobody's"
    assert catalogue.owner(Process(2, 1, "x", "/usr/lib/exim4/x", package="exim4-base")) == "exim4"
    assert catalogue.owner(Process(2, 1, "x", "/usr/lib/x", package="no-such")) == ""


@pytest.mark.parametrize(
    ("process", "program"),
    [
        (Process(2, 1, "sshd", "/usr/sbin/sshd"), "/usr/sbin/sshd"),
        (Process(2, 1, "x", "/usr/bin/python3.11", ("python3", "-u", "/opt/x.py")), "/opt/x.py"),
        (Process(2, 1, "x", "/usr/bin/python3", ("python3", "-m", "x")), "/usr/bin/python3"),
        (Process(2, 1, "sh", "/bin/sh", ("sh", "-c", "/opt/x")), "/opt/x"),
        (Process(2, 1, "kthread", ""), "[kthread]"),
    ],
)
def test_program_of(process: Process, program: str) -> None:
    assert program_of(process) == program


def test_the_shipped_catalogue() -> None:
    text = (CHECKOUT / "reconciler/catalogue.toml").read_bytes()
    assert text.isascii()
    for rails in (DATA.never_stop, DATA.never_unlink):
        assert all(why and not why.endswith(".") and why[0].islower() for why in rails.values())
    groups = set(DATA.aliases.values())
    assert sum(map(len, groups)) == len(DATA.aliases), "no name is in two groups"
    for name in ("ssh", "xen", "xendomains", "networking", "nftables"):
        assert matches((name,), DATA.never_stop), name
        assert matches((name,), DATA.never_unlink), name
    assert FileState(text).mode == 0o644
    assert DATA.while_mounted.keys() >= {"nfs-common", "rpcbind"}
    empty = "".join(f"{key} = []\n" for key in ("aliases", "never", "never_stop", "never_unlink", "while_mounted"))
    assert parse_catalogue(empty) == CatalogueData()

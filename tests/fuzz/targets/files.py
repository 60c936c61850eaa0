"""What packages and tools leave on disk: init scripts, inetd's files, interfaces(5), units, dpkg's texts."""

from __future__ import annotations

from reconciler.kinds import inetd, rclinks
from reconciler.model import Ref
from reconciler.network import ifupdown
from reconciler.origins import Texts, origin
from reconciler.services import UNIT_SUFFIXES
from reconciler.unitfiles import parse_unit
from reconciler.watch.filesystems import mount_of, type_of
from tests.fuzz.targets.bytes import split, text

_REF = Ref("units", "x")


def script(data: bytes) -> None:
    """An init script names things without blanks, and programs by absolute paths."""
    found = rclinks.parse_script("x", text(data))
    for name in (*found.provides, *found.needs, *found.runs):
        assert name.split() == [name] or name == ""
    assert all(path.startswith("/usr/") for path in found.runs)


def inetd_conf(data: bytes) -> None:
    """Lossless; commenting each active line out leaves none, keeps the text, and is then nothing to do any more."""
    lines = inetd.parse(data)
    assert inetd.render(lines) == data
    active = [number for number, line in enumerate(lines) if line.entries]
    after = inetd.comment(lines, active)
    assert inetd.names_of(after) == ()
    assert after.replace(b"#", b"") == data.replace(b"#", b"")
    assert active or after == data
    for line in lines:
        for entry in line.entries:
            assert entry.identity in entry.names


def interfaces(data: bytes) -> None:
    """Lossless; what has an address is defined, and its words hold no blank."""
    assert ifupdown.render(ifupdown.parse(data)) == data
    defined = ifupdown.defines(data)
    assert defined.issuperset(each.name for each in ifupdown.interfaces(data))
    for name, addresses in ifupdown.static_addresses(data).items():
        assert name in defined
        assert all("/" in address for address in addresses)


def unit(data: bytes) -> None:
    """A unit file relates units, by their whole names."""
    found = parse_unit(_REF, "/usr/lib/systemd/system/x.service", text(data))
    for name in (*found.aliases, *found.requires, *found.triggers):
        assert name.endswith(UNIT_SUFFIXES)
    for opened in found.opens:
        protocol, _, rest = opened.partition("/")
        assert rest.isdecimal() if protocol in ("tcp", "udp") else protocol == "unix"


def package(data: bytes) -> None:
    """apt's and dpkg's logs and states say how a package came, or nothing; what they say is one line each."""
    name, *texts = map(text, split(data, 5))
    found = origin(name, Texts(*texts))
    for said in (found.time, found.command, found.by, *found.because):
        assert "\n" not in said


def mountinfo(data: bytes) -> None:
    """The type of a mount, by the text of an open descriptor and that of the mounts: a word, or nothing."""
    info, mounts = map(text, split(data, 2))
    assert " " not in type_of(mounts.split("\n"), mount_of(info.split("\n")))


TARGETS = (script, inetd_conf, interfaces, unit, package, mountinfo)

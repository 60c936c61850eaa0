"""The interfaces kind against real files, any bytes at all, and ifupdown's own ifquery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import DesiredState, Network
from reconciler.errors import Unobservable
from reconciler.kinds import interfaces
from reconciler.kinds.base import Context
from reconciler.model import (
    EntryState,
    FileState,
    Finding,
    Gap,
    Host,
    LinkState,
    OddState,
    Place,
    Ref,
    Sight,
    Snapshot,
    Step,
    Unlink,
    WriteFile,
)
from reconciler.network import ifupdown
from reconciler.services import Catalogue, CatalogueData
from reconciler.values import replace
from tests import debian_tools
from tests.kinds.eyes import FakeEyes

DATA = Path(__file__).parent / "data" / "interfaces"
FILES = sorted(path.name for path in DATA.iterdir())
STATIC, DHCP = (DATA / "sarge-static").read_bytes(), (DATA / "sarge-dhcp").read_bytes()
MAIN = "/etc/network/interfaces"
IFQUERY = debian_tools.find("ifquery", "ifupdown")

Tree = dict[str, EntryState | Exception]


@dataclass
class World:
    """A tree and a desired state: everything from the first look to the steps."""

    tree: Tree
    main: FileState | None = None
    folder: Mapping[str, FileState] | None = None

    def context(self) -> Context:
        desired = DesiredState(network=Network(self.main, self.folder))
        sights = {place: self._sight(place) for place in interfaces.places(desired, Host())}
        return Context(desired, Snapshot(Host(), MappingProxyType(sights)), Catalogue(CatalogueData()))

    def _sight(self, place: Place) -> Sight:
        try:
            return interfaces.observe(place, FakeEyes(self.tree))
        except Unobservable as error:
            return Sight(gaps=(Gap("interfaces", Ref("interfaces", "network/interfaces"), str(error)),))

    def findings(self) -> list[Finding]:
        context = self.context()
        return [f for p, sight in context.snapshot.sights.items() for f in interfaces.judge(p, sight, context)]

    def summary(self) -> list[tuple[str, str, str]]:
        return [(str(finding.ref), finding.rule, finding.detail) for finding in self.findings()]

    def gaps(self) -> list[tuple[str, str]]:
        sights = self.context().snapshot.sights.values()
        return [(str(gap.ref), gap.why) for sight in sights for gap in sight.gaps]

    def steps(self) -> list[Step]:
        return list(interfaces.remedy(self.findings(), self.context()))

    def apply(self) -> None:
        for step in self.steps():
            if isinstance(step.action, WriteFile):
                assert self.tree.get(step.action.path) == step.action.expects
                self.tree[step.action.path] = step.action.state
            elif isinstance(step.action, Unlink):
                del self.tree[step.action.path]


# --- the grammar -------------------------------------------------------------------------------------------

_TEXT = st.lists(
    st.sampled_from([b"iface", b"eth0", b"inet", b"dhcp", b"static", b"auto", b"inherits", b"mapping", b"#"])
    | st.sampled_from([b" ", b" ", b"\n", b"\n", b"\\\n", b"\\", b"\r", b"\0", b"\t", b"address 10.0.0.1/8"])
    | st.binary(max_size=2),
    max_size=40,
).map(b"".join)


@given(st.binary() | _TEXT)
def test_every_byte_survives(content: bytes) -> None:
    assert ifupdown.render(ifupdown.parse(content)) == content


@pytest.mark.parametrize("name", FILES)
def test_every_byte_of_a_real_file_survives(name: str) -> None:
    content = (DATA / name).read_bytes()
    assert ifupdown.render(ifupdown.parse(content)) == content


@given(_TEXT, _TEXT)
def test_anything_can_be_asked_of_any_file(one: bytes, other: bytes) -> None:
    detail = interfaces.differences(one, other)
    assert detail
    assert len(detail) < 500
    assert set(ifupdown.static_addresses(one)) <= ifupdown.defines(one)
    assert interfaces.differences(one, one) == "only comments, blanks or the order differ"


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        pytest.param(b"auto \\\n  lo\n", [b"auto   lo"], id="continued"),
        pytest.param(b"auto a\\\n# b\n", [b"auto a# b"], id="what follows is no comment"),
        pytest.param(b" # c \\\nauto a\n", [b"", b"auto a"], id="a comment is not continued"),
        pytest.param(b"auto a\\ \nauto b\n", [b"auto a\\", b"auto b"], id="a blank behind the backslash"),
        pytest.param(b"auto a\\\r\nauto b\n", [b"auto a\\", b"auto b"], id="CRLF"),
        pytest.param(b"auto a\\\\\n\nb\n", [b"auto ab"], id="two backslashes and an empty line"),
        pytest.param(b"auto a\0\\\nauto b\n", [b"auto a", b"auto b"], id="NUL ends a line"),
        pytest.param(b"auto a\\\\", [b"auto a"], id="backslashes at the end of the file"),
        pytest.param(b"\x0b\x0c\r auto\n\n", [b"auto", b""], id="blanks of C"),
    ],
)
def test_logical_lines(content: bytes, texts: list[bytes]) -> None:
    assert [line.text for line in ifupdown.parse(content)] == texts


def test_stanzas_of_a_real_file() -> None:
    found = ifupdown.stanzas((DATA / "odd").read_bytes())
    assert [(stanza.line, len(stanza.options)) for stanza in found] == [
        ("mapping eth0", 2),
        ("iface eth0-home inet static", 1),
        ("no-auto-down eth0", 0),
        ("rename foo=bar", 0),
        ("iface tmpl inet static", 1),
        ("iface br inet static inherits tmpl", 1),
        ("auto br", 0),
        ("iface a inet manual", 1),
    ]


def test_an_interface_inherits_from_the_first_template_of_its_family() -> None:
    content = b"iface t inet static\n mtu 1\niface t inet6 auto\n mtu 6\n"
    content += b"iface a inherits t\niface b inet6 inherits t\n"
    found = {each.name: each for each in ifupdown.interfaces(content)}
    assert found["a"] == ifupdown.Interface("a", "inet", "static", (("mtu", "1"),))
    assert found["b"] == ifupdown.Interface("b", "inet6", "auto", (("mtu", "6"),))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sarge-dhcp", {}),
        ("sarge-static", {"eth0": ("192.0.2.10/24",)}),
        ("xen-bridges", {"xenbr0": ("192.0.2.10/24", "2001:db8::10/64", "198.51.100.10/25")}),
        ("odd", {"eth0-home": ("10.0.0.2/8",), "br": ("172.16.0.1/12",)}),
    ],
)
def test_static_addresses(name: str, expected: dict[str, tuple[str, ...]]) -> None:
    assert ifupdown.static_addresses((DATA / name).read_bytes()) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"address 10.1.2.3", "10.1.2.3/8"),
        (b"address 172.16.0.1", "172.16.0.1/16"),
        (b"address 192.0.2.1", "192.0.2.1/24"),
        (b"address 192.0.2.1\n netmask 25", "192.0.2.1/25"),
        (b"address 192.0.2.1/24\n netmask 255.255.0.0", "192.0.2.1/16"),
        (b"address nonsense", None),
        (b"address 192.0.2.1/99", None),
        (b"gateway 192.0.2.1", None),
    ],
)
def test_the_prefix_of_an_address(options: bytes, expected: str | None) -> None:
    found = ifupdown.static_addresses(b"iface eth0 inet static\n " + options + b"\n")
    assert found == ({"eth0": (expected,)} if expected else {})


def test_what_a_file_defines() -> None:
    assert ifupdown.defines((DATA / "xen-bridges").read_bytes()) == {
        *("lo", "eth0", "eth1", "eth2", "eth3", "bond0", "xenbr0", "xenbr1", "vlan7")
    }


# --- what is judged ----------------------------------------------------------------------------------------

CANONICAL = FileState(STATIC, 0o644, 0, 0, 5)


def test_a_table_that_is_missing_is_not_judged() -> None:
    assert list(interfaces.places(DesiredState(), Host())) == []
    assert World({MAIN: FileState(b"x")}).findings() == []
    assert list(interfaces.places(DesiredState(network=Network(CANONICAL)), Host())) == [interfaces.FILE]
    assert list(interfaces.places(DesiredState(network=Network(None, {})), Host())) == [interfaces.FOLDER]


def test_an_equal_file_of_another_time_is_no_finding() -> None:
    assert World({MAIN: replace(CANONICAL, mtime_ns=99)}, CANONICAL).findings() == []


@pytest.mark.parametrize(
    ("seen", "detail"),
    [
        pytest.param(replace(CANONICAL, content=DHCP), "eth0: dhcp instead of static", id="dhcp"),
        pytest.param(
            replace(CANONICAL, content=STATIC.replace(b"2.10", b"2.99")),
            "eth0: address 192.0.2.99 instead of 192.0.2.10",
            id="address",
        ),
        pytest.param(
            replace(CANONICAL, content=STATIC.replace(b"\tgateway 192.0.2.1\n", b"\tup evil\n")),
            "eth0: without gateway 192.0.2.1; eth0: up evil added",
            id="options",
        ),
        pytest.param(
            replace(CANONICAL, content=STATIC + b"auto eth1\niface eth1 inet6 auto\nsource x/*\n"),
            'eth1 inet6 (auto) added; "auto eth1" added; "source x/*" added',
            id="more",
        ),
        pytest.param(
            replace(CANONICAL, content=b"allow-hotplug eth0\n"),
            'lo (loopback) removed; eth0 (static) removed; "allow-hotplug eth0" added; and 2 more',
            id="less",
        ),
        pytest.param(
            replace(CANONICAL, content=STATIC + b"#\n"),
            "only comments, blanks or the order differ",
            id="comment",
        ),
        pytest.param(replace(CANONICAL, uid=1000), "owner 1000:0 instead of 0:0", id="owner"),
        pytest.param(
            replace(CANONICAL, mode=0o4666, content=DHCP),
            "eth0: dhcp instead of static; mode 4666 instead of 0644",
            id="mode",
        ),
        pytest.param(LinkState("/run/\x1b"), "a link to /run/\\x1b instead of a file", id="link"),
    ],
)
def test_drift_is_said_and_mended(seen: EntryState, detail: str) -> None:
    drifted = World({MAIN: seen}, CANONICAL)
    assert drifted.summary() == [("interfaces:interfaces", "drifted", detail)]
    assert drifted.findings()[0].service == ""
    (step,) = drifted.steps()
    assert step == Step(
        WriteFile(MAIN, replace(CANONICAL, mtime_ns=0), seen),
        "",
        (Ref("interfaces", "interfaces"),),
        "drifted",
    )
    drifted.apply()
    assert drifted.findings() == []


def test_a_missing_file_is_written() -> None:
    missing = World({}, CANONICAL, {"xenbr0": FileState(b"x")})
    assert missing.summary() == [
        ("interfaces:interfaces", "missing", "declared, but not there"),
        ("interfaces:interfaces.d/xenbr0", "missing", "declared, but not there"),
    ]
    assert [(step.action, step.rule) for step in missing.steps()] == [
        (WriteFile(MAIN, replace(CANONICAL, mtime_ns=0), None), "missing"),
        (WriteFile(f"{MAIN}.d/xenbr0", FileState(b"x"), None), "missing"),
    ]


def test_a_file_that_cannot_be_seen_is_neither_missing_nor_drifted() -> None:
    odd = World({MAIN: OddState("fifo")}, CANONICAL)
    assert odd.findings() == []
    assert odd.gaps() == [("interfaces:network/interfaces", "/etc/network/interfaces is a fifo, not a file")]


def test_the_folder() -> None:
    tree: Tree = {
        f"{MAIN}.d/.eth0.swp": FileState(b"x"),
        f"{MAIN}.d/eth0.bak": FileState(b"auto eth0\niface eth0 inet dhcp\n"),
        f"{MAIN}.d/link": LinkState("/dev/null"),
        f"{MAIN}.d/notes~": FileState(b""),
        f"{MAIN}.d/old": OddState("directory"),
        f"{MAIN}.d/pipe": OddState("fifo"),
        f"{MAIN}.d/private": Unobservable("/etc/network/interfaces.d/private: Permission denied"),
    }
    drifted = FileState(b"iface xenbr0 inet dhcp\n")
    tree[f"{MAIN}.d/xenbr0"] = drifted
    declared = FileState(b"iface xenbr0 inet manual\n", 0o600)
    folder = World(tree, None, {"xenbr0": declared, "private": declared, "pipe": declared})
    assert folder.summary() == [
        (
            "interfaces:interfaces.d/xenbr0",
            "drifted",
            "xenbr0: dhcp instead of manual; mode 0644 instead of 0600",
        ),
        ("interfaces:interfaces.d/eth0.bak", "unapproved", "not declared: configures eth0"),
        ("interfaces:interfaces.d/link", "unapproved", "not declared: a link to /dev/null"),
        ("interfaces:interfaces.d/notes~", "unapproved", "not declared"),
    ]
    assert folder.gaps() == [
        ("interfaces:interfaces.d/old", "/etc/network/interfaces.d/old is a directory, not a file"),
        ("interfaces:interfaces.d/pipe", "/etc/network/interfaces.d/pipe is a fifo, not a file"),
        ("interfaces:interfaces.d/private", "/etc/network/interfaces.d/private: Permission denied"),
    ]
    assert [step.action for step in folder.steps()] == [
        WriteFile(f"{MAIN}.d/xenbr0", declared, drifted),
        Unlink(f"{MAIN}.d/eth0.bak"),
        Unlink(f"{MAIN}.d/link", "/dev/null"),
        Unlink(f"{MAIN}.d/notes~"),
    ]
    folder.apply()
    assert folder.findings() == []


_STATES = st.builds(
    FileState,
    st.sampled_from([STATIC, DHCP, b""]),
    st.sampled_from([0o644, 0o600]),
    st.integers(0, 1),
) | st.builds(LinkState, st.just("/x"))
_CANONICALS = st.builds(FileState, st.sampled_from([STATIC, b""]), st.sampled_from([0o644, 0o600]))


@given(
    st.dictionaries(st.sampled_from([MAIN, f"{MAIN}.d/a", f"{MAIN}.d/b", f"{MAIN}.d/.c"]), _STATES),
    st.none() | _CANONICALS,
    st.none() | st.dictionaries(st.sampled_from(["a", "b"]), _CANONICALS),
)
def test_nothing_is_left_after_the_remedy(
    tree: dict[str, EntryState], main: FileState | None, folder: dict[str, FileState] | None
) -> None:
    changed = World(dict(tree), main, folder)
    changed.apply()
    assert changed.findings() == []
    untouched = {f"{MAIN}.d/.c"} | ({MAIN} if main is None else set())
    assert all(changed.tree.get(path) == tree.get(path) for path in untouched)


# --- ifupdown's own tool -----------------------------------------------------------------------------------


@pytest.mark.skipif(not IFQUERY, reason="ifupdown is neither installed nor in the pool of the harness")
@pytest.mark.parametrize(
    "content",
    [
        b"iface a inet manual\n up x \\\n # y\n",
        b"iface a inet manual\n x y\\\\\n\nz\n",
        b"iface a inet manual\nmtu 1\\\r\nfoo bar\n",
        b"iface a inet manual\n# c\\\nfoo bar\0baz\n",
        b"iface t inet manual\n mtu 1\niface a inherits t\n auto\n foo bar\n",
        b"iface a inet manual\n up one\\",
        b"iface a inet manual\n\\\n\tauto echo\n",
    ],
)
def test_ifupdown_reads_the_same_options(tmp_path: Path, content: bytes) -> None:
    assert IFQUERY
    file = tmp_path / "interfaces"
    file.write_bytes(content)
    answer = IFQUERY("-i", str(file), "a")
    (options,) = [each.options for each in ifupdown.interfaces(content) if each.name == "a"]
    assert answer == "".join(f"{name}: {value}\n" for name, value in options)


@pytest.mark.skipif(not IFQUERY, reason="ifupdown is neither installed nor in the pool of the harness")
def test_ifupdown_reads_every_name_without_a_dot_first(tmp_path: Path) -> None:
    """The reason why every other file in interfaces.d is a finding; should ifupdown change, this says so."""
    assert IFQUERY
    folder = tmp_path / "interfaces.d"
    folder.mkdir()
    for number, name in enumerate(("eth0.abc~", "eth0.bak", "eth0.dpkg-new", "tmp_x1y2z3", ".eth0.swp")):
        (folder / name).write_text(f"auto if{number}\niface if{number} inet manual\n")
    (tmp_path / "interfaces").write_text("source interfaces.d/*\n")
    answer = IFQUERY("-i", str(tmp_path / "interfaces"), "--list")
    assert sorted(answer.split()) == ["if0", "if1", "if2", "if3", "lo"]

"""The inetd kind against real files, any bytes at all, and Debian's own update-inetd."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import DesiredState, Inetd, Services
from reconciler.errors import Unobservable
from reconciler.kinds import inetd
from reconciler.kinds.base import Context
from reconciler.model import (
    EntryState,
    FileState,
    Finding,
    Host,
    LinkState,
    OddState,
    Ref,
    Sight,
    Signal,
    Snapshot,
    Step,
    StopService,
    WriteFile,
)
from reconciler.services import Catalogue, CatalogueData, InitScript
from tests import debian_tools
from tests.kinds.eyes import FakeEyes

DATA = Path(__file__).parent / "data" / "inetd"
FILES = sorted(path.name for path in DATA.iterdir())
OPENBSD = "/usr/sbin/inetd"
GNU = "/usr/sbin/inetutils-inetd"


def test_a_file_with_other_attributes_is_another_one() -> None:
    """What is written in its place is to have those that it has then."""
    line = b"daytime stream tcp nowait root internal\n"
    files = [FileState(line, xattrs=xattrs) for xattrs in ((), (("user.note", b"x"),), ())]
    sights = [inetd.observe(inetd.CONFIG, FakeEyes({"/etc/inetd.conf": file})) for file in files]
    assert sights[0] != sights[1]
    assert sights[0] == sights[2]


@dataclass
class World:
    """A tree, a desired state and a host: everything from the first look to the steps."""

    tree: dict[str, EntryState | Exception]
    approved: tuple[str, ...] = ()
    host: Host = field(default_factory=Host)
    services: Services | None = None
    scripts: tuple[str, ...] = ()

    def context(self) -> Context:
        desired = DesiredState(inetd=Inetd(self.approved), services=self.services)
        eyes = FakeEyes(self.tree)
        sights = {place: inetd.observe(place, eyes) for place in inetd.places(desired, self.host)}
        scripts = [InitScript(Ref("rclinks", f"init.d/{s}"), (s,), script=s) for s in self.scripts]
        aliases = {name: frozenset(("inetd", "openbsd-inetd")) for name in ("inetd", "openbsd-inetd")}
        snapshot = Snapshot(self.host, MappingProxyType(sights))
        return Context(desired, snapshot, Catalogue(CatalogueData(aliases), scripts))

    def findings(self) -> list[Finding]:
        context = self.context()
        return [f for p, sight in context.snapshot.sights.items() for f in inetd.judge(p, sight, context)]

    def steps(self) -> list[Step]:
        return list(inetd.remedy(self.findings(), self.context()))

    def apply(self) -> None:
        for step in self.steps():
            if isinstance(step.action, WriteFile):
                assert self.tree[step.action.path] == step.action.expects
                self.tree[step.action.path] = step.action.state

    def refs(self) -> list[str]:
        return [str(finding.ref) for finding in self.findings()]


def world(content: bytes, *approved: str, host: Host | None = None, **more: EntryState | Exception) -> World:
    tree = {"/etc/inetd.conf": FileState(content, 0o640, 1, 2, 99), **more}
    return World(dict(tree), approved, host or Host())


def identities(content: bytes) -> list[str]:
    return [entry.identity for line in inetd.parse(content) for entry in line.entries]


# --- the grammar --------------------------------------------------------------------------------------------


@given(st.binary())
def test_every_byte_survives(content: bytes) -> None:
    assert inetd.render(inetd.parse(content)) == content


@pytest.mark.parametrize("name", FILES)
def test_every_byte_of_a_real_file_survives(name: str) -> None:
    content = (DATA / name).read_bytes()
    assert inetd.render(inetd.parse(content)) == content


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sarge.conf", ["ident/tcp"]),
        ("bookworm-fresh.conf", []),
        ("bookworm-packages.conf", ["shell/tcp", "ident/tcp", "finger/tcp"]),
        (
            "by-hand.conf",
            [
                "swat/tcp",
                "ident,113/tcp6",
                "ssh/tcp46",
                "rstatd/1-5/rpc/udp",
                "/run/x.sock/unix",
                "tcpmux/tcp",
                "tcpmux/+date/tcp",
                "daytime/udp",
                "2000/tcp",
            ],
        ),
    ],
)
def test_active_lines_of_real_files(name: str, expected: list[str]) -> None:
    assert identities((DATA / name).read_bytes()) == expected


X = b"ident stream tcp wait identd /usr/sbin/identd identd\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"#" + X, [], id="comment"),
        pytest.param(b"# " + X, [], id="comment with a space"),
        pytest.param(b"#<off># " + X, [], id="off by update-inetd"),
        pytest.param(b" " + X, ["ident/tcp"], id="indented at the top of the file: openbsd-inetd serves it"),
        pytest.param(b"# c\n\t" + X, ["ident/tcp"], id="indented after a comment is no continuation of it"),
        pytest.param(b" #" + X, ["#ident/tcp"], id="an indented # is part of the name"),
        pytest.param(b"  # prose about the stream tcp service here\n", [], id="indented prose"),
        pytest.param(b"ident stream tcp\n wait identd\n\t/usr/sbin/identd\n", ["ident/tcp"], id="continued"),
        pytest.param(b"\n  \n ident stream tcp wait r /x\n", ["ident/tcp"], id="continues blank lines"),
        pytest.param(b"ident stream tcp wait identd\n", [], id="five fields are a syntax error to both"),
        pytest.param(b"ident other tcp wait identd /x\n", [], id="unknown socket type"),
        pytest.param(X[:-1], ["ident/tcp"], id="no final newline"),
        pytest.param(X[:-1] + b"\r\n", ["ident/tcp"], id="CRLF"),
        pytest.param(X[:-1] + b"\\\nfoo\n", ["ident/tcp"], id="a backslash continues nothing"),
        pytest.param(b"\0" + X, [], id="NUL ends the line"),
        pytest.param(X.replace(b" wait", b"\0wait"), [], id="NUL in the line"),
        pytest.param(b"\xff\xfe stream tcp wait r /x\n", ["\udcff\udcfe/tcp"], id="no UTF-8"),
        pytest.param(b"113 stream tcp wait r /x", ["113/tcp"], id="a port number"),
        pytest.param(b"127.0.0.1:", [], id="a default address"),
        pytest.param(b"127.0.0.1: ident stream tcp wait r /x", ["ident/tcp"], id="host: service"),
        pytest.param(b"[::1]:ident stream tcp wait r /x", ["ident/tcp"], id="IPv6 address"),
        pytest.param(b"a: stream tcp wait r /x y", ["/tcp"], id="no name: inetutils takes any port"),
        pytest.param(b'"ident" stream tcp wait r /x', ['"ident"/tcp', "ident/tcp"], id="quoted: inetutils"),
        pytest.param(b'ident"stream""tcp""wait"r"/x"', ["ident/tcp"], id="quotes alone divide: inetutils"),
        pytest.param(b"a stream tcp,x wait r\n b stream tcp wait r\n\t/x\n", ["a/tcp", "b/tcp"], id="dropped"),
        pytest.param(b"#" + 1022 * b"x" + X, ["ident/tcp"], id="hidden behind a long comment"),
        pytest.param(b"#" + 1021 * b"x" + X, ["dent/tcp"], id="which swallows its first byte"),
        pytest.param(b"#" + 900 * b"x" + X, [], id="behind a comment that is not too long"),
    ],
)
def test_what_makes_a_line_active(content: bytes, expected: list[str]) -> None:
    assert identities(content) == expected


@pytest.mark.parametrize(
    ("line", "pattern", "approved"),
    [
        (b"ident stream tcp wait r /x", "ident/tcp", True),
        (b"ident stream tcp wait r /x", "ident/*", True),
        (b"ident stream tcp wait r /x", "*", True),
        (b"ident stream tcp wait r /x", "ident/udp", False),
        (b"ident stream tcp wait r /x", "ident", False),
        (b"ident stream tcp wait r /x", "auth/tcp", False),
        (b"ident stream tcp wait r /x", "ident/tcp6", False),
        (b"ident stream tcp6 wait r /x", "ident/tcp", True),
        (b"ident stream tcp46,rcvbuf=16k wait r /x", "ident/tcp", True),
        (b"ident stream tcp6only wait r /x", "ident/tcp", True),
        (b"ident stream tcp4 wait r /x", "ident/tcp4", True),
        (b"127.0.0.1:ident stream tcp wait r /x", "ident/tcp", True),
        (b"127.0.0.1:ident stream tcp wait r /x", "127.0.0.1:ident/tcp", True),
        (b"10.0.0.1:ident stream tcp wait r /x", "127.0.0.1:ident/tcp", False),
        (b"[::1]:ident stream tcp6 wait r /x", "::1:ident/tcp", True),
        (b"113 stream tcp wait r /x", "113/tcp", True),
        (b"113 stream tcp wait r /x", "ident/tcp", False),
        (b"rstatd/1-5 dgram rpc/udp wait r /x", "rstatd/rpc/udp", True),
        (b"rstatd/1-5 dgram rpc/udp6 wait r /x", "rstatd/rpc/udp", True),
        (b"rstatd/1-5 dgram rpc/udp wait r /x", "rstatd/1-5/rpc/udp", True),
        (b"rstatd/1-5 dgram rpc/udp wait r /x", "rstatd/udp", False),
        (b"/run/x stream unix wait r /x", "/run/x/unix", True),
        (b"tcpmux/+date stream tcp nowait r /x", "tcpmux/+date/tcp", True),
    ],
)
def test_what_approves_a_line(line: bytes, pattern: str, approved: bool) -> None:
    assert (world(line, pattern).findings() == []) is approved


# --- the remedy ---------------------------------------------------------------------------------------------

_WORDS = b'ident 113 #x "q" a: 127.0.0.1:b stream dgram tcp udp6 rpc/tcp wait nowait.9 root /x internal #<off>#'
_CONTENT = st.lists(
    st.one_of(st.sampled_from([b" ", b"\t", b"\n", b"\n", b"\n ", b"\n#", X, b"\n" + X, b"\0", b"\r"]))
    | st.sampled_from([*_WORDS.split(), b"x" * 1022])
    | st.just(b"ssh stream tcp nowait root /usr/sbin/sshd -i\n")
    | st.binary(max_size=3),
    max_size=40,
).map(b"".join)


@given(_CONTENT)
def test_nothing_is_left_after_the_remedy(content: bytes) -> None:
    changed = world(content, "ssh/tcp")
    changed.apply()
    assert changed.findings() == []


@given(_CONTENT)
def test_only_a_number_sign_at_the_start_of_a_line_is_added(content: bytes) -> None:
    """A line longer than openbsd-inetd reads at once gets one before each part that it reads."""
    changed = world(content)
    changed.apply()
    after = changed.tree["/etc/inetd.conf"]
    assert isinstance(after, FileState)
    before, after_lines = content.splitlines(keepends=True), after.content.splitlines(keepends=True)
    if b"\r" not in content and max(map(len, before), default=0) <= 1022:
        for old, new in zip(before, after_lines, strict=True):
            assert new in (old, b"#" + old)
    assert after.content.replace(b"#", b"") == content.replace(b"#", b"")


@given(_CONTENT)
def test_what_is_approved_is_never_touched(content: bytes) -> None:
    assert world(content, "*").steps() == []


@given(st.lists(st.sampled_from([X, b"ssh stream tcp nowait root /usr/sbin/sshd\n\t-i\n", b"# c\n"]), max_size=9))
def test_approved_lines_keep_every_byte_beside_others(lines: list[bytes]) -> None:
    changed = world(b"".join(lines), "ssh/tcp")
    changed.apply()
    state = changed.tree["/etc/inetd.conf"]
    assert isinstance(state, FileState)
    assert state.content == b"".join(b"#" + line if line == X else line for line in lines)


@given(_CONTENT)
def test_refs_are_unique(content: bytes) -> None:
    refs = world(content).refs()
    assert len(set(refs)) == len(refs)


def test_one_write_for_a_file_keeps_owner_mode_and_every_other_byte() -> None:
    before = (DATA / "by-hand.conf").read_bytes()
    steps = world(before, "ident*/tcp", "ssh/tcp", "/run/x.sock/unix", "tcpmux/*").steps()
    (step,) = steps
    assert isinstance(step.action, WriteFile)
    assert step.action.expects == FileState(before, 0o640, 1, 2, 99)
    wanted = before
    for line in (b"swat stream", b"rstatd/1-5", b"\tdaytime", b"2000"):
        wanted = wanted.replace(b"\n" + line, b"\n#" + line)
    assert step.action.state == FileState(wanted, 0o640, 1, 2)
    assert len(step.findings) == 4


def test_continuation_lines_are_commented_with_their_line_and_blank_ones_left() -> None:
    changed = world(b"a stream tcp wait r\n\t/x\n \n y\nb stream tcp wait r /x\n", "b/tcp")
    (step,) = changed.steps()
    assert isinstance(step.action, WriteFile)
    assert step.action.state.content == b"#a stream tcp wait r\n#\t/x\n \n# y\nb stream tcp wait r /x\n"


def test_a_long_line_is_commented_for_the_reader_that_cuts_it() -> None:
    (step,) = world(b"a stream tcp wait r /x " + 2000 * b"y" + b"\n").steps()
    assert isinstance(step.action, WriteFile)
    after = step.action.state.content
    assert [after[n : n + 1] for n in range(0, len(after), inetd.READ_AT_ONCE)] == [b"#", b"#"]


def test_a_finding_says_what_the_line_does() -> None:
    (finding,) = world(b"\n127.0.0.1:ident\tstream tcp nowait nobody /usr/sbin/i\x1b\xe9 i\n").findings()
    assert (str(finding.ref), finding.service, finding.rule) == (
        "inetd:inetd.conf/ident/tcp",
        "ident",
        "unapproved",
    )
    assert finding.detail == ("active line 2 of /etc/inetd.conf: ident/tcp on 127.0.0.1, runs /usr/sbin/i\\x1b\\xe9")
    (finding,) = world(b"time stream tcp nowait root internal\n").findings()
    assert finding.detail == "active line 1 of /etc/inetd.conf: time/tcp, served by inetd itself"


def test_equal_lines_have_refs_of_their_own() -> None:
    assert world(X + X).refs() == ["inetd:inetd.conf/ident/tcp", "inetd:inetd.conf/ident/tcp#2"]


def test_a_table_that_is_missing_is_not_judged() -> None:
    desired = DesiredState()
    sight = inetd.observe(inetd.CONFIG, FakeEyes({"/etc/inetd.conf": FileState(X)}))
    context = Context(desired, Snapshot(Host(), {inetd.CONFIG: sight}), Catalogue(CatalogueData()))
    assert list(inetd.places(desired, Host())) == []
    assert list(inetd.judge(inetd.CONFIG, sight, context)) == []


# --- places -------------------------------------------------------------------------------------------------


def test_nothing_there_is_no_finding_and_no_gap() -> None:
    nothing = World({})
    assert nothing.findings() == []
    assert [sight for sight in nothing.context().snapshot.sights.values() if sight != Sight()] == []


def test_a_link_is_replaced_by_a_file_and_what_it_leads_to_is_left_alone() -> None:
    linked = World({"/etc/inetd.conf": LinkState("/srv/inetd.conf"), "/srv/inetd.conf": FileState(X, 0o600, 7, 8)})
    (step,) = linked.steps()
    assert step.action == WriteFile("/etc/inetd.conf", FileState(b"#" + X, 0o600, 7, 8), LinkState("/srv/inetd.conf"))
    assert World({"/etc/inetd.conf": LinkState("/nowhere")}).findings() == []


def test_a_fifo_is_unobservable() -> None:
    with pytest.raises(Unobservable, match=r"/etc/inetd\.conf is a fifo, not a file"):
        inetd.observe(inetd.CONFIG, FakeEyes({"/etc/inetd.conf": OddState("fifo")}))


def test_the_folder_is_judged_whatever_reads_it_and_whatever_its_names() -> None:
    tree: dict[str, EntryState | Exception] = {
        "/etc/inetd.d/.ident.swp": FileState(X),
        "/etc/inetd.d/ident": LinkState("/srv/x"),
        "/etc/inetd.d/old": OddState("directory"),
        "/etc/inetd.d/secret": Unobservable("/etc/inetd.d/secret: Permission denied"),
        "/srv/x": FileState(X),
    }
    folder = World(tree)
    assert folder.refs() == ["inetd:inetd.d/.ident.swp/ident/tcp", "inetd:inetd.d/ident/ident/tcp"]
    gaps = folder.context().snapshot.sights[inetd.FOLDER].gaps
    assert [(str(gap.ref), gap.why) for gap in gaps] == [
        ("inetd:inetd.d/secret", "/etc/inetd.d/secret: Permission denied")
    ]
    assert [step.action.path for step in folder.steps() if isinstance(step.action, WriteFile)] == [
        "/etc/inetd.d/.ident.swp",
        "/etc/inetd.d/ident",
    ]


@pytest.mark.parametrize(
    ("tree", "refs"),
    [
        ({"/etc/xinetd.conf": FileState(b"")}, ["inetd:xinetd.conf"]),
        ({"/etc/xinetd.d/ident": FileState(b"")}, ["inetd:xinetd.d"]),
        ({"/etc/xinetd.d": OddState("directory")}, []),
    ],
)
def test_xinetd_is_a_gap(tree: dict[str, EntryState | Exception], refs: list[str]) -> None:
    sights = World(tree).context().snapshot.sights.values()
    assert [str(gap.ref) for sight in sights for gap in sight.gaps] == refs


# --- who is told --------------------------------------------------------------------------------------------

SERVER = FileState(b"\x7fELF", 0o755)
LIVE = Host(live=True)
TWO = X + b"ssh stream tcp nowait root /x\n"


def told(world: World) -> list[object]:
    return [step.action for step in world.steps() if not isinstance(step.action, WriteFile)]


def test_nobody_is_told_in_an_image() -> None:
    assert told(World({"/etc/inetd.conf": FileState(X), OPENBSD: SERVER}, scripts=("openbsd-inetd",))) == []


def test_the_servers_that_are_installed_get_a_hup_while_a_line_is_left() -> None:
    left = World({"/etc/inetd.conf": FileState(TWO), OPENBSD: SERVER}, ("ssh/tcp",), LIVE)
    assert told(left) == [Signal("openbsd-inetd", "HUP", OPENBSD)]
    left.tree[GNU] = Unobservable("too large")
    assert told(left) == [Signal("openbsd-inetd", "HUP", OPENBSD), Signal("inetutils-inetd", "HUP", GNU)]
    assert told(World({"/etc/inetd.conf": FileState(TWO)}, ("ssh/tcp",), LIVE)) == []


@pytest.mark.parametrize("script", ["openbsd-inetd", "inetd"])
def test_a_server_with_nothing_left_is_stopped_by_the_name_of_its_script(script: str) -> None:
    idle = World({"/etc/inetd.conf": FileState(X), OPENBSD: SERVER}, (), LIVE, scripts=(script,))
    assert told(idle) == [StopService(script, script)]


def test_under_systemd_its_unit_is_stopped() -> None:
    host = Host(live=True, init="systemd")
    idle = World({"/etc/inetd.conf": FileState(X), GNU: SERVER}, (), host, scripts=("inetutils-inetd",))
    assert told(idle) == [StopService("inetutils-inetd", units=("inetutils-inetd.service",))]


@pytest.mark.parametrize(
    "changes",
    [
        {"services": Services(approved=("inetd",))},
        {"services": Services(stop=False)},
        {"scripts": ()},
        {"tree": {"/etc/inetd.d/a": FileState(b"ssh stream tcp nowait root /x")}},
        {"tree": {"/etc/inetd.d/a": Unobservable("Input/output error")}},
    ],
    ids=["approved", "no stop wanted", "no way to stop it", "a line elsewhere", "a gap elsewhere"],
)
def test_a_server_is_not_stopped_but_told(changes: dict[str, object]) -> None:
    idle = World({"/etc/inetd.conf": FileState(X), OPENBSD: SERVER}, ("ssh/tcp",), LIVE, scripts=("openbsd-inetd",))
    extra = changes.pop("tree", {})
    assert isinstance(extra, dict)
    idle.tree.update(extra)
    for name, value in changes.items():
        setattr(idle, name, value)
    assert told(idle) == [Signal("openbsd-inetd", "HUP", OPENBSD)]


# --- Debian's own tools -------------------------------------------------------------------------------------

UPDATE_INETD = debian_tools.find("update-inetd", "update-inetd")
ADD = r"ident\t\tstream\ttcp\tnowait\tnobody\t/usr/sbin/nullidentd\tnullidentd"


def update_inetd(file: Path, *arguments: str) -> bytes:
    assert UPDATE_INETD
    fake = {"UPDATE_INETD_FAKE_IT": "1", "UPDATE_INETD_NOXINETD": "1", "DEBIAN_FRONTEND": "noninteractive"}
    UPDATE_INETD("--file", str(file), *arguments, **fake)
    return file.read_bytes()


@pytest.mark.skipif(not UPDATE_INETD, reason="update-inetd is neither installed nor in the pool of the harness")
@pytest.mark.parametrize("name", [name for name in FILES if name != "bookworm-fresh.conf"])
@pytest.mark.parametrize("again", [("--add", ADD), ("--enable", "ident"), ("--disable", "ident")])
def test_update_inetd_leaves_a_corrected_file(tmp_path: Path, name: str, again: tuple[str, ...]) -> None:
    content = (DATA / name).read_bytes().replace(b"*:ident,113 ", b"ident ")
    corrected = world(content)
    corrected.apply()
    state = corrected.tree["/etc/inetd.conf"]
    assert isinstance(state, FileState)
    file = tmp_path / "inetd.conf"
    file.write_bytes(state.content)
    after = update_inetd(file, *again)
    assert after.rstrip(b"\n") == state.content.rstrip(b"\n")


@pytest.mark.skipif(not UPDATE_INETD, reason="update-inetd is neither installed nor in the pool of the harness")
def test_update_inetd_brings_back_what_is_deleted_or_off(tmp_path: Path) -> None:
    """The reason for the single ``#``; should Debian ever change it, this says so."""
    file = tmp_path / "inetd.conf"
    for content in (b"", b"#<off># " + X):
        file.write_bytes(content)
        assert identities(update_inetd(file, "--add", ADD)) == ["ident/tcp"]

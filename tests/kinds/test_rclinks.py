"""Start links: what a name and a target say, what a header says, and what takes a link's place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import DesiredState, Services
from reconciler.errors import Unobservable
from reconciler.host import Stamp, Text
from reconciler.host.eyes import RealEyes
from reconciler.host.files import Root
from reconciler.kinds import rclinks
from reconciler.model import (
    FileState,
    Gap,
    Host,
    LinkState,
    OddState,
    Place,
    Plan,
    Ref,
    ReloadManager,
    Sight,
    StopService,
    Unlink,
)
from reconciler.observer import Observer
from reconciler.services import parse_catalogue
from tests.fakes import SYSTEMD, MemoryEyes, Thing, link, script
from tests.kinds.eyes import FakeEyes
from tests.trees import CHECKOUT

DATA = parse_catalogue((CHECKOUT / "reconciler/catalogue.toml").read_text())
IMAGE = Host()


def planned(tree: Mapping[str, Thing], *approved: str, host: Host = IMAGE, stop: bool = True) -> Plan:
    observer = Observer(MemoryEyes(tree, host), DATA, DesiredState(services=Services(approved, stop=stop)), (rclinks,))
    observer.look()
    return observer.plan()


def unlinks(plan: Plan) -> dict[str, str]:
    """Each link that goes -> what is left in its place."""
    return {step.action.path: step.action.leave for step in plan.steps if isinstance(step.action, Unlink)}


def test_an_empty_folder_that_can_be_looked_at_again_is_no_gap() -> None:
    place = Place(rclinks.NAME, rclinks.SCRIPTS)
    before = Sight(gaps=(Gap(rclinks.NAME, Ref(rclinks.NAME, "init.d"), "Input/output error"),))
    assert rclinks.observe_after(place, FakeEyes({rclinks.SCRIPTS: OddState("directory")}), before).gaps == ()


class Stamped(MemoryEyes):
    """Memory in which each script bears a stamp, as on a real host: its bytes."""

    def texts(
        self, folder: str, names: Iterable[str], known: Mapping[str, Stamp]
    ) -> Iterator[tuple[str, Text | Unobservable | None]]:
        for name, text in super().texts(folder, names, known):
            stamp = tuple(text.content) if isinstance(text, Text) else ()
            if not stamp or known.get(name) != stamp:
                yield name, Text(text.content, stamp) if isinstance(text, Text) else text


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "p", "q"]), min_size=1), min_size=2))
def test_what_is_as_known_is_what_looking_anew_sees(trees: list[dict[str, str]]) -> None:
    place, before = Place(rclinks.NAME, rclinks.SCRIPTS), Sight()
    for provides in trees:
        eyes = Stamped({path: it for name, more in provides.items() for path, it in script(name, more).items()}, IMAGE)
        sight = rclinks.observe_after(place, eyes, before)
        assert sight == rclinks.observe(place, eyes)
        assert rclinks.observe_after(place, eyes, sight) is sight
        before = sight


@pytest.mark.parametrize("level", "12345S")
def test_start_folders_are_judged(level: str) -> None:
    assert list(unlinks(planned(link(f"rc{level}.d/S20x")))) == [f"/etc/rc{level}.d/S20x"]


@pytest.mark.parametrize("level", "06789s")
def test_other_folders_are_not(level: str) -> None:
    assert planned(link(f"rc{level}.d/S20x")).converged


@pytest.mark.parametrize("name", ["K20x", "s20x", "XS20x", ".S20x", "README"])
def test_names_that_start_nothing(name: str) -> None:
    assert planned(link(f"rc2.d/{name}", "../init.d/x")).converged


@pytest.mark.parametrize("name", ["S2x", "S20", "S2ax", "S\u0662\u0660x"])
def test_names_without_a_number_start_something_under_sysvinit_alone(name: str) -> None:
    assert unlinks(planned(link(f"rc2.d/{name}", "../init.d/x"))) == {f"/etc/rc2.d/{name}": ""}
    assert planned(link(f"rc2.d/{name}", "../init.d/x"), host=Host(init="systemd")).converged


@pytest.mark.parametrize("name", ["S20x", "S00x", "S99x", "S20 ", "S20\n", "S20x.dpkg-new", "S20x~", "S200"])
def test_names_that_start_something(name: str) -> None:
    assert len(planned(link(f"rc2.d/{name}")).steps) == 1


@pytest.mark.parametrize(
    ("target", "service"),
    [
        ("../init.d/ssh", ""),
        ("/etc/init.d/ssh", ""),
        ("../init.d/telnetd", "telnetd"),
        ("../init.d//ssh", "../init.d//ssh"),
        ("../init.d/../init.d/ssh", "../init.d/../init.d/ssh"),
        ("../init.d/", ""),  # the folder itself: that starts nothing
        ("../init.d/sub/ssh", "../init.d/sub/ssh"),
        ("/opt/ssh", "/opt/ssh"),
        ("ssh", ""),  # a link to a neighbour of that name, which is judged for itself
        ("/etc/init.d/sshd", ""),  # another name of the same service
    ],
)
def test_what_a_link_runs(target: str, service: str) -> None:
    findings = planned(link("rc2.d/S20ssh", target), "ssh").findings
    assert [finding.service for finding in findings] == ([service] if service else [])


@pytest.mark.parametrize("name", ["ssh.socket", "ssh.service", "ssh@x.service"])
def test_a_script_that_is_called_like_a_unit_is_none(name: str) -> None:
    """``approved = ["ssh"]`` approves the units of ssh, not any script whose name ends like theirs."""
    assert [f.service for f in planned(link(f"rc2.d/S20{name}"), "ssh").findings] == [name]
    assert planned(link(f"rc2.d/S20{name}"), name).converged


@pytest.mark.parametrize(
    ("others", "insserv", "leave"),
    [
        ((), True, "K01exim4"),
        ((), False, "K20exim4"),
        (("rc0.d/K05exim4",), True, "K05exim4"),
        (("rc0.d/K05exim4",), False, "K20exim4"),
        (("rcS.d/K05exim4",), True, "K01exim4"),
        (("rc0.d/K05exim",), True, "K01exim4"),
        (("rc2.d/K05exim4",), True, ""),
        (("rc3.d/K05exim4",), True, "K05exim4"),
    ],
)
def test_what_takes_its_place(others: tuple[str, ...], insserv: bool, leave: str) -> None:
    tree: dict[str, Thing] = dict(link("rc2.d/S20exim4"))
    for other in others:
        tree |= link(other)
    assert unlinks(planned(tree, host=Host(insserv=insserv))) == {"/etc/rc2.d/S20exim4": leave}


def test_a_file_and_a_strangers_link_leave_nothing() -> None:
    tree = {"/etc/rc2.d/S20x": FileState(b"")} | link("rc2.d/S20y", "/opt/y")
    assert unlinks(planned(tree)) == {"/etc/rc2.d/S20x": "", "/etc/rc2.d/S20y": ""}


def test_a_live_host_stops_each_service_once() -> None:
    tree = script("lpd") | link("rc2.d/S20lpd") | link("rc3.d/S20lpd")
    stops = [step for step in planned(tree, host=Host(live=True)).steps if isinstance(step.action, StopService)]
    assert [step.action for step in stops] == [StopService("lpd", "lpd")]
    assert len(stops[0].findings) == 2
    assert not [s for s in planned(tree, host=Host(live=True), stop=False).steps if not isinstance(s.action, Unlink)]
    assert not [s for s in planned(tree).steps if not isinstance(s.action, Unlink)]


def test_systemd_reloads_once_after_the_links_and_before_the_stops() -> None:
    tree = SYSTEMD | script("lpd") | link("rc2.d/S20lpd") | script("atd") | link("rc2.d/S20atd")
    kinds = [type(step.action) for step in planned(tree, host=Host(live=True, init="systemd")).steps]
    assert kinds == [Unlink, Unlink, ReloadManager, StopService, StopService]


def test_nothing_is_looked_at_where_services_are_not_declared() -> None:
    assert list(rclinks.places(DesiredState(), IMAGE)) == []


@pytest.mark.parametrize(
    ("folder", "name", "matters"),
    [
        ("/etc/rc2.d", "S20x", True),
        ("/etc/rc2.d", "K20x", False),
        ("/etc/rc0.d", "S20x", False),
        ("/etc/rc6.d", "K20x", False),
        ("/etc/init.d", "x", True),
    ],
)
def test_which_new_name_is_worth_a_look(folder: str, name: str, matters: bool) -> None:
    assert rclinks.concerns(Place("rclinks", folder), name) is matters


HEADER = "### BEGIN INIT INFO\n{}\n### END INIT INFO\n"


@pytest.mark.parametrize(
    ("text", "provides", "needs"),
    [
        (HEADER.format("# Provides: a b\n# Required-Start: $remote_fs $portmap c"), ("a", "b"), ("portmap", "c")),
        (HEADER.format("# Provides:\ta\n# Required-Start:\t$syslog\n#\t\td e"), ("a",), ("d", "e")),
        (HEADER.format("# Provides: a\n# Required-Start: b\n#   c\n# Default-Start: 2"), ("a",), ("b", "c")),
        (HEADER.format("# Provides: $a"), ("a",), ()),
        (HEADER.format("# Provides:"), (), ()),
        ("# Provides: a\n", (), ()),  # outside of a header it is a remark
        (HEADER.format("# provides: a"), (), ()),
        ("### BEGIN INIT INFO\n# Provides: a\n", (), ()),
        (HEADER.format("# Provides: a\udcff"), (), ()),
        ("", (), ()),
    ],
)
def test_header(text: str, provides: tuple[str, ...], needs: tuple[str, ...]) -> None:
    parsed = rclinks.parse_script("x", text)
    assert (parsed.provides, parsed.needs) == (provides, needs)


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("DAEMON=/usr/sbin/exim4", ("/usr/sbin/exim4",)),
        ("DAEMON=/sbin/portmap", ("/usr/sbin/portmap",)),
        ('STATD_PROG="/sbin/rpc.statd"', ("/usr/sbin/rpc.statd",)),
        ("  start-stop-daemon --start --exec /usr/bin/x -- -d", ("/usr/bin/x",)),
        ("  start-stop-daemon --exec=/usr/bin/x", ("/usr/bin/x",)),
        ("# DAEMON=/usr/sbin/x", ()),
        ("PATH=/usr/bin:/bin", ()),
        ("echo /usr/sbin/x", ()),
    ],
)
def test_what_a_script_runs(line: str, runs: tuple[str, ...]) -> None:
    assert rclinks.parse_script("x", f"#!/bin/sh\n{line}\n").runs == runs


@pytest.mark.parametrize("name", ["README", "skeleton", "rc", "rcS", ".depend", "x~", "x.dpkg-new", "x.bak", "x.swp"])
def test_files_in_init_d_that_are_no_scripts(name: str) -> None:
    sight = rclinks.observe(Place("rclinks", "/etc/init.d"), MemoryEyes(script(name)))
    assert sight.resources == ()


def test_gaps_are_said_one_by_one_and_the_rest_is_corrected() -> None:
    tree: dict[str, Thing] = link("rc2.d/S20x") | link("rc2.d/S20y") | link("rc3.d/S20z")
    tree |= {"/etc/rc2.d/S20x": OddState("fifo"), "/etc/rc3.d": Unobservable("/etc/rc3.d: Input/output error")}
    plan = planned(tree)
    assert {str(gap.ref): gap.why for gap in plan.gaps} == {
        "rclinks:rc2.d/S20x": "a fifo where a start link belongs",
        "rclinks:rc3.d": "/etc/rc3.d: Input/output error",
    }
    assert list(unlinks(plan)) == ["/etc/rc2.d/S20y"]


# --- looking again ----------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["S20a", "S20b", "K01a", "S20c", "Sodd", "README"])
_STATES = st.sampled_from([None, LinkState("../init.d/a"), LinkState("../init.d/b"), FileState(b""), OddState("fifo")])
_FOLDERS = st.dictionaries(_NAMES, _STATES)


@given(_FOLDERS, _FOLDERS)
def test_looking_again_at_what_changed_sees_what_looking_at_everything_sees(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    """The watch tells the name of each thing that appeared; of one that went it tells nothing.

    What it tells is seen, and whether the scripts in question have a K link; the rest is as it was.
    """
    place = Place(rclinks.NAME, "/etc/rc2.d")
    was, now_ = _folder(before), _folder(after)
    told = {name for name in after if after[name] and after[name] != before.get(name)}
    seen, everything = (
        rclinks.observe_again(place, now_, rclinks.observe(place, was), told),
        rclinks.observe(place, now_),
    )
    assert isinstance(seen, rclinks.Links)
    assert isinstance(everything, rclinks.Links)
    assert seen.resources == tuple(seen.named.values())
    assert {*(seen.fresh or ())} >= {everything.named[name] for name in told & everything.named.keys()}
    for name in told:
        assert seen.named.get(name) == everything.named.get(name)
        assert seen.stops.get(name[3:]) == everything.stops.get(name[3:])
        assert [gap for gap in seen.gaps if gap.ref.name == f"rc2.d/{name}"] == [
            gap for gap in everything.gaps if gap.ref.name == f"rc2.d/{name}"
        ]


@given(st.lists(_FOLDERS, min_size=2, max_size=4))
def test_looking_at_a_real_folder_again_sees_what_a_first_look_sees(folders: list[dict[str, Any]]) -> None:
    """Of what is as it was nothing is made anew; whatever differs in it shows."""
    place, before = Place(rclinks.NAME, "/etc/rc2.d"), Sight()
    for names in folders:
        with tempfile.TemporaryDirectory() as top:
            _write(Path(top, "etc/rc2.d"), names)
            eyes = RealEyes(Root(top))
            sight, anew = rclinks.observe_after(place, eyes, before), rclinks.observe(place, eyes)
            assert isinstance(sight, rclinks.Links)
            assert isinstance(anew, rclinks.Links)
            assert (sight, sight.named, sight.stops, sight.entries) == (anew, anew.named, anew.stops, anew.entries)
            odd = any(not isinstance(state, LinkState) and name != "README" for name, state in names.items() if state)
            assert odd or rclinks.observe_after(place, eyes, sight) is sight
            before = sight


def _write(folder: Path, names: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    for name, state in names.items():
        match state:
            case LinkState(target):
                (folder / name).symlink_to(target)
            case FileState():
                (folder / name).touch()
            case OddState():
                os.mkfifo(folder / name)


def _instead(path: Path) -> Path:
    """The path, with nothing there any more."""
    with suppress(FileNotFoundError):
        path.rmdir() if path.is_dir() else path.unlink()
    return path


_SCRIPTS = {
    "a file that is none": lambda folder: (folder / "README").write_text("of no interest\n"),
    "another script": lambda folder: (folder / "b").write_text("#!/bin/sh\n"),
    "none any more": lambda folder: (folder / "a").unlink(),
    "one that is a link": lambda folder: _instead(folder / "a").symlink_to("c"),
    "one that is a folder": lambda folder: _instead(folder / "a").mkdir(),
    "a folder that is one": lambda folder: _instead(folder / "d").write_text("#!/bin/sh\n"),
    "another text": lambda folder: (folder / "a").write_text("#!/bin/sh\n### BEGIN INIT INFO\n### END INIT INFO\n"),
}


@pytest.mark.parametrize("change", _SCRIPTS.values(), ids=_SCRIPTS)
@pytest.mark.parametrize("with_a_folder", [False, True])
def test_a_change_of_the_scripts_shows(tmp_path: Path, change: Callable[[Path], object], with_a_folder: bool) -> None:
    folder = tmp_path / "etc/init.d"
    folder.mkdir(parents=True)
    for name in "ac":
        (folder / name).write_text("#!/bin/sh\n")
        os.utime(folder / name, (1, 1))
    if with_a_folder:
        (folder / "d").mkdir()
    place, eyes = Place(rclinks.NAME, rclinks.SCRIPTS), RealEyes(Root(str(tmp_path)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reconciler.host.files.UNSETTLED", -60.0)  # else no stamp is worth anything yet
        before = rclinks.observe(place, eyes)
        assert isinstance(before, rclinks.Scripts)
        assert (before.same is None) is with_a_folder
        assert rclinks.observe_after(place, eyes, before) is before
        change(folder)
        after, anew = rclinks.observe_after(place, eyes, before), rclinks.observe(place, eyes)
    assert isinstance(after, rclinks.Scripts)
    assert isinstance(anew, rclinks.Scripts)
    assert (after, after.known, after.names, after.entries) == (anew, anew.known, anew.names, anew.entries)


def _folder(names: dict[str, Any]) -> MemoryEyes:
    there = {f"/etc/rc2.d/{name}": state for name, state in names.items() if state is not None}
    return MemoryEyes({"/etc/rc2.d/.keep": FileState(b""), **there})


def test_a_plan_with_a_focus_is_for_what_was_looked_at_anew() -> None:
    """What is next to it was planned for when it came, and is by each pass over everything."""
    place = Place(rclinks.NAME, "/etc/rc2.d")
    eyes = MemoryEyes(link("rc2.d/S20a"))
    observer = Observer(eyes, DATA, DesiredState(services=Services()), (rclinks,))
    observer.look()
    eyes.tree = {**eyes.tree, **link("rc2.d/S20b")}
    observer.look([place], {place: {"S20b"}})
    assert [str(finding.ref) for finding in observer.plan(focus=[place]).findings] == ["rclinks:rc2.d/S20b"]
    assert len(observer.plan().findings) == 2

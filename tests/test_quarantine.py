"""The quarantine: what was there comes back exactly, is durable first, and is forgotten in order."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import Limits
from reconciler.errors import JournalError, ReconcilerError
from reconciler.host.files import Root
from reconciler.model import (
    Action,
    DisableUnit,
    EnableUnit,
    EntryState,
    FileState,
    Link,
    LinkState,
    MaskUnit,
    OddState,
    ReloadManager,
    Signal,
    StartService,
    StopService,
    Unlink,
    UnmaskUnit,
    WriteFile,
)
from reconciler.quarantine import Before, Quarantine
from reconciler.storage import kept as kept_module
from reconciler.storage import store
from reconciler.storage.kept import Kept, inverse
from reconciler.values import replace
from tests.calls import noting

LINK = LinkState("../init.d/exim4", 0, 0, 1_700_000_000_123_456_789)
FILE = FileState(b"auto lo\n\xff", 0o640, 1, 2, 1_700_000_000_000_000_001)
OLD = FileState(b"iface eth0 inet dhcp\n")
UNLINK = Unlink("/etc/rc2.d/S20exim4", LINK.target, "K01exim4")
WRITE = WriteFile("/etc/network/interfaces", FILE, OLD)

# --- every value there is ----------------------------------------


texts = st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
st.register_type_strategy(str, texts)


def whole(kind: type[Action | EntryState]) -> st.SearchStrategy[Any]:
    """Every field drawn, those with a default too: a field that the model gains is tried without a word here."""
    return st.builds(kind, **dict.fromkeys(kind.__match_args__, ...))


states = st.none() | st.lists(whole(LinkState)).map(tuple) | whole(LinkState) | whole(FileState) | whole(OddState)
actions = st.one_of(*map(whole, get_args(Action)))
everything = st.builds(Kept, texts, actions, states)


@given(everything)
def test_a_line_gives_back_what_it_was_made_of(kept: Kept) -> None:
    blobs: list[bytes] = []

    def put(content: bytes) -> str:
        blobs.append(content)
        return str(len(blobs) - 1)

    line = kept_module.encode(kept, put)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert kept_module.id_of(line) == kept.id
    assert kept_module.decode(line, lambda name: blobs[int(name)]) == kept


@given(everything, st.data())
def test_a_torn_line_is_no_line(kept: Kept, data: st.DataObject) -> None:
    line = kept_module.encode(kept, lambda _content: "1")
    assert kept_module.id_of(line[: data.draw(st.integers(0, len(line) - 1))]) is None


@given(
    st.recursive(st.none() | st.integers() | st.text(), lambda each: st.lists(each) | st.dictionaries(st.text(), each))
)
def test_a_line_of_anything_else_is_refused(found: object) -> None:
    import json

    with pytest.raises(ValueError, match=r"."):
        kept_module.decode(
            json.dumps({"id": "p.1", "action": found, "state": None}).encode() + b"\n", lambda _name: b""
        )


def test_every_action_can_be_kept() -> None:
    """One that is added to the model and forgotten here would be lost when it is done."""
    assert set(kept_module._ACTIONS) == set(get_args(Action))


def test_a_field_that_an_older_version_did_not_write_has_its_default() -> None:
    line = b'{"id":"p.1","action":{"is":"Unlink","path":"/a"},"state":{"is":"LinkState","target":"b"}}\n'
    assert kept_module.decode(line, lambda _name: b"") == Kept("p.1", Unlink("/a"), LinkState("b"))


# --- the way back ----------------------------------------

STOP = StopService("exim4", "exim4", ("exim4.service",))
START = StartService("exim4", "exim4", ("exim4.service",))


@pytest.mark.parametrize(
    ("action", "state", "back"),
    [
        (UNLINK, LINK, (Link(UNLINK.path, LINK, "K01exim4"),)),
        (Unlink("/etc/x"), FILE, (WriteFile("/etc/x", FILE, None),)),
        (Unlink("/etc/x"), None, ()),
        (Link("/etc/x", LINK, "K01x"), None, (Unlink("/etc/x", LINK.target, "K01x"),)),
        (WRITE, OLD, (WriteFile(WRITE.path, OLD, FILE),)),
        (WriteFile("/etc/x", FILE, None), None, (Unlink("/etc/x"),)),
        (WriteFile("/etc/x", FILE, LINK), LINK, (Unlink("/etc/x"), Link("/etc/x", LINK))),
        (WriteFile("/etc/x", FILE, None), OddState("fifo"), ()),
        (DisableUnit("a", ("a.service",)), None, (EnableUnit("a", ("a.service",)),)),
        (EnableUnit("a", ("a.service",)), None, (DisableUnit("a", ("a.service",)),)),
        (DisableUnit("a", ("a.service",), (("/p", "t"),)), None, (EnableUnit("a", ("a.service",), (("/p", "t"),)),)),
        (
            DisableUnit("a", ("a.service",), (("/p", LINK.target),)),
            (LINK,),
            (EnableUnit("a", ("a.service",), (("/p", LINK.target),), (LINK,)),),
        ),
        (MaskUnit("a", ("a.service",)), None, (UnmaskUnit("a", ("a.service",)),)),
        (UnmaskUnit("a", ("a.service",)), None, (MaskUnit("a", ("a.service",)),)),
        (STOP, None, ()),
        (START, None, (STOP,)),
        (ReloadManager(), None, ()),
        (Signal("inetd", "HUP"), None, ()),
    ],
)
def test_inverse(action: Action, state: Before, back: tuple[Action, ...]) -> None:
    assert inverse(Kept("p.1", action, state)) == back


def test_a_stopped_service_is_started_only_when_asked() -> None:
    assert inverse(Kept("p.1", STOP, None), start=True) == (START,)


def test_done_and_undone_on_a_real_tree_is_as_it_was(tmp_path: Path) -> None:
    """Through the real effects: unlink, replace a file, replace a link; then the way back, last first."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "S20exim4").symlink_to("../init.d/exim4")
    (folder / "interfaces").write_bytes(b"dhcp\n")
    (folder / "linked").symlink_to("interfaces")
    (folder / "odd\udcff").write_bytes(b"odd\n")
    root = Root(str(tmp_path))
    paths = ["/etc/S20exim4", "/etc/interfaces", "/etc/linked", "/etc/odd\udcff", "/etc/new"]
    before = {path: root.entry(path) for path in paths}
    done: list[Action] = [
        Unlink(paths[0], "../init.d/exim4", "K01exim4"),
        WriteFile(paths[1], FileState(b"static\n"), before[paths[1]]),
        WriteFile(paths[2], FileState(b"static\n"), before[paths[2]]),
        Unlink(paths[3]),
        WriteFile(paths[4], FileState(b"new\n"), None),
    ]
    quarantine = Quarantine(root)
    quarantine.keep("p", [(f"p.{n}", a, before[p]) for n, (a, p) in enumerate(zip(done, paths, strict=True))])
    effects: dict[type, Callable[..., None]] = {Unlink: root.unlink, WriteFile: root.write, Link: root.link}
    for action in done:
        effects[type(action)](action)
    assert {path: root.entry(path) for path in paths} != before
    for kept in reversed(quarantine.of_pass("p")):
        for action in inverse(kept):
            effects[type(action)](action)
    assert {path: root.entry(path) for path in paths} == before
    assert not (folder / "K01exim4").is_symlink()


# --- on disk ----------------------------------------


class Place:
    def __init__(self, path: Path) -> None:
        self.root = Root(str(path))
        self.home = path / store.HOME[1:] / "quarantine"
        self.quarantine = Quarantine(self.root)

    def age(self, pass_id: str, moment: float) -> None:
        os.utime(self.home / pass_id / "manifest.jsonl", (moment, moment))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_what_is_kept_is_found_by_its_id(place: Place) -> None:
    place.quarantine.keep("p1", [("p1.1", UNLINK, LINK), ("p1.2", WRITE, OLD)])
    place.quarantine.keep("p1", [("p1.3", MaskUnit("a", ("a.service",)), None)])
    again = Quarantine(place.root)
    assert again.find("p1.2") == Kept("p1.2", WRITE, OLD)
    assert [each.id for each in again.of_pass("p1")] == ["p1.1", "p1.2", "p1.3"]
    assert again.of_pass("p1")[0] == Kept("p1.1", UNLINK, LINK)


def test_the_same_content_is_kept_once_as_the_file_itself(place: Place) -> None:
    place.quarantine.keep("p1", [("p1.1", WRITE, replace(OLD, mtime_ns=7)), ("p1.2", WRITE, OLD)])
    place.quarantine.keep("p1", [("p1.3", WRITE, OLD)])
    blobs = sorted(p for p in (place.home / "p1").iterdir() if p.name != "manifest.jsonl")
    assert [p.name for p in blobs] == ["1", "2", "3", "4"]
    assert {p.read_bytes() for p in blobs[:2]} == {p.read_bytes() for p in blobs[2:]} == {FILE.content, OLD.content}
    assert place.quarantine.find("p1.3") == Kept("p1.3", WRITE, OLD)


def test_only_root_may_look_into_it(place: Place) -> None:
    place.quarantine.keep("p1", [("p1.1", WRITE, OLD)])
    assert {p.stat().st_mode & 0o777 for p in (place.home, place.home / "p1")} == {0o700}
    assert {p.stat().st_mode & 0o777 for p in (place.home / "p1").iterdir()} == {0o600}


def test_a_batch_of_links_is_one_write(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("write", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, noting(calls, name, real))
    place.quarantine.keep("p1", [(f"p1.{n}", UNLINK, LINK) for n in range(10_000)])
    assert calls == ["write", "fdatasync"]


@pytest.mark.parametrize("wanted", ["p1.9", "p9.1", "p1", "", ".1", "../p1.1", "p1/../p1.1"])
def test_what_is_not_kept_is_an_error_that_says_so(place: Place, wanted: str) -> None:
    place.quarantine.keep("p1", [("p1.1", UNLINK, LINK)])
    with pytest.raises(ReconcilerError, match="nothing is kept of action"):
        place.quarantine.find(wanted)
    with pytest.raises(ReconcilerError, match="nothing is kept of pass"):
        place.quarantine.of_pass("p9")


def test_the_same_trouble_has_the_same_words_in_each_pass(tmp_path: Path) -> None:
    """Words with the pass in them would be a new line in the system's log at each try."""
    (tmp_path / store.HOME.strip("/")).mkdir(parents=True)
    (tmp_path / store.HOME.strip("/") / "quarantine").touch()
    quarantine, said = Quarantine(Root(str(tmp_path))), set[str]()
    for pass_id in ("p1", "p2"):
        with pytest.raises(JournalError) as caught:
            quarantine.keep(pass_id, [(f"{pass_id}.1", UNLINK, LINK)])
        said.add(str(caught.value))
    assert len(said) == 1


@pytest.mark.parametrize(("pass_id", "action_id"), [("", ".1"), ("../x", "../x.1"), (".x", ".x.1"), ("p", "q.1")])
def test_an_id_that_would_not_be_found_again_is_refused(place: Place, pass_id: str, action_id: str) -> None:
    with pytest.raises(JournalError):
        place.quarantine.keep(pass_id, [(action_id, UNLINK, LINK)])
    assert not place.home.exists()


def test_nothing_to_keep_leaves_nothing(place: Place) -> None:
    place.quarantine.keep("p1", [])
    assert not place.home.exists()


def test_a_torn_line_hides_no_other(place: Place) -> None:
    place.quarantine.keep("p1", [("p1.1", UNLINK, LINK)])
    with (place.home / "p1/manifest.jsonl").open("ab") as file:
        file.write(b'{"id":"p1.2","act')
    place.quarantine.keep("p1", [("p1.3", UNLINK, LINK)])
    assert [each.id for each in place.quarantine.of_pass("p1")] == ["p1.1", "p1.3"]


def test_a_missing_blob_is_named(place: Place) -> None:
    place.quarantine.keep("p1", [("p1.1", WRITE, OLD)])
    (place.home / "p1/2").unlink()
    with pytest.raises(ReconcilerError, match="p1/2 is missing"):
        place.quarantine.find("p1.1")


@pytest.mark.parametrize("call", ["write", "open"])
def test_a_disk_that_is_full_for_long_is_not_filled_with_empty_passes(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    real = getattr(os, call)

    def fail(*arguments: Any, **more: Any) -> Any:
        if call == "write" or arguments[1] & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for number in range(5):
            with pytest.raises(JournalError, match="No space left"):
                place.quarantine.keep(f"p{number}", [(f"p{number}.1", UNLINK, LINK)])
    assert list(place.home.iterdir()) == []


@pytest.mark.parametrize("nth", range(24))  # 23 are made
def test_a_close_that_fails_leaves_no_line_without_its_content(
    place: Place, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    real, left = os.close, [nth]

    def close(fd: int) -> None:
        real(fd)
        left[0] -= 1
        if left[0] == -1:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        with suppress(JournalError):
            place.quarantine.keep("p1", [("p1.1", WRITE, OLD)])
    if (place.home / "p1/manifest.jsonl").exists():
        assert place.quarantine.of_pass("p1") == (Kept("p1.1", WRITE, OLD),)
    place.quarantine.keep("p1", [("p1.2", WRITE, OLD)])
    assert place.quarantine.find("p1.2") == Kept("p1.2", WRITE, OLD)


@pytest.mark.parametrize(("call", "number"), [("write", errno.ENOSPC), ("fdatasync", errno.EIO), ("fsync", errno.EIO)])
@pytest.mark.parametrize("nth", range(3))
def test_what_cannot_be_kept_is_given_back_and_leaves_no_line_without_its_content(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str, number: int, nth: int
) -> None:
    place.quarantine.keep("p1", [("p1.1", UNLINK, LINK)])
    real, left = getattr(os, call), [nth]

    def fail(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(number, os.strerror(number))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        lost = place.quarantine.keep("p1", [("p1.2", WRITE, OLD)])
        if call == "fsync" and nth == 2:  # the folder is synced twice: for the content's name, and the manifest's
            assert lost == {}
            return
        assert lost == {"p1.2": os.strerror(number)}
    if (call, nth) != ("fsync", 1):  # by then the line is there, and stays
        assert [p.name for p in (place.home / "p1").iterdir()] == ["manifest.jsonl"]
    assert {kept.id for kept in place.quarantine.of_pass("p1")} <= {"p1.1", "p1.2"}
    assert place.quarantine.find("p1.1") == Kept("p1.1", UNLINK, LINK)
    place.quarantine.keep("p1", [("p1.2", WRITE, OLD)])
    assert place.quarantine.find("p1.2") == Kept("p1.2", WRITE, OLD)


# --- forgetting ----------------------------------------


def three_passes(place: Place) -> int:
    for number in (1, 2, 3):
        place.quarantine.keep(f"p{number}", [(f"p{number}.1", UNLINK, LINK)])
        place.age(f"p{number}", 1000.0 * number)
    return place.quarantine.usage().size // 3


def due(place: Place, max_bytes: int, max_age: float = 1e9, now: float = 3000.0) -> list[str]:
    return [each.pass_id for each in place.quarantine.review(Limits(max_bytes, max_age), now).doomed]


def warned(place: Place, max_bytes: int, max_age: float = 1e9, now: float = 3000.0) -> list[str]:
    """What is to be told of; it is told of then."""
    found = place.quarantine.review(Limits(max_bytes, max_age), now).warn
    place.quarantine.mark(found, now)
    return [each.pass_id for each in found]


def test_the_oldest_passes_are_due_first(place: Place) -> None:
    each = three_passes(place)
    assert place.quarantine.usage().passes == 3
    assert due(place, 3 * each) == []
    assert due(place, 3 * each - 1) == ["p1"]
    assert due(place, each) == ["p1", "p2"]
    assert due(place, 0) == ["p1", "p2"], "the newest pass is what somebody wants undone"


def test_what_gets_too_much_is_told_of_before_it_is(place: Place) -> None:
    each = three_passes(place)
    assert warned(place, 4 * each) == []
    assert warned(place, 4 * each - 1) == ["p1"]
    assert warned(place, 4 * each - 1) == [], "once"
    assert warned(place, 3 * each) == []
    assert warned(place, 2 * each) == ["p2"]
    assert due(place, 3 * each) == []


DAY = 86400.0


def test_what_gets_too_old_is_told_of_a_day_before(place: Place) -> None:
    three_passes(place)
    size, age = 1 << 30, 10 * DAY
    assert place.quarantine.review(Limits(size, age), 3000.0).next == 1000 + 9 * DAY
    assert warned(place, size, age, now=1000 + 9 * DAY) == ["p1"]
    assert place.quarantine.review(Limits(size, age), 1000 + 9 * DAY).next == 2000 + 9 * DAY
    assert due(place, size, age, now=1000 + 10 * DAY - 1) == []
    assert due(place, size, age, now=1000 + 10 * DAY) == ["p1"]
    assert warned(place, size, age, now=3000 + 9 * DAY) == ["p2", "p3"], "the newest gets too old like any other"
    assert due(place, size, age, now=3000 + 10 * DAY) == ["p1", "p2", "p3"]


def test_a_clock_that_jumps_ahead_empties_nothing(place: Place) -> None:
    three_passes(place)
    size, age = 1 << 30, 10 * DAY
    assert due(place, size, age, now=1e9) == [], "nobody was told"
    assert warned(place, size, age, now=1e9) == ["p1", "p2", "p3"]
    assert due(place, size, age, now=1e9 + DAY - 1) == []
    assert due(place, size, age, now=3000.0) == [], "the clock is right again"
    assert warned(place, size, age, now=1000 + 10 * DAY) == ["p1", "p2", "p3"], "said while it was wrong, so said again"
    assert due(place, size, age, now=1000 + 11 * DAY - 1) == []


def test_what_is_told_names_what_goes_and_how_to_keep_it(place: Place) -> None:
    three_passes(place)
    [found] = place.quarantine.review(Limits(1 << 30, DAY), 1000.0).warn[:1]
    assert place.quarantine.expiring(found, Limits(1 << 30, DAY), 1000.0) == (
        "what was removed by pass p1 (/etc/rc2.d/S20exim4): it can be undone until 1970-01-02 00:16Z, or until more"
        " than 1073741824 bytes are kept; to keep it longer, raise quarantine.age or quarantine.size in the state,"
        ' or put it back: "dom0-reconciler undo --pass p1"'
    )
    (place.home / "p1/manifest.jsonl").unlink()
    assert "pass p1: it can be undone" in place.quarantine.expiring(found, Limits(1 << 30, DAY), 1000.0)


def test_what_is_forgotten_is_gone_and_the_rest_stays(place: Place) -> None:
    each = three_passes(place)
    doomed = place.quarantine.review(Limits(2 * each), 3000.0).doomed
    assert place.quarantine.find("p1.1"), "a review forgets nothing: the journal comes first"
    place.quarantine.forget(doomed)
    place.quarantine.forget(doomed)
    assert sorted(p.name for p in place.home.iterdir()) == ["p2", "p3"]
    with pytest.raises(ReconcilerError):
        place.quarantine.find("p1.1")


def test_a_forgetting_that_was_killed_is_finished(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    each = three_passes(place)

    def die(*_arguments: object, **_where: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", die)
        with pytest.raises(KeyboardInterrupt):
            place.quarantine.forget(place.quarantine.review(Limits(2 * each), 3000.0).doomed)
    assert place.quarantine.usage().passes == 2
    place.quarantine.recover()
    assert sorted(p.name for p in place.home.iterdir()) == ["p2", "p3"]


def test_nothing_is_kept_yet(place: Place) -> None:
    assert place.quarantine.usage().passes == 0
    assert due(place, 0) == []
    place.quarantine.forget(())
    place.quarantine.recover()
    assert not place.home.exists()

"""The spare place: what home does not take waits there, is seen there, and comes home: nothing twice, nothing lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from reconciler.errors import JournalError
from reconciler.model import FileState, LinkState, Record, Unlink, WriteFile
from reconciler.quarantine import Kept, Quarantine
from reconciler.storage import spare, store
from tests.broken_home import Trouble, trouble
from tests.crash.faults import AT_HOME
from tests.journals import Place, records

LINK, OLD = LinkState("../init.d/exim4"), FileState(b"old\n")
UNLINK, WRITE = Unlink("/etc/rc2.d/S20exim4", LINK.target), WriteFile("/etc/inetd.conf", FileState(b"new\n"), OLD)
WORDS = {"home full": "No space left on device", "home read-only": "Read-only file system"}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Trouble]:
    with trouble(tmp_path) as one:
        yield one


def waiting(place: Place) -> list[bytes]:
    return spare.lines(place.root, spare.JOURNAL)


def words_of(some: list[Record]) -> list[str]:
    return [record.record if record.record in ("away", "home") else record.id for record in some]


@pytest.mark.parametrize("how", AT_HOME)
@pytest.mark.parametrize("before", [0, 3])
def test_what_home_does_not_take_waits_and_comes_home(place: Place, broken: Trouble, how: str, before: int) -> None:
    place.journal().write(records(before))
    journal = place.journal()
    broken.set(how)
    journal.write(records(2, before))
    assert "journal" in journal.away
    journal.write(records(1, before + 2))
    assert len(waiting(place)) == 4  # with the one that says so
    broken.heal()
    journal.write(records(1, before + 3))
    assert journal.away == ""
    assert not spare.holds(place.root, spare.JOURNAL)
    ids = [record.id for record in records(before + 4)]
    told = words_of(list(journal.read()))
    assert told == [*ids[: before + 2], "away", ids[-2], "home", ids[-1]]
    assert journal.verify().ok
    assert journal.verify().records == before + 6


@pytest.mark.parametrize("word", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "EUCLEAN", "EBADMSG", "ENODEV"])
def test_every_word_that_a_failing_disk_has_is_one_reason(word: str) -> None:
    """A full one, a broken one, one whose own structures or checksums are wrong, one that was pulled out."""
    refused = OSError(getattr(errno, word), "so it says")
    wrapped = JournalError("the journal")
    wrapped.__cause__ = refused
    assert store.trouble(wrapped) == "so it says"


@pytest.mark.parametrize("how", WORDS)
def test_in_the_midst_of_it_all_is_seen(place: Place, broken: Trouble, how: str) -> None:
    journal, reader = place.journal(), place.journal()
    journal.write(records(2))
    follower = reader.follow(0.0, sleep=lambda _: None)
    assert list(islice(follower, 2)) == records(2)
    broken.set(how)
    journal.write(records(1, 2))
    assert words_of(list(islice(follower, 2))) == ["p1.2", "away"]
    assert WORDS[how] in list(reader.read())[-1].detail
    assert words_of(list(reader.read())) == ["p1.0", "p1.1", "p1.2", "away"]
    found = reader.verify()
    assert (found.ok, found.records, found.why) == (True, 4, "")
    assert [intent.id for intent in place.journal().recover()] == ["p1.0", "p1.1", "p1.2"]
    broken.heal()
    journal.write(records(1, 3))
    assert words_of(list(islice(follower, 2))) == ["home", "p1.3"]


def test_an_edit_in_the_spare_place_shows_there_and_for_ever(place: Place, broken: Trouble) -> None:
    journal = place.journal()
    broken.set("home full")
    journal.write(records(3))
    file = Path(place.root.path + spare.PLACE) / spare.JOURNAL
    file.write_bytes(file.read_bytes().replace(b"p1.1", b"p9.9"))
    assert not journal.verify().ok
    broken.heal()
    journal.write(records(1, 3))
    assert not spare.holds(place.root, spare.JOURNAL)
    assert not journal.verify().ok


def test_another_process_wrote_home_meanwhile_and_nothing_is_lost(place: Place, broken: Trouble) -> None:
    """It need not know: what waits is chained on what it finds at home."""
    daemon, command = place.journal(), place.journal()
    daemon.write(records(1))
    broken.set("home full")
    command.write(records(1, 1))
    broken.heal()
    daemon.write(records(1, 2))
    found = daemon.verify()
    assert (found.ok, found.records) == (True, 4)
    assert "follow others" in found.why
    assert daemon.astray
    daemon.bring_home()
    assert sorted(words_of(list(daemon.read()))) == ["away", "home", "p1.0", "p1.1", "p1.2"]
    found = daemon.verify()
    assert (found.ok, found.records, found.why) == (True, 5, "")


def test_an_end_that_was_torn_there_vouches_for_nothing(place: Place, broken: Trouble) -> None:
    journal = place.journal()
    broken.set("home read-only")
    journal.write(records(2))
    with (Path(place.root.path + spare.PLACE) / spare.JOURNAL).open("ab") as file:
        file.write(b'{"id":"torn')
    assert words_of(list(journal.read())) == ["p1.0", "p1.1", "away"]
    journal.write(records(1, 2))
    broken.heal()
    journal.bring_home()
    assert words_of(list(journal.read())) == ["p1.0", "p1.1", "away", "p1.2", "home"]
    assert journal.verify().ok


def test_it_is_bounded(place: Place, broken: Trouble) -> None:
    journal, count = place.journal(), 0
    broken.set("home full")
    with suppress(JournalError):
        for count in range(0, 100_000, 1000):
            journal.write(records(1000, count))
    assert 5000 < count < 50_000
    with pytest.raises(JournalError, match=r"No space left on device; .* 4 MiB"):
        journal.write(records(1000, count))
    folder = Path(place.root.path + spare.PLACE)
    assert 0.9 * spare.LIMIT < sum(path.stat().st_size for path in folder.iterdir()) <= spare.LIMIT
    broken.heal()
    journal.write(records(1, count))
    assert len(list(journal.read())) == count + 3
    assert journal.verify().ok


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_place_that_others_may_write_is_none(place: Place, broken: Trouble, mode: int) -> None:
    journal = place.journal()
    broken.set("home full")
    journal.write(records(1))
    os.chmod(place.root.path + spare.PLACE, mode)
    with pytest.raises(JournalError, match="can be written by another user than root"):
        journal.write(records(1, 1))
    broken.heal()
    with pytest.raises(JournalError, match="can be written by another user than root"):
        journal.write(records(1, 1))


def test_only_the_disk_is_a_reason(place: Place, broken: Trouble) -> None:
    place.journal().write(records(1))
    place.home.chmod(0o770)
    with pytest.raises(JournalError, match="can be written by another user than root"):
        place.journal().write(records(1, 1))
    assert not spare.holds(place.root, spare.JOURNAL)
    assert broken.made


def test_nothing_is_looked_for_there_while_all_is_well(place: Place, broken: Trouble) -> None:
    journal = place.journal()
    journal.write(records(1))
    broken.made.clear()
    journal.write(records(1, 1))
    calls = [name for name in broken.made if name not in ("fstat", "close", "open", "readlink", "stat", "lstat")]
    assert calls == ["write", "fdatasync", "pwrite"]
    assert broken.made.count("stat") <= 1


# --- what is kept ----------------------------------------


@pytest.mark.parametrize("how", WORDS)
def test_what_has_no_content_is_kept_and_what_has_one_is_given_back(place: Place, broken: Trouble, how: str) -> None:
    quarantine = Quarantine(place.root)
    broken.set(how)
    lost = quarantine.keep("p1", [("p1.1", UNLINK, LINK), ("p1.2", WRITE, OLD), ("p1.3", UNLINK, LINK)])
    assert lost == {"p1.2": WORDS[how]}
    expected = (Kept("p1.1", UNLINK, LINK), Kept("p1.3", UNLINK, LINK))
    assert quarantine.of_pass("p1") == expected
    assert quarantine.find("p1.3") == expected[1]
    with pytest.raises(JournalError):
        quarantine.bring_home()
    broken.heal()
    quarantine.bring_home()
    assert not quarantine.astray
    assert quarantine.away == ""
    assert Quarantine(place.root).of_pass("p1") == expected
    assert (place.home / "quarantine/p1" / "manifest.jsonl").exists()


def test_killed_after_the_move_it_is_not_moved_again(place: Place, broken: Trouble) -> None:
    quarantine = Quarantine(place.root)
    broken.set("home full")
    quarantine.keep("p1", [("p1.1", UNLINK, LINK)])
    lines = b"".join(spare.lines(place.root, spare.MANIFEST))
    broken.heal()
    quarantine.bring_home()
    spare.append(place.root, spare.MANIFEST, lines)
    assert quarantine.of_pass("p1") == (Kept("p1.1", UNLINK, LINK),)
    quarantine.recover()
    assert not quarantine.astray
    assert len((place.home / "quarantine/p1/manifest.jsonl").read_bytes().splitlines()) == 1


def test_garbage_there_is_an_error_and_holds_nothing_up(place: Place) -> None:
    spare.append(place.root, spare.MANIFEST, b'no line\n{"id":"../x.1"}\n{"id":"p1.1"}\n')
    quarantine = Quarantine(place.root)
    with pytest.raises(Exception, match=r"manifest\.jsonl cannot be read"):
        quarantine.of_pass("p1")
    quarantine.bring_home()
    assert not quarantine.astray
    assert [path.name for path in (place.home / "quarantine").iterdir()] == ["p1"]


# --- only one root -----------------------------------------


def test_where_both_are_on_the_same_disk_there_is_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As today: no record, no correction."""

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "append", full)
    with pytest.raises(JournalError, match=r"/var/lib/.*: No space left on device; /run/.*: No space left on device"):
        place.journal().write(records(1))

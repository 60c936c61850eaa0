"""The journal's chain: a killed run leaves it whole, tampering shows, a rotation goes on with it."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from reconciler import journal as journal_module
from reconciler.journal import Journal, unverified
from tests.journals import NOW, Place, record, records


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- a killed run ----------------------------------------


def test_a_torn_last_line_is_set_aside_and_noted(place: Place) -> None:
    place.journal().write(records(2))
    with place.file.open("ab") as file:
        file.write(b'{"id":"p1.2","time')
    assert list(place.journal().recover()) == records(2)
    *others, note = place.journal().read()
    assert others == records(2)
    assert (note.record, note.time) == ("torn", NOW)
    (torn,) = place.home.glob("journal.torn.*")
    assert torn.name in note.detail
    assert torn.read_bytes() == b'{"id":"p1.2","time'
    assert place.journal().verify().ok


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"garbage\n", b"\n", b"\xff\n", b"[]\n", b"[" * 5000 + b"\n"])
def test_a_torn_end_may_hold_anything(place: Place, tail: bytes) -> None:
    place.journal().write(records(2))
    with place.file.open("ab") as file:
        file.write(tail)
    place.journal().recover()
    assert [r.record for r in place.journal().read()] == ["intent", "intent", "torn"]
    assert place.journal().verify().ok


def test_a_hole_in_a_batch_that_was_never_durable_is_torn(place: Place) -> None:
    """A power cut may keep the end of a batch and lose its middle; the head says what was durable."""
    journal = place.journal()
    journal.write(records(2))
    head = place.head.read_bytes()
    journal.write(records(30, start=2))
    place.head.write_bytes(head)
    lines = place.lines()
    lines[10] = b"\0" * len(lines[10])
    place.file.write_bytes(b"".join(lines))
    assert place.journal().recover() == tuple(records(10))
    assert place.journal().verify().ok
    assert next(place.home.glob("journal.torn.*")).read_bytes() == b"".join(lines[10:])


def test_a_writer_mends_what_another_one_left_torn(place: Place) -> None:
    daemon = place.journal()
    daemon.write(records(1))
    with place.file.open("ab") as file:
        file.write(b'{"half')
    daemon.write([record(1)])
    assert [r.record for r in daemon.read()] == ["intent", "torn", "intent"]
    assert daemon.verify().ok


def test_torn_ends_do_not_pile_up(place: Place) -> None:
    for number in range(journal_module.TORN_KEEP + 5):
        journal = Journal(place.root, clock=partial(float, NOW + number))
        journal.write([record(number)])
        with place.file.open("ab") as file:
            file.write(b"x")
        journal.recover()
    assert len(list(place.home.glob("journal.torn.*"))) == journal_module.TORN_KEEP


def test_intents_without_an_outcome_are_returned_until_explained(place: Place) -> None:
    journal = place.journal()
    done = [record(0, "outcome", "done"), record(1, "outcome", "pending")]
    journal.write([*records(3), *done])
    left = place.journal().recover()
    assert left == (record(1), record(2)), "a stop that is only pending was never concluded"
    journal.write([unverified(intent, NOW, "the daemon was killed") for intent in left])
    assert place.journal().recover() == ()
    *_, last = journal.read()
    assert (last.id, last.record, last.outcome, last.service) == ("p1.2", "outcome", "unverified", "exim4")


def test_intents_before_a_rotation_are_found(place: Place) -> None:
    journal = place.journal(limit=2000)
    journal.write(records(5))
    journal.write([record(number, "outcome", "done") for number in range(4)])
    assert place.file.with_name("journal.jsonl.1").exists()
    assert place.journal(limit=2000).recover() == (record(4),)


def test_temporaries_of_ours_go(place: Place) -> None:
    place.home.mkdir(parents=True)
    (place.home / ".dom0-reconciler.abc").write_text("")
    (place.home / ".other").write_text("")
    place.journal().recover()
    assert sorted(p.name for p in place.home.glob(".*")) == [".other"]


def test_killed_anywhere_the_chain_is_whole(place: Place) -> None:
    """Fork a writer, kill it in the middle, recover; every record it was told was durable must be there."""
    durable = 0
    for round_ in range(25):
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            journal = place.journal(limit=30_000, keep=500)
            for number in range(100_000):
                journal.write([record(round_ * 100_000 + number)] * 3)
                os.write(send, b"x")
        os.close(send)
        durable += 3 * len(os.read(receive, 1))  # it is at it, however slow the machine
        time.sleep(0.0007 * round_)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        durable += 3 * len(os.read(receive, 1 << 20))
        os.close(receive)
        journal = place.journal(keep=500)
        journal.recover()
        found = journal.verify()
        assert found.ok, found
        assert found.records >= durable
        durable = found.records
        journal.close()
    assert durable >= 3 * 25


# --- tampering ----------------------------------------


def broken_at(place: Place, lines: list[bytes]) -> int:
    place.file.write_bytes(b"".join(lines))
    found = place.journal().verify()
    assert not found.ok
    assert found.file == "journal.jsonl"
    return found.first_bad_line


def test_each_kind_of_tampering_shows_with_its_line(place: Place) -> None:
    place.journal().write(records(10))
    lines = place.lines()
    assert broken_at(place, lines[:4] + lines[5:]) == 5
    assert broken_at(place, lines[1:]) == 1
    assert broken_at(place, [*lines[:4], lines[5], lines[4], *lines[6:]]) == 5
    assert broken_at(place, [*lines[:4], lines[4].replace(b"exim4", b"exim5"), *lines[5:]]) == 6
    assert broken_at(place, [*lines[:4], b"x\n", *lines[4:]]) == 5
    assert broken_at(place, [*lines[:4], lines[3], *lines[4:]]) == 5
    assert broken_at(place, lines[:8]) == 8, "a cut end shows by the head"
    assert broken_at(place, [*lines[:9], lines[9].replace(b"exim4", b"exim5")]) == 10
    assert broken_at(place, []) == 1


def test_a_cut_end_shows_for_ever(place: Place) -> None:
    """Going on after a cut must not heal it: the next record follows the one that is gone."""
    place.journal().write(records(10))
    place.file.write_bytes(b"".join(place.lines()[:8]))
    journal = place.journal()
    journal.recover()
    journal.write([record(11)])
    found = journal.verify()
    assert (found.ok, found.first_bad_line) == (False, 9)
    assert [r.record for r in journal.read()][-2:] == ["cut", "intent"]
    place.journal().write([record(12)])
    assert not journal.verify().ok


def test_power_lost_after_a_noted_cut_loses_no_record(place: Place) -> None:
    place.journal().write(records(10))
    head = place.head.read_bytes()
    place.file.write_bytes(b"".join(place.lines()[:8]))
    place.journal().write([record(11)])
    place.head.write_bytes(head)
    place.journal().recover()
    assert [r.record for r in place.journal().read()].count("intent") == 9
    assert not list(place.home.glob("journal.torn.*"))


def test_a_head_that_is_behind_is_believed(place: Place) -> None:
    """It is not synced: after a power cut it may name an earlier record."""
    journal = place.journal()
    journal.write(records(3))
    head = place.head.read_bytes()
    journal.write(records(3, start=3))
    place.head.write_bytes(head)
    assert journal.verify().ok
    again = place.journal()
    again.write([record(6)])
    assert again.verify().records == 7
    assert not list(place.home.glob("journal.torn.*"))


@pytest.mark.parametrize("head", [b"", b"nonsense", b"\0" * 65])
def test_a_head_that_is_damaged_is_no_break(place: Place, head: bytes) -> None:
    place.journal().write(records(3))
    place.head.write_bytes(head)
    assert place.journal().verify().ok
    place.journal().write([record(3)])
    assert place.journal().verify().records == 4
    assert len(place.head.read_bytes()) == 65


# --- rotation ----------------------------------------


def test_rotation_bounds_it_and_the_chain_goes_on(place: Place) -> None:
    journal = place.journal(limit=3000, keep=3)
    for number in range(100):
        journal.write([record(number)])
    names = sorted(p.name for p in place.home.iterdir())
    assert names == ["journal.head", "journal.jsonl", *(f"journal.jsonl.{n}" for n in (1, 2, 3))]
    assert all(p.stat().st_size <= 3000 for p in place.home.iterdir())
    found = journal.verify()
    assert found.ok, found
    kept = list(journal.read())
    assert kept == records(100)[-len(kept) :]
    assert found.records == len(kept)


def test_a_file_taken_out_of_the_middle_shows(place: Place) -> None:
    journal = place.journal(limit=3000, keep=8)
    for number in range(40):
        journal.write([record(number)])
    place.file.with_name("journal.jsonl.2").unlink()
    found = journal.verify()
    assert (found.ok, found.file, found.first_bad_line) == (False, "journal.jsonl.1", 1)
    place.file.with_name("journal.jsonl.1").unlink()
    (place.home / "journal.jsonl").unlink()
    assert not journal.verify().ok, "the newest file is gone"


def test_the_oldest_file_taken_away_shows_while_none_was_rotated_away(place: Place) -> None:
    journal = place.journal(limit=3000, keep=8)
    for number in range(20):
        journal.write([record(number)])
    place.file.with_name(f"journal.jsonl.{len(list(place.home.glob('journal.jsonl.*')))}").unlink()
    assert journal.verify().why == "records before this one are missing"


@pytest.mark.parametrize("done", range(4))
def test_a_rotation_killed_anywhere_is_completed(place: Place, monkeypatch: pytest.MonkeyPatch, done: int) -> None:
    journal = place.journal(limit=3000, keep=3)
    for number in range(30):
        journal.write([record(number)])
    real, left = os.rename, [done]

    def rename(*arguments: str, **where: int) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(*arguments, **where)  # type: ignore[arg-type]  # whatever the journal hands on

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        try:
            for number in range(30, 45):
                journal.write([record(number)])
        except KeyboardInterrupt:
            pass
    again = place.journal(limit=3000, keep=3)
    again.recover()
    again.write([record(50)])
    found = again.verify()
    assert found.ok, found
    assert [r.id for r in again.read()][-1] == "p1.50"

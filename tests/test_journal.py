"""The journal: what is written is durable, read back, followed and forwarded."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from reconciler import journal as journal_module
from reconciler.errors import JournalError
from reconciler.journal import notice
from reconciler.model import Record
from tests.calls import noting
from tests.journals import NOW, Place, record, records


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- writing and reading ----------------------------------------


def test_no_descriptor_is_closed_twice(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where close(2) fails the number is free all the same, and may be somebody else's by the second time."""
    journal, closed = place.journal(), list[int]()
    journal.write(records(1))

    def fail(fd: int) -> None:
        closed.append(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        journal.close()
        journal.close()
        del journal
    assert len(closed) == len(set(closed)) == 2
    for fd in closed:
        os.close(fd)


def test_what_is_written_is_read_back_by_any_process(place: Place) -> None:
    place.journal().write(records(3))
    assert list(place.journal().read()) == records(3)
    assert (place.journal().verify().ok, place.journal().verify().records) == (True, 3)


def test_only_root_may_look_into_it(place: Place) -> None:
    os.umask(0)
    place.journal().write(records(1))
    os.umask(0o022)
    assert place.home.stat().st_mode & 0o777 == 0o700
    assert place.file.stat().st_mode & 0o777 == place.head.stat().st_mode & 0o777 == 0o600
    assert place.home.parent.stat().st_mode & 0o777 == 0o755, "a folder of the system's that an image lacked"


def test_a_file_that_others_may_read_is_closed_to_them(place: Place) -> None:
    place.journal().write(records(1))
    place.file.chmod(0o644)
    place.journal().write(records(1))
    assert place.file.stat().st_mode & 0o777 == 0o600


def test_a_moved_away_folder_is_made_anew(place: Place) -> None:
    """Whoever moves the journal away has it; what is written from now on is where it is looked for."""
    journal = place.journal()
    journal.write(records(2))
    place.home.rename(place.home.with_name("old"))
    journal.write([record(2)])
    assert list(journal.read()) == [record(2)]


def test_a_full_disk_at_a_rotation_loses_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = place.journal(limit=1000)
    journal.write(records(2))
    real = os.open

    def full(name: str, flags: int, *arguments: int, **where: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(name, flags, *arguments, **where)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        for _ in range(2):
            with pytest.raises(JournalError, match="No space"):
                journal.write(records(2, start=2))
    journal.write(records(2, start=2))
    assert list(journal.read()) == records(4)
    assert journal.verify().ok


def test_a_batch_is_one_write_and_one_sync(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = place.journal()
    journal.write(records(1))
    calls: list[str] = []
    for name in ("write", "fdatasync", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, noting(calls, name, real))
    journal.write(records(10_000))
    assert calls == ["write", "fdatasync"]


def test_since_and_service_select(place: Place) -> None:
    journal = place.journal()
    journal.write([*records(4), notice("gap", NOW + 9, "rclinks: EIO")])
    assert list(journal.read(since=NOW + 3)) == [record(3), notice("gap", NOW + 9, "rclinks: EIO")]
    assert list(journal.read(service="exim4")) == records(4)
    assert list(journal.read(service="cron")) == []


def test_without_a_journal_there_is_nothing_to_read(place: Place) -> None:
    assert list(place.journal().read()) == []
    assert place.journal().verify().ok
    assert not place.home.exists(), "a reader makes nothing"


def test_an_ordinary_user_is_told_that_only_root_reads(place: Place) -> None:
    place.journal().write(records(1))
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        try:
            place.journal().read()
        except JournalError as error:
            os._exit(0 if "only root may" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_link_planted_in_place_of_the_file_is_refused(place: Place, tmp_path: Path) -> None:
    place.home.mkdir(parents=True)
    (tmp_path / "victim").write_text("precious")
    place.file.symlink_to(tmp_path / "victim")
    with pytest.raises(JournalError):
        place.journal().write(records(1))
    assert (tmp_path / "victim").read_text() == "precious"


# --- several writers ----------------------------------------


def test_two_writers_take_turns_on_one_chain(place: Place) -> None:
    first, second = place.journal(), place.journal()
    for number in range(0, 20, 2):
        first.write([record(number)])
        second.write([record(number + 1)])
    assert list(first.read()) == records(20)
    assert first.verify().ok


def test_two_processes_under_a_lock_keep_one_chain(place: Place, tmp_path: Path) -> None:
    """Each takes the root's lock for a batch; a small limit makes both rotate under the other."""
    import fcntl

    children = []
    for child in range(2):
        pid = os.fork()
        if pid == 0:
            journal = place.journal(limit=20_000, keep=50)
            lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
            for number in range(100):
                fcntl.flock(lock, fcntl.LOCK_EX)
                journal.write([record(child * 1000 + number), record(child * 1000 + number, "outcome", "done")])
                fcntl.flock(lock, fcntl.LOCK_UN)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
    found = place.journal(keep=50).verify()
    assert (found.ok, found.records) == (True, 400), found
    assert len(list(place.home.glob("journal.jsonl.*"))) > 2


# --- what fails ----------------------------------------


def failing(number: int) -> Callable[..., int]:
    def fail(*_arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(("call", "number"), [("write", errno.ENOSPC), ("fdatasync", errno.EIO)])
def test_a_batch_that_is_not_durable_leaves_no_trace(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    journal = place.journal()
    journal.write(records(2))
    before = place.file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(JournalError, match=r"journal\.jsonl: "):
            journal.write(records(5, start=2))
    assert place.file.read_bytes() == before
    journal.write([record(2)])
    assert list(journal.read()) == records(3)
    assert journal.verify().ok


def test_a_full_disk_in_the_middle_of_a_batch_is_cut_back(place: Place) -> None:
    """A real short write, then EFBIG: the file size limit stands in for the disk's end."""
    import resource

    journal = place.journal()
    journal.write(records(2))
    before = place.file.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, hard))
    try:
        with pytest.raises(JournalError, match="File too large"):
            journal.write(records(100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert place.file.read_bytes() == before
    journal.write([record(2)])
    assert journal.verify().records == 3


def test_a_failed_batch_is_not_forwarded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Record] = []
    journal = place.journal(seen.extend)
    monkeypatch.setattr(os, "fdatasync", failing(errno.EIO))
    with pytest.raises(JournalError):
        journal.write(records(1))
    assert seen == []


# --- following ----------------------------------------


def follow(place: Place, script: Iterator[None], since: float | None = None) -> list[Record]:
    """Follow while ``script`` writes: one step at each wait, and its end ends the following."""

    class EndError(Exception):
        pass

    def sleep(_seconds: float) -> None:
        try:
            next(script)
        except StopIteration:
            raise EndError from None

    found: list[Record] = []
    try:
        for each in place.journal(limit=3000, keep=3).follow(since, sleep=sleep):
            found.append(each)
    except EndError:
        pass
    return found


def test_follow_yields_what_is_new_across_rotations_and_half_lines(place: Place) -> None:
    journal = place.journal(limit=3000, keep=3)
    journal.write(records(12))

    def script() -> Iterator[None]:
        yield
        for number in range(12, 40):
            journal.write([record(number)])
            yield
        line = place.lines()[-1]
        with place.file.open("ab") as file:
            file.write(line[:50])
            file.flush()
            yield
            file.truncate(file.tell() - 50)
        yield
        journal.write([record(40)])
        yield

    assert follow(place, script()) == records(41)[12:]


def test_follow_with_since_begins_in_the_past(place: Place) -> None:
    journal = place.journal(limit=3000, keep=3)
    for number in range(14):
        journal.write([record(number)])
    assert follow(place, iter([None]), since=NOW + 2) == records(14)[2:]


def test_follow_begins_before_there_is_a_journal(place: Place) -> None:
    def script() -> Iterator[None]:
        yield
        place.journal().write(records(2))
        yield

    assert follow(place, script()) == records(2)


# --- forwarding ----------------------------------------


def test_records_wait_for_a_log_and_then_go_at_once(place: Place) -> None:
    bursts: list[list[Record]] = []
    journal = place.journal()
    journal.write(records(2))
    journal.write([record(2)])
    journal.forward_to(lambda some: bursts.append(list(some)))
    assert bursts == [records(3)]
    journal.write([record(3)], later=True)
    assert bursts == [records(3)], "the effect comes before the log"
    journal.write([record(3, "outcome", "done")])
    assert bursts[1:] == [[record(3), record(3, "outcome", "done")]]


def test_the_log_may_fail(place: Place) -> None:
    def fail(_records: Sequence[Record]) -> None:
        raise RuntimeError("no log today")

    journal = place.journal(fail)
    journal.write(records(2))
    assert list(journal.read()) == records(2)


def test_what_waits_is_bounded_and_says_how_much_is_missing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Record] = []
    journal = place.journal()
    journal.write(records(journal_module.BACKLOG + 5))
    journal.forward_to(seen.extend)
    assert len(seen) == journal_module.BACKLOG + 1
    assert seen[0].record == "unforwarded"
    assert seen[0].detail.startswith("5 records")
    assert seen[1] == record(5)


@pytest.mark.parametrize("name", ["journal.jsonl", "journal.jsonl.1"])
def test_a_folder_in_its_place_is_told_by_its_path(place: Place, name: str) -> None:
    place.journal().write(records(1))
    (place.home / "journal.jsonl").rename(place.home / "old")
    (place.home / name).mkdir()
    with pytest.raises(JournalError, match=r"/var/lib/dom0-reconciler/journal\.jsonl cannot be read: .* is no file"):
        list(place.journal().read())

"""The journal of corrective actions: durable before the effect, chained so that a cut or an edit shows,
bounded.

``journal.jsonl`` below :data:`~reconciler.storage.store.HOME` holds the newest records, ``journal.jsonl.1`` those
before, and so on; :mod:`reconciler.storage.chain` says what a line is. ``journal.head`` holds the hash of the last
line, so that a cut *end* shows as well. It is written after each batch, but for intents only after their effects, and
never synced (that would double the price of a record), hence read leniently: after a power cut it may name an earlier
line, never one that is not there. Who can write here as root can forge all of it: against that, the copy of each record
in the system's own log stands.

Writers hold the root's correction lock, so there is one at a time; each looks whether another one wrote
since.

While the disk takes no line, lines go to the spare place (:mod:`reconciler.storage.spare`), after the last one that is
known; whoever writes next brings them home first.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress

from reconciler.errors import JournalError, Unobservable
from reconciler.model import Record
from reconciler.storage import chain, spare, store
from reconciler.storage.chain import Verification, open_intents
from reconciler.storage.reading import (
    HEAD,
    NAME,
    Tail,
    close,
    files_of,
    follow,
    history,
    indices,
    is_due,
    knows,
    last_of,
    verified,
)
from reconciler.text import escape
from reconciler.values import Value

__all__ = ["Forward", "Journal", "Verification", "notice", "unverified"]

Forward = Callable[[Sequence[Record]], None]
"""Where records go besides the file: the system's log."""

TORN = "journal.torn."
LIMIT = 16 << 20
"""Bytes of one file; a record is about 400."""

KEEP = 8
"""How many full files are kept beside the one being written."""

TORN_KEEP = 8
"""How many torn ends are kept: a host that crashes again and again must not fill its disk with them."""

BACKLOG = 10_000
"""Records that wait while there is no log to forward them to yet."""

_WHERE = f"{store.HOME}/{NAME}"


def notice(record: str, now: float, detail: str, *, pass_id: str = "", service: str = "", cause: str = "") -> Record:
    """A record of what is no action: ``start``, ``torn``, ``gap``; ``detail`` is escaped already."""
    return Record(f"{record}@{chain.stamp(now)}", now, pass_id, record, service=service, cause=cause, detail=detail)


def unverified(intent: Record, now: float, detail: str) -> Record:
    """The outcome that explains an intent which a killed run left behind."""
    return Record(
        intent.id,
        now,
        intent.pass_id,
        "outcome",
        action=intent.action,
        kind=intent.kind,
        service=intent.service,
        target=intent.target,
        outcome="unverified",
        cause=intent.cause,
        rule=intent.rule,
        detail=detail,
    )


class _Open(Value, frozen=False):
    """The file as we left it: another writer shows by another size, a rotation by another inode."""

    fd: int
    head_fd: int
    inode: int
    size: int
    last: str
    said: str = ""  # what the head has been told

    def close(self) -> None:
        for fd in (self.fd, self.head_fd):
            with suppress(OSError):  # what was synced is there, and the number is somebody else's from here on
                os.close(fd)


class Journal:
    """The records of one root. ``forward`` gets every record that is durable, ``None`` lets them wait for
    one.

    ``limit`` in bytes and ``keep`` in files bound it; every process must use the same ``keep``. ``clock`` is
    seconds since the epoch, and dates only what the journal itself has to note.
    """

    def __init__(
        self,
        root: store.Folders,
        forward: Forward | None = None,
        *,
        limit: int = LIMIT,
        keep: int = KEEP,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._open: _Open | None = None
        self._root, self._forward, self._clock = root, forward, clock
        self._limit, self._keep = limit, keep
        self._notes: list[Record] = []
        self._astray = True  # there may be lines in the spare place
        self.away = ""
        """Why the last records wait in the spare place; "" when they are at home."""

        self.unread = False
        """Whether what a killed run left could not be looked for, since home could not be read."""

        self._waiting: deque[Record] = deque(maxlen=BACKLOG)
        self._missed = 0

    def close(self) -> None:
        """Let the files go; a later call opens them again."""
        there, self._open = self._open, None
        if there is not None:
            there.close()

    def __del__(self) -> None:
        self.close()

    # --- writing
    # ----------------------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], *, later: bool = False, hush: Collection[str] = ()) -> None:
        """Make all of ``records`` durable: one write, one fdatasync. Call it under the root's lock.

        Raises ``JournalError`` when they are not durable; none of them is in the file then. They are
        forwarded afterwards, with ``later`` only by the next write or :meth:`flush`: a log daemon's speed is
        no part of the time between an intent and its effect. Those whose id is in ``hush`` are not forwarded at
        all: what is fought over each second must not drown the log.
        """
        if records or self._notes:
            self._queue([record for record in self._write(records) if record.id not in hush])
        if not later:
            self._keep_head()
            self.flush()

    def _write(self, records: Sequence[Record]) -> Sequence[Record]:
        """At home, or in the spare place while home cannot be written. All that was written, notes included."""
        try:
            written = self._at_home(records)
        except JournalError as error:
            last = self._open.last if self._open is not None else ""
            self.close()  # what we knew of the file is no longer certain
            if not store.trouble(error):
                raise
            written = self._in_spare(records, last, error)
        self._notes.clear()
        return written

    def _at_home(self, records: Sequence[Record]) -> Sequence[Record]:
        with store.failing(_WHERE), store.folder(self._root, store.HOME, create=True) as folder:
            there = self._current(folder)
            if self._astray:
                self._come_home(folder, there)
                there = self._current(folder)
            records = [*self._notes, *records]
            if records:
                self._append(folder, there, *chain.encode(records, there.last))
        self.away = ""
        return records

    def _append(self, folder: int, there: _Open, data: bytes, last: str) -> None:
        if there.size and there.size + len(data) > self._limit:
            self._keep_head()
            self._rotate(folder)
            there = self._current(folder)
        store.append(there.fd, data, there.size)
        there.size += len(data)
        there.last = last

    def _in_spare(self, records: Sequence[Record], last: str, why: JournalError) -> Sequence[Record]:
        """The same lines as at home, where the last ones may be half there; what is said of it comes after them."""
        records = [*self._notes, *records]
        try:
            there = spare.lines(self._root, spare.JOURNAL)
            if not there:
                records.append(notice("away", self._clock(), escape(f"{why}: records wait in {spare.PLACE}")))
            last = chain.hash_of(there[-1]) if there else last or self._last_at_home()
            spare.append(self._root, spare.JOURNAL, chain.encode(records, last)[0])
        except JournalError as error:
            raise JournalError(f"{why}; {error}") from error
        self._astray, self.away = True, str(why)
        return records

    def _last_at_home(self) -> str:
        """The hash that what is written elsewhere is to follow; where it cannot be told, that is mended at home."""
        try:
            with store.failing(_WHERE), store.folder(self._root, store.HOME) as folder:
                return last_of(folder, self._keep)
        except JournalError:
            return chain.NONE

    def _come_home(self, folder: int, there: _Open) -> None:
        """Append what lies in the spare place, then take it away there. Killed in between: the hashes tell."""
        lines = spare.lines(self._root, spare.JOURNAL)
        missing = chain.following(lines, there.last)
        if missing is None and chain.is_whole(lines):  # another end than this one was known, or none
            missing = lines = chain.chained_on(lines, there.last)
            spare.replace(self._root, spare.JOURNAL, b"".join(lines))
        if missing := lines if missing is None else missing:
            self._append(folder, there, b"".join(missing), chain.hash_of(missing[-1]))
        if spare.holds(self._root, spare.JOURNAL):
            spare.remove(self._root, spare.JOURNAL)
        self._astray = False
        if lines:
            after = f", after {self.away}" if self.away else ""
            self._note("home", f"{len(lines)} records brought home from {spare.PLACE}{after}")

    def _current(self, folder: int) -> _Open:
        """The file to append to, looked at anew if somebody else wrote, rotated or replaced it."""
        there = self._open
        if there is not None:
            with suppress(FileNotFoundError):
                status = os.stat(NAME, dir_fd=folder, follow_symlinks=False)
                if (status.st_ino, status.st_size) == (there.inode, there.size):
                    return there
            self.close()
        self._open = self._resume(folder)
        return self._open

    def _resume(self, folder: int) -> _Open:
        self._astray = True  # whoever wrote since may have written there as well
        fd = store.open_write(folder, NAME)
        try:
            head_fd = store.open_write(folder, HEAD, flags=0)
        except BaseException:
            os.close(fd)
            raise
        there = _Open(fd, head_fd, os.fstat(fd).st_ino, os.fstat(fd).st_size, "")
        try:
            self._find_end(folder, there)
            there.said = there.last
        except BaseException:
            there.close()
            raise
        return there

    def _find_end(self, folder: int, there: _Open) -> None:
        """Fill in the last hash; cut off a torn end, go on from the head where the end was cut by others."""
        head = chain.head_of(store.content(there.head_fd))
        tail = Tail.of(there.fd, there.size)
        if tail.whole and tail.last and tail.last == head:
            there.last = tail.last
            return
        text = store.content(there.fd)
        found = chain.survey(text, head)
        if found.end < len(text):
            self._set_aside(folder, there, text[found.end :], found.end)
        there.last = found.last or last_of(folder, self._keep, but=NAME)
        if head is not None and not found.head_seen and not knows(folder, head, self._keep):
            self._note_cut(there, head)

    def _set_aside(self, folder: int, there: _Open, torn: bytes, end: int) -> None:
        name = f"{TORN}{chain.stamp(self._clock())}"
        with suppress(FileExistsError):  # the same moment again: the first one stands
            store.create(folder, name, torn)
        for old in sorted(n for n in os.listdir(folder) if n.startswith(TORN))[:-TORN_KEEP]:
            os.unlink(old, dir_fd=folder)
        os.fsync(folder)
        os.ftruncate(there.fd, end)
        os.fdatasync(there.fd)
        there.size = end
        self._note("torn", f"a crash tore the last {len(torn)} bytes; they are in {name}")

    def _note_cut(self, there: _Open, head: str) -> None:
        """Others took what we wrote last. The next record follows it all the same: so it shows for ever."""
        there.last = head
        self._note("cut", f"the last record written, sha256 {head}, is no longer in the journal")

    def _note(self, record: str, detail: str) -> None:
        self._notes.append(notice(record, self._clock(), escape(detail)))

    def _rotate(self, folder: int) -> None:
        """Begin a new file. Killed anywhere in here, every file still has one name or the other."""
        taken = indices(folder)
        free = next(n for n in range(1, self._keep + 1) if n not in taken or n == self._keep)
        for index in range(free, 1, -1):
            os.rename(f"{NAME}.{index - 1}", f"{NAME}.{index}", src_dir_fd=folder, dst_dir_fd=folder)
        os.rename(NAME, f"{NAME}.1", src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)

    # --- at a start
    # -------------------------------------------------------------------------------------------

    def recover(self, before: str = "") -> tuple[Record, ...]:
        """Mend what a killed run left, and return its intents without an outcome, for the caller to explain.

        Where home was ``unread`` it is to be called again, for those ``before`` the record of that id.

        A torn end is cut off, kept beside the journal, and noted; our temporaries go. Call it under the
        root's lock and before a correction; an intent of a daemon that is alive may be among those of its
        stops under way. Raises ``JournalError``.
        """
        try:
            with store.failing(_WHERE), store.folder(self._root, store.HOME, create=True) as folder:
                store.sweep(folder)
                self._current(folder)
        except JournalError as error:
            self.close()
            if not store.trouble(error):
                raise
        self.bring_home()
        text = self._recent()
        old = {intent.id for intent in open_intents(text.partition(f'"id":"{before}"'.encode())[0])} if before else None
        return tuple(intent for intent in open_intents(text) if old is None or intent.id in old)

    @property
    def astray(self) -> bool:
        """Whether there is anything in the spare place, of whichever process, or unread at home. ``JournalError``."""
        return bool(self._notes) or self.unread or spare.holds(self._root, spare.JOURNAL)

    def bring_home(self) -> None:
        """Write what waits (in the spare place, and our own notes), if that can be. Call it under the root's lock."""
        if self.astray:
            self._astray = True
            self._queue(self._write(()))
        else:
            self.away = ""
        self.flush()

    def _recent(self) -> bytes:
        """A batch and its outcomes lie in two files at most, and where the disk fails in the spare place."""
        recent: list[tuple[str, int]] = []
        try:
            with store.failing(_WHERE), store.folder(self._root, store.HOME) as folder:
                recent = files_of(folder, self._keep)[-2:]
                text = b"".join(store.content(fd) for _, fd in recent)
            self.unread = False
        except JournalError as error:
            if not store.trouble(error) and not isinstance(error.__cause__, FileNotFoundError):
                raise
            text, self.unread = b"", bool(store.trouble(error))
        finally:
            close(recent)
        return text + b"".join(spare.lines(self._root, spare.JOURNAL))

    # --- reading
    # ----------------------------------------------------------------------------------------------

    def read(self, since: float | None = None, service: str | None = None) -> Iterator[Record]:
        """The records, oldest first; ``since`` in seconds since the epoch. What is no record is passed over.

        Raises ``JournalError`` at once if the journal may not be read: only root reads it.
        """
        found = history(self._root, since, self._keep)
        return (record for record in found if is_due(record, since, service))

    def follow(
        self,
        since: float | None = None,
        service: str | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Iterator[Record]:
        """Like :meth:`read`, then every record as it is written, without end; without ``since`` only new
        ones.

        It looks five times a second, which finds a rotation too; ``sleep`` is given those 0.2 s.
        """
        found = follow(self._root, self._keep, sleep, from_start=since is not None)
        return (record for record in found if is_due(record, since, service))

    def verify(self) -> Verification:
        """Follow the chain from the oldest record kept to the head. ``JournalError`` if it is unreadable."""
        with store.failing(_WHERE):
            return verified(self._root, self._keep)

    # --- forwarding
    # -------------------------------------------------------------------------------------------

    def forward_to(self, sink: Forward) -> None:
        """Forward from now on, what waited first."""
        self._forward = sink
        self.flush()

    def flush(self) -> None:
        """Forward what waits. A sink that fails loses it for the log; the file has it."""
        if self._forward is None or not self._waiting:
            return
        waiting = list(self._waiting)
        if self._missed:
            waiting.insert(0, notice("unforwarded", self._clock(), f"{self._missed} records are in {_WHERE} only"))
        self._waiting.clear()
        self._missed = 0
        with suppress(Exception):  # whatever a log does wrong, no correction may fail for it
            self._forward(waiting)

    def _keep_head(self) -> None:
        """Say which line is the last; not synced. A head that cannot be written goes rather than lie."""
        there = self._open
        if there is None or there.said == there.last:
            return
        try:
            os.pwrite(there.head_fd, there.last.encode() + b"\n", 0)
        except OSError:
            with suppress(OSError, Unobservable), store.folder(self._root, store.HOME) as folder:
                os.unlink(HEAD, dir_fd=folder)
        there.said = there.last

    def _queue(self, records: Sequence[Record]) -> None:
        self._missed += max(0, len(self._waiting) + len(records) - BACKLOG)
        self._waiting.extend(records)

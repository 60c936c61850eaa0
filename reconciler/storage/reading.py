"""Reading the journal's files beside a writer that appends, cuts back, rotates and brings home without asking.

The lines in the spare place are read first, then the newest file is opened: what is brought home or rotated meanwhile
then shows twice (known by the line, and by the file's inode), never not at all. A line counts once its newline is
there.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from itertools import chain as joined

from reconciler.model import Record
from reconciler.patterns import pattern
from reconciler.storage import chain, spare, store
from reconciler.storage.chain import Verification
from reconciler.values import Value, replace

NAME = "journal.jsonl"
HEAD = "journal.head"

POLL = 0.2
"""Seconds between two looks while following; a person reads along, and it costs one stat."""

_ROTATED = pattern(re.escape(NAME) + r"\.([1-9][0-9]*)")
_BLOCK = 64 << 10
_SLACK = 60.0  # seconds that the file system's clock may differ from the records'
_EVERYTHING = 1 << 62  # an offset behind any file's end


def indices(folder: int) -> list[int]:
    """The numbers of the rotated files there, the newest (lowest) first."""
    found = (_ROTATED.fullmatch(name) for name in os.listdir(folder))
    return sorted(int(match[1]) for match in found if match)


def files_of(folder: int, keep: int) -> list[tuple[str, int]]:
    """Name and descriptor of each file, the oldest first; the caller closes them."""
    found: dict[int, tuple[str, int]] = {}
    for name in (NAME, *(f"{NAME}.{index}" for index in range(1, keep + 2))):
        with suppress(FileNotFoundError):
            fd = store.open_read(folder, name)
            status = os.fstat(fd)
            is_file = stat.S_ISREG(status.st_mode)
            if is_file and status.st_ino not in found:
                found[status.st_ino] = (name, fd)
                continue
            os.close(fd)
            if not is_file:
                close(found.values())
                raise OSError(errno.EISDIR, f"{name} is no file")
    return list(found.values())[::-1]


class Tail(Value):
    """What a file ends in: the hash of its last line, "" without one, and whether that line is whole."""

    last: str
    whole: bool

    @classmethod
    def of(cls, fd: int, size: int) -> Tail:
        """Read backwards until the last whole line is in hand."""
        start, text = size, b""
        while start and text.count(b"\n") <= 1:
            start = max(0, start - _BLOCK)
            text = store.content(fd, start)[: size - start]
        whole, newline, rest = text.rpartition(b"\n")
        line = whole.rpartition(b"\n")[2] + newline
        return cls(chain.hash_of(line) if newline else "", not rest)


def is_due(record: Record, since: float | None, service: str | None) -> bool:
    """Whether a reader asked for this one."""
    return (since is None or record.time >= since) and service in (None, record.service)


def history(root: store.Folders, since: float | None, keep: int) -> Iterator[Record]:
    """Every record, oldest first, but for files that were last written before ``since``."""
    return _records(_opened(root, keep), since)


class _Opened(Value):
    """The files at home, and the lines that are in the spare place."""

    files: list[tuple[str, int]]
    spare: list[bytes]

    def close(self) -> None:
        close(self.files)


def _opened(root: store.Folders, keep: int) -> _Opened:
    where = f"{store.HOME}/{NAME} cannot be read" + ("" if os.geteuid() == 0 else ", only root may")
    with store.failing(where):
        try:
            with store.folder(root, store.HOME) as folder:
                waiting = spare.lines(root, spare.JOURNAL)
                return _Opened(files_of(folder, keep), waiting)
        except FileNotFoundError:
            return _Opened([], spare.lines(root, spare.JOURNAL))


def _records(opened: _Opened, since: float | None) -> Iterator[Record]:
    waiting = {chain.body_of(line): line for line in opened.spare}
    try:
        for _, fd in opened.files:
            if since is None or os.fstat(fd).st_mtime >= since - _SLACK:
                yield from decoded(_taken_from(waiting, lines_of(fd)))
    finally:
        opened.close()
    yield from decoded(iter(waiting.values()))


def _taken_from(waiting: dict[bytes, bytes], lines: Iterator[bytes]) -> Iterator[bytes]:
    """All these lines, which wait no longer."""
    for line in lines:
        if waiting:
            waiting.pop(chain.body_of(line), None)
        yield line


def lines_of(fd: int) -> Iterator[bytes]:
    """The lines of an open file, block by block, from its own offset on."""
    with open(fd, "rb", closefd=False) as lines:
        yield from lines


def decoded(lines: Iterator[bytes]) -> Iterator[Record]:
    """The records of whole lines; what is none is for ``verify`` to tell."""
    for line in lines:
        with suppress(ValueError):
            yield chain.decode(line)


def follow(root: store.Folders, keep: int, sleep: Callable[[float], None], *, from_start: bool) -> Iterator[Record]:
    """Every record, then every new one, endlessly. Raises ``JournalError`` at once if it may not be read."""
    opened, at, seen = _opened(root, keep), dict[int, int](), set[bytes]()
    if not from_start:
        at = {os.fstat(fd).st_ino: _EVERYTHING for _, fd in opened.files[:-1]}
        at |= {os.fstat(fd).st_ino: _whole(fd, 0)[1] for _, fd in opened.files[-1:]}
        seen = set(map(chain.body_of, opened.spare))

    def wait() -> _Opened:
        sleep(POLL)
        return _opened(root, keep)

    return _follow(opened, at, seen, wait)


def _follow(opened: _Opened, at: dict[int, int], seen: set[bytes], wait: Callable[[], _Opened]) -> Iterator[Record]:
    """``at`` holds how far each file was read, by inode: a rotation changes names, and begins a new inode.

    ``seen`` holds what of the spare place was read: at home it is the same again.
    """
    while True:
        before, at = at, {}
        waiting = frozenset(map(chain.body_of, opened.spare))
        try:
            for _, fd in opened.files:
                inode = os.fstat(fd).st_ino
                lines, at[inode] = _whole(fd, before.get(inode, 0))
                yield from decoded(_new(lines, seen, waiting))
        finally:
            opened.close()
        yield from decoded(_new(iter(opened.spare), seen, waiting))
        if not waiting:
            seen.clear()
        opened = wait()


def _new(lines: Iterator[bytes], seen: set[bytes], waiting: Collection[bytes]) -> Iterator[bytes]:
    """Those that were not seen; of what waits in the spare place (the bodies of its lines), they are from now on."""
    for line in lines:
        body = chain.body_of(line) if seen or waiting else b""
        if body not in seen:
            if body in waiting:
                seen.add(body)
            yield line


def _whole(fd: int, start: int) -> tuple[Iterator[bytes], int]:
    """The whole lines from ``start`` on (the end, if the file was cut back), and where they end."""
    start = min(start, os.fstat(fd).st_size)
    text = store.content(fd, start)
    end = text.rfind(b"\n") + 1
    return iter(BytesIO(text[:end])), start + end


def verified(root: store.Folders, keep: int) -> Verification:
    """Follow the chain from the oldest record at home to the head, and on through the spare place."""
    try:
        with store.folder(root, store.HOME) as folder:
            waiting = spare.lines(root, spare.JOURNAL)
            head = _head(folder)  # before the files: what is written from here on lies behind it
            return _verify(folder, head, keep, waiting)
    except FileNotFoundError:
        return _verify_waiting(Verification(True, 0), spare.lines(root, spare.JOURNAL), chain.NONE)


def _head(folder: int) -> str | None:
    try:
        fd = store.open_read(folder, HEAD)
    except FileNotFoundError:
        return None
    try:
        return chain.head_of(store.content(fd))
    finally:
        os.close(fd)


def _verify(folder: int, head: str | None, keep: int, waiting: Sequence[bytes]) -> Verification:
    """The files at home, and what of ``waiting`` is not at home."""
    files, left, last = files_of(folder, keep), dict.fromkeys(waiting), b""

    def lines(fd: int) -> Iterator[bytes]:
        nonlocal last
        for line in lines_of(fd):
            left.pop(line, None)
            last = line if line.endswith(b"\n") else last
            yield line

    try:
        found = chain.verify(((name, lines(fd)) for name, fd in files), head, lossy=keep in indices(folder))
    finally:
        close(files)
    return _verify_waiting(found, [*left], chain.hash_of(last) if last else chain.NONE)


def _verify_waiting(found: Verification, waiting: Sequence[bytes], last: str) -> Verification:
    """Go on with the lines in the spare place, after the line with the hash ``last``."""
    if not found.ok or not waiting:
        return found
    more = chain.verify([(f"{spare.PLACE}/{spare.JOURNAL}", waiting)], None, lossy=True)
    why = found.why
    if chain.following(waiting, last) is None:
        why = f"the records in {spare.PLACE} follow others than those: whether any between are missing cannot be told"
    return replace(more, records=found.records + more.records, why=why if more.ok else f"in {spare.PLACE}: {more.why}")


def last_of(folder: int, keep: int, but: str = "") -> str:
    """The hash of the last record in the files there but one."""
    files = files_of(folder, keep)
    try:
        tails = (Tail.of(fd, os.fstat(fd).st_size).last for name, fd in reversed(files) if name != but)
        return next((last for last in tails if last), chain.NONE)
    finally:
        close(files)


def knows(folder: int, head: str, keep: int) -> bool:
    """Whether any file before the newest holds the line that the head names."""
    earlier = files_of(folder, keep)
    try:
        lines = joined.from_iterable(lines_of(fd) for name, fd in reversed(earlier) if name != NAME)
        return any(chain.hash_of(line) == head for line in lines)
    finally:
        close(earlier)


def close(files: Iterable[tuple[str, int]]) -> None:
    """Close what :func:`files_of` opened."""
    for _, fd in files:
        os.close(fd)

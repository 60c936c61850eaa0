"""The text of the journal, pure: records as lines, each holding the hash of the line before it.

A line is one JSON object; its ``prev`` is the SHA-256, in hex, of the whole line before it with its newline
(``sed -n 5p journal.jsonl | sha256sum`` gives the ``prev`` of line 6), 64 zeros before the first record. JSON
escapes every control and non-ASCII character, so what was observed can neither end a line nor hide in it.
"""

from __future__ import annotations

import json.encoder
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from io import BytesIO

from reconciler.digest import sha256
from reconciler.model import Record
from reconciler.patterns import pattern
from reconciler.values import Value

NONE = "0" * 64
"""The ``prev`` of the first record of all."""

_MICROSECONDS = "microseconds"
_KEYS = ("id", "pass", "record", "action", "kind", "service", "target", "outcome", "cause", "rule", "detail")
_HASH = pattern(r"[0-9a-f]{64}")
_text = json.encoder.encode_basestring_ascii  # an encoder made for each line costs as much as all of the line

# Enough of a line, in the order of encode(), to tell an intent from an outcome: a start must not parse
# megabytes. An id is quoted text without an escape in it; a line that does not look so is no record of an
# action.
_ACTION = pattern(rb'^\{"id":"([^"\\]*)","time":"[^"]*","pass":"[^"]*","record":"(intent|outcome)",', re.MULTILINE)


def stamp(moment: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC with microseconds: people and sort(1) read it."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec=_MICROSECONDS)[:-6] + "Z"


def encode(records: Iterable[Record], prev: str) -> tuple[bytes, str]:
    """The lines of ``records`` after a line with hash ``prev``, and the hash of the last of them."""
    lines = []
    last_time, text = float("nan"), ""
    for r in records:
        if r.time != last_time:  # a batch shares one moment
            last_time, text = r.time, stamp(r.time)
        line = _line(r, text, prev)
        prev = sha256(line).hexdigest()
        lines.append(line)
    return b"".join(lines), prev


def _line(r: Record, time: str, prev: str) -> bytes:
    return (
        f'{{"id":{_text(r.id)},"time":"{time}","pass":{_text(r.pass_id)},"record":{_text(r.record)},'
        f'"action":{_text(r.action)},"kind":{_text(r.kind)},"service":{_text(r.service)},"target":{_text(r.target)},'
        f'"outcome":{_text(r.outcome)},"cause":{_text(r.cause)},"rule":{_text(r.rule)},"detail":{_text(r.detail)},'
        f'"prev":"{prev}"}}\n'
    ).encode("ascii")


def decode(line: bytes) -> Record:
    """The record of a line, keys of a later version passed over. ``ValueError`` for anything else."""
    fields = _object(line)
    id_, *rest = (fields[key] for key in _KEYS)
    return Record(id_, datetime.fromisoformat(fields["time"]).timestamp(), *rest)


def _object(line: bytes) -> dict[str, str]:
    try:
        fields = json.loads(line)
    except RecursionError as error:
        raise ValueError("not a record") from error
    if not line.endswith(b"\n") or not isinstance(fields, dict):
        raise ValueError("not a record")
    if not all(isinstance(fields.get(key), str) for key in ("time", "prev", *_KEYS)):
        raise ValueError("a field is missing, or no text")
    return fields


def is_record(line: bytes) -> bool:
    """Whether this is a whole line of a journal."""
    try:
        decode(line)
    except ValueError:
        return False
    return True


def hash_of(line: bytes) -> str:
    """What the next line holds as ``prev``."""
    return sha256(line).hexdigest()


def body_of(line: bytes) -> bytes:
    """A line without its ``prev``: the same record after another line has the same one."""
    return line.rpartition(b'"prev":')[0]


def following(lines: Sequence[bytes], last: str) -> Sequence[bytes] | None:
    """What of ``lines`` comes after the line with the hash ``last``; ``None`` where they have nothing to do with it."""
    if not lines or _prev(lines[0]) == last:
        return lines
    return next((lines[n:] for n, line in enumerate(lines, 1) if hash_of(line) == last), None)


def is_whole(lines: Iterable[bytes]) -> bool:
    """Whether each of them is a record, and follows the one before it."""
    return verify([("", lines)], None, lossy=True).ok


def chained_on(lines: Iterable[bytes], last: str) -> list[bytes]:
    """The same records after the line with the hash ``last``."""
    text, _ = encode(map(decode, lines), last)
    return text.splitlines(keepends=True)


def head_of(text: bytes) -> str | None:
    """The hash that ``journal.head`` keeps; ``None`` for anything that is no hash."""
    found = text[:64].decode("ascii", "replace")
    return found if _HASH.fullmatch(found) else None


def open_intents(text: bytes) -> tuple[Record, ...]:
    """The intents that no outcome follows, in order; one whose stop is only ``pending`` counts as open."""
    waiting: dict[bytes, int] = {}
    for match in _ACTION.finditer(text):
        if match[2] == b"intent":
            waiting[match[1]] = match.start()
        elif match[1] in waiting and not _is_pending(_line_at(text, match.start())):
            del waiting[match[1]]
    lines = (_line_at(text, start) for start in waiting.values())
    return tuple(decode(line) for line in lines if is_record(line))


def _line_at(text: bytes, start: int) -> bytes:
    end = text.find(b"\n", start)
    return text[start:] if end < 0 else text[start : end + 1]


def _is_pending(line: bytes) -> bool:
    return b'"outcome":"pending"' in line and is_record(line) and decode(line).outcome == "pending"


class Survey(Value):
    """What a file ends in: ``end`` is where its good lines end, ``last`` the last one's hash, "" without any.

    ``head_seen``: the line that the head names is here, or right before the first line.
    """

    end: int
    last: str
    head_seen: bool


def survey(text: bytes, head: str | None) -> Survey:
    """Find where a crash tore a file.

    What the head does not vouch for may hold a batch that a power cut tore anywhere: all after the first line
    there that does not follow goes. Before it nothing is ever taken for torn but the last line: what else is
    wrong there is an edit, and stays to be seen by ``verify``.
    """
    end, last, seen, start = 0, "", False, 0
    for line in BytesIO(text):
        start += len(line)
        prev = _prev(line)
        seen = seen or (prev is not None and prev == head)
        follows = prev is not None and (not last or prev in (last, head))
        if not follows and (seen or (prev is None and start == len(text))):
            break
        end, last = start, hash_of(line)
        seen = seen or last == head
    return Survey(end, last, seen)


def _prev(line: bytes) -> str | None:
    try:
        return _object(line)["prev"]
    except ValueError:
        return None


class Verification(Value):
    """Whether the chain is whole. ``first_bad_line`` counts from 1 in ``file``; 0 where there is none."""

    ok: bool
    records: int
    first_bad_line: int = 0
    file: str = ""
    why: str = ""


def verify(files: Iterable[tuple[str, Iterable[bytes]]], head: str | None, *, lossy: bool) -> Verification:
    """Follow the chain through ``files`` (name and lines), the oldest first.

    ``lossy``: older files were rotated away, so the first record may follow anything; otherwise it must be
    the first of all. ``head`` is the hash of the last record as it was written, or of one before it (it is
    written after the records and not synced): no line may be missing up to there. Without it a cut end cannot
    show.
    """
    prev, name, number, count, seen = "" if lossy else NONE, "", 0, 0, head is None
    for name, lines in files:
        number = 0
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                continue  # torn, or being written at this moment: it is the last, and does not count yet
            found = _prev(line)
            if found is None:
                return Verification(False, count, number, name, "this is no record")
            if prev and found != prev:
                return Verification(False, count, number, name, _broken(number, count))
            prev, count = hash_of(line), count + 1
            seen = seen or head in (prev, found)
    if not seen:
        return Verification(
            False,
            count,
            max(number, 1),
            name,
            "the end was cut or edited: the last record written is not here",
        )
    why = "journal.head is missing: whether records are missing at the end cannot be told"
    return Verification(True, count, why=why if head is None and count else "")


def _broken(number: int, count: int) -> str:
    if count == 0:
        return "records before this one are missing"
    return f"line {number} does not follow the one before it: one was edited, or lines between are gone"

"""What the product wrote itself, and a crash or somebody else may have changed: journal, manifests, orders, memory."""

from __future__ import annotations

import time
from io import BytesIO

from reconciler import contested, overrides
from reconciler.errors import Unobservable
from reconciler.host.statusfile import parse as parse_status
from reconciler.log import _shape
from reconciler.model import Record
from reconciler.moment import Moment
from reconciler.render import Printer, record_text
from reconciler.shapes import record_shape
from reconciler.sinks import native, syslog_line
from reconciler.storage import chain, kept
from tests.fuzz.targets.bytes import printable, split, text

_NOW = Moment(1.7e9, "boot", 100.0)


def journal(data: bytes) -> None:
    """Any bytes are a journal to be read, surveyed, mended and verified; what is cut off it verifies."""
    head, lines = split(data, 2)
    known = chain.head_of(head)
    found = chain.survey(lines, known)
    assert 0 <= found.end <= len(lines)
    chain.open_intents(lines)
    result = chain.verify([("journal.jsonl", BytesIO(lines))], known, lossy=False)
    assert result.ok or result.first_bad_line > 0
    for line in BytesIO(lines):
        if chain.is_record(line):
            record = chain.decode(line)
            again, _ = chain.encode([record], chain.NONE)
            assert chain.decode(again) == record
            _shown(record)


def _shown(record: Record) -> None:
    """Whatever a record holds, it is one safe line."""
    out = BytesIO()
    from io import TextIOWrapper

    stream = TextIOWrapper(out, "utf-8")
    record_text(record, Printer(stream))
    stream.flush()
    assert printable(out.getvalue().decode().removesuffix("\n"))
    record_shape(record)


def torn(data: bytes) -> None:
    """A sound journal with a strange end: what is sound is kept, and what is kept follows."""
    records = [Record(f"p-{n}", 1.7e9 + n, "p", "intent", action="unlink", target=text(data[:20])) for n in range(3)]
    sound, last = chain.encode(records, chain.NONE)
    found = chain.survey(sound + data, last)
    assert found.end >= len(sound)
    kept_text = (sound + data)[: found.end]
    assert chain.verify([("f", BytesIO(kept_text))], last, lossy=False).ok or kept_text != sound


def logged(data: bytes) -> None:
    """Whatever a record holds, it is one entry of the journal, with our fields only, and one line of syslog."""
    parts = [text(part) for part in split(data, 5)]
    record = Record("p-1", 1.7e9, "p", "outcome", "unlink", "rclinks", parts[0], parts[1], "done", *parts[2:])
    fields = _shape("done", record=record)
    assert list(_entry(native(fields))) == list(fields)
    line = syslog_line(fields, time.gmtime(0))
    assert "\n" not in line
    line.encode("utf-8", "backslashreplace")


def _entry(raw: bytes) -> dict[str, bytes]:
    """A reader of journald's native protocol of its own."""
    found, at = {}, 0
    while at < len(raw):
        end = raw.index(b"\n", at)
        name, equals, value = raw[at:end].partition(b"=")
        if not equals:
            size = int.from_bytes(raw[end + 1 : end + 9], "little")
            value = raw[end + 9 : end + 9 + size]
            end += 9 + size
        found[name.decode()] = value
        at = end + 1
    return found


def manifest(data: bytes) -> None:
    """A line of the quarantine's: what it gives can be turned round; or ``ValueError``."""
    kept.id_of(data)
    try:
        found = kept.decode(data, lambda name: name.encode("utf-8", "replace"))
    except ValueError:
        return
    kept.inverse(found, start=True)


def orders(data: bytes) -> None:
    """Pauses and exceptions: understood and written as they were, or none and a fault; all of them end."""
    found = overrides.parse(data)
    if found.fault:
        assert found == overrides.Overrides(fault=found.fault)
        return
    assert overrides.parse(overrides.text_of(found)) == found
    found.in_force(_NOW).next_end(_NOW)
    found.paused(("ssh",), _NOW)


def memory(data: bytes) -> None:
    """What is contested: understood, or ``ValueError``."""
    try:
        found = contested.parse(data)
    except ValueError:
        return
    again = contested.parse(contested.text_of(found.corrected(("x",), _NOW)))
    assert found.established == again.established
    found.next_try(_NOW)


def status(data: bytes) -> None:
    """The daemon's status below /run: an object, or ``Unobservable``."""
    try:
        found = parse_status(data)
    except Unobservable as error:
        assert printable(str(error))
    else:
        assert found is None or isinstance(found, dict)


TARGETS = (journal, torn, logged, manifest, orders, memory, status)

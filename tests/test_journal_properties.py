"""What holds for every journal: a line gives its record back, a chain verifies, and nothing can be changed
unseen.
"""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.host.files import Root
from reconciler.journal import Journal, unverified
from reconciler.model import Record
from reconciler.storage import chain, store
from reconciler.text import escape

texts = st.text(max_size=12) | st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
moments = st.integers(0, 4_000_000_000_000_000).map(lambda micro: micro / 1_000_000)
kinds = st.sampled_from(["intent", "outcome", "start", "torn"])
records = st.builds(Record, texts, moments, texts, kinds, *[texts] * 8)
batches = st.lists(records, min_size=1, max_size=6)


@given(records)
def test_a_line_gives_its_record_back(record: Record) -> None:
    line, last = chain.encode([record], chain.NONE)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert chain.decode(line) == record
    assert chain.hash_of(line) == last


@given(moments)
def test_the_time_is_iso_8601_in_utc(moment: float) -> None:
    assert datetime.fromisoformat(chain.stamp(moment)) == datetime.fromtimestamp(moment, UTC)


def _verify(text: bytes, head: str) -> chain.Verification:
    return chain.verify([("journal.jsonl", BytesIO(text))], head, lossy=False)


@given(batches, st.data())
def test_no_byte_can_be_changed_unseen(some: list[Record], data: st.DataObject) -> None:
    text, head = chain.encode(some, chain.NONE)
    assert _verify(text, head) == chain.Verification(True, len(some))
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255))
    assume(text[at] != byte)
    found = _verify(text[:at] + bytes([byte]) + text[at + 1 :], head)
    assert not found.ok
    line = text[:at].count(b"\n") + 1
    assert found.first_bad_line in (line, line + 1)


@given(st.lists(records, min_size=2, max_size=8, unique=True), st.data())
def test_no_line_can_be_moved_taken_or_doubled_unseen(some: list[Record], data: st.DataObject) -> None:
    text, head = chain.encode(some, chain.NONE)
    lines = text.splitlines(keepends=True)
    one = data.draw(st.integers(0, len(lines) - 1))
    two = data.draw(st.integers(0, len(lines) - 1).filter(lambda n: n != one))
    gone = [*lines[:one], *lines[one + 1 :]]
    doubled = [*lines[: one + 1], *lines[one:]]
    swapped = list(lines)
    swapped[one], swapped[two] = lines[two], lines[one]
    for changed in (gone, doubled, swapped):
        assert not chain.verify([("f", changed)], head, lossy=False).ok


@given(batches, st.data())
def test_a_survey_finds_where_a_crash_tore_it(some: list[Record], data: st.DataObject) -> None:
    """Whatever prefix of a batch is on disk, and whatever the head last said: the whole lines are good."""
    text, _ = chain.encode(some, chain.NONE)
    lines = text.splitlines(keepends=True)
    cut = data.draw(st.integers(0, len(text)))
    whole = [line for n, line in enumerate(lines) if sum(map(len, lines[: n + 1])) <= cut]
    head = data.draw(st.none() | st.sampled_from([chain.NONE, *map(chain.hash_of, whole)]))
    found = chain.survey(text[:cut], head)
    assert found.end == len(b"".join(whole))
    assert found.last == (chain.hash_of(whole[-1]) if whole else "")


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["intent", "done", "pending", "held"])), max_size=20))
def test_open_intents_are_those_whose_last_word_is_none(script: list[tuple[int, str]]) -> None:
    waiting: dict[str, Record] = {}
    written = []
    for number, word in script:
        kind, outcome = ("intent", "") if word == "intent" else ("outcome", word)
        record = Record(escape(f"p.{number}"), 1.5, "p", kind, outcome=outcome, detail='"record":"intent"\n{"id":"x"')
        written.append(record)
        if kind == "intent":
            waiting[record.id] = record
        elif word != "pending":
            waiting.pop(record.id, None)
    text, _ = chain.encode(written, chain.NONE)
    assert chain.open_intents(text) == tuple(waiting.values())


class Writers(RuleBasedStateMachine):
    """Two writers, small files, torn ends, power cuts: the chain stays whole, no durable record is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.root = Root(self.folder.name)
        self.home = Path(self.folder.name) / store.HOME[1:]
        self.heads: list[bytes] = []
        self.written: list[Record] = []

    @initialize()
    def begin(self) -> None:
        self.writers = [self._new(), self._new()]

    def _new(self) -> Journal:
        return Journal(self.root, limit=1500, keep=200, clock=lambda: 1.0)

    @rule(which=st.integers(0, 1), batch=batches)
    def write(self, which: int, batch: list[Record]) -> None:
        self.writers[which].write(batch)
        self.written += batch
        self.heads = [*self.heads[-2:], (self.home / "journal.head").read_bytes()]

    @rule(which=st.integers(0, 1))
    def restart(self, which: int) -> None:
        self.writers[which].close()
        self.writers[which] = self._new()
        journal = self.writers[which]
        journal.write([unverified(intent, 1.0, "killed") for intent in journal.recover()])

    @precondition(lambda self: self.written)
    @rule(torn=st.binary(min_size=1, max_size=30).filter(lambda raw: b"\n" not in raw))
    def tear(self, torn: bytes) -> None:
        with (self.home / "journal.jsonl").open("ab") as file:
            file.write(torn)

    @precondition(lambda self: self.heads)
    @rule(which=st.integers(0, 2))
    def lose_the_head(self, which: int) -> None:
        (self.home / "journal.head").write_bytes(self.heads[min(which, len(self.heads) - 1)])

    @invariant()
    def whole(self) -> None:
        found = self._new().verify()
        assert found.ok, found
        ours = [r for r in self._new().read() if r.detail != "killed" and not r.id.startswith("torn@")]
        assert ours == [r for r in self.written if r.detail != "killed" and not r.id.startswith("torn@")]

    def teardown(self) -> None:
        for writer in getattr(self, "writers", ()):
            writer.close()
        self.root.close()
        self.folder.cleanup()


TestWriters = Writers.TestCase
TestWriters.settings = settings(max_examples=25, stateful_step_count=25)

"""A journal on disk to write, break and read in tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from reconciler.host.files import Root
from reconciler.journal import Journal
from reconciler.model import Record
from reconciler.storage import store

NOW = 1_700_000_000.25


def record(number: int, kind: str = "intent", outcome: str = "", **fields: str) -> Record:
    return Record(f"p1.{number}", NOW + number, "p1", kind, "unlink", "rclinks", "exim4", outcome=outcome, **fields)


def records(count: int, start: int = 0) -> list[Record]:
    return [record(number) for number in range(start, start + count)]


class Place:
    """A root on disk with the paths of its journal."""

    def __init__(self, path: Path) -> None:
        self.root = Root(str(path))
        self.home = path / store.HOME[1:]
        self.file = self.home / "journal.jsonl"
        self.head = self.home / "journal.head"

    def journal(self, forward: Callable[[Sequence[Record]], None] | None = None, **limits: int) -> Journal:
        return Journal(self.root, forward, clock=lambda: NOW, **limits)

    def lines(self) -> list[bytes]:
        return self.file.read_bytes().splitlines(keepends=True)

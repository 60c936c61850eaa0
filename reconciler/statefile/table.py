"""One table of one file, read key by key: errors are noted and reading goes on, so that all show at once.

Whoever reads asks for each key it knows; what is left over is unknown. Values of earlier files are handed in
as ``before``: that is how files merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

from reconciler.statefile.words import Wrong, byte_size, did_you_mean, did_you_mean_or, plain, quote
from reconciler.text import escape
from reconciler.timespan import parse_span

if TYPE_CHECKING:
    from reconciler.statefile.lines import KeyPath

T = TypeVar("T")
Word = TypeVar("Word", bound=str)

_TYPES = {
    bool: "true or false",
    int: "a number",
    float: "a number with a fraction",
    str: "a string",
    list: "a list",
    dict: "a table",
}
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_HUGE = 1 << 62  # TOML's numbers have no end, floats have

Bound = tuple[float, str]
"""A limit of a value, and how a message calls it."""

SECOND: Bound = (1.0, "one second")
YEAR: Bound = (365.25 * 86400, "a year")  # a longer interval is a slip of the unit


class Notes:
    """What is to be said about one file; lines are looked up only when there is something to say."""

    def __init__(self, file: str) -> None:
        self.file = escape(file)
        self.text = ""  # set once it is known to be valid TOML
        self.errors: list[tuple[KeyPath | int | None, str]] = []
        self.warnings: list[tuple[KeyPath | int | None, str]] = []

    def error(self, where: KeyPath | int | None, message: str) -> None:
        """Note an error at a key, at a line, or on the whole file."""
        self.errors.append((where, message))

    def warn(self, where: KeyPath | int | None, message: str) -> None:
        """Note what is allowed but surely not meant."""
        self.warnings.append((where, message))

    def error_lines(self) -> list[str]:
        """Each error as the user reads it, by line."""
        return self._lines(self.errors)

    def warning_lines(self) -> list[str]:
        """Each warning as the user reads it, by line."""
        return self._lines(self.warnings)

    def _lines(self, notes: Iterable[tuple[KeyPath | int | None, str]]) -> list[str]:
        index = self._index() if notes else {}
        placed = [(_line(where, index), where, message) for where, message in notes]
        placed.sort(key=lambda note: note[0])
        lines = (f"{self.file}{_place(line, where)}: {message}" for line, where, message in placed)
        return list(dict.fromkeys(lines))

    def _index(self) -> Mapping[KeyPath, int]:
        from reconciler.statefile.lines import line_index  # needed only when there is something to say

        try:
            return line_index(self.text)
        except (ValueError, RecursionError):  # nested so deeply that tomllib only just managed
            return {}


def _line(where: KeyPath | int | None, index: Mapping[KeyPath, int]) -> int:
    if isinstance(where, tuple):
        return index.get(where) or (_line(where[:-1], index) if where else 1)
    return where or 0


def _place(line: int, where: KeyPath | int | None) -> str:
    if not line:
        return ""
    return f":{line}: {key_text(where)}" if isinstance(where, tuple) else f":{line}"


def key_text(path: KeyPath) -> str:
    """A key path as TOML writes it, without the numbers of list items: the line tells which one is meant."""
    return ".".join(_key(part) for part in path if isinstance(part, str))


def _key(part: str) -> str:
    return part if part and _BARE.issuperset(part) else f'"{escape(part)}"'


class Table:
    """The keys of one table; ``path`` is where it stands in the file."""

    def __init__(
        self, values: Mapping[str, object], notes: Notes, path: KeyPath = (), parent: Table | None = None
    ) -> None:
        self.values, self.notes, self.path, self.parent = values, notes, path, parent
        self._known: dict[str, None] = {}
        self._children: list[Table] = []

    def child(self, values: Mapping[str, object], *at: str | int) -> Table:
        """A table below this one, checked for unknown keys together with it."""
        table = Table(values, self.notes, (*self.path, *at), self)
        self._children.append(table)
        return table

    def get(self, key: str) -> object:
        """The raw value, ``None`` where the key is missing (TOML has no null)."""
        self._known[key] = None
        return self.values.get(key)

    def error(self, key: str, message: str) -> None:
        """Note an error at a key of this table."""
        self.notes.error((*self.path, key), message)

    def flag(self, key: str, before: bool) -> bool:
        """True or false."""
        value = self._of(key, bool)
        return before if value is None else value

    def word(self, key: str, before: Word, words: tuple[Word, ...]) -> Word:
        """One of a few words."""
        value = self._of(key, str)
        for word in words:
            if value == word:
                return word
        if value is not None:
            listed = " or ".join(map(quote, words))
            self.error(key, f"must be {listed}, not {quote(value)}{did_you_mean(value, words)}")
        return before

    def text(self, key: str, parse: Callable[[str], T]) -> T | None:
        """A string that ``parse`` accepts, and what it makes of it."""
        value = self._of(key, str)
        if value is None:
            return None
        try:
            return parse(value)
        except Wrong as wrong:
            self.error(key, str(wrong))
            return None

    def span(self, key: str, before: float, least: Bound = SECOND, most: Bound = YEAR) -> float:
        """A time span in seconds, within these bounds."""
        value = self.get(key)
        if value is None:
            return before
        if isinstance(value, bool) or not isinstance(value, str | int):
            wanted = "a time span such as '5min' or a whole number of seconds"
            self.error(key, f"must be {wanted}, not {kind_of(value)}")
            return before
        try:
            return _within(_seconds(value), value, least, most)
        except Wrong as wrong:
            self.error(key, str(wrong))
            return before

    def size(self, key: str, before: int, least: Bound, most: Bound) -> int:
        """A size in bytes, within these bounds."""
        value = self.get(key)
        if value is None:
            return before
        if isinstance(value, bool) or not isinstance(value, str | int):
            self.error(key, f"must be a size such as '64MiB' or a whole number of bytes, not {kind_of(value)}")
            return before
        try:
            bytes_ = float(max(0, min(value, _HUGE))) if isinstance(value, int) else byte_size(value)
            return int(_within(bytes_, value, least, most))
        except Wrong as wrong:
            self.error(key, str(wrong))
            return before

    def table(self, key: str) -> Table | None:
        """A table of its own; ``None`` where it is missing."""
        value, written = self.get(key), key_text((*self.path, key))
        if isinstance(value, dict):
            return self.child(value, key)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            self.error(key, f"must be one table: write [{written}], not [[{written}]]")
        elif value is not None:
            self.error(key, f"must be a table such as [{written}], not {kind_of(value)}")
        return None

    def items(self, key: str, types: tuple[type, ...] = (str,)) -> Iterator[tuple[int, object]]:
        """The items of a list that are of the right type, with their numbers."""
        value = self._of(key, list)
        for number, item in enumerate(value or ()):
            if isinstance(item, types):
                yield number, item
            else:
                expected = " or ".join(_TYPES[wanted] for wanted in types)
                self.notes.error((*self.path, key, number), f"each entry must be {expected}, not {kind_of(item)}")

    def strings(self, key: str, before: tuple[str, ...], check: Callable[[str], str]) -> tuple[str, ...]:
        """A list of strings joined to those of earlier files; ``"!name"`` takes one out."""
        return self.joined(key, before, lambda item, _number: check(str(item)), str.__eq__)

    def joined(
        self,
        key: str,
        before: tuple[T, ...],
        parse: Callable[[object, int], T | None],
        same: Callable[[T, T], bool],
        types: tuple[type, ...] = (str,),
    ) -> tuple[T, ...]:
        """A list joined to that of earlier files; ``parse`` gives ``None`` after noting errors itself."""
        joined = _Joined(before, same)
        for number, item in self.items(key, types):
            at = (*self.path, key, number)
            shown = quote(item) if isinstance(item, str) else "this table"
            out = isinstance(item, str) and item.startswith("!")
            try:
                value = parse(str(item)[1:] if out else item, number)
            except Wrong as wrong:
                self.notes.error(at, str(wrong))
                continue
            if value is None:
                continue
            if out and not joined.take_out(value):
                self.notes.warn(at, f"{shown} takes nothing out: no entry before it is the same")
            elif not out and not joined.put(value):
                self.notes.warn(at, f"{shown} stands in this list twice")
        return joined.result()

    def close(self) -> None:
        """Note every key that nobody asked for, here and in the tables below."""
        for key in self.values:
            if key not in self._known:
                self.error(key, f"unknown key{self._where_it_belongs(key)}")
        for table in self._children:
            table.close()

    def _where_it_belongs(self, key: str) -> str:
        top = self
        while top.parent is not None:
            top = top.parent
        if top is not self and key in top._known:
            return f"; {quote(key)} belongs at the top of the file, before the first [table]"
        return did_you_mean_or(key, self._known)

    def _of(self, key: str, wanted: type[T]) -> T | None:
        value = self.get(key)
        if value is None or type(value) is wanted:  # not isinstance: to Python, true is a number
            return value
        self.error(key, f"must be {_TYPES[wanted]}, not {kind_of(value)}")
        return None


class _Joined(Generic[T]):
    """A list while it is joined: ordered, each entry once."""

    def __init__(self, before: Iterable[T], same: Callable[[T, T], bool]) -> None:
        self._entries = dict.fromkeys(before)
        self._own: set[T] = set()  # put by this file: to have an entry of an earlier file again is no slip
        self._same = same

    def put(self, value: T) -> bool:
        """False where this file has put the same before."""
        fresh = value not in self._own
        self._own.add(value)
        self._entries[value] = None
        return fresh

    def take_out(self, value: T) -> bool:
        """False where there was nothing to take out."""
        gone = [entry for entry in self._entries if self._same(entry, value)]
        for entry in gone:
            del self._entries[entry]
            self._own.discard(entry)
        return bool(gone)

    def result(self) -> tuple[T, ...]:
        return tuple(self._entries)


def _within(amount: float, value: str | int, least: Bound, most: Bound) -> float:
    shown = f"{quote(value)} " if isinstance(value, str) else ""
    if amount < least[0]:
        raise Wrong(f"{shown}is less than {least[1]}")
    if amount > most[0]:
        raise Wrong(f"{shown}is more than {most[1]}")
    return amount


def _seconds(value: str | int) -> float:
    if isinstance(value, int):
        return float(max(0, min(value, _HUGE)))
    text = plain(value)
    try:
        return parse_span(text)
    except ValueError as error:
        raise Wrong(f"{quote(text)} {error}") from error


def kind_of(value: object) -> str:
    """What a TOML value is, in words."""
    return _TYPES.get(type(value), "a date or time")

"""The line of every key of a TOML text, which no TOML library tells.

Only texts that ``tomllib`` has accepted come here, so this scanner checks nothing: it knows just enough of
the grammar to tell where keys are and where values end. Whatever ``tomllib`` sees has a line here.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterator

KeyPath = tuple[str | int, ...]
"""Names of tables and keys, and list items counted from 0: ``("listeners", "approved", 0, "port")``."""

_BASIC, _LITERAL = r'"(?:\\.|[^"\\\n])*"', r"'[^'\n]*'"
_KEY = re.compile(rf"{_BASIC}|{_LITERAL}|[A-Za-z0-9_-]+", re.DOTALL)
_STRING = re.compile(
    rf"""\"\"\"(?:"{{0,2}}(?:\\.|[^"\\]))*"{{3,5}}|'''(?:'{{0,2}}[^'])*'{{3,5}}|{_BASIC}|{_LITERAL}""",
    re.DOTALL,
)
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_VALUE = re.compile(r"[^,\]}\n#]+")


def line_index(text: str) -> dict[KeyPath, int]:
    """The line, counted from 1, of each key, table and list item of a valid TOML text.

    A table's line is that of its own header, else of the first header or dotted key that implies it.
    """
    return _Scanner(text).run()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self._ends = [m.start() for m in re.finditer("\n", text)]
        self._counts: dict[KeyPath, int] = {}  # tables so far in each array of tables

    def run(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._next():
            if self.text.startswith("[[", self.at):
                table = self._array_header()
            elif self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self.lines

    def _next(self) -> str:
        """Skip blanks and comments; the character that follows, "" at the end."""
        blank = _BLANK.match(self.text, self.at)
        self.at = blank.end() if blank else self.at
        return self.text[self.at : self.at + 1]

    def _line(self) -> int:
        return bisect_right(self._ends, self.at) + 1

    def _header(self) -> KeyPath:
        line = self._line()
        self.at += 1
        *before, last = self._names()
        path = (*self._inside(before, line), last)
        self.lines[path] = line
        self.at += 1
        return path

    def _array_header(self) -> KeyPath:
        line = self._line()
        self.at += 2
        *before, last = self._names()
        array = (*self._inside(before, line), last)
        number = self._counts.get(array, 0)
        self._counts[array] = number + 1
        self.lines.setdefault(array, line)
        self.lines[*array, number] = line
        self.at += 2
        return (*array, number)

    def _inside(self, names: list[str], line: int) -> KeyPath:
        """The path of a header's leading names: in an array of tables the last table is meant."""
        path: KeyPath = ()
        for name in names:
            path = (*path, name)
            self.lines.setdefault(path, line)
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _pair(self, table: KeyPath) -> None:
        """One ``key = value``, the key dotted perhaps."""
        line = self._line()
        for name in self._names():
            table = (*table, name)
            self.lines.setdefault(table, line)
        self.at += 1  # the equals sign
        self._value(table)

    def _names(self) -> list[str]:
        """The names of a dotted key; stops at what follows it."""
        return list(self._each_name())

    def _each_name(self) -> Iterator[str]:
        while True:
            self._next()
            found = _KEY.match(self.text, self.at)
            if found is None:  # only in a text that tomllib does not accept
                raise ValueError("no key here")
            self.at = found.end()
            yield _plain(found[0])
            if self._next() != ".":
                return
            self.at += 1

    def _value(self, path: KeyPath) -> None:
        start = self._next()
        if start == "[":
            self._array(path)
        elif start == "{":
            self._inline_table(path)
        else:
            self._scalar(_STRING if start in ("'", '"') else _BARE_VALUE)

    def _scalar(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self.text, self.at)
        if not found:  # only in a text that tomllib does not accept
            raise ValueError("no value here")
        self.at = found.end()

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        number = 0
        while self._next() != "]":
            self.lines[*path, number] = self._line()
            self._value((*path, number))
            number += 1
            if self._next() == ",":
                self.at += 1
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        while self._next() != "}":
            self._pair(path)
            if self._next() == ",":
                self.at += 1
        self.at += 1


def _plain(key: str) -> str:
    if key[0] not in "\"'":
        return key
    return str(tomllib.loads(f"key = {key}")["key"])  # its own decoder: escapes cannot be read differently here

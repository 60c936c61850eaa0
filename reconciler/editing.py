"""Changes of a state's text that keep everything else of it: comments, order, spelling (tomlkit).

Each change is proved: what the new text says is what the old one said, and the one thing that was asked for. Where
tomlkit would make anything else of it, the text stays as it is and a person has to edit it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reconciler.errors import ReconcilerError

try:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError
    from tomlkit.items import Array
except ModuleNotFoundError as missing:  # a checkout: the package depends on it
    raise ReconcilerError(
        "this command edits the state with a library that is not installed: sudo apt install python3-tomlkit"
    ) from missing

_INDENT = re.compile(r"^([ \t]+)[^\s\]]", re.MULTILINE)


def set_mode(text: str, mode: str) -> str:
    """The state with another mode."""

    def change(values: Any) -> None:  # noqa: ANN401  (a TOML document, tomlkit's or plain)
        values["mode"] = mode

    return _edited(text, change)


def change_list(text: str, table: str, *, put: Sequence[str] = (), take: Sequence[str] = ()) -> str:
    """The state with words added to ``table.approved`` and taken out of it; a table that is missing is made."""

    # One word at a time, each on a text read anew: tomlkit 0.11 loses count of a list that it changed before.
    for word in take:
        while word in list_of(text, table):
            text = _edited(text, partial(_remove, table, word))
    for word in put:
        text = _edited(text, partial(_append, table, word))
    return text


def _list_in(values: Any, table: str) -> Any:  # noqa: ANN401
    if table not in values:
        values[table] = {}
    if "approved" not in values[table]:
        values[table]["approved"] = []
    return values[table]["approved"]


def _remove(table: str, word: str, values: Any) -> None:  # noqa: ANN401
    """The last one of that word."""
    words = values[table]["approved"]
    del words[max(index for index, each in enumerate(words) if each == word)]


def _append(table: str, word: str, values: Any) -> None:  # noqa: ANN401
    """A line of its own where the list has lines; tomlkit's ``append`` would put it behind the last one's comment."""
    words = _list_in(values, table)
    text = words.as_string() if isinstance(words, Array) else ""
    if "\n" in text:
        indents = _INDENT.findall(text)
        words.add_line(word, indent=indents[-1] if indents else "    ")
    else:
        words.append(word)


def list_of(text: str, table: str) -> tuple[object, ...]:
    """What ``table.approved`` of this very file holds."""
    found = tomllib.loads(text).get(table, {}).get("approved", ())
    return tuple(found)


def _edited(text: str, change: Callable[[Any], None]) -> str:
    wanted = tomllib.loads(text)
    try:
        change(wanted)
        document = tomlkit.parse(text)
        change(document)
        new = tomlkit.dumps(document)
        proved = tomllib.loads(new) == wanted
    except (TOMLKitError, tomllib.TOMLDecodeError, TypeError, ValueError, AttributeError) as error:
        raise ReconcilerError(f"the state cannot be changed without touching the rest of it: {error}") from error
    if not proved:
        raise ReconcilerError("the state cannot be changed without touching the rest of it: edit it by hand")
    return new

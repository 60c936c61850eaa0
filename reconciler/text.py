"""Observed text made safe to print. A name on disk may hold any byte but ``/`` and NUL, terminal escapes included."""

from __future__ import annotations

from functools import cache

from reconciler.patterns import pattern

# Characters that a terminal or a log reader could act on: C0, DEL, C1, line separators and direction overrides.
_UNSAFE = {
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\\",
}


def escape(text: str) -> str:
    r"""Make observed text safe to print, reversibly: each unsafe or undecodable byte becomes ``\xNN``.

    >>> escape("S20a\nb")
    'S20a\\x0ab'
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape_character(c) if _is_unsafe(c) else c for c in text)


def _is_unsafe(character: str) -> bool:
    return character in _UNSAFE or "\ud800" <= character <= "\udfff"


def _escape_character(character: str) -> str:
    # Half a pair is no byte of any name; only a journal that somebody wrote can hold one.
    errors = "surrogateescape" if "\udc80" <= character <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", errors))


def plain(text: str) -> str:
    """Make free text safe to print; unlike :func:`escape`, twice is as good as once: details quote escaped names."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_character(c) if c != "\\" and _is_unsafe(c) else c for c in text)


def beginning(text: str, most: int) -> str:
    """Free text safe to print, of at most so many characters: what is cut says so, and no escape is cut in two."""
    shown = plain(text)
    return shown if len(shown) <= most else f"{_HALF.sub('', shown[: most - 3])}..."


_HALF = pattern(r"\\+(x[0-9a-f]?)?\Z")


def argument(text: str) -> str:
    """A name as one word of a command that is shown, safe to paste into a shell."""
    shown = escape(text)
    if shown and all(c.isascii() and (c.isalnum() or c in "@%+=:,./_-") for c in shown):
        return shown
    return "'" + shown.replace("'", "'\"'\"'") + "'"


@cache
def in_words(name: str) -> str:
    """A class's name as it is written in plans: ``WriteFile`` -> ``write-file``."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in name)[1:]


def unescape(text: str) -> str:
    """Give back what :func:`escape` was given; what it never made stays as it is: a journal may hold anything."""
    raw = text.encode("utf-8", "surrogatepass")
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), raw).decode("utf-8", "surrogateescape")


_ESCAPED = pattern(rb"\\x([0-9a-f]{2})")

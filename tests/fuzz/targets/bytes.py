"""One input made into several texts and names."""

from __future__ import annotations

SEPARATOR = b"\0\0"


def split(data: bytes, count: int) -> list[bytes]:
    """Exactly so many parts, divided by two NUL bytes; the last holds whatever is left."""
    parts = data.split(SEPARATOR, count - 1)
    return parts + [b""] * (count - len(parts))


def text(data: bytes) -> str:
    """As the product decodes what it reads."""
    return data.decode("utf-8", "surrogateescape")


def names(data: bytes) -> list[str]:
    """Names as a folder may hold them: any bytes but ``/`` and NUL, each once, none longer than 255 bytes."""
    found = (part[:255] for part in data.replace(b"/", b"\0").split(b"\0"))
    return list(dict.fromkeys(text(name) for name in found if name not in (b"", b".", b"..")))


def printable(line: str) -> bool:
    """True for what may go to a terminal as one line."""
    return not any(ord(each) < 0x20 or 0x7F <= ord(each) < 0xA0 or each in ACTING for each in line)


ACTING = frozenset("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\ufeff")
"""What a terminal or a log reader would act on, besides control characters."""

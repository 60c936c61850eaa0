"""What a single word of a desired state may be: names, globs, paths; and how messages show a wrong one."""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.text import escape

_SHOWN = 60  # characters of a value that a message repeats
_BYTES = frozenset(map(str, range(256)))
_NAME_MAX = 255  # bytes of a file name, limits.h; unit names have the same limit, systemd.unit(5)


class Wrong(ValueError):
    """A value that is refused. The text says what is wrong; whoever knows file, line and key adds them."""


def quote(text: str) -> str:
    """A value as messages show it: short, and safe on a terminal."""
    return f"'{escape(text if len(text) <= _SHOWN else text[:_SHOWN] + '...')}'"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``, did you mean 'x'?`` for the nearest known word, "" where none is near."""
    from difflib import get_close_matches  # needed for errors only

    spelled = {name.casefold(): name for name in known}
    near = get_close_matches(word[:_SHOWN].casefold(), spelled, n=1)
    return f", did you mean {quote(spelled[near[0]])}?" if near else ""


def did_you_mean_or(word: str, known: Iterable[str]) -> str:
    """The same, or all known words where none is near."""
    words = sorted(known)
    return did_you_mean(word, words) or (f" (known: {', '.join(words)})" if words else "")


def plain(text: str) -> str:
    """A text that is neither empty nor able to break a line, a record or a terminal.

    Backslashes are harmless and are part of names: systemd.unit(5) escapes with them (``luks\\x2dswap``).
    """
    if not text:
        raise Wrong("is empty")
    if escape(shown := text.replace("\\", "")) != shown or not shown.isprintable():
        raise Wrong(f"{quote(text)} has a character in it that does not print")
    return text


def service_name(text: str) -> str:
    """A service, init script or unit, globs allowed. Neither systemd.unit(5) nor insserv(8) knows blanks."""
    _word(text)
    if "/" in text:
        raise Wrong(f"{quote(text)} is a path: the name of a service belongs here")
    return _glob(text)


def executable(text: str) -> str:
    """An executable, by its bare name or its absolute path; globs allowed."""
    plain(text)
    if "/" in text and not text.startswith("/"):
        raise Wrong(f"{quote(text)} is neither a bare name nor an absolute path")
    if {"", ".", ".."} & set(text.removeprefix("/").split("/")):
        raise Wrong(f"{quote(text)} is not a path as the kernel writes it, without '//', '.', '..' and a last '/'")
    return _glob(text)


def socket_path(text: str) -> str:
    """The path of a unix socket, globs allowed; ``@`` starts an abstract name, as ss(8) writes it."""
    plain(text)
    return _glob(text if text[0] in "/@" else f"/{text}")


def ip_address(text: str) -> str:
    """An IPv4 or IPv6 address, the latter in its shortest spelling."""
    if _is_ipv4(plain(text)):
        return text
    from ipaddress import ip_address as parse  # costs 2 ms of the 50 that a plan may take

    try:
        return str(parse(text))
    except ValueError as error:
        raise Wrong(f"{quote(text)} is not an IP address such as '192.0.2.10' or '2001:db8::1'") from error


def _is_ipv4(text: str) -> bool:
    return [part in _BYTES for part in text.split(".")] == [True] * 4


def byte_size(text: str) -> float:
    """A size in bytes: ``64MiB``, ``64M``, ``1G``; as in systemd.syntax(7) each unit is 1024 of the one before."""
    number = plain(text).strip(" ").rstrip("BKMGTi")
    unit = text.strip(" ")[len(number) :]
    digits = number.strip(" ")
    if not (digits.isascii() and digits.isdecimal()):
        raise Wrong(f"{quote(text)} is not a size such as '64MiB', '1G' or a whole number of bytes")
    power = _SIZES.get(unit)
    if power is None:
        raise Wrong(f"{quote(text)} has no unit of size {quote(unit)} (K M G T, KiB MiB GiB TiB)")
    return float(int(digits[:_DIGITS])) * 1024.0**power


_DIGITS = 18
_SIZES = {"": 0, "B": 0, **{f"{name}{more}": n for n, name in enumerate("KMGT", 1) for more in ("", "iB")}}


def file_path(text: str) -> str:
    """A path to a file, relative to the file that names it or absolute."""
    return plain(text)


def interfaces_name(text: str) -> str:
    """A name in /etc/network/interfaces.d that ``source interfaces.d/*`` reads, interfaces(5)."""
    _word(text)
    if "/" in text:
        raise Wrong(f"{quote(text)} is a path: a name in interfaces.d belongs here")
    if text.startswith("."):
        raise Wrong(f"{quote(text)} starts with a dot: ifupdown does not read such a file")
    if text.startswith("!"):
        raise Wrong(f"{quote(text)}: only entries of lists can be taken out with '!'")
    return text


def _word(text: str) -> str:
    plain(text)
    if " " in text:
        raise Wrong(f"{quote(text)} has a blank in it")
    if len(text.encode()) > _NAME_MAX:
        raise Wrong(f"{quote(text)} is longer than {_NAME_MAX} bytes")
    return text


def _glob(text: str) -> str:
    """Refuse a glob that :mod:`fnmatch` would quietly take for something else."""
    at = text.find("[")
    while at >= 0:
        start = at + 1 + text.startswith("!", at + 1)
        end = text.find("]", start + 1)  # a ']' right after the opening stands for itself
        if end < 0:
            raise Wrong(f"{quote(text)} is not a glob: its '[' is never closed")
        _ranges(text, text[start:end])
        at = text.find("[", end)
    return text


def _ranges(text: str, inside: str) -> None:
    for at in range(1, len(inside) - 1):
        if inside[at] == "-" and inside[at - 1] > inside[at + 1]:
            raise Wrong(f"{quote(text)} is not a glob: {quote(inside[at - 1 : at + 2])} runs backwards")


_INETD_PROTOCOLS = tuple(
    f"{remote}{base}{family}" for remote in ("", "rpc/") for base in ("tcp", "udp") for family in ("", "4", "6")
)


def inetd_line(text: str) -> str:
    """``service/protocol``, the first and third column of inetd.conf(5) (``rstatd/1-3/rpc/udp``)."""
    _word(text)
    names = text.split("/")
    if len(names) == 1:
        raise Wrong(f"{quote(text)} has no protocol: write 'service/tcp' or 'service/udp'")
    if "" in names:
        raise Wrong(f"{quote(text)} lacks the service or the protocol around a '/'")
    if names[-1] not in _INETD_PROTOCOLS:
        if names[0] in _INETD_PROTOCOLS:
            turned = quote("/".join((*names[1:], names[0])))
            raise Wrong(f"{quote(text)}: here the service comes first, write {turned}")
        hint = did_you_mean_or(names[-1], _INETD_PROTOCOLS)
        raise Wrong(f"{quote(text)}: unknown protocol {quote(names[-1])}{hint}")
    return text

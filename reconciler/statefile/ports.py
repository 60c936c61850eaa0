"""How a listener is written: ``tcp/22``, ``tcp/8000-8100``, ``tcp/ssh``, ``unix/dev/log``."""

from __future__ import annotations

from collections.abc import Callable

from reconciler.errors import Unobservable
from reconciler.model import FileState
from reconciler.statefile.words import Wrong, did_you_mean, did_you_mean_or, plain, quote, socket_path
from reconciler.text import escape

PROTOCOLS = ("tcp", "udp", "unix")
PORT_MAX = 65535
_LENGTH = 5  # of PORT_MAX

Port = tuple[str, tuple[int, int], str]
"""Protocol, closed range of ports, path: a unix socket has the range (0, 0), the others the path ""."""


class PortNames:
    """The names of services(5), read from /etc/services when the first one is asked for."""

    def __init__(self, read: Callable[[], FileState | None]) -> None:
        self._read = read
        self._known: dict[str, dict[str, int]] | None = None

    def port(self, protocol: str, name: str) -> int:
        """The port that a name stands for; ``Wrong`` where /etc/services does not say."""
        if self._known is None:
            self._known = self._load()
        ports = self._known.get(name, {})
        if protocol in ports:
            return ports[protocol]
        if ports:
            other, number = next(iter(ports.items()))
            shown = escape(f"{other}/{number}")
            raise Wrong(f"{quote(name)} is {shown} in /etc/services, which says nothing for {protocol}")
        raise Wrong(f"no such name in /etc/services: {quote(name)}{did_you_mean(name, self._known)}")

    def _load(self) -> dict[str, dict[str, int]]:
        try:
            state = self._read()
        except Unobservable as error:
            raise Wrong(f"/etc/services cannot be read: {error}") from error
        return parse_services(state.content if state else b"")


def parse_services(content: bytes) -> dict[str, dict[str, int]]:
    """Each name and alias of services(5) with its port by protocol; lines that are none are passed over."""
    known: dict[str, dict[str, int]] = {}
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        name, port, *aliases = (*line.partition("#")[0].split(), "", "")
        number, _, protocol = port.partition("/")
        if _digits(number) and len(number) <= _LENGTH and int(number) <= PORT_MAX:
            for word in filter(None, (name, *aliases)):
                known.setdefault(word, {}).setdefault(protocol, int(number))
    return known


def parse_port(text: str, names: PortNames) -> Port:
    """Read one listener. Raises ``Wrong``."""
    protocol, slash, rest = plain(text).partition("/")
    if not slash:
        raise Wrong(f"{quote(text)} is not protocol/port, as in 'tcp/22', 'udp/67-68', 'tcp/ssh' or 'unix/dev/log'")
    if protocol not in PROTOCOLS:
        if rest in PROTOCOLS:
            raise Wrong(f"{quote(text)}: the protocol comes first, write {quote(f'{rest}/{protocol}')}")
        raise Wrong(f"{quote(text)}: unknown protocol {quote(protocol)}{did_you_mean_or(protocol, PROTOCOLS)}")
    if not rest:
        raise Wrong(f"{quote(text)}: {'a path' if protocol == 'unix' else 'a port'} is missing after the '/'")
    if protocol == "unix":
        return protocol, (0, 0), socket_path(rest)
    return protocol, _ports(text, protocol, rest, names), ""


def _ports(text: str, protocol: str, rest: str, names: PortNames) -> tuple[int, int]:
    low, dash, high = rest.partition("-")
    if not _digits(low) or (dash and not _digits(high)):  # names have dashes, too: ftp-data
        port = names.port(protocol, rest)
        return port, port
    first, last = _number(text, low), _number(text, high or low)
    if first > last:
        raise Wrong(f"{quote(text)}: the range runs backwards, write {quote(f'{protocol}/{last}-{first}')}")
    return first, last


def _digits(text: str) -> bool:
    return text.isascii() and text.isdigit()  # to isdigit alone, an Arabic digit is one


def _number(text: str, digits: str) -> int:
    if len(digits) > _LENGTH or int(digits) > PORT_MAX:
        raise Wrong(f"{quote(text)}: a port lies between 0 and {PORT_MAX}")
    return int(digits)

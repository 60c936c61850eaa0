"""The grammar of interfaces(5), lossless, as ifupdown 0.8.41 reads it (its config.c).

* A line continues where its last byte before the line end is a backslash, unless it is a comment: a blank
  or a CR behind the backslash ends it. What follows is taken as it is, with a ``#`` at its start too.
* Blanks are those of C's isspace(3), and a NUL byte ends a line.
* Options belong to the ``iface`` or ``mapping`` above them; indenting means nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from reconciler.patterns import pattern
from reconciler.values import Value

_PHYSICAL = pattern(rb"[^\n]*\n|[^\n]+")
_FOR_INTERFACES = ("auto", "no-auto-down", "no-scripts")  # and allow-*: without a name they mean the stanza's
_PORTS = pattern(r"(bridge|bond|ovs)[-_](ports|slaves|bonds)|slaves|vlan[-_]raw[-_]device")
_NO_PORTS = frozenset(("none", "all"))  # bridge-utils-interfaces(5)
_PATTERNS = frozenset(("regex", "noregex"))
_CLASSES = ((128, 8), (192, 16), (224, 24))
_IPV4_BYTES = 4
_INHERITED = 256  # options of a template that its heirs take over: a large file of heirs must not fill the memory
_DYNAMIC = frozenset(("dhcp", "bootp"))


class Line(Value):
    """A logical line. ``raw`` is every byte of it; ``text`` is what ifupdown reads, empty for a comment."""

    raw: bytes
    text: bytes = b""


class Stanza(Value):
    """A keyword, the words after it, and the options below it. A misplaced option has the keyword ""."""

    keyword: str
    words: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    @property
    def line(self) -> str:
        """Its first line, blanks made one."""
        return " ".join((self.keyword, *self.words)).strip()


class Interface(Value):
    """One ``iface`` stanza with what it inherits: ``options`` are (name, value), in order, with repeats."""

    name: str
    family: str
    method: str
    options: tuple[tuple[str, str], ...] = ()

    def value(self, option: str) -> str:
        """The last value of an option, "" without one."""
        return next((value for name, value in reversed(self.options) if name == option), "")


def render(lines: Iterable[Line]) -> bytes:
    """The bytes that were parsed, every one of them."""
    return b"".join(line.raw for line in lines)


def parse(content: bytes) -> tuple[Line, ...]:
    """Read a file into logical lines; any bytes at all are one."""
    return tuple(_lines(_PHYSICAL.findall(content)))


def _lines(physical: Iterable[bytes]) -> Iterator[Line]:
    raw, text = bytearray(), bytearray()
    for each in physical:
        part = each.removesuffix(b"\n").partition(b"\0")[0]
        comment = not raw and part.lstrip().startswith(b"#")
        text += part if raw else part.lstrip()
        raw += each
        if text.endswith(b"\\") and not comment:
            del text[-1:]
        else:
            yield Line(bytes(raw), b"" if comment else bytes(text.rstrip()))
            raw, text = bytearray(), bytearray()
    if raw:  # the file ends in a backslash; ifupdown takes away all there are
        yield Line(bytes(raw), bytes(text.rstrip(b"\\").rstrip()))


def stanzas(content: bytes) -> tuple[Stanza, ...]:
    """Every stanza of a file, in order."""
    return tuple(Stanza(keyword, words, tuple(options)) for keyword, words, options in _stanzas(content))


def _stanzas(content: bytes) -> list[tuple[str, tuple[str, ...], list[tuple[str, str]]]]:
    found: list[tuple[str, tuple[str, ...], list[tuple[str, str]]]] = []
    current = ""  # the keyword of the stanza that options belong to
    options: list[tuple[str, str]] = []
    names: tuple[str, ...] = ()
    for line in parse(content):
        if not line.text:
            continue
        keyword, words, rest = _split(line.text)
        if keyword in ("iface", "mapping"):
            current, options, names = keyword, [], words[:1]
            found.append((keyword, words, options))
        elif _for_interfaces(keyword) and not words and current == "iface":
            found.append((keyword, names, []))
        elif _for_interfaces(keyword) or keyword in ("source", "rename") or keyword.startswith("source-dir"):
            current = ""
            found.append((keyword, words, []))
        elif current:
            options.append((keyword, rest))
        else:
            found.append(("", (keyword, *words), []))
    return found


def _split(text: bytes) -> tuple[str, tuple[str, ...], str]:
    """Keyword, words after it, and the same as it stands. Split as bytes: C knows no Unicode blanks."""
    # a blank that comes first came from the line after a backslash: to ifupdown that is an empty keyword
    keyword = b"" if text[:1].isspace() else text.split(None, 1)[0]
    rest = text[len(keyword) :].strip()
    return _decode(keyword), tuple(map(_decode, rest.split())), _decode(rest)


def _decode(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")


def _for_interfaces(keyword: str) -> bool:
    return keyword in _FOR_INTERFACES or (keyword.startswith("allow-") and keyword != "allow-")


def interfaces(content: bytes) -> tuple[Interface, ...]:
    """Every interface a file defines, once for each of its stanzas; what is sourced is not followed."""
    found: list[Interface] = []
    templates: dict[tuple[str, str], Interface] = {}
    for stanza in stanzas(content):
        if stanza.keyword == "iface" and stanza.words:
            found.append(_interface(stanza, templates))
            templates.setdefault((found[-1].name, found[-1].family), found[-1])
            templates.setdefault((found[-1].name, ""), found[-1])
    return tuple(found)


def _interface(stanza: Stanza, templates: Mapping[tuple[str, str], Interface]) -> Interface:
    """``iface NAME [FAMILY [METHOD]] [inherits TEMPLATE]``; a template is the first of its name above."""
    words = stanza.words
    place = next((n for n, word in enumerate(words[:4]) if n and word == "inherits"), len(words))
    name, family, method = (*words[:place], "", "")[:3]
    template = templates.get((words[place + 1], family)) if words[place + 1 :] else None
    if template is None:
        return Interface(name, family, method, stanza.options)
    options = (*template.options[-_INHERITED:], *stanza.options)
    return Interface(name, family or template.family, method or template.method, options)


def defines(content: bytes) -> frozenset[str]:
    """The interfaces a file defines, and those it makes ports of a bridge or bond or takes a VLAN from.

    Ports given by a pattern or as ``all`` are not among them: which ones they are only the kernel knows.
    """
    found = interfaces(content)
    ports = (port for interface in found for port in _ports(interface))
    return frozenset((*(interface.name for interface in found), *ports))


def _ports(interface: Interface) -> Iterator[str]:
    for option, value in interface.options:
        if not _PORTS.fullmatch(option):
            continue
        pattern = False
        for word in value.split():
            if word in _PATTERNS:
                pattern = word == "regex"
            elif not pattern and word not in _NO_PORTS:
                yield word


def static_addresses(content: bytes) -> dict[str, tuple[str, ...]]:
    """Interface -> its addresses as ``ADDRESS/PREFIX``, where the file makes it static for good.

    An address family in which the same interface also asks DHCP is left out, and an address that is none.
    """
    found = interfaces(content)
    dynamic = {(each.name, each.family) for each in found if each.method in _DYNAMIC}
    addresses: dict[str, list[str]] = {}
    for each in found:
        if each.method == "static" and (each.name, each.family) not in dynamic:
            address = _address(each)
            if address:
                addresses.setdefault(each.name, []).append(address)
    return {name: tuple(found) for name, found in addresses.items()}


def dynamic_interfaces(files: Iterable[bytes]) -> set[str]:
    """The interfaces that ask DHCP."""
    return {each.name for content in files for each in interfaces(content) if each.method in _DYNAMIC}


def _address(interface: Interface) -> str:
    import ipaddress  # 3 ms that a pass over files alone need not pay

    address, _, prefix = interface.value("address").partition("/")
    try:
        ip = ipaddress.ip_address(address)
        # an explicit netmask outranks the prefix (inet.defn: "=netmask?"); without either, IPv4 has its class
        mask = interface.value("netmask") or prefix or _default_prefix(ip.packed)
        return str(ipaddress.ip_interface(f"{ip}/{mask}"))
    except ValueError:
        return ""


def _default_prefix(packed: bytes) -> int:
    """The class of an IPv4 address (compute_v4_mask in archcommon.c); an IPv6 address stands alone."""
    if len(packed) > _IPV4_BYTES:
        return 8 * len(packed)
    return next((prefix for end, prefix in _CLASSES if packed[0] < end), 32)

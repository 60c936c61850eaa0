"""What an administrator writes: the state file with all that it may include, its words, time spans, ports, patterns."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator

from reconciler.desired import load, lockout_errors
from reconciler.editing import change_list, list_of, set_mode
from reconciler.errors import ReconcilerError, StateError
from reconciler.host.bootarg import parse as parse_boot
from reconciler.model import FileState
from reconciler.statefile import words
from reconciler.statefile.lines import KeyPath, line_index
from reconciler.statefile.ports import PortNames, parse_port, parse_services
from reconciler.text import escape, plain, unescape
from reconciler.timespan import parse_span
from tests.desired_trees import Written
from tests.fuzz.targets.bytes import printable, split, text

FOLDER = "/s"
NAMES = ("state.toml", "state.d/10.toml", "more.toml", "interfaces", "services")
"""The files that one input is split into; the last is /etc/services."""


def desired(data: bytes) -> None:
    """A state, a drop-in, a file to include, a canonical file and a services(5): loaded, or refused in clean lines."""
    contents = dict(zip((f"{FOLDER}/{name}" for name in NAMES), split(data, len(NAMES)), strict=True))
    services = contents.pop(f"{FOLDER}/services")
    try:
        found = load(f"{FOLDER}/state.toml", Written(contents), port_names=lambda: FileState(services))
    except StateError as refused:
        assert refused.errors
        for line in refused.errors:
            assert printable(line), line
            assert plain(line) == line
        return
    for line in (*found.warnings, *lockout_errors(found)):
        assert printable(line), line


def lines(data: bytes) -> None:
    """Every key that tomllib sees has a line, and the line is one of the text's."""
    source = data.decode("utf-8", "ignore").replace("\0", "")
    try:
        values = tomllib.loads(source)
    except (ValueError, RecursionError):
        return
    index, last = line_index(source), source.count("\n") + 1
    for path in _paths(values, ()):
        assert 1 <= index[path] <= last


def _paths(value: object, path: KeyPath) -> Iterator[KeyPath]:
    items: Iterator[tuple[str | int, object]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = iter(enumerate(value))
    for key, each in items:
        yield (*path, key)
        yield from _paths(each, (*path, key))


_CHECKS: tuple[Callable[[str], object], ...] = (
    words.service_name,
    words.executable,
    words.socket_path,
    words.ip_address,
    words.file_path,
    words.interfaces_name,
    words.inetd_line,
)


def word(data: bytes) -> None:
    """Every kind of word: taken, or ``Wrong`` with a reason that prints. TOML holds no surrogates."""
    given = data.decode("utf-8", "replace")
    for check in _CHECKS:
        try:
            check(given)
        except words.Wrong as wrong:
            assert printable(str(wrong)), str(wrong)


def port(data: bytes) -> None:
    """A listener's word, by the names of a services(5)."""
    services, rest = split(data, 2)
    known = parse_services(services)
    assert all(0 <= number <= 65535 for ports in known.values() for number in ports.values())
    try:
        protocol, (low, high), path = parse_port(
            rest.decode("utf-8", "replace"), PortNames(lambda: FileState(services))
        )
    except words.Wrong as wrong:
        assert printable(str(wrong)), str(wrong)
    else:
        assert protocol in ("tcp", "udp", "unix")
        assert 0 <= low <= high <= 65535
        assert bool(path) == (protocol == "unix")


def span(data: bytes) -> None:
    """A time span is a number of seconds from 0 on, or a ``ValueError``."""
    try:
        seconds = parse_span(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert seconds >= 0


def boot(data: bytes) -> None:
    """The kernel's command line holds one of three words."""
    assert parse_boot(data.decode("utf-8", "replace")) in ("", "off", "observe")


def edit(data: bytes) -> None:
    """A state with a word more is that state with that word, without it again the one before; or it is refused."""
    source, name = split(data, 2)
    try:
        load(f"{FOLDER}/state.toml", Written({f"{FOLDER}/state.toml": source}))
        new = words.service_name(name.decode("utf-8", "ignore"))
    except (StateError, words.Wrong):
        return
    before = source.decode()
    try:
        more = change_list(set_mode(before, "enforce"), "services", put=[new])
        less = change_list(more, "services", take=[new])
    except ReconcilerError:
        return
    assert list_of(more, "services") == (*list_of(before, "services"), new)
    assert list_of(less, "services") == tuple(each for each in list_of(before, "services") if each != new)


def escaping(data: bytes) -> None:
    """What is escaped is safe to print, and is read back as it was."""
    given = text(data)
    shown = escape(given)
    assert printable(shown)
    assert unescape(shown) == given
    assert plain(shown) == shown
    assert printable(plain(given))
    shown.encode()


TARGETS = (desired, lines, word, port, span, boot, edit, escaping)

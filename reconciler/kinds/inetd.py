"""inetd: what /etc/inetd.conf and /etc/inetd.d make it listen for; lines not approved are commented out.

The grammar follows the readers' own sources (openbsd-inetd 0.20221205, inetutils 2.4). Where they differ, a
line that *either* would serve is active: which of the two is installed may change with the next package.

* Only a ``#`` in column 0 makes a comment; after white space it is part of the service's name.
* A line that begins with a space or a tab goes on with the line before it (openbsd-inetd), unless that is a
  comment. inetutils-inetd takes every line for itself, and splits words at double quotes too. A backslash
  means nothing to either.
* openbsd-inetd reads 1023 bytes at a time: what a longer line, even a comment, holds beyond is a line.
* Both end a line at a NUL byte.

File and folder are judged whether or not their reader is installed: a package that brings one opens at its
start what nobody reads today, and until then a comment costs nothing.

The remedy is one ``#`` before each line: update-inetd(8) takes that for the administrator's own decision and
leaves it alone, while it brings back a line that was deleted, or disabled with its own ``#<off># ``. xinetd
is not judged: where its configuration lies, that is a gap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice

from reconciler.desired import DesiredState
from reconciler.errors import Unobservable
from reconciler.host import Eyes
from reconciler.kinds.base import Approvable, Context
from reconciler.model import (
    EntryState,
    FileState,
    Finding,
    Gap,
    Host,
    OddState,
    Place,
    Ref,
    Sight,
    Signal,
    Step,
    StopService,
    WriteFile,
)
from reconciler.patterns import pattern
from reconciler.text import escape
from reconciler.values import Value, replace

NAME = "inetd"
CONFIG = Place(NAME, "/etc", "inetd.conf")
FOLDER = Place(NAME, "/etc/inetd.d")
XINETD_CONFIG = Place(NAME, "/etc", "xinetd.conf")
XINETD_FOLDER = Place(NAME, "/etc/xinetd.d")

SERVERS: Mapping[str, tuple[str, ...]] = {
    "/usr/sbin/inetd": ("openbsd-inetd", "inetd"),  # sarge's netkit-inetd: the script is /etc/init.d/inetd
    "/usr/sbin/inetutils-inetd": ("inetutils-inetd",),
}
"""The executable that reads these files -> the init scripts that Debian has called its service."""

READ_AT_ONCE = 1023
"""Bytes: openbsd-inetd's ``char line[1024]``, which fgets(3) ends with a NUL."""

_SOCKET_TYPES = frozenset((b"stream", b"dgram", b"raw", b"rdm", b"seqpacket"))
_FIELDS = 6  # service, socket type, protocol, wait, user, program; its arguments may be missing
_PHYSICAL = pattern(rb"[^\n]*\n|[^\n]+")
_GNU_WORD = pattern(rb"\"[^\"]*\"|'[^']*'|[^ \t\"][^ \t\"]*")
_FAMILY = pattern(r"^((?:rpc/)?(?:tcp|udp))(?:4|6|46|6only)$")


# --- the grammar -------------------------------------------------------------------------------------------


class Entry(Value):
    """A service that a line makes inetd listen for. ``address`` is its host prefix, "" without one."""

    service: str
    protocol: str
    address: str
    program: str

    @property
    def identity(self) -> str:
        """``ident/tcp``, ``ident/tcp6``, ``rstatd/1-3/rpc/udp``: as written, but without buffer sizes."""
        return f"{self.service}/{self.protocol}"

    @property
    def names(self) -> tuple[str, ...]:
        """Every name it may be approved by: as written, without IP version, RPC version; with its address."""
        family = _FAMILY.match(self.protocol)
        protocols = (self.protocol, family[1]) if family else (self.protocol,)
        rpc = self.protocol.startswith("rpc/")
        services = (self.service, self.service.partition("/")[0]) if rpc else (self.service,)
        plain = tuple(dict.fromkeys(f"{s}/{p}" for s in services for p in protocols))
        return (*plain, *(f"{self.address}:{name}" for name in plain)) if self.address else plain


class Line(Value):
    """A physical line, line end included, with the services that begin on it.

    ``extent`` counts the lines after it that go on with it: without it they would be lines of their own.
    """

    raw: bytes
    entries: tuple[Entry, ...] = ()
    extent: int = 0


def render(lines: Iterable[Line]) -> bytes:
    """The bytes that were parsed, every one of them."""
    return b"".join(line.raw for line in lines)


@lru_cache(2)  # a full pass finds what the last one found
def parse(content: bytes) -> tuple[Line, ...]:
    """Read a configuration file; any bytes at all are one."""
    raws: list[bytes] = _PHYSICAL.findall(content)
    entries: dict[int, list[Entry]] = {}
    extents: dict[int, int] = {}
    groups = list(_groups(raws))
    for group in groups:
        last = group[-1][0]
        for number, _ in group:
            extents[number] = max(extents.get(number, 0), last - number)
    for number, entry in (*_openbsd_entries(groups), *_gnu_entries(raws)):
        known = entries.setdefault(number, [])
        if not any(_same(entry, other) for other in known):
            known.append(entry)
    return tuple(Line(raw, tuple(entries.get(n, ())), extents.get(n, 0)) for n, raw in enumerate(raws))


def names_of(content: bytes) -> tuple[str, ...]:
    """What the active lines of a file serve, ``ident/tcp``, each once."""
    return tuple(dict.fromkeys(entry.identity for line in parse(content) for entry in line.entries))


def _groups(raws: Sequence[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """openbsd-inetd's logical lines without comments: (number of the physical line, text) of each part."""
    group: list[tuple[int, bytes]] = []
    for number, raw in enumerate(raws):
        for start in range(0, len(raw), READ_AT_ONCE):
            piece = raw[start : start + READ_AT_ONCE]
            if group and not piece.startswith((b" ", b"\t")):
                yield group
                group = []
            if not piece.startswith(b"#"):
                group.append((number, _text(piece)))
    if group:
        yield group


def _text(piece: bytes) -> bytes:
    """What the C library sees of it."""
    return piece.removesuffix(b"\n").partition(b"\0")[0]


def _openbsd_entries(groups: Iterable[Sequence[tuple[int, bytes]]]) -> Iterator[tuple[int, Entry]]:
    """What each logical line starts, as a whole and from each later part on.

    openbsd-inetd drops out of a logical line at its first error, which makes the rest a line of its own.
    """
    for group in groups:
        parts = [(number, words) for number, text in group if (words := _words(text))]
        for index, (number, _) in enumerate(parts):
            # each part has a word at least: what lies further on cannot say what is started
            near = parts[index : index + _FIELDS + 1]
            entry = _entry([word for _, words in near for word in words])
            if entry is not None:
                yield number, entry


def _gnu_entries(raws: Sequence[bytes]) -> Iterator[tuple[int, Entry]]:
    """What each physical line starts: inetutils-inetd knows no continuation, and no limit to a line."""
    for number, raw in enumerate(raws):
        entry = None if raw.startswith(b"#") else _entry(_gnu_words(_text(raw)))
        if entry is not None:
            yield number, entry


def _words(text: bytes) -> list[bytes]:
    return [word for word in text.replace(b"\t", b" ").split(b" ") if word]


def _gnu_words(text: bytes) -> list[bytes]:
    """The first words as inetutils-inetd's argcv_get() cuts them: quotes around one are dropped."""
    return [_unquoted(match[0]) for match in islice(_GNU_WORD.finditer(text), _FIELDS + 1)]


def _unquoted(word: bytes) -> bytes:
    quoted = len(word) > 1 and word[:1] in (b'"', b"'") and word[-1:] == word[:1]
    return word[1:-1] if quoted else word


def _entry(words: list[bytes]) -> Entry | None:
    """The service of a complete line. An unknown socket type opens nothing, in both readers."""
    if not words:
        return None
    address, colon, service = words[0].rpartition(b":")
    # "host:" alone sets a default for the lines after it; "host: service ..." is one line to openbsd-inetd;
    # "host: stream ..." has inetutils-inetd listen on a port that the kernel chooses
    if colon and not service and len(words) > 1 and words[1] not in _SOCKET_TYPES:
        words = words[1:]
        service = words[0]
    if len(words) < _FIELDS or words[1] not in _SOCKET_TYPES:
        return None
    protocol = words[2].partition(b",")[0]  # "tcp,rcvbuf=64k"
    text = (service, protocol, address.removeprefix(b"[").removesuffix(b"]"), words[5])
    return Entry(*(word.decode("utf-8", "surrogateescape") for word in text))


def _same(one: Entry, other: Entry) -> bool:
    return (one.identity, one.address) == (other.identity, other.address)


def comment(lines: Sequence[Line], numbers: Iterable[int]) -> bytes:
    """The file with these lines (counted from 0), and what goes on with them, commented out."""
    chosen = frozenset(numbers)
    parts, end = [], 0
    for number, line in enumerate(lines):
        if number in chosen:
            end = max(end, number + line.extent + 1)
        parts.append(_commented(line.raw) if number < end else line.raw)
    return b"".join(parts)


def _commented(raw: bytes) -> bytes:
    """One ``#`` before it; if it is longer than openbsd-inetd reads at once, one before each part."""
    if not raw.strip(b" \t\n"):
        return raw
    step = READ_AT_ONCE - 1
    return b"".join(b"#" + raw[start : start + step] for start in range(0, len(raw), step))


# --- what is seen ------------------------------------------------------------------------------------------


class ConfigFile(Value):
    """A file that holds active lines. ``found`` is what lies there: the file itself, or a link to it.

    ``servers`` are the executables present on this host that would read it. ``xattrs`` are those of ``state``, not
    compared there: what is written in its place is given them.
    """

    path: str
    found: EntryState
    state: FileState
    servers: tuple[str, ...] = ()
    xattrs: tuple[tuple[str, bytes], ...] = ()


class ActiveLine(Approvable):
    """One service that a file makes inetd listen for; ``number`` counts the file's lines from 0."""

    entry: Entry
    number: int
    file: ConfigFile


def places(desired: DesiredState, host: Host) -> Iterable[Place]:
    """Every file and folder that an inetd of Debian reads, xinetd's to say that they are not judged."""
    if desired.inetd is not None:
        return (CONFIG, FOLDER, XINETD_CONFIG, XINETD_FOLDER)
    listeners = desired.listeners  # a line is what opens a port that is to be closed
    return (CONFIG, FOLDER) if listeners is not None and listeners.unapproved == "stop" else ()


def concerns(place: Place, name: str) -> bool:
    """A name with a dot first, such as a temporary of ours, is read by nobody."""
    return not name.startswith(".")


def observe(place: Place, eyes: Eyes) -> Sight:
    """The active lines of a place. Raises ``Unobservable`` where it cannot be read, or has the wrong type."""
    if place in (XINETD_CONFIG, XINETD_FOLDER):
        return _xinetd(place, eyes)
    if place == FOLDER:
        return _folder(eyes)
    found = eyes.entry(place.path)
    if isinstance(found, OddState):
        raise Unobservable(f"{place.path} is a {found.what}, not a file")
    return Sight(_lines("inetd.conf", place.path, found, eyes))


def _xinetd(place: Place, eyes: Eyes) -> Sight:
    there = eyes.entry(place.path) if place.entry else eyes.folder(place.path)
    if not there:
        return Sight()
    why = f"{place.path} is xinetd's, which is not judged: purge the package xinetd where nothing needs it"
    return Sight(gaps=(Gap(NAME, Ref(NAME, place.path.removeprefix("/etc/")), why),))


def _folder(eyes: Eyes) -> Sight:
    """Every regular file counts: inetutils-inetd reads editor backups and dot files too."""
    resources: list[ActiveLine] = []
    gaps: list[Gap] = []
    for item in eyes.folder(FOLDER.folder) or ():
        if item.what not in ("file", "link"):
            continue
        name, path = f"inetd.d/{item.name}", f"{FOLDER.folder}/{item.name}"
        try:
            resources += _lines(name, path, eyes.entry(path), eyes)
        except Unobservable as error:
            gaps.append(Gap(NAME, Ref(NAME, name), str(error)))
    return Sight(tuple(resources), tuple(gaps))


def _lines(name: str, path: str, found: EntryState | None, eyes: Eyes) -> tuple[ActiveLine, ...]:
    state = found if isinstance(found, FileState) else eyes.read(path) if found else None
    if found is None or state is None:  # nothing there, or a link to nothing
        return ()
    starts = [(n, entry) for n, line in enumerate(parse(state.content)) for entry in line.entries]
    if not starts:
        return ()
    servers = tuple(server for server in SERVERS if _present(server, eyes))
    file = ConfigFile(path, found, state, servers, state.xattrs)
    counts: dict[str, int] = {}
    resources = []
    for number, entry in starts:
        count = counts[entry.identity] = counts.get(entry.identity, 0) + 1
        ref = Ref(NAME, f"{name}/{entry.identity}" + (f"#{count}" if count > 1 else ""))
        line = ActiveLine(ref, (entry.service,), entry, number, file, opens=_opens(entry), approvals=entry.names)
        resources.append(line)
    return tuple(resources)


def _opens(entry: Entry) -> tuple[str, ...]:
    """The port, by its number or its name in services(5); which one an RPC service gets nobody knows before."""
    protocol = re.match("tcp|udp", entry.protocol)
    return (f"{protocol[0]}/{entry.service}",) if protocol else ()


def _present(path: str, eyes: Eyes) -> bool:
    try:
        return eyes.entry(path) is not None
    except Unobservable:  # too large to read, or for root only: it is there
        return True


# --- what is judged, and what would be done -----------------------------------------------------------------


def judge(place: Place, sight: Sight, context: Context) -> Iterator[Finding]:
    """Every active line that is not approved."""
    if context.desired.inetd is None:
        return
    for line in sight.resources:
        if isinstance(line, ActiveLine) and not context.desired.inetd.approves(line.approvals):
            yield Finding(line.ref, line.entry.service, "unapproved", "unapproved", _detail(line), line)


def _detail(line: ActiveLine) -> str:
    where = f" on {line.entry.address}" if line.entry.address else ""
    does = "served by inetd itself" if line.entry.program == "internal" else f"runs {line.entry.program}"
    return escape(f"active line {line.number + 1} of {line.file.path}: {line.entry.identity}{where}, {does}")


def remedy(findings: Sequence[Finding], context: Context) -> Iterator[Step]:
    """Comment the lines out, one write for each file, and on a live host let inetd know.

    Owner and mode stay. A symbolic link is replaced by a file with the owner and mode of what it leads to:
    that may belong to something else, and is left alone. It is the link that goes to the quarantine.
    """
    files: dict[str, list[tuple[Finding, ActiveLine]]] = {}
    for finding in findings:
        if isinstance(finding.seen, ActiveLine):
            files.setdefault(finding.seen.file.path, []).append((finding, finding.seen))
    for path, seen in files.items():
        file = seen[0][1].file
        content = comment(parse(file.state.content), (line.number for _, line in seen))
        # mtime_ns=0: this content is new, so is its time
        action = WriteFile(path, replace(file.state, content=content, mtime_ns=0), file.found)
        refs = tuple(finding.ref for finding, _ in seen)
        yield Step(action, _common_service(finding for finding, _ in seen), refs)
    if context.host.live:
        yield from _tell([pair for seen in files.values() for pair in seen], context)


def _common_service(findings: Iterable[Finding]) -> str:
    services = {finding.service for finding in findings}
    return services.pop() if len(services) == 1 else NAME


def _tell(seen: Sequence[tuple[Finding, ActiveLine]], context: Context) -> Iterator[Step]:
    """HUP, on which inetd closes the ports of lines that are gone; without anything left to serve, a stop."""
    refs = tuple(finding.ref for finding, _ in seen)
    present = {server for _, line in seen for server in line.file.servers}
    idle = _idle(context)
    for executable in SERVERS:
        if executable not in present:
            continue
        stop = _stop(executable, context)
        if idle and stop is not None and _may_stop(stop.service, context):
            yield Step(stop, stop.service, refs)
        else:
            service = stop.service if stop is not None else SERVERS[executable][0]
            yield Step(Signal(service, "HUP", executable), service, refs)


def _stop(executable: str, context: Context) -> StopService | None:
    """What stops this server on this host, whichever of its names is known here; ``None``: nothing does."""
    catalogue = context.catalogue
    stops = (catalogue.stop(catalogue.service(name), context.host) for name in SERVERS[executable])
    return next((stop for stop in stops if stop is not None), None)


def _may_stop(service: str, context: Context) -> bool:
    """Only what is not approved for itself, and where stopping is wanted at all: HUP closes the ports too."""
    wanted = context.desired.services
    return wanted is None or (wanted.stop and not context.catalogue.approved(service, wanted.approved))


def _idle(context: Context) -> bool:
    """True when no approved line is anywhere, and every file could be read.

    It looks at all that was observed, not at the findings: a plan with a focus says the same as a full one.
    """
    if context.desired.inetd is None:
        return False  # the other lines are nobody's business
    for place in (CONFIG, FOLDER):
        sight = context.snapshot.sights.get(place)
        if sight is None or sight.gaps:
            return False
        if any(isinstance(r, ActiveLine) and context.desired.inetd.approves(r.approvals) for r in sight.resources):
            return False
    return True

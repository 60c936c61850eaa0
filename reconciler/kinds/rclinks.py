"""Start links: what the runlevels start (``/etc/rc?.d``, sysv-rc and systemd's sysv-generator alike).

In scope are the S links of rc1.d to rc5.d and rcS.d. S links of rc0.d and rc6.d are shutdown steps and are left alone;
those folders are only read for the numbers of their K links. An S link is unlinked and a K link is left in its place,
because ``update-rc.d NAME defaults``, which every postinst runs, puts all S links back when a script has no link at all
and changes nothing while a single K link is there (measured; ``update-rc.d(8)``, DESCRIPTION).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from reconciler.desired import DesiredState
from reconciler.errors import Unobservable
from reconciler.host import Eyes, Listing, Stamp
from reconciler.kinds.base import Context
from reconciler.model import Entry, Finding, Gap, Host, Place, Ref, ReloadManager, Resource, Sight, Step, Unlink
from reconciler.patterns import pattern
from reconciler.services import InitScript, base_name, matches
from reconciler.text import escape
from reconciler.values import field

NAME = "rclinks"

START_FOLDERS = tuple(f"/etc/rc{level}.d" for level in "12345S")
STOP_FOLDERS = ("/etc/rc0.d", "/etc/rc6.d")
SCRIPTS = "/etc/init.d"

_LINK = pattern(r"([SK])([0-9]{2})(.+)", re.DOTALL)
_SCRIPT_FOLDERS = ("../init.d/", "/etc/init.d/")
_MAY_BE_SCRIPTS = frozenset(("link", "file"))
_NOT_SCRIPTS = frozenset(("README", "rc", "rcS", "skeleton"))
_LEFTOVER = pattern(r"^\.|~$|\.(bak|dpkg-[a-z]+|ucf-[a-z]+|orig|rej|swp)$")  # insserv(8) skips them too


class RcLink(Resource):
    """One ``[SK]NN`` name of a runlevel folder, or an ``S`` one without the ``number``.

    ``script`` is what it runs: a script's name, or the odd path.
    """

    folder: str = ""
    letter: str = "S"
    number: str = ""
    what: str = "link"
    target: str = ""
    script: str = ""


_NOTHING_SEEN = Sight()
_NO_STOPS: Mapping[str, str] = {}


class Listed(Sight):
    """What a look at a whole folder saw: its ``entries``, none after a look at single names.

    ``same`` is how to see at once that it is as it was, where that can be seen so.
    """

    entries: tuple[Entry, ...] = field(default=(), compare=False)
    same: Listing | None = field(default=None, compare=False)


class Links(Listed):
    """What a runlevel folder holds: its links by ``named``, and as ``stops`` the number of each script's K link."""

    named: Mapping[str, RcLink] = field(default_factory=dict, compare=False)
    stops: Mapping[str, str] = field(default_factory=dict, compare=False)


class Scripts(Listed):
    """The init scripts, by name as well, and the stamps of those that need not be read again.

    ``names`` are those of the folder's entries that may be scripts.
    """

    known: Mapping[str, InitScript] = field(default_factory=dict, compare=False)
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False)
    names: Sequence[str] = field(default=(), compare=False)


def places(desired: DesiredState, host: Host) -> Iterable[Place]:
    """The runlevel folders and the scripts they point to; nothing where ``[services]`` is missing."""
    if desired.services is None:
        return ()
    return [Place(NAME, folder) for folder in (*START_FOLDERS, *STOP_FOLDERS, SCRIPTS)]


def concerns(place: Place, name: str) -> bool:
    """True when a new name in a place can start something: a K link cannot, nor can rc0.d and rc6.d."""
    return place.folder == SCRIPTS or (place.folder in START_FOLDERS and name.startswith("S"))


# --- what it sees -----------------------------------------------------------------------------------------------


def observe(place: Place, eyes: Eyes) -> Sight:
    """Look at one runlevel folder, or read the headers of all init scripts."""
    return observe_after(place, eyes, _NOTHING_SEEN)


def observe_after(place: Place, eyes: Eyes, before: Sight) -> Sight:
    """The same with what an earlier look saw: nothing is left out, but what is as it was is not parsed again.

    A script that bears the stamp it had is not read again either: reading all of them is half of a full pass.
    """
    if _is_as_it_was(place.folder, eyes, before):
        return before
    entries = eyes.folder(place.folder, _starts)
    if entries is None:
        return Sight()
    if place.folder == SCRIPTS:
        return _scripts(entries, eyes, before)
    if isinstance(before, Links) and entries and entries == before.entries:
        return before
    named, gaps = _links(place.folder, entries, before.named if isinstance(before, Links) else {})
    stops, same = _stops_of(named.values()), _same_links(entries)
    return Links(tuple(named.values()), tuple(gaps), entries=entries, same=same, named=named, stops=stops)


def _is_as_it_was(folder: str, eyes: Eyes, before: Sight) -> bool:
    """Whether a look at all of a folder would see what it saw; asked without making anything of what is there."""
    if not isinstance(before, Listed) or before.same is None or not eyes.holds(folder, before.same):
        return False
    return not isinstance(before, Scripts) or next(eyes.texts(folder, before.names, before.stamps), None) is None


def observe_again(place: Place, eyes: Eyes, before: Sight, names: Collection[str]) -> Sight:
    """Look at these names of a folder only: the rest is as it was.

    A link cannot change: another one takes its place, and that tells its name. Of one that went nothing is told: of an
    S link nobody needs to know, and the K links of the scripts in question are looked at.
    """
    if not isinstance(before, Links):
        return observe_after(place, eyes, before)
    names = {*names, *_known_stops(before, names)}
    entries = eyes.named(place.folder, names, _starts)
    if entries is None:
        return Sight(fresh=())
    fresh, gaps = _links(place.folder, entries, {})
    gone = before.named.keys() & names - fresh.keys()
    gaps += [gap for gap in before.gaps if _name_of(gap.ref) not in names]
    changed = {name: link for name, link in fresh.items() if before.named.get(name) != link}
    if gone or not before.named.keys().isdisjoint(changed):
        named = {name: link for name, link in before.named.items() if name not in gone} | changed
        all_stops = _stops_of(named.values())
        return Links(tuple(named.values()), tuple(gaps), tuple(fresh.values()), named=named, stops=all_stops)
    resources, named = (*before.resources, *changed.values()), {**before.named, **changed}
    more = _stops_of(changed.values())
    stops = {**before.stops, **more} if more else before.stops
    return Links(resources, tuple(gaps), tuple(fresh.values()), named=named, stops=stops)


def _known_stops(before: Links, names: Iterable[str]) -> Iterator[str]:
    """The K links of the scripts whose S links these are."""
    for name in names:
        if (number := before.stops.get(name[3:])) is not None:
            yield f"K{number}{name[3:]}"


def _name_of(ref: Ref) -> str:
    return ref.name.partition("/")[2]


def _stops_of(links: Iterable[RcLink]) -> dict[str, str]:
    return {link.names[0]: link.number for link in links if link.letter == "K"}


def _same_links(entries: Sequence[Entry]) -> Listing | None:
    """``None`` where something else than a link may matter: what it is shows in no listing of links."""
    odd = any(entry.what != "link" and entry.name[0] in "SK" for entry in entries)
    return None if odd else Listing.of(entries)


def _same_scripts(entries: Sequence[Entry], stamps: Mapping[str, Stamp]) -> Listing | None:
    """``None`` unless all that may become a script bears a stamp, which tells what it is."""
    unknown = any(entry.name not in stamps and _is_script(entry.name) for entry in entries)
    return None if unknown else Listing.of(entries)


def _starts(name: str) -> bool:
    return name.startswith("S")


def _level(folder: str) -> str:
    return folder.rpartition("/")[2]


def _links(folder: str, entries: Iterable[Entry], known: Mapping[str, RcLink]) -> tuple[dict[str, RcLink], list[Gap]]:
    links, gaps = dict[str, RcLink](), []
    level = _level(folder)
    for entry in entries:
        same = known.get(entry.name)
        if same is not None and same.what == entry.what and entry.target in ("", same.target):  # "": not read
            links[entry.name] = same
            continue
        parts = _LINK.fullmatch(entry.name)
        ref = Ref(NAME, f"{level}/{entry.name}")
        if entry.what in ("link", "file"):
            link = _link(ref, folder, parts, entry) if parts else _odd_link(ref, folder, entry)
            if link is not None:
                links[entry.name] = link
        elif parts:
            gaps.append(Gap(NAME, ref, f"a {entry.what} where a start link belongs"))
    return links, gaps


def _link(ref: Ref, folder: str, parts: re.Match[str], entry: Entry) -> RcLink:
    letter, number, name = parts.groups()
    script = _script_name(entry.target) or name
    names = (name,) if script == name else (name, script)
    return RcLink(ref, names, folder, letter, number, entry.what, entry.target, script)


def _odd_link(ref: Ref, folder: str, entry: Entry) -> RcLink | None:
    """``S2one``, ``Sfoo``: no tool makes it, and systemd wants two digits; but sysvinit's rc starts ``S*`` where it
    goes without insserv's order (tried with .legacy-bootordering; docs/decisions/0007).
    """
    if not _starts(entry.name):
        return None
    script = _script_name(entry.target) or entry.name
    return RcLink(ref, (script,), folder, what=entry.what, target=entry.target, script=script)


def _script_name(target: str) -> str:
    """The script a link runs; a target outside /etc/init.d is its own name, which nobody approves by accident."""
    for folder in _SCRIPT_FOLDERS:
        if target.startswith(folder) and "/" not in target[len(folder) :]:
            return target[len(folder) :]
    return target


def _scripts(entries: tuple[Entry, ...], eyes: Eyes, before: Sight) -> Sight:
    last = before if isinstance(before, Scripts) else Scripts()
    names = last.names if entries == last.entries else _script_names(entries)
    known, changed, gaps = dict(last.known), names is not last.names or bool(last.gaps), list[Gap]()
    for name, text in eyes.texts(SCRIPTS, names, last.stamps):
        changed = True
        known.pop(name, None)
        if isinstance(text, Unobservable):
            gaps.append(Gap(NAME, Ref(NAME, f"init.d/{name}"), str(text)))
        elif text is not None:
            known[name] = parse_script(name, text.content.decode("utf-8", "surrogateescape"), text.stamp)
    if not changed and before is last:  # else it is a gap, or nothing
        return before
    known = {name: known[name] for name in names if name in known}
    stamps = {name: script.stamp for name, script in known.items() if script.stamp}
    same = _same_scripts(entries, stamps)
    scripts = tuple(known.values())
    return Scripts(scripts, tuple(gaps), entries=entries, same=same, known=known, stamps=stamps, names=names)


def _script_names(entries: Iterable[Entry]) -> Sequence[str]:
    return [entry.name for entry in entries if entry.what in _MAY_BE_SCRIPTS and _is_script(entry.name)]


def _is_script(name: str) -> bool:
    return name not in _NOT_SCRIPTS and not _LEFTOVER.search(name)


# Each of these reads a megabyte of anything in a moment: a script is whatever somebody put into the folder.
_BEGIN = pattern(r"^### BEGIN INIT INFO[^\S\n]*$", re.MULTILINE)
_END = pattern(r"^### END INIT INFO[^\S\n]*$", re.MULTILINE)
_FIELD = pattern(r"^#[^\S\n]*(Provides|Required-Start):[ \t]*(.*(?:\n#(?:\t|  ).*)*)", re.MULTILINE)
_PROGRAM = pattern(r"(?<![\w./-])/(?:usr/(?:local/)?)?s?bin/[\w.+-]+|(?<![\w./-])/usr/lib/[\w./+-]+")
_VARIABLE = pattern(r"\s*([A-Z_]*)\w*(=?)")  # matches always, so that nothing is tried twice
_PROGRAMS = ("DAEMON", "PROG", "BIN", "EXEC")  # DAEMONBIN, EXECUTABLE
# Facilities that are not a service (LSB core, 22.5); "$portmap" alone is one and is found by its plain name.
_SYSTEM_FACILITIES = frozenset(("local_fs", "network", "named", "remote_fs", "syslog", "time", "all"))


def parse_script(name: str, text: str, stamp: Stamp = ()) -> InitScript:
    """Read an init script: its LSB header, and which executables it runs (its DAEMON= and --exec lines)."""
    fields = {m[1]: m[2].replace("\n#", " ").split() for m in _FIELD.finditer(_header(text))}
    needs = (word.lstrip("$") for word in fields.get("Required-Start", []))
    lines = (line for line in text.split("\n") if ("bin/" in line or "/lib/" in line) and _names_program(line))
    runs = {_normal(path) for line in lines for path in _PROGRAM.findall(line)}
    return InitScript(
        Ref(NAME, f"init.d/{name}"),
        (name,),
        script=name,
        provides=tuple(word.lstrip("$") for word in fields.get("Provides", []) if word.isprintable()),
        needs=tuple(word for word in needs if word not in _SYSTEM_FACILITIES),
        runs=tuple(sorted(runs)),
        stamp=stamp,
    )


def _header(text: str) -> str:
    begin = _BEGIN.search(text)
    end = _END.search(text, begin.end()) if begin else None
    return text[begin.end() : end.start()] if begin and end else ""


def _names_program(line: str) -> bool:
    variable = _VARIABLE.match(line)
    named = variable is not None and variable[2] and any(word in variable[1] for word in _PROGRAMS)
    return bool(named) or "--exec=" in line or "--exec " in line


def _normal(path: str) -> str:
    """The usr-merged form, as /proc gives it: /sbin/rpc.statd -> /usr/sbin/rpc.statd."""
    return path if path.startswith("/usr/") else f"/usr{path}"


# --- what it would do -------------------------------------------------------------------------------------------


def judge(place: Place, sight: Sight, context: Context) -> Iterator[Finding]:
    """Every S link whose service, or whose script where that has another name, is not approved."""
    services = context.desired.services
    if services is None or place.folder not in START_FOLDERS:
        return
    case, found = (services, context.host.init, sight.resources), False
    if context.catalogue.passed.get(place) == case:
        return
    approved = context.catalogue.approver(services.approved)
    for link in sight.resources:
        if isinstance(link, RcLink) and link.letter == "S" and (link.number or context.host.init == "sysvinit"):
            for name in link.names:
                is_unit = "." in name and base_name(name) != name  # a script called ssh.socket is no unit of ssh
                if not (matches((name,), services.approved) if is_unit else approved(name)):
                    yield Finding(link.ref, name, "unapproved", "unapproved", _detail(link), link)
                    found = True
                    break
    if not found and isinstance(sight, Links):  # else it is a part of one
        context.catalogue.passed[place] = case


def _detail(link: RcLink) -> str:
    level = link.folder[len("/etc/rc") : -len(".d")]
    when = "at boot" if level == "S" else f"in runlevel {level}"
    what = "a file, not a link, " if link.what == "file" else ""
    return f"{what}starts {escape(link.script)} {when}"


def remedy(findings: Sequence[Finding], context: Context) -> Iterator[Step]:
    """Unlink each link; on a live host then stop its service, once.

    The stop is asked for whether or not the service is seen to run: who made the link is about to start it, and
    ``stop`` of what does not run is a success (Debian policy 9.3.2).
    """
    stopped = _stopped(context)
    for finding in findings:
        if isinstance(finding.seen, RcLink):
            yield Step(_unlink(finding.seen, stopped, context), finding.service, (finding.ref,))
    if context.host.live:
        yield from _stops(findings, context)


def _unlink(link: RcLink, stopped: Mapping[str, Mapping[str, str]], context: Context) -> Unlink:
    path = f"{link.folder}/{_name_of(link.ref)}"
    if link.what == "file":
        return Unlink(path)
    name = link.names[0]
    # A K link would run what it points to, and no package's update-rc.d ever made this one.
    if link.script != name or not link.number:
        return Unlink(path, link.target)
    if name in stopped[link.folder]:  # it serves as well, and undo must not take it away
        return Unlink(path, link.target)
    # update-rc.d toggles the letter and keeps the number; insserv then gives the script's stop number, but leaves
    # rcS.d as it is (both measured: tests/hosts compares with the real tool).
    renumbered = context.host.insserv and link.folder != "/etc/rcS.d"
    number = _stop_number(name, stopped) if renumbered else link.number
    return Unlink(path, link.target, f"K{number}{name}")


def _stopped(context: Context) -> dict[str, Mapping[str, str]]:
    """Each folder's K names with their numbers, whatever lies there: update-rc.d goes by names alone."""
    return {place.folder: _all_stops(sight) for place, sight in context.snapshot.sights.items() if place.kind == NAME}


def _all_stops(sight: Sight) -> Mapping[str, str]:
    """What is no link has "" for its number."""
    stops = sight.stops if isinstance(sight, Links) else _NO_STOPS
    if not sight.gaps:
        return stops
    odd = [_name_of(gap.ref) for gap in sight.gaps]
    return {**{name[3:]: "" for name in odd if name.startswith("K")}, **stops}


def _stop_number(name: str, stopped: Mapping[str, Mapping[str, str]]) -> str:
    """The one that insserv gave to the script's other K links."""
    numbers = [stops.get(name, "") for folder, stops in stopped.items() if folder != "/etc/rcS.d"]
    return next(filter(None, reversed(numbers)), "01")


def _stops(findings: Sequence[Finding], context: Context) -> Iterator[Step]:
    services, systemd = context.desired.services, context.host.init == "systemd"
    if services is None or not services.stop:
        return
    if systemd and findings:  # a changed rc link takes effect only after a daemon-reload (measured)
        yield Step(ReloadManager(), "systemd", tuple(finding.ref for finding in findings))
    for finding in findings:
        stop = context.catalogue.stop(context.catalogue.service(finding.service), context.host)
        if stop is not None:
            yield Step(stop, stop.service, (finding.ref,))

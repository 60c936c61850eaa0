"""The catalogue, pure: scripts, units, aliases, packages and executables -> one logical ``Service``.

One service has many names: Debian's init script ``portmap`` became ``rpcbind``, the package ``openbsd-inetd`` runs
``inetd``, a socket unit revives its service unit. A name approved once covers all of them. Aliases and the built-in
rails are data (``catalogue.toml``), not code.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from functools import lru_cache
from typing import TypeVar

from reconciler.model import Host, Place, Process, Resource, Sight, Snapshot, StopService
from reconciler.patterns import pattern
from reconciler.values import Value, field

T = TypeVar("T")

UNIT_SUFFIXES = (".service", ".socket", ".timer", ".path")


class InitScript(Resource):
    """A script of /etc/init.d with what its LSB header and its text say (``insserv(8)``).

    ``needs`` are the Required-Start facilities without ``$``; ``runs`` the executables its text names.
    """

    script: str = ""
    provides: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    package: str = ""
    stamp: tuple[object, ...] = field(default=(), compare=False)


class UnitFile(Resource):
    """A unit file of systemd with the relations that make units one service (``systemd.unit(5)``).

    ``path`` is where it lies; a link there (``target``) is an alias, or with /dev/null a mask. ``triggers`` are the
    units it starts when somebody connects or a time comes, and those that are installed with it.
    """

    unit: str = ""
    aliases: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    package: str = ""
    path: str = ""
    target: str = ""
    masked: bool = False


class Service(Value):
    """One logical service. ``name`` is the host's own; ``names`` are all by which it may be approved."""

    name: str
    names: frozenset[str]
    script: str = ""
    units: tuple[str, ...] = ()


class CatalogueData(Value):
    """``catalogue.toml``: groups of names that mean one service, and the built-in rails with their reasons.

    What is ``never`` touched there is in both ``never_stop`` and ``never_unlink``: what guests live on now, they need
    after a reboot as well. ``while_mounted`` holds only while a file system of one of its types is mounted.
    """

    aliases: Mapping[str, frozenset[str]] = field(default_factory=dict)
    never_stop: Mapping[str, str] = field(default_factory=dict)
    never_unlink: Mapping[str, str] = field(default_factory=dict)
    while_mounted: Mapping[str, tuple[frozenset[str], str]] = field(default_factory=dict)


def is_evidence(sight: Sight) -> bool:
    """True for a place that says who is who: its first resource is a script or a unit file."""
    return bool(sight.resources) and isinstance(sight.resources[0], InitScript | UnitFile)


def parse_catalogue(text: str) -> CatalogueData:
    """Read ``catalogue.toml``; the file is ours, so an error in it is a bug and raises as it is."""
    data = tomllib.loads(text)
    aliases = {name: frozenset(group) for group in data["aliases"] for name in group}
    mounted = {
        name: (frozenset(group["filesystems"]), str(group["why"]))
        for group in data["while_mounted"]
        for name in group["names"]
    }
    stop, unlink = (_railed(data["never"], data[key]) for key in ("never_stop", "never_unlink"))
    return CatalogueData(aliases, stop, unlink, mounted)


def _railed(never: Iterable[Mapping[str, object]], own: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """What a list itself says comes first, and in its own words."""
    reasons = _reasons(own)
    return {**reasons, **_reasons(never), **reasons}


def _reasons(groups: Iterable[Mapping[str, object]]) -> dict[str, str]:
    return {str(name): str(group["why"]) for group in groups for name in _list(group["names"])}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def base_name(name: str) -> str:
    """The name of a service without a unit's suffix and instance: ``getty@tty1.service`` -> ``getty``."""
    if not name.endswith(UNIT_SUFFIXES):
        return name
    return name.rpartition(".")[0].split("@", 1)[0]


def matches(names: Iterable[str], patterns: Iterable[str]) -> str:
    """The first pattern (an exact name or a shell glob) that any of the names matches, else ""."""
    wanted = patterns if isinstance(patterns, tuple) else tuple(patterns)
    return _patterns(wanted).first(names) if wanted else ""


class _Patterns:
    """Patterns made ready: ten thousand links at once are asked about, each with every pattern of the state."""

    def __init__(self, patterns: tuple[str, ...]) -> None:
        self._patterns = patterns
        self._exact: dict[str, int] = {}
        self._globs: list[tuple[int, Callable[[str], object]]] = []
        self._of = lru_cache(1024)(self._number)
        globs = []
        for number, wanted in enumerate(patterns):
            plain = base_name(wanted)
            self._exact.setdefault(plain, number)
            self._exact.setdefault(wanted, number)
            if not _GLOB.isdisjoint(plain):
                globs.append(translate(plain))
                self._globs.append((number, re.compile(globs[-1]).match))
        self._any_glob = re.compile("|".join(globs)).match if globs else _never

    def first(self, names: Iterable[str]) -> str:
        """The first of them that any of the names matches, else ""."""
        found = [number for name in names if (number := self._of(name)) is not None]
        return self._patterns[min(found)] if found else ""

    def _number(self, name: str) -> int | None:
        best = self._exact.get(name)
        if not self._any_glob(name):
            return best
        for number, match in self._globs:
            if best is not None and number >= best:
                break
            if match(name):
                return number
        return best


def _never(_name: str) -> bool:
    return False


_GLOB = frozenset("*?[")
_patterns = lru_cache(256)(_Patterns)


class Catalogue:
    """Who is who on one host, from what was observed. Look-ups are remembered."""

    def __init__(self, data: CatalogueData, scripts: Iterable[InitScript] = (), units: Iterable[UnitFile] = ()) -> None:
        self.data = data
        self.scripts = {script.script: script for script in scripts}
        self.units = {unit.unit: unit for unit in units}
        self._services: dict[str, Service] = {}
        self._approved: dict[tuple[str, ...], dict[str, bool]] = {}
        self.passed: dict[Place, object] = {}  # for kinds: what was judged there last, where nothing was found
        self._units_of = grouped((base_name(unit), unit) for unit in self.units)
        self._needers = grouped((need, other) for other, needs in self._needs() for need in needs)
        self._related = self._relate()
        self._owners = self._index()

    @classmethod
    def of(cls, data: CatalogueData, snapshot: Snapshot) -> Catalogue:
        """The catalogue of what a snapshot holds."""
        seen = [r for sight in snapshot.sights.values() for r in sight.resources]
        return cls(
            data,
            [r for r in seen if isinstance(r, InitScript)],
            [r for r in seen if isinstance(r, UnitFile)],
        )

    def _relate(self) -> dict[str, frozenset[str]]:
        """Join names into groups: data first, then each script's Provides, each unit's aliases and triggers."""
        groups: dict[str, set[str]] = {}
        for group in set(self.data.aliases.values()):
            _join(groups, group)
        claims = Counter(name for script in self.scripts.values() for name in set(script.provides))
        for script in self.scripts.values():
            own = (name for name in script.provides if claims[name] == 1 or name in self.scripts)
            _join(groups, (script.script, *own))
        for unit in self.units.values():
            _join(groups, map(base_name, (unit.unit, *unit.aliases, *unit.triggers)))
        related = {name: frozenset(group) for name, group in groups.items()}
        for script in self.scripts.values():  # a facility that several provide approves each, and joins none of them
            for name in groups[script.script]:
                related[name] |= frozenset(script.provides)
        return related

    def service(self, name: str) -> Service:
        """The logical service that a script, a unit or an alias names, under that name."""
        found = self._services.get(name)
        if found is None:
            found = self._services[name] = self._make(base_name(name))
        return found

    def _make(self, name: str) -> Service:
        names = self._related.get(name, frozenset((name,)))
        script = name if name in self.scripts else next((n for n in sorted(names) if n in self.scripts), "")
        units = tuple(sorted(unit for each in names for unit in self._units_of.get(each, ())))
        return Service(name, names, script, units)

    def names(self) -> frozenset[str]:
        """Every name of every service that this host has a script or a unit file for."""
        own = (*self.scripts, *map(base_name, self.units))
        return frozenset(name for each in own for name in self.service(each).names)

    def approved(self, name: str, patterns: Iterable[str]) -> bool:
        """True when any name of the service matches an approved one, which may itself be an alias."""
        return self.approver(patterns)(name)

    def approver(self, patterns: Iterable[str]) -> Callable[[str], bool]:
        """:meth:`approved` with these patterns, for whoever asks about many names."""
        wanted = patterns if isinstance(patterns, tuple) else tuple(patterns)
        known = self._approved.setdefault(wanted, {})

        def approved(name: str) -> bool:
            found = known.get(name)
            if found is None:
                found = known[name] = bool(matches(self.service(name).names, wanted))
            return found

        return approved

    def stop(self, service: Service, host: Host) -> StopService | None:
        """What stops the whole service, the same value whichever of its names asked; ``None``: nothing to stop it by.

        Under systemd a script is ``NAME.service``, native or generated (``systemd-sysv-generator(8)``), and what
        starts the others (sockets, timers, paths) goes first: a connection in between would start them again.
        """
        if host.init == "systemd":
            scripts = sorted(service.names & self.scripts.keys())
            units = {_stoppable(unit) for unit in (*service.units, *(f"{script}.service" for script in scripts))}
            ordered = sorted(units, key=lambda unit: (unit.endswith(".service"), unit))
            name = scripts[0] if scripts else base_name(ordered[0]) if ordered else ""
            return StopService(name, units=tuple(ordered)) if name else None
        return StopService(service.script, service.script) if service.script else None

    def needed_by(self, name: str, patterns: Iterable[str]) -> str:
        """An approved script or unit that cannot be without this service (LSB Required-Start, Requires=), else ""."""
        names, wanted = self.service(name).names, tuple(patterns)
        needers = (other for each in names for other in self._needers.get(each, ()))
        return min((other for other in needers if other not in names and self.approved(other, wanted)), default="")

    def _needs(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        yield from ((script.script, script.needs) for script in self.scripts.values())
        yield from ((base_name(u.unit), tuple(map(base_name, u.requires))) for u in self.units.values())

    def owner(self, process: Process) -> str:
        """The one script whose text runs the process's program, or whose package alone owns it, else "".

        A package that names its script (``canna``, by an alias also ``lpr``) owns it as surely as dpkg says so.
        """
        found = self._owners.get(program_of(process), "")
        if found or not process.package:
            return found
        mates = [s.script for s in self.scripts.values() if s.package == process.package]
        if len(mates) == 1:
            return mates[0]
        return "" if mates else self.service(process.package).script

    def _index(self) -> dict[str, str]:
        """Program -> script, but for what several scripts run: that belongs to none of them."""
        runs = [(path, script.script) for script in self.scripts.values() for path in script.runs]
        counts = Counter(path for path, _ in runs)
        return {path: name for path, name in runs if counts[path] == 1 and not _is_tool(path)}


def _is_tool(path: str) -> bool:
    """What a script runs its program with: ``/sbin/start-stop-daemon --exec $DAEMON`` is nobody's own (lpd says so)."""
    return bool(_INTERPRETER.fullmatch(_base(path)) or _STARTER.fullmatch(_base(path)))


_STARTER = pattern(
    r"start-stop-daemon|daemon|su|sudo|runuser|setpriv|setsid|nohup|nice|ionice|chrt|taskset|timeout|test|\["
)
_INTERPRETER = pattern(r"(ba|da|k|z)?sh|busybox|env|(perl|python|ruby|lua|php|tclsh|node)[0-9.]*|java|expect")


def _base(path: str) -> str:
    return path.rpartition("/")[2]


@lru_cache(1024)
def _interprets(executable: str) -> bool:
    return _INTERPRETER.fullmatch(_base(executable)) is not None


def program_of(process: Process) -> str:
    """What runs: the executable, but for an interpreter the script it was given; ``[name]`` where nobody could see."""
    if not process.executable:
        return f"[{process.name}]"
    if _interprets(process.executable):
        given = next((word for word in process.arguments[1:] if not word.startswith("-")), "")
        if given.startswith("/"):
            return given
    return process.executable


def _stoppable(unit: str) -> str:
    """A template stands for all its instances that are loaded: ``sshd@.service`` -> ``sshd@*.service``."""
    return unit.replace("@.", "@*.", 1)


def grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """What belongs to each name, in the order in which it came."""
    groups: dict[str, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _join(groups: dict[str, set[str]], names: Iterable[str]) -> None:
    merged: set[str] = set()
    for name in names:
        merged |= groups.get(name, {name})
    for name in merged:
        groups[name] = merged

"""systemd: services, sockets, timers and paths that are enabled or active and not approved.

Enabled is what a link in ``*.wants``, ``*.requires`` or ``*.upholds`` starts, wherever systemd looks for units
(``systemd.unit(5)``, "Unit File Load Path"), what the sysv-generator made of rc?.d links included; the name of such a
link counts, not its target. Active services are the links that PID 1 keeps in ``/run/systemd/units`` (it makes one when
a unit first runs a process and removes it when the unit is inactive; equal to ``list-units`` on 252 and 257); active
sockets, timers and paths leave no trace and are asked for. An active socket starts its service at the next
connection: it counts as running.

systemd's, udev's and dbus's own units are never judged, apart from a few that nobody needs to boot. Targets, mounts,
slices, scopes and devices are no services. Where systemd is not the init nothing is judged: there the links that
packages ship for both start nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from reconciler.desired import DesiredState, Services
from reconciler.errors import Unobservable
from reconciler.host import Eyes
from reconciler.kinds.base import Context
from reconciler.model import (
    DisableUnit,
    Entry,
    Finding,
    Gap,
    Host,
    LinkState,
    MaskUnit,
    Place,
    Ref,
    ReloadManager,
    Resource,
    Sight,
    Step,
    StopService,
)
from reconciler.patterns import pattern
from reconciler.services import UNIT_SUFFIXES, UnitFile, base_name, matches
from reconciler.unitfiles import parse_unit
from reconciler.values import replace

NAME = "units"

ETC = "/etc/systemd/system"
VENDOR = "/usr/lib/systemd/system"
RUNNING = "/run/systemd/units"

UNIT_FOLDERS = (
    "/run/systemd/generator.late",
    "/lib/systemd/system",
    VENDOR,
    "/usr/local/lib/systemd/system",
    "/run/systemd/generator",
    "/run/systemd/system",
    ETC,
    "/run/systemd/generator.early",
    "/run/systemd/transient",
)
"""Where unit files lie, what overrides the others last (``systemd.unit(5)``, Table 1)."""

_FARM = pattern(r"(.+)\.(wants|requires|upholds)", re.DOTALL)
_ETC_TARGETS = (
    "basic bluetooth default getty graphical local-fs local-fs-pre machines multi-user network network-online "
    "network-pre nfs-client nss-lookup paths printer remote-fs remote-fs-pre rescue sockets sysinit time-sync timers"
)
ETC_FARMS = (
    *(f"{ETC}/{target}.target.wants" for target in _ETC_TARGETS.split()),
    *(f"{ETC}/{target}.target.requires" for target in ("multi-user", "sockets", "sysinit", "basic")),
    *(f"{ETC}/{target}.target.upholds" for target in ("multi-user",)),
)
"""Places of their own, so that a new link is noticed at once; other farms in /etc are seen with the folder itself."""

_WAYS_DOWN = pattern(r"(initrd|halt|poweroff|reboot|kexec|soft-reboot|shutdown|umount|final|exit)\b")
"""Targets that are no part of a running system, as rc0.d and rc6.d are not."""

_BASE_PACKAGES = (
    "systemd",
    "systemd-sysv",
    "udev",
    "dbus",
    "dbus-system-bus-common",
    "dbus-user-session",
    "dbus-broker",
)
_OPTIONAL = ("debug-shell", "systemd-homed*", "systemd-networkd*", "systemd-storagetm", "systemd-sysupdate*")
"""Of the systemd package, but they serve or open something and a default install leaves them off: judged."""

_OWN = "dom0-reconciler"
_DISKS = ("systemd-cryptsetup", "systemd-fsck", "systemd-growfs", "systemd-makefs", "systemd-veritysetup")
_DPKG = "/var/lib/dpkg/info"
_OWNED = pattern(r"^(?:/usr)?/lib/systemd/system/([^/\n]+)$", re.MULTILINE)
_SCRIPT = "/etc/init.d/"
_LEVELS = (
    "/etc/rc1.d",
    "/etc/rc2.d",
    "/etc/rc3.d",
    "/etc/rc4.d",
    "/etc/rc5.d",
)  # those the sysv-generator reads

Origin = Literal["link", "vendor", "script"]


class EnableLink(Resource):
    """A link that starts ``unit`` with another.

    ``origin``: ``link`` can be taken away; ``vendor`` (a package's or a generator's) would come back, only a mask
    helps; ``script`` was made by the sysv-generator, and while ``caused`` an rc?.d link still causes it.
    """

    path: str = ""
    unit: str = ""
    target: str = ""
    origin: Origin = "link"
    caused: bool = False


class ActiveUnit(Resource):
    """A unit that runs, listens or waits."""

    unit: str = ""


class BaseUnits(Resource):
    """The names of the unit files that systemd, udev and dbus own."""

    units: frozenset[str] = frozenset()


def places(desired: DesiredState, host: Host) -> Iterable[Place]:
    """Where systemd finds units, and on the running host what it runs; nothing where ``[services]`` is missing."""
    if desired.services is None or host.init != "systemd":
        return ()
    folders = (*UNIT_FOLDERS, *ETC_FARMS, RUNNING, "") if host.live else (*UNIT_FOLDERS, *ETC_FARMS)
    return [Place(NAME, folder) for folder in folders if host.live or not folder.startswith("/run/")]


def concerns(place: Place, name: str) -> bool:
    """True when a new name in a place can start something or say that something runs."""
    if place.folder == RUNNING:
        return name.startswith("invocation:") and name.endswith(".service")
    return name.endswith(UNIT_SUFFIXES) or _FARM.fullmatch(name) is not None


# --- what it sees -----------------------------------------------------------------------------------------------


def observe(place: Place, eyes: Eyes) -> Sight:
    """Look at one folder of units, one link farm, or at what runs."""
    if not place.folder:
        return _triggers(eyes)
    if place.folder == "/lib/systemd/system" and isinstance(eyes.entry("/lib"), LinkState):
        return Sight()  # a merged /usr: it is VENDOR
    entries = eyes.folder(place.folder, _wanted)
    if place.folder == RUNNING:
        return _services(place, entries)
    if _FARM.fullmatch(place.folder):
        return _farm(place.folder, entries or (), eyes)
    return _units(place.folder, entries or (), eyes)


def _wanted(name: str) -> bool:
    return name.endswith(UNIT_SUFFIXES)


def _active(unit: str) -> ActiveUnit:
    return ActiveUnit(Ref(NAME, unit), (base_name(unit),), unit)


def _services(place: Place, entries: Iterable[Entry] | None) -> Sight:
    if entries is None:
        raise Unobservable(f"{RUNNING} is not there: nothing tells what runs")
    names = (entry.name for entry in entries if concerns(place, entry.name))
    return Sight(tuple(_active(name.removeprefix("invocation:")) for name in names))


def _triggers(eyes: Eyes) -> Sight:
    try:
        return Sight(tuple(map(_active, eyes.triggers())))
    except Unobservable as error:
        return Sight(gaps=(Gap(NAME, Ref(NAME, "systemd"), str(error)),))


def _units(folder: str, entries: Iterable[Entry], eyes: Eyes) -> Sight:
    """The unit files of a folder and the farms in it that are no places of their own."""
    base = _owned(eyes) if folder == VENDOR else frozenset[str]()
    files: list[Resource] = []
    links: list[Resource] = []
    gaps: list[Gap] = []
    for entry in entries:
        path = f"{folder}/{entry.name}"
        try:
            if _wanted(entry.name) and entry.name not in base:
                files += _unit(path, entry, eyes)
            elif entry.what == "directory" and _FARM.fullmatch(entry.name) and path not in ETC_FARMS:
                sight = _farm(path, eyes.folder(path, _wanted) or (), eyes)
                links += sight.resources
                gaps += sight.gaps
        except Unobservable as error:
            gaps.append(Gap(NAME, _ref(path), str(error)))
    # The files first: they make the place evidence of who is who.
    owned = [BaseUnits(Ref(NAME, "base"), (), base)] if folder == VENDOR else []
    return Sight((*files, *links, *owned), tuple(gaps))


def _ref(path: str) -> Ref:
    for folder in (f"{ETC}/", "/run/systemd/", "/"):
        if path.startswith(folder):
            return Ref(NAME, path[len(folder) :])
    return Ref(NAME, path)


def _owned(eyes: Eyes) -> frozenset[str]:
    """The units that the base packages own, by dpkg's lists; not knowing them, nothing may be judged."""
    lists = [eyes.read(f"{_DPKG}/{package}.list") for package in _BASE_PACKAGES]
    if lists[0] is None:
        raise Unobservable(f"which units are systemd's own is not known: no {_DPKG}/{_BASE_PACKAGES[0]}.list")
    names = {n for found in lists if found for n in _OWNED.findall(found.content.decode("utf-8", "surrogateescape"))}
    return frozenset(name for name in names if not matches((base_name(name),), _OPTIONAL))


def _unit(path: str, entry: Entry, eyes: Eyes) -> Iterator[UnitFile]:
    """One unit file, an alias (a link to a unit of another name) or a mask (a link to /dev/null, an empty file)."""
    name = entry.name
    if entry.what == "link":
        target = entry.target.rpartition("/")[2]
        if entry.target == "/dev/null":
            yield UnitFile(_ref(path), (base_name(name),), name, path=path, target=entry.target, masked=True)
            return
        if target != name and target.endswith(UNIT_SUFFIXES):
            yield UnitFile(_ref(path), (base_name(name),), name, (target,), path=path, target=entry.target)
            return
    state = eyes.read(path) if entry.what in ("link", "file") else None
    if state is not None:
        yield parse_unit(_ref(path), path, state.content.decode("utf-8", "surrogateescape"), entry.target)


def _farm(folder: str, entries: Iterable[Entry], eyes: Eyes) -> Sight:
    """The links of one ``X.wants``. A link to /dev/null takes back the same link of a lower folder."""
    if _WAYS_DOWN.match(folder.rpartition("/")[2]):
        return Sight()
    links, gaps = [], []
    for entry in entries:
        if not _wanted(entry.name):
            continue
        path = f"{folder}/{entry.name}"
        if entry.what == "link":
            links.append(_link(path, entry, eyes))
        else:
            gaps.append(Gap(NAME, _ref(path), f"a {entry.what} where a link belongs"))
    return Sight(tuple(links), tuple(gaps))


def _link(path: str, entry: Entry, eyes: Eyes) -> EnableLink:
    link = EnableLink(_ref(path), (base_name(entry.name),), path, entry.name, entry.target)
    if path.startswith(("/usr/", "/lib/", "/run/systemd/generator")):
        script = _script_of(path, entry.name, eyes)
        if script:
            return replace(link, origin="script", caused=_is_started(script, eyes))
        return replace(link, origin="vendor")
    return link


def _script_of(path: str, unit: str, eyes: Eyes) -> str:
    """The init script that a generated unit was made from, by its SourcePath= (``systemd-sysv-generator(8)``)."""
    if not path.startswith("/run/systemd/generator.late/"):
        return ""
    state = eyes.read(f"/run/systemd/generator.late/{unit}")
    text = state.content.decode("utf-8", "surrogateescape") if state else ""
    _, found, rest = text.partition(f"\nSourcePath={_SCRIPT}")
    return rest.partition("\n")[0] if found else ""


def _is_started(script: str, eyes: Eyes) -> bool:
    """Whether an S link still asks for it; else the generated unit is left over until the next daemon-reload."""
    link = re.compile(rf"S[0-9]{{2}}{re.escape(script)}", re.DOTALL)
    return any(link.fullmatch(e.name) for level in _LEVELS for e in eyes.folder(level) or ())


# --- what it would do -------------------------------------------------------------------------------------------


def judge(place: Place, sight: Sight, context: Context) -> Iterator[Finding]:
    """Every link that starts, and every unit that is active, of a service that is not approved."""
    for seen in sight.resources:
        if isinstance(seen, EnableLink | ActiveUnit) and _is_stranger(seen, context):
            service = base_name(seen.unit)
            yield Finding(seen.ref, service, "unapproved", "unapproved", _detail(seen), seen)


def _is_stranger(seen: EnableLink | ActiveUnit, context: Context) -> bool:
    services, base = context.desired.services, _base_units(context)
    if services is None or base is None or _is_base(seen, base) or _is_left_over(seen, context):
        return False
    if isinstance(seen, EnableLink) and (seen.target == "/dev/null" or _is_masked(seen, context)):
        return False
    return not _is_approved(seen.unit, services, context)


def _base_units(context: Context) -> frozenset[str] | None:
    sight = context.snapshot.sights.get(Place(NAME, VENDOR))
    last = sight.resources[-1] if sight and sight.resources else None
    return last.units if isinstance(last, BaseUnits) else None


def _is_base(seen: EnableLink | ActiveUnit, base: frozenset[str]) -> bool:
    """Its own file or its template is systemd's; or it is this daemon, or a disk's unit that a generator made."""
    name, at, rest = seen.unit.partition("@")
    template = f"{name}@.{rest.rpartition('.')[2]}" if at else seen.unit
    return seen.unit in base or template in base or name.startswith(_DISKS) or base_name(seen.unit) == _OWN


def _is_left_over(seen: EnableLink | ActiveUnit, context: Context) -> bool:
    """One of systemd's own that its upgrade has dropped: no file of that name is left, and active until the reboot."""
    return (
        isinstance(seen, ActiveUnit) and seen.unit.startswith("systemd-") and seen.unit not in context.catalogue.units
    )


def _is_masked(link: EnableLink, context: Context) -> bool:
    """Masked as a unit; a vendor's link also by one of the same name to /dev/null in /etc (``systemd.unit(5)``)."""
    file = context.catalogue.units.get(link.unit)
    if file is not None and file.masked:
        return True
    farm = f"{ETC}/{link.path.rpartition('/')[0].rpartition('/')[2]}"
    sights = (context.snapshot.sights.get(Place(NAME, folder), Sight()) for folder in (farm, ETC))
    links = (seen for sight in sights for seen in sight.resources if isinstance(seen, EnableLink))
    return any(seen.path == f"{farm}/{link.unit}" and seen.target == "/dev/null" for seen in links)


def _is_approved(unit: str, services: Services, context: Context) -> bool:
    """By any name of its service, or by its own: ``ifup@eth0``."""
    own = unit.rpartition(".")[0]
    return context.catalogue.approved(unit, services.approved) or bool(matches((own,), services.approved))


_DOES = {"service": "runs", "socket": "listens, and starts its service for whoever connects"}
_WHOSE = {"link": "", "vendor": ", by a link of a package or a generator", "script": ", by its init script"}


def _detail(seen: EnableLink | ActiveUnit) -> str:
    if isinstance(seen, ActiveUnit):
        return f"{seen.unit} {_DOES.get(seen.unit.rpartition('.')[2], 'waits to start its service')}"
    farm = seen.path.rpartition("/")[0].rpartition("/")[2]
    return f"{farm.rpartition('.')[0]} starts {seen.unit}{_WHOSE[seen.origin]}"


def remedy(findings: Sequence[Finding], context: Context) -> Iterator[Step]:
    """Disable, then mask what a disabling leaves enabled, reload once, stop each service once."""
    services = context.desired.services
    if services is None:
        return
    by_service: dict[str, list[Finding]] = {}
    for finding in findings:
        by_service.setdefault(finding.service, []).append(finding)
    changed: list[Ref] = []
    for service, asked in by_service.items():
        for step in (_disable(service, asked, context), _mask(service, asked, context)):
            if step is not None:
                changed += step.findings
                yield step
    if context.host.live:
        yield from _reload(findings, changed)
        if services.stop:
            yield from _stops(findings, context)


def _disable(service: str, asked: Iterable[Finding], context: Context) -> Step | None:
    """All links of the service, those in other places too: a focused plan must want what the full plan wants."""
    refs = tuple(f.ref for f in asked if _origin(f) == "link")
    if not refs:
        return None
    enabled = _enabled(service, "link", context)
    links = {link.path: link.target for link in enabled} | _aliases(service, context)
    units = tuple(sorted({link.unit for link in enabled}))
    return Step(DisableUnit(service, units, tuple(sorted(links.items()))), service, refs)


def _origin(finding: Finding) -> str:
    return finding.seen.origin if isinstance(finding.seen, EnableLink) else ""


def _enabled(service: str, origin: Origin, context: Context) -> list[EnableLink]:
    links = (link for link in context.snapshot.resources(NAME) if isinstance(link, EnableLink))
    mine = (link for link in links if link.origin == origin and base_name(link.unit) == service)
    return [link for link in mine if _is_stranger(link, context)]


def _aliases(service: str, context: Context) -> dict[str, str]:
    """Other names of the service in /etc/systemd/system: ``systemctl disable`` takes them away as well."""
    links = (file for file in context.catalogue.units.values() if _is_alias(file) and file.path.startswith(f"{ETC}/"))
    return {link.path: link.target for link in links if base_name(link.aliases[0]) == service}


def _is_alias(file: UnitFile) -> bool:
    return bool(file.target and file.aliases) and file.unit != file.target.rpartition("/")[2]


def _mask(service: str, asked: Iterable[Finding], context: Context) -> Step | None:
    """With ``mask = true``, or when it came back, every unit of that name; else what no disabling turns off."""
    services = context.desired.services
    everything = services is not None and (services.mask or service in context.contested)
    reasons = tuple(f.ref for f in asked if everything or _origin(f) == "vendor")
    units = {link.unit for link in _enabled(service, "vendor", context)}
    if everything:
        units |= {unit for unit in context.catalogue.units if base_name(unit) == service}
    wanted = tuple(sorted(unit for unit in units if _is_maskable(unit, context)))
    return Step(MaskUnit(service, wanted), service, reasons) if reasons and wanted else None


def _is_maskable(unit: str, context: Context) -> bool:
    """Not what is masked already, and not an alias: without its unit it starts nothing."""
    file = context.catalogue.units.get(unit)
    return file is None or not (file.masked or _is_alias(file))


def _reload(findings: Iterable[Finding], changed: Sequence[Ref]) -> Iterator[Step]:
    """One for all: what was changed, and what the sysv-generator made of links that are gone meanwhile."""
    links = ((f.ref, f.seen) for f in findings if isinstance(f.seen, EnableLink))
    left_over = (ref for ref, link in links if link.origin == "script" and not link.caused)
    refs = tuple(dict.fromkeys((*changed, *left_over)))
    if refs:
        yield Step(ReloadManager(), "systemd", refs)


def _stops(findings: Iterable[Finding], context: Context) -> Iterator[Step]:
    """The whole service by the value that every kind asks for; a unit whose file is gone on its own."""
    for finding in findings:
        seen = finding.seen
        if not isinstance(seen, EnableLink | ActiveUnit):
            continue
        stop = context.catalogue.stop(context.catalogue.service(seen.unit), context.host)
        known = stop is not None and _covers(stop, seen.unit)
        if isinstance(seen, ActiveUnit) and not known:
            yield Step(StopService(seen.unit, units=(seen.unit,)), finding.service, (finding.ref,))
        elif stop is not None:
            yield Step(stop, stop.service, (finding.ref,))


def _covers(stop: StopService, unit: str) -> bool:
    name, at, rest = unit.partition("@")
    return unit in stop.units or (bool(at) and f"{name}@*.{rest.rpartition('.')[2]}" in stop.units)

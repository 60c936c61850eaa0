"""interfaces: /etc/network/interfaces and the files beside it are byte for byte what the state declares.

Only files are restored: restarting networking detaches guests from their bridges (measured). Where the state
asks for it (``apply``), one more step has the running network follow, with :mod:`reconciler.network.netswitch` to take
it back; then all the files are one change, whichever place was looked at. A name in interfaces.d that is not
declared is a finding: with ``source interfaces.d/*``, which Debian installs, ifupdown reads editor backups,
``.bak`` and ``.dpkg-new`` as live configuration (measured). Names with a dot first no glob reads; they are not
looked at. What is neither file nor link is a gap: a folder may hold what nobody wants to lose, and who put a
FIFO or a device there must say why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from sys import byteorder

from reconciler.desired import DesiredState, Network
from reconciler.errors import Unobservable
from reconciler.host import Eyes
from reconciler.kinds.base import Context
from reconciler.model import (
    EntryState,
    FileState,
    Finding,
    Gap,
    Host,
    LinkState,
    OddState,
    Place,
    Ref,
    Resource,
    Rule,
    Sight,
    Step,
    Unlink,
    WriteFile,
)
from reconciler.network.ifupdown import defines, stanzas
from reconciler.network.netswitch import RunningNetwork, reshape
from reconciler.text import escape
from reconciler.values import replace

NAME = "interfaces"
HOME = "/etc/network"
FILE = Place(NAME, HOME, "interfaces")
FOLDER = Place(NAME, f"{HOME}/interfaces.d")
RUNNING = Place(NAME, "", "running")
_RTF_GATEWAY = 2
TOOLS = {"ifup": ("/sbin/ifup", "/sbin/ifdown"), "ifreload": ("/sbin/ifreload",)}

SHOWN, LONGEST = 3, 120
"""How many differences a finding names, and how many characters of each."""

# --- what is seen ------------------------------------------------------------------------------------------


class NetworkFile(Resource):
    """A file or link where ifupdown reads. It belongs to no service: no rail keeps it from being restored."""

    state: EntryState


def places(desired: DesiredState, host: Host) -> Iterable[Place]:
    """The file and the folder, each only where the state declares it; the network itself where it is to follow."""
    network = desired.network
    if network is not None and network.interfaces is not None:
        yield FILE
    if network is not None and network.interfaces_d is not None:
        yield FOLDER
    if network is not None and network.apply != "file" and host.live:
        yield RUNNING


def concerns(place: Place, name: str) -> bool:
    """A name with a dot first, such as a temporary of ours, is read by nobody."""
    return not name.startswith(".")


def observe(place: Place, eyes: Eyes) -> Sight:
    """The file, or all of the folder but dot names. Raises ``Unobservable`` where the file is none."""
    if place == FOLDER:
        return _folder(eyes)
    if place == RUNNING:
        return Sight((look_at_network(eyes),))
    resource = _resource("interfaces", eyes)
    return Sight((resource,) if resource else ())


def _folder(eyes: Eyes) -> Sight:
    resources, gaps = [], []
    for entry in eyes.folder(FOLDER.folder) or ():
        if entry.name.startswith("."):
            continue
        name = f"interfaces.d/{entry.name}"
        try:
            resource = _resource(name, eyes)
        except Unobservable as error:
            gaps.append(Gap(NAME, Ref(NAME, name), str(error)))
        else:
            resources += [resource] if resource else []
    return Sight(tuple(resources), tuple(gaps))


def _resource(name: str, eyes: Eyes) -> NetworkFile | None:
    path = f"{HOME}/{name}"
    state = eyes.entry(path)
    if isinstance(state, OddState):
        raise Unobservable(f"{escape(path)} is a {state.what}, not a file")
    return NetworkFile(Ref(NAME, name), (), state) if state else None


def look_at_network(eyes: Eyes) -> RunningNetwork:
    """The network as it runs. Raises ``Unobservable``."""
    bridges = []
    for entry in eyes.folder("/sys/class/net") or ():
        ports = eyes.folder(f"/sys/class/net/{entry.name}/brif")
        if ports is not None:
            bridges.append((entry.name, tuple(port.name for port in ports)))
    tools = frozenset(tool for tool, files in TOOLS.items() if all(eyes.entry(file) is not None for file in files))
    return RunningNetwork(Ref(NAME, "running"), (), eyes.addresses(), tuple(bridges), tuple(_gateways(eyes)), tools)


def _gateways(eyes: Eyes) -> Iterator[tuple[str, str]]:
    """The default routes (``proc(5)``, /proc/net/route: words in the host's byte order)."""
    table = eyes.read("/proc/net/route")
    for line in table.content.decode("ascii", "replace").splitlines()[1:] if table else ():
        interface, destination, gateway, flags, *_ = line.split()
        if destination == "00000000" and int(flags, 16) & _RTF_GATEWAY:
            octets = bytes.fromhex(gateway)[:: -1 if byteorder == "little" else 1]
            yield interface, ".".join(map(str, octets))


# --- what is judged, and what would be done ----------------------------------------------------------------


def judge(place: Place, sight: Sight, context: Context) -> Iterator[Finding]:
    """Declared files that differ or are missing, and in the folder every other file."""
    if place == RUNNING:  # what runs is judged by no file alone
        return
    wanted = _wanted(context.desired)
    seen = {resource.ref: resource for resource in sight.resources if isinstance(resource, NetworkFile)}
    for ref, canonical in wanted.items():
        if ref.name.startswith("interfaces.d/") != (place == FOLDER):
            continue
        resource = seen.get(ref)
        if resource is None and _absent(ref, sight):
            yield _finding(ref, "missing", "declared, but not there")
        elif resource is not None and not _equal(resource.state, canonical):
            yield _finding(ref, "drifted", _drift(resource.state, canonical), resource)
    for ref, resource in seen.items():
        if place == FOLDER and ref not in wanted:
            yield _finding(ref, "unapproved", _stranger(resource.state), resource)


def _wanted(desired: DesiredState) -> Mapping[Ref, FileState]:
    network = desired.network
    if network is None:
        return {}
    files = {f"interfaces.d/{name}": state for name, state in (network.interfaces_d or {}).items()}
    if network.interfaces is not None:
        files["interfaces"] = network.interfaces
    return {Ref(NAME, name): state for name, state in files.items()}


def _absent(ref: Ref, sight: Sight) -> bool:
    """True unless the place itself, or the thing of that name, is a gap."""
    return all(gap.ref != ref and gap.ref.name.startswith("interfaces.d/") for gap in sight.gaps)


def _equal(state: EntryState, canonical: FileState) -> bool:
    return isinstance(state, FileState) and replace(state, mtime_ns=0) == replace(canonical, mtime_ns=0)


def _finding(ref: Ref, rule: Rule, detail: str, seen: Resource | None = None) -> Finding:
    return Finding(ref, "", rule, rule, escape(detail), seen)


def _stranger(state: EntryState) -> str:
    if isinstance(state, LinkState):
        return f"not declared: a link to {state.target}"
    names = sorted(defines(state.content)) if isinstance(state, FileState) else ()
    return f"not declared: configures {', '.join(names)}" if names else "not declared"


def _drift(state: EntryState, canonical: FileState) -> str:
    """What differs, in one line: content, owner, mode."""
    if isinstance(state, LinkState):
        return f"a link to {state.target} instead of a file"
    if not isinstance(state, FileState):
        return "not a file"
    parts = [differences(state.content, canonical.content)] if state.content != canonical.content else []
    if (state.uid, state.gid) != (canonical.uid, canonical.gid):
        parts.append(f"owner {state.uid}:{state.gid} instead of {canonical.uid}:{canonical.gid}")
    if state.mode != canonical.mode:
        parts.append(f"mode {state.mode:04o} instead of {canonical.mode:04o}")
    return "; ".join(parts)


def differences(seen: bytes, wanted: bytes) -> str:
    """What one file says and the other does not, for people: ``eth0: dhcp instead of static``."""
    parts = [*_interface_differences(seen, wanted), *_other_differences(seen, wanted)]
    if not parts:
        return "only comments, blanks or the order differ"
    more = [f"and {len(parts) - SHOWN} more"] if len(parts) > SHOWN else []
    return "; ".join([*map(_short, parts[:SHOWN]), *more])


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _interface_differences(seen: bytes, wanted: bytes) -> Iterator[str]:
    there, declared = _definitions(seen), _definitions(wanted)
    for key in dict.fromkeys((*declared, *there)):
        title = key.removesuffix(" inet")
        method, options = there.get(key, ("", Counter()))
        right, right_options = declared.get(key, ("", Counter()))
        if key not in declared or key not in there:
            yield f"{title} ({method or right}) {'added' if key in there else 'removed'}"
        elif method != right:
            yield f"{title}: {method} instead of {right}"
        else:
            yield from (f"{title}: {part}" for part in _option_differences(options, right_options))


Options = Counter[tuple[str, str]]


def _definitions(content: bytes) -> dict[str, tuple[str, Options]]:
    """``NAME FAMILY`` -> the methods of its stanzas, and all their options."""
    methods: dict[str, list[str]] = {}
    options: dict[str, Options] = {}
    for stanza in stanzas(content):
        if stanza.keyword == "iface":
            key = " ".join(stanza.words[:2])
            methods.setdefault(key, []).append(" ".join(stanza.words[2:]))
            options.setdefault(key, Counter()).update(stanza.options)
    return {key: (" and ".join(methods[key]), options[key]) for key in methods}


def _option_differences(seen: Options, wanted: Options) -> Iterator[str]:
    extra, lacking = dict((seen - wanted).keys()), dict((wanted - seen).keys())
    for option in dict.fromkeys((*lacking, *extra)):
        if option not in extra:
            yield f"without {option} {lacking[option]}"
        elif option not in lacking:
            yield f"{option} {extra[option]} added"
        else:
            yield f"{option} {extra[option]} instead of {lacking[option]}"


def _other_differences(seen: bytes, wanted: bytes) -> Iterator[str]:
    there, declared = (Counter(_others(content)) for content in (seen, wanted))
    yield from (f'"{line}" added' for line in there - declared)
    yield from (f'"{line}" removed' for line in declared - there)


def _others(content: bytes) -> Iterator[str]:
    for stanza in stanzas(content):
        if stanza.keyword != "iface":
            yield stanza.line
            yield from (f"{stanza.line}: {option} {value}" for option, value in stanza.options)


def remedy(findings: Sequence[Finding], context: Context) -> Iterator[Step]:
    """Write what is declared, unlink what is not. A link is replaced itself; what it leads to stays."""
    network, running = context.desired.network, _running(context)
    if network is None or RUNNING not in context.snapshot.sights or not findings:
        yield from _file_steps(findings, context)
        return
    if running is None:  # a gap: files that the network does not follow would be in force, unconfirmed, after a reboot
        return
    sights = [(place, sight) for place, sight in context.snapshot.sights.items() if place.kind == NAME]
    every = [finding for place, sight in sights for finding in judge(place, sight, context)]
    steps = list(_file_steps(every, context))
    action = reshape(*_contents(steps, [sight for _, sight in sights], network), running)
    yield from steps
    if action.down or action.up or action.perhaps:
        yield Step(action, "", tuple(finding.ref for finding in every), "drifted")


def _file_steps(findings: Sequence[Finding], context: Context) -> Iterator[Step]:
    wanted = _wanted(context.desired)
    for finding in findings:
        path = f"{HOME}/{finding.ref.name}"
        state = finding.seen.state if isinstance(finding.seen, NetworkFile) else None
        if finding.ref in wanted:
            # mtime_ns=0: the time of the canonical file says nothing about this one
            action = WriteFile(path, replace(wanted[finding.ref], mtime_ns=0), state)
            yield Step(action, "", (finding.ref,), finding.rule)
        elif state is not None:
            target = state.target if isinstance(state, LinkState) else ""
            yield Step(Unlink(path, target), "", (finding.ref,), finding.rule)


def _running(context: Context) -> RunningNetwork | None:
    """The network as it runs, where the state has it follow the files."""
    found = context.snapshot.sights.get(RUNNING, Sight()).resources
    return next((resource for resource in found if isinstance(resource, RunningNetwork)), None)


def _contents(
    steps: Sequence[Step], sights: Sequence[Sight], network: Network
) -> tuple[list[bytes], Network, list[bytes]]:
    """What ifupdown reads now, and what it will read once these steps are done."""
    seen = {f"{HOME}/{r.ref.name}": r.state for sight in sights for r in sight.resources if isinstance(r, NetworkFile)}
    before = {path: state.content for path, state in seen.items() if isinstance(state, FileState)}
    after = dict(before)
    for step in steps:
        if isinstance(step.action, WriteFile):
            after[step.action.path] = step.action.state.content
        elif isinstance(step.action, Unlink):
            after.pop(step.action.path, None)
    return list(before.values()), network, list(after.values())

"""A state drafted from what was seen on a host, pure: all that is the host's is approved, and said why it is odd.

What a draft approves beyond the shipped state of the release stands on a line of its own with its reason, so that the
administrator takes out what he does not want and keeps the rest: nothing is turned off by a state that nobody read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress

from reconciler.kinds.base import Context
from reconciler.lineage import Lineage, Running
from reconciler.model import Finding, Listener, Plan
from reconciler.services import program_of
from reconciler.statefile.words import Wrong, executable, inetd_line, service_name, socket_path
from reconciler.text import plain
from reconciler.values import Value, field

HEADER = """\
# The desired state of this Domain-0, drafted from the host as it was by "dom0-reconciler init".
#
# It only reports for now: "dom0-reconciler enforce" makes it hold. What is approved below is more than a Domain-0 of
# this release needs: take out what should be off, and look at "dom0-reconciler plan".

version = 1
mode = "observe"
"""


class Draft(Value, frozen=False):
    """What goes into the file: words with the reason why they are there, by table; ``odd`` are lines for its end."""

    include: str = ""
    tables: dict[str, dict[str, str]] = field(default_factory=dict)
    network: dict[str, str] = field(default_factory=dict)
    interfaces_d: dict[str, str] | None = None
    odd: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The file."""
        return "".join(line for part in self._parts() for line in part)

    def _parts(self) -> Iterator[Iterable[str]]:
        yield HEADER
        if self.include:
            yield f"include = [{_quoted(self.include)}]\n"
        for table, words in self.tables.items():
            yield f"\n[{table}]\n", *_list(words)
        if self.network or self.interfaces_d is not None:
            yield "\n[network]\n", *(f"{key} = {value}\n" for key, value in self.network.items())
        if self.interfaces_d is not None:
            pairs = (f"{_quoted(name)} = {_quoted(path)}" for name, path in sorted(self.interfaces_d.items()))
            yield f"interfaces_d = {{ {', '.join(pairs)} }}\n".replace("{  }", "{}")
        if self.odd:
            yield "\n", *(f"# {line}\n" for line in self.odd)


EPHEMERAL = range(32768, 61000)
"""Ports that the kernel chooses (ip(7)): other ones at each start, so a rule for one would say nothing."""

RESERVED = range(512, 1024)
"""Ports that bindresvport(3) chooses, which programs of SunRPC ask for."""

ANYWHERE = ("0.0.0.0", "::", "*")  # noqa: S104  (as it is seen)

_TABLE = "{ port = "
"""How a word begins that is a table; no name of a service has a blank, and every other one begins otherwise."""


def draft(plan: Plan, context: Context, *, live: bool, at_terminals: Set[int] = frozenset()) -> Draft:
    """Approve all that a plan for the shipped state finds: services, inetd's lines, and what runs.

    But no program that only runs ``at_terminals``, by pid, or that init did not begin: it is somebody's, not the
    host's, and to approve tail(1) because somebody was reading a log would approve it for ever.
    """
    made = Draft()
    services = made.tables["services"] = {}
    covered: set[str] = set()
    for finding in _of(plan.findings, "rclinks", "units"):
        _service(finding.service, finding, context, services, covered, made.odd)
    for finding in _of(plan.findings, "listeners", "processes"):
        if finding.service and _is_service(finding.service, context):
            _service(finding.service, finding, context, services, covered, made.odd)
    made.tables["inetd"] = dict(_inetd(plan, made.odd))
    if live:
        made.tables["listeners"] = dict(_listeners(plan))
        made.tables["processes"] = dict(_processes(plan, context, at_terminals, made.odd))
    return made


def _of(findings: Iterable[Finding], *kinds: str) -> list[Finding]:
    return [finding for finding in findings if finding.kind in kinds]


def _is_service(name: str, context: Context) -> bool:
    service = context.catalogue.service(name)
    return bool(service.script or service.units)


def _service(
    name: str, finding: Finding, context: Context, services: dict[str, str], covered: set[str], odd: list[str]
) -> None:
    """One word for a service, by the name this host uses; its first finding is the reason."""
    try:
        _itself(service_name(name))
    except Wrong as wrong:
        odd.append(f"not approved, it has no name that a state can hold: {finding.ref} ({wrong})")
        return
    names = context.catalogue.service(name).names
    if names.isdisjoint(covered):
        services[name] = plain(finding.detail)
        covered |= names


def _itself(word: str) -> str:
    """Who calls a program ``*`` must not have it approve every other one."""
    if any(character in word for character in "*?["):
        raise Wrong("as a pattern it would approve more than itself")
    return word


def _inetd(plan: Plan, odd: list[str]) -> Iterator[tuple[str, str]]:
    for finding in _of(plan.findings, "inetd"):
        identity = getattr(getattr(finding.seen, "entry", None), "identity", "")
        try:
            yield inetd_line(identity), plain(finding.detail)
        except Wrong as wrong:
            odd.append(f"not approved: {finding.ref} ({wrong})")


def _listeners(plan: Plan) -> Iterator[tuple[str, str]]:
    """Ports as a rule writes them: ``tcp/22``, and a table where the address, or the process, is part of it."""
    seen = [(f, one) for f in _of(plan.findings, "listeners") for one in getattr(f.seen, "listeners", ())]
    anywhere = {owner.pid for _, one in seen if one.port in EPHEMERAL for owner in one.owners}
    for finding, one in seen:
        why = plain(finding.detail)
        if one.protocol == "unix":
            with suppress(Wrong):
                yield f"unix/{_itself(socket_path(one.path))}", why
            continue
        address = "" if one.address in ANYWHERE else one.address.partition("%")[0]
        choosing = anywhere.intersection(owner.pid for owner in one.owners)
        yield _rule(one, address, _chosen(one, reserved=bool(address)) if choosing else ()), why


def _chosen(one: Listener, *, reserved: bool) -> tuple[range, str] | tuple[()]:
    """The ports of which the kernel chose this one, and the program that had it choose, by a name that a rule holds."""
    for ports in (EPHEMERAL, RESERVED) if reserved else (EPHEMERAL,):
        with suppress(Wrong):
            if one.port in ports:
                return ports, _itself(executable(program_of(one.owners[0]).rpartition("/")[2]))
    return ()


def _rule(one: Listener, address: str, chosen: tuple[range, str] | tuple[()]) -> str:
    ports, process = (f"{chosen[0][0]}-{chosen[0][-1]}", chosen[1]) if chosen else (str(one.port), "")
    more = "".join(f", {key} = {_quoted(word)}" for key, word in (("address", address), ("process", process)) if word)
    port = f"{one.protocol}/{ports}"
    return f"{_TABLE}{_quoted(port)}{more} }}" if more else port


def _processes(plan: Plan, context: Context, at_terminals: Set[int], odd: list[str]) -> Iterator[tuple[str, str]]:
    lineage = Lineage.of(context.snapshot, context.catalogue, context.desired)
    for finding in _of(plan.findings, "processes"):
        running = finding.seen
        if not isinstance(running, Running) or _is_service(finding.service, context):
            continue
        try:
            _hosts_own(running, lineage, at_terminals)
            yield _itself(executable(running.program)), plain(finding.detail)
        except Wrong as wrong:
            odd.append(f"not approved: {finding.ref} ({wrong})")


def _hosts_own(running: Running, lineage: Lineage, at_terminals: Set[int]) -> None:
    """Of several processes one is enough: the program is the host's then."""
    begun = {process.pid for process in running.processes if lineage.line(process)[-1].parent != _OUTSIDE}
    if not begun:
        raise Wrong("init did not begin it")
    if begun <= at_terminals:
        raise Wrong("it is on somebody's terminal, no part of the host")


_OUTSIDE = 0
"""The parent of what was put into this host from outside, as by nsenter(1); all else descends from init."""


def _list(words: Mapping[str, str]) -> Sequence[str]:
    if not words:
        return ("approved = []\n",)
    width = max(len(_word(word)) for word in words) + 1
    lines = (f"    {_word(word) + ',':<{width}}  # {why}\n" for word, why in sorted(words.items()))
    return "approved = [\n", *lines, "]\n"


def _word(word: str) -> str:
    return word if word.startswith(_TABLE) else _quoted(word)


def _quoted(text: str) -> str:
    """A basic string of TOML; what JSON escapes in one means the same there."""
    return json.dumps(text)

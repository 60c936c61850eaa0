"""``approve NAME...``, ``revoke NAME...``: edit the state file, and show how the plan changes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from reconciler.desired import DesiredState
from reconciler.editing import change_list, list_of
from reconciler.errors import ReconcilerError, UsageError
from reconciler.model import FileState
from reconciler.render import Printer, change_text, error
from reconciler.services import Catalogue, matches
from reconciler.session import Session
from reconciler.shapes import change_shape
from reconciler.statechange import Change, StateFile, judge, main_file, make, read_later
from reconciler.statefile.words import Wrong, did_you_mean, executable, inetd_line, quote, service_name
from reconciler.text import escape
from reconciler.values import Value, field

_GLOB = frozenset("*?[")


def run(session: Session, options: argparse.Namespace) -> int:
    """0, also where nothing was to be changed; 1 for an unknown name, and where the file cannot say it."""
    return edit(session, options, revoke=False)


def edit(session: Session, options: argparse.Namespace, *, revoke: bool) -> int:
    """Both commands: the one adds words, the other takes them away."""
    edits = Edits(session, session.load_state(refuse=False), list_of_file(main_file(session)))
    for name in dict.fromkeys(options.names):
        (edits.revoke if revoke else edits.approve)(name)
    for line in edits.said:
        error(line)
    change = judge(session, edits.apply)
    if edits.amend(options.names, change.after, revoke=revoke):
        change = judge(session, edits.apply)
    edits.must_hold(options.names, change, revoke=revoke)
    if change.text != change.file.text:
        make(session, change, "revoke" if revoke else "approve", ", ".join(map(escape, options.names)))
    out = Printer()
    if options.json:
        out.json(change_shape(change))
    else:
        change_text(change, out)
    return 0


def list_of_file(file: StateFile) -> Callable[[str], tuple[object, ...]]:
    """What each table of this very file approves."""
    return lambda table: list_of(file.text, table)


class Edits(Value, frozen=False):
    """What is to be changed of the main file: words by table; ``said`` are lines for the user."""

    session: Session
    desired: DesiredState
    here: Callable[[str], tuple[object, ...]]
    put: dict[str, list[str]] = field(default_factory=dict)
    take: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def apply(self, text: str) -> str:
        """The edited text."""
        for table in dict.fromkeys((*self.put, *self.take)):
            text = change_list(text, table, put=self.put.get(table, ()), take=self.take.get(table, ()))
        return text

    def approve(self, name: str) -> None:
        """Add a word, or take back that it was taken out."""
        table = self._table(name)
        if found := self._approving(name, self.desired):
            self.said.append(f"{escape(name)} is approved already, by {_listed(found)}")
            return
        if table == "services":
            self._doubt(name)
        if f"!{name}" in self.here(table):
            self.take.setdefault(table, []).append(f"!{name}")
        else:
            self.put.setdefault(table, []).append(name)

    def revoke(self, name: str) -> None:
        """Take away every word that approves it."""
        table = self._table(name)
        found = self._approving(name, self.desired, narrow=True)
        if not found:
            known = self.desired.services.approved if table == "services" and self.desired.services else ()
            self.said.append(f"{escape(name)} is not approved{did_you_mean(name, known)}")
        for word in found:
            if word != name and (table == "listeners" or not _GLOB.isdisjoint(word)):
                raise ReconcilerError(f"{escape(name)} is approved by {quote(word)}: revoke that, and approve the rest")
            if word in self.here(table):
                self.take.setdefault(table, []).append(word)
            else:
                self.put.setdefault(table, []).append(f"!{word}")

    def amend(self, names: Iterable[str], after: DesiredState, *, revoke: bool) -> bool:
        """Add what the words so far did not bring about; true where there was such a thing.

        Taken out of an included list is what the main file said as well; and what a "!" no longer takes out may never
        have been approved, or with an address only.
        """
        more = [(table_of(name), word) for name in names for word in self._missing(name, after, revoke=revoke)]
        for table, word in more:
            self.put.setdefault(table, []).append(word)
        return bool(more)

    def _missing(self, name: str, after: DesiredState, *, revoke: bool) -> tuple[str, ...]:
        found = self._approving(name, after, narrow=revoke)
        if revoke:
            return tuple(f"!{word}" for word in found)
        return () if found or name in self.put.get(table_of(name), ()) else (name,)

    def must_hold(self, names: Iterable[str], change: Change, *, revoke: bool) -> None:
        """Raise ``ReconcilerError`` where a file that is read after the main one says otherwise."""
        wrong = [n for n in names if bool(self._approving(n, change.after, narrow=revoke)) == revoke]
        if wrong:
            others = read_later(self.session, *((table_of(name), "approved") for name in wrong))
            raise ReconcilerError(f"{_listed(wrong)}: another file says otherwise, edit it there: {others}")

    def _approving(self, name: str, desired: DesiredState, *, narrow: bool = False) -> tuple[str, ...]:
        if table_of(name) == "listeners":
            return approved_listener(name, desired, self.session.port_names, narrow=narrow)
        return approved(name, table_of(name), desired, self.session.catalogue)

    def _table(self, name: str) -> str:
        table = table_of(name)
        if getattr(self.desired, table) is None:  # an entry would make the table, and have all that it lacks corrected
            raise ReconcilerError(f"the state has no [{table}]: nothing there is judged, and nothing needs approval")
        return table

    def _doubt(self, name: str) -> None:
        """A name that is nearly one of this host is a slip; one that is like none may be installed in a minute."""
        known = self.session.catalogue.names()
        if matches(known, (name,)):
            return
        if near := did_you_mean(name, known):
            raise ReconcilerError(f"no service here is called {quote(name)}{near}")
        self.said.append(f"warning: no service here is called {quote(name)}")


def table_of(name: str) -> str:
    """The table that a name belongs into, by its look. Raises ``UsageError`` for what belongs into none."""
    try:
        if name.startswith("/"):
            executable(name)
            return "processes"
        if name.startswith(("tcp/", "udp/", "unix/")):
            return "listeners"
        if "/" in name:
            inetd_line(name)
            return "inetd"
        service_name(name)
    except Wrong as wrong:
        raise UsageError(str(wrong)) from wrong
    if name.startswith("!"):
        raise UsageError(f'{quote(name)}: "revoke" takes out what is approved')
    return "services"


def approved(name: str, table: str, desired: DesiredState, catalogue: Catalogue) -> tuple[str, ...]:
    """The words of the whole state, includes and drop-ins too, by which a name is approved."""
    if table == "services" and desired.services is not None:
        names = {name, *catalogue.service(name).names}
        return tuple(word for word in desired.services.approved if matches(names, (word,)))
    words = {"inetd": desired.inetd, "processes": desired.processes}.get(table)
    return tuple(word for word in (words.approved if words else ()) if word == name)


def approved_listener(
    name: str, desired: DesiredState, names: Callable[[], FileState | None], *, narrow: bool = False
) -> tuple[str, ...]:
    """The same for a listener: its own name for a rule of just that port or path, else the range or glob it is in.

    A rule that asks for an address, a process or a service approves it ``narrow`` only. ``names`` reads /etc/services.
    """
    from reconciler.statefile.ports import PortNames, parse_port

    try:
        protocol, ports, path = parse_port(name, PortNames(names))
    except Wrong:
        return ()  # the state's own check tells
    found: dict[str, None] = {}
    for rule in desired.listeners.approved if desired.listeners else ():
        if rule.protocol != protocol or (not narrow and rule.narrowed):
            continue
        if (rule.ports, rule.path) == (ports, path):
            found[name] = None
        elif fnmatchcase(path, rule.path) if path else rule.ports[0] <= ports[0] and ports[1] <= rule.ports[1]:
            found[rule.word] = None
    return tuple(found)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(map(quote, words))

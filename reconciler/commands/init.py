"""``init``: write a state from the host as it is. It approves what is there, and only reports."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import suppress

from reconciler.desired import DesiredState, Inetd, Listeners, Processes, Services
from reconciler.drafting import Draft, draft
from reconciler.errors import ReconcilerError, Unobservable
from reconciler.host.kernel import at_terminals
from reconciler.host.moments import now
from reconciler.host.statefiles import create_file
from reconciler.lineage import Running
from reconciler.model import FileState, Plan
from reconciler.observer import Observer
from reconciler.render import Printer
from reconciler.session import Session, shipped_folders
from reconciler.statefile.words import Wrong, interfaces_name
from reconciler.text import escape
from reconciler.values import Value, replace

INTERFACES = "/etc/network/interfaces"
_GROUP_WRITE = 0o022


class Copy(Value):
    """A canonical file: where it goes, beside the state, and what it holds."""

    name: str
    state: FileState


def run(session: Session, options: argparse.Namespace) -> int:
    """0; 1 where there is a state already."""
    if not options.stdout and os.path.lexists(session.state_path):
        raise ReconcilerError(f"{session.state_path} is there already: --stdout shows what would be written")
    made, copies, plan = _draft(session)
    out = Printer()
    if options.stdout:
        out.line(made.text().rstrip("\n"))
        return 0
    folder = os.path.dirname(os.path.abspath(session.state_path))
    for copy in copies:
        create_file(os.path.join(folder, copy.name), copy.state)
    create_file(session.state_path, FileState(made.text().encode(), 0o644, os.geteuid(), os.getegid()))
    _show(session, made, plan, options)
    return 0


def _draft(session: Session) -> tuple[Draft, list[Copy], Plan]:
    include = _shipped(session)
    desired = session.load_state(include, refuse=False) if include else DesiredState(services=Services())
    live = session.eyes.host().live
    judged = replace(desired, inetd=Inetd())
    if live:
        judged = replace(judged, listeners=Listeners(), processes=Processes())
    observer = Observer(session.eyes, session.data, judged)
    observer.look()
    plan = observer.plan(observer.restraints(now()))
    made = draft(plan, observer.context(), live=live, at_terminals=at_terminals(_pids(plan)) if live else frozenset())
    made.include = include
    made.odd += [f"could not be looked at: {gap.ref}: {gap.why}" for gap in plan.gaps]
    return made, list(_network(session, made)), plan


def _pids(plan: Plan) -> Iterator[int]:
    seen = (finding.seen for finding in plan.findings)
    return (process.pid for running in seen if isinstance(running, Running) for process in running.processes)


def _shipped(session: Session) -> str:
    """The shipped state of this release, by os-release(5), else by debian_version; "" for another release."""
    name = {"12": "bookworm-xen", "13": "trixie-xen", "3.1": "sarge-domain0"}.get(_release(session), "")
    paths = (os.path.join(folder, f"{name}.toml") for folder in shipped_folders())
    return next((path for path in paths if name and os.path.isfile(path)), "")


def _release(session: Session) -> str:
    for path, pattern in (("/etc/os-release", rb'^VERSION_ID="?([0-9.]+)"?$'), ("/etc/debian_version", rb"^(3\.1)")):
        with suppress(Unobservable):
            state = session.eyes.read(path)
            found = re.search(pattern, state.content, re.MULTILINE) if state else None
            if found:
                return found[1].decode()
    return ""


def _network(session: Session, made: Draft) -> list[Copy]:
    """The interfaces as they are become the canonical ones, with their owner and mode."""
    copies: list[Copy] = []
    main = _file(session, INTERFACES, made)
    if main is None:
        return copies
    made.network["interfaces"] = '"interfaces"'
    copies.append(Copy("interfaces", main))
    if b"dhcp" in main.content:
        made.odd.append("interfaces asks for an address by DHCP: a Domain-0 is better off with one of its own")
    made.interfaces_d = {}
    for entry in session.eyes.folder(f"{INTERFACES}.d") or ():
        state = _file(session, f"{INTERFACES}.d/{entry.name}", made) if _is_read(entry.name) else None
        if state is not None:
            made.interfaces_d[entry.name] = f"interfaces.d/{entry.name}"
            copies.append(Copy(f"interfaces.d/{entry.name}", state))
    return copies


def _is_read(name: str) -> bool:
    try:
        interfaces_name(name)
    except Wrong:
        return False
    return True


def _file(session: Session, path: str, made: Draft) -> FileState | None:
    """A file to copy; others must not be able to write the copy, or no state may name it."""
    try:
        state = session.eyes.read(path)
    except Unobservable as error:
        made.odd.append(f"not copied: {error}")
        return None
    return state and replace(state, mode=state.mode & ~_GROUP_WRITE)


def _show(session: Session, made: Draft, plan: Plan, options: argparse.Namespace) -> None:
    out, path = Printer(), escape(session.state_path)
    if options.json:
        approved = {table: sorted(words) for table, words in made.tables.items()}
        out.json({"file": path, "include": made.include or None, "approved": approved, "odd": made.odd})
        return
    out.line(f"{path}: written; mode observe" + (f", on top of {escape(made.include)}" if made.include else ""))
    beyond = made.tables["services"]
    if beyond:
        out.line(f"approved beyond it, look at each: {', '.join(sorted(beyond))}")
    for line in made.odd:
        out.line(f"{out.paint('note', 'yellow')}: {line}")
    for kind in plan.skipped:
        out.line(f"{out.paint('skipped', 'dim')}: {kind} needs root, and is not in the state")
    out.line('next: edit it, look at "dom0-reconciler plan", then "dom0-reconciler enforce"')

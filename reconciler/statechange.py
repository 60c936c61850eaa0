"""A change of the state file: judged before it is made, journaled, then put in place of the old one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from reconciler.desired import DesiredState
from reconciler.errors import ReconcilerError, Unobservable
from reconciler.host.moments import now
from reconciler.host.statefiles import Edited, StateFiles, must_be, replace_file
from reconciler.model import FileState, Plan, Step, target_of, word_of
from reconciler.observer import Observer
from reconciler.recording import recorded
from reconciler.session import Session, shipped_folders
from reconciler.statefile.layers import Layers
from reconciler.text import escape
from reconciler.values import Value

Edit = Callable[[str], str]
"""Makes the new text of the main file out of the old one."""


class StateFile(Value):
    """The main file as it is now; ``path`` is free of links."""

    path: str
    state: FileState

    @property
    def text(self) -> str:
        """Its text; it was read as a state before, so it is UTF-8."""
        return self.state.content.decode()


class Change(Value):
    """What a change would do: the state and the plan before and after it."""

    file: StateFile
    text: str
    before: DesiredState
    after: DesiredState
    plan_before: Plan
    plan: Plan

    @property
    def gone(self) -> tuple[Step, ...]:
        """The steps that are no longer asked for."""
        return _without(self.plan_before.steps, self.plan.steps)

    @property
    def new(self) -> tuple[Step, ...]:
        """The steps that are asked for from then on."""
        return _without(self.plan.steps, self.plan_before.steps)


def _without(steps: Sequence[Step], others: Sequence[Step]) -> tuple[Step, ...]:
    there = {(word_of(step.action), target_of(step.action)) for step in others}
    return tuple(step for step in steps if (word_of(step.action), target_of(step.action)) not in there)


def main_file(session: Session) -> StateFile:
    """The file that ``approve`` and the others edit: never one that it includes. Raises ``ReconcilerError``."""
    reader = StateFiles()
    try:
        hops = reader.walk(session.state_path)
        if hops is None:
            raise ReconcilerError(f'{session.state_path}: no such file; "dom0-reconciler init" writes one')
        return StateFile(hops[-1].path, reader.read(hops[-1].path))
    except Unobservable as error:
        raise ReconcilerError(f"{session.state_path}: {error}") from error


def judge(session: Session, edit: Edit) -> Change:
    """What an edit would mean. Raises ``StateError`` where the state after it is refused.

    The state before it may be one that locks out: how else would it be mended.
    """
    before = session.load_state(refuse=False)
    file = main_file(session)
    text = edit(file.text)
    after = session.load_state(reader=Edited(file.path, text.encode()))
    observer = Observer(session.eyes, session.data, before)
    return Change(file, text, before, after, _plan(observer), _plan(_using(observer, after)))


def _using(observer: Observer, desired: DesiredState) -> Observer:
    observer.use(desired)
    return observer


def _plan(observer: Observer) -> Plan:
    observer.look()
    return observer.plan(observer.restraints(now()))


def read_later(session: Session, *keys: tuple[str, ...]) -> str:
    """The files that are read after the main one, so that they overrule it, and set any of these keys: for a person.

    The main one itself, where there is none.
    """
    files = Layers(StateFiles(), shipped_folders())
    files.open(session.state_path)
    found = [(layer.notes.file, layer.table.values) for layer in files.layers]
    main = next((n for n, (name, _) in enumerate(found) if name == escape(session.state_path)), -1)
    later = [name for name, values in found[main + 1 :] if any(_sets(values, key) for key in keys)]
    return ", ".join(later) or escape(session.state_path)


def _sets(values: Mapping[str, object], key: Sequence[str]) -> bool:
    here = values.get(key[0])
    if len(key) == 1 or not isinstance(here, dict):
        return here is not None
    return _sets(here, key[1:])


def make(session: Session, change: Change, word: str, detail: str) -> None:
    """Journal it and write the file. Raises ``Stale`` when somebody edited it meanwhile, ``OSError``."""
    tools = session.tools(session.command_log())
    path, before = change.file.path, change.file.state
    with tools.lock():
        must_be(path, before)  # another command may have held the lock since: nothing to record then
        with recorded(tools, word, f"{escape(path)}: {detail}"):
            if change.text != change.file.text:
                replace_file(path, before, change.text.encode())
    tools.journal.close()

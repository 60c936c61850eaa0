"""Whether what an action expects to find is there, before anything is kept, written down or done."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.errors import Unobservable
from reconciler.host import Eyes
from reconciler.model import (
    Action,
    DisableUnit,
    EntryState,
    FileState,
    Link,
    LinkState,
    OddState,
    Outcome,
    Unlink,
    WriteFile,
)
from reconciler.storage.kept import Before

OnFile = Unlink | Link | WriteFile
"""What acts on one name of a folder."""


def states_before(actions: Sequence[Action], eyes: Eyes) -> list[Before | Outcome]:
    """What lies where each action acts, or ``stale`` (with what was expected) or ``failed`` (it cannot be seen)."""
    found = iter(eyes.entries([action.path for action in actions if isinstance(action, OnFile)]))
    return [_before(a, next(found)) if isinstance(a, OnFile) else _links_of(a, eyes) for a in actions]


def _links_of(action: Action, eyes: Eyes) -> Before | Outcome:
    """The links that a unit is started by, as they lie there."""
    if not isinstance(action, DisableUnit):
        return None
    try:
        return tuple(_link(path, target, eyes) for path, target in action.links)
    except Unobservable as error:
        return Outcome("failed", str(error))


def _before(action: OnFile, state: EntryState | Unobservable | None) -> Before | Outcome:
    if isinstance(state, Unobservable):
        return Outcome("failed", str(state))
    if _as_expected(action, state):
        return state
    return Outcome("stale", "it changed since it was looked at")


def _link(path: str, target: str, eyes: Eyes) -> LinkState:
    """A link as it lies there; of one that is another by now (its unlinking will be stale) what is known."""
    state = eyes.entry(path)
    return state if isinstance(state, LinkState) and state.target == target else LinkState(target)


def _as_expected(action: OnFile, state: EntryState | None) -> bool:
    match action, state:
        case Unlink(target=target), LinkState(target=found):
            return target == found
        case Unlink(target=""), FileState():
            return True
        case Link(), None:
            return True
        case WriteFile(expects=expected), _:
            return _same_content(expected, state)
    return False


def _same_content(expected: EntryState | None, state: EntryState | None) -> bool:
    match expected, state:
        case FileState(content=content), FileState(content=found):
            return content == found
        case LinkState(target=target), LinkState(target=found_target):
            return target == found_target
        case OddState(), _:
            return False
    return expected == state

"""What is kept of an action, pure: as values, as a line of a manifest, and turned round.

A line is one JSON object: ``id``, the ``action`` and the ``state`` that was there before it (``null``:
nothing; a list: of each link of an action on units). An action or a state is an object whose ``is`` names its
class; the bytes of a file are the name of a blob, so that a manifest can be read and a blob is the file
itself. JSON escapes what is not ASCII, undecodable bytes of a name too.
"""

from __future__ import annotations

import json.encoder
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any

from reconciler.model import (
    Action,
    DisableUnit,
    EnableUnit,
    EntryState,
    FileState,
    KeepAddress,
    Link,
    LinkState,
    MaskUnit,
    OddState,
    ReloadManager,
    Signal,
    StartService,
    StopService,
    Unlink,
    UnmaskUnit,
    WriteFile,
)
from reconciler.network.applying import ApplyNetwork
from reconciler.values import Value

Store = Callable[[bytes], str]
"""Puts content away and gives the name of its blob."""

Fetch = Callable[[str], bytes]
"""Gives the content of a blob back."""

Before = EntryState | tuple[LinkState, ...] | None
"""What was there: at a path, or at each path of an action on units; ``None``: nothing."""

_ACTIONS: tuple[type[Action], ...] = (
    Unlink,
    Link,
    WriteFile,
    DisableUnit,
    EnableUnit,
    MaskUnit,
    UnmaskUnit,
    ReloadManager,
    StopService,
    StartService,
    Signal,
    KeepAddress,
    ApplyNetwork,
)
_VALUES: Mapping[str, type[Action | EntryState]] = {
    kind.__name__: kind for kind in (*_ACTIONS, LinkState, FileState, OddState)
}
# The names of the fields, without dataclasses.fields(), which costs as much as all the rest of a line.
_FIELDS: Mapping[type, tuple[str, ...]] = {kind: tuple(kind.__match_args__) for kind in _VALUES.values()}
_KEYS = {kind: [f',"{name}":' for name in names] for kind, names in _FIELDS.items()}
_ALL_OF = {kind: attrgetter(*names) for kind, names in _FIELDS.items() if len(names) > 1}  # of one it gives no tuple
_quoted = json.encoder.encode_basestring_ascii  # to make an encoder for each line costs as much as all the rest of it
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Kept(Value):
    """An action that was to be done, by its id, and what was there before it (``None``: nothing)."""

    id: str
    action: Action
    state: Before


def encode(kept: Kept, put: Store) -> bytes:
    """The manifest's line; ``put`` takes the content of files."""
    state = kept.state
    before = _text_of(state, put) if isinstance(state, LinkState) else _to_json(_before_shape(state, put))
    return f'{{"id":{_quoted(kept.id)},"action":{_text_of(kept.action, put)},"state":{before}}}\n'.encode("ascii")


def _text_of(value: Action | EntryState, put: Store) -> str:
    """A value of words and numbers as it is; whatever else it holds by its shape."""
    kind = type(value)
    if kind not in _ALL_OF:
        return _to_json(_shape(value, put))
    text = f'{{"is":"{kind.__name__}"'
    for key, item in zip(_KEYS[kind], _ALL_OF[kind](value), strict=True):
        if type(item) is str:
            text += key + _quoted(item)
        elif type(item) is int:
            text += f"{key}{item}"
        else:
            return _to_json(_shape(value, put))
    return text + "}"


def _before_shape(state: Before, put: Store) -> object:
    if isinstance(state, tuple):
        return [_shape(each, put) for each in state]
    return None if state is None else _shape(state, put)


def _shape(value: Action | EntryState, put: Store) -> dict[str, object]:
    kind = type(value)
    shape: dict[str, object] = {"is": kind.__name__}
    for name in _FIELDS[kind]:
        item = getattr(value, name)
        if name == "xattrs":
            item = [(key, data.hex()) for key, data in item]
        elif name == "states":
            item = [_shape(each, put) for each in item]
        elif isinstance(item, bytes):
            item = put(item)
        elif isinstance(item, LinkState | FileState | OddState):
            item = _shape(item, put)
        shape[name] = item
    return shape


def id_of(line: bytes) -> str | None:
    """The action id of a whole manifest line; ``None`` for a torn one or anything else."""
    try:
        fields = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    found = fields.get("id") if isinstance(fields, dict) else None
    return found if isinstance(found, str) else None


def decode(line: bytes, get: Fetch) -> Kept:
    """What :func:`encode` was given. Raises ``ValueError`` for anything else, and what ``get`` raises."""
    try:
        fields = json.loads(line)
        action, state = _value(fields["action"], get), _before(fields["state"], get)
        action_id = str(fields["id"])
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"no line of a manifest: {error}") from error
    if isinstance(action, EntryState):
        raise ValueError("no line of a manifest: the action is of the wrong class")  # noqa: TRY004
    return Kept(action_id, action, state)


def _before(shape: Any, get: Fetch) -> Before:  # noqa: ANN401  (whatever JSON holds)
    """What :func:`_before_shape` was given. Raises ``ValueError`` for a value of the wrong class."""
    if shape is None:
        return None
    values = [_value(each, get) for each in (shape if isinstance(shape, list) else [shape])]
    if isinstance(shape, list) and all(isinstance(value, LinkState) for value in values):
        return tuple(value for value in values if isinstance(value, LinkState))
    if not isinstance(shape, list) and isinstance(values[0], EntryState):
        return values[0]
    raise ValueError("no line of a manifest: the state is of the wrong class")


def _value(shape: dict[str, Any], get: Fetch) -> Action | EntryState:
    """A field that an older version did not write has its default."""
    kind = _VALUES[shape["is"]]
    return kind(**{name: _field(kind, name, shape[name], get) for name in _FIELDS[kind] if name in shape})


def _field(kind: type, name: str, item: Any, get: Fetch) -> Any:  # noqa: ANN401  (whatever JSON holds)
    if isinstance(item, dict):
        return _value(item, get)
    if name == "xattrs":
        return tuple((str(key), bytes.fromhex(data)) for key, data in item)
    if name == "states":
        return tuple(_value(part, get) for part in item)
    if isinstance(item, list):
        return tuple(tuple(part) if isinstance(part, list) else part for part in item)
    return get(str(item)) if kind is FileState and name == "content" else item


_OPPOSITE: Mapping[type, Callable[[str, tuple[str, ...]], Action]] = {
    MaskUnit: UnmaskUnit,
    UnmaskUnit: MaskUnit,
}


def inverse(kept: Kept, *, start: bool = False) -> tuple[Action, ...]:  # noqa: PLR0911  (one for each action)
    """The actions, in order, that put things back as they were; none where nothing is to be put back.

    A stopped service is started only with ``start``: running is no part of what was removed. A reload, a
    signal and an address that stays have nothing to undo; the reload that a put-back link needs is the caller's,
    one for all of them.
    """
    match kept.action:
        case Unlink(path=path, leave=leave):
            return _put_back(path, kept.state, leave)
        case Link(path=path, state=state, replaces=replaces):
            return (Unlink(path, state.target, leave=replaces),)
        case WriteFile(path=path, state=written):
            return _write_back(path, kept.state, written)
        case DisableUnit(service=service, units=units, links=links):
            return (EnableUnit(service, units, links, kept.state if isinstance(kept.state, tuple) else ()),)
        case EnableUnit(service=service, units=units, links=links):
            return (DisableUnit(service, units, links),)
        case MaskUnit() | UnmaskUnit() as action:
            return (_OPPOSITE[type(action)](action.service, action.units),)
        case StopService(service=service, script=script, units=units):
            return (StartService(service, script, units),) if start else ()
        case StartService(service=service, script=script, units=units):
            return (StopService(service, script, units),)
    return ()


def _put_back(path: str, state: Before, replaces: str = "") -> tuple[Action, ...]:
    match state:
        case LinkState():
            return (Link(path, state, replaces),)
        case FileState():
            return (WriteFile(path, state, expects=None),)
    return ()


def _write_back(path: str, state: Before, written: FileState) -> tuple[Action, ...]:
    match state:
        case FileState():
            return (WriteFile(path, state, expects=written),)
        case None:
            return (Unlink(path),)
        case LinkState():  # a file replaced a link: the name must be free before the link can be there again
            return (Unlink(path), Link(path, state))
    return ()

"""The running daemon's status below /run: written whole by the daemon, read by anybody.

It names the process that wrote it and when that one started: so anybody can tell whether it still runs, without asking
for a lock, which would keep a daemon that starts at this moment from having it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache

from reconciler.errors import Unobservable
from reconciler.host.files import Root
from reconciler.host.kernel import started
from reconciler.host.lock import RUN

NAME = "status.json"
_WRITER = "process"
LIMIT = 16 << 20
"""Bytes; a status of 20,000 findings has about 5 MB."""


def text_of(status: Mapping[str, object]) -> str:
    """What :func:`publish` takes, with who writes it; the last pass comes with each."""
    return json.dumps({**status, _WRITER: _writer(os.getpid())})  # json.dump() writes it in Python, bit by bit


def publish(root: Root, text: str, last_pass: Mapping[str, object]) -> None:
    """Replace the status. /run is a memory file system and the daemon writes it anew: no fsync."""
    folder = root.folder_fd(RUN, create=True)
    temporary = f".{NAME}.new"  # there is one daemon: what a killed one left is written over
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        text = f'{text[:-1]}, "last_pass": {json.dumps(last_pass)}}}'
        fd = os.open(temporary, flags, 0o644, dir_fd=folder)
        with open(fd, "wb") as file:
            file.write(text.encode("ascii"))
        os.rename(temporary, NAME, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


@cache
def _writer(pid: int) -> tuple[int, int]:
    return pid, started(pid)


def withdraw(root: Root) -> None:
    """Take away what an earlier daemon left: nothing is known until the first pass is over."""
    folder = root.folder_fd(RUN, create=True)
    try:
        with suppress(FileNotFoundError):
            os.unlink(NAME, dir_fd=folder)
    finally:
        os.close(folder)


def read(root: Root) -> dict[str, object] | None:
    """The status of the daemon that runs, ``None`` where none does; ``Unobservable`` where it makes no sense."""
    state = root.read(f"{RUN}/{NAME}", LIMIT)
    status = parse(state.content) if state is not None else None
    return status if status is not None and _runs(status.pop(_WRITER, None)) else None


def parse(content: bytes) -> dict[str, object] | None:
    """What :func:`publish` wrote, its writer included. Raises ``Unobservable`` for what makes no sense."""
    try:
        status = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Unobservable(f"{RUN}/{NAME}: {error}") from error
    if not isinstance(status, dict) or not _is_whole(status, _SHAPE):
        raise Unobservable(f"{RUN}/{NAME}: this is no status of a daemon of this version")
    return status


_TEXT, _ORDER = "text", {"names": ["text"], "paths": ["text"], "who": "text", "why": "text", "until": "text"}
_SHAPE: Mapping[str, object] = {
    "converged": "flag",
    "fault": "text or null",
    "mode": _TEXT,
    "pid": "number",
    "watch": _TEXT,
    "started": _TEXT,
    "corrections": "number",
    "last_pass": {"id": _TEXT, "time": _TEXT},
    "findings": [{"rule": _TEXT, "ref": _TEXT, "detail": _TEXT}],
    "held": [{"action": _TEXT, "target": _TEXT, "held": _TEXT}],
    "gaps": [{"ref": _TEXT, "why": _TEXT}],
    "contested": [{"name": _TEXT, "count": "number", "since": _TEXT}],
    "pauses": [_ORDER],
    "exceptions": [_ORDER],
    "state_errors": [_TEXT],
}
"""What is shown of it to people; all else is only passed on."""

_CLASSES: Mapping[str, type | tuple[type, ...]] = {
    "text": str,
    "text or null": (str, type(None)),
    "number": int,
    "flag": bool,
}


def _is_whole(value: object, shape: object) -> bool:
    if isinstance(shape, Mapping):
        return isinstance(value, dict) and all(
            key in value and _is_whole(value[key], each) for key, each in shape.items()
        )
    if isinstance(shape, list):
        return isinstance(value, list) and all(_is_whole(each, shape[0]) for each in value)
    return isinstance(value, _CLASSES[str(shape)])


def _runs(writer: object) -> bool:
    match writer:
        case [int(pid), int(since)]:
            with suppress(ProcessLookupError):
                return started(pid) == since
    return False

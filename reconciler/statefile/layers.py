"""The files of one desired state: found, judged for trust, read, and put in the order in which they merge.

Includes come first, then the file that names them, then the drop-ins of the main file. A file that someone
else may change is refused: whoever writes the desired state decides what runs on this host.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from reconciler.errors import Unobservable
from reconciler.host.state import Hop, StateReader
from reconciler.model import FileState
from reconciler.statefile.table import Notes, Table
from reconciler.statefile.words import Wrong, file_path, quote
from reconciler.text import escape
from reconciler.values import replace

VERSION = 1
_DEPTH = 8  # includes within includes: deeper ones are a mistake, and Python has a limit of its own
_STICKY, _OTHERS_WRITE = 0o1000, 0o022

_PLACE, _AT_END = r"(?s)(.*) \(at line ([0-9]+), column ([0-9]+)\)", " (at end of document)"

Complain = Callable[[str], None]


class Layer(NamedTuple):
    """One file: its keys, what is to be said about it, and the folders that what it names may lie in."""

    table: Table
    notes: Notes
    folder: str  # as its path was written, for relative names: it ends in "/", or is ""
    within: tuple[str, ...]


class Layers:
    """All files of one desired state: ``layers`` in the order of merging, ``notes`` in that of opening.

    ``watched`` are the real paths of all of them, of the links that led there and of the drop-in folder: what
    changes there is a reason to read again.
    """

    def __init__(self, reader: StateReader, shipped: Sequence[str]) -> None:
        self.layers: list[Layer] = []
        self.notes: list[Notes] = []
        self.watched: dict[str, None] = {}
        self._reader = reader
        self._shipped = shipped
        self._distrusted: set[str] = set()  # said once, however many files lie below
        self._seen: dict[str, bool] = {}  # files by real path: True while their own includes are being read

    def open(self, path: str) -> None:
        """Read the main file, what it includes, and its drop-ins."""
        self._start(path, required=True)
        if self._seen:
            self._drop_ins(f"{path.removesuffix('.toml')}.d")

    def canonical(self, layer: Layer, table: Table, key: str, name: str) -> FileState | None:
        """The file that a key of a layer names, with all its bytes; errors are noted at that key."""

        def complain(why: str) -> None:
            table.error(key, f"{quote(name)}: {why}")

        found = self._find(_beside(layer, name), complain, layer.within)
        return found and replace(found[1], mtime_ns=0)  # when it was written is nothing to restore

    def _start(self, path: str, *, required: bool = False) -> None:
        """Read a file that no other file names."""
        notes = self._new_notes(path)
        found = self._find(path, lambda why: notes.error(None, why))
        if found is not None:
            self._file(path, notes, *found, required=required)

    def _new_notes(self, path: str) -> Notes:
        self.notes.append(Notes(path))
        return self.notes[-1]

    def _file(self, path: str, notes: Notes, real: str, state: FileState, *, required: bool = False) -> None:
        self._seen[real] = True
        values = _parse(state.content, notes)
        if values is not None:
            folder = path[: path.rfind("/") + 1]
            within = (self._real(folder or "."), real[: real.rfind("/")])
            layer = Layer(Table(values, notes), notes, folder, within)
            _check_version(layer.table, required)
            for number, name in layer.table.items("include"):
                self._include(layer, str(name), number)
            self.layers.append(layer)
        self._seen[real] = False

    def _include(self, layer: Layer, name: str, number: int) -> None:
        def complain(why: str) -> None:
            layer.notes.error(("include", number), f"{quote(name)}: {why}")

        try:
            path = _beside(layer, file_path(name))
        except Wrong as wrong:
            layer.notes.error(("include", number), str(wrong))
            return
        found = self._find(path, complain, (*layer.within, *self._shipped_folders()))
        if found is None:
            return
        if sum(self._seen.values()) > _DEPTH:
            complain(f"files include each other more than {_DEPTH} deep")
        elif found[0] not in self._seen:  # what several files include counts once, where it came first
            self._file(path, self._new_notes(path), *found)
        elif self._seen[found[0]]:
            complain("the files include each other in a loop")

    def _shipped_folders(self) -> Iterable[str]:
        return filter(None, map(self._real, self._shipped))

    def _drop_ins(self, folder: str) -> None:
        parent, slash, name = folder.rpartition("/")
        self.watched[f"{self._real(parent + slash or '.').rstrip('/')}/{name}"] = None  # it may yet appear
        notes = self._new_notes(folder)
        try:
            entries = self._entries(folder, notes)
        except Unobservable as error:
            notes.error(None, str(error))
            return
        for entry in entries:
            if entry.endswith(".toml") and not entry.startswith("."):
                self._start(f"{folder}/{entry}")

    def _entries(self, folder: str, notes: Notes) -> tuple[str, ...]:
        hops = self._reader.walk(folder)
        if hops is None:
            return ()
        self._trust(hops, lambda why: notes.error(None, why))
        if hops[-1].what != "folder":
            raise Unobservable(f"is a {hops[-1].what}, not a folder")
        return self._reader.names(hops[-1].path)

    def _find(self, path: str, complain: Complain, within: Sequence[str] | None = None) -> tuple[str, FileState] | None:
        """The real path and the content of a regular file; what is wrong with it goes to ``complain``."""
        try:
            hops = self._hops(path, within)
            state = self._reader.read(hops[-1].path)
        except Unobservable as error:
            complain(str(error))
            return None
        # What was opened is judged, not what was looked at before: it may have been another file by then.
        last = hops[-1]._replace(uid=state.uid, mode=state.mode)
        self._trust((*hops[:-1], last), complain)
        return last.path, state

    def _hops(self, path: str, within: Sequence[str] | None) -> tuple[Hop, ...]:
        hops = self._reader.walk(path)
        if hops is None:
            raise Unobservable("no such file")
        real = hops[-1]
        self.watched[real.path] = None
        self.watched.update((hop.path, None) for hop in hops if hop.what == "link")
        if within is not None and not any(_inside(real.path, folder) for folder in within):
            led = "" if path.endswith(real.path) else f" (it leads to {escape(real.path)})"
            raise Unobservable(f"lies outside the folder of the file that names it{led}")
        if real.what != "file":
            raise Unobservable(f"is a {real.what}, not a regular file")
        return hops

    def _trust(self, hops: Iterable[Hop], complain: Complain) -> None:
        for hop in hops:
            why = self._distrust(hop)
            if why and hop.path not in self._distrusted:
                self._distrusted.add(hop.path)
                complain(why)

    def _distrust(self, hop: Hop) -> str:
        """Why somebody else than root and the caller decides what this is, else ""."""
        shown = f"the {hop.what} {escape(hop.path)}"
        if hop.uid not in (0, self._reader.caller):
            return f"{shown} belongs to user id {hop.uid}, neither to root nor to the caller"
        sticky = hop.what == "folder" and hop.mode & _STICKY  # others may add names, not take ours away
        if hop.what == "link" or sticky or not hop.mode & _OTHERS_WRITE:
            return ""
        return f"{shown} may be written by others (mode {hop.mode:04o}): chmod go-w it"

    def _real(self, path: str) -> str:
        """A path without links, "" where there is nothing or where it cannot be followed."""
        try:
            hops = self._reader.walk(path)
        except Unobservable:
            return ""
        return hops[-1].path if hops else ""


def _beside(layer: Layer, name: str) -> str:
    return name if name.startswith("/") else layer.folder + name


def _inside(path: str, folder: str) -> bool:
    return bool(folder) and path.startswith(folder.rstrip("/") + "/")


def _check_version(top: Table, required: bool) -> None:
    version = top.get("version")
    if version is None and required:
        top.error("version", f"is missing: write 'version = {VERSION}' at the top")
    elif version is not None and (type(version) is not int or version != VERSION):
        top.error("version", f"must be {VERSION}, the only version there is")


def _parse(content: bytes, notes: Notes) -> dict[str, object] | None:
    """The keys of a TOML file; ``None`` after an error was noted."""
    try:
        text = _decode(content)
        values = tomllib.loads(text)
    except RecursionError:
        notes.error(None, "values are nested too deeply")
    except tomllib.TOMLDecodeError as error:
        notes.error(*_syntax(str(error), text))
    except _UnreadableError as error:
        notes.error(error.line, str(error))
    except ValueError:  # the one that tomllib lets through: more digits than Python converts
        notes.error(None, "is not valid TOML: a number has too many digits")
    else:
        notes.text = text
        return values
    return None


class _UnreadableError(Exception):
    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _decode(content: bytes) -> str:
    if content.startswith(b"\xef\xbb\xbf"):
        raise _UnreadableError(1, "starts with a byte order mark: save the file as UTF-8 without one")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _UnreadableError(line, f"is not UTF-8: byte 0x{content[error.start]:02x}") from error
    if "\0" in text:
        raise _UnreadableError(text.count("\n", 0, text.index("\0")) + 1, "has a NUL byte in it")
    return text


def _syntax(message: str, text: str) -> tuple[int, str]:
    """Take the place out of a message of tomllib, ``Invalid value (at line 3, column 5)``."""
    placed = re.fullmatch(_PLACE, message)
    if placed:
        return int(placed[2]), f"is not valid TOML at column {placed[3]}: {escape(placed[1])}"
    last = text.count("\n") + (not text.endswith("\n"))
    return last, f"is not valid TOML at the end of the file: {escape(message.removesuffix(_AT_END))}"

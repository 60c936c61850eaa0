"""What an action takes away, kept until it is too old or too much, so that ``undo`` can put it back.

``quarantine/PASS/`` below :data:`~reconciler.storage.store.HOME` holds one pass: ``manifest.jsonl`` with a line for
each action (:mod:`reconciler.storage.kept`) and, numbered, the content of each file that was there. An action's id is
``PASS.N``: its folder follows from it. All of a batch is durable here before the intents are, and so before
the first effect.

While the disk takes nothing, lines that name no content go to the spare place (:mod:`reconciler.storage.spare`). A
content goes nowhere but on the disk: what has one is not touched then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from math import inf
from time import gmtime, strftime

from reconciler.desired import Limits
from reconciler.errors import JournalError, ReconcilerError, Unobservable
from reconciler.model import Action, target_of
from reconciler.storage import kept, spare, store
from reconciler.storage.kept import Before, Kept, inverse
from reconciler.storage.passes import MANIFEST, Ahead, Blobs, append
from reconciler.text import escape
from reconciler.values import Value

__all__ = ["Before", "Forgotten", "Kept", "Quarantine", "Usage", "inverse"]

TOLD = "told"
"""An empty file in a pass's folder: since its time the journal says that the pass will be forgotten."""

NOTICE = 86400.0
"""Seconds between telling that a pass gets too old, and forgetting it: a clock that jumps ahead empties nothing."""

FULL = 0.75
"""So much of the size is taken when the oldest passes are told of: all of it is reached sooner than a day is over."""

SHOWN = 5
"""Targets that are named of a pass which is soon forgotten; "log" has them all."""

_WHERE = f"{store.HOME}/quarantine"
_LAST = 253402300799.0  # the last second of the year 9999: what strftime can write


class Usage(Value):
    """How much is kept: bytes on disk, and passes."""

    size: int
    passes: int


class Forgotten(Value):
    """A pass that is kept, and may be due to be forgotten; ``size`` in bytes on disk.

    ``time`` and ``told`` in seconds since the epoch; ``told`` is 0 until it was said that it will be forgotten.
    """

    pass_id: str
    size: int
    time: float
    told: float = 0.0


class Quarantine:
    """The quarantine of one root. Writers hold the root's correction lock."""

    def __init__(self, root: store.Folders) -> None:
        self._root = root
        self.ahead = False
        """Whether there is time, after a pass, to make the next one's folder."""

        self.away = ""
        """Why what was last kept waits in the spare place; "" when it is at home."""

        self._begun = ""  # the last pass of which something was kept
        self._ready: Ahead | None = None
        self._used: list[Ahead] = []

    def keep(self, pass_id: str, items: Sequence[tuple[str, Action, Before]]) -> Mapping[str, str]:
        """Keep what each action (its id, itself, what is there now) is about to change; all of it durable at
        the end, but for the actions that are given back, with the reason: none of these may be done.

        One write and one fsync for the manifest, one for each distinct content of a file, one for the folder where
        there are contents, one for that of all passes; and two for making the folder, where nobody has done so before.
        Raises ``JournalError`` when it cannot: none of these actions may then be done. A line that a failure
        leaves without its action does no harm.
        """
        if not items:
            return {}
        _check(pass_id, [item[0] for item in items])
        try:
            # Without the pass: the same trouble of the next pass is not to be told as another one.
            with store.failing(_WHERE), store.folder(self._root, _WHERE, create=True) as above:
                add = self._add if pass_id == self._begun else self._begin
                add(above, pass_id, lambda put: b"".join([kept.encode(Kept(*item), put) for item in items]))
        except JournalError as error:
            if not store.trouble(error):
                raise
            return self._keep_in_spare(items, error)
        return {}

    def _begin(self, above: int, pass_id: str, lines: Callable[[kept.Store], bytes]) -> None:
        """Keep the first of a pass."""
        new, self._ready = self._ready, None
        if new is not None and not new.is_there(above):
            new.close()
            new = None
        new = new or Ahead(above)
        self._used.append(new)
        blobs = Blobs(new.fd)
        try:
            text = lines(blobs.put)
            blobs.settle()
            new.write(text)
            there = not new.become(above, pass_id)
        except BaseException:
            blobs.discard()
            new.remove(above)
            raise
        if there:  # what nobody has said of this pass: its name was taken
            blobs.discard()
            new.remove(above)
            self._add(above, pass_id, lines)
            return
        self._begun = pass_id
        os.fsync(above)  # where that fails the lines stay, and so must the contents that they name

    def prepare(self) -> None:
        """What can be done before the next pass, or after this one; where it fails it is done then.

        Call it under the root's lock.
        """
        while self._used:
            self._used.pop().close()
        if self.ahead and self._ready is None:
            with suppress(ReconcilerError, OSError), store.folder(self._root, _WHERE, create=True) as above:
                self._ready = Ahead(above)

    def withdraw(self) -> None:
        """Take away what was prepared: nobody will use it. Call it under the root's lock."""
        self.ahead = False
        self.prepare()
        ready, self._ready = self._ready, None
        if ready is not None:
            with suppress(ReconcilerError, OSError), store.folder(self._root, _WHERE) as above:
                ready.remove(above)

    def _add(self, above: int, pass_id: str, lines: Callable[[kept.Store], bytes]) -> None:
        with store.folder_in(above, pass_id) as fd:
            blobs = Blobs(fd)
            try:
                text = lines(blobs.put)
                blobs.settle()
                append(fd, text)
            except BaseException:
                blobs.discard()
                self._withdraw(fd, pass_id)
                raise
            os.fsync(fd)  # where that fails the lines stay, and so must the contents that they name

    def _keep_in_spare(self, items: Sequence[tuple[str, Action, Before]], why: JournalError) -> dict[str, str]:
        """Keep what needs no content; why the others are not."""
        lines, refused = b"", dict[str, str]()
        for item in items:
            try:
                lines += kept.encode(Kept(*item), _no_content)
            except _ContentError:
                refused[item[0]] = store.trouble(why)
        if lines:
            try:
                spare.append(self._root, spare.MANIFEST, lines)
            except JournalError as error:
                raise JournalError(f"{why}; {error}") from error
            self.away = str(why)
        return refused

    @property
    def astray(self) -> bool:
        """Whether there is anything in the spare place, of whichever process. Raises ``JournalError``."""
        return spare.holds(self._root, spare.MANIFEST)

    def bring_home(self) -> None:
        """Move what waits in the spare place. Killed anywhere in here, ids tell what is moved. Raises ``JournalError``.

        Call it under the root's lock.
        """
        passes: dict[str, list[bytes]] = {}
        for line in spare.lines(self._root, spare.MANIFEST):
            if _is_name(pass_id := _pass_of(line)):
                passes.setdefault(pass_id, []).append(line)
        try:
            for pass_id, lines in passes.items():
                with store.failing(_WHERE), store.folder(self._root, _WHERE, create=True) as above:
                    self._move(above, pass_id, lines)
        except JournalError as error:
            self.away = str(error)
            raise
        if self.astray:
            spare.remove(self._root, spare.MANIFEST)
        self.away = ""

    def _move(self, above: int, pass_id: str, lines: Sequence[bytes]) -> None:
        there: set[str | None] = set()
        with suppress(FileNotFoundError), store.folder_in(above, pass_id) as fd:
            there = {kept.id_of(line) for line in _lines(fd)}
        new = b"".join(line for line in lines if kept.id_of(line) not in there)
        if new:
            self._add(above, pass_id, lambda _: new)

    def _withdraw(self, folder: int, pass_id: str) -> None:
        """Leave nothing of a pass of which nothing is kept: a disk may be full for a week, tried all the time."""
        with suppress(OSError):
            if not os.stat(MANIFEST, dir_fd=folder, follow_symlinks=False).st_size:
                os.unlink(MANIFEST, dir_fd=folder)
        with suppress(OSError, Unobservable), store.folder(self._root, _WHERE) as above:
            os.rmdir(pass_id, dir_fd=above)  # where something is in it, it stays

    def find(self, action_id: str) -> Kept:
        """What is kept of one action. Raises ``ReconcilerError`` when nothing is, or it cannot be read."""
        pass_id = action_id.rpartition(".")[0]
        for found in self._of(pass_id, only=action_id):
            return found
        raise ReconcilerError(f"nothing is kept of action {escape(action_id)}: no such action, or it is forgotten")

    def of_pass(self, pass_id: str) -> tuple[Kept, ...]:
        """What is kept of one pass, in the order in which it was to be done. Raises like :meth:`find`."""
        found = tuple(self._of(pass_id))
        if not found:
            raise ReconcilerError(f"nothing is kept of pass {escape(pass_id)}: no such pass, or it is forgotten")
        return found

    def _of(self, pass_id: str, only: str | None = None) -> Iterator[Kept]:
        if not _is_name(pass_id):
            return
        waiting = [line for line in spare.lines(self._root, spare.MANIFEST) if _pass_of(line) == pass_id]
        seen = {kept.id_of(line) for line in waiting}
        with _reading(f"{spare.PLACE}/{spare.MANIFEST}"):
            yield from (kept.decode(line, _nothing) for line in waiting if only in (None, kept.id_of(line)))
        if only in seen:
            return
        with _reading(f"{_WHERE}/{pass_id}"), store.folder(self._root, f"{_WHERE}/{pass_id}") as folder:
            for line in _lines(folder):
                found = kept.id_of(line)
                if found is not None and found not in seen and only in (None, found):
                    yield kept.decode(line, lambda name: _load(folder, name))

    def usage(self) -> Usage:
        """What the quarantine takes now."""
        passes = self._passes()
        return Usage(sum(each.size for each in passes), len(passes))

    def review(self, limits: Limits, now: float) -> Review:
        """What is to be told of and what to be forgotten now (:class:`Review`).

        The caller writes both to the journal, and only then marks the one (:meth:`mark`) and has the other forgotten
        (:meth:`forget`).
        """
        return review(self._passes(), limits, now)

    def expiring(self, found: Forgotten, limits: Limits, now: float) -> str:
        """What to tell of a pass that will be forgotten; of one that cannot be read, its name alone."""
        try:
            return expiring(found, limits, now, self.of_pass(found.pass_id))
        except ReconcilerError:
            return expiring(found, limits, now)

    def mark(self, passes: Sequence[Forgotten], now: float) -> None:
        """Remember that these passes were told of; one that is gone is no error. Raises ``JournalError``."""
        with store.failing(_WHERE):
            for each in passes:
                with suppress(FileNotFoundError), store.folder(self._root, f"{_WHERE}/{each.pass_id}") as folder:
                    with suppress(FileExistsError):
                        store.create(folder, TOLD, b"")
                    os.utime(TOLD, (now, now), dir_fd=folder, follow_symlinks=False)

    def forget(self, passes: Sequence[Forgotten]) -> None:
        """Remove these passes for good; one that is gone already is no error. Raises ``JournalError``."""
        with store.failing(_WHERE), suppress(FileNotFoundError), store.folder(self._root, _WHERE) as folder:
            for each in passes:
                # Out of the way first, in one step: a pass is there whole, or not at all.
                doomed = f"{store.TEMPORARY}{each.pass_id}"
                with suppress(FileNotFoundError):
                    os.rename(each.pass_id, doomed, src_dir_fd=folder, dst_dir_fd=folder)
                    _remove(folder, doomed)
            os.fsync(folder)

    def recover(self) -> None:
        """Finish what a killed run was forgetting, and bring home what it left in the spare place.

        What the disk does not let us do is for another start. Call it under the root's lock. Raises ``JournalError``.
        """
        try:
            with store.failing(_WHERE), suppress(FileNotFoundError), store.folder(self._root, _WHERE) as folder:
                for name in os.listdir(folder):
                    if name.startswith(store.TEMPORARY):
                        _remove(folder, name)
            self.bring_home()
        except JournalError as error:
            if not store.trouble(error):
                raise

    def _passes(self) -> list[Forgotten]:
        """Every pass kept, the oldest first."""
        with store.failing(_WHERE):
            try:
                with store.folder(self._root, _WHERE) as folder:
                    found = [_weigh(folder, name) for name in os.listdir(folder) if _is_name(name)]
            except FileNotFoundError:
                return []
        return sorted((each for each in found if each), key=lambda each: (each.time, each.pass_id))


class Review(Value):
    """What to say and what to do, each the oldest first; ``next`` is when to ask again, in seconds since the epoch.

    A pass is told of (``warn``) a day before it is too old, or while it is among the oldest that go beyond three
    quarters of the size. It is forgotten (``doomed``) when it is too old and was told of a day ago, or when it is among
    the oldest that go beyond the size. The newest pass is never too much: somebody may want just that undone.
    """

    warn: tuple[Forgotten, ...] = ()
    doomed: tuple[Forgotten, ...] = ()
    next: float = inf


def review(passes: Sequence[Forgotten], limits: Limits, now: float) -> Review:
    """Review all that is kept, the oldest first. Pure."""
    left = sum(each.size for each in passes)
    warn: list[Forgotten] = []
    doomed: list[Forgotten] = []
    moments: list[float] = []
    for each in passes:
        newest, too_old = each is passes[-1], each.time + limits.age
        told = each.told if each.told <= now else 0.0  # said while the clock was ahead: to be said again
        if (left > limits.size and not newest) or (told and now >= max(too_old, told + NOTICE)):
            doomed.append(each)
        else:
            moments.append(max(too_old, told + NOTICE) if told else too_old - NOTICE)
        if not told and ((left > FULL * limits.size and not newest) or now >= too_old - NOTICE):
            warn.append(each)
        left -= each.size
    return Review(tuple(warn), tuple(doomed), min((max(at, now + 1) for at in moments), default=inf))


def expiring(found: Forgotten, limits: Limits, now: float, kept: Iterable[Kept] = ()) -> str:
    """What the journal says of a pass ahead of time: what is kept of it, when it goes, what to do about it."""
    when = strftime("%Y-%m-%d %H:%MZ", gmtime(min(max(found.time + limits.age, now + NOTICE), _LAST)))
    targets = list(dict.fromkeys(escape(target_of(each.action)) for each in kept))
    more = f" and {len(targets) - SHOWN} more" if len(targets) > SHOWN else ""
    what = f" ({', '.join(targets[:SHOWN])}{more})" if targets else ""
    return (
        f"what was removed by pass {escape(found.pass_id)}{what}: it can be undone until {when}, or until more than"
        f" {limits.size} bytes are kept; to keep it longer, raise quarantine.age or quarantine.size in the state,"
        f' or put it back: "dom0-reconciler undo --pass {escape(found.pass_id)}"'
    )


class _ContentError(Exception):
    """A content has no place but on the disk."""


def _no_content(_: bytes) -> str:
    raise _ContentError


def _nothing(name: str) -> bytes:
    raise ValueError(f"{name!r}: no content is kept in the spare place")


def _pass_of(line: bytes) -> str:
    """The pass of a manifest's line, "" for anything else."""
    return (kept.id_of(line) or "").rpartition(".")[0]


def _lines(folder: int) -> Iterator[bytes]:
    fd = store.open_read(folder, MANIFEST)
    try:
        return iter(BytesIO(store.content(fd)))
    finally:
        os.close(fd)


def _load(folder: int, name: str) -> bytes:
    if not name.isdecimal():
        raise ValueError(f"{name!r} is no blob")
    fd = store.open_read(folder, name)
    try:
        return store.content(fd)
    finally:
        os.close(fd)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Absence ends the reading; what cannot be read is an error that says so."""
    hint = "" if os.geteuid() == 0 else " (only root may read it)"
    try:
        yield
    except FileNotFoundError as error:
        if error.filename not in (None, MANIFEST) and str(error.filename).isdecimal():
            raise ReconcilerError(f"{what}/{error.filename} is missing: what was kept is damaged") from error
    except (OSError, ValueError, Unobservable) as error:
        raise ReconcilerError(f"{what} cannot be read: {error}{hint}") from error


def _check(pass_id: str, ids: Sequence[str]) -> None:
    """An id that leads elsewhere would never be found again."""
    if not _is_name(pass_id) or any(each.rpartition(".")[0] != pass_id for each in ids):
        raise JournalError(f"{escape(pass_id)!r} and {ids[:1]} are no ids of a pass and its actions")


def _is_name(pass_id: str) -> bool:
    return bool(pass_id) and "/" not in pass_id and "\0" not in pass_id and not pass_id.startswith(".")


def _weigh(folder: int, pass_id: str) -> Forgotten | None:
    """Size and time of one pass: the manifest's time, or the folder's where a crash left no manifest."""
    try:
        fd = os.open(pass_id, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = {name: os.stat(name, dir_fd=fd, follow_symlinks=False) for name in os.listdir(fd)}
        moment = found.get(MANIFEST, os.fstat(fd)).st_mtime
        size = sum(max(status.st_size, status.st_blocks * 512) for status in found.values())
        return Forgotten(pass_id, size, moment, found[TOLD].st_mtime if TOLD in found else 0.0)
    finally:
        os.close(fd)


def _remove(folder: int, name: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        for each in os.listdir(fd):
            os.unlink(each, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=folder)

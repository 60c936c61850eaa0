"""One fault at one system call of this process: an end before or after it, a power cut, an error once or for long.

Of the errors for long some concern all there is, others what lies below /var/lib/dom0-reconciler alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from reconciler.storage import store

_REALLY_READ = os.readlink
_WRITES = frozenset(
    ("write", "pwrite", "ftruncate", "symlink", "link", "rename", "mkdir", "fsync", "fdatasync", "setxattr")
)
_CHANGES = _WRITES | {"unlink", "rmdir", "chown", "fchown", "fchmod", "utime"}
_OPENS = frozenset(("open", "scandir", "listdir"))
_LOOKS = frozenset(("close", "read", "pread", "lstat", "stat", "fstat", "readlink", "listxattr", "getxattr"))
CALLS = tuple(sorted(_CHANGES | _OPENS | _LOOKS))
"""Every call of the file layer, the journal and the quarantine (``test_no_call_is_forgotten``); flock(2) besides."""

ENDS = ("killed before", "killed after", "power cut", "killed while home is full")
ERRORS = ("ENOSPC", "EIO", "EROFS", "EMFILE", "EACCES")
LASTING: dict[str, tuple[str, frozenset[str]]] = {
    "disk full": ("ENOSPC", _WRITES),
    "read-only": ("EROFS", _CHANGES),
    "no descriptors": ("EMFILE", _OPENS),
}
"""From the call on, each of these fails, until the fault goes."""

AT_HOME: dict[str, tuple[str, frozenset[str], int]] = {
    "home full": ("ENOSPC", _WRITES, os.O_CREAT),
    "home read-only": ("EROFS", _CHANGES, os.O_CREAT | os.O_RDWR | os.O_WRONLY),
    "home broken": ("EIO", (_CHANGES | _OPENS | _LOOKS) - {"close"}, -1),
}
"""The same of what lies below our own folder; a file is not opened with any of these flags (-1: not at all)."""

ALL = (*ENDS, *ERRORS, *LASTING, *AT_HOME)


def is_below(home: str, args: tuple[Any, ...], more: dict[str, Any]) -> bool:
    """Whether a call is about something below that folder, or about the folder itself."""
    fds = [more[key] for key in ("dir_fd", "src_dir_fd") if more.get(key) is not None]
    fds += [args[0]] if args and isinstance(args[0], int) else []
    name = os.fspath(args[0]) if fds and args and isinstance(args[0], str) else ""
    for fd in fds:
        with suppress(OSError):
            path = os.path.join(_REALLY_READ(f"/proc/self/fd/{fd}"), name)
            if path == home or path.startswith(f"{home}/"):
                return True
    return False


def refusal(how: str, home: str, name: str, args: tuple[Any, ...], more: dict[str, Any]) -> OSError | None:
    """The error with which a home of that fault answers a call."""
    word, calls, flags = AT_HOME[how]
    if not (name in calls or (name == "open" and args[1] & flags)) or not is_below(home, args, more):
        return None
    number: int = getattr(errno, word)
    return OSError(number, os.strerror(number))


LOST = "lost"
"""Where a power cut leaves, beside the tree, what was in the spare place."""


class Injector:
    """Counts the calls of this process, and breaks the one asked for. For a child: nothing is put back."""

    def __init__(self, how: str = "", at: int = 0, home: Path | None = None) -> None:
        self.how, self.at, self.count = how, at, 0
        self.name = ""  # of the call that was broken
        self._aside = False  # the disk's own calls are nobody's
        self._home = os.path.realpath(home) if home is not None else ""
        self._disk = Disk(home, at) if how == "power cut" and home is not None else None
        for name in CALLS:
            setattr(os, name, self._wrap(name, getattr(os, name)))
        fcntl.flock = self._wrap("flock", fcntl.flock)

    def heal(self) -> None:
        """The fault goes."""
        self.how = ""

    def _wrap(self, name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if self._aside:
                return really(*args, **more)
            self.count += 1
            here = self.count == self.at
            if here:
                self.name = name
            if here and self.how in ("killed before", "killed while home is full"):
                self._die()
            self._refuse(name, here, lambda: really(*args, **more))
            self._refuse_at_home(name, args, more)
            result = really(*args, **more)
            self._note(name, args, result)
            if here and self.how in ("killed after", "power cut"):
                self._die()
            return result

        return call

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        if self._disk is not None:
            self._aside = True
            self._disk.note(name, args, result)
            self._aside = False

    def _die(self) -> NoReturn:
        if self._disk is not None:
            self._aside = True
            self._disk.cut()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("nobody outlives SIGKILL")

    def _refuse(self, name: str, here: bool, really: Callable[[], Any]) -> None:
        word, lasting = LASTING.get(self.how, (self.how, frozenset[str]()))
        if word in ERRORS and (here or (self.count > self.at and name in lasting)):
            if name == "close":  # close(2): the descriptor is gone whatever the error
                really()
            number: int = getattr(errno, word)
            raise OSError(number, os.strerror(number))

    def _refuse_at_home(self, name: str, args: tuple[Any, ...], more: dict[str, Any]) -> None:
        how = "home full" if self.how == "killed while home is full" else self.how
        if how in AT_HOME and (self.count >= self.at or how != self.how):
            error = refusal(how, self._home, name, args, more)
            if error is not None:
                raise error


class Disk:
    """What of the product's own files a power cut would leave: what was synced, and of the rest any part.

    It lies on another file system than /etc, say: nothing that was not synced need be there, whatever is there of what
    came later. On one file system the order of names holds, and a kill at each call shows each state there can be.
    """

    def __init__(self, home: Path, seed: int) -> None:
        self._home, self._random = home, random.Random(seed)
        files = (path for path in home.rglob("*") if path.is_file())
        self._synced = {path.stat().st_ino: path.read_bytes() for path in files}
        self._listed = {path.stat().st_ino for path in home.rglob("*")}  # what its folder is known to name

    def note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Take in a call that was made."""
        if name == "open" and args[1] & os.O_CREAT:
            self._synced.setdefault(os.stat(result).st_ino, b"")
        elif name in ("fsync", "fdatasync"):
            path = Path(f"/proc/self/fd/{args[0]}")
            if path.is_dir():
                self._listed |= {each.stat(follow_symlinks=False).st_ino for each in path.iterdir()}
            else:
                self._synced[path.stat().st_ino] = path.read_bytes()

    def cut(self) -> None:
        """Lose what was not synced, and what is in memory: that is put where a test can see what was lost."""
        spare = self._home.parents[2] / store.SPARE[1:]
        if spare.exists():
            shutil.move(spare, self._home.parents[3] / LOST)
        for path in sorted(self._home.rglob("*")):
            number = path.stat(follow_symlinks=False).st_ino
            if path.is_file():
                if number not in self._listed and self._random.random() < 0.5:
                    path.unlink()
                else:
                    self._tear(path, self._synced.get(number, b""))

    def _tear(self, path: Path, synced: bytes) -> None:
        content = path.read_bytes()
        if content.startswith(synced):
            content = content[: self._random.randint(len(synced), len(content))]
        else:
            content = self._random.choice((content, synced))
        path.write_bytes(content)

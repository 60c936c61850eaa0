"""The seam through which a desired state is read: the caller's own paths, which may lie outside the root.

``Eyes`` never leave the root; a state file is named on the command line and may lie anywhere, so it has a
reader of its own. The real one is :mod:`reconciler.host.statefiles`.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from reconciler.model import FileState


class Hop(NamedTuple):
    """One thing passed on the way to a file.

    ``what`` is ``folder``, ``link``, ``file``, ``fifo``, ``socket`` or ``device``; ``path`` is absolute and
    free of links but for its last name; ``mode`` holds the permission bits and the sticky bit.
    """

    path: str
    what: str
    uid: int
    mode: int


class StateReader(Protocol):
    """Reads, and changes nothing. What fails otherwise than by absence is ``Unobservable``, saying why."""

    @property
    def caller(self) -> int:
        """The effective user id of whoever runs this: besides root, the only one whose files are trusted."""
        ...

    def walk(self, path: str) -> tuple[Hop, ...] | None:
        """Everything passed from ``/`` to what ``path`` names, links followed; ``None`` if there is nothing.

        The last hop is the thing itself, its path free of links. A relative path starts where the caller is.
        """
        ...

    def read(self, path: str) -> FileState:
        """A regular file, by a path that :meth:`walk` gave last; follows no link and waits for nothing."""
        ...

    def names(self, folder: str) -> tuple[str, ...]:
        """The names in a folder, sorted."""
        ...

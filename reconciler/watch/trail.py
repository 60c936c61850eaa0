"""Which names decide what a place is: every folder from the root down to it, symbolic links included.

A watch belongs to an inode, not to a path (``inotify(7)``): a folder that is renamed takes its watch with it, and one
that is not there yet can hold none. So each component of a path is watched in the folder that holds it, and what a
link points to is walked as well, below the root as in a chroot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EINVAL
from typing import Literal

from reconciler.host.folders import Identity, identity_of
from reconciler.model import Place
from reconciler.values import Value

_LINKS_MAX = 40  # as in path_resolution(7)


class Step(Value):
    """One name in one real folder. ``hop``: on the way; ``entry``: the place's file; ``folder``: any name in it."""

    folder: str
    name: str
    what: Literal["hop", "entry", "folder"]


def real_root(root: str) -> str:
    """The root as every :class:`Step` begins: resolved, without a slash at its end ("" for ``/``)."""
    return os.path.realpath(root).rstrip("/")


def identity(folder: str) -> Identity | None:
    """Which folder lies at a path, a link not followed; ``None`` where that cannot be told."""
    try:
        return identity_of(os.lstat(folder))
    except OSError:
        return None


def trail(root: str, place: Place) -> Iterator[Step]:
    """Walk from ``root`` (see :func:`real_root`) to the place, as far as there is something to walk on.

    A step is given *before* its name is looked up: who sets a watch on its folder before asking for the next step
    misses no change, because what comes after the look makes an event. A kernel table has no steps.
    """
    here: list[str] = []
    ahead = _parts(place.path)
    links = 0
    while ahead:
        name = ahead.pop()
        if name == "..":
            del here[-1:]
            continue
        folder = _join(root, here)
        yield Step(folder, name, "entry" if place.entry and not ahead else "hop")
        try:
            target = os.readlink(os.path.join(folder, name))
        except OSError as error:
            if error.errno != EINVAL:  # EINVAL: it is there and no link
                return
            here.append(name)
            continue
        links += 1
        if links > _LINKS_MAX:
            return
        if target.startswith("/"):
            here.clear()
        ahead += _parts(target)
    if place.folder and not place.entry:
        yield Step(_join(root, here), "", "folder")


def _parts(path: str) -> list[str]:
    """The components of a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def _join(root: str, parts: list[str]) -> str:
    return "/".join([root, *parts]) or "/"

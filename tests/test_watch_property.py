"""The property the daemon lives on: after any changes, every place that looks different to who looks there was told."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.model import Place
from tests.test_watch import PLACES, Bench, build, open_as

FILES = ("etc/inetd.conf", "etc/network/interfaces", "etc/network/interfaces.d/xenbr0", "srv/inetd")
FOLDERS = (
    *("etc", "etc/network", "etc/network/interfaces.d", "etc/rc2.d", "etc/rc.d", "etc/rc.d/rc3.d", "srv"),
    *("etc/systemd/system", "etc/systemd/system/multi-user.target.wants"),
)
LINKS = ("etc/rc3.d", "etc/inetd.conf", "etc/rc2.d/S20x", "etc/rc.d/rc3.d/S20x", "etc/rc2.d")
TARGETS = ("rc.d/rc3.d", "/etc/rc2.d", "../srv/inetd", "../srv", "nowhere", "rc.d")


def save(path: Path) -> None:
    temporary = path.with_name(".new")
    temporary.write_text(f"{time.monotonic_ns()}\n")
    temporary.rename(path)


def replace_folder(path: Path) -> None:
    shutil.rmtree(path.with_name("old"), ignore_errors=True)
    path.rename(path.with_name("old"))
    path.mkdir()


def bring_back(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.with_name("old").rename(path)
    path.with_name("other").rename(path.with_name("old"))


def write(path: Path) -> None:
    path.write_text(f"{time.monotonic_ns()}\n")


def turn_mode(path: Path) -> None:
    path.chmod(path.stat().st_mode ^ 0o022)


FILE_OPS: tuple[Callable[[Path], None], ...] = (write, save, Path.unlink, turn_mode)
FOLDER_OPS: tuple[Callable[[Path], None], ...] = (
    lambda path: path.mkdir(parents=True),
    shutil.rmtree,
    replace_folder,
    bring_back,
)


def set_link(path: Path, target: str) -> None:
    with suppress(OSError):
        path.unlink()
    path.symlink_to(target)


Op = tuple[str, Callable[[Path], None]]
file_ops = st.tuples(st.sampled_from(FILES), st.sampled_from(FILE_OPS))
folder_ops = st.tuples(st.sampled_from(FOLDERS), st.sampled_from(FOLDER_OPS))
link_ops = st.tuples(
    st.sampled_from(LINKS),
    st.sampled_from(TARGETS).map(lambda target: lambda path: set_link(path, target)),
)
drains = st.just(("", lambda path: None))
ops = st.lists(st.one_of(file_ops, folder_ops, link_ops, drains), max_size=25)


def view(root: Path, place: Place) -> frozenset[object]:
    """What somebody who looks at a place sees; links are followed below the root."""
    found = follow(root, place.path)
    if found is None:
        return frozenset()
    if place.entry:
        return frozenset({look(found)}) if found.is_file() else frozenset()
    with suppress(OSError):
        return frozenset((child.name, look(child)) for child in found.iterdir())
    return frozenset()


def look(path: Path) -> object:
    if path.is_symlink():
        return os.readlink(path)
    return (path.stat().st_mode, path.read_bytes()) if path.is_file() else "odd"


def follow(root: Path, path: str, left: int = 40) -> Path | None:
    """Written anew here, so that the walk of the product is not its own judge."""
    here = root
    parts = [part for part in path.split("/") if part]
    for index, part in enumerate(parts):
        here = here.parent if part == ".." else here / part
        if here.is_symlink():
            target = os.readlink(here)
            base = "" if target.startswith("/") else str(here.parent.relative_to(root)) + "/"
            if not left:
                return None
            return follow(root, os.path.normpath("/" + base + target + "/" + "/".join(parts[index + 1 :])), left - 1)
    return here


def act(bench: Bench, where: str, op: Callable[[Path], None]) -> None:
    """Do it, unless a link leads out of the tree: to Python, "/etc/rc2.d" is this machine's own."""
    path, top = bench.root / where, os.path.realpath(bench.root)
    reached = os.path.realpath(path if op in FILE_OPS else path.parent)
    if reached == top or reached.startswith(f"{top}/"):
        with suppress(OSError):
            op(path)


def unseen(place: Place, old: frozenset[object], new: frozenset[object]) -> bool:
    """Is there something to see? Of start links only what appears can start something."""
    return bool(new - old) if place.kind == "rclinks" else new != old


@settings(max_examples=300)
@given(sequence=ops)
def test_inotify_tells_every_change(sequence: list[Op], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Even of a change that is undone at once; wherever between the changes the queue is drained."""
    with opened("inotify", tmp_path_factory) as bench:
        views = {place: view(bench.root, place) for place in PLACES if place.folder}
        owed: set[Place] = set()
        for where, op in sequence:
            if not where:
                bench.drain()
                owed -= bench.dirty
                bench.dirty.clear()
                continue
            act(bench, where, op)
            for place, old in views.items():
                views[place] = view(bench.root, place)
                if unseen(place, old, views[place]):
                    owed.add(place)
        assert bench.tells(*owed), f"not told: {owed - bench.dirty}"


@settings(max_examples=15)
@given(sequences=st.lists(ops, max_size=3))
def test_polling_tells_what_is_different(sequences: list[list[Op]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Who looks where it tells has seen all there is; what came and went between two looks it cannot know."""
    with opened("polling", tmp_path_factory) as bench:
        views = {place: view(bench.root, place) for place in PLACES if place.folder}
        for sequence in sequences:
            for where, op in sequence:
                act(bench, where, op)
            owed = {place for place, old in views.items() if unseen(place, old, view(bench.root, place))}
            assert bench.tells(*owed), f"not told: {owed - bench.dirty}"
            bench.calm()
            views = {place: view(bench.root, place) for place in views}


@contextmanager
def opened(name: str, factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = factory.mktemp("tree")
    build(root)
    with pytest.MonkeyPatch.context() as patch:
        watcher = open_as(name, root, patch)
        try:
            yield Bench(root, watcher)
        finally:
            watcher.close()
            shutil.rmtree(root)

"""Many files of one folder: what tells one that is as it was, and what is read all the same."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from reconciler.errors import Unobservable
from reconciler.host import Stamp, Text
from reconciler.host.files import Root
from reconciler.host.swift import open_folder
from tests.host_trees import a_root, a_tree


@pytest.fixture
def tree() -> Iterator[Path]:
    yield from a_tree()


@pytest.fixture
def root(tree: Path) -> Iterator[Root]:
    yield from a_root(tree, None)


def scripts_of(root: Root, known: Mapping[str, Stamp]) -> dict[str, Text | Unobservable | None]:
    return dict(root.texts("/etc/init.d", ["a", "b", "gone", "link", "odd"], known))


@pytest.fixture
def scripts(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Some files, and a clock by which they are as they were for a while."""
    folder = tree / "etc/init.d"
    for name in "ab":
        (folder / name).write_text(name)
    (folder / "link").symlink_to("a")
    os.mkfifo(folder / "odd")
    monkeypatch.setattr("reconciler.host.files.time", lambda: time.time() + 10.0)
    return folder


@pytest.mark.usefixtures("scripts")
def test_many_texts_of_a_folder(root: Root) -> None:
    found = scripts_of(root, {})
    assert list(found) == ["a", "b", "gone", "link", "odd"]
    assert found["gone"] is None
    a, link, odd = found["a"], found["link"], found["odd"]
    assert isinstance(a, Text)
    assert a.content == b"a"
    assert a.stamp
    assert link == Text(b"a")  # what it leads to may change without it
    assert isinstance(odd, Unobservable)
    assert dict(root.texts("/etc/nothing", ["a"], {})) == {"a": None}


def stamps_of(found: Mapping[str, Text | Unobservable | None]) -> dict[str, Stamp]:
    return {name: text.stamp for name, text in found.items() if isinstance(text, Text)}


def test_a_text_that_is_known_is_not_read_again(root: Root, scripts: Path) -> None:
    first = scripts_of(root, {})
    before = (scripts / "b").stat()
    (scripts / "b").write_text("c")
    os.utime(scripts / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
    second = scripts_of(root, stamps_of(first))
    assert "a" not in second
    assert isinstance(second["b"], Text)
    assert second["b"].content == b"c"
    assert second["link"] == Text(b"a")


def test_a_text_of_this_moment_is_not_known(root: Root, scripts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next change may bear the same time."""
    monkeypatch.setattr("reconciler.host.files.time", time.time)
    (scripts / "a").write_text("new")
    assert scripts_of(root, {})["a"] == Text(b"new", ())


@pytest.mark.usefixtures("scripts")
def test_a_text_is_known_for_an_hour_at_most(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scripts_of(root, {})
    monkeypatch.setattr("reconciler.host.files.monotonic", lambda: time.monotonic() + 3600.0)
    again = scripts_of(root, stamps_of(first))["a"]
    assert isinstance(again, Text)
    assert again.content == b"a"


def test_a_mark_is_another_once_a_file_comes_goes_or_changes(root: Root, scripts: Path) -> None:
    root.at_once = open_folder
    marks = [root.mark("/etc/init.d", ["a"])]
    assert marks == [root.mark("/etc/init.d", ["a"])]
    (scripts / "a").write_text("b")
    marks.append(root.mark("/etc/init.d", ["a"]))
    (scripts / "new").touch()
    marks.append(root.mark("/etc/init.d", ["a"]))
    (scripts / "new").unlink()
    marks.append(root.mark("/etc/init.d", ["a"]))
    scripts.rename(scripts.with_name("old"))
    scripts.mkdir()
    marks.append(root.mark("/etc/init.d", ()))
    assert all(marks)
    assert len(set(marks)) == len(marks)


@pytest.mark.usefixtures("scripts")
def test_what_cannot_be_marked_is_not(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    assert root.mark("/etc/init.d", ()) is None  # nobody is in a hurry
    root.at_once = open_folder
    assert [root.mark("/etc/init.d", [name]) for name in ("gone", "link", "odd")] == [None, None, None]
    assert root.mark("/etc/nothing", ()) is None
    monkeypatch.setattr("reconciler.host.files.time", time.time)
    assert root.mark("/etc/init.d", ()) is None

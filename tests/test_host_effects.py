"""The effects on files: what they do, what they refuse, and what a batch of them costs."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import ActionFailed, Stale, Unobservable
from reconciler.host import folders
from reconciler.host.files import TEMPORARY, Root
from reconciler.host.swift import open_folder
from reconciler.model import FileState, LinkState, OddState, Unlink, WriteFile
from reconciler.storage import store
from tests.host_trees import NEW, OLD, UNLINK, a_root, a_tree, as_nobody, listing, undo_of


@pytest.fixture
def tree() -> Iterator[Path]:
    yield from a_tree()


@pytest.fixture(params=[None, open_folder], ids=["walked", "at once"])
def root(tree: Path, request: pytest.FixtureRequest) -> Iterator[Root]:
    yield from a_root(tree, request.param)


def test_folders_are_made_with_the_mode_asked_for(root: Root, tree: Path) -> None:
    before = os.umask(0o077)
    try:
        os.close(root.folder_fd("/var/lib/dom0-reconciler/q", create=True, mode=0o750))
    finally:
        os.umask(before)
    for name in ("var", "var/lib", "var/lib/dom0-reconciler", "var/lib/dom0-reconciler/q"):
        assert stat.S_IMODE((tree / name).stat().st_mode) == 0o750
    (tree / "var").chmod(0o700)
    os.close(root.folder_fd("/var/lib", create=True))
    assert stat.S_IMODE((tree / "var").stat().st_mode) == 0o700


def test_a_folder_made_by_another_process_meanwhile_serves(
    root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = os.mkdir

    def late(name: str, *args: Any, **more: Any) -> None:
        really(name, *args, **more)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "mkdir", late)
    os.close(root.folder_fd("/var/lib", create=True))
    assert (tree / "var/lib").is_dir()


def test_a_folder_that_cannot_be_made(tree: Path) -> None:
    def check() -> None:
        root = Root(str(tree))
        with pytest.raises(Unobservable, match="Permission denied"):
            root.folder_fd("/var/lib", create=True)

    if os.geteuid() != 0:
        tree.chmod(0o555)
    as_nobody(check)


def test_unlink_leaves_the_link_that_keeps_it_off(root: Root, tree: Path) -> None:
    if os.geteuid() == 0:
        os.lchown(tree / "etc/rc2.d/S20exim4", 12, 34)
    root.unlink(UNLINK)
    root.settle([UNLINK])
    assert os.listdir(tree / "etc/rc2.d") == ["K80exim4"]
    status = os.lstat(tree / "etc/rc2.d/K80exim4")
    assert os.readlink(tree / "etc/rc2.d/K80exim4") == "../init.d/exim4"
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (12, 34)


def test_the_link_that_stays_is_made_where_no_link_can_have_two_names(
    root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_names: str, **_options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    test_unlink_leaves_the_link_that_keeps_it_off(root, tree)


def test_unlink_is_content_with_a_k_link_that_is_there(root: Root, tree: Path) -> None:
    (tree / "etc/rc2.d/K80exim4").symlink_to("../init.d/exim4")
    root.unlink(UNLINK)
    assert os.listdir(tree / "etc/rc2.d") == ["K80exim4"]


def test_unlink_of_a_regular_file(root: Root, tree: Path) -> None:
    root.unlink(Unlink("/etc/network/interfaces"))
    assert os.listdir(tree / "etc/network") == []


STALE_UNLINKS = {
    "gone": (Unlink("/etc/rc2.d/S99x", "../init.d/x"), "not there any more"),
    "folder gone": (Unlink("/etc/rc7.d/S99x", "../init.d/x"), "/etc/rc7.d is not there"),
    "other target": (Unlink("/etc/rc2.d/S20exim4", "../init.d/x"), "no longer a link to ../init.d/x"),
    "link for a file": (Unlink("/etc/rc2.d/S20exim4"), "no longer a file"),
    "file for a link": (Unlink("/etc/network/interfaces", "x"), "no longer a link"),
    "folder for a file": (Unlink("/etc/network"), "no longer a file"),
    "a stranger's K": (Unlink("/etc/rc2.d/S20exim4", "../init.d/exim4", "K1"), "is no link to"),
    "a file for K": (Unlink("/etc/rc2.d/S20exim4", "../init.d/exim4", "K2"), "is no link to"),
}


@pytest.mark.parametrize("case", STALE_UNLINKS)
def test_stale_unlinks_change_nothing(root: Root, tree: Path, case: str) -> None:
    (tree / "etc/rc2.d/K1").symlink_to("elsewhere")
    (tree / "etc/rc2.d/K2").write_text("")
    before = listing(tree)
    action, why = STALE_UNLINKS[case]
    with pytest.raises(Stale, match=why):
        root.unlink(action)
    assert listing(tree) == before


@pytest.mark.parametrize("path", ["/", "/etc/", "/etc/.", "/etc/.."])
def test_no_effect_on_what_has_no_name(root: Root, path: str) -> None:
    with pytest.raises(ActionFailed, match="names no entry"):
        root.unlink(Unlink(path))


def test_a_file_has_no_k_link(root: Root, tree: Path) -> None:
    before = listing(tree)
    with pytest.raises(ActionFailed, match="is no link"):
        root.unlink(Unlink("/etc/network/interfaces", leave="K1"))
    assert listing(tree) == before


def test_a_link_that_went_away_while_unlinking_is_done(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """update-rc.d was quicker. Taking our K link back now would leave the script without any link at all."""
    really = os.unlink

    def late(name: str, *, dir_fd: int) -> None:
        really(name, dir_fd=dir_fd)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "unlink", late)
    root.unlink(UNLINK)
    assert os.listdir(tree / "etc/rc2.d") == ["K80exim4"]


def test_link_is_the_inverse_and_may_be_done_twice(root: Root, tree: Path) -> None:
    os.utime(tree / "etc/rc2.d/S20exim4", ns=(5, 1_234_567_890_123_456_789), follow_symlinks=False)
    before, undo = listing(tree), undo_of(root)
    root.unlink(UNLINK)
    for _ in range(2):
        root.link(undo)
        root.settle([undo])
        assert listing(tree) == before
        assert os.lstat(tree / "etc/rc2.d/S20exim4").st_mtime_ns == 1_234_567_890_123_456_789


def test_link_goes_on_where_a_crash_left_both(root: Root, tree: Path) -> None:
    before, undo = listing(tree), undo_of(root)
    (tree / "etc/rc2.d/K80exim4").symlink_to("../init.d/exim4")
    root.link(undo)
    assert listing(tree) == before


@pytest.mark.parametrize("name", ["S20exim4", "K80exim4"])
def test_link_never_replaces_a_stranger(root: Root, tree: Path, name: str) -> None:
    undo = undo_of(root)
    root.unlink(UNLINK)
    (tree / "etc/rc2.d" / name).unlink(missing_ok=True)
    (tree / "etc/rc2.d" / name).symlink_to("elsewhere")
    before = listing(tree)
    with pytest.raises(Stale, match=f"{name} is there and is no link"):
        root.link(undo)
    assert listing(tree) == before


def test_write_sets_content_mode_owner_and_time(root: Root, tree: Path) -> None:
    uid, gid = (12, 34) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    state = FileState(b"new\n", 0o4751, uid, gid, 1_700_000_000_123_456_789)
    action = WriteFile("/etc/network/interfaces", state, OLD)
    root.write(action)
    root.settle([action])
    assert root.entry("/etc/network/interfaces") == state
    assert os.listdir(tree / "etc/network") == ["interfaces"]


def test_write_where_nothing_was_and_where_a_link_was(root: Root, tree: Path) -> None:
    (tree / "etc/l").symlink_to("network/interfaces")
    there = root.entry("/etc/l")
    root.write(WriteFile("/etc/new", NEW, None))
    root.write(WriteFile("/etc/l", NEW, there))
    assert root.entry("/etc/new") == root.entry("/etc/l") == NEW
    assert (tree / "etc/network/interfaces").read_bytes() == b"old"


def test_write_of_much_in_small_pieces(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    """write(2) may take less than it was given."""
    really = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: really(fd, bytes(data)[:1000]))
    state = FileState(os.urandom(123_456), 0o600, os.geteuid(), os.getegid(), 7)
    root.write(WriteFile("/etc/network/interfaces", state, OLD))
    assert root.entry("/etc/network/interfaces") == state


@pytest.mark.parametrize(
    "expects", [None, FileState(b"else", 0o644, OLD.uid, OLD.gid), LinkState("x"), OddState("fifo")]
)
def test_write_is_stale_where_something_else_is_there(root: Root, tree: Path, expects: Any) -> None:
    before = listing(tree)
    with pytest.raises(Stale, match="not what it was"):
        root.write(WriteFile("/etc/network/interfaces", NEW, expects))
    assert listing(tree) == before


def test_write_is_stale_where_it_is_edited_meanwhile(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.fsync

    def slow(fd: int) -> None:
        (tree / "etc/network/interfaces").write_bytes(b"by hand")
        really(fd)

    monkeypatch.setattr(os, "fsync", slow)
    with pytest.raises(Stale, match="not what it was"):
        root.write(WriteFile("/etc/network/interfaces", NEW, OLD))
    assert os.listdir(tree / "etc/network") == ["interfaces"]
    assert (tree / "etc/network/interfaces").read_bytes() == b"by hand"


def test_write_never_replaces_a_folder(root: Root, tree: Path) -> None:
    (tree / "etc/network/d").mkdir()
    before = listing(tree)
    with pytest.raises(ActionFailed, match="Is a directory"):
        root.write(WriteFile("/etc/network/d", NEW, OddState("directory")))
    assert listing(tree) == before


def test_a_refused_owner_leaves_everything(tree: Path) -> None:
    if os.geteuid() == 0:
        for path in (tree, *tree.rglob("*")):
            os.lchown(path, 65534, 65534)

    def check() -> None:
        root, before = Root(str(tree)), listing(tree)
        old = root.entry("/etc/network/interfaces")
        with pytest.raises(ActionFailed, match="Operation not permitted"):
            root.write(WriteFile("/etc/network/interfaces", FileState(b"new"), old))
        assert listing(tree) == before

    as_nobody(check)


def test_an_ordinary_user_corrects_a_root_of_its_own(tree: Path) -> None:
    if os.geteuid() == 0:
        for path in (tree, *tree.rglob("*")):
            os.lchown(path, 65534, 65534)

    def check() -> None:
        root = Root(str(tree))
        old = root.entry("/etc/network/interfaces")
        new = FileState(b"new", 0o600, os.geteuid(), os.getegid(), 5)
        undo, write = undo_of(root), WriteFile("/etc/network/interfaces", new, old)
        root.unlink(UNLINK)
        root.write(write)
        root.settle([UNLINK, write])
        assert root.entry("/etc/network/interfaces") == new
        assert os.listdir(tree / "etc/rc2.d") == ["K80exim4"]
        root.link(undo)
        root.settle([undo])
        assert os.listdir(tree / "etc/rc2.d") == ["S20exim4"]

    as_nobody(check)


def test_sweep_takes_only_our_temporaries(root: Root, tree: Path) -> None:
    ours = TEMPORARY + "0123456789abcdef"
    for name in (ours, TEMPORARY + "short", ".other", "interfaces~"):
        (tree / "etc/network" / name).write_text("")
    (tree / "etc/network" / (TEMPORARY + "0123456789abcdee")).mkdir()
    assert root.sweep("/etc/network") == (ours,)
    assert root.sweep("/etc/network") == ()
    assert root.sweep("/etc/nope") == ()
    assert len(os.listdir(tree / "etc/network")) == 5


# --- a batch ----------------------------------------------------------------------------------------------


def test_a_batch_walks_once_and_syncs_each_folder_once(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = []
    for folder in ("rc3.d", "rc4.d"):
        (tree / "etc" / folder).mkdir()
        for number in range(50):
            (tree / "etc" / folder / f"S{number}x").symlink_to("../init.d/x")
            actions.append(Unlink(f"/etc/{folder}/S{number}x", "../init.d/x", f"K{number}x"))
    calls = {"open": 0, "fsync": 0}
    for name in calls:
        really = getattr(os, name)

        def count(*args: Any, really: Any = really, name: str = name, **more: Any) -> Any:
            calls[name] += 1
            return really(*args, **more)

        monkeypatch.setattr(os, name, count)
    for action in actions:
        root.unlink(action)
    root.settle(actions)
    assert calls == {"open": 1 + (0 if root.at_once else 4), "fsync": 2}  # the one is what tells of mounts


def test_a_held_folder_is_let_go_after_a_while(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever forgets to settle does not act for ever on a folder that was moved away."""
    (tree / "etc/rc2.d/S30x").symlink_to("../init.d/x")
    root.unlink(UNLINK)
    (tree / "etc/rc2.d").rename(tree / "etc/old")
    (tree / "etc/rc2.d").mkdir()
    now = time.monotonic() + folders.HOLD_SECONDS
    monkeypatch.setattr(folders, "monotonic", lambda: now)
    with pytest.raises(Stale, match="not there any more"):
        root.unlink(Unlink("/etc/rc2.d/S30x", "../init.d/x"))
    assert (tree / "etc/old/S30x").is_symlink()


def test_many_folders_are_not_all_held(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "HOLD_FOLDERS", 3)
    for number in range(10):
        (tree / f"d{number}").mkdir()
        root.write(WriteFile(f"/d{number}/f", NEW, None))
        assert len(root.held) <= 3


def test_a_folder_in_use_is_not_closed_for_others(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number would be another file's by the time something is written there."""
    monkeypatch.setattr(folders, "HOLD_FOLDERS", 3)
    with store.folder(root, store.HOME, create=True) as folder:
        before = os.fstat(folder)
        for number in range(10):
            (tree / f"d{number}").mkdir()
            root.write(WriteFile(f"/d{number}/f", NEW, None))
            assert os.path.samestat(os.fstat(folder), before)
    assert len(root.held) <= 3


def test_settle_tries_every_folder_and_says_which_failed(
    root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([errno.EIO, errno.EINVAL, 0])
    synced = []

    def fail(fd: int) -> None:
        synced.append(fd)
        if number := next(failures):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    actions = [Unlink("/etc/init.d/a"), Unlink("/etc/network/b"), Unlink("/etc/rc2.d/c"), Unlink("/gone/d")]
    with pytest.raises(ActionFailed, match=r"^/etc/init.d: Input/output error$"):
        root.settle(actions)
    assert len(synced) == 3
    assert root.at_once or not root.held


def test_a_folder_that_was_exchanged_since_it_was_looked_at_is_not_acted_in(root: Root, tree: Path) -> None:
    """Between the look and the act the lock was waited for, and a restore put another folder there."""
    folder = tree / os.path.dirname(UNLINK.path).lstrip("/")
    root.named(os.path.dirname(UNLINK.path), [os.path.basename(UNLINK.path)], lambda _: True)
    aside = folder.rename(folder.with_name("aside"))
    folder.mkdir()
    before = listing(aside)
    root.entries([UNLINK.path])  # what each batch begins with, under the lock
    with pytest.raises(Stale):
        root.unlink(UNLINK)
    assert listing(aside) == before


def test_a_file_that_takes_the_links_place_at_the_last_moment_stays(
    root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second name would be run as a stop script; and its content is kept nowhere."""
    link, folder = os.link, tree / "etc/rc2.d"

    def late(*args: Any, **more: Any) -> None:
        (folder / "new").write_text("#!/bin/sh\n")
        (folder / "new").rename(folder / "S20exim4")
        link(*args, **more)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(Stale):
        root.unlink(UNLINK)
    assert (folder / "S20exim4").read_text() == "#!/bin/sh\n"
    assert not (folder / "K80exim4").exists()

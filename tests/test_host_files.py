"""The file layer looks at real trees, odd ones above all; the kernel is the oracle for where a path leads."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import ActionFailed, Stale, Unobservable
from reconciler.host import FILE_LIMIT, Listing
from reconciler.host.files import Root
from reconciler.host.swift import open_folder
from reconciler.model import Entry, FileState, LinkState, OddState, Unlink, WriteFile
from tests.host_trees import NEW, a_root, a_tree, as_nobody


@pytest.fixture
def tree() -> Iterator[Path]:
    yield from a_tree()


@pytest.fixture(params=[None, open_folder], ids=["walked", "at once"])
def root(tree: Path, request: pytest.FixtureRequest) -> Iterator[Root]:
    yield from a_root(tree, request.param)


def test_a_root_that_is_no_folder_is_unobservable(tree: Path) -> None:
    with pytest.raises(Unobservable, match="No such file"):
        Root(str(tree / "nope"))
    with pytest.raises(Unobservable, match="Not a directory"):
        Root(str(tree / "etc/network/interfaces"))


def test_absence_is_an_answer(root: Root) -> None:
    for path in ("/nope", "/nope/below", "/etc/nope/a/b"):
        assert root.folder(path) is None
        assert root.entry(path) is None
        assert root.read(path) is None
        assert root.locate(path) is None
        with pytest.raises(FileNotFoundError):
            root.folder_fd(path)


@pytest.mark.parametrize("hurried", [False, True])
def test_what_is_there_once_every_link_is_followed(root: Root, tree: Path, hurried: bool) -> None:
    root.at_once = open_folder if hurried else None
    (tree / "etc/there").symlink_to("rc2.d")
    paths = ("/", "/etc", "/etc/rc2.d/", "/etc/there", "/no", "/no/way")
    assert [path for path in paths if root.exists(path)] == ["/", "/etc", "/etc/rc2.d/", "/etc/there"]
    (tree / "etc/there").unlink()
    (tree / "etc/there").symlink_to("/etc/nothing")
    with pytest.raises(Unobservable):
        root.exists("/etc/there")


def test_an_empty_folder_is_no_absence(root: Root) -> None:
    assert root.folder("/etc/init.d") == ()


_AS_LISTED = {
    "another link": lambda folder: (folder / "K01x").symlink_to("../init.d/x"),
    "a link less": lambda folder: (folder / "S20exim4").unlink(),
    "another target": lambda folder: ((folder / "S20exim4").unlink(), (folder / "S20exim4").symlink_to("../init.d/x")),
    "a file now": lambda folder: ((folder / "S20exim4").unlink(), (folder / "S20exim4").touch()),
    "no folder": lambda folder: folder.rename(folder.with_name("gone")),
    "behind a link": lambda folder: (folder.rename(folder.with_name("gone")), folder.symlink_to(folder)),
}


@pytest.mark.parametrize("change", _AS_LISTED.values(), ids=_AS_LISTED)
def test_a_folder_that_holds_what_it_held(root: Root, tree: Path, change: Callable[[Path], object]) -> None:
    held = Listing({"S20exim4": True}, ["S20exim4"], ["../init.d/exim4"])
    assert root.holds("/etc/rc2.d", held)
    change(tree / "etc/rc2.d")
    assert not root.holds("/etc/rc2.d", held)


def test_a_folder_is_sorted_and_reads_only_wanted_targets(root: Root, tree: Path) -> None:
    (tree / "etc/rc2.d/K01b").symlink_to("../init.d/b")
    (tree / "etc/rc2.d/README").write_text("")
    (tree / "etc/rc2.d/d").mkdir()
    os.mkfifo(tree / "etc/rc2.d/f")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tree / "etc/rc2.d/s"))
    assert root.folder("/etc/rc2.d", lambda name: name.startswith("S")) == (
        Entry("K01b", "link"),
        Entry("README", "file"),
        Entry("S20exim4", "link", "../init.d/exim4"),
        Entry("d", "directory"),
        Entry("f", "fifo"),
        Entry("s", "socket"),
    )


ODD_NAMES = [
    b"S20a\nb",
    b"S20 a b",
    b"S20\xff\xfe",
    b"S20\x1b[31m",
    "S20\u202eü".encode(),
    b"S20" + b"x" * 252,
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_go_there_and_back(root: Root, tree: Path, name: bytes) -> None:
    folder = os.fsencode(tree) + b"/etc/rc2.d/"
    os.unlink(folder + b"S20exim4")
    os.symlink(b"../init.d/\xff\n", folder + name)
    (seen,) = root.folder("/etc/rc2.d", lambda _name: True) or ()
    assert (os.fsencode(seen.name), os.fsencode(seen.target)) == (name, b"../init.d/\xff\n")
    action = Unlink(f"/etc/rc2.d/{seen.name}", seen.target, "K80x")
    with pytest.raises(Stale) as stale:
        root.unlink(Unlink(action.path, "../init.d/other"))
    assert str(stale.value).isprintable()
    root.unlink(action)
    assert os.readlink(folder + b"K80x") == b"../init.d/\xff\n"
    assert os.listdir(folder) == [b"K80x"]


def test_a_file_is_read_with_its_state(root: Root, tree: Path) -> None:
    status = os.lstat(tree / "etc/network/interfaces")
    expected = FileState(b"old", 0o644, status.st_uid, status.st_gid, status.st_mtime_ns)
    assert root.read("/etc/network/interfaces") == root.entry("/etc/network/interfaces") == expected


def test_entry_follows_no_last_link_and_read_does(root: Root, tree: Path) -> None:
    (tree / "etc/i").symlink_to("/etc/network/interfaces")
    entry = root.entry("/etc/i")
    assert isinstance(entry, LinkState)
    assert entry.target == "/etc/network/interfaces"
    file = root.read("/etc/i")
    assert file is not None
    assert file.content == b"old"


def test_entry_looks_in_the_last_folder(root: Root, tree: Path) -> None:
    """Not where the walk began: a name that exists in both must not be confused."""
    (tree / "interfaces").mkdir()
    assert isinstance(root.entry("/etc/network/interfaces"), FileState)
    assert root.entry("/") == OddState("directory")
    assert root.entry("/etc") == OddState("directory")


def test_an_absolute_link_stays_below_the_root(root: Root, tree: Path) -> None:
    (tree / "etc/hostname").write_text("image")
    (tree / "etc/abs").symlink_to("/etc/hostname")
    (tree / "rc").symlink_to("/etc/rc2.d")
    file = root.read("/etc/abs")
    assert file is not None
    assert file.content == b"image"
    located = root.locate("/rc/../hostname")
    assert located is not None
    assert located.path == "/etc/hostname"
    assert [e.name for e in root.folder("/rc") or ()] == ["S20exim4"]
    root.unlink(Unlink("/rc/S20exim4", "../init.d/exim4"))
    assert root.folder("/etc/rc2.d") == ()


@pytest.mark.parametrize(
    "target", ["../../..", "../../../etc", "/..", "/../etc/passwd", "../../../../../../etc/passwd"]
)
def test_a_link_that_climbs_out_is_unobservable(root: Root, tree: Path, target: str) -> None:
    (tree / "etc/out").symlink_to(target)
    for look in (root.read, root.folder, root.locate, root.folder_fd):
        with pytest.raises(Unobservable, match="leads out of the root"):
            look("/etc/out")
    with pytest.raises(Unobservable, match="leads out of the root"):
        root.entry("/etc/out/x")
    with pytest.raises(ActionFailed, match="leads out of the root"):
        root.write(WriteFile("/etc/out/x", NEW, None))


def test_a_path_that_climbs_out_is_unobservable(root: Root) -> None:
    with pytest.raises(Unobservable, match="leads out of the root"):
        root.read("/etc/../../etc/passwd")


def test_above_the_kernels_own_root_is_the_root() -> None:
    top = Root("/")
    assert top.locate("/../../etc") == top.locate("/etc")
    top.close()


def test_a_dangling_link_is_no_absence(root: Root, tree: Path) -> None:
    (tree / "etc/rc3.d").symlink_to("nowhere")
    (tree / "etc/rc4.d").symlink_to("/no/where")
    for path in ("/etc/rc3.d", "/etc/rc4.d", "/etc/rc3.d/below"):
        for look in (root.folder, root.read, root.locate):
            with pytest.raises(Unobservable, match="a link that leads nowhere"):
                look(path)
    with pytest.raises(Unobservable, match="a link that leads nowhere"):
        root.folder_fd("/etc/rc3.d/x", create=True)
    assert not (tree / "etc/nowhere").exists()
    assert isinstance(root.entry("/etc/rc3.d"), LinkState)


def test_a_missing_name_behind_a_good_link_is_absence(root: Root, tree: Path) -> None:
    (tree / "rc").symlink_to("etc/rc2.d")
    assert root.entry("/rc/nope") is None
    assert root.folder("/rc/nope") is None


def test_circles_of_links(root: Root, tree: Path) -> None:
    (tree / "a").symlink_to("b")
    (tree / "b").symlink_to("/a")
    (tree / "c").symlink_to("c/c")
    for path in ("/a", "/b/x", "/c"):
        with pytest.raises(Unobservable, match="in a circle"):
            root.folder(path)


def test_wrong_types(root: Root, tree: Path) -> None:
    os.mkfifo(tree / "etc/fifo")
    with pytest.raises(Unobservable, match="interfaces is not a folder"):
        root.folder("/etc/network/interfaces")
    with pytest.raises(Unobservable, match="fifo is not a folder"):
        root.folder("/etc/fifo")
    with pytest.raises(Unobservable, match="is not a folder"):
        root.read("/etc/network/interfaces/x")
    with pytest.raises(Unobservable, match="/etc/network is a directory, not a file"):
        root.read("/etc/network")


def test_a_fifo_where_a_file_belongs_never_blocks(root: Root, tree: Path) -> None:
    os.mkfifo(tree / "etc/inetd.conf")
    began = time.monotonic()
    with pytest.raises(Unobservable, match="is a fifo, not a file"):
        root.read("/etc/inetd.conf")
    assert root.entry("/etc/inetd.conf") == OddState("fifo")
    assert time.monotonic() - began < 1


def test_a_file_swapped_for_a_fifo_never_blocks(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between lstat and open: the open does not wait, and fstat has the last word."""
    really = os.open

    def swap(name: str, flags: int, *args: Any, **more: Any) -> int:
        if name == "interfaces":
            os.unlink(tree / "etc/network/interfaces")
            os.mkfifo(tree / "etc/network/interfaces")
        return really(name, flags, *args, **more)

    monkeypatch.setattr(os, "open", swap)
    with pytest.raises(Unobservable, match="no longer a regular file"):
        root.read("/etc/network/interfaces")


def test_a_device_is_never_opened(root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(tree / "etc/watchdog", stat.S_IFCHR | 0o600, os.makedev(10, 130))
    really = os.open
    opened: list[str] = []

    def note(name: str, *args: Any, **more: Any) -> int:
        opened.append(name)
        return really(name, *args, **more)

    monkeypatch.setattr(os, "open", note)
    with pytest.raises(Unobservable, match="is a device, not a file"):
        root.read("/etc/watchdog")
    assert root.entry("/etc/watchdog") == OddState("device")
    assert "watchdog" not in opened


def test_a_file_beyond_the_limit(root: Root, tree: Path) -> None:
    (tree / "etc/big").write_bytes(b"")
    os.truncate(tree / "etc/big", 50 << 20)
    for look in (root.read, root.entry):
        with pytest.raises(Unobservable, match=f"larger than the limit of {FILE_LIMIT} bytes"):
            look("/etc/big")
    os.truncate(tree / "etc/big", 100)
    assert root.read("/etc/big", 100) is not None
    with pytest.raises(Unobservable, match="larger than the limit of 99 bytes"):
        root.read("/etc/big", 99)


def test_a_file_that_grows_is_never_read_past_the_limit(
    root: Root, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def endless(_fd: int, size: int) -> bytes:
        nonlocal taken
        taken += size
        return b"x" * size

    monkeypatch.setattr(os, "read", endless)
    with pytest.raises(Unobservable, match="limit of 10000 bytes"):
        root.read("/etc/network/interfaces", 10_000)
    assert taken == 10_001


def test_files_of_proc_have_no_size_and_are_read() -> None:
    top = Root("/")
    status = top.read("/proc/self/status")
    top.close()
    assert status is not None
    assert b"VmRSS" in status.content


def test_folders_nobody_may_enter(tree: Path) -> None:
    (tree / "etc/rc2.d").chmod(0)
    (tree / "etc/network/interfaces").chmod(0)

    def check() -> None:
        root = Root(str(tree))
        for path in ("/etc/rc2.d", "/etc/rc2.d/x"):
            with pytest.raises(Unobservable, match="Permission denied"):
                root.folder(path)
        with pytest.raises(Unobservable, match="Permission denied"):
            root.read("/etc/network/interfaces")

    as_nobody(check)


def test_a_folder_on_the_way_need_not_be_readable(tree: Path) -> None:
    """A caller without the right to list /etc may still look below it, as the kernel lets it."""
    (tree / "etc").chmod(0o711)

    def check() -> None:
        assert [e.name for e in Root(str(tree)).folder("/etc/rc2.d") or ()] == ["S20exim4"]

    as_nobody(check)


# --- the kernel is the oracle -----------------------------------------------------------------------------

_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10
_NAMES = st.sampled_from(["a", "b", "c"])
_PATHS = st.lists(st.sampled_from(["a", "b", "c", ".."]), min_size=1, max_size=5).map("/".join)
_TARGETS = st.builds(str.__add__, st.sampled_from(["", "/"]), _PATHS)
_THINGS = st.dictionaries(
    st.lists(_NAMES, min_size=1, max_size=3).map("/".join),
    st.one_of(st.just("folder"), st.just("file"), _TARGETS.map("->".__add__)),
    max_size=12,
)


class _How(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def kernel_inode(top: int, path: str) -> int:
    """What ``openat2(2)`` finds in a chroot at ``top``: an inode, or minus the error number."""
    how = _How(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(_OPENAT2, top, path.encode(), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        return -ctypes.get_errno()
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def build(top: Path, things: dict[str, str]) -> None:
    for name, what in sorted(things.items()):
        path = top / name
        if not path.parent.is_dir() or path.parent.is_symlink() or os.path.lexists(path):
            continue
        if what == "folder":
            path.mkdir()
        elif what == "file":
            path.write_text(name)
        else:
            path.symlink_to(what.removeprefix("->"))


@settings(max_examples=400)
@given(_THINGS, _TARGETS)
def test_every_path_leads_where_the_kernel_says(things: dict[str, str], path: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "root/a").mkdir(parents=True)
        build(top / "root", things)
        root = Root(str(top / "root"))
        fd = os.open(top / "root", os.O_PATH)
        kernel = kernel_inode(fd, path)
        os.close(fd)
        try:
            located = root.locate(path)
            ours = -errno.ENOENT if located is None else located.status.st_ino
            if located is not None:
                assert os.lstat(str(top / "root") + located.path).st_ino == ours
        except Unobservable as error:
            if "leads out of the root" in str(error):
                return  # the one difference: the kernel stays at the root, we say that the tree is odd
            ours = -_ERRORS[next(word for word in _ERRORS if word in str(error))]
        finally:
            root.close()
        if kernel == -errno.ENOSYS:
            pytest.skip("no openat2 here")
        assert ours == kernel


@settings(max_examples=200)
@given(_THINGS, _TARGETS)
def test_a_folder_opened_at_once_is_the_one_that_a_walk_leads_to(things: dict[str, str], path: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a").mkdir()
        build(Path(name), things)
        root = Root(name)
        walked = _seen(root, path)
        root.at_once = open_folder
        assert _seen(root, path) == walked
        root.close()


def _seen(root: Root, path: str) -> list[object]:
    looks: list[Callable[[str], object]] = [root.folder, root.entry, root.read, lambda path: _inode(root, path)]
    return [_answer(look, path) for look in looks]


def _answer(look: Callable[[str], object], path: str) -> object:
    try:
        return look(path)
    except FileNotFoundError:
        return FileNotFoundError
    except Unobservable as error:
        return str(error)


def _inode(root: Root, path: str) -> int:
    fd = root.folder_fd(path)
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def test_a_name_with_a_nul_is_not_cut_short(root: Root) -> None:
    assert open_folder(root._fd, "/etc\0x") == -1


_ERRORS = {"leads nowhere": errno.ENOENT, "in a circle": errno.ELOOP, "is not a folder": errno.ENOTDIR}

"""Who may write a state decides what runs: owners, modes, links and odd files, on real trees."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from reconciler.errors import StateError, Unobservable
from reconciler.host import FILE_LIMIT
from reconciler.host.statefiles import StateFiles
from tests.desired_trees import read

STRANGER = 4711  # a user id that nobody here has
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture(autouse=True)
def _files_for_ourselves() -> Iterator[None]:
    """Whatever the caller's umask is: what a group may write is refused."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A state that includes a file and names a canonical one, and has a drop-in."""
    folder = tmp_path / "etc"
    (folder / "state.d").mkdir(parents=True)
    (folder / "sub").mkdir()
    (folder / "state.toml").write_text(
        'version = 1\ninclude = ["sub/more.toml"]\n[network]\ninterfaces = "interfaces"\n'
    )
    (folder / "sub" / "more.toml").write_text('[services]\napproved = ["ssh"]\n')
    (folder / "interfaces").write_text("auto lo\n")
    (folder / "state.d" / "site.toml").write_text("interval = 60\n")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@contextmanager
def folder_for_all() -> Iterator[Path]:
    """A folder that other users reach, which pytest's own are not."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if not all(above.stat().st_mode & 0o001 for above in folder.parents):
            pytest.skip("the folder for temporary files is closed to other users")
        yield folder


def as_stranger(ask: Callable[[], str]) -> str:
    """What another user is told, or this one who is not root; errors are told as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        try:
            if os.geteuid() == 0:
                os.setresuid(STRANGER, STRANGER, STRANGER)
            os.write(writing, ask().encode())
        except BaseException as error:  # noqa: BLE001 - the child must never go on with the other tests
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        told = said.read()
    os.waitpid(child, 0)
    return told


def errors(state: Path | str, shipped: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(StateError) as refused:
        read(str(state), shipped)
    return [line.removeprefix(f"{Path(state).parent}/") for line in refused.value.errors]


def test_the_tree_is_right_as_it_is(tree: Path) -> None:
    state = read(f"{tree}/state.toml")
    assert state.network is not None
    assert state.network.interfaces is not None
    assert (state.network.interfaces.content, state.network.interfaces.mode) == (b"auto lo\n", 0o644)
    assert (state.network.interfaces.uid, state.network.interfaces.mtime_ns) == (os.geteuid(), 0)
    assert state.interval == 60


BY_NAME = {
    "state.toml": "state.toml: the file",
    "sub/more.toml": "state.toml:2: include: 'sub/more.toml': the file",
    "interfaces": "state.toml:4: network.interfaces: 'interfaces': the file",
    "state.d/site.toml": "state.d/site.toml: the file",
    "sub": "state.toml:2: include: 'sub/more.toml': the folder",
    "state.d": "state.d: the folder",
    ".": "state.toml: the folder",
    "..": "state.toml: the folder",
}


@pytest.mark.parametrize("mode", [0o020, 0o002])
@pytest.mark.parametrize("name", BY_NAME)
def test_what_others_may_write_is_refused(tree: Path, name: str, mode: int) -> None:
    path = (tree / name).resolve()
    path.chmod(path.stat().st_mode | mode)
    given = errors(tree / "state.toml")
    shown = f"{path} may be written by others (mode {path.stat().st_mode & 0o7777:04o}): chmod go-w it"
    assert given == [f"{BY_NAME[name]} {shown}"]


@AS_ROOT
@pytest.mark.parametrize("name", BY_NAME)
def test_what_belongs_to_somebody_else_is_refused(tree: Path, name: str) -> None:
    path = (tree / name).resolve()
    os.chown(path, STRANGER, -1)
    given = errors(tree / "state.toml")
    owner = f"belongs to user id {STRANGER}, neither to root nor to the caller"
    assert given == [f"{BY_NAME[name]} {path} {owner}"]


@AS_ROOT
def test_the_caller_s_own_files_are_trusted() -> None:
    """As for an administrator who plans before using root."""
    with folder_for_all() as folder:
        (folder / "state.toml").write_text("version = 1\ninterval = 60\n")
        for path in (folder, folder / "state.toml"):
            os.chown(path, STRANGER, -1)
        assert as_stranger(lambda: str(read(f"{folder}/state.toml").interval)) == "60.0"
        assert "belongs to user id" in errors(folder / "state.toml")[0]


def test_a_sticky_folder_above_passes(tree: Path) -> None:
    tree.parent.chmod(0o1777)
    assert read(f"{tree}/state.toml").interval == 60


def test_a_sticky_file_is_no_sticky_folder(tree: Path) -> None:
    (tree / "state.toml").chmod(0o1666)
    assert "mode 1666" in errors(tree / "state.toml")[0]


def test_a_bad_folder_is_said_once(tree: Path) -> None:
    tree.chmod(0o777)
    assert len(errors(tree / "state.toml")) == 1


def test_distrust_does_not_hide_the_other_errors(tree: Path) -> None:
    (tree / "interfaces").chmod(0o666)
    (tree / "sub" / "more.toml").write_text("mode = 1\n")
    given = errors(tree / "state.toml")
    assert [line.split(" ")[0] for line in given] == ["state.toml:4:", "sub/more.toml:1:"]


# --- links ------------------------------------------------------------------------------------------------


def test_a_linked_state_keeps_its_drop_ins_and_what_lies_beside_its_target(tree: Path, tmp_path: Path) -> None:
    away = tmp_path / "git"
    away.mkdir(mode=0o755)
    (tree / "state.toml").rename(away / "dom0.toml")
    (tree / "state.toml").symlink_to("../git/dom0.toml")
    (tree / "interfaces").rename(away / "interfaces")
    (tree / "interfaces").symlink_to(away / "interfaces")
    state = read(f"{tree}/state.toml")
    assert state.interval == 60
    assert state.files[0] == f"{away}/dom0.toml"
    assert {f"{tree}/state.toml", f"{tree}/interfaces", f"{away}/interfaces"} <= set(state.files)


def test_a_link_in_a_folder_that_others_may_write_is_refused(tree: Path, tmp_path: Path) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    open_folder.chmod(0o777)
    (open_folder / "state.toml").symlink_to(tree / "state.toml")
    given = errors(open_folder / "state.toml")
    assert given[0] == f"state.toml: the folder {open_folder} may be written by others (mode 0777): chmod go-w it"


@AS_ROOT
def test_a_stranger_s_link_in_a_sticky_folder_is_refused(tree: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    link = tmp_path / "x.toml"
    link.symlink_to(tree / "state.toml")
    os.chown(link, STRANGER, -1, follow_symlinks=False)
    assert f"the link {link} belongs to user id {STRANGER}" in errors(link)[0]


def test_a_link_that_leads_out_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x\n")
    (tree / "interfaces").unlink()
    (tree / "interfaces").symlink_to("../secret")
    outside = "lies outside the folder of the file that names it"
    assert errors(tree / "state.toml") == [
        f"state.toml:4: network.interfaces: 'interfaces': {outside} (it leads to {tmp_path}/secret)"
    ]


def test_the_content_of_what_lies_outside_is_not_read(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:secret\n")
    (tree / "state.toml").write_text('version = 1\ninclude = ["../shadow"]\n')
    given = errors(tree / "state.toml")
    assert len(given) == 1
    assert "secret" not in given[0]


def test_a_folder_of_a_like_name_is_not_the_folder(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "etc2").mkdir()
    (tmp_path / "etc2" / "x").write_text("")
    (tree / "state.toml").write_text('version = 1\n[network]\ninterfaces = "../etc2/x"\n')
    assert "lies outside" in errors(tree / "state.toml")[0]


def test_loops_of_links(tree: Path) -> None:
    (tree / "interfaces").unlink()
    (tree / "interfaces").symlink_to("interfaces")
    assert errors(tree / "state.toml") == [
        "state.toml:4: network.interfaces: 'interfaces': too many levels of symbolic links"
    ]
    (tree / "loop.toml").symlink_to("loop.toml")
    assert errors(tree / "loop.toml") == ["loop.toml: too many levels of symbolic links"]


def test_a_dangling_link_is_a_missing_file(tree: Path) -> None:
    (tree / "state.d" / "x.toml").symlink_to("nowhere")
    assert errors(tree / "state.toml") == ["state.d/x.toml: no such file"]


def test_a_linked_folder_of_drop_ins(tree: Path) -> None:
    (tree / "state.d").rename(tree / "others")
    (tree / "state.d").symlink_to("others")
    assert read(f"{tree}/state.toml").interval == 60
    (tree / "state.d").unlink()
    (tree / "state.d").symlink_to("state.d")
    assert errors(tree / "state.toml") == ["state.d: too many levels of symbolic links"]


def test_an_include_is_found_again_through_a_link(tree: Path) -> None:
    (tree / "same.toml").symlink_to("state.toml")
    (tree / "state.toml").write_text('version = 1\ninclude = ["same.toml"]\n')
    assert errors(tree / "state.toml") == ["state.toml:2: include: 'same.toml': the files include each other in a loop"]


# --- where files may lie ----------------------------------------------------------------------------------


def test_shipped_states_may_be_included_from_anywhere(tree: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "share"
    shipped.mkdir()
    (shipped / "xen.toml").write_text('include = ["base.toml"]\n')
    (shipped / "base.toml").write_text('[services]\napproved = ["xen"]\n')
    (tmp_path / "linked").symlink_to("share")
    (tree / "state.toml").write_text(f'version = 1\ninclude = ["{shipped}/xen.toml"]\n')
    assert "lies outside" in errors(tree / "state.toml")[0]
    (tmp_path / "loop").symlink_to("loop")
    assert "lies outside" in errors(tree / "state.toml", (f"{tmp_path}/loop",))[0]
    for known in (str(shipped), f"{shipped}/", f"{tmp_path}/linked"):
        state = read(f"{tree}/state.toml", (f"{tmp_path}/gone", known))
        assert state.services is not None
        assert state.services.approved == ("xen",)


def test_a_shipped_folder_holds_no_canonical_files(tree: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "share"
    shipped.mkdir()
    (shipped / "interfaces").write_text("")
    (tree / "state.toml").write_text(f'version = 1\n[network]\ninterfaces = "{shipped}/interfaces"\n')
    assert "lies outside" in errors(tree / "state.toml", (str(shipped),))[0]


def test_paths_are_followed_as_the_kernel_does(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "sub")
    assert read("../state.toml").files[0] == f"{tree}/state.toml"
    assert read(".././sub/..//state.toml").files[2] == f"{tree}/state.d"
    hops = StateFiles().walk("..")
    assert hops is not None
    assert hops[-1].path == str(tree)


# --- what is no regular file ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.toml", "interfaces", "sub/more.toml", "state.d/site.toml"])
def test_a_fifo_does_not_block(tree: Path, name: str) -> None:
    (tree / name).unlink()
    os.mkfifo(tree / name, 0o644)
    assert errors(tree / "state.toml")[0].endswith("is a fifo, not a regular file")


@pytest.mark.parametrize(
    ("make", "what"),
    [(os.mkdir, "folder"), (os.mkfifo, "fifo"), (lambda path: os.symlink("/dev/zero", path), "device")],
)
def test_odd_things_instead_of_the_state(tmp_path: Path, make: Callable[[str], None], what: str) -> None:
    path = tmp_path / "state.toml"
    make(str(path))
    assert errors(path) == [f"state.toml: is a {what}, not a regular file"]


def test_reading_judges_what_it_opened(tmp_path: Path) -> None:
    """Between looking and opening a file may have become something else."""
    reader = StateFiles()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    with pytest.raises(Unobservable, match="is a fifo"):
        reader.read(f"{tmp_path}/fifo")
    with pytest.raises(Unobservable, match="is a folder"):
        reader.read(str(tmp_path))
    with pytest.raises(Unobservable, match="too many levels of symbolic links"):
        reader.read(f"{tmp_path}/link")
    with pytest.raises(Unobservable, match="no such file"):
        reader.read(f"{tmp_path}/gone")
    with pytest.raises(Unobservable, match="input/output error"):
        reader.read("/proc/self/mem")  # its first page is not mapped
    with pytest.raises(Unobservable, match="not a directory"):
        reader.names(f"{tmp_path}/fifo")


def test_no_state_at_all(tmp_path: Path) -> None:
    assert errors(tmp_path / "state.toml") == ["state.toml: no such file"]
    assert errors(tmp_path / "gone" / "state.toml") == ["state.toml: no such file"]
    assert errors("bad\0name/x") == ["bad\\x00name/x: has a name that no file can have"]
    assert "file name too long" in errors(tmp_path / ("x" * 300))[0]


def test_the_limit_on_size(tmp_path: Path) -> None:
    path = tmp_path / "state.toml"
    head = b"version = 1\n"
    path.write_bytes(head + b"#" * (FILE_LIMIT - len(head)))
    assert read(str(path)).mode == "observe"
    path.write_bytes(head + b"#" * (FILE_LIMIT - len(head) + 1))
    assert errors(path) == [f"state.toml: is larger than {FILE_LIMIT} bytes"]


def test_what_may_not_be_read() -> None:
    with folder_for_all() as folder:
        (folder / "state.toml").write_text("version = 1\n")
        (folder / "state.toml").chmod(0)
        said = as_stranger(lambda: str(read(f"{folder}/state.toml")))
        assert said == f"{folder}/state.toml: permission denied"
        folder.chmod(0)
        assert as_stranger(lambda: str(read(f"{folder}/state.toml"))) == said

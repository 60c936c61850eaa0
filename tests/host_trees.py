"""A small root, odd enough for every test of the file layer, and what is asked of it."""

from __future__ import annotations

import os
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reconciler.host.files import Root
from reconciler.model import FileState, Link, LinkState, Unlink

UNLINK = Unlink("/etc/rc2.d/S20exim4", "../init.d/exim4", "K80exim4")
OLD = FileState(b"old", 0o644, os.geteuid(), os.getegid())
NEW = FileState(b"new\n", 0o640, os.geteuid(), os.getegid(), 1_700_000_000_123_456_789)


def fill(top: Path) -> Path:
    """One start link and one configuration file; the times are those of 1970."""
    for folder in ("etc/init.d", "etc/rc2.d", "etc/network"):
        (top / folder).mkdir(parents=True)
    link, file = top / "etc/rc2.d/S20exim4", top / "etc/network/interfaces"
    link.symlink_to("../init.d/exim4")
    file.write_bytes(OLD.content)
    file.chmod(OLD.mode)
    for path in (link, file):
        os.utime(path, ns=(5, 5), follow_symlinks=False)
    return top


def a_tree() -> Iterator[Path]:
    """A filled root that any user can reach (pytest's own folders are closed to others)."""
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        yield fill(top)


def a_root(tree: Path, at_once: Callable[[int, str], int] | None) -> Iterator[Root]:
    """The root opened, and a check that no descriptor of it is left over."""
    made = Root(str(tree))
    made.at_once = at_once
    before = len(os.listdir("/proc/self/fd"))
    yield made
    made.release()
    assert len(os.listdir("/proc/self/fd")) <= before, "descriptors leak"
    made.close()


def undo_of(root: Root) -> Link:
    state = root.entry(UNLINK.path)
    assert isinstance(state, LinkState)
    return Link(UNLINK.path, state, UNLINK.leave)


def listing(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything of a tree that a correction may change, times of folders left out."""
    found = {}
    for folder, folders, names in os.walk(top):
        for name in folders + names:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            what: Any = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
            if stat.S_ISREG(status.st_mode):
                what = (Path(path).read_bytes(), status.st_mtime_ns)
            found[os.path.relpath(path, top)] = (status.st_mode, status.st_uid, status.st_gid, what)
    return found


def as_nobody(check: Callable[[], None]) -> None:
    """Run a check as an ordinary user: in a child that gives its rights up, where we have any."""
    if os.geteuid() != 0:
        check()
        return
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            check()
            status = 0
        except BaseException:  # noqa: BLE001 - the child must end here, and say why
            os.write(write, traceback.format_exc()[-4000:].encode())
        finally:
            os._exit(status)
    os.close(write)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    said = os.read(read, 4096).decode()
    os.close(read)
    assert status == 0, said

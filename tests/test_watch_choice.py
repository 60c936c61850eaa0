"""Which watcher it is, and what becomes of one that cannot go on: descriptors, overflow, exhausted limits."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyinotify
import pytest

import reconciler.watch
from reconciler.model import Place, Wake
from reconciler.watch import Watcher, filesystems, open_watcher
from reconciler.watch.inotify import InotifyWatcher
from tests.test_watch import INETD, PLACES, RC2, RC3, Bench, build, concerns, no_voice

Said = list[tuple[str, str]]


@pytest.fixture
def said() -> Said:
    return []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    build(tmp_path)
    return tmp_path


@pytest.fixture
def inotify(root: Path) -> Iterator[InotifyWatcher]:
    watcher = InotifyWatcher(PLACES, str(root), concerns)
    yield watcher
    watcher.close()


def opened(root: Path, said: Said) -> Watcher:
    return open_watcher(PLACES, str(root), say=lambda *line: said.append(line), interval=0.05)


def wake_of(watcher: Watcher, milliseconds: int = 5000) -> Wake | None:
    poll = select.poll()
    poll.register(watcher.fd, select.POLLIN)
    return watcher.read() if poll.poll(milliseconds) else None


# --- the choice ---


def test_inotify_first_and_nothing_said(root: Path, said: Said) -> None:
    watcher = opened(root, said)
    assert watcher.name == "inotify"
    watcher.close()
    assert not said


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "fuseblk", "9p", "ceph", "virtiofs"])
def test_file_systems_that_others_change(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(filesystems, "file_system", lambda folder: kind)
    watcher = opened(root, said)
    assert watcher.name == "polling"
    watcher.close()
    [(event, why)] = said
    assert event == "watch_polling"
    assert f"is on {kind}" in why


def test_file_system_names() -> None:
    assert filesystems.file_system("/proc") == "proc"
    assert filesystems.file_system("/nowhere/at/all") == ""
    assert filesystems.remote([Place("inetd", "/etc", "inetd.conf")], "/proc") == ""


def test_without_pyinotify(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyinotify", None)
    monkeypatch.delitem(sys.modules, "reconciler.watch.inotify")
    watcher = opened(root, said)
    (root / "etc/rc2.d/S20x").symlink_to("x")
    assert Bench(root, watcher).tells(RC2)
    watcher.close()
    assert [event for event, _ in said] == ["watch_polling"]


def test_without_either(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pyinotify", "watchdog", "watchdog.observers", "watchdog.observers.polling"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("reconciler.watch.inotify", "reconciler.watch.polling"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    watcher = opened(root, said)
    watcher.watch(PLACES, str(root))
    assert watcher.name == "none"
    assert wake_of(watcher, 50) is None
    assert watcher.read() is None
    watcher.close()
    assert [event for event, _ in said] == ["watch_none"]


# --- limits ---


def refuse(number: int) -> Any:
    """``add_watch`` as it is when the kernel refuses."""

    def add_watch(self: object, path: str, mask: int, **options: object) -> dict[str, int]:
        ctypes.set_errno(number)
        raise pyinotify.WatchManagerError(f"add_watch: cannot watch {path}", {path: -1})

    return add_watch


def test_watches_used_up(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyinotify.WatchManager, "add_watch", refuse(errno.ENOSPC))
    watcher = opened(root, said)
    assert watcher.name == "polling"
    watcher.close()
    [(event, why)] = said
    assert event == "watch_polling"
    assert "max_user_watches" in why


def test_instances_used_up(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise OSError("Cannot initialize new instance of inotify, Too many open files (EMFILE)")

    monkeypatch.setattr(pyinotify.WatchManager, "__init__", fail)
    watcher = opened(root, said)
    assert watcher.name == "polling"
    watcher.close()
    assert "max_user_instances" in said[0][1]


def test_watches_used_up_later(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon has registered ``fd`` for good: it must be the same one after the fall."""
    watcher = opened(root, said)
    fd = watcher.fd
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    monkeypatch.setattr(pyinotify.WatchManager, "add_watch", refuse(errno.ENOSPC))
    (root / "etc/rc2.d").rename(root / "etc/rc2.d.old")
    assert poll.poll(5000)
    wake = watcher.read()
    assert wake is not None
    assert wake.places is None
    assert watcher.name == "polling"
    (root / "etc/rc2.d").mkdir()
    (root / "etc/rc2.d/S20x").symlink_to("x")
    assert poll.poll(5000)
    assert watcher.fd == fd
    assert Bench(root, watcher).tells(RC2)
    watcher.close()
    assert [event for event, _ in said] == ["watch_polling"]


def test_watches_are_there_again(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full pass arms anew: what could not serve may serve again, and polling's wake-ups have an end."""
    with monkeypatch.context() as patch:
        patch.setattr(pyinotify.WatchManager, "add_watch", refuse(errno.ENOSPC))
        watcher = opened(root, said)
        watcher.watch(PLACES, str(root))
        assert watcher.name == "polling"
    fd, threads = watcher.fd, threading.active_count()
    watcher.watch(PLACES, str(root))
    assert (watcher.name, watcher.fd) == ("inotify", fd)
    assert threading.active_count() < threads
    (root / "etc/rc2.d/S20x").symlink_to("x")
    assert Bench(root, watcher).tells(RC2)
    watcher.close()
    assert [event for event, _ in said] == ["watch_polling", "watch_inotify"]


def test_watches_used_up_on_other_places(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = opened(root, said)
    monkeypatch.setattr(pyinotify.WatchManager, "add_watch", refuse(errno.ENOSPC))
    watcher.watch((RC2,), str(root))
    assert watcher.name == "polling"
    watcher.close()


def test_folder_that_may_not_be_read_is_no_reason_to_fall(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyinotify.WatchManager, "add_watch", refuse(errno.EACCES))
    watcher = InotifyWatcher(PLACES, str(root), concerns)
    assert watcher.read() is None
    watcher.close()


def test_what_is_no_reason_to_look_is_told_with_the_next_reason(
    root: Path, inotify: InotifyWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "etc/rc2.d/K01a").symlink_to("../init.d/a")
    assert inotify.read() is None
    (root / "etc/rc2.d/S02b").symlink_to("../init.d/b")
    wake = inotify.read()
    assert wake is not None
    assert wake.names == {RC2: {"K01a", "S02b"}}
    monkeypatch.setattr("reconciler.watch.inotify._ASIDE_MAX", 2)
    for name in ("K02a", "K03a", "S03b"):
        (root / f"etc/rc2.d/{name}").symlink_to("../init.d/a")
    wake = inotify.read()
    assert wake is not None
    assert RC2 in (wake.places or ())
    assert wake.names == {}  # too many to tell: all of it is looked at


def test_our_own_stop_links_press_nobody(root: Path) -> None:
    """A stop that waits until nothing more is to be corrected does not wait for what the correction itself made."""
    watcher = open_watcher(PLACES, str(root), say=no_voice, concerns=concerns)
    (root / "etc/rc2.d/K01a").symlink_to("../init.d/a")
    assert not watcher.presses()
    assert watcher.read() is None
    (root / "etc/rc2.d/S02b").symlink_to("../init.d/b")
    assert watcher.presses()
    assert watcher.presses()
    assert select.select([watcher.fd], [], [], 0)[0], "the queue is empty, and there is something to read"
    wake = watcher.read()
    assert wake is not None
    assert wake.names == {RC2: {"K01a", "S02b"}}
    assert not select.select([watcher.fd], [], [], 0)[0]
    assert not watcher.presses()
    watcher.close()


# --- arming ---


def test_change_while_arming(root: Path, inotify: InotifyWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is on the way to one place and holds the file of another: arming for one is not deaf to the other."""
    real = pyinotify.WatchManager.add_watch
    written: list[str] = []

    def add_watch(self: object, path: str, mask: int, **options: object) -> Any:
        done = real(self, path, mask, **options)
        if path == f"{root}/etc" and not written:
            written.append(path)
            (root / "etc/inetd.conf").write_text("while arming\n")
        return done

    monkeypatch.setattr(pyinotify.WatchManager, "add_watch", add_watch)
    inotify.watch(PLACES, str(root))
    wake = inotify.read()
    assert written
    assert wake is not None
    assert wake.places == frozenset({INETD})


def test_what_still_fits_is_not_armed_again(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = opened(root, said)
    monkeypatch.setattr(pyinotify.WatchManager, "add_watch", refuse(errno.ENOSPC))
    watcher.watch(PLACES, str(root))
    assert watcher.name == "inotify"
    (root / "etc/network").rename(root / "etc/network.old")
    (root / "etc/network").mkdir()
    watcher.watch(PLACES, str(root))
    assert watcher.name == "polling"
    watcher.close()


def test_all_folders_are_looked_at_once_an_hour(inotify: InotifyWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever no event tells, and no change of what is mounted either."""
    assert inotify.fits()
    inotify._seen = dict.fromkeys(inotify._seen, (0, 0))
    assert inotify.fits()
    monkeypatch.setattr("reconciler.watch.inotify.monotonic", lambda: time.monotonic() + 3600.0)
    assert not inotify.fits()
    assert not inotify.fits()


MOUNTS = """
import subprocess, sys
from pathlib import Path
from tests.test_watch import INTERFACES, PLACES, build, concerns
from reconciler.watch import open_watcher
root = Path(sys.argv[1])
network = root / "etc/network"
watcher = open_watcher(PLACES, str(root), say=print, concerns=concerns)
watcher.watch(PLACES, str(root))
subprocess.run(["mount", "-t", "tmpfs", "none", network], check=True)
watcher.watch(PLACES, str(root))
(network / "interfaces").write_text("on the mount")
assert INTERFACES in watcher.read().places
subprocess.run(["umount", network], check=True)
assert INTERFACES in watcher.read().places
(network / "interfaces").write_text("below the mount")
assert INTERFACES in watcher.read().places
"""


def test_mount_over_a_folder_and_away(root: Path) -> None:
    if subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespace here")
    command = ["unshare", "-rm", sys.executable, "-c", MOUNTS, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_polling_does_not_trust_a_fresh_time() -> None:
    """A second change within the same tick bears the same time: the first look must not pass for the last."""
    from reconciler.watch.polling import _change_time

    now = time.time_ns()
    assert _change_time(now) != now
    assert _change_time(now - 10**9) == now - 10**9


# --- descriptors and strangers' logging ---


def test_descriptor_neither_blocks_nor_is_inherited(inotify: InotifyWatcher) -> None:
    assert not os.get_blocking(inotify.fd)
    assert not os.get_inheritable(inotify.fd)
    assert inotify.read() is None


def test_nothing_is_left_open(root: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    opened(root, said).close()
    monkeypatch.setattr(reconciler.watch, "remote", lambda places, root: "/ is on nfs")
    opened(root, said).close()
    monkeypatch.undo()
    monkeypatch.setattr(pyinotify.WatchManager, "add_watch", refuse(errno.ENOSPC))
    opened(root, said).close()
    assert os.listdir("/proc/self/fd") == before


def test_watches_are_given_back(root: Path, inotify: InotifyWatcher) -> None:
    def count() -> int:
        return Path(f"/proc/self/fdinfo/{inotify.fd}").read_text().count("inotify wd:")

    first = count()
    for _ in range(5):
        (root / "etc/rc2.d").rename(root / "etc/rc2.d.old")
        (root / "etc/rc2.d").mkdir()
        inotify.read()
        (root / "etc/rc2.d.old").rmdir()
        inotify.read()
    assert count() == first == len(inotify._folders) == len(inotify._manager.watches)
    inotify.watch((RC2,), str(root))
    assert count() == len(inotify._folders) < first


def test_pyinotify_does_not_log_for_us(root: Path, inotify: InotifyWatcher, capfd: pytest.CaptureFixture[str]) -> None:
    (root / "etc/rc2.d").rmdir()
    inotify.read()
    assert not logging.getLogger("pyinotify").handlers
    assert capfd.readouterr() == ("", "")


def test_a_command_that_watches_nothing_imports_neither() -> None:
    script = "import sys, reconciler.watch; print(*{'pyinotify', 'watchdog', 'logging'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_watching_by_inotify_does_not_import_watchdog(root: Path) -> None:
    script = (
        "import sys; from reconciler.watch import open_watcher; from reconciler.model import Place\n"
        f"open_watcher([Place('rclinks', '/etc/rc2.d')], {str(root)!r}, say=print)\n"
        "print('watchdog' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- the queue ---


def event(wd: int, mask: int, name: bytes = b"") -> bytes:
    """One ``struct inotify_event`` as the kernel writes it, the name padded to a multiple of 16."""
    padded = name.ljust((len(name) // 16 + 1) * 16, b"\0") if name else b""
    return struct.pack("iIII", wd, mask, 0, len(padded)) + padded


def feed(watcher: InotifyWatcher, monkeypatch: pytest.MonkeyPatch, *events: bytes) -> Wake | None:
    monkeypatch.setattr(watcher, "_chunks", lambda: [b"".join(events)])
    return watcher.read()


def wd_of(watcher: InotifyWatcher, end: str) -> int:
    return next(wd for wd, folder in watcher._folders.items() if folder.path.endswith(end))


def test_overflow_asks_for_a_full_pass(inotify: InotifyWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    appeared = event(wd_of(inotify, "/etc/rc2.d"), pyinotify.IN_CREATE, b"S20x")
    wake = feed(inotify, monkeypatch, appeared, event(-1, pyinotify.IN_Q_OVERFLOW))
    assert wake == Wake("inotify queue overflow", None)
    assert feed(inotify, monkeypatch) is None


def test_an_overflow_is_told_though_all_was_armed_again(
    root: Path, inotify: InotifyWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever arms looks at the queue first; what it lost may have been a change of what he does not look at."""
    with monkeypatch.context() as patch:
        patch.setattr(inotify, "_chunks", lambda: [event(-1, pyinotify.IN_Q_OVERFLOW)])
        assert inotify.presses()
    inotify.watch(PLACES, str(root))
    assert inotify.read() == Wake("inotify queue overflow", None)
    assert inotify.read() is None


def test_event_of_a_watch_given_back(inotify: InotifyWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        feed(inotify, monkeypatch, event(999, pyinotify.IN_CREATE, b"S20x"), event(999, pyinotify.IN_IGNORED)) is None
    )


def test_several_folders_in_one_chunk(inotify: InotifyWatcher, monkeypatch: pytest.MonkeyPatch) -> None:
    wake = feed(
        inotify,
        monkeypatch,
        event(wd_of(inotify, "/etc/rc2.d"), pyinotify.IN_CREATE, b"K20x"),
        event(wd_of(inotify, "/etc/rc.d/rc3.d"), pyinotify.IN_MOVED_TO, b"S" * 16),
        event(wd_of(inotify, "/etc"), pyinotify.IN_CLOSE_WRITE, b"passwd"),
        event(wd_of(inotify, "/etc"), pyinotify.IN_ATTRIB, b"inetd.conf"),
        event(wd_of(inotify, "/etc"), pyinotify.IN_ATTRIB),
    )
    assert wake == Wake(f"inotify: /etc/rc.d/rc3.d {'S' * 16} appeared and 1 more", frozenset({RC3, INETD}))


def test_loss_of_start_links_costs_no_event(root: Path, inotify: InotifyWatcher) -> None:
    (root / "etc/rc2.d/S20x").symlink_to("x")
    inotify.read()
    (root / "etc/rc2.d/S20x").unlink()
    poll = select.poll()
    poll.register(inotify.fd, select.POLLIN)
    assert not poll.poll(20)


def test_real_overflow(root: Path, inotify: InotifyWatcher) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip("the queue of this machine is too long to fill")
    for number in range(limit + 1):
        os.symlink("x", root / f"etc/rc2.d/S{number}")
    wake = inotify.read()
    assert wake == Wake("inotify queue overflow", None)
    assert inotify.read() is None
    (root / "etc/rc2.d/S20x").symlink_to("x")
    wake = inotify.read()
    assert wake is not None
    assert wake.places == frozenset({RC2})


def test_more_than_one_chunk(root: Path, inotify: InotifyWatcher) -> None:
    for number in range(1000):
        os.symlink("x", root / ("etc/rc2.d/S" + f"{number}".rjust(200, "0")))
    wake = inotify.read()
    assert wake is not None
    assert wake.cause.endswith(" and 999 more")
    assert inotify.read() is None

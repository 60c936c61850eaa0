"""What both watchers promise, on real trees: whatever changes is told, however it is changed."""

from __future__ import annotations

import os
import select
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import reconciler.watch
from reconciler.model import Place
from reconciler.watch import Watcher, open_watcher

INTERVAL = 0.05
RC2 = Place("rclinks", "/etc/rc2.d")
RC3 = Place("rclinks", "/etc/rc3.d")
INETD = Place("inetd", "/etc", "inetd.conf")
INTERFACES = Place("interfaces", "/etc/network", "interfaces")
INTERFACES_D = Place("interfaces", "/etc/network/interfaces.d")
DEEP = Place("units", "/etc/systemd/system/multi-user.target.wants")
TABLE = Place("listeners", "")
PLACES = (RC2, RC3, INETD, INTERFACES, INTERFACES_D, DEEP, TABLE)


def build(root: Path) -> None:
    """A small /etc: rc3.d is reached by a link, the folder of DEEP is not there."""
    for folder in ("etc/rc2.d", "etc/rc.d/rc3.d", "etc/network/interfaces.d"):
        (root / folder).mkdir(parents=True)
    (root / "etc/rc3.d").symlink_to("rc.d/rc3.d")
    (root / "etc/inetd.conf").write_text("#\n")
    (root / "etc/network/interfaces").write_text("auto lo\n")


class Bench:
    """A tree with a watcher on it. ``dirty`` gathers what was told and is emptied by ``calm``."""

    def __init__(self, root: Path, watcher: Watcher) -> None:
        self.root, self.watcher = root, watcher
        self.etc = root / "etc"
        self.causes: list[str] = []
        self.dirty: set[Place] = set()

    def drain(self, milliseconds: float = 0) -> bool:
        """Read once; false where there was nothing to read."""
        poll = select.poll()
        poll.register(self.watcher.fd, select.POLLIN)
        if not poll.poll(milliseconds):
            return False
        wake = self.watcher.read()
        if wake is not None:
            self.causes.append(wake.cause)
            self.dirty |= set(PLACES) if wake.places is None else wake.places
        return True

    def calm(self) -> None:
        """Wait until nothing more comes."""
        while self.drain(0 if self.watcher.name == "inotify" else INTERVAL * 5000):
            pass
        self.dirty.clear()
        self.causes.clear()

    def tells(self, *places: Place) -> bool:
        """Are these told within a few seconds?"""
        end = time.monotonic() + 10
        while not self.dirty.issuperset(places) and time.monotonic() < end:
            self.drain(100)
        return self.dirty.issuperset(places)

    def tells_nothing(self) -> bool:
        """Is it silent for some intervals?"""
        end = time.monotonic() + INTERVAL * 4
        while time.monotonic() < end:
            self.drain(20)
        return not self.dirty


def no_voice(event: str, why: str) -> None:
    """For watchers of whose choice nothing is expected."""


def open_as(name: str, root: Path, patch: pytest.MonkeyPatch, places: tuple[Place, ...] = PLACES) -> Watcher:
    """A watcher of this name, through the front door."""
    if name == "polling":
        time.sleep(0.03)  # a file that is fresh at the first look is told once more
        patch.setattr(reconciler.watch, "remote", lambda places, root: "/etc is on nfs4")
    watcher = open_watcher(places, str(root), say=no_voice, concerns=concerns, interval=INTERVAL)
    assert watcher.name == name
    return watcher


def concerns(place: Place, name: str) -> bool:
    """As the daemon asks: of start links those that start."""
    return place.kind != "rclinks" or not name.startswith("K")


@pytest.fixture(params=["inotify", "polling"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bench(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    build(tmp_path)
    watcher = open_as(name, tmp_path, monkeypatch)
    yield Bench(tmp_path, watcher)
    watcher.close()


# --- what appears, changes, goes ---


def test_silence_while_nothing_happens(bench: Bench) -> None:
    assert bench.tells_nothing()
    assert bench.watcher.read() is None


def test_dangling_start_link(bench: Bench) -> None:
    (bench.etc / "rc2.d/S20portmap").symlink_to("../init.d/portmap")
    assert bench.tells(RC2)
    assert bench.dirty == {RC2}
    assert bench.causes == [f"{bench.watcher.name}: /etc/rc2.d S20portmap appeared"]


def test_file_moved_in(bench: Bench) -> None:
    (bench.root / "elsewhere").symlink_to("x")
    (bench.root / "elsewhere").rename(bench.etc / "rc2.d/S20x")
    assert bench.tells(RC2)


def test_hard_link(bench: Bench) -> None:
    (bench.etc / "rc2.d/S20x").hardlink_to(bench.etc / "inetd.conf")
    assert bench.tells(RC2)


def test_names_of_no_concern_cost_nothing(bench: Bench) -> None:
    (bench.etc / "rc2.d/K80portmap").symlink_to("../init.d/portmap")
    (bench.etc / "motd").write_text("")
    (bench.etc / "network/if-up.d").mkdir()
    assert bench.tells_nothing()


def test_written_in_place(bench: Bench) -> None:
    with (bench.etc / "inetd.conf").open("a") as file:
        file.write("ident stream tcp nowait identd /usr/sbin/identd identd\n")
    assert bench.tells(INETD)
    assert bench.dirty == {INETD}


def test_same_size_same_mtime(bench: Bench) -> None:
    path = bench.etc / "inetd.conf"
    before = path.stat()
    bench.calm()
    path.write_text("!\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert bench.tells(INETD)


def test_editor_saves_over(bench: Bench) -> None:
    (bench.etc / ".inetd.conf.swp").write_text("new\n")
    (bench.etc / ".inetd.conf.swp").rename(bench.etc / "inetd.conf")
    assert bench.tells(INETD)
    bench.calm()
    (bench.etc / "inetd.conf").write_text("again\n")
    assert bench.tells(INETD)


def test_editor_saves_with_backup(bench: Bench) -> None:
    path = bench.etc / "network/interfaces"
    path.rename(bench.etc / "network/interfaces~")
    path.write_text("auto eth0\n")
    assert bench.tells(INTERFACES)
    assert bench.dirty == {INTERFACES}


def test_mode(bench: Bench) -> None:
    (bench.etc / "network/interfaces").chmod(0o666)
    assert bench.tells(INTERFACES)


def test_file_removed_and_back(bench: Bench) -> None:
    (bench.etc / "inetd.conf").unlink()
    assert bench.tells(INETD)
    bench.calm()
    (bench.etc / "inetd.conf").write_text("")
    assert bench.tells(INETD)


def test_loss_in_a_folder_of_files(bench: Bench) -> None:
    (bench.etc / "network/interfaces.d/xenbr0").write_text("")
    assert bench.tells(INTERFACES_D)
    bench.calm()
    (bench.etc / "network/interfaces.d/xenbr0").unlink()
    assert bench.tells(INTERFACES_D)


@pytest.mark.parametrize("raw", [b"S20a\nb", b"S20\xff\xfe", b"S20\x1b[31m", "S20é".encode(), b"S" * 255])
def test_any_name(bench: Bench, raw: bytes) -> None:
    os.symlink(b"x", os.fsencode(bench.etc / "rc2.d") + b"/" + raw)
    assert bench.tells(RC2)
    assert all(cause.isprintable() for cause in bench.causes)


def test_many_in_one_wake(bench: Bench) -> None:
    for number in range(13):
        (bench.etc / f"rc2.d/S{number:02}x").symlink_to("x")
    assert bench.tells(RC2)
    if bench.watcher.name == "inotify":
        assert bench.causes == ["inotify: /etc/rc2.d S00x appeared and 12 more"]


# --- folders that come, go and are replaced ---


def test_folder_replaced(bench: Bench) -> None:
    (bench.etc / "rc2.d").rename(bench.etc / "rc2.d.old")
    (bench.etc / "rc2.d").mkdir()
    assert bench.tells(RC2)
    bench.calm()
    (bench.etc / "rc2.d/S20x").symlink_to("x")
    assert bench.tells(RC2)
    bench.calm()
    (bench.etc / "rc2.d.old/S20x").symlink_to("x")
    assert bench.tells_nothing()


def test_folders_exchanged_at_once(bench: Bench) -> None:
    shutil.copytree(bench.etc, bench.root / "etc.new", symlinks=True)
    (bench.root / "etc.new/rc2.d/S20x").symlink_to("x")
    bench.etc.rename(bench.root / "etc.old")
    (bench.root / "etc.new").rename(bench.etc)
    assert bench.tells(RC2)
    bench.calm()
    (bench.etc / "inetd.conf").write_text("new etc\n")
    (bench.etc / "rc3.d/S20x").symlink_to("x")
    assert bench.tells(INETD, RC3)


def test_folder_deleted_and_made_again(bench: Bench) -> None:
    shutil.rmtree(bench.etc / "network")
    assert bench.tells(INTERFACES)
    bench.calm()
    (bench.etc / "network").mkdir()
    bench.calm()
    (bench.etc / "network/interfaces").write_text("auto lo\n")
    assert bench.tells(INTERFACES)


def test_folder_comes_later_level_by_level(bench: Bench) -> None:
    folder = bench.etc
    for level in ("systemd", "system", "multi-user.target.wants"):
        folder = folder / level
        folder.mkdir()
        bench.calm()
    (folder / "ssh.service").symlink_to("/lib/systemd/system/ssh.service")
    assert bench.tells(DEEP)


def test_folder_comes_later_at_once(bench: Bench) -> None:
    folder = bench.etc / "systemd/system/multi-user.target.wants"
    folder.mkdir(parents=True)
    (folder / "ssh.service").symlink_to("/lib/systemd/system/ssh.service")
    assert bench.tells(DEEP)


def test_folder_becomes_a_file_and_back(bench: Bench) -> None:
    shutil.rmtree(bench.etc / "rc2.d")
    (bench.etc / "rc2.d").write_text("")
    bench.calm()
    (bench.etc / "rc2.d").unlink()
    (bench.etc / "rc2.d").mkdir()
    bench.calm()
    (bench.etc / "rc2.d/S20x").symlink_to("x")
    assert bench.tells(RC2)


# --- links on the way ---


def test_behind_a_link(bench: Bench) -> None:
    (bench.etc / "rc.d/rc3.d/S20x").symlink_to("x")
    assert bench.tells(RC3)
    assert bench.dirty == {RC3}


def test_link_points_elsewhere(bench: Bench) -> None:
    (bench.etc / "rc.d/other").mkdir()
    (bench.etc / "rc3.d.new").symlink_to("/etc/rc.d/other")  # absolute, that is: below the root
    (bench.etc / "rc3.d.new").rename(bench.etc / "rc3.d")
    assert bench.tells(RC3)
    bench.calm()
    (bench.etc / "rc.d/other/S20x").symlink_to("x")
    assert bench.tells(RC3)
    bench.calm()
    (bench.etc / "rc.d/rc3.d/S20x").symlink_to("x")
    assert bench.tells_nothing()


def test_file_becomes_a_link(bench: Bench) -> None:
    (bench.root / "srv").mkdir()
    (bench.root / "srv/inetd").write_text("")
    (bench.etc / "inetd.conf").unlink()
    (bench.etc / "inetd.conf").symlink_to("../srv/inetd")
    assert bench.tells(INETD)
    bench.calm()
    (bench.root / "srv/inetd").write_text("behind the link\n")
    assert bench.tells(INETD)
    bench.calm()
    (bench.etc / "inetd.conf").unlink()
    (bench.etc / "inetd.conf").write_text("a file again\n")
    bench.calm()
    (bench.root / "srv/inetd").write_text("no concern any more\n")
    assert bench.tells_nothing()


def test_links_in_a_circle(bench: Bench) -> None:
    shutil.rmtree(bench.etc / "rc2.d")
    (bench.etc / "rc2.d").symlink_to("rc2.d")
    assert bench.tells(RC2)
    bench.calm()
    (bench.etc / "rc2.d").unlink()
    (bench.etc / "rc2.d").mkdir()
    assert bench.tells(RC2)


def test_link_out_of_the_root_stays_below_it(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (bench.etc / "rc3.d").unlink()
    (bench.etc / "rc3.d").symlink_to("../../../.." + str(outside))
    bench.calm()
    (outside / "S20x").symlink_to("x")
    assert bench.tells_nothing()


# --- the set of places ---


def test_other_places(bench: Bench) -> None:
    later = Place("inetd", "/etc/inetd.d")
    bench.watcher.watch((RC2, later), str(bench.root))
    bench.calm()
    (bench.etc / "inetd.conf").write_text("no place any more\n")
    assert bench.tells_nothing()
    (bench.etc / "inetd.d").mkdir()
    (bench.etc / "inetd.d/ident").write_text("")
    (bench.etc / "rc2.d/S20x").symlink_to("x")
    assert bench.tells(RC2, later)


def test_watching_again_loses_nothing(bench: Bench) -> None:
    (bench.etc / "rc2.d/S20x").symlink_to("x")
    bench.watcher.watch(PLACES, str(bench.root))
    assert bench.tells(RC2)


def test_two_places_on_one_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path)
    folder = Place("all", "/etc")
    bench = Bench(tmp_path, open_as(name, tmp_path, monkeypatch, (folder, INETD)))
    (bench.etc / "inetd.conf").write_text("both\n")
    assert bench.tells(folder, INETD)
    bench.watcher.close()


def test_root_by_a_link_or_with_a_slash(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    build(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    bench = Bench(tmp_path / "real", open_as(name, Path(f"{tmp_path}/link/"), monkeypatch))
    (bench.etc / "rc2.d/S20x").symlink_to("x")
    assert bench.tells(RC2)
    assert bench.causes == [f"{name}: /etc/rc2.d S20x appeared"]
    bench.watcher.close()


# --- nothing is lost ---


def test_last_look_sees_everything(bench: Bench) -> None:
    """Look whenever there is a wake, as the daemon does, while another writes: the last look is complete."""
    names = {f"S{number:02}x" for number in range(80)}

    def write() -> None:
        for entry in sorted(names):
            (bench.etc / f"rc2.d/{entry}").symlink_to("x")
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    seen: set[str] = set()
    end = time.monotonic() + 10
    while seen != names and time.monotonic() < end:
        if bench.drain(100) and RC2 in bench.dirty:
            bench.dirty.clear()
            seen = set(os.listdir(bench.etc / "rc2.d"))
    writer.join()
    assert seen == names

"""The harness's parts that need no host."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.hosts import apt, cgroups, dhcp, levels, limits, looking, recipes, roots
from tests.hosts.trees import Entry, Files, difference

_CHECKOUT = Path(__file__).parents[2]

TARGETS = """\
Codename: bookworm
Label: Debian-Security
Origin: Debian
Component: main
Repo-URI: http://mirror.test/debian-security/

Codename: bookworm
Label: Debian
Origin: Debian
Component: main
Repo-URI: http://mirror.test/debian/
"""


class TestApt:
    @pytest.fixture(autouse=True)
    def _fakes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Real executables on PATH that answer as apt does."""
        (tmp_path / "targets").write_text(TARGETS)
        dumped = """'Acquire::http::Proxy "http://p";' 'Acquire::https "";' 'Dir "/";'"""
        fakes = {
            "apt-get": f"cat {tmp_path}/targets",
            "apt-config": f"printf '%s\\n' {dumped}",
        }
        for name, line in fakes.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.delenv(apt.MIRROR_VARIABLE, raising=False)

    def test_the_machines_own_mirror(self) -> None:
        assert _mirror() == "http://mirror.test/debian"

    def test_the_variable_goes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(apt.MIRROR_VARIABLE, "http://chosen.test/debian")
        assert _mirror() == "http://chosen.test/debian"

    def test_without_any_nothing_is_built_and_it_is_said_what_to_do(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On another distribution's machine, or before the first apt-get update, no other mirror is taken for it."""
        (tmp_path / "targets").write_text(TARGETS.replace("Origin: Debian", "Origin: Other"))
        (tmp_path / "mmdebstrap").write_text(f"#!/bin/sh\ntouch {tmp_path}/built\n")
        (tmp_path / "mmdebstrap").chmod(0o755)
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setenv("DOM0_RECONCILER_CACHE", str(tmp_path / "cache"))
        assert apt.debian_source() is None
        assert roots.can_build() == apt.NO_MIRROR
        assert len(apt.NO_MIRROR.splitlines()) == 1
        assert apt.MIRROR_VARIABLE in apt.NO_MIRROR
        with pytest.raises(roots.RootError, match=apt.MIRROR_VARIABLE):
            roots.build("trixie", "sysvinit")
        assert not (tmp_path / "built").exists()

    def test_what_is_cached_needs_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "targets").write_text("")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setenv("DOM0_RECONCILER_CACHE", str(tmp_path / "cache"))
        assert levels.missing.__wrapped__("roots")
        for one in recipes.all_recipes():
            roots.expected(one).path.mkdir(parents=True)
        assert levels.missing.__wrapped__("roots") is None

    def test_only_what_reaches_the_mirror_is_passed_on(self) -> None:
        assert list(apt.options()) == ['Acquire::http::Proxy "http://p";']

    def test_lines(self) -> None:
        assert apt.Source("http://m/debian", "/k.gpg").line("trixie") == (
            "deb [signed-by=/k.gpg] http://m/debian trixie main"
        )
        assert apt.Source("http://m/debian", None).line("trixie") == "deb http://m/debian trixie main"


def _mirror() -> str:
    source = apt.debian_source()
    assert source is not None
    return source.mirror


MAKER = """
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tests.hosts import cgroups
cgroups.mount_point = lambda: Path(sys.argv[1])
for _ in range(100):
    group = cgroups.Group()  # which sweeps what nobody holds
    group.furnish()
    assert (group.path / cgroups.COMMANDS).is_dir()
    group.remove()
    assert not group.path.exists()
"""


class TestCgroups:
    def test_no_host_takes_away_anothers_group(self, tmp_path: Path) -> None:
        """Each of these makes, holds and removes its own while all others sweep."""
        (tmp_path / f"{cgroups.PREFIX}1" / cgroups.COMMANDS).mkdir(parents=True)  # left by a killed supervisor
        command = [sys.executable, "-c", MAKER, str(tmp_path)]
        makers = [subprocess.Popen(command, cwd=_CHECKOUT, stderr=subprocess.PIPE, text=True) for _ in range(6)]
        assert [maker.communicate(timeout=60)[1] for maker in makers] == [""] * len(makers)
        assert list(tmp_path.iterdir()) == []

    def test_a_sweep_leaves_what_was_made_anew_while_it_came_to_its_lock(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        group = tmp_path / f"{cgroups.PREFIX}1"
        group.mkdir()

        def late(lock: int, how: int) -> None:
            group.rmdir()  # by another sweep, before its owner held it
            group.mkdir()
            real(lock, how)

        real = fcntl.flock
        monkeypatch.setattr("fcntl.flock", late)
        cgroups._sweep(tmp_path)
        assert group.exists()


class TestWriting:
    def test_the_mode_is_set_when_all_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who watches the file reads it as soon as its mode changes."""
        real, seen = os.fchmod, list[bytes]()

        def fchmod(fd: int, mode: int) -> None:
            seen.append((tmp_path / "etc/state").read_bytes())
            real(fd, mode)

        monkeypatch.setattr(os, "fchmod", fchmod)
        Files(str(tmp_path)).write("/etc/state", b"whole", 0o640)
        assert seen == [b"whole"]
        assert (tmp_path / "etc/state").stat().st_mode & 0o777 == 0o640


class TestRoots:
    def test_every_recipe_has_a_root_of_its_own(self) -> None:
        assert len({one.digest for one in recipes.all_recipes()}) == 4

    def test_the_pools_file_of_the_installed_version(self, tmp_path: Path) -> None:
        status = tmp_path / "root/var/lib/dpkg/status"
        status.parent.mkdir(parents=True)
        status.write_text("Package: lpr\nStatus: install ok installed\nVersion: 1:2008+nmu1\n")
        debs = tmp_path / "debs"
        debs.mkdir()
        for name in ("lpr_1%3a2008+nmu1_amd64.deb", "lpr_1%3a2009_amd64.deb", "ident2_1.07-3_amd64.deb"):
            (debs / name).touch()
        root = roots.Root(recipes.recipe("bookworm", "sysvinit"), tmp_path / "root", debs)
        assert root.deb("lpr") == "lpr_1%3a2008+nmu1_amd64.deb"
        assert root.deb("ident2") == "ident2_1.07-3_amd64.deb"
        with pytest.raises(roots.RootError, match="recipes"):
            root.deb("nano")

    def test_the_cache_can_be_moved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/x")
        monkeypatch.delenv("DOM0_RECONCILER_CACHE", raising=False)
        assert roots.cache() == Path("/x/dom0-reconciler")
        monkeypatch.setenv("DOM0_RECONCILER_CACHE", "/y")
        assert roots.cache() == Path("/y")


class TestDhcp:
    @staticmethod
    def message(kind: int) -> bytes:
        hardware = bytes.fromhex("02000000020a")
        start = struct.pack("!4B8s16s16s", 1, 1, 6, 0, b"abcd", b"", hardware)
        return start + bytes(192) + b"\x63\x82\x53\x63" + bytes([0, 53, 1, kind, 255])

    @pytest.mark.parametrize(("asked", "answered"), [(dhcp.DISCOVER, dhcp.OFFER), (dhcp.REQUEST, dhcp.ACK)])
    def test_answers(self, asked: int, answered: int) -> None:
        kind, answer = dhcp.reply_to(self.message(asked), 20)
        assert kind == asked
        assert answer is not None
        assert (answer[0], answer[4:8], answer[16:20]) == (2, b"abcd", socket.inet_aton(dhcp.OFFERED))
        assert bytes([53, 1, answered]) in answer[240:]
        assert bytes([51, 4, 0, 0, 0, 20]) in answer[240:]

    def test_a_release_is_heard_only(self) -> None:
        assert dhcp.reply_to(self.message(dhcp.RELEASE), 20) == (dhcp.RELEASE, None)


class TestLooking:
    def test_this_machines_own_sockets(self) -> None:
        with socket.socket(socket.AF_INET6) as six, socket.socket() as four:
            for one, address in ((six, "::1"), (four, "127.0.0.1")):
                one.bind((address, 0))
                one.listen()
            ports = {"tcp6": six.getsockname()[1], "tcp": four.getsockname()[1]}
            found = {one.name: one for one in looking.listeners(os.getpid())}
        assert found[f"tcp6/{ports['tcp6']}"].address == "::1"
        assert found[f"tcp/{ports['tcp']}"].address == "127.0.0.1"
        assert found[f"tcp/{ports['tcp']}"].pids == (os.getpid(),)


class TestTrees:
    def test_links_stay_inside(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("/etc/hostname")
        files = Files(str(tmp_path))
        with pytest.raises(FileNotFoundError):
            files.read("/link")
        files.write("/etc/hostname", b"inside", 0o600)
        assert files.read("/../link") == b"inside"
        assert files.tree("/")["/link"].content == b"/etc/hostname"

    def test_differences_name_mode_owner_and_content(self) -> None:
        file, link = 0o100644, 0o120777
        before = {
            "/a": Entry(file, (0, 0), b"1\n"),
            "/l": Entry(link, (0, 0), b"x"),
            "/s": Entry(file, (0, 0), b""),
        }
        after = {
            "/a": Entry(file, (0, 4), b"2\n"),
            "/l": Entry(link, (0, 0), b"y"),
            "/s": Entry(file, (0, 0), b""),
        }
        assert difference(before, before) == ""
        assert difference(before, after) == (
            "! /a (-rw-r--r-- 0:0 -> -rw-r--r-- 0:4)\n    @@ -1 +1 @@\n    -1\n    +2\n"
            "! /l (lrwxrwxrwx 0:0) link to x => link to y\n"
        )


class TestPlugin:
    """In a pytest of their own: what people see when a level is missing or a scenario fails."""

    @staticmethod
    def inner(tmp_path: Path, test: str, **variables: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_it.py").write_text(test)
        options = ("-q", "-p", "tests.hosts.plugin", "-c", "/dev/null", f"--rootdir={tmp_path}")
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(tmp_path / "test_it.py")],
            cwd=_CHECKOUT,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def test_a_required_level_that_is_missing_stops_the_run(self, tmp_path: Path) -> None:
        done = self.inner(tmp_path, "def test(): pass", DOM0_RECONCILER_REQUIRE="namespaces, zones")
        assert done.returncode == pytest.ExitCode.USAGE_ERROR
        assert "zones" in done.stderr

    def test_a_missing_level_is_skipped_aloud(self, tmp_path: Path) -> None:
        blind = "from tests.hosts import levels\nlevels.missing = lambda level: 'no such luck'\n"
        test = f"{blind}def test(host): pass\n"
        done = self.inner(tmp_path, test, DOM0_RECONCILER_REQUIRE="")
        assert done.returncode == 0
        assert "4 skipped" in done.stdout
        assert "systemd (hosts with systemd: the same and a writable cgroup2): 2 skipped, no such luck" in done.stdout

    @pytest.mark.usefixtures("boot_host")
    def test_a_failure_shows_the_host(self, tmp_path: Path) -> None:
        test = (
            "def test(boot_host):\n"
            "    host = boot_host('bookworm', 'sysvinit')\n"
            "    host.put('/etc/motd', 'changed')\n"
            "    host.put('/var/lib/dom0-reconciler/journal.jsonl', '{\"id\": 7}\\n')\n"
            "    assert False\n"
        )
        done = self.inner(tmp_path, test)
        if "1 skipped" in done.stdout:
            pytest.skip("no hosts on this machine")
        assert done.returncode == 1, done.stdout + done.stderr
        sections = ("console of bookworm-sysvinit", "product's journal of", "changes in /etc of")
        assert [title for title in sections if f" {title}" not in done.stdout] == []
        assert "INIT: Entering runlevel: 2" in done.stdout
        assert '{"id": 7}' in done.stdout
        assert "    +changed" in done.stdout


@pytest.mark.usefixtures("limiting")
class TestLimits:
    """What was limited is as it was, and of the group nothing is left."""

    @pytest.mark.parametrize("limited", [limits.memory, limits.processes])
    def test_what_was_limited_goes_back(self, limited: Callable[..., AbstractContextManager[limits.Limited]]) -> None:
        with subprocess.Popen(["sleep", "100"]) as process:
            where = Path(f"/proc/{process.pid}/cgroup")
            before = where.read_text()
            how = {"more": 1 << 30} if limited is limits.memory else {"most": 9}
            with limited(process.pid, **how) as group:
                assert (where.read_text() == before, group.path.exists()) == (False, True)
            assert (where.read_text() == before, group.path.exists()) == (True, False)
            process.kill()

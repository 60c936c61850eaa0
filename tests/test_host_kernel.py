"""The facts of a host, on images and on this very machine; its processes; and whose they are."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.errors import Unobservable
from reconciler.host import kernel
from reconciler.host.eyes import RealEyes
from reconciler.host.files import Root
from reconciler.host.kernel import Packages, ProcessTable, host_facts, is_live, started
from reconciler.model import Process


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "usr/sbin").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def table() -> ProcessTable:
    return ProcessTable(Root("/"))


# --- facts --------------------------------------------------------------------------------------------------


def test_an_empty_image(tree: Path) -> None:
    host = host_facts(Root(str(tree)))
    assert (host.live, host.init, host.domain0, host.privileged, host.insserv) == (
        False,
        "sysvinit",
        False,
        True,
        False,
    )


@pytest.mark.parametrize(
    ("target", "init"),
    [
        ("/lib/systemd/systemd", "systemd"),
        ("../lib/systemd/systemd", "systemd"),
        ("/sbin/busybox", "sysvinit"),
        ("init", "sysvinit"),
    ],
)
@pytest.mark.parametrize("merged", [True, False])
def test_the_init_of_an_image(tree: Path, target: str, init: str, merged: bool) -> None:
    if merged:
        (tree / "sbin").symlink_to("usr/sbin")
    else:
        (tree / "sbin").mkdir()
    (tree / "sbin/init").symlink_to(target)
    assert host_facts(Root(str(tree))).init == init


def test_odd_images_have_facts_too(tree: Path) -> None:
    (tree / "sbin").symlink_to("../../out")
    (tree / "etc/insserv.conf").symlink_to("nowhere")
    host = host_facts(Root(str(tree)))
    assert (host.init, host.insserv) == ("sysvinit", False)


def test_what_cannot_be_looked_at_any_more_is_as_it_was(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk makes no other host of it: a systemd one would be corrected as if it had none."""
    (tree / "etc/insserv.conf").touch()
    (tree / "sbin").mkdir()
    (tree / "sbin/init").symlink_to("/lib/systemd/systemd")
    eyes = RealEyes(Root(str(tree)))
    before = eyes.host()
    assert (before.init, before.insserv) == ("systemd", True)

    def fail(*_arguments: object) -> None:
        raise Unobservable("Input/output error")

    monkeypatch.setattr(Root, "locate", fail)
    monkeypatch.setattr(Root, "entry", fail)
    assert eyes.host() == before


def test_insserv_is_where_its_configuration_is(tree: Path) -> None:
    (tree / "etc/insserv.conf").touch()
    assert host_facts(Root(str(tree))).insserv


@pytest.mark.parametrize(
    ("capabilities", "hypervisor", "expected"),
    [
        ("control_d\n", "xen\n", True),
        ("", "xen\n", False),
        (None, "xen\n", True),
        (None, "kvm\n", False),
        (None, None, False),
    ],
)
def test_a_domain0_is_known_by_its_capabilities(
    tree: Path, capabilities: str | None, hypervisor: str | None, expected: bool
) -> None:
    for path, text in (("proc/xen/capabilities", capabilities), ("sys/hypervisor/type", hypervisor)):
        (tree / path).parent.mkdir(parents=True)
        if text is not None:
            (tree / path).write_text(text)
    assert kernel._is_domain0(Root(str(tree))) is expected


def test_this_host() -> None:
    host = host_facts(Root("/"))
    assert host.live
    assert host.privileged is (os.geteuid() == 0)
    assert host.init == ("systemd" if Path("/run/systemd/system").is_dir() else "sysvinit")


@pytest.mark.parametrize(
    ("error", "live"), [(PermissionError, True), (FileNotFoundError, True), (NotADirectoryError, True)]
)
def test_when_the_first_process_may_not_be_looked_at_the_host_is_live(
    monkeypatch: pytest.MonkeyPatch, error: type[OSError], live: bool
) -> None:
    def refuse(_path: str) -> os.stat_result:
        raise error

    monkeypatch.setattr(os, "stat", refuse)
    assert is_live(Root("/")) is live


def test_without_proc_nothing_is_live(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    monkeypatch.setattr(kernel, "PROC", str(tree / "proc"))
    assert not is_live(Root("/"))


def test_in_a_chroot_the_host_is_not_live(tree: Path) -> None:
    """The first process sees another root than we do."""
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare(1)")
    (tree / "proc").mkdir()
    script = (
        "import os, sys; from reconciler.host import files, kernel\n"
        "print(kernel.is_live(files.Root('/')))\n"
        "os.chroot(sys.argv[1]); os.chdir('/')\n"
        "print(kernel.is_live(files.Root('/')))"
    )
    shell = 'mount --bind /proc "$1/proc" && "$2" -c "$3" "$1"; exit'  # the shell is the first process
    command = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "sh",
        "-c",
        shell,
        "sh",
        str(tree),
        sys.executable,
        script,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "True\nFalse\n", done.stderr


# --- processes ----------------------------------------------------------------------------------------------


def one(table: ProcessTable, pid: int) -> Process | None:
    return next((p for p in table.look() if p.pid == pid), None)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sh", "-c", "read _", "a b", "\udcff"], stdin=subprocess.PIPE) as process:
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sh\n")
        yield process
        process.kill()


def test_a_process_is_seen_whole(table: ProcessTable, sleeper: subprocess.Popen[bytes]) -> None:
    seen = one(table, sleeper.pid)
    assert seen is not None
    assert seen.parent == os.getpid()
    assert seen.name == "sh"
    assert seen.executable == os.path.realpath(shutil.which("sh") or "")
    assert seen.arguments == ("sh", "-c", "read _", "a b", "\udcff")
    assert seen.uid == os.geteuid()
    assert seen.started == started(sleeper.pid) > 0
    assert seen.cgroup.startswith("/")
    if Packages(Root("/")).owners([seen.executable]):
        assert seen.package == "dash"


def test_what_a_process_runs_is_read_anew_once_it_runs_another_program(
    table: ProcessTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number, the start and the name stay: where its stack and its arguments lie does not."""
    again = tmp_path / "sh"
    again.symlink_to("/bin/sleep")
    with subprocess.Popen(["sh", "-c", f"read _; exec {again} 60"], stdin=subprocess.PIPE) as process:
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sh\n")
        before = one(table, process.pid)
        read: list[str] = []
        real = kernel._readlink

        def readlink(path: str) -> str:
            read.append(path)
            return real(path)

        monkeypatch.setattr(kernel, "_readlink", readlink)
        assert before in table.look(again=True)
        assert f"/proc/{process.pid}/exe" not in read
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
        until(lambda: b"60" in Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0"))
        assert Path(f"/proc/{process.pid}/comm").read_text() == "sh\n"
        (after,) = [each for each in table.look(again=True) if each.pid == process.pid]
        assert after.executable == os.path.realpath("/bin/sleep")
        assert after.arguments == (str(again), "60")
        process.kill()


def test_pids_are_sorted_and_ours_is_among_them(table: ProcessTable) -> None:
    pids = [process.pid for process in table.look()]
    assert pids == sorted(set(pids))
    assert os.getpid() in pids


def test_kernel_threads_and_zombies_are_left_out(table: ProcessTable) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    until(lambda: ") Z " in Path(f"/proc/{pid}/stat").read_text())
    seen = table.look()
    os.waitpid(pid, 0)
    assert pid not in [process.pid for process in seen]
    assert not [p for p in seen if p.pid == 2 or (p.parent == 2 and p.executable == "")]


def test_a_name_may_hold_anything(table: ProcessTable, tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b\n"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "987"]) as process:
        until(lambda: Path(f"/proc/{process.pid}/exe").readlink() == program)
        seen = one(table, process.pid)
        process.kill()
    assert seen is not None
    assert (seen.name, seen.executable, seen.parent) == ("a) Z 1 (b\n", str(program), os.getpid())


def test_a_deleted_program_keeps_its_name(table: ProcessTable, tmp_path: Path) -> None:
    program = tmp_path / "daemon"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "987"]) as process:
        until(lambda: Path(f"/proc/{process.pid}/exe").readlink() == program)
        program.unlink()
        seen = one(table, process.pid)
        process.kill()
    assert seen is not None
    assert seen.executable == str(program)


def test_an_endless_command_line_is_cut(table: ProcessTable) -> None:
    with subprocess.Popen(["sh", "-c", "read _", "x" * 100_000], stdin=subprocess.PIPE) as process:
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sh\n")
        seen = one(table, process.pid)
        process.kill()
    assert seen is not None
    assert sum(map(len, seen.arguments)) <= kernel.ARGUMENT_BYTES


def test_containers_are_left_out_and_chroots_are_not(table: ProcessTable, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("needs root and unshare(1)")
    busy = ["unshare", "--pid", "--fork", "--kill-child", "sleep", "987"]
    chroot = "import os, sys, time; os.chroot(sys.argv[1]); time.sleep(987)"
    with (
        subprocess.Popen(busy) as container,
        subprocess.Popen([sys.executable, "-c", chroot, tmp_path]) as daemon,
    ):
        try:
            children = Path(f"/proc/{container.pid}/task/{container.pid}/children")
            until(lambda: children.read_text() and os.readlink(f"/proc/{daemon.pid}/root") == str(tmp_path))
            inner = int(children.read_text())
            for _ in range(2):  # the second look remembers whose namespace is ours
                pids = {process.pid for process in table.look()}
                assert inner not in pids
                assert {container.pid, daemon.pid} <= pids
        finally:
            container.kill()
            daemon.kill()


def test_one_that_ends_while_we_look_is_left_out(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    really = kernel._read

    def late(path: str) -> bytes:
        if path == f"/proc/{sleeper.pid}/cmdline":
            raise ProcessLookupError
        return really(path)

    monkeypatch.setattr(kernel, "_read", late)
    assert one(table, sleeper.pid) is None


def test_without_proc_the_processes_are_unobservable(
    table: ProcessTable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(kernel, "PROC", str(tmp_path))
    with pytest.raises(Unobservable):
        table.look()


def test_an_image_has_no_processes(tree: Path) -> None:
    assert RealEyes(Root(str(tree))).processes() == ()
    assert os.getpid() in [process.pid for process in RealEyes(Root("/")).processes()]


@pytest.mark.parametrize(("merged", "expected"), [(True, "/usr/sbin/x"), (False, "/sbin/x")])
def test_executables_have_one_name(tree: Path, merged: bool, expected: str) -> None:
    if merged:
        (tree / "sbin").symlink_to("usr/sbin")
    else:
        (tree / "sbin").mkdir()
    table = ProcessTable(Root(str(tree)))
    assert table.normal("/sbin/x") == table.normal("/sbin/x (deleted)") == expected
    assert table.normal("/usr/sbin/x") == "/usr/sbin/x"
    assert table.normal("/sbinary/x") == "/sbinary/x"
    assert table.normal("") == ""


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/system.slice/ssh.service\n", "/system.slice/ssh.service"),
        (b"2:cpu:/x\n1:name=systemd:/system.slice/a:b.service\n0::/\n", "/system.slice/a:b.service"),
        (b"2:cpu:/x\n1:name=elogind:/\n0::/\n", "/"),
        (b"", ""),
    ],
)
def test_the_cgroup(text: bytes, path: str) -> None:
    if b"elogind" in text:
        assert kernel.parse_cgroup(text) in ("/", "/x")
    else:
        assert kernel.parse_cgroup(text) == path


# --- packages -----------------------------------------------------------------------------------------------


def lists(tree: Path, **packages: str) -> Path:
    folder = tree / "var/lib/dpkg/info"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in packages.items():
        (folder / f"{name.replace('__', ':')}.list").write_text(text)
    return folder


def test_the_package_of_an_executable(tree: Path) -> None:
    lists(
        tree,
        exim4="/.\n/usr\n/usr/sbin\n/usr/sbin/exim4\n",
        util="/.\n/sbin/agetty\n",
        libc6__amd64="/usr/lib/ld.so\n",
        other="/usr/sbin/exim4.conf\n/opt/usr/sbin/exim4x\n",
    )
    wanted = ["/usr/sbin/exim4", "/usr/sbin/agetty", "/usr/lib/ld.so", "/usr/local/sbin/x", "", "/a\udcff"]
    assert Packages(Root(str(tree))).owners(wanted) == {
        "/usr/sbin/exim4": "exim4",
        "/usr/sbin/agetty": "util",  # packed before /usr was merged
        "/usr/lib/ld.so": "libc6",
        "/usr/local/sbin/x": "",
        "/a\udcff": "",
    }


def test_no_dpkg_no_owner(tree: Path) -> None:
    assert Packages(Root(str(tree))).owners(["/bin/x"]) == {}


def test_owners_are_looked_for_once_until_dpkg_changes_something(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = lists(tree, a="/usr/bin/a\n")
    scans = 0
    really = kernel._search

    def count(fd: int, paths: set[str]) -> dict[str, str]:
        nonlocal scans
        scans += 1
        return really(fd, paths)

    monkeypatch.setattr(kernel, "_search", count)
    packages = Packages(Root(str(tree)))
    for _ in range(3):
        assert packages.owners(["/usr/bin/a", "/usr/bin/b"]) == {"/usr/bin/a": "a", "/usr/bin/b": ""}
    assert scans == 1
    lists(tree, b="/usr/bin/b\n")
    os.utime(folder, ns=(0, folder.stat().st_mtime_ns + 1))
    assert packages.owners(["/usr/bin/b"]) == {"/usr/bin/b": "b"}
    assert scans == 2


def until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_sockets_and_other_odd_lists_do_no_harm(tree: Path) -> None:
    folder = lists(tree, a="/usr/bin/a\n")
    os.mkfifo(folder / "f.list")
    (folder / "l.list").symlink_to("nowhere")
    (folder / "d.list").mkdir()
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(folder / "s.list"))
        assert Packages(Root(str(tree))).owners(["/usr/bin/a"]) == {"/usr/bin/a": "a"}

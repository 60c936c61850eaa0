"""Real init scripts on a temporary root: they hang, fork, ignore TERM, print for ever, must not be run."""

from __future__ import annotations

import gc
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from reconciler.errors import ActionFailed
from reconciler.host import Handle, orphans, services
from reconciler.host.files import Root
from reconciler.host.hands import RealHands
from reconciler.host.kernel import started
from reconciler.host.orphans import OrphanHandle
from reconciler.host.services import InitScripts, ScriptHandle
from reconciler.model import (
    Link,
    LinkState,
    Outcome,
    ReloadManager,
    Signal,
    StartService,
    StopService,
    Unlink,
)
from tests.trees import wait_for


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "etc/init.d").mkdir(parents=True)
    return tmp_path


def write_script(tree: Path, text: str, name: str = "x") -> None:
    path = tree / "etc/init.d" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def begin(tree: Path, text: str, seconds: float = 20.0, *, start: bool = False) -> ScriptHandle | OrphanHandle:
    write_script(tree, text)
    action = StartService("x", "x") if start else StopService("x", "x")
    return InitScripts(Root(str(tree)), os.geteuid(), seconds).begin(action)


def wait(handle: Handle, seconds: float = 20.0) -> bool:
    """What the main loop does: poll the descriptor."""
    poll = select.poll()
    poll.register(handle.fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def run(handle: Handle) -> Outcome:
    assert wait(handle)
    return handle.finish()


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    fds, before = len(os.listdir("/proc/self/fd")), children()
    yield
    assert children() <= before, "a zombie is left"
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= fds, "descriptors leak"


# --- how it ends --------------------------------------------------------------------------------------------


def test_a_stop_that_succeeds_is_done(tree: Path) -> None:
    handle = begin(tree, f'echo "$1 $0" > {tree}/said')
    assert run(handle) == Outcome("done")
    assert (tree / "said").read_text() == f"stop {tree}/etc/init.d/x\n"
    assert handle.fd == -1


def test_a_start_is_the_inverse(tree: Path) -> None:
    assert run(begin(tree, f'echo "$1" > {tree}/said', start=True)) == Outcome("done")
    assert (tree / "said").read_text() == "start\n"


def test_a_failure_keeps_the_last_words(tree: Path) -> None:
    outcome = run(begin(tree, "echo Stopping x; printf 'no \\033[31mpid\\n' >&2; exit 3"))
    assert outcome == Outcome("failed", r"exit 3: Stopping x; no \x1b[31mpid")


def test_an_end_by_signal_is_a_failure(tree: Path) -> None:
    assert run(begin(tree, "kill -9 $$")) == Outcome("failed", "ended by signal 9")


def test_a_script_without_its_interpreter(tree: Path) -> None:
    (tree / "etc/init.d/x").write_text("#!/no/such/interpreter\n")
    (tree / "etc/init.d/x").chmod(0o755)
    root = Root(str(tree))
    with pytest.raises(ActionFailed, match="cannot be run: No such file or directory"):
        InitScripts(root, os.geteuid()).begin(StopService("x", "x"))
    root.close()


def test_a_script_that_names_no_interpreter_is_the_shells(tree: Path) -> None:
    (tree / "etc/init.d/x").write_text(f"echo $1 >{tree}/ran\n")
    (tree / "etc/init.d/x").chmod(0o755)
    assert run(InitScripts(Root(str(tree)), os.geteuid()).begin(StopService("x", "x"))) == Outcome("done")
    assert (tree / "ran").read_text() == "stop\n"


def test_our_own_folder_and_umask_stay_what_they_were(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    before = os.umask(0o077)
    try:
        assert run(begin(tree, f"umask >{tree}/umask; pwd >{tree}/pwd")) == Outcome("done")
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert Path.cwd() == tree
    assert ((tree / "umask").read_text(), (tree / "pwd").read_text()) == ("0022\n", "/\n")


def test_finish_before_the_end_waits_for_nothing(tree: Path) -> None:
    handle = begin(tree, "sleep 30")
    assert handle.finish() == Outcome("pending", "it still runs")
    handle.expire()
    assert run(handle).word == "failed"


# --- what it starts with ------------------------------------------------------------------------------------


def test_the_surroundings_are_those_of_a_boot(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD_X", "1")
    services._keep_to_ourselves.cache_clear()  # as if we had just been started
    monkeypatch.chdir(tree)
    os.set_inheritable(inherited := os.open(tree / "ours", os.O_RDONLY | os.O_CREAT), True)
    before = os.umask(0o077)
    try:
        script = f"""exec > {tree}/said
            env | sort; pwd; umask; readlink /proc/self/fd/0; ls -l /proc/$$/fd >{tree}/open
            while read -r word value; do
                case $word in SigBlk:|SigIgn:) echo "$word $value";; esac  # by itself: dash forks with signals blocked
            done < /proc/$$/status; echo $$ $(cut -d' ' -f5,6 /proc/$$/stat)"""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        assert run(begin(tree, script)) == Outcome("done")
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
        os.umask(before)
        os.close(inherited)
    said = (tree / "said").read_text()
    environment, _, rest = said.partition("\n/\n")
    wanted = {"DOM0_RECONCILER=stop", "HOME=/", "LANG=C.UTF-8", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PWD=/"}
    assert {line for line in environment.splitlines() if not line.startswith(("_=", "OLDPWD="))} == wanted
    lines = rest.splitlines()
    assert lines[0] == "0022"
    assert lines[1] == "/dev/null"
    assert "/said" in (opened := (tree / "open").read_text())
    assert "/ours" not in opened
    masks = {line[:6]: int(line[7:], 16) for line in lines if line.startswith("Sig")}
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] >> 31 << 31 == masks["SigIgn"], "SIGPIPE, which Python ignores, is not"
    pid, group, session = lines[-1].split()
    assert pid == group == session


# --- it hangs, forks, prints for ever -----------------------------------------------------------------------


def test_a_hang_is_ended_at_the_deadline_with_all_its_children(tree: Path) -> None:
    handle = begin(tree, f"sleep 987 & echo $! > {tree}/pid; echo waiting; wait", seconds=0.3)
    assert 0 < handle.deadline - time.monotonic() <= 0.3
    assert not wait(handle, 0.3)
    handle.expire()
    assert handle.deadline - time.monotonic() > services.KILL_SECONDS - 1
    assert run(handle) == Outcome("failed", "not over after 0 s, ended by TERM: waiting")
    assert is_gone(int((tree / "pid").read_text()))


def test_what_ignores_term_is_killed(tree: Path) -> None:
    handle = begin(tree, "trap '' TERM; echo ready; while :; do sleep 0.05; done", seconds=0.3)
    time.sleep(0.2)
    handle.expire()
    assert not wait(handle, 0.3)
    handle.expire()
    assert handle.deadline == float("inf")
    assert run(handle) == Outcome("failed", "not over after 0 s, ended by KILL: ready")


def test_a_child_that_ignores_term_goes_with_the_script(tree: Path) -> None:
    script = f"(trap '' TERM; echo $$ > {tree}/up; exec sleep 987) & echo $! > {tree}/pid; wait"
    handle = begin(tree, script, seconds=0.3)
    until((tree / "up").exists)
    time.sleep(0.1)
    handle.expire()
    assert run(handle).word == "failed"
    assert is_gone(int((tree / "pid").read_text()))


def test_a_daemon_that_left_the_group_survives(tree: Path) -> None:
    handle = begin(tree, f"setsid sleep 987 & echo $! > {tree}/pid; sleep 987", seconds=0.3)
    until(lambda: (tree / "pid").exists() and (tree / "pid").read_text().endswith("\n"))
    pid = int((tree / "pid").read_text())
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")  # setsid(1) has become it
    handle.expire()
    assert run(handle).word == "failed"
    try:
        assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_child_left_by_a_script_that_ended_is_left_alone(tree: Path) -> None:
    """And its hold on the pipe keeps nobody waiting."""
    handle = begin(tree, f"sleep 987 & echo $! > {tree}/pid; exit 1")
    began = time.monotonic()
    assert run(handle) == Outcome("failed", "exit 1")
    assert time.monotonic() - began < 5
    pid = int((tree / "pid").read_text())
    until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    os.kill(pid, signal.SIGKILL)


def test_a_start_leaves_its_child_a_harmless_output(tree: Path) -> None:
    script = f"(until [ -e {tree}/go ]; do sleep 0.05; done; echo hello; echo ok > {tree}/alive) & exit 0"
    assert run(begin(tree, script, start=True)) == Outcome("done")
    (tree / "go").touch()
    until((tree / "alive").exists)


def test_one_that_prints_for_ever_fills_nothing_and_waits_for_nobody(tree: Path) -> None:
    handle = begin(tree, "while :; do echo 0123456789 0123456789 0123456789; done 2>/dev/null", seconds=0.3)
    assert not wait(handle, 0.5)
    handle.expire()
    outcome = run(handle)
    assert outcome.word == "failed"
    assert 1000 < len(outcome.detail) <= services.TAIL_BYTES * 2


def test_a_great_deal_of_output_delays_no_end(tree: Path) -> None:
    """More than a pipe holds: the script goes on to its end, whatever becomes of its words."""
    script = f"head -c 10000000 /dev/zero | tr '\\0' x; echo over > {tree}/over; exit 4"
    outcome = run(begin(tree, script))
    assert (tree / "over").exists()
    assert outcome.word == "failed"
    assert outcome.detail.startswith("exit 4: ")
    assert len(outcome.detail) <= services.TAIL_BYTES + 20


def test_an_end_just_before_the_deadline_is_no_failure(tree: Path) -> None:
    handle = begin(tree, "exit 0")
    assert wait(handle)
    handle.expire()
    assert handle.finish() == Outcome("done")


def test_an_end_that_somebody_else_reaped_is_unverified(tree: Path) -> None:
    handle = begin(tree, "exit 0")
    assert wait(handle)
    os.waitpid(handle._pid, 0)
    handle.expire()
    assert handle.finish() == Outcome("unverified", "its exit status was lost")


def test_several_stops_run_side_by_side(tree: Path) -> None:
    for number in range(8):
        write_script(tree, f"sleep 0.4; exit {number}", f"s{number}")
    scripts = InitScripts(Root(str(tree)), os.geteuid())
    began = time.monotonic()
    handles = [scripts.begin(StopService(f"s{n}", f"s{n}")) for n in range(8)]
    assert [run(handle).detail for handle in handles] == ["", *(f"exit {n}" for n in range(1, 8))]
    assert time.monotonic() - began < 2.5


def test_no_descriptor_for_the_watch_leaves_no_script(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(ActionFailed, match="cannot be watched: Too many open files"):
        begin(tree, "sleep 987")


# --- which script is run at all -----------------------------------------------------------------------------


def refused(tree: Path, script: str = "x", owner: int | None = None) -> str:
    scripts = InitScripts(Root(str(tree)), os.geteuid() if owner is None else owner)
    with pytest.raises(ActionFailed) as error:
        scripts.begin(StopService("x", script))
    assert not (tree / "ran").exists()
    return str(error.value)


def test_no_script_is_a_failure(tree: Path) -> None:
    assert refused(tree) == "/etc/init.d/x does not exist"
    assert refused(tree, "") == "x has no init script"


@pytest.mark.parametrize("name", ["../evil", "a/b", "/bin/true", ".", "..", ".hidden", "../../bin/sh"])
def test_a_name_that_leads_elsewhere(tree: Path, name: str) -> None:
    (tree / "etc/evil").write_text("")
    assert "is no name of an init script" in refused(tree, name)


@pytest.mark.parametrize("path", ["etc/init.d/x", "etc/init.d", "etc", "."])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_what_others_may_write_is_never_run(tree: Path, path: str, mode: int) -> None:
    write_script(tree, f"touch {tree}/ran")
    (tree / path).chmod(mode)
    assert refused(tree).endswith("can be written by another user than root: not run")


def test_what_others_own_is_never_run(tree: Path) -> None:
    write_script(tree, f"touch {tree}/ran")
    assert "another user" in refused(tree, owner=os.geteuid() + 1)
    if os.geteuid() == 0:
        os.chown(tree / "etc/init.d/x", 65534, 0)
        assert "another user" in refused(tree)


def test_a_link_within_the_folder_is_run_and_one_that_leaves_it_is_not(tree: Path) -> None:
    write_script(tree, f"touch {tree}/ran; exit 5", "real")
    (tree / "etc/init.d/x").symlink_to("real")
    handle = InitScripts(Root(str(tree)), os.geteuid()).begin(StopService("x", "x"))
    assert run(handle) == Outcome("failed", "exit 5")
    (tree / "ran").unlink()
    (tree / "etc/script").write_text(f"#!/bin/sh\ntouch {tree}/ran\n")
    (tree / "etc/script").chmod(0o755)
    (tree / "etc/init.d/x").unlink()
    (tree / "etc/init.d/x").symlink_to("../script")
    assert refused(tree) == "/etc/init.d/x leads out of /etc/init.d"


def test_what_is_no_script(tree: Path) -> None:
    (tree / "etc/init.d/x").mkdir()
    assert refused(tree) == "/etc/init.d/x is no regular file"
    (tree / "etc/init.d/x").rmdir()
    os.mkfifo(tree / "etc/init.d/x")
    (tree / "etc/init.d/x").chmod(0o755)
    assert refused(tree) == "/etc/init.d/x is no regular file"
    (tree / "etc/init.d/x").unlink()
    (tree / "etc/init.d/x").write_text("")
    assert refused(tree) == "/etc/init.d/x is not executable"
    (tree / "etc/init.d/x").unlink()
    (tree / "etc/init.d/x").symlink_to("nowhere")
    assert "leads nowhere" in refused(tree)


# --- the whole ----------------------------------------------------------------------------------------------


def test_on_an_image_nothing_is_stopped_and_nothing_signalled(tree: Path) -> None:
    write_script(tree, f"touch {tree}/ran")
    hands = RealHands(Root(str(tree)))
    for action in (StopService("x", "x"), StopService("x", units=("x.service",)), StartService("x", "x")):
        with pytest.raises(ActionFailed, match="is not the running system"):
            hands.begin(action)
    with pytest.raises(ActionFailed, match="is not the running system"):
        hands.do(Signal("x", "TERM", pids=((os.getpid(), started(os.getpid())),)))
    with pytest.raises(ActionFailed, match="no systemd"):
        hands.do(ReloadManager())
    with pytest.raises(ActionFailed, match="begun, not done"):
        hands.do(StopService("x", "x"))
    assert not (tree / "ran").exists()


def test_on_an_image_files_are_corrected(tree: Path) -> None:
    (tree / "etc/S20x").symlink_to("init.d/x")
    hands = RealHands(Root(str(tree)))
    unlink = Unlink("/etc/S20x", "init.d/x", "K80x")
    assert hands.do(unlink) == Outcome("done")
    hands.settle([unlink])
    assert os.listdir(tree / "etc") == ["init.d", "K80x"] or os.listdir(tree / "etc") == ["K80x", "init.d"]
    undo = Link("/etc/S20x", LinkState("init.d/x", os.geteuid(), os.getegid()), "K80x")
    assert hands.do(undo) == Outcome("done")
    assert sorted(os.listdir(tree / "etc")) == ["S20x", "init.d"]


def is_gone(pid: int) -> bool:
    """True once a process ended; who inherited it may take a moment to reap it."""
    until(lambda: not Path(f"/proc/{pid}/exe").exists())
    return True


def until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# --- what an earlier run began --------------------------------------------------------------------------------


@pytest.fixture
def orphan(tree: Path) -> Iterator[int]:
    """A stop that hangs, of a run that was killed: the script's pid; with a child that ignores TERM."""
    write_script(tree, f"echo $$ >>{tree}/stops; sh -c 'trap \"\" TERM; sleep 99 & echo $! >{tree}/child; wait; wait'")
    if not (middle := os.fork()):
        InitScripts(Root(str(tree)), os.geteuid()).begin(StopService("x", "x"))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(middle, 0)
    wait_for(lambda: (tree / "child").exists() and (tree / "child").read_text().endswith("\n"), "the child")
    pid = int((tree / "stops").read_text())
    yield pid
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _begun(tree: Path) -> int:
    return len((tree / "stops").read_text().split())


def _stop(tree: Path, seconds: float = 20.0) -> ScriptHandle | OrphanHandle:
    return InitScripts(Root(str(tree)), os.geteuid(), seconds).begin(StopService("x", "x"))


def test_an_orphan_of_an_earlier_run_is_waited_for_not_doubled(tree: Path, orphan: int) -> None:
    handle = _stop(tree)
    assert handle.finish() == Outcome("pending", "it still runs")
    os.killpg(orphan, signal.SIGKILL)
    outcome = run(handle)
    assert (outcome.word, _begun(tree), handle.fd) == ("done", 1, -1)
    assert "an earlier run" in outcome.detail


def test_an_orphan_that_hangs_is_ended_with_all_of_its_session(tree: Path, orphan: int) -> None:
    handle, child = _stop(tree, 0.1), int((tree / "child").read_text())
    assert not wait(handle, 0.2)
    handle.expire()
    handle.expire()
    outcome = run(handle)
    assert outcome.word == "failed"
    assert outcome.detail.startswith("not over after 0 s, ended by KILL")
    wait_for(lambda: not _runs(child) and not _runs(orphan), "all to be gone")


def test_no_orphans_child_is_left_because_the_script_ended_first(
    tree: Path, orphan: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the script waits for is killed, and so it would end, before the rest of its session is looked for."""
    handle, child = _stop(tree), int((tree / "child").read_text())
    pids = orphans._pids()

    def slowly() -> Iterator[int]:
        for pid in sorted(pids):
            yield pid
            with suppress(OSError):
                time.sleep(0.2 if os.getsid(pid) == orphan else 0.0)

    handle.expire()
    monkeypatch.setattr(orphans, "_pids", slowly)
    handle.expire()
    assert run(handle).word == "failed"
    wait_for(lambda: not _runs(child) and not _runs(orphan), "all to be gone")


@pytest.mark.parametrize("lacks", ["mark", "session", "script", "word"])
def test_what_is_not_proved_to_be_ours_is_not_taken_for_it(tree: Path, lacks: str) -> None:
    write_script(tree, f"[ -e {tree}/first ] || hangs=1; echo $$ >>{tree}/stops; [ -z $hangs ] || sleep 99")
    script = str(tree / "etc/init.d" / ("y" if lacks == "script" else "x"))
    (tree / "etc/init.d/y").write_text((tree / "etc/init.d/x").read_text())
    other = subprocess.Popen(
        ["/bin/sh", script, "start" if lacks == "word" else "stop"],
        env={} if lacks == "mark" else {"DOM0_RECONCILER": "stop"},
        start_new_session=lacks != "session",
    )
    try:
        wait_for(lambda: (tree / "stops").exists() and _begun(tree) == 1, "the other")
        (tree / "first").touch()
        assert run(_stop(tree)) == Outcome("done")
        assert _begun(tree) == 2
        assert other.poll() is None
    finally:
        for child in Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        other.kill()
        other.wait()


def test_it_is_the_trusted_users_alone(tree: Path, orphan: int) -> None:
    script = str(tree / "etc/init.d/x")
    assert orphans.find(os.geteuid())[script] == [orphan]
    assert script not in orphans.find(os.geteuid() + 1)


def test_another_process_with_the_pid_of_an_orphan_is_left_alone(tree: Path, orphan: int) -> None:
    """It ended between the look at all processes and the stop."""
    scripts = InitScripts(Root(str(tree)), os.geteuid())
    write_script(tree, f"echo $$ >>{tree}/stops")
    stranger = subprocess.Popen(["sleep", "99"], start_new_session=True)
    scripts._left = {str(tree / "etc/init.d/x"): [stranger.pid]}
    try:
        assert run(scripts.begin(StopService("x", "x"))) == Outcome("done")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False

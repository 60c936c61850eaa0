"""Under sysvinit the package's keeper holds the daemon: whatever kills it, it comes back, and who ends it ends both."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hosts import debs, limits, product
from tests.hosts.commands import Result
from tests.hosts.host import Host
from tests.hosts.looking import Process
from tests.hosts.plugin import SYSVINIT
from tests.hosts.scenario import SCENE_SYSVINIT

KEEPER = "/usr/lib/dom0-reconciler/keeper"
FORMER = Path(__file__).with_name("former.init")
"""The init script of the package before there was a keeper."""

PATIENCE = 30.0
STATE = 'version = 1\nmode = "{mode}"\n[services]\napproved = ["*"]\n'
JUDGED = '[processes]\nunapproved = "stop"\n'
WRONG = "version = 1\nmdoe = 'enforce'\n"
OURS = "reconciler|keeper|/dash|/sh$|sleep|python"
"""What a finding about the product would name, or about a program that runs for it."""

FOR_EVER = 3600  # seconds: a pause that ends only if somebody ends it


def _daemons(host: Host) -> list[Process]:
    return [one for one in host.processes() if one.args[-2:] == (product.COMMAND, "run")]


def _keepers(host: Host) -> list[Process]:
    return [one for one in host.processes() if KEEPER in one.args]


def _both(host: Host) -> tuple[Process, Process]:
    """The keeper and its daemon, which has looked once."""
    host.wait_for(lambda: product.status_code(host) in (0, 2), PATIENCE, "a daemon that has looked once")
    (keeper,), (daemon,) = _keepers(host), _daemons(host)
    return keeper, daemon


def _kill(host: Host, process: Process) -> None:
    host.run(f"kill -9 {process.pid}")
    host.wait_for(lambda: process.outer not in {one.outer for one in host.processes()}, PATIENCE, "its end")


def _paused(host: Host) -> None:
    """No daemon, and the keeper waits."""
    host.wait_for(lambda: not _daemons(host) and _sleeping(host), PATIENCE, "the pause")


def _sleeping(host: Host) -> list[Process]:
    return [one for one in host.running("sleep") if _parent(one) in {keeper.outer for keeper in _keepers(host)}]


def _parent(process: Process) -> int:
    return int(re.findall(r"^PPid:\s+(\d+)", Path(f"/proc/{process.outer}/status").read_text(), re.MULTILINE)[0])


def _service(host: Host, word: str) -> Result:
    return host.run(["service", product.NAME, word], check=False, timeout=120)


def _says(host: Host) -> str:
    """The product's own word on a daemon that does not run."""
    status = host.run([product.COMMAND, "status"], check=False)
    assert (status.rc, status.err) == (3, "")
    return status.out


def _with(host: Host, **values: int) -> None:
    """A keeper with other numbers, on duty."""
    assert _service(host, "stop").rc == 0
    text = host.read(KEEPER)
    for name, value in values.items():
        text, changed = re.subn(rf"(?m)^{name}=\d+", f"{name}={value}", text)
        assert changed == 1
    host.put(KEEPER, text, 0o755)
    assert _service(host, "start").rc == 0


def _ends(host: Host) -> list[str]:
    """What the keeper has said of each end."""
    return re.findall(r"dom0-reconciler\[\d+\]: the daemon (.*)", host.syslog())


@pytest.fixture(scope="class")
def installed(shared_host: Host, deb: Path) -> Host:
    shared_host.put("/var/tmp/it.deb", deb.read_bytes())
    shared_host.run(["dpkg", "--install", "/var/tmp/it.deb"], timeout=180)
    shared_host.put("/root/keeper", shared_host.read(KEEPER))
    return shared_host


@pytest.fixture
def kept(installed: Host) -> Host:
    """The package as it is installed, on duty."""
    _service(installed, "stop")
    installed.put(KEEPER, installed.read("/root/keeper"), 0o755)
    installed.put(product.STATE, STATE.format(mode="observe"))
    assert _service(installed, "start").rc == 0
    _both(installed)
    return installed


@SCENE_SYSVINIT
class TestKept:
    def test_killed_it_comes_back(self, kept: Host, number: Callable[[str], None]) -> None:
        keeper, daemon = _both(kept)
        said, began = len(_ends(kept)), time.monotonic()
        _kill(kept, daemon)
        kept.wait_for(lambda: _daemons(kept), PATIENCE, "the next daemon")
        number(f"back after {time.monotonic() - began:.1f} s")
        same, following = _both(kept)
        assert same.outer == keeper.outer
        assert following.outer != daemon.outer
        assert kept.read("/run/dom0-reconciler.pid").split() == [str(following.pid)]
        assert _ends(kept)[said:] == ["was killed by signal 9: it is started again in 5 s"]
        assert _service(kept, "status").rc == 0

    def test_the_pauses_grow_and_begin_anew(self, kept: Host) -> None:
        _with(kept, FIRST=1, MOST=3, LONG=4)
        said = len(_ends(kept))
        for _ in range(4):
            _kill(kept, _both(kept)[1])
        _both(kept)
        time.sleep(5)  # longer than a short run
        _kill(kept, _both(kept)[1])
        kept.wait_for(lambda: len(_ends(kept)) == said + 5, PATIENCE, "what is said of the last end")
        assert [int(line.split()[-2]) for line in _ends(kept)[said:]] == [1, 2, 3, 3, 1]

    def test_nothing_of_it_wakes_up(self, kept: Host) -> None:
        keeper, _ = _both(kept)

        def switches() -> list[str]:
            return re.findall(r"ctxt_switches:\t(\d+)", Path(f"/proc/{keeper.outer}/status").read_text())

        before = switches()
        time.sleep(3)
        assert switches() == before

    def test_out_of_reach_of_the_kernel_that_needs_memory(self, kept: Host) -> None:
        """The keeper alone; the daemon has the usual value. A container may only ask for more, so more it is here."""
        kept.put(KEEPER, kept.read(KEEPER).replace("oom_score -1000", "oom_score 500"), 0o755)
        assert _service(kept, "restart").rc == 0
        for _ in range(2):
            keeper, daemon = _both(kept)
            assert Path(f"/proc/{keeper.outer}/oom_score_adj").read_text() == "500\n"
            assert Path(f"/proc/{daemon.outer}/oom_score_adj").read_text() == "0\n"
            _kill(kept, daemon)
            kept.wait_for(lambda: _daemons(kept), PATIENCE, "the next daemon")

    def test_no_process_can_be_started(self, kept: Host, limiting: None) -> None:
        """Neither a daemon nor one that sleeps: a shell ends of that. It is there all the same, and tries on."""
        _with(kept, FIRST=1)
        keeper, daemon = _both(kept)
        with limits.processes(keeper.outer, most=1) as group:
            _kill(kept, daemon)
            kept.wait_for(lambda: group.refusals > 2, PATIENCE, "several attempts")
            assert _keepers(kept) or kept.running("keeper")
            kept.wait_for(lambda: "keeper brings it back" in _says(kept), PATIENCE, "one that is no other just now")
            assert _daemons(kept) == []
        assert _both(kept)[0].outer == keeper.outer


@SCENE_SYSVINIT
class TestInPause:
    def test_a_stop_ends_it_at_once(self, kept: Host) -> None:
        _with(kept, FIRST=FOR_EVER)
        _kill(kept, _both(kept)[1])
        _paused(kept)
        assert product.status_code(kept) == 3
        status = _service(kept, "status")
        assert status.rc in (1, 3)
        assert "started again" in status.out + status.err
        assert "keeper brings it back" in _says(kept)
        assert _service(kept, "stop").rc == 0
        assert (_keepers(kept), _daemons(kept), kept.running("sleep")) == ([], [], [])
        assert "start it with your init system" in _says(kept)
        assert _service(kept, "status").rc == 3

    @pytest.mark.parametrize("word", ["start", "reload", "restart", "try-restart"])
    def test_the_next_one_is_now(self, kept: Host, word: str) -> None:
        _with(kept, FIRST=FOR_EVER)
        _kill(kept, _both(kept)[1])
        _paused(kept)
        assert _service(kept, word).rc == 0
        _both(kept)
        assert kept.running("sleep") == []

    def test_it_is_none_of_what_nobody_approved(self, kept: Host) -> None:
        """The keeper and the program that sleeps for it, seen by a command."""
        kept.put(product.STATE, STATE.format(mode="observe") + JUDGED)
        _with(kept, FIRST=FOR_EVER)
        _kill(kept, _both(kept)[1])
        _paused(kept)
        assert _of_ours(kept, "plan") == []


@SCENE_SYSVINIT
class TestRefused:
    def test_the_start_says_why_and_it_is_tried_on(self, kept: Host) -> None:
        _with(kept, FIRST=1, MOST=1)
        assert _service(kept, "stop").rc == 0
        kept.put(product.STATE, WRONG)
        began = time.monotonic()
        started = _service(kept, "start")
        assert time.monotonic() - began < 55, "the init script's own patience: nobody told it"
        assert started.rc == 1
        assert "mdoe: unknown key" in started.out + started.err
        assert "tried again" in started.out
        kept.wait_for(lambda: len(re.findall("mdoe", kept.read("/run/dom0-reconciler/output"))) > 2, PATIENCE)
        again = _service(kept, "start")
        assert again.rc == 1
        assert (again.out + again.err).count("mdoe") == 1, "what was said before is said again"
        kept.put(product.STATE, STATE.format(mode="observe"))
        _both(kept)

    def test_beside_another_daemon(self, kept: Host) -> None:
        """One of somebody's own: the start fails and says so, and when that one ends, this one is on guard."""
        _with(kept, FIRST=1, MOST=1)
        assert _service(kept, "stop").rc == 0
        kept.run(f"setsid -f {product.COMMAND} run >/dev/null 2>&1")
        kept.wait_for(lambda: product.status_code(kept) in (0, 2), PATIENCE, "the other daemon")
        (other,) = _daemons(kept)
        started = _service(kept, "start")
        assert started.rc == 1
        assert "another process holds" in started.out + started.err
        _kill(kept, other)
        kept.wait_for(lambda: [one for one in _daemons(kept) if one.outer != other.outer], PATIENCE, "this one")
        _both(kept)


@SCENE_SYSVINIT
class TestAtOnce:
    @pytest.mark.parametrize("words", [("restart", "restart"), ("start", "start", "start"), ("stop", "start")])
    def test_one_after_the_other(self, kept: Host, words: tuple[str, ...]) -> None:
        kept.run(" & ".join(f"service {product.NAME} {word}" for word in words) + " & wait", check=False, timeout=120)
        if _keepers(kept) or "stop" not in words:  # of a stop and a start either may have been the last
            _both(kept)
            assert _service(kept, "status").rc == 0
        assert _service(kept, "stop").rc == 0
        assert not _keepers(kept)
        assert not _daemons(kept)
        assert _service(kept, "start").rc == 0


@SCENE_SYSVINIT
class TestWithoutIt:
    """The keeper alone is killed: the daemon lives on, and the init script still knows it."""

    @pytest.fixture
    def orphan(self, kept: Host) -> Process:
        keeper, daemon = _both(kept)
        _kill(kept, keeper)
        assert [one.outer for one in _daemons(kept)] == [daemon.outer]
        return daemon

    def test_it_is_known(self, kept: Host, orphan: Process) -> None:
        status = _service(kept, "status")
        assert status.rc == 0
        assert "nobody would start it again" in status.out
        for word in ("start", "reload"):
            assert _service(kept, word).rc == 0
        assert [one.outer for one in _daemons(kept)] == [orphan.outer]
        assert _keepers(kept) == []

    def test_it_is_stopped(self, kept: Host, orphan: Process) -> None:
        assert _service(kept, "stop").rc == 0
        assert (_daemons(kept), _keepers(kept)) == ([], [])

    @pytest.mark.parametrize("word", ["restart", "try-restart"])
    def test_a_restart_brings_a_keeper(self, kept: Host, orphan: Process, word: str) -> None:
        assert _service(kept, word).rc == 0
        assert _both(kept)[1].outer != orphan.outer

    def test_it_judges_nothing_of_its_own(self, kept: Host, orphan: Process) -> None:
        _judge(kept)
        assert [one.outer for one in _daemons(kept)] == [orphan.outer]


@SCENE_SYSVINIT
class TestEnded:
    def test_term_to_the_daemon_alone_is_a_wanted_stop(self, kept: Host) -> None:
        """As the init script of the package before would do it."""
        _, daemon = _both(kept)
        kept.run(f"kill {daemon.pid}")
        kept.wait_for(lambda: not _keepers(kept), PATIENCE, "the keeper's end")
        assert _daemons(kept) == []
        assert _service(kept, "start").rc == 0
        _both(kept)

    @pytest.mark.parametrize("moment", ["at once", "restarted"])
    def test_it_is_not_judged(self, kept: Host, moment: str) -> None:
        keeper, daemon = _both(kept)
        if moment == "restarted":
            _kill(kept, daemon)
            kept.wait_for(lambda: _daemons(kept), PATIENCE, "the next daemon")
            _, daemon = _both(kept)
        _judge(kept)
        assert [one.outer for one in (*_keepers(kept), *_daemons(kept))] == [keeper.outer, daemon.outer]


def _judge(host: Host) -> None:
    """Have the daemon end what nobody approved: a stranger goes, so it has looked, and nothing is its own."""
    host.run("cp /usr/bin/sleep /usr/local/bin/stranger; setsid -f /usr/local/bin/stranger 1000")
    host.put(product.STATE, STATE.format(mode="enforce") + JUDGED)
    host.wait_for(lambda: not host.running("stranger"), PATIENCE, "a stranger to go")
    product.converge(host, PATIENCE)
    assert _of_ours(host, "plan") == _of_ours(host, "status") == []
    targets = {record["target"] for record in host.journal() if record.get("action") == "signal"}
    assert "/usr/local/bin/stranger" in targets
    assert [target for target in targets if re.search(OURS, target)] == []


def _of_ours(host: Host, command: str) -> list[str]:
    """Findings about shells, what sleeps, or anything of the product."""
    refs = [finding["ref"] for finding in product.ask(host, command, 0, 2, 3)["findings"]]
    return [ref for ref in refs if re.search(OURS, ref)]


# --- the package before ----------------------------------------------------------------------------------------------


def _without_keeper(tree: Path) -> None:
    shutil.copyfile(FORMER, tree / "etc/init.d/dom0-reconciler")
    shutil.rmtree(tree / "usr/lib/dom0-reconciler")


@SYSVINIT
def test_an_upgrade_brings_it_and_a_downgrade_takes_it_away(host: Host, deb: Path, tmp_path: Path) -> None:
    """Each leaves one daemon on guard, the new one; the way back too, and a removal in the end leaves nobody."""
    former = debs.of_version(deb, "0.0.9", tmp_path, _without_keeper)
    for package, keepers in ((former, 0), (deb, 1), (former, 0), (deb, 1)):
        before = {one.outer for one in _daemons(host)}
        host.put("/var/tmp/it.deb", package.read_bytes())
        host.run(["dpkg", "--install", "/var/tmp/it.deb"], timeout=180)
        host.wait_for(lambda: product.status_code(host) in (0, 2), PATIENCE, "a daemon that has looked once")
        host.wait_for(lambda expected=keepers: len(_keepers(host)) == expected, PATIENCE)  # type: ignore[misc]
        (daemon,) = _daemons(host)
        assert daemon.outer not in before
        assert host.read("/run/dom0-reconciler.pid").split() == [str(daemon.pid)]
    host.run(["dpkg", "--purge", product.NAME])
    assert (_daemons(host), _keepers(host)) == ([], [])
    assert [name for name in host.files.names("/run") if "reconciler" in name] == []

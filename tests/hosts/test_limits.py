"""Killed by the kernel for lack of memory, and a fork that is refused: real limits on the packaged daemon.

Memory: at whatever moment the kernel ends it, whoever starts it again finds a host that can be corrected, every intent
explained, and all that went in the quarantine. Its children count with it, so one of them may be what is ended.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts import limits, product, states
from tests.hosts.host import Host
from tests.hosts.limits import MIB
from tests.hosts.plugin import booting
from tests.hosts.scenario import ARTICLE, SERVICES, Scene

PATIENCE = 120.0
QUARANTINE = "/var/lib/dom0-reconciler/quarantine"
GUEST = "/usr/local/bin/qemu-system-i386"
"""A program by the name of one that serves a guest's disks."""

LINKS, LINES = 1500, 500
MORE = (1.0, 2.75, 3.25, 4.0, 6.0)
"""MiB that the daemon may have beyond what it has at rest. A storm takes some 9: it ends while it looks, while it
writes its intents down, while it takes links away, while a stop is under way.
"""

AT_A_START = 4 * MIB
"""The same for one that has just been started."""

EATER = "exec python3 -c 'x = bytearray(1 << 30)'"
_SCRIPT = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides: eater
# Required-Start:
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop:
### END INIT INFO
[ "$1" = stop ] || exit 0
{body}
"""

BOTH = pytest.mark.parametrize("held", ["bookworm-sysvinit", "trixie-systemd"], indirect=True)
SYSVINIT = pytest.mark.parametrize("held", ["bookworm-sysvinit"], indirect=True)
"""Where the daemon runs the stop scripts: with systemd that is process 1."""


@pytest.fixture(scope="module")
def held(request: pytest.FixtureRequest, deb: Path, limiting: None) -> Iterator[Scene]:
    """A host with the package, held."""
    suite, init = request.param.split("-")
    with booting(request) as boot:
        host = boot(suite, init)
        host.run(f"cp /usr/bin/sleep {GUEST} && setsid -f {GUEST} infinity")
        host.put(states.PATH, states.state())
        host.put("/var/tmp/it.deb", deb.read_bytes())
        host.run(["dpkg", "--install", "/var/tmp/it.deb"], timeout=180)
        scene = Scene(host)
        scene.off(*ARTICLE, timeout=PATIENCE)
        yield scene


@pytest.fixture
def scene(held: Scene) -> Iterator[Scene]:
    """At peace before, with a sound journal after, and nothing touched that may be there."""
    held.begin()
    before = _approved(held.host)
    yield held
    held.sound()
    assert _approved(held.host) == before


def _approved(host: Host) -> set[tuple[int, str]]:
    found = {(one.outer, one.comm) for one in host.processes() if one.comm in ("sshd", "cron", "rsyslogd")}
    guests = {(one.outer, one.comm) for one in host.processes() if one.exe == GUEST}
    assert guests
    return found | guests


def _daemons(host: Host) -> list[int]:
    """Their numbers on this machine."""
    return [one.outer for one in host.processes() if one.args[-2:] == (product.COMMAND, "run")]


def _daemon(host: Host) -> int:
    (one,) = _daemons(host)
    return one


def _storm(host: Host, number: int) -> set[str]:
    """Thousands of links and lines, and a service to stop; the links' paths. From outside: nothing of it is slow."""
    inside = f"/proc/{host.pid}/root"
    paths = {f"/etc/rc{2 + each % 4}.d/S20s{number}x{each}" for each in range(LINKS)}
    for path in paths:
        os.symlink(f"../init.d/{path.rpartition('/S20')[2]}", inside + path)
    with Path(f"{inside}/etc/inetd.conf").open("a") as file:
        file.writelines(f"{20_000 + each} stream tcp nowait nobody /usr/sbin/identd\n" for each in range(LINES))
    name = ("canna", "lpd", "atd", "exim4")[number % 4]  # in turn, or it would be a contest
    host.run(["service", SERVICES[name].script, "start"], check=False)
    return paths


def _open(host: Host) -> set[str]:
    """The intents without an outcome; a record may be torn."""
    whole = [json.loads(line) for line in host.read(product.JOURNAL).splitlines() if line.endswith("}")]
    ids = {word: {r["id"] for r in whole if r["record"] == word} for word in ("intent", "outcome")}
    return ids["intent"] - ids["outcome"]


def _kill(host: Host, daemon: int, more: int, storm: Callable[[], object]) -> None:
    """A storm that it meets all at once; the kernel ends it, and says so."""
    with limits.memory(daemon, more=more) as group:
        os.kill(daemon, signal.SIGSTOP)
        storm()
        os.kill(daemon, signal.SIGCONT)
        host.wait_for(lambda: group.kills, PATIENCE, "the kernel to end it")
        host.wait_for(lambda: daemon not in _daemons(host), PATIENCE, "its end")
        assert group.kills == 1


def _next(host: Host) -> int:
    """The next daemon: systemd starts it, after a while; on a host with sysvinit the keeper."""
    host.wait_for(lambda: _daemons(host), PATIENCE, "the next daemon")
    return _daemon(host)


def _kept(host: Host) -> set[str]:
    """The paths of which there is something in the quarantine; a kill may have torn a manifest's end."""
    lines = host.run(f"for each in {QUARANTINE}/*/manifest.jsonl; do cat $each; echo; done").lines
    return {json.loads(line)["action"].get("path") for line in lines if line.endswith("}")}


@BOTH
def test_killed_for_lack_of_memory(scene: Scene, number: Callable[[str], None]) -> None:
    """By the kernel, in the midst of a storm and at the start after it; then there is enough again."""
    host, made, cut = scene.host, set[str](), set[str]()
    for n, more in enumerate(MORE):
        _kill(host, _daemon(host), int(more * MIB), lambda n=n: made.update(_storm(host, n)))  # type: ignore[misc]
        cut |= (now := _open(host))
        left, began = len(made & _links(host)), time.monotonic()
        following = _next(host)
        pause = time.monotonic() - began
        number(f"+{more} MiB: {left} of {LINKS} links left, {len(now)} intents open, the next one after {pause:.0f} s")
        if n == 0:
            _kill(host, following, AT_A_START, lambda: None)
            _next(host)
        scene.off(*ARTICLE, timeout=PATIENCE)
        assert not made & _links(host)
        host.run("[ ! -d /run/systemd/system ] || systemctl reset-failed dom0-reconciler")  # or it would wait longer
    explained = {r["id"] for r in scene.records() if r["outcome"] == "unverified" and "was killed" in r["detail"]}
    assert cut
    assert cut <= explained
    assert made <= _kept(host)
    _undo_one(scene, cut)


def _links(host: Host) -> set[str]:
    return {f"/etc/{link}" for link in host.start_links()}


def _undo_one(scene: Scene, cut: set[str]) -> None:
    """One whose daemon was killed over it: what it took away is there again, and may go again."""
    unlinked = [r for r in scene.records() if r["action"] == "unlink" and r["record"] == "intent"]
    one = next((r for r in unlinked if r["id"] in cut), unlinked[0])
    scene.host.run([product.COMMAND, "undo", one["id"]])
    assert scene.host.exists(one["target"])
    scene.host.run([product.COMMAND, "resume"])
    scene.host.wait_for(lambda: not scene.host.exists(one["target"]), PATIENCE, "it to go again")


@SYSVINIT
def test_a_stop_script_that_eats_memory_is_ended_alone(scene: Scene) -> None:
    """It counts with the daemon, and it is the larger one: its stop has failed, the others are made."""
    host, daemon = scene.host, _daemon(scene.host)
    host.put("/etc/init.d/eater", _SCRIPT.format(body=EATER), 0o755)
    with limits.memory(daemon, more=96 * MIB) as group:
        host.run("ln -s ../init.d/eater /etc/rc2.d/S20eater; update-rc.d canna enable; service canna start")
        scene.off("canna", timeout=PATIENCE)
        host.wait_for(lambda: _failures(scene, "eater"), PATIENCE, "the failure")
        assert group.kills >= 1
    assert not host.exists("/etc/rc2.d/S20eater")
    assert "ended by signal 9" in _failures(scene, "eater")[0]
    assert _daemon(host) == daemon


@BOTH
def test_no_process_can_be_started(scene: Scene) -> None:
    """A stop that must be one has failed and is tried again; links, and what process 1 does, go all the same."""
    host, daemon = scene.host, _daemon(scene.host)
    tasks = len(os.listdir(f"/proc/{daemon}/task"))
    with limits.processes(daemon, most=tasks) as group:
        host.run("update-rc.d lpd enable; service lpd start")
        host.run("ln -s ../init.d/atd /etc/rc3.d/S20atd")
        host.wait_for(lambda: not [one for one in host.start_links() if one.endswith(("lpd", "atd"))], PATIENCE)
        if host.init == "sysvinit":
            host.wait_for(lambda: _failures(scene, "lpd"), PATIENCE, "the failure")
            assert "/etc/init.d/lpd cannot be run: Resource temporarily unavailable" in _failures(scene, "lpd")[0]
            assert group.refusals >= 1
    scene.off("lpd", "atd", timeout=PATIENCE)
    assert _daemon(host) == daemon


def _failures(scene: Scene, service: str) -> list[str]:
    failed = (r for r in scene.records() if r["action"] == "stop-service" and r["outcome"] == "failed")
    return [r["detail"] for r in failed if r["service"] == service]

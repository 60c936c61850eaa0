"""When it happens: while nobody looks, just as the daemon starts or ends, with a clock that jumps, after a yes."""

from __future__ import annotations

import time

import pytest

from tests.hosts import product, states
from tests.hosts.host import Host
from tests.hosts.scenario import Scene

YEAR = 365 * 86400
_FAKETIME = "LD_PRELOAD='/usr/$LIB/faketime/libfaketime.so.1'"  # ld.so(8) knows $LIB, a shell must not


class TestWhileNobodyLooks:
    def test_a_reboot_without_the_daemon(self, scene: Scene) -> None:
        """What was changed meanwhile is corrected at the next start, and told as found then."""
        scene.host.stop_daemon()
        scene.host.run("update-rc.d canna enable; update-rc.d exim4 enable")
        if scene.host.init == "systemd":
            scene.host.run("systemctl enable rpcbind.socket canna.service exim4.service")
        if scene.host.exists(f"/etc/init.d/{product.NAME}"):
            scene.host.run(["update-rc.d", product.NAME, "disable"])  # which tells systemd, too
        scene.host.reboot()
        scene.host.wait_for(lambda: scene.host.running("cannaserver"), 20, "canna, which nobody held back")
        scene.mark = len(scene.host.journal())
        scene.host.start_daemon()
        scene.off("canna", "exim4", "rpcbind")
        assert scene.corrected("canna")
        first = scene.corrected("canna")[0]
        assert first["cause"] == "the daemon started"

    def test_the_daemon_is_killed(self, scene: Scene) -> None:
        """No last word, no clean end: the next start mends what was left and goes on."""
        scene.host.run(["kill", "-9", str(scene.status()["pid"])])
        scene.host.run("update-rc.d canna enable", check=False)  # its own insserv trips over a link that is gone again
        scene.host.wait_for(lambda: product.status_code(scene.host) == 3, 10, "the daemon's end")
        scene.host.start_daemon()
        scene.off("canna")
        assert scene.corrected("canna")


class TestStartAndStop:
    @pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.4])
    def test_a_change_while_it_starts(self, scene: Scene, delay: float) -> None:
        scene.host.stop_daemon()
        job = scene.host.spawn(f"sleep {delay}; update-rc.d canna enable; update-rc.d lpd enable")
        scene.host.start_daemon()
        assert job.wait().rc == 0
        scene.off("canna", "lpd")
        assert scene.corrected("canna")
        assert scene.corrected("lpd")

    @pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
    def test_a_change_while_it_stops(self, scene: Scene, delay: float) -> None:
        """Either it is corrected yet, or it is at the next start; never half, and never without a record."""
        job = scene.host.spawn(f"sleep {delay}; update-rc.d canna enable; update-rc.d lpd enable")
        scene.host.stop_daemon()
        assert job.wait().rc == 0
        intents = {r["id"] for r in scene.records() if r["record"] == "intent"}
        assert intents <= {r["id"] for r in scene.records() if r["record"] == "outcome"}
        scene.host.start_daemon()
        scene.off("canna", "lpd")
        assert scene.corrected("canna")
        assert scene.corrected("lpd")


class TestApproved:
    def test_enabled_by_the_administrator_after_an_approval(self, scene: Scene) -> None:
        """The way back is Debian's own: approve, then `update-rc.d NAME enable`, and it stays."""
        scene.host.run([product.COMMAND, "approve", "canna"])
        assert "canna" in scene.host.read(states.PATH)
        scene.converge()
        scene.host.run("update-rc.d canna enable; service canna start")
        if scene.host.init == "systemd":
            scene.host.run(["systemctl", "enable", "canna.service"])
        scene.host.wait_for(lambda: scene.host.running("cannaserver"), 20, "canna")
        scene.host.run("ln -s ../init.d/lpd /etc/rc2.d/S20lpd")
        scene.off("lpd")
        assert not scene.corrected("canna")
        assert [link for link in scene.host.start_links() if link.endswith("canna")]
        (pid,) = {one.pid for one in scene.host.running("cannaserver")}
        scene.host.run([product.COMMAND, "revoke", "canna"])
        scene.off("canna")
        assert scene.corrected("canna")
        assert pid not in {one.pid for one in scene.host.processes()}


class TestClock:
    """The daemon lives with a clock of its own that can be set: the host's is the machine's."""

    @pytest.fixture
    def clocked(self, shared_host: Host) -> Scene:
        scene = Scene(shared_host)
        shared_host.run(["dpkg", "-i", shared_host.deb("libfaketime")])
        shared_host.put("/run/clock", "+0\n")
        shared_host.put(product.COMMAND, LAUNCHER, 0o755)
        return scene

    def test_set_back_a_year_and_forward_again(self, clocked: Scene) -> None:
        scene, host = clocked, clocked.host
        scene.install(states.state(interval="2s"))
        host.put(product.COMMAND, LAUNCHER, 0o755)
        host.start_daemon()
        scene.converge()
        for offset, name in ((f"-{YEAR}", "canna"), ("+86400", "lpd"), ("+0", "exim4")):
            scene.mark = len(host.journal())
            host.put("/run/clock", f"{offset}\n")
            host.run(["update-rc.d", name, "enable"], check=False)  # as above: it trips over what is gone again
            scene.off(name)
            when = scene.corrected(name)[-1]["time"]
            expected = time.strftime("%Y", time.gmtime(time.time() + int(offset)))
            assert when.startswith(expected), "the daemon did not see the new time"
            passed = scene.status()["last_pass"]["id"]
            host.wait_for(lambda p=passed: scene.status()["last_pass"]["id"] != p, 10, "the periodic pass")  # type: ignore[misc]
        scene.sound()


LAUNCHER = f"""\
#!/bin/sh
if [ "$1" = run ]; then
    export {_FAKETIME} FAKETIME_TIMESTAMP_FILE=/run/clock FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1
fi
exec /usr/bin/python3 -m reconciler "$@"
"""

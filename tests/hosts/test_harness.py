"""The harness itself: what a scenario takes for granted is true, on all four hosts."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from tests.hosts import dhcp, readiness
from tests.hosts.commands import CommandError
from tests.hosts.host import ADDRESS, LAN_ADDRESS, Host
from tests.hosts.plugin import SYSTEMD, SYSVINIT, BootHost
from tests.hosts.trees import difference


class TestBoot:
    def test_the_init_is_pid_1_and_content(self, host: Host) -> None:
        leader = host.processes()[0]
        assert (leader.pid, leader.comm) == (1, "init" if host.init == "sysvinit" else "systemd")
        if host.init == "systemd":
            assert host.run("systemctl is-system-running").out == "running\n"
        else:
            assert host.run("runlevel").out == "N 2\n"

    def test_the_article_is_reproduced(self, host: Host) -> None:
        listeners = {one.name: one for one in host.listeners()}
        assert listeners.keys() >= readiness.LISTENING
        assert listeners["tcp/25"].address == "127.0.0.1"
        assert listeners["tcp/113"].process == "inetd"
        assert {process.comm for process in host.processes()} >= readiness.RUNNING

    def test_the_product_finds_its_libraries(self, host: Host) -> None:
        host.run("python3 -c 'import pyinotify, structlog, watchdog, systemd.journal, tomllib'")

    @SYSVINIT
    def test_rpcbind_starts_from_rcs(self, host: Host) -> None:
        links = [link.split("/") for link in host.start_links()]
        assert {folder for folder, name in links if name.endswith("rpcbind")} == {"rcS.d"}

    @SYSTEMD
    def test_commands_from_outside_have_a_scope_of_their_own(self, host: Host) -> None:
        assert host.run("tail -n1 /proc/self/cgroup").out == "0::/harness.scope\n"
        host.run("logger -t somebody hello")
        entry = host.wait_for(lambda: host.journalctl("-t", "somebody"), why="the journal entry")[0]
        assert entry["MESSAGE"] == "hello"


class TestPristine:
    def test_nothing_of_one_host_is_in_the_next(self, boot_host: BootHost) -> None:
        first = boot_host("bookworm", "sysvinit")
        assert first.etc_diff() == ""
        first.put("/etc/new", "one\n", 0o600)
        first.run("rm /etc/rc2.d/S*cron; sed -i 's/^discard/#&/' /etc/inetd.conf; chmod 700 /etc/ssh")
        changes = first.etc_diff()
        assert "+ /etc/new (-rw------- 0:0)\n" in changes
        assert re.search(r"^- /etc/rc2\.d/S\d\dcron .* link to \.\./init\.d/cron$", changes, re.MULTILINE)
        assert "    -discard" in changes
        assert "    +#discard" in changes
        assert "! /etc/ssh (drwxr-xr-x 0:0 -> drwx------ 0:0)\n" in changes

        second = boot_host("bookworm", "sysvinit")
        assert second.etc_diff() == ""
        assert (first.pid, first.control.pid) != (second.pid, second.control.pid)

    def test_systemd_boots_pristine_too(self, boot_host: BootHost) -> None:
        assert [boot_host(suite, "systemd").etc_diff() for suite in ("bookworm", "trixie")] == ["", ""]

    def test_prepared_before_the_first_boot(self, boot_host: BootHost) -> None:
        def without_cron(host: Host) -> None:
            host.put("/usr/sbin/cron", "#!/bin/sh\nexit 1\n", 0o755)
            host.put("/etc/inetd.conf", "daytime stream tcp nowait root internal\n")

        host = boot_host("bookworm", "sysvinit", prepare=without_cron)
        host.wait_for(lambda: "tcp/13" in {one.name for one in host.listeners()}, why="inetd")
        assert "tcp/9" not in {one.name for one in host.listeners()}
        assert not host.running("cron")


class TestCommands:
    @pytest.fixture
    def any_host(self, boot_host: BootHost) -> Host:
        return boot_host("bookworm", "sysvinit")

    def test_results(self, any_host: Host) -> None:
        result = any_host.run("cat; echo oops >&2; exit 3", check=False, stdin="given")
        assert (result.rc, result.out, result.err) == (3, "given", "oops\n")
        assert any_host.run(["printf", "%s", "$HOME"]).out == "$HOME"
        with pytest.raises(CommandError, match="oops"):
            any_host.run("echo oops; false")

    def test_a_daemon_left_behind_keeps_nobody_waiting(self, any_host: Host) -> None:
        before = time.monotonic()
        any_host.run("setsid sleep 1000 & echo started")
        assert time.monotonic() - before < 5
        # "started" may be said before setsid(1) runs it.
        any_host.wait_for(
            lambda: [one.args for one in any_host.running("sleep")] == [("sleep", "1000")], why="the sleep"
        )

    def test_a_command_that_hangs_is_ended(self, any_host: Host) -> None:
        result = any_host.run(["sleep", "1001"], check=False, timeout=0.3)
        assert (result.rc, result.err) == (124, "still running after 0.3 s\n")
        any_host.wait_for(lambda: not any_host.running("sleep"), why="the end of sleep")

    def test_files_stay_in_the_host(self, any_host: Host) -> None:
        """Absolute links and `..` resolve inside, or a scenario could write this machine's own /etc."""
        mark = f"harness-{time.monotonic_ns()}"
        any_host.run(f"ln -s /etc/{mark} /root/link; ln -s ../../../../../../etc /root/up")
        any_host.put("/root/link", "inside")
        assert any_host.read("/root/up/../" + f"etc/{mark}") == "inside"
        assert not Path("/etc", mark).exists()
        any_host.put("/srv/a/b/c", b"\xff")
        assert any_host.run("stat -c '%a %s' /srv/a/b/c").out == "644 1\n"

    def test_trees(self, any_host: Host) -> None:
        before = any_host.tree("/etc/cron.d")
        any_host.run("echo x > /etc/cron.d/x; mv /etc/cron.d/x /etc/cron.d/y")
        assert difference(before, any_host.tree("/etc/cron.d")).startswith("+ /etc/cron.d/y (-rw-r--r-- 0:0)\n")

    def test_the_machine_is_out_of_reach(self, any_host: Host) -> None:
        name = socket.gethostname()
        refused = (
            *("date -s @0", "mknod /dev/sda b 8 0", "modprobe dummy", "dmesg"),
            *("echo 1 > /proc/sys/kernel/panic", "mount -o remount,rw /sys && touch /sys/kernel/x"),
        )
        assert [command for command in refused if any_host.run(command, check=False).rc == 0] == []
        any_host.run("hostname elsewhere")
        assert socket.gethostname() == name


class TestReboot:
    def test_in_order(self, host: Host) -> None:
        host.put("/etc/kept", "yes")
        host.put("/run/lost", "yes")
        former = host.processes()[0].outer
        host.reboot()
        host.settle()
        assert host.processes()[0].outer != former
        assert host.read("/etc/kept") == "yes"
        assert not host.exists("/run/lost")
        host.put("/etc/still-writable", "")

    def test_by_a_power_cut(self, boot_host: BootHost) -> None:
        host = boot_host("bookworm", "sysvinit")
        host.put("/etc/kept", "yes")
        host.power_off()
        assert host.read("/etc/kept") == "yes"
        host.power_on()
        host.settle()
        assert host.etc_diff().startswith("+ /etc/kept")


class TestNetwork:
    def test_what_outsiders_reach(self, host: Host) -> None:
        assert host.addresses() == []
        host.use_static_address()
        assert host.addresses() == [ADDRESS]
        host.run(["ping", "-c1", "-W2", LAN_ADDRESS])
        reach = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)"
        codes = {
            port: host.from_lan(["python3", "-c", reach, ADDRESS, port], check=False).rc for port in ("22", "25", "111")
        }
        assert codes == {"22": 0, "25": 1, "111": 0}

    def test_a_lease_is_held_and_runs_out(self, host: Host) -> None:
        """dhclient keeps its address as long as it runs; killed, the address goes with the lease."""
        with dhcp.serve(host, lease=6) as server:
            dhcp.configure(host)
            assert host.addresses() == [dhcp.OFFERED]
            (client,) = host.running("dhclient")
            assert "udp/68" in {one.name for one in host.listeners() if client.pid in one.pids}
            host.wait_for(lambda: server.heard.count("request") > 1, 10, "the renewal")
            assert host.addresses() == [dhcp.OFFERED]
            host.run(["kill", "-9", str(client.pid)])
            assert host.addresses() == [dhcp.OFFERED]
            host.wait_for(lambda: not host.addresses(), 10, "the end of the lease")


class TestReintroduction:
    """The article's grievance is real here: a package's upgrade brings back what was unlinked."""

    def test_an_upgrade_starts_what_was_unlinked(self, host: Host) -> None:
        host.run("/etc/init.d/canna stop; find /etc/rc?.d -name '*canna' -delete")
        host.wait_for(lambda: not host.running("cannaserver"), why="canna's end")
        host.run(["dpkg", "-i", host.deb("canna")], timeout=120)
        assert any(link.endswith("canna") for link in host.start_links())
        host.wait_for(lambda: host.running("cannaserver"), why="canna to come back")

    def test_a_new_package_brings_an_inetd_line(self, boot_host: BootHost) -> None:
        host = boot_host("bookworm", "sysvinit")
        host.run("sed -i /^ident/d /etc/inetd.conf")
        host.run(["dpkg", "-i", host.deb("ident2")], timeout=120)
        assert "/usr/sbin/identd" in host.etc_diff() or "ident2" in host.read("/etc/inetd.conf")

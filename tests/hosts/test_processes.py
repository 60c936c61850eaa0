"""Processes on real hosts: who is whose, what stays after its stop, and a DHCP client whose lease runs out."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import dhcp
from tests.hosts.host import INTERFACES, STATIC, Host
from tests.hosts.plugin import SYSVINIT
from tests.hosts.product import ask

STATE = "/etc/dom0-reconciler/state.toml"
CANONICAL = "/etc/dom0-reconciler/interfaces"
LEASED = dhcp.OFFERED
LEASE = 12


def declare(host: Host, text: str) -> None:
    host.put(STATE, f"version = 1\n{text}\n")


def findings(host: Host) -> dict[str, dict[str, Any]]:
    return {f["ref"]: f for f in ask(host, "plan")["findings"] if f["kind"] == "processes"}


SLOWLY = """\
#!/bin/sh
### BEGIN INIT INFO
# Provides: slowly
# Required-Start: dom0-reconciler
# Required-Stop:
# Default-Start: 2 3 4 5
# Default-Stop:
# Short-Description: ends after the daemon has looked
### END INIT INFO
[ $1 != start ] || { sleep 3; touch /root/slowly; }
"""


@SYSVINIT
def test_a_boot_is_not_ended_by_the_daemon_that_it_starts(host: Host, deb: Path) -> None:
    """Whatever is stopped that nobody approved: what runs the scripts of the runlevel is not."""
    host.put("/var/tmp/it.deb", deb.read_bytes())
    host.run("dpkg --install /var/tmp/it.deb", timeout=180)
    host.stop_daemon()
    host.put("/etc/init.d/slowly", SLOWLY, 0o755)
    host.run("update-rc.d slowly defaults")
    shipped = f"/usr/share/dom0-reconciler/states/{host.suite}-xen.toml"
    declared = f'mode = "enforce"\ninclude = ["{shipped}"]\n[services]\napproved = ["slowly", "ssh"]'
    declare(host, f'{declared}\n[processes]\nunapproved = "stop"')
    host.reboot()
    host.wait_for(lambda: host.exists("/root/slowly"), 30, "the last script of the runlevel")
    assert host.running("sshd")
    ended = {record["target"] for record in host.journal() if record["action"] == "signal"}
    assert ended.isdisjoint(
        {"/etc/init.d/rc", "/etc/init.d/slowly", "/usr/bin/startpar", "/usr/sbin/start-stop-daemon"}
    )


# --- services ----------------------------------------------------------------------------------------------

ARTICLE = {"atd", "cannaserver", "exim4", "inetd", "lpd", "rpc.statd", "rpcbind"}
KEPT = '["ssh", "cron", "networking", "rsyslog", "dbus"]'


def test_every_program_of_a_service_is_seen_and_its_service_known(host: Host) -> None:
    host.install_product()
    declare(host, f"[services]\napproved = {KEPT}")
    found = findings(host)
    assert set(found) == {f"processes:/usr/sbin/{name}" for name in ARTICLE}
    services = {ref.rpartition("/")[2]: finding["service"] for ref, finding in found.items()}
    statd = "nfs-common" if host.init == "sysvinit" else "rpc-statd"
    inetd = "openbsd-inetd" if host.init == "sysvinit" else "inetd"
    assert services == {
        **{name: name for name in ("atd", "exim4", "lpd", "rpcbind")},
        "cannaserver": "canna",
        "inetd": inetd,
        "rpc.statd": statd,
    }


def test_with_the_table_nothing_else_runs_on_a_pristine_host(host: Host) -> None:
    host.install_product()
    declare(host, f"[services]\napproved = {KEPT}\n[processes]\napproved = {json.dumps(sorted(ARTICLE))}")
    assert findings(host) == {}


def test_a_stranger_is_named_with_what_starts_it_and_ended(host: Host) -> None:
    host.install_product()
    host.run("cp /usr/bin/sleep /usr/local/bin/stranger")
    host.put("/etc/rc.local", "#!/bin/sh\n/usr/local/bin/stranger 1000 &\n", 0o755)
    host.run("setsid -f sh -c '/usr/local/bin/stranger 1000 & exit'")
    table = f"approved = {json.dumps(sorted(ARTICLE))}\nunapproved = 'stop'"
    declare(host, f"[services]\napproved = {KEPT}\nstop = false\n[processes]\n{table}")
    finding = findings(host)["processes:/usr/local/bin/stranger"]
    assert "of no package" in finding["detail"]
    assert "named in /etc/rc.local" in finding["detail"]
    ask(host, "apply")
    assert not host.running("stranger")
    assert findings(host) == {}


@SYSVINIT
def test_what_stays_after_its_stop_gets_a_signal(host: Host) -> None:
    """A script whose stop does nothing: its daemon is told, and it alone."""
    host.install_product()
    script = host.read("/etc/init.d/canna")
    host.put("/etc/init.d/canna", script.replace("\n  stop)", "\n  stop) exit 0;;\n  never)", 1), 0o755)
    host.run("cp /usr/bin/sleep /usr/local/bin/bystander; setsid -f /usr/local/bin/bystander 1000")
    others = [name for name in host.files.names("/etc/init.d") if name != "canna"]
    declare(host, f"[services]\napproved = {json.dumps(others)}")
    done = ask(host, "apply")
    assert not host.running("cannaserver"), done
    assert host.running("bystander")


# --- a DHCP client -----------------------------------------------------------------------------------------


def lease(host: Host, canonical: str = LEASED) -> None:
    """eth0 by DHCP, and a state that makes it static."""
    dhcp.configure(host)
    host.put(CANONICAL, STATIC.replace("192.0.2.10", canonical))
    declare(host, '[network]\ninterfaces = "interfaces"')


def valid(host: Host) -> dict[str, int]:
    found = json.loads(host.run(["ip", "-j", "-4", "addr", "show", "dev", "eth0"]).out)
    return {one["local"]: one["valid_life_time"] for one in found[0]["addr_info"]}


FOR_EVER = 2**32 - 1


class Session:
    """An ssh session from the LAN, over the leased address, that answers line by line."""

    def __init__(self, host: Host, folder: Path) -> None:
        key = folder / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        host.put("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(), 0o600)
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes")
        words = [word for option in options for word in ("-o", option)]
        enter = ["nsenter", "-t", str(host.control.pid), "-n", "--", "setpriv", "--pdeathsig=KILL", "--"]
        command = [*enter, "ssh", "-F", "none", "-i", str(key), *words, f"root@{LEASED}", "cat"]
        self._ssh: subprocess.Popen[str] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def echo(self, text: str) -> str:
        assert self._ssh.stdin is not None
        assert self._ssh.stdout is not None
        self._ssh.stdin.write(f"{text}\n")
        return str(self._ssh.stdout.readline()).strip()

    def close(self) -> None:
        self._ssh.kill()
        self._ssh.wait()


def test_a_login_survives_the_end_of_the_lease(host: Host, tmp_path: Path) -> None:
    host.install_product()
    with dhcp.serve(host, LEASE) as server:
        lease(host)
        session = Session(host, tmp_path)
        try:
            assert session.echo("before") == "before"
            routes = host.run(["ip", "route"]).out
            steps = [(s["action"], s["target"], s["held"]) for s in ask(host, "plan")["steps"]]
            assert steps == [
                ("write-file", INTERFACES, None),
                ("keep-address", f"eth0 {LEASED}/24", None),
                ("signal", "dhclient", None),
            ]
            assert ask(host, "apply")["converged"]
            assert not host.running("dhclient")
            server.stop()
            time.sleep(LEASE + 2)
            assert valid(host) == {LEASED: FOR_EVER}
            assert host.run(["ip", "route"]).out == routes
            assert session.echo("after") == "after"
            assert ask(host, "plan")["converged"]
        finally:
            session.close()


def test_without_the_canonical_address_the_client_stays(host: Host) -> None:
    host.install_product()
    with dhcp.serve(host, LEASE):
        lease(host, canonical="192.0.2.10")
        done = ask(host, "apply")
        (held,) = [step["held"] for step in done["steps"] if step["action"] == "signal"]
        assert held == "eth0 does not hold 192.0.2.10/24, which must outlive it"
        assert host.running("dhclient")
        assert list(valid(host)) == [LEASED]


def test_the_address_of_a_client_that_was_killed_is_kept(host: Host) -> None:
    host.install_product()
    with dhcp.serve(host, LEASE):
        lease(host)
        host.run("pkill -KILL dhclient")
        done = ask(host, "apply")
        assert "keep-address" in [step["action"] for step in done["steps"]]
        time.sleep(LEASE + 1)
        assert valid(host) == {LEASED: FOR_EVER}


@pytest.mark.parametrize("host", ["bookworm-sysvinit", "trixie-systemd"], indirect=True)
def test_dhcpcd_ends_with_all_its_helpers(host: Host) -> None:
    host.install_product()
    host.run("dpkg --force-depends -r isc-dhcp-client; dpkg --force-depends -i /media/debs/dhcpcd-base_*.deb")
    bind = "mount --bind /proc/sys/net /proc/sys/net; mount -o remount,bind,rw /proc/sys/net"
    subprocess.run(["nsenter", "-t", str(host.pid), "-m", "-p", "-n", "sh", "-c", bind], check=True)
    with dhcp.serve(host, 16) as server:
        lease(host)
        host.wait_for(lambda: LEASED in valid(host), 20, "the lease")
        routes = host.run(["ip", "route"]).out
        done = ask(host, "apply")
        assert done["converged"], done
        assert not host.running("dhcpcd")
        server.stop()
        time.sleep(22)
        assert valid(host) == {LEASED: FOR_EVER}
        assert host.run(["ip", "route"]).out == routes

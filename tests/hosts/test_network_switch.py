"""The dead man's switch of the network, thrown for real: applied, confirmed from a new login, reverted by all that may.

Each host plays several changes, one after the other. Time passes by itself where nothing has to be seen meanwhile;
elsewhere the change is told that its time is over, when all that is to be seen was seen.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.hosts import roots
from tests.hosts.commands import Job
from tests.hosts.host import ADDRESS, INTERFACES, STATIC, Host
from tests.hosts.plugin import BootHost

HOME = "/etc/dom0-reconciler"
OTHER = "192.0.2.66"
PENDING = "/var/lib/dom0-reconciler/network.json"
PATIENCE = 60

BRIDGE = """\
auto lo
iface lo inet loopback

auto xenbr0
iface xenbr0 inet static
    address 192.0.2.10/24
    bridge_ports none
    pre-up ip link add $IFACE type bridge
    post-down ip link del $IFACE
"""
"""What bridge-utils would make of ``bridge_ports none``, without it: ifdown takes the whole bridge away."""

IFUPDOWN2 = """\
auto lo
iface lo inet loopback

auto eth0
iface eth0 inet manual

auto xenbr0
iface xenbr0 inet static
    address 192.0.2.10/24
    bridge-ports eth0
"""
UNIT = Path(__file__).parents[2] / "packaging/debian/dom0-reconciler.service"
BOOT_UNIT = UNIT.with_name("dom0-reconciler.dom0-reconciler-boot.service")
BOOT_SCRIPT = BOOT_UNIT.with_suffix(".init")
JUDGING = 'version = 1\n[services]\napproved = ["ssh", "dom0-reconciler"]\n'


def state(tool: str, confirm: str = "1h") -> str:
    return (
        f'version = 1\nmode = "enforce"\n[network]\ninterfaces = "interfaces"\n'
        f'apply = "{tool}"\nconfirm = "{confirm}"\n'
    )


class Switched:
    """A host whose network follows its declared file."""

    def __init__(self, host: Host, network: str, tool: str, confirm: str = "1h") -> None:
        self.host = host
        host.install_product()
        host.put(f"{HOME}/state.toml", state(tool, confirm))
        host.put(f"{HOME}/interfaces", network)
        host.start_daemon()

    def declare(self, network: str) -> None:
        self.host.put(f"{HOME}/interfaces", network)

    def phase(self) -> str:
        """How far the last change came; "" where none waits or was reverted."""
        return str(json.loads(self.host.read(PENDING))["phase"]) if self.host.exists(PENDING) else ""

    def until(self, phase: str) -> None:
        self.host.wait_for(lambda: self.phase() == phase, PATIENCE, f"the change to be {phase or 'confirmed'}")

    def let_its_time_pass(self) -> None:
        """An hour is over."""
        change = json.loads(self.host.read(PENDING))
        change["span"][-1] = 0
        self.host.put(f"{PENDING}.new", json.dumps(change), 0o600)
        self.host.run(["mv", f"{PENDING}.new", PENDING])

    def words(self) -> list[str]:
        """The records of what became of changes."""
        known = ("staged", "applied", "confirmed", "reverted")
        return [r["record"] for r in self.host.journal() if r["record"] in known]

    def told(self, word: str) -> dict[str, Any]:
        return [r for r in self.host.journal() if r["record"] == word][-1]

    def outcomes(self) -> list[str]:
        return [r["outcome"] for r in self.host.journal() if (r["action"], r["record"]) == ("apply-network", "outcome")]

    def held(self) -> set[str]:
        answer = json.loads(self.host.run("dom0-reconciler --json plan", check=False).out)
        return {str(step["held"]) for step in answer["steps"]}

    def kill_everything(self) -> None:
        """SIGKILL to the daemon, and to the process that waits."""
        ours = [p for p in self.host.processes() if p.comm in ("python3", "dom0-reconciler")]
        assert len(ours) >= 2, "the daemon, and the one that waits"
        for process in ours:
            with contextlib.suppress(ProcessLookupError):  # the one that began the one that waits may just have ended
                os.kill(process.outer, signal.SIGKILL)
        self.host.wait_for(lambda: not self.host.running("python3"), PATIENCE, "their end")

    def start_again(self) -> None:
        if self.host.init == "systemd":
            self.host.run("systemctl reset-failed dom0-reconciler.service", check=False)
        self.host.start_daemon()


def ssh(host: Host, address: str, command: str) -> Job:
    """A login, as anybody's."""
    options = "-o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i /root/.ssh/key"
    return host.spawn(["sh", "-c", f"exec ssh {options} root@{address} '{command}'"])


def with_a_key(host: Host) -> None:
    host.run("mkdir -p -m 700 /root/.ssh && ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/key")
    host.run("cp /root/.ssh/key.pub /root/.ssh/authorized_keys")


def test_a_change_stays_only_when_it_is_confirmed_from_a_new_login(boot_host: BootHost) -> None:
    host = boot_host("bookworm", "sysvinit")
    with_a_key(host)
    host.use_static_address()
    one = Switched(host, STATIC, "ifup")
    old = ssh(host, "127.0.0.1", "echo in; until test -e /run/go; do sleep 0.1; done; dom0-reconciler confirm")
    host.wait_for(lambda: "sshd" in host.run("ss -Htnp state established").out, PATIENCE, "a login from before")
    one.declare(STATIC.replace(ADDRESS, OTHER))
    one.until("applied")
    assert host.addresses() == [OTHER], "ifdown had the files as they were: no address is left over"
    assert "reverts at" in host.run("dom0-reconciler status", check=False).out

    none = host.run("dom0-reconciler confirm", check=False)
    assert (none.rc, "this is none" in none.err) == (1, True)
    host.put("/run/go", "")
    late = old.wait(PATIENCE)
    assert (late.rc, "this login is older than the change" in late.err) == (1, True)
    assert one.phase() == "applied"
    new = ssh(host, OTHER, "dom0-reconciler confirm").wait(PATIENCE)
    assert (new.rc, new.out) == (0, "confirmed: eth0 stays as it is now\n")

    one.until("")
    assert (host.addresses(), one.words()) == ([OTHER], ["staged", "applied", "confirmed"])
    assert one.told("confirmed")["cause"] == "confirm by root (uid 0)"
    assert host.run("dom0-reconciler confirm", check=False).rc == 1
    assert host.run("dom0-reconciler plan").rc == 0
    killed_in_the_middle(one)
    over_a_reboot(one)
    assert host.run("dom0-reconciler log --verify").rc == 0


def killed_in_the_middle(one: Switched) -> None:
    """Daemon and switch are killed while the change waits: the next start of the daemon sees to it."""
    host = one.host
    one.declare(STATIC)
    one.until("applied")
    one.kill_everything()
    assert host.addresses() == [ADDRESS]
    one.let_its_time_pass()
    one.start_again()
    one.until("reverted")
    assert host.addresses() == [OTHER]
    assert OTHER in host.read(INTERFACES)
    assert one.told("reverted")["detail"] == "nobody confirmed it in time"


def over_a_reboot(one: Switched) -> None:
    """The power is cut while the change waits: its files are put back before they are read, without the daemon."""
    host = one.host
    host.put("/etc/init.d/dom0-reconciler-boot", BOOT_SCRIPT.read_bytes(), 0o755)
    host.run("update-rc.d dom0-reconciler-boot defaults")
    (ours,) = (link for link in host.start_links() if link.endswith("dom0-reconciler-boot"))
    (network,) = (link for link in host.start_links() if link.endswith("networking"))
    assert ours < network, "by their numbers"
    one.declare(STATIC + "    mtu 1400\n")
    one.until("applied")
    host.reboot(hard=True)
    one.until("reverted")
    host.wait_for(lambda: host.addresses() == [OTHER], PATIENCE, "the network as it was")
    assert OTHER in host.read(INTERFACES)
    assert host.read("/sys/class/net/eth0/mtu") == "1500\n", "it was never brought up by the file that was left"


def test_what_nobody_confirms_is_reverted_and_held_and_guests_keep_their_bridge(boot_host: BootHost) -> None:
    host = boot_host("trixie", "systemd", prepare=lambda host: host.put(INTERFACES, BRIDGE))
    host.run("ip link add vif1.0 type veth peer name guest1 && ip link set vif1.0 master xenbr0 up")
    host.put("/etc/systemd/system/dom0-reconciler.service", UNIT.read_bytes())  # in its sandbox, as it is installed
    one = Switched(host, BRIDGE, "ifup")
    bridge = host.run("cat /sys/class/net/xenbr0/ifindex").out
    one.declare(BRIDGE.replace(ADDRESS, OTHER))
    one.until("applied")
    assert host.addresses("xenbr0") == [OTHER]
    host.put("/etc/judging.toml", JUDGING)
    judged = host.run("dom0-reconciler --state /etc/judging.toml --json plan", check=False).out
    assert "units:" in judged
    assert "dom0-reconciler-switch" not in judged, "the process that waits is our own, and no service to be stopped"
    assert host.run("cat /sys/class/net/xenbr0/ifindex").out != bridge, "ifdown took the bridge away, and yet:"
    assert host.run("ls /sys/class/net/xenbr0/brif").out.split() == ["vif1.0"]

    one.let_its_time_pass()
    one.until("reverted")
    assert host.addresses("xenbr0") == [ADDRESS]
    assert host.run("ls /sys/class/net/xenbr0/brif").out.split() == ["vif1.0"]
    assert host.read(INTERFACES) == BRIDGE
    assert one.words() == ["staged", "applied", "reverted"]
    assert all(re.match(r"it was applied and reverted \(pass ", why) for why in one.held())
    again_by_order(one)
    without_a_bridge(one)
    before_the_network_at_boot(one)


def again_by_order(one: Switched) -> None:
    """``apply`` tries again what was reverted, and ``revert`` waits for nobody."""
    said = one.host.run("dom0-reconciler apply", check=False).out
    assert 'unless "dom0-reconciler confirm" is said from a new login' in said
    assert one.phase() == "applied"
    assert one.host.run("dom0-reconciler revert").out == "reverted: xenbr0 is as before the change\n"
    assert one.host.addresses("xenbr0") == [ADDRESS]
    assert one.told("reverted")["record"] == "reverted"


def without_a_bridge(one: Switched) -> None:
    """Guests would hang nowhere: neither is it applied nor is the file changed."""
    before = one.words()
    one.host.put(f"{HOME}/state.toml", "accept_lockout = true\n" + state("ifup"))
    one.declare(BRIDGE.replace("    bridge_ports none\n", ""))
    rail = {"rail: guests hang on the bridge xenbr0 (vif1.0), and it would be none any more"}
    one.host.wait_for(lambda: one.held() == rail, PATIENCE, "the rail")
    one.host.wait_for(
        lambda: one.host.run("dom0-reconciler status", check=False).rc == 2, PATIENCE, "the daemon's look"
    )
    assert (one.words(), one.host.read(INTERFACES)) == (before, BRIDGE)


def before_the_network_at_boot(one: Switched) -> None:
    """The power is cut while a change waits: its files are put back before they are read, without the daemon."""
    host = one.host
    host.put("/etc/systemd/system/dom0-reconciler-boot.service", BOOT_UNIT.read_bytes())
    host.run("systemctl enable dom0-reconciler-boot.service")
    one.declare(BRIDGE + "    mtu 1400\n")
    one.until("applied")
    host.reboot(hard=True)
    one.until("reverted")
    assert (host.read(INTERFACES), host.addresses("xenbr0")) == (BRIDGE, [ADDRESS])
    assert host.read("/sys/class/net/xenbr0/mtu") == "1500\n", "it was never brought up by the file that was left"
    assert one.told("reverted")["detail"] == "nobody confirmed it before the host was booted again"


def test_what_cannot_be_brought_up_is_reverted_at_once(boot_host: BootHost) -> None:
    host = boot_host("bookworm", "systemd")
    host.use_static_address()
    one = Switched(host, STATIC, "ifup")
    one.declare(STATIC.replace(ADDRESS, OTHER) + "    up false\n")
    one.until("reverted")
    assert host.addresses() == [ADDRESS]
    assert "could not be applied: /sbin/ifup eth0 ended with 1" in one.told("reverted")["detail"]
    host.wait_for(lambda: one.outcomes() == ["failed"], PATIENCE, "its outcome")
    by_the_real_ifreload(one)


def by_the_real_ifreload(one: Switched) -> None:
    """ifupdown2 takes ifupdown's place; it leaves a guest's port alone that its file does not name."""
    host = one.host
    host.put("/var/tmp/ifupdown2.deb", ifupdown2().read_bytes())
    host.run("dpkg --purge --force-depends ifupdown && dpkg -i --force-depends /var/tmp/ifupdown2.deb")
    assert host.run("dom0-reconciler --json plan", check=False).rc == 2
    assert one.held() == {'ifupdown2 is installed: its way is apply = "ifreload"'}
    host.put(INTERFACES, IFUPDOWN2)
    host.run("ifreload -a")
    host.run("ip link add vif1.0 type veth peer name guest1 && ip link set vif1.0 master xenbr0 up")
    host.put(f"{HOME}/state.toml", state("ifreload", "8s"))
    one.declare(IFUPDOWN2.replace(ADDRESS, OTHER))
    host.wait_for(lambda: host.addresses("xenbr0") == [OTHER], PATIENCE, "the other address")
    host.wait_for(lambda: one.words()[-2:] == ["applied", "reverted"], PATIENCE, "the way back")
    assert host.addresses("xenbr0") == [ADDRESS]
    assert sorted(host.run("ls /sys/class/net/xenbr0/brif").out.split()) == ["eth0", "vif1.0"]


def ifupdown2() -> Path:
    """The package, from the machine's own apt; kept beside the roots."""
    folder = roots.cache() / "ifupdown2"
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.deb")):
        command = ["apt-get", "--option", "APT::Sandbox::User=root", "download", "ifupdown2"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return next(folder.glob("*.deb"))

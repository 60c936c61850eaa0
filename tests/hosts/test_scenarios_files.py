"""inetd.conf and the interfaces file: what update-inetd and editors do to them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts import states
from tests.hosts.host import STATIC, Host
from tests.hosts.scenario import Scene

CONF = "/etc/inetd.conf"
LINE = "daytime\tstream\ttcp\tnowait\troot\tinternal"
IDENT = "ident\t\tstream\ttcp\tnowait\tnobody\t/usr/sbin/identd\tidentd"
INTERFACES = "/etc/network/interfaces"
NETWORK = '[network]\ninterfaces = "interfaces"\ninterfaces_d = {}\n'

# How editors save: what each leaves under the name, and beside it. Vim, Emacs, nano or a careless `>`, sed -i.
SAVES = {
    "write": "cat {new} > {path}",
    "rename": "cp {new} {path}.tmp && mv {path}.tmp {path}",
    "vim": "mv {path} {path}~ && cat {new} > {path}",
    "emacs": "cp -p {path} {path}~ && cat {new} > {path} && ln -s root@dom0.1 {folder}/.#{name}",
    "sed": "cp {new} {folder}/sedXyZ123 && mv {folder}/sedXyZ123 {path}",
}


def save(scene: Scene, how: str, path: str, content: str) -> None:
    """Lets an editor save a file."""
    scene.host.put("/root/new", content)
    folder, _, name = path.rpartition("/")
    scene.host.run(SAVES[how].format(new="/root/new", path=path, folder=folder, name=name))


def active(host: Host, path: str = CONF) -> list[str]:
    """The lines of inetd.conf that are no comments."""
    return [line for line in host.read(path).splitlines() if line.strip() and not line.startswith("#")]


def ports(host: Host) -> set[int]:
    """What inetd listens on."""
    return {one.port for one in host.listeners() if one.process == "inetd"}


class TestInetd:
    """inetd itself is approved here, for one line of its own: discard."""

    STATE = states.state("inetd", inetd=["discard/tcp"], listeners=["tcp/9"])

    @pytest.fixture(autouse=True)
    def _ends_as_it_began(self, scene: Scene) -> Iterator[None]:
        pid = scene.host.running("inetd")[0].pid
        assert ports(scene.host) == {9}
        yield
        scene.host.wait_for(lambda: active(scene.host) == [active(scene.host)[0]], 10, "one active line")
        scene.host.wait_for(lambda: ports(scene.host) == {9}, 10, "inetd to close what it opened")
        scene.converge()
        assert scene.plan()["steps"] == []
        assert active(scene.host)[0].startswith("discard")
        assert [one.pid for one in scene.host.running("inetd")] == [pid], "told, not restarted"

    def test_update_inetd_add(self, scene: Scene) -> None:
        line = "finger\tstream\ttcp\tnowait\tnobody\t/usr/sbin/in.fingerd\tin.fingerd"
        scene.host.run(["update-inetd", "--add", line])
        scene.host.wait_for(lambda: f"#{line}" in scene.host.read(CONF), 10, "the new line to be commented out")
        scene.converge()
        assert "finger" in {record["service"] for record in scene.records()}

    def test_update_inetd_enable(self, scene: Scene) -> None:
        """What was off in Debian's own way, `#<off># `; ours, a single #, it leaves alone."""
        scene.host.run("sed -i 's/^#daytime/#<off># daytime/' /etc/inetd.conf; update-inetd --enable daytime,ident")
        scene.host.wait_for(lambda: len(active(scene.host)) == 1, 10, "the line to be commented out")
        assert any("daytime" in line for line in scene.host.read(CONF).splitlines() if line.startswith("#"))

    @pytest.mark.parametrize("how", SAVES)
    def test_an_editor_saves(self, scene: Scene, how: str) -> None:
        text = scene.host.read(CONF)
        save(scene, how, CONF, f"{text}{LINE}\n{IDENT}\n")
        scene.host.run("pkill -HUP -x inetd")
        scene.host.wait_for(lambda: f"#{LINE}" in scene.host.read(CONF), 10, "the line to be commented out")
        assert f"#{IDENT}" in scene.host.read(CONF)
        scene.host.wait_for(lambda: ports(scene.host) == {9}, 10, "the ports to be closed")
        scene.host.put(CONF, text)
        scene.host.run("rm -f /etc/inetd.conf~ /etc/.#inetd.conf")


class TestInterfaces:
    STATE = states.state(extra=NETWORK)

    @staticmethod
    def prepare(host: Host) -> None:
        """The address is static, by the file that the state declares."""
        host.use_static_address()
        host.put("/etc/dom0-reconciler/interfaces", STATIC)

    @pytest.mark.parametrize("how", SAVES)
    def test_an_editor_saves(self, scene: Scene, how: str) -> None:
        save(scene, how, INTERFACES, STATIC.replace("static", "dhcp"))
        scene.host.wait_for(lambda: scene.host.read(INTERFACES) == STATIC, 10, "the file to be restored")
        scene.converge()
        corrections = [record for record in scene.records() if record["action"]]
        assert corrections[-1]["target"] == INTERFACES
        assert scene.host.addresses() == ["192.0.2.10"], "the running network was left alone"
        scene.host.run("rm -f /etc/network/interfaces~ /etc/network/.#interfaces")

    @pytest.mark.parametrize("name", ["eth0~", "eth0.bak", "eth0.dpkg-new", "eth0"])
    def test_a_backup_name_that_ifupdown_reads(self, scene: Scene, name: str) -> None:
        path = f"/etc/network/interfaces.d/{name}"
        scene.host.put(path, "iface eth0 inet dhcp\n")
        scene.host.wait_for(lambda: not scene.host.exists(path), 10, "the file to go")
        scene.converge()
        assert "done" in {record["outcome"] for record in scene.records()}

    def test_deleted(self, scene: Scene) -> None:
        scene.host.run(["rm", INTERFACES])
        scene.host.wait_for(lambda: scene.host.exists(INTERFACES), 10, "the file to be restored")
        scene.converge()
        assert scene.host.read(INTERFACES) == STATIC

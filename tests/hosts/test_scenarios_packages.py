"""What packages bring back: the same version again, an upgrade, a new package, an interrupted installation.

Each time the operation itself must end well: a guard that makes dpkg or apt fail is worse than none.
"""

from __future__ import annotations

import pytest

from tests.hosts import repository
from tests.hosts.scenario import ARTICLE, SERVICES, Scene


def debs(scene: Scene, *names: str) -> list[str]:
    """The .debs that bring these services."""
    return [scene.host.deb(package) for name in names for package in SERVICES[name].packages]


def scripts_running(scene: Scene) -> list[str]:
    """The maintainer scripts that run."""
    return [word for one in scene.host.processes() for word in one.args if word.startswith("/var/lib/dpkg/info/")]


class TestInstalledAgain:
    @pytest.mark.parametrize("name", ["canna", "exim4", "rpcbind"])
    def test_dpkg_i_of_the_same_package(self, scene: Scene, name: str) -> None:
        scene.package(["dpkg", "-i", *debs(scene, name)])
        scene.off(name)

    def test_after_somebody_deleted_the_links(self, scene: Scene) -> None:
        """The sarge way to turn a service off; then `update-rc.d defaults` of each postinst puts all links back."""
        for name in ARTICLE:
            scene.host.run(f"find /etc/rc?.d -name '*[0-9]{SERVICES[name].script}' -delete")
        scene.package(["dpkg", "-i", *debs(scene, *ARTICLE)])
        scene.off(*ARTICLE)
        assert [name for name in ARTICLE if not scene.corrected(name)] == []


class TestUpgrade:
    def test_to_a_higher_version(self, scene: Scene) -> None:
        names = ("canna", "atd", "lpd", "inetd", "rpcbind")
        packages = [package for name in names for package in SERVICES[name].packages]
        higher = [repository.rebuilt(scene.host, package) for package in packages]
        scene.package(["apt-get", "--yes", "install", *higher])
        scene.off(*names)
        for package in packages:
            version = scene.host.run(["dpkg-query", "-Wf${Version}", package]).out
            assert version.endswith(repository.SUFFIX)


class TestNewPackage:
    def test_a_recommends_brings_a_daemon(self, scene: Scene) -> None:
        """`apt-get install libnss-mdns`, which recommends avahi-daemon: that is on the network at once."""
        repository.publish(scene.host)
        scene.package([*repository.APT, "--no-install-recommends", "install", "libnss-mdns"])
        assert not scene.host.exists("/usr/sbin/avahi-daemon")
        scene.off("avahi")
        assert scene.records() == []
        scene.package([*repository.APT, "purge", "libnss-mdns"])
        scene.package([*repository.APT, "--install-recommends", "install", "libnss-mdns"])
        scene.off("avahi")
        assert scene.corrected("avahi")

    def test_a_daemon_itself(self, scene: Scene) -> None:
        repository.publish(scene.host)
        scene.package([*repository.APT, "--no-install-recommends", "install", "tftpd-hpa"])
        scene.off("tftpd")
        assert scene.corrected("tftpd")

    def test_another_mail_transport_takes_the_place_of_ours(self, scene: Scene) -> None:
        repository.publish(scene.host)
        scene.package([*repository.APT, "install", "nullmailer"])
        scene.off("exim4")
        assert not scene.host.running("nullmailer-send")
        assert [link for link in scene.host.start_links() if link.endswith("nullmailer")] == []


class TestInterrupted:
    def test_dpkg_killed_and_then_configured(self, scene: Scene) -> None:
        """As by an impatient Ctrl-C, or a lost terminal."""
        scene.host.run("find /etc/rc?.d -name '*[0-9]canna' -delete")
        job = scene.host.spawn(["dpkg", "-i", *debs(scene, *ARTICLE)])
        scene.host.wait_for(lambda: "Setting up" in job.so_far.out, 60, "the first configuration")
        scene.host.run("pkill -9 -x dpkg")
        job.wait()
        scene.host.wait_for(lambda: not scripts_running(scene), 30, "the orphaned postinst to end")
        scene.package(["dpkg", "--configure", "-a"])
        scene.off(*ARTICLE)

    def test_unpacked_then_a_power_cut(self, scene: Scene) -> None:
        scene.host.run("find /etc/rc?.d -name '*[0-9]canna' -delete")
        scene.host.run(["dpkg", "--unpack", scene.host.deb("canna")])
        scene.host.reboot(hard=True)
        scene.host.start_daemon()
        scene.converge()
        scene.package(["dpkg", "--configure", "-a"])
        scene.off("canna")
        assert scene.corrected("canna")

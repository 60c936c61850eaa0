"""What brings start links back without a package: the tools for links, a restored backup, renames, a flood."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.hosts.scenario import ARTICLE, SCENE_SYSVINIT, SERVICES, Scene


class TestTools:
    @pytest.mark.parametrize("name", ["canna", "rpcbind", "inetd"])
    def test_update_rc_d_enable(self, scene: Scene, name: str) -> None:
        scene.host.run(["update-rc.d", SERVICES[name].script, "enable"])
        scene.off(name)
        assert scene.corrected(name)

    def test_update_rc_d_defaults_changes_nothing(self, scene: Scene) -> None:
        """The K links that an unlinking leaves are what keeps it so."""
        before = scene.host.tree("/etc/rc2.d")
        scene.host.run(["update-rc.d", "canna", "defaults"])
        scene.off("canna")
        assert scene.host.tree("/etc/rc2.d") == before
        assert scene.records() == []

    def test_update_rc_d_defaults_after_every_link_was_deleted(self, scene: Scene) -> None:
        scene.host.run("find /etc/rc?.d -name '*[0-9]exim4' -delete; update-rc.d exim4 defaults")
        scene.off("exim4")
        assert scene.corrected("exim4")

    @SCENE_SYSVINIT  # with systemd as its init no host has it
    def test_insserv(self, scene: Scene) -> None:
        """As a package of before 2015 calls it: the script's own defaults, whatever links it has."""
        scene.host.run("find /etc/rc?.d -name '*[0-9]atd' -delete; PATH=$PATH:/usr/lib/insserv insserv -d atd")
        scene.off("atd")
        assert scene.corrected("atd")

    def test_started_by_its_script_with_links(self, scene: Scene) -> None:
        # The guard may be quicker than the start, which is then cancelled.
        scene.host.run("update-rc.d canna enable; service canna start", check=False)
        scene.off("canna")


class TestFiles:
    def test_a_backup_of_rc2_d_is_restored(self, scene: Scene) -> None:
        """`cp -a` of what was there before the guard came. It may trip over a link that is gone before it is done."""
        scene.host.run("mkdir -p /root/backup/rc2.d && cd /root/backup/rc2.d && rm -f * && cp -a /etc/rc2.d/. .")
        scene.host.run("cd /root/backup/rc2.d && for k in K*; do mv $k S${k#K}; done")
        scene.host.run("cp -a /root/backup/rc2.d /etc", check=False)
        services = [name for name in ARTICLE if name not in ("rpcbind", "statd")]
        scene.off(*services)
        assert [name for name in services if not scene.corrected(name)] == []

    def test_the_directory_itself_is_renamed(self, scene: Scene) -> None:
        """Another takes its place: a watch on the old one would be deaf from then on."""
        scene.host.run("cp -a /etc/rc3.d /etc/rc3.new; ln -s ../init.d/lpd /etc/rc3.new/S20lpd")
        scene.host.run("mv /etc/rc3.d /etc/rc3.old && mv /etc/rc3.new /etc/rc3.d")
        scene.off("lpd")
        scene.host.run("ln -s ../init.d/canna /etc/rc3.d/S20canna")
        scene.off("canna")
        scene.host.run("rm -r /etc/rc3.d && mv /etc/rc3.old /etc/rc3.d && ln -s ../init.d/exim4 /etc/rc3.d/S20exim4")
        scene.off("exim4")
        assert {name for name in ("lpd", "canna", "exim4") if scene.corrected(name)} == {"lpd", "canna", "exim4"}

    def test_two_hundred_changes_in_a_second(self, scene: Scene, number: Callable[[str], None]) -> None:
        began = time.monotonic()
        scene.host.run(
            "cd /etc; for level in 2 3 4 5; do for n in $(seq 20 69); do"
            " ln -s ../init.d/canna rc$level.d/S${n}canna; done; done"
        )
        made = time.monotonic() - began
        scene.off("canna")
        done = [record for record in scene.corrected("canna") if record["action"] == "unlink"]
        assert len(done) == 200
        number(f"200 links in {made:.1f} s, all gone after {time.monotonic() - began:.1f} s")

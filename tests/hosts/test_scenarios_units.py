"""What systemd's own tools bring back, on the hosts that run it.

A start may fail, or be cancelled, because the guard's stop or mask overtakes it: that is how it should be.
"""

from __future__ import annotations

from tests.hosts import states
from tests.hosts.scenario import SCENE_SYSTEMD, Scene


@SCENE_SYSTEMD
class TestSystemctl:
    def test_enable_now_of_a_service(self, scene: Scene) -> None:
        scene.host.run(["systemctl", "enable", "--now", "atd.service"], check=False)
        scene.off("atd")
        assert scene.corrected("atd")

    def test_enable_now_of_a_socket(self, scene: Scene) -> None:
        scene.host.run(["systemctl", "enable", "--now", "rpcbind.socket"], check=False)
        scene.off("rpcbind")
        assert scene.corrected("rpcbind")

    def test_start_without_enabling(self, scene: Scene) -> None:
        scene.host.run(["systemctl", "start", "rpc-statd.service"], check=False)
        scene.off("statd", "rpcbind")
        assert scene.corrected("statd")

    def test_preset(self, scene: Scene) -> None:
        scene.host.run(["systemctl", "preset", "inetd.service", "atd.service", "rpcbind.socket", "rpcbind.service"])
        scene.off("inetd", "atd", "rpcbind")
        assert scene.corrected("rpcbind")

    def test_unmask_of_what_the_administrator_masked(self, scene: Scene) -> None:
        scene.host.run(
            "systemctl mask atd.service && systemctl unmask atd.service && systemctl enable --now atd", check=False
        )
        scene.off("atd")
        assert scene.corrected("atd")

    def test_an_enabled_script(self, scene: Scene) -> None:
        """`systemctl enable` of a script asks update-rc.d; the generator makes a unit of it."""
        scene.host.run(["systemctl", "enable", "--now", "lpd.service"], check=False)
        scene.off("lpd")
        assert scene.corrected("lpd")


@SCENE_SYSTEMD
class TestMask:
    """On a host of its own: where other scenarios have just started atd again and again, its mask waits by right."""

    STATE = states.state(mask=True)

    def test_unmask_of_what_the_product_masked(self, scene: Scene) -> None:
        assert masked(scene, "atd.service")
        scene.host.run("systemctl unmask atd.service; systemctl enable --now atd.service", check=False)
        scene.host.wait_for(lambda: masked(scene, "atd.service"), 60, "the mask again")
        scene.off("atd")
        assert scene.corrected("atd")


def masked(scene: Scene, unit: str) -> bool:
    """Whether a link to /dev/null stands for the unit."""
    path = f"/etc/systemd/system/{unit}"
    return scene.host.exists(path) and scene.host.tree("/etc/systemd/system")[path].content == b"/dev/null"

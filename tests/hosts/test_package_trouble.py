"""The package where something else goes on, or goes wrong: a lock, a kill, a full disk; and how it leaves a host.

Each host goes through all of it, in this order: what one has survived, the next begins with.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.hosts import debs, product, repository
from tests.hosts.commands import Job, Result
from tests.hosts.host import Host
from tests.hosts.supervisor import STAGE
from tests.hosts.trees import difference

IN_PLACE = "/var/tmp/{version}.deb"
OLD, NEW, NEWER = "0.0.9", "9.0", "9.1"
STATE = """\
version = 1
mode = "enforce"
include = ["/usr/share/dom0-reconciler/states/{suite}-xen.toml"]
"""
SLOW = """\
#!/bin/sh
touch /run/slow.began
while [ ! -e /run/slow.may-end ]; do sleep 0.1; done
"""
CONTROL = "Package: slow\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: slow\n"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The package under several versions, and another one whose configuration lasts until it may end."""
    if why := debs.missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("versions")
    made = {version: debs.of_version(debs.build(), version, folder) for version in (OLD, NEW, NEWER)}
    (folder / "slow/DEBIAN").mkdir(parents=True)
    (folder / "slow/DEBIAN/control").write_text(CONTROL)
    (folder / "slow/DEBIAN/postinst").write_text(SLOW)
    (folder / "slow/DEBIAN/postinst").chmod(0o755)
    slow = folder / "slow.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "--build", folder / "slow", slow], check=True, capture_output=True
    )
    return {**made, "slow": slow}


@pytest.fixture(scope="class")
def supplied(shared_host: Host, versions: dict[str, Path]) -> Host:
    """The host with all of these, and with its pool for apt."""
    for version, deb in versions.items():
        shared_host.put(IN_PLACE.format(version=version), deb.read_bytes())
    repository.publish(shared_host)
    return shared_host


def _dpkg(host: Host, version: str, *, check: bool = True) -> Result:
    return host.run(["dpkg", "--install", IN_PLACE.format(version=version)], timeout=180, check=check)


def _daemons(host: Host) -> set[int]:
    return {one.pid for one in host.processes() if one.args[-2:] == (product.COMMAND, "run")}


def _installed(host: Host) -> str:
    return host.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", product.NAME], check=False).out


def _whole(host: Host, version: str) -> None:
    """Installed, on guard, and what was ordered and written before is still there."""
    host.wait_for(lambda: product.status_code(host) == 0, 60, "the host to be held")
    assert _installed(host) == f"installed {version}"
    assert host.run(["dpkg", "--audit"]).out == ""
    assert len(_daemons(host)) == 1
    assert host.run([product.COMMAND, "log", "--verify"]).rc == 0


def _kept(host: Host) -> None:
    assert host.read(product.STATE) == STATE.format(suite=host.suite)
    assert "a long upgrade" in host.run([product.COMMAND, "status"], check=False).out
    assert host.tree("/var/lib/dom0-reconciler/quarantine")


def _killed(host: Host, job: Job, said: str) -> None:
    """dpkg ends by an impatient hand once it has said so much; what it had started ends by itself."""
    host.wait_for(lambda: said in job.so_far.out or not job.running, 60, f"dpkg to say {said}")
    host.run("pkill -9 -x dpkg", check=False)
    job.wait()
    scripts = ("/var/lib/dpkg/info/", "/var/lib/dpkg/tmp.ci/")
    host.wait_for(
        lambda: not [word for one in host.processes() for word in one.args if word.startswith(scripts)], 60, "scripts"
    )


def _room(host: Host, kilobytes: int | None) -> None:
    """So much is left on the host's disk; None for as much as there was."""
    enter = ["nsenter", "-t", str(host.control.pid), "-m", "--"]
    used = subprocess.run([*enter, "df", "--output=used", "-k", STAGE], check=True, capture_output=True, text=True)
    size = "50%" if kilobytes is None else f"{int(used.stdout.split()[-1]) + kilobytes}k"
    subprocess.run([*enter, "mount", "-o", f"remount,size={size}", STAGE], check=True)


class TestTrouble:
    def test_installed_while_another_package_is(self, supplied: Host) -> None:
        """dpkg has one lock: who does not wait is told, and nothing has happened; who waits gets it installed."""
        other = supplied.spawn(["dpkg", "--install", IN_PLACE.format(version="slow")])
        supplied.wait_for(lambda: supplied.exists("/run/slow.began"), 60, "the other package's postinst")
        refused = _dpkg(supplied, OLD, check=False)
        assert refused.rc != 0
        assert "lock" in refused.err
        assert not supplied.exists(product.COMMAND)
        waits = ["apt-get", "--yes", "--option=DPkg::Lock::Timeout=300", "install", IN_PLACE.format(version=OLD)]
        job = supplied.spawn(waits)
        supplied.put("/run/slow.may-end", "")
        assert other.wait(120).rc == 0
        assert job.wait(180).rc == 0, job.so_far.err
        _whole(supplied, OLD)
        assert [record for record in supplied.journal() if record.get("action")] == []

    def test_upgraded_together_with_what_it_stops(self, supplied: Host) -> None:
        """One transaction brings a new version of the guard, and what the guard is there to keep off."""
        supplied.put(product.STATE, STATE.format(suite=supplied.suite))
        supplied.wait_for(lambda: not supplied.running("cannaserver"), 60, "the correction")
        supplied.run([product.COMMAND, "pause", "2h", "chrony", "--reason", "a long upgrade"])
        both = [IN_PLACE.format(version=NEW), "tftpd-hpa"]
        assert supplied.run([*repository.APT, "install", *both], check=False, timeout=300).rc == 0
        supplied.wait_for(lambda: not supplied.running("in.tftpd"), 60, "the correction of what came along")
        _whole(supplied, NEW)
        assert [link for link in supplied.start_links() if link.endswith("tftpd-hpa")] == []
        _kept(supplied)

    @pytest.mark.parametrize("said", ["Preparing to unpack", "Unpacking", "Setting up"])
    def test_an_upgrade_killed(self, supplied: Host, said: str) -> None:
        """Wherever: somebody is on guard, and the ways that dpkg itself names lead out of it."""
        job = supplied.spawn(["dpkg", "--install", IN_PLACE.format(version=NEWER)])
        _killed(supplied, job, said)
        assert _daemons(supplied)
        supplied.run(["dpkg", "--configure", "-a"], check=False, timeout=180)
        _dpkg(supplied, NEWER)
        _whole(supplied, NEWER)
        _kept(supplied)

    def test_an_upgrade_on_a_full_disk(self, supplied: Host) -> None:
        """It fails, unpacking or compiling; somebody is on guard, and with room again it goes through."""
        _room(supplied, 64)
        try:
            failed = _dpkg(supplied, NEW, check=False)
            assert failed.rc != 0
            assert "No space left" in failed.out + failed.err
            supplied.wait_for(lambda: product.status_code(supplied) == 0, 60, "the host to be held")
            assert len(_daemons(supplied)) == 1
        finally:
            _room(supplied, None)
        supplied.run(["dpkg", "--configure", "-a"], check=False, timeout=180)  # others' triggers may have been in it
        _dpkg(supplied, NEW)
        _whole(supplied, NEW)
        _kept(supplied)

    def test_removed_the_host_is_as_approved(self, supplied: Host) -> None:
        """Nothing comes back with the guard's end, nor with the next boot; what is left of it is its own."""
        etc, links = supplied.tree(), set(supplied.start_links())
        assert [link for link in links if link.endswith(product.NAME)], "it has approved itself"
        listening = {one.name for one in supplied.listeners() if one.proto != "unix"}
        supplied.run(["dpkg", "--remove", product.NAME])
        assert _daemons(supplied) == set()
        changed = re.findall(r"^[-+!] (\S+)", difference(etc, supplied.tree()), re.MULTILINE)
        assert [path for path in changed if not re.search(r"dom0-reconciler|ld\.so\.cache", path)] == []
        assert set(supplied.start_links()) == links
        assert {one.name for one in supplied.listeners() if one.proto != "unix"} == listening
        supplied.reboot()
        supplied.wait_for(lambda: supplied.running("sshd") and supplied.running("cron"), 60, "what is approved")
        off = ("cannaserver", "exim4", "rpcbind", "rpc.statd", "lpd", "inetd", "in.tftpd")
        assert [name for name in off if supplied.running(name)] == []

"""What Debian's own tools say of the package: lintian, piuparts, apt in the least of all roots, autopkgtest.

Minutes long, with a network: `scripts/test-deb` runs these, and sets up what they need.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.hosts import debs, repository, roots
from tests.hosts.bare import bare
from tests.hosts.host import ADDRESS, Host
from tests.hosts.recipes import SUITES, Suite

pytestmark = pytest.mark.tools
WEIGHT = {"bookworm": (10, 3500), "trixie": (11, 3700)}
"""What the package may bring along beside Python itself: packages, and kB of them. pyasyncore is Debian 13's."""

COPY = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
mount -t proc proc /mnt/root/proc
mount --rbind /dev /mnt/root/dev
cp /etc/resolv.conf /mnt/root/etc/resolv.conf 2>/dev/null || true
cp -r "$2" /mnt/root/srv/built
printf '#!/bin/sh\\nexit 101\\n' >/mnt/root/usr/sbin/policy-rc.d
chmod +x /mnt/root/usr/sbin/policy-rc.d
shift 2
exec chroot /mnt/root "$@"
"""
"""A copy of a root with the built package, in namespaces that end with the command."""

PIUPARTS = """
set -e
mount -t tmpfs tmpfs /mnt
exec piuparts --tmpdir /mnt --existing-chroot "$1" --distribution "$2" --keep-sources-list \\
    --ignore /var/lib/logrotate/status --ignore-regex '/var/cache/debconf/tmp.ci.*' "$3"/*.deb
"""
"""What is ignored is none of ours: piuparts itself calls logrotate, and Debian 13's debconf keeps its folder."""

NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--ipc", "--uts")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Source and binary package, as one would upload them."""
    folder = tmp_path_factory.mktemp("built")
    subprocess.run([debs.CHECKOUT / "scripts/deb", folder], check=True, capture_output=True)
    folder.chmod(0o755)
    return folder


def _namespaced(script: str, *arguments: object) -> CompletedProcess[str]:
    command = [*NAMESPACES, "sh", "-c", script, "sh", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)


def _in_copy(root: roots.Root, built: Path, command: Sequence[str]) -> CompletedProcess[str]:
    return _namespaced(COPY, root.path, built, *command)


@pytest.mark.parametrize("suite", SUITES)
def test_lintian_of_this_release_has_nothing_to_say(suite: Suite, built: Path) -> None:
    """Of the source package as well. That Debian 13's standards are unknown to Debian 12's lintian is no fault."""
    options = ["--info", "--display-info", "--pedantic", "--tag-display-limit=0"]
    options += ["--suppress-tags=newer-standards-version"] if suite == "bookworm" else []
    nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    command = f"cd /srv/built && exec {nobody} lintian {' '.join(options)} *.changes"
    said = _in_copy(roots.build_from(bare(suite, "lintian")), built, ["sh", "-c", command])
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.parametrize("suite", SUITES)
def test_piuparts_finds_nothing_left(suite: Suite, built: Path) -> None:
    """logrotate is there: piuparts would bring it, and blame us for what comes with it."""
    root = roots.build_from(bare(suite, "logrotate"))
    said = _namespaced(PIUPARTS, root.path, suite, built)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "PASS: Installation and purging test." in said.stdout
    assert "PASS: All tests." in said.stdout


INSTALL = """
set -e
export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
apt-get -qq update
apt-get -qq install --no-install-recommends python3 >/dev/null 2>&1
dpkg-query -W -f '${Package} ${Installed-Size}\\n' >/tmp/before
apt-get -qq install --no-install-recommends /srv/built/*.deb >&2
dpkg --audit
dpkg-query -W -f '${Package} ${Installed-Size}\\n' | grep -vxFf /tmp/before
"""
USE = """
set -e
dom0-reconciler check >&2
dom0-reconciler plan >&2 || [ $? = 2 ]
dom0-reconciler approve cron >&2
dom0-reconciler --root / log --verify >&2
/usr/bin/python3 -c 'import sys; sys.path.insert(0, "/usr/share/dom0-reconciler"); import reconciler.commands.run' >&2
"""


@pytest.mark.parametrize("suite", SUITES)
def test_the_least_of_all_roots_is_enough(suite: Suite, built: Path, number: Callable[[str], None]) -> None:
    """Without Recommends, where there is nothing but apt: it installs, works, and brings no more than it says."""
    said = _in_copy(roots.build_from(bare(suite)), built, ["sh", "-c", INSTALL + USE])
    assert said.returncode == 0, said.stdout + said.stderr
    came = {name: int(size) for name, size in map(str.split, said.stdout.splitlines())}
    came.pop("dom0-reconciler")
    number(f"{len(came)} packages of {sum(came.values())} kB come along: {', '.join(sorted(came))}")
    packages, kilobytes = WEIGHT[suite]
    assert len(came) <= packages
    assert sum(came.values()) <= kilobytes


def test_autopkgtest_passes(host: Host, built: Path, tmp_path: Path) -> None:
    """debian/tests by the tool that Debian runs them with, over ssh, on a booted host that has the package."""
    host.use_static_address()
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    host.put("/root/.ssh/authorized_keys", key.with_suffix(".pub").read_text(), 0o600)
    (deb,) = built.glob("*.deb")
    host.put("/root/it.deb", deb.read_bytes())
    repository.publish(host)
    host.run("mv /etc/apt/pool.list /etc/apt/sources.list && rm -rf /etc/apt/sources.list.d && apt-get -qq update")
    host.run("apt-get --yes install /root/it.deb", timeout=180)
    source = tmp_path / "source"
    (dsc,) = built.glob("*.dsc")
    subprocess.run(["dpkg-source", "--extract", dsc, source], check=True, capture_output=True)
    way = ["ssh", "-H", ADDRESS, "-l", "root", "-i", str(key), "--capability=isolation-container"]
    way += ["--options=-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"]
    said = host.from_lan(["autopkgtest", "--no-built-binaries", str(source), "--", *way], check=False, timeout=600)
    assert said.rc == 0, said.out + said.err
    results = [line.split() for line in said.err.partition("@@@ summary")[2].splitlines() if line.strip()]
    assert results == [["smoke", "PASS"], ["hold", "PASS"]]

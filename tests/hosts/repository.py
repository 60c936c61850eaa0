"""An apt repository in a host, without a network: the pool of .debs, and packages made anew with a higher version.

repository.publish(host)
host.run([*repository.APT, "install", "libnss-mdns"])
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
from pathlib import Path

from tests.hosts.host import Host
from tests.hosts.roots import Root

FOLDER = "/srv/repository"
APT = (
    *("apt-get", "--yes", "--option=Dir::Etc::SourceList=/etc/apt/pool.list", "--option=Dir::Etc::SourceParts=-"),
    *("--option=Dpkg::Options::=--force-confdef", "--option=Dpkg::Options::=--force-confold"),
)
SUFFIX = "+rebuilt"


def publish(host: Host, of: Root | None = None) -> None:
    """Makes a pool the only source of apt: the host's own, or what is installed in another root and its pool."""
    if of is None:
        host.run(f"mkdir -p {FOLDER} && ln -sfn /media/debs {FOLDER}/pool")
        debs = sorted(host.root.debs.glob("*.deb"))
    else:
        debs = sorted(of.debs / of.deb(package) for package in (*of.installed(), *of.recipe.pool))
        host.run(f"rm -rf {FOLDER}")
        for deb in debs:
            host.put(f"{FOLDER}/pool/{deb.name}", deb.read_bytes())
    host.put(f"{FOLDER}/Packages", "".join(map(_stanza, debs)))
    host.put("/etc/apt/pool.list", f"deb [trusted=yes] file:{FOLDER} ./\n")
    host.run([*APT, "update"])


@functools.cache
def _stanza(deb: Path) -> str:
    """What dpkg-scanpackages would say of it; the machine may not have that."""
    control = subprocess.run(["dpkg-deb", "--field", str(deb)], capture_output=True, text=True, check=True).stdout
    with deb.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"{control.rstrip()}\nFilename: pool/{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n\n"


def rebuilt(host: Host, package: str) -> str:
    """The path of the same package with a higher version, as a security update brings it."""
    target = f"/var/tmp/{package}{SUFFIX}.deb"
    host.run(
        f"set -e; rm -rf /var/tmp/tree; dpkg-deb -R {host.deb(package)} /var/tmp/tree;"
        f"sed -i '/^Version:/s/$/{SUFFIX}/' /var/tmp/tree/DEBIAN/control; dpkg-deb -b /var/tmp/tree {target}"
    )
    return target

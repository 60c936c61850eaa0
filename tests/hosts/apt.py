"""What this machine's own apt knows: the mirror, the keyring and the options its administrator chose.

A root must be buildable wherever the machine itself can install packages, behind a proxy or from a local
mirror included; so nothing is assumed that apt can be asked for.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR_VARIABLE = "DOM0_RECONCILER_MIRROR"
NO_MIRROR = f"apt here knows no Debian mirror: run apt-get update, add one to its sources, or set {MIRROR_VARIABLE}"

# Options of the machine that decide whether its mirror can be reached and is believed.
PASSED_ON = ("Acquire::http::", "Acquire::https::", "Acquire::Check-Valid-Until", "Acquire::Check-Date")


@dataclass(frozen=True)
class Source:
    """One archive, as a sources.list line needs it."""

    mirror: str
    keyring: str | None

    def line(self, suite: str) -> str:
        """The one-line form; without a keyring apt falls back on the machine's trusted ones."""
        signed = f"[signed-by={self.keyring}] " if self.keyring else ""
        return f"deb {signed}{self.mirror} {suite} main"


def debian_source() -> Source | None:
    """The Debian main archive: the variable's, else the one the machine uses; None, of which NO_MIRROR tells."""
    keyring = DEFAULT_KEYRING if Path(DEFAULT_KEYRING).exists() else None
    if chosen := os.environ.get(MIRROR_VARIABLE):
        return Source(chosen, keyring)
    for target in _index_targets():
        if target.get("Origin") == target.get("Label") == "Debian" and target.get("Component") == "main":
            return Source(target["Repo-URI"].rstrip("/"), keyring or target.get("Signed-By"))
    return None


def options() -> Iterator[str]:
    """The machine's proxies and validity rules, in the syntax of apt.conf."""
    for line in _output("apt-config", "dump").splitlines():
        if line.startswith(PASSED_ON) and not line.rstrip().endswith('"";'):
            yield line


def _index_targets() -> Iterator[dict[str, str]]:
    for stanza in _output("apt-get", "indextargets", "Created-By: Packages").split("\n\n"):
        pairs = (line.split(": ", 1) for line in stanza.splitlines() if ": " in line)
        yield dict(pairs)


def _output(*command: str) -> str:
    """Empty where the command is missing: a machine without apt may still hold cached roots."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return ""

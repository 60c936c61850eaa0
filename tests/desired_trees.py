"""Trees of state files for the tests: copied, so that a checkout's own modes do not matter."""

from __future__ import annotations

import shutil
from pathlib import Path

from reconciler.desired import DesiredState, load
from reconciler.errors import Unobservable
from reconciler.host.state import Hop
from reconciler.host.statefiles import StateFiles
from reconciler.model import FileState

STATES = Path(__file__).parent / "states"
SERVICES = FileState(
    b"""# Network services, Internet style
ssh\t\t22/tcp\t\t\t\t# SSH Remote Login Protocol
domain\t\t53/tcp
domain\t\t53/udp
bootpc\t\t68/udp
sunrpc\t\t111/tcp\tportmapper
sunrpc\t\t111/udp\tportmapper
auth\t\t113/tcp\tauthentication tap ident
syslog\t\t514/udp
ftp-data\t20/tcp
broken
broken2\t\t99999/tcp
broken3\t\tssh/tcp
"""
)


def copied(case: Path, to: Path) -> Path:
    """The case as a tree that only its owner may write."""
    target = to / case.name
    shutil.copytree(case, target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def read(path: str, shipped: tuple[str, ...] = (), built: set[str] | None = None) -> DesiredState:
    """Load through the real reader, with an /etc/services that is the same everywhere."""
    return load(path, StateFiles(), shipped=shipped, built=built, port_names=lambda: SERVICES)


class Written:
    """A reader of files that exist only here, all of them trusted."""

    caller = 0

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    def walk(self, path: str) -> tuple[Hop, ...] | None:
        """The thing itself is the only hop."""
        path = path.rstrip("/")
        if path in self._files:
            return (Hop(path, "file", 0, 0o644),)
        if any(name.startswith(f"{path}/") for name in self._files):
            return (Hop(path, "folder", 0, 0o755),)
        return None

    def read(self, path: str) -> FileState:
        """A file's bytes."""
        if path not in self._files:
            raise Unobservable("no such file")
        return FileState(self._files[path])

    def names(self, folder: str) -> tuple[str, ...]:
        """The names in a folder."""
        return tuple(sorted(n.removeprefix(f"{folder}/") for n in self._files if n.startswith(f"{folder}/")))

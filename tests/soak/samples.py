"""What the daemon takes of the host, measured from outside: this machine's /proc, and the files it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tests.hosts.host import Host

HOME = "var/lib/dom0-reconciler"
GROWN = 4096
"""KiB of memory by which the last quarter of a run may lie above the first: an allocator's fragments, no leak."""

MORE = 6
"""Descriptors beyond those of the first quarter: a stop or a look that is under way while it is sampled. Folders, which
a reaction keeps open, have a bound of their own (``host/folders.py``) and are not among them."""

RECORD, KEPT = 900, 16384
"""Bytes in the journal (an intent and its outcome are two of them) and in the quarantine for each correction."""


@dataclass(frozen=True)
class Sample:
    """One look; memory in KiB, files in bytes."""

    seconds: float
    pid: int
    rss: int
    pss: int
    descriptors: int
    threads: int
    journal: int
    quarantine: int

    HEADER: ClassVar[str] = (
        f"{'minute':>6} {'RSS KiB':>8} {'PSS KiB':>8} {'fds':>4} {'threads':>7} {'journal':>9} {'quarantine':>10}"
    )

    @property
    def line(self) -> str:
        """A row of the table."""
        return (
            f"{self.seconds / 60:>6.1f} {self.rss:>8,} {self.pss:>8,} {self.descriptors:>4} {self.threads:>7} "
            f"{self.journal:>9,} {self.quarantine:>10,}"
        )


def sample(host: Host, seconds: float) -> Sample:
    """How the daemon is at this moment."""
    daemon = next(one for one in host.processes() if one.args[-1:] == ("run",) and "reconciler" in " ".join(one.args))
    folder = Path("/proc", str(daemon.outer))
    memory = _fields(folder / "smaps_rollup")
    home = Path("/proc", str(host.pid), "root", HOME)
    return Sample(
        seconds,
        daemon.pid,
        memory["Rss"],
        memory["Pss"],
        sum(not each.is_dir() for each in (folder / "fd").iterdir()),
        _fields(folder / "status")["Threads"],
        sum(file.stat().st_size for file in home.glob("journal*")),
        sum(file.stat().st_size for file in (home / "quarantine").rglob("*") if file.is_file()),
    )


def _fields(file: Path) -> dict[str, int]:
    words = (line.replace(":", " ").split() for line in file.read_text().splitlines())
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdecimal()}


def growth(samples: Sequence[Sample], corrections: int) -> Iterator[str]:
    """What grew beyond its bounds, from the first quarter to the last."""
    if len({one.pid for one in samples}) > 1:
        yield "the daemon was started anew"
    quarter = max(1, len(samples) // 4)
    first, last = samples[:quarter], samples[-quarter:]
    bounds: tuple[tuple[str, Callable[[Sample], int], int], ...] = (
        ("RSS", lambda one: one.rss, GROWN),
        ("PSS", lambda one: one.pss, GROWN),
        ("descriptors", lambda one: one.descriptors, MORE),
        ("threads", lambda one: one.threads, 0),
    )
    for name, read, allowed in bounds:
        before, after = min(map(read, first)), min(map(read, last))
        if after > before + allowed:
            yield f"{name} grew from {before:,} to {after:,}"
    if samples and samples[-1].journal > 2 * RECORD * (corrections + 100):
        yield f"the journal has {samples[-1].journal:,} bytes for {corrections} corrections"
    if samples and samples[-1].quarantine > KEPT * (corrections + 100):
        yield f"the quarantine has {samples[-1].quarantine:,} bytes for {corrections} corrections"

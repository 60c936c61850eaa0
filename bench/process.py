"""One measured process: pinned, looked at from outside through /proc, and ended with all that came with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PATIENCE = 30.0
_FURNISHED = b"contender"  # what bench/live.sh calls its last shell


@cache
def cpus() -> tuple[int, int]:
    """The harness's processor and the contenders'; the same one where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


@contextmanager
def on(cpu: int) -> Iterator[None]:
    """Whatever is started in this block runs on that processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class Memory:
    """MiB of one process."""

    rss: float
    pss: float
    uss: float


@dataclass(frozen=True)
class Work:
    """What a process has used since it began: nanoseconds on a processor, times it went there."""

    ns: int
    turns: int

    def __sub__(self, other: Work) -> Work:
        return Work(self.ns - other.ns, self.turns - other.turns)


def memory_of(pid: int) -> Memory:
    """Of one process (``/proc/PID/smaps_rollup``, kB); of one that has just ended, nothing."""
    fields = dict.fromkeys(("Rss", "Pss", "Private_Clean", "Private_Dirty"), 0)
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, _, value = line.partition(":")
            fields[name] = int(value.split()[0])
    own = fields["Private_Clean"] + fields["Private_Dirty"]
    return Memory(fields["Rss"] / 1024, fields["Pss"] / 1024, own / 1024)


class Running:
    """A contender at work. ``pid`` is its own, whatever was needed to start it."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, inside: bool = False, said: Path
    ) -> None:
        """``inside``: the command is bench/live.sh, whose shell becomes the first process of a host of its own."""
        self.said = said
        self.began = time.perf_counter()
        with said.open("wb") as output, on(cpus()[1]):
            self.process = subprocess.Popen(
                list(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
            )
        self.pid = self.process.pid
        if inside:
            self.pid = self._child_of(self._child_of(self.pid), furnished=True)

    def _child_of(self, pid: int, *, furnished: bool = False) -> int:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if children and (_FURNISHED in words or not furnished):
                    return int(children[0])
            time.sleep(0.002)
        raise RuntimeError(f"it did not start: {self.says()}")

    def says(self) -> str:
        """What it wrote."""
        return self.said.read_text(errors="replace")[-2000:]

    def family(self) -> list[int]:
        """It and everything below it that runs now."""
        found, at = [self.pid], 0
        while at < len(found):
            with suppress(OSError):
                for task in os.listdir(f"/proc/{found[at]}/task"):
                    children = Path(f"/proc/{found[at]}/task/{task}/children").read_text()
                    found += map(int, children.split())
            at += 1
        return found

    def work(self) -> Work:
        """Of its whole family, all threads."""
        total = Work(0, 0)
        for pid in self.family():
            with suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    text = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text()
                    ns, _, turns = map(int, text.split())
                    total = Work(total.ns + ns, total.turns + turns)
        return total

    def asleep(self) -> bool:
        """Whether all of it waits for something; what was only put off by others is not asleep."""
        for pid in self.family():
            with suppress(OSError):
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                if state not in "SZ":
                    return False
        return True

    def settle(self, still: float = 0.004) -> None:
        """Until it has slept for so many seconds."""
        deadline = time.monotonic() + PATIENCE
        before = self.work()
        while time.monotonic() < deadline:
            time.sleep(still)
            now = self.work()
            if now == before and self.asleep():
                return
            before = now
        raise RuntimeError(f"it does not come to rest: {self.says()}")

    def memory(self) -> Memory:
        """Of its whole family: resident, proportional, its own."""
        each = [memory_of(pid) for pid in self.family()]
        return Memory(sum(m.rss for m in each), sum(m.pss for m in each), sum(m.uss for m in each))

    def hang_up(self) -> None:
        """SIGHUP."""
        os.kill(self.pid, signal.SIGHUP)

    def close(self) -> None:
        """End it, and whatever it started."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15 if self.pid == self.process.pid else 0.3)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def hog(cpu: int) -> Iterator[None]:
    """Something that wants that whole processor while the block lasts."""
    with on(cpu):
        process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        yield
    finally:
        process.kill()
        process.wait()

"""The daemon on a real Debian host under random reintroductions, for hours. See `scripts/soak`.

Each subject (a service, a line of inetd's, a file) is brought back by one of the tools that do so in life, then left in
peace for a while, so that no contest arises; between them the daemon is disturbed in ways that must not matter. Both
sides are counted: what was brought back, and what the journal says was corrected for it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.hosts import product
from tests.hosts.host import Host, boot
from tests.hosts.scenario import Scene
from tests.soak.deeds import STATE, Deed, deeds, disturb, prepare
from tests.soak.samples import Sample, growth, sample

REST = 100.0
"""Seconds that a subject is left alone: longer than what the product takes for quiet (90 s)."""

PATIENCE = 180.0
"""Seconds until what was brought back counts as lost; the machine may have other work."""

SAMPLED = 30.0
WARM = 300.0
"""Seconds between samples; and until the first that counts: by then everything was imported and cached once."""


@dataclass
class Tally:
    """Both sides' counts."""

    done: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)
    cut_short: int = 0
    disturbed: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


class Soak:
    """One run on one host."""

    def __init__(self, host: Host, seed: int) -> None:
        self.host, self.scene = host, Scene(host)
        self.chance = random.Random(seed)
        self.tally = Tally()
        self._rested: dict[str, float] = {}
        self._next_sample = 0.0

    def begin(self) -> None:
        """The product in, the host corrected and at peace."""
        prepare(self.scene)
        self.scene.guard(STATE, timeout=PATIENCE)
        self.began = time.monotonic()

    def run(self, seconds: float) -> None:
        """One deed after the other until the time is over."""
        while time.monotonic() - self.began < seconds:
            self._sample()
            ready = [deed for deed in deeds(self.scene, self.chance) if self._is_rested(deed)]
            if not ready:
                time.sleep(1.0)
                continue
            self._one(self.chance.choice(ready))
            if self.chance.random() < 0.15:
                self.tally.disturbed[disturb(self.scene, self.chance)] += 1
            time.sleep(self.chance.uniform(0.0, 8.0))
        self._sample(always=True)

    def _is_rested(self, deed: Deed) -> bool:
        return time.monotonic() - self._rested.get(_family(deed), -REST) >= REST

    def _one(self, deed: Deed) -> None:
        mark, label = len(self.host.journal()), f"{deed.subject} by {deed.how}"
        deed.do()
        start = time.monotonic()
        try:
            self.host.wait_for(deed.undone, PATIENCE)
        except AssertionError:
            self.tally.lost.append(f"{label}, {time.monotonic() - self.began:.0f} s after the start")
        self.tally.seconds.append(time.monotonic() - start)
        self.tally.done[label] += 1
        if not self._recorded(deed, mark):
            self.tally.unrecorded.append(label)
        self._rested[_family(deed)] = time.monotonic()
        say(f"{time.monotonic() - self.began:7.0f} s  {label}: {self.tally.seconds[-1]:.2f} s")

    def _recorded(self, deed: Deed, mark: int) -> bool:
        """Whether the journal says that something of it was corrected; a stop's outcome may be a moment behind.

        A start that is cut short counts too, though its stop is ``failed``: the start script's own helpers outlive it
        for a moment, and then nothing is left to correct. That it is gone was seen from outside.
        """

        def found() -> bool:
            records = [r for r in self.host.journal()[mark:] if r["service"] in deed.names or _is_of(r, deed)]
            words = {r["outcome"] for r in records if r["outcome"] in ("done", "failed")}
            if words == {"failed"}:
                self.tally.cut_short += 1
            return bool(words)

        try:
            return self.host.wait_for(found, PATIENCE)
        except AssertionError:
            return False

    def _sample(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if always or now >= self._next_sample:
            self._next_sample = now + SAMPLED
            self.tally.samples.append(sample(self.host, now - self.began))

    def end(self) -> None:
        """At peace again, every intent with its outcome, the chain whole."""
        self.scene.sound()


def _family(deed: Deed) -> str:
    """statd brings rpcbind with it: in turn they would make a contest, at whose end is a mask."""
    return {"statd": "rpcbind"}.get(deed.subject, deed.subject)


def _is_of(record: dict[str, str], deed: Deed) -> bool:
    return any(name in record["target"] for name in deed.names)


def report(soak: Soak) -> list[str]:
    """The summary, printed; what was not as it should be."""
    tally, records = soak.tally, soak.host.journal()
    corrections = Counter(r["service"] or r["target"] for r in records if r["outcome"] == "done")
    say("")
    counts = f"{len(tally.lost)} lost, {len(tally.unrecorded)} without a record, {tally.cut_short} cut short"
    say(f"{sum(tally.done.values())} reintroductions, {counts}")
    for label, count in sorted(tally.done.items()):
        say(f"  {count:>4}  {label}")
    say(f"{sum(tally.disturbed.values())} disturbances")
    for label, count in sorted(tally.disturbed.items()):
        say(f"  {count:>4}  {label}")
    say(f"{sum(corrections.values())} corrections in the journal, by service or path:")
    for label, count in sorted(corrections.items()):
        say(f"  {count:>4}  {label}")
    times = sorted(tally.seconds)
    say(f"gone after (s): median {_of(times, 0.5):.2f}, 95 % {_of(times, 0.95):.2f}, longest {times[-1]:.2f}")
    for line in _table(tally.samples):
        say(line)
    grown = growth([one for one in tally.samples if one.seconds >= WARM] or tally.samples, sum(corrections.values()))
    return [*(f"lost: {each}" for each in tally.lost), *(f"no record: {e}" for e in tally.unrecorded), *grown]


def _of(times: Sequence[float], share: float) -> float:
    return times[min(len(times) - 1, int(share * len(times)))]


def _table(samples: Sequence[Sample]) -> Iterable[str]:
    yield Sample.HEADER
    step = max(1, len(samples) // 15)
    yield from (one.line for one in [*samples[:-1:step], samples[-1]])


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """0 when nothing was lost and nothing grew."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=0.0)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**6, help="of what is done, and in what order")
    parser.add_argument("--suite", default="bookworm", choices=("bookworm", "trixie"))
    options = parser.parse_args()
    seconds = options.hours * 3600 + options.minutes * 60 or 3600.0
    say(f"{options.suite}, systemd, {seconds / 60:.0f} minutes, seed {options.seed}")
    with boot(options.suite, "systemd", settle=True) as host:
        soak = Soak(host, options.seed)
        soak.begin()
        soak.run(seconds)
        soak.end()
        wrong = report(soak)
        wrong += [] if product.status_code(host) == 0 else ["the daemon does not say that the host is converged"]
    for line in wrong:
        say(f"FAILED: {line}")
    say("failed" if wrong else "passed")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

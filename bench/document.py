"""Writes docs/performance.md and its plot from what was measured."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from bench.peerroot import HEAVY, PEERS, PeerRoot
from bench.plot import Bar, chart
from bench.reach import LIMIT, PRODUCT
from bench.report import between, document, duration
from bench.results import Facts, Results
from bench.run import Measures
from bench.stats import percentile

PAGE, PLOT = "docs/performance.md", "docs/performance.svg"


def write(checkout: Path, results: Results, root: PeerRoot | None) -> None:
    """Both files; what is outside the markers stays."""
    measures, page = results.measures(), checkout / PAGE
    fresh = document(measures, _facts(results, root), PLOT.rpartition("/")[2])
    page.write_text(between(page.read_text(), fresh))
    (checkout / PLOT).write_text(_plot(measures))


def _facts(results: Results, root: PeerRoot | None) -> list[str]:
    facts: Facts = results.facts
    day = time.strftime("%Y-%m-%d", time.gmtime(max(s["ended"] for s in results.sections.values())))
    took = sum(s["took"] for s in results.sections.values())
    command = "scripts/bench --all" if root and set(HEAVY) <= set(root.versions) else "scripts/bench"
    lines = [
        f"Measured on {day} by `{command}`, in {took / 60:.0f} minutes.",
        f"The machine: {facts['machine']}; {facts['pinned']}.",
        f"{facts['debian']}, Linux {facts['kernel']}, Python {facts['python']}, {facts['compiler']}.",
    ]
    if root:
        named = (f"{name} {root.versions[name]}" for name in (*PEERS, *HEAVY) if name in root.versions)
        lines.append(f"Peers: {', '.join(named)}.")
    return lines


def _plot(measures: Measures) -> str:
    """How long a reintroduced start link lives, whoever guards it."""
    rows = measures["link created"]
    bars = [
        Bar("C, the limit" if name == LIMIT else name, median(samples) * 1e3, percentile(samples, 99) * 1e3,
            duration(median(samples)), own=name == PRODUCT)
        for name, samples in sorted(rows.items(), key=lambda row: median(row[1]))
    ]  # fmt: skip
    return chart("How long a reintroduced start link lives: median, and the 99th of 100", bars, "ms")


def show(measures: Measures) -> str:
    """Every measure, for the terminal."""
    lines = []
    for measure, rows in measures.items():
        lines.append(measure)
        for name, samples in rows.items():
            numbers = (min(samples), percentile(samples, 50), percentile(samples, 95), percentile(samples, 99))
            cells = "".join(f"{value:14.6f}" for value in numbers)
            base = f"{median(samples) / median(rows[LIMIT]):10.2f} x C" if any(rows.get(LIMIT, ())) else ""
            lines.append(f"  {name:52}{len(samples):5}{cells}{base}")
    return "\n".join(["(least, p50, p95, p99)", *lines])

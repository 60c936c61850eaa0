"""What a run finds is written down at once, the first input of each place that raises, and the run goes on."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

Target = Callable[[bytes], None]


def guarded(target: Target, folder: Path) -> Target:
    """The target, its exceptions written down; one for each line that raises."""
    seen: set[str] = set()

    def run(data: bytes) -> None:
        try:
            target(data)
        except Exception as error:  # noqa: BLE001  (any exception that comes this far is a finding)
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__}-{Path(frame.filename).stem}-{frame.lineno}"
            if place not in seen:
                seen.add(place)
                (folder / place).write_bytes(data)
                (folder / f"{place}.txt").write_text("".join(traceback.format_exception(error)), errors="replace")

    return run

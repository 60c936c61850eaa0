"""``python3 -m demo_parts live`` in the namespaces that demo-world made; ``tree WHY`` anywhere else."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from demo_parts.tour import Tour

ENDS = (signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """The whole demonstration."""
    if sys.argv[1] == "live":
        return Tour(Path("/"), live=True).run()
    # Blocked while the folder is made, so that there is no moment at which it would be left.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    with tempfile.TemporaryDirectory(prefix="dom0-demo.") as folder:
        for each in ENDS:
            signal.signal(each, _leave)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        return Tour(Path(folder), live=False, confined=sys.argv[2] == "confined").run()


def _leave(number: int, _frame: FrameType | None) -> None:
    """An ordinary way out, so that the tree is removed; once, so that nothing cuts the removal short."""
    for each in ENDS:
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

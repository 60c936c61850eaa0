"""The command: what the launcher starts, and ``python3 -m reconciler`` from an uninstalled tree."""

from __future__ import annotations

import gc
import sys

gc.disable()  # what is imported stays: to look for garbage among it, again and again, is a sixth of a short command

from reconciler.cli import main  # noqa: E402  (right after that)


def start() -> int:
    """Run the command of this process; what is there when it ends goes with the process."""
    gc.freeze()
    gc.enable()
    try:
        return main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(start())

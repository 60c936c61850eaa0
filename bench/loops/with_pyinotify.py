"""The loop of pyinotify's own tutorial: a handler, a notifier. Its overflow is not handled. Usage: FOLDER..."""

from __future__ import annotations

import os
import sys

import pyinotify


class Handler(pyinotify.ProcessEvent):  # type: ignore[misc]  # pyinotify ships no types
    """Takes a stranger away."""

    def process_default(self, event: pyinotify.Event) -> None:
        """Any event that was asked for."""
        if event.name.startswith("S") and event.name[3:6] == "bad":
            try:
                os.unlink(event.pathname)
            except FileNotFoundError:
                pass


def main() -> None:
    """Guard the folders until killed."""
    manager = pyinotify.WatchManager()
    for folder in sys.argv[1:]:
        manager.add_watch(folder, pyinotify.IN_CREATE | pyinotify.IN_MOVED_TO)
    pyinotify.Notifier(manager, Handler()).loop()


if __name__ == "__main__":
    main()

"""The loop of watchdog's own tutorial: a handler, an observer, which waits in a thread. Usage: FOLDER..."""

from __future__ import annotations

import os
import sys

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer


class Handler(FileSystemEventHandler):
    """Takes a stranger away."""

    def on_created(self, event: FileSystemEvent) -> None:
        """A new name."""
        self.remove(str(event.src_path))

    def on_moved(self, event: FileSystemEvent) -> None:
        """A name that came from elsewhere."""
        self.remove(str(event.dest_path))

    def remove(self, path: str) -> None:
        """Take it away if it is a stranger's."""
        name = os.path.basename(path)
        if name.startswith("S") and name[3:6] == "bad":
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass


def main() -> None:
    """Guard the folders until killed."""
    observer = Observer()
    for folder in sys.argv[1:]:
        observer.schedule(Handler(), folder)
    observer.start()
    observer.join()


if __name__ == "__main__":
    main()

"""What a pass of the quarantine is on disk: a folder with a manifest, and the contents that it names.

A pass's folder is filled under another name and then renamed, so that it is there whole or not. It may be made long
before it is needed: between a change on disk and its correction lie fewer calls then, and one wait for the disk less.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from reconciler.digest import sha256
from reconciler.host.folders import identity_of
from reconciler.storage import store

MANIFEST = "manifest.jsonl"


class Blobs:
    """The numbered contents of one pass; the same content is kept once."""

    def __init__(self, folder: int) -> None:
        self._folder = folder
        self._names: dict[bytes, str] = {}

    def put(self, content: bytes) -> str:
        """Put a content away, durable but for its name; that name."""
        key = sha256(content).digest()
        name = self._names.get(key)
        if name is None:
            name = str(1 + max((int(name) for name in os.listdir(self._folder) if name.isdecimal()), default=0))
            store.create(self._folder, name, content)
            self._names[key] = name
        return name

    def settle(self) -> None:
        """Make the contents' names durable: after a power cut no manifest may name what is not there."""
        if self._names:
            os.fsync(self._folder)

    def discard(self) -> None:
        """Take them away again."""
        for name in self._names.values():
            with suppress(OSError):
                os.unlink(name, dir_fd=self._folder)


def append(folder: int, lines: bytes) -> None:
    """Add lines to the manifest; the caller makes its name durable."""
    with suppress(FileExistsError):  # it is there only where a pass keeps a second time
        store.create(folder, MANIFEST, lines)
        return
    fd = store.open_write(folder, MANIFEST)
    try:
        size = os.fstat(fd).st_size
        torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        store.append(fd, b"\n" * torn + lines, size)
    finally:
        with suppress(OSError):  # what was synced is there, whatever close(2) says
            os.close(fd)


class Ahead:
    """A pass's folder before it has its name: empty, with an empty manifest whose name is durable in it."""

    def __init__(self, above: int) -> None:
        """Make it in the open folder of all passes. Raises ``OSError``."""
        self.fd, self._manifest = -1, -1
        self._name = f"{store.TEMPORARY}{os.urandom(4).hex()}"
        os.mkdir(self._name, 0o700, dir_fd=above)
        try:
            self.fd = os.open(self._name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
            self._manifest = store.open_write(self.fd, MANIFEST)
            self._identity = identity_of(os.fstat(self._manifest))
        except BaseException:
            self.remove(above)
            raise

    def is_there(self, above: int) -> bool:
        """Whether it still lies in that folder, as it was made."""
        try:
            return identity_of(os.lstat(f"{self._name}/{MANIFEST}", dir_fd=above)) == self._identity
        except OSError:
            return False

    def write(self, lines: bytes) -> None:
        """Make the manifest's lines durable. Raises ``OSError``."""
        store.append(self._manifest, lines, 0)

    def become(self, above: int, pass_id: str) -> bool:
        """Be that pass from now on; the caller makes its name durable. False where there is one already.

        Raises ``OSError``.
        """
        try:
            os.rename(self._name, pass_id, src_dir_fd=above, dst_dir_fd=above)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True

    def close(self) -> None:
        """Let the descriptors go; whatever close(2) says, what was synced is there."""
        for fd in (self.fd, self._manifest):
            with suppress(OSError):
                if fd >= 0:
                    os.close(fd)
        self.fd = self._manifest = -1

    def __del__(self) -> None:
        self.close()

    def remove(self, above: int) -> None:
        """Take it away again; what is in it besides the manifest keeps it."""
        with suppress(OSError):
            if self.fd >= 0:
                os.unlink(MANIFEST, dir_fd=self.fd)
        with suppress(OSError):
            os.rmdir(self._name, dir_fd=above)
        self.close()

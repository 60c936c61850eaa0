"""The kernel argument ``dom0-reconciler=off`` or ``=observe``: the last word, given at the boot prompt."""

from __future__ import annotations

import os
from typing import Literal, cast, get_args

from reconciler.host.files import Root
from reconciler.host.kernel import PROC, is_live

BootWord = Literal["", "off", "observe"]

ARGUMENT = "dom0-reconciler="
_LIMIT = 1 << 16
"""Bytes; no architecture's kernel takes a longer command line."""


def boot_word(root: Root) -> BootWord:
    """What the kernel was told, "" for nothing; always "" for a tree that is not the running system.

    A word that is not known counts as ``observe``: somebody wanted less than the state says, and misspelt it.
    """
    return parse(_command_line()) if is_live(root) else ""


def parse(line: str) -> BootWord:
    """The last one counts, as with the kernel's own arguments; what follows ``--`` is for init, and read as well."""
    words = [word.removeprefix(ARGUMENT) for word in line.split() if word.startswith(ARGUMENT)]
    if not words:
        return ""
    return cast(BootWord, words[-1]) if words[-1] in get_args(BootWord)[1:] else "observe"


def _command_line() -> str:
    try:
        fd = os.open(f"{PROC}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no /proc: nothing was said that could be read
        return ""
    try:
        return os.read(fd, _LIMIT).decode("utf-8", "replace")
    finally:
        os.close(fd)

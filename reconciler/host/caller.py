"""Who asks, for the records. It is what they say who may correct this host, no proof."""

from __future__ import annotations

import os

_OTHERS_WRITE = 0o022


def caller() -> str:
    """``root (uid 0)``, ``admin (uid 1000), by sudo``: ``sudo(8)`` tells by whom it was called."""
    sudo = os.environ.get("SUDO_UID", "")
    if os.getuid() == 0 and sudo.isdigit():
        return f"{_name(int(sudo))}, by sudo"
    return _name(os.getuid())


def may_be_trusted(uid: int, mode: int) -> bool:
    """Whether a file or a folder of ours is root's or the caller's, and nobody else may write it."""
    return (uid == 0 or uid == os.geteuid()) and not mode & _OTHERS_WRITE


def _name(uid: int) -> str:
    import pwd

    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except (KeyError, OverflowError):
        return f"uid {uid}"

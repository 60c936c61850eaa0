"""Seeing a correction the moment it is there: the harness looks all the time, on a processor of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

PATIENCE = 30.0


def until(is_so: Callable[[], bool], since: float, patience: float = PATIENCE) -> float:
    """Seconds from ``since`` (of ``perf_counter``) until it is so; raises ``TimeoutError``."""
    clock = time.perf_counter
    while not is_so():
        if clock() - since > patience:
            raise TimeoutError(f"not so within {patience:.0f} s")
    return clock() - since


def is_gone(path: str, fd: int) -> Callable[[], bool]:
    """A name below a folder's descriptor is not there."""

    def look(lstat: Callable[..., os.stat_result] = os.lstat) -> bool:
        try:
            lstat(path, dir_fd=fd)
        except FileNotFoundError:
            return True
        return False

    return look


def is_there(path: str, fd: int) -> Callable[[], bool]:
    """A name below a folder's descriptor is there."""
    gone = is_gone(path, fd)
    return lambda: not gone()


def holds(path: str, fd: int, fits: Callable[[bytes], bool]) -> Callable[[], bool]:
    """The file's content fits."""

    def look() -> bool:
        try:
            file = os.open(path, os.O_RDONLY, dir_fd=fd)
        except FileNotFoundError:
            return False
        try:
            return fits(os.read(file, 65536))
        finally:
            os.close(file)

    return look

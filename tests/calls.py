"""Noting which system calls are made, and in what order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def noting(calls: list[str], name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, its name noted each time."""

    def call(*arguments: Any) -> Any:
        calls.append(name)
        return real(*arguments)

    return call

"""Regular expressions that are compiled when they are first used.

The modules of a plan have forty of them, most plans use a third, and to compile one takes 50 to 400 us.
"""

from __future__ import annotations

import re
from typing import AnyStr, cast


class _Pattern:
    """Stands for what ``re.compile`` gives; after its first use a method is the compiled one's own."""

    def __init__(self, source: str | bytes, flags: int) -> None:
        self._source, self._flags = source, flags

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # as copy() asks for, before there is anything in a new one
            raise AttributeError(name)
        method = getattr(re.compile(self._source, self._flags), name)  # of the same two, re gives the same again
        setattr(self, name, method)
        return method


def pattern(source: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """``re.compile``, put off. What is wrong with ``source`` is raised when it is used."""
    return cast("re.Pattern[AnyStr]", _Pattern(source, flags))

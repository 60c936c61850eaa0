"""The one action on the running network, as a value: :mod:`reconciler.model` has all others, and is full."""

from __future__ import annotations

from typing import ClassVar

from reconciler.values import Value


class ApplyNetwork(Value):
    """Have the running network follow the files; it reverts by itself unless somebody confirms it.

    By ``ifup`` what is in ``down`` is taken down as the files before defined it, and ``up`` brought up as they define
    it now, ``perhaps`` only where it was up before. ``digest`` names what is declared; ``seconds`` is how long a
    confirmation is waited for.
    """

    tool: str
    down: tuple[str, ...]
    up: tuple[str, ...]
    perhaps: tuple[str, ...] = ()
    digest: str = ""
    seconds: float = 120.0
    service: ClassVar[str] = "network"  # under which it is in flight

    @property
    def interfaces(self) -> str:
        """The interfaces it is about, each once."""
        return " ".join(dict.fromkeys((*self.up, *self.perhaps, *reversed(self.down))))

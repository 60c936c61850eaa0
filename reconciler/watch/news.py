"""What a watcher tells: many changes become one wake."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from reconciler.model import Place, Wake
from reconciler.text import escape


class News:
    """The changes of one drain: the dirty places, how many changes there were, the first one of each in words."""

    __slots__ = ("causes", "count", "first", "names", "places")

    def __init__(self) -> None:
        self.places: set[Place] = set()
        self.causes: dict[Place, str] = {}
        self.names: dict[Place, set[str]] = {}
        self.first = ""
        self.count = 0

    def tell(self, places: Collection[Place], folder: str, name: str, verb: str, who: Callable[[], str] = str) -> None:
        """One change: what became of a name in a folder (both as seen), and the places that it makes dirty.

        ``who`` did it is asked for the first change of a place only: its words are the ones that are kept.
        """
        self.count += 1
        words = ""
        for place in places:
            known = self.names.get(place)
            if known is not None:
                known.add(name)
                continue
            words = words or f"{escape(folder)} {escape(name)} {verb} {who()}".rstrip()
            self.first = self.first or words
            self.names[place] = {name}
            self.causes.setdefault(place, words)
            self.places.add(place)

    def also(self, places: Iterable[Place]) -> None:
        """Note places that are watched anew: what happened there before is not known."""
        for place in places:
            self.places.add(place)
            self.names.pop(place, None)
        if self.places and not self.count:
            self.first = f"{escape(min(self.places).path)} is watched anew"

    def wake(self, watcher: str) -> Wake | None:
        """One wake for all of it; ``None`` where there is nothing to tell."""
        if not self.places:
            return None
        more = f" and {self.count - 1} more" if self.count > 1 else ""
        causes = {place: f"{watcher}: {words}" for place, words in self.causes.items()}
        return Wake(f"{watcher}: {self.first}{more}", frozenset(self.places), causes, self.names)

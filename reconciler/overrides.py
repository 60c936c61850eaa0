"""What an administrator ordered for a while: pauses, exceptions that an ``undo`` leaves, orders that lift the budget.

Pure: the text of one small JSON file, as frozen values. Each ends by itself (:mod:`reconciler.moment`); what is over
stays in the file until it is written the next time, and counts for nothing. A file that makes no sense counts for
nothing either, and is told as a fault: a broken file must not keep a host from being held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from reconciler.moment import Moment, Span
from reconciler.services import matches
from reconciler.values import Value, replace

PATH = "/var/lib/dom0-reconciler/overrides.json"
"""Below the root; 0600: it says who is up to what."""

VERSION = 1


class Order(Value):
    """Who ordered what, why, and for how long.

    A pause is for the services of ``names``, or for everything without any. An exception is for the services of
    ``names`` and for ``paths`` below the root; ``undo`` is the id of the action that was undone.
    """

    who: str
    why: str
    span: Span
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    undo: str = ""

    def concerns(self, names: Collection[str], paths: Collection[str]) -> bool:
        """True when it is about a service with these names, or about one of these paths."""
        return bool(matches(names, self.names)) or not set(paths).isdisjoint(self.paths)


class Overrides(Value):
    """All that is ordered. ``released`` orders say that no budget holds what the state asks for.

    ``fault`` says why the file could not be understood; ``hidden`` that this caller may not read it.
    """

    pauses: tuple[Order, ...] = ()
    exceptions: tuple[Order, ...] = ()
    released: tuple[Order, ...] = ()
    fault: str = ""
    hidden: bool = False

    def paused(self, names: Collection[str], now: Moment) -> Order | None:
        """The pause in force for a service with these names: of several the one that ends last."""
        return _longest((p for p in self.pauses if not p.names or p.concerns(names, ())), now)

    def excepted(self, names: Collection[str], paths: Collection[str], now: Moment) -> Order | None:
        """The exception in force for a service with these names, or for one of these paths."""
        return _longest((e for e in self.exceptions if e.concerns(names, paths)), now)

    def release(self, now: Moment) -> Order | None:
        """The order in force that lifts the budget."""
        return _longest(self.released, now)

    def next_end(self, now: Moment) -> float | None:
        """Seconds until the first of all that is in force ends; ``None`` when nothing is."""
        lefts = [each.span.left(now) for each in self._all()]
        return min((left for left in lefts if left > 0), default=None)

    def _all(self) -> Iterator[Order]:
        yield from (*self.pauses, *self.exceptions, *self.released)

    def in_force(self, now: Moment) -> Overrides:
        """The same without what is over."""
        return Overrides(_live(self.pauses, now), _live(self.exceptions, now), _live(self.released, now))

    def without(self, names: Collection[str], paths: Collection[str]) -> Overrides:
        """End the pauses and exceptions of services with any of these names, and of these paths; without both, all.

        A pause of everything stays where only a part of it is named.
        """
        if not names and not paths:
            return replace(self, pauses=(), exceptions=())
        pauses = tuple(left for p in self.pauses if (left := _less(p, names, ())) is not None)
        exceptions = tuple(left for e in self.exceptions if (left := _less(e, names, paths)) is not None)
        return replace(self, pauses=pauses, exceptions=exceptions)

    def with_exception(self, exception: Order) -> Overrides:
        """Leave something alone; an exception for the very same that was there already is replaced."""
        same = (exception.names, exception.paths)
        others = (each for each in self.exceptions if (each.names, each.paths) != same)
        return replace(self, exceptions=(*others, exception))


def _longest(orders: Iterator[Order] | Sequence[Order], now: Moment) -> Order | None:
    live = [order for order in orders if order.span.left(now) > 0]
    return max(live, key=lambda order: order.span.left(now), default=None)


def _live(orders: Sequence[Order], now: Moment) -> tuple[Order, ...]:
    return tuple(order for order in orders if order.span.left(now) > 0)


def _less(order: Order, names: Collection[str], paths: Collection[str]) -> Order | None:
    """The order for what is left of it; ``None`` where nothing is. One for everything names nothing, and stays."""
    if not order.names and not order.paths:
        return order
    left = tuple(name for name in order.names if not matches(names, (name,)))
    left_paths = tuple(path for path in order.paths if path not in paths)
    return replace(order, names=left, paths=left_paths) if left or left_paths else None


# --- the file ---------------------------------------------------------------------------------------------------

_LISTS = ("pauses", "exceptions", "released")


def text_of(overrides: Overrides) -> bytes:
    """The file."""
    import json  # most plans know no orders

    lists = {name: [_shape(order) for order in getattr(overrides, name)] for name in _LISTS}
    return (json.dumps({"version": VERSION, **lists}, indent=1) + "\n").encode("ascii")


def _shape(order: Order) -> dict[str, object]:
    began = order.span.began
    return {
        "who": order.who,
        "why": order.why,
        "names": list(order.names),
        "paths": list(order.paths),
        "undo": order.undo,
        "began": began.wall,
        "until": began.wall + order.span.seconds,  # for people who read the file
        "seconds": order.span.seconds,
        "boot": began.boot,
        "since_boot": began.since_boot,
    }


def parse(text: bytes) -> Overrides:
    """What :func:`text_of` was given; whatever else it is, no overrides and a ``fault``. Never raises."""
    import json

    try:
        values = json.loads(text)
        if values["version"] != VERSION:
            raise ValueError(f"is of version {values['version']!r}, not {VERSION}")  # noqa: TRY301
        pauses, exceptions, released = (tuple(map(_order, values[name])) for name in _LISTS)
        return Overrides(pauses, exceptions, released)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Overrides(fault=f"{PATH} makes no sense ({error}): no pause and no exception is in force")


def _order(shape: Mapping[str, Any]) -> Order:
    began = Moment(_number(shape["began"]), str(shape["boot"]), _number(shape["since_boot"]))
    return Order(
        str(shape["who"]),
        str(shape["why"]),
        Span(began, _number(shape["seconds"])),
        tuple(map(str, shape["names"])),
        tuple(map(str, shape["paths"])),
        str(shape["undo"]),
    )


def _number(value: object) -> float:
    """A number that time can be: JSON as Python reads it also has NaN and Infinity."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e12:  # noqa: PLR2004
        raise ValueError(f"{value!r} is no time")
    return float(value)

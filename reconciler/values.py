"""The values that all layers speak in: classes of named fields, equal where their fields are.

They read as ``@dataclass(frozen=True, slots=True)`` does, at a fiftieth of its price: that one generates and compiles
eight methods of each class when it is imported, half a millisecond each time, and a command imports eighty of them.
Here the methods of a class are compiled when its first value is made: most commands make values of a third
(``docs/decisions/0015-values-that-cost-nothing-to-import.md`` has the measurement).

That nobody assigns to a field is for mypy to see, which treats these classes as dataclasses (PEP 681). Nothing keeps
anybody from it at run time: that would cost each value that is made more than all the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar, dataclass_transform

V = TypeVar("V", bound="Value")
_REQUIRED = object()


class _Field:
    """What is known of one field beyond its name."""

    __slots__ = ("compare", "default", "factory", "kw_only")

    def __init__(self, default: object, factory: Callable[[], object] | None, *, compare: bool, kw_only: bool) -> None:
        self.default, self.factory, self.compare, self.kw_only = default, factory, compare, kw_only


def field(  # Any, as for dataclasses.field: its type is that of the field it is given to
    *,
    default: Any = _REQUIRED,  # noqa: ANN401
    default_factory: Callable[[], Any] | None = None,
    compare: bool = True,
    kw_only: bool = False,
) -> Any:  # noqa: ANN401
    """Say more of a field than its default; each word means what it means to ``dataclasses.field``."""
    return _Field(default, default_factory, compare=compare, kw_only=kw_only)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class _Class(type):
    """Makes a class with slots out of its annotations, and those of its bases: theirs come first."""

    def __new__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, Any], *, frozen: bool = True, order: bool = False
    ) -> _Class:
        own: dict[str, _Field] = {}
        for key, annotation in body.get("__annotations__", {}).items():
            if not annotation.startswith("ClassVar"):
                given = body.pop(key, _REQUIRED)
                own[key] = given if type(given) is _Field else _Field(given, None, compare=True, kw_only=False)
        fields: dict[str, _Field] = {}
        for base in bases:
            fields |= getattr(base, "_fields", {})
        fields |= own
        made = {
            "__slots__": tuple(own),
            "__match_args__": tuple(key for key, its in fields.items() if not its.kw_only),
            "__init__": _first,
            "_fields": fields,
            "_frozen": frozen,
            "_ordered": order,
        }
        if not frozen:  # what changes has no place in a set
            made["__hash__"] = None
        return super().__new__(cls, name, bases, made | body)


def _first(self: Value, *arguments: object, **named: object) -> None:
    """Stands for ``__init__`` until a class has its first value: only then its methods are compiled."""
    cls = type(self)
    known: dict[str, object] = {"_REQUIRED": _REQUIRED}
    methods: dict[str, object] = {}
    exec("\n".join(_methods(cls, known)), known, methods)  # noqa: S102  (names of fields: our own source)
    for name, method in methods.items():
        if name == "__init__" or name not in cls.__dict__:
            setattr(cls, name, method)
    cls.__init__(self, *arguments, **named)


def _methods(cls: type[Value], known: dict[str, object]) -> Iterator[str]:
    """The source of what a class does not have yet; ``known`` is given the defaults that stand in it."""
    head, body = ["self"], []
    for name, its in sorted(cls._fields.items(), key=lambda item: item[1].kw_only):
        if its.kw_only and "*" not in head:
            head.append("*")
        given = name
        if its.factory is not None:
            known[f"_new_{name}"], known[f"_default_{name}"] = its.factory, _REQUIRED
            given = f"_new_{name}() if {name} is _REQUIRED else {name}"
        elif its.default is not _REQUIRED:
            known[f"_default_{name}"] = its.default
        head.append(f"{name}=_default_{name}" if f"_default_{name}" in known else name)
        body.append(f"    self.{name} = {given}")
    yield from (f"def __init__({', '.join(head)}):", *body, "    return None")
    mine, theirs = (_all_of(who, cls._fields) for who in ("self", "other"))
    for name, operator in (("__eq__", "=="), ("__lt__", "<"))[: 1 + cls._ordered]:
        yield f"def {name}(self, other):"
        yield f"    return {mine} {operator} {theirs} if other.__class__ is self.__class__ else NotImplemented"
    if cls._frozen:
        yield f"def __hash__(self): return hash({mine})"


def _all_of(who: str, fields: Mapping[str, _Field]) -> str:
    return f"({''.join(f'{who}.{name}, ' for name, its in fields.items() if its.compare)})"


class Value(metaclass=_Class):
    """What they derive from; ``frozen=False`` beside it allows assignment, ``order=True`` sorts by the fields."""

    _fields: ClassVar[dict[str, _Field]]
    _frozen: ClassVar[bool]
    _ordered: ClassVar[bool]

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name, its in self._fields.items() if its.compare)
        return f"{type(self).__qualname__}({', '.join(shown)})"


def replace(value: V, **changes: Any) -> V:  # noqa: ANN401
    """Give a value that differs in these fields, as ``dataclasses.replace`` does; an unknown one is a ``TypeError``."""
    return type(value)(**{name: getattr(value, name) for name in value._fields} | changes)

"""The values that all layers speak in: classes of named fields, equal where their fields are.

They read as ``@dataclass(frozen=True, slots=True)`` does, at a fiftieth of its price: that one generates and compiles
eight methods of each class when it is imported, half a millisecond each time, and a command imports eighty of them.
Here each method of a class is compiled when it is called first: most commands make values of a third of them, and
compare few (``docs/decisions/0015-values-that-cost-nothing-to-import.md`` has the measurement).

That nobody assigns to a field is for mypy to see, which treats these classes as dataclasses (PEP 681). Nothing keeps
anybody from it at run time: that would cost each value that is made more than all the rest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
            "_fields": fields,
            "__init__": _FIRST["__init__"],
            "__eq__": _FIRST["__eq__"],
            "__hash__": _FIRST["__hash__"] if frozen else None,  # what changes has no place in a set
        }
        if order:
            made["__lt__"] = _FIRST["__lt__"]
        return super().__new__(cls, name, bases, made | body)


def _first(name: str, write: Callable[[Mapping[str, _Field], dict[str, object]], str]) -> Callable[..., Any]:
    """What stands for a method of a class until it is called for the first time, and is compiled."""

    def method(self: Value, *arguments: object, **named: object) -> object:
        cls, known, made = type(self), dict[str, object](), dict[str, Callable[..., object]]()
        exec(write(cls._fields, known), known, made)  # noqa: S102  (names of fields: our own source)
        setattr(cls, name, made[name])
        return made[name](self, *arguments, **named)

    return method


def _init(fields: Mapping[str, _Field], known: dict[str, object]) -> str:
    """The source of ``__init__``; ``known`` is given the defaults that stand in it."""
    known["_REQUIRED"] = _REQUIRED
    head, body = ["self"], ["    pass"]
    for name, its in sorted(fields.items(), key=lambda item: item[1].kw_only):
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
    return "\n".join([f"def __init__({', '.join(head)}):", *body])


def _comparing(name: str, operator: str) -> Callable[..., Any]:
    def write(fields: Mapping[str, _Field], _known: dict[str, object]) -> str:
        compared = f"{_all_of('self', fields)} {operator} {_all_of('other', fields)}"
        return f"def {name}(self, other): return {compared} if other.__class__ is self.__class__ else NotImplemented"

    return _first(name, write)


def _all_of(who: str, fields: Mapping[str, _Field]) -> str:
    return f"({''.join(f'{who}.{name}, ' for name, its in fields.items() if its.compare)})"


_FIRST: Mapping[str, Callable[..., Any]] = {
    "__init__": _first("__init__", _init),
    "__eq__": _comparing("__eq__", "=="),
    "__lt__": _comparing("__lt__", "<"),
    "__hash__": _first("__hash__", lambda fields, _: f"def __hash__(self): return hash({_all_of('self', fields)})"),
}


class Value(metaclass=_Class):
    """What they derive from; ``frozen=False`` beside it allows assignment, ``order=True`` sorts by the fields."""

    _fields: ClassVar[dict[str, _Field]]

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name, its in self._fields.items() if its.compare)
        return f"{type(self).__qualname__}({', '.join(shown)})"


def replace(value: V, **changes: Any) -> V:  # noqa: ANN401
    """Give a value that differs in these fields, as ``dataclasses.replace`` does; an unknown one is a ``TypeError``."""
    return type(value)(**{name: getattr(value, name) for name in value._fields} | changes)

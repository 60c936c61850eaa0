"""Values: what the standard library's dataclasses do, these must do too."""

from __future__ import annotations

import dataclasses
import pickle
import re
from copy import deepcopy
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model import ReloadManager, StartService, StopService
from reconciler.patterns import pattern
from reconciler.values import Value, field, replace


class Ours(Value, order=True):
    name: str
    number: int = 3
    heard: tuple[str, ...] = field(default=(), compare=False)
    extra: str = field(default="", kw_only=True)
    word: ClassVar[str] = "shared"


class Below(Ours):
    more: str = "m"


class Changing(Value, frozen=False):
    count: int
    seen: dict[str, int] = field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Theirs:
    name: str
    number: int = 3
    heard: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    extra: str = dataclasses.field(default="", kw_only=True)
    word: ClassVar[str] = "shared"


FIELDS = st.fixed_dictionaries(
    {"name": st.sampled_from("ab")},
    optional={"number": st.integers(0, 2), "heard": st.sampled_from([(), ("x",)]), "extra": st.sampled_from("cd")},
)


@given(FIELDS, FIELDS)
def test_they_compare_sort_hash_and_show_as_dataclasses_do(one: dict[str, Any], other: dict[str, Any]) -> None:
    ours, theirs = (Ours(**one), Ours(**other)), (Theirs(**one), Theirs(**other))
    assert (ours[0] == ours[1]) == (theirs[0] == theirs[1])
    assert (ours[0] < ours[1]) == (theirs[0] < theirs[1])
    assert len(set(ours)) == len(set(theirs))
    assert repr(ours[0]) == repr(theirs[0]).replace("Theirs", "Ours")
    assert repr(replace(ours[0], **other)) == repr(dataclasses.replace(theirs[0], **other)).replace("Theirs", "Ours")


def test_what_is_wrong_with_a_call_is_said() -> None:
    wrongs: tuple[dict[str, Any], ...] = ({}, {"name": "a", "size": 1})
    for wrong in wrongs:
        with pytest.raises(TypeError):
            Ours(**wrong)
    with pytest.raises(TypeError):
        Ours("a", 1, (), "d")  # type: ignore[call-arg]  # by its name alone
    with pytest.raises(TypeError):
        replace(Ours("a"), size=1)


def test_the_fields_of_what_it_derives_from_come_first() -> None:
    assert Below("a", 1, (), "n", extra="e").more == "n"
    assert Below("a") != Ours("a")
    assert Below("a") == Below("a", heard=("x",))
    assert Below.word == "shared"
    assert not hasattr(Below("a"), "__dict__")


def test_classes_whose_fields_are_equal_are_not() -> None:
    assert len({StopService("a"), StartService("a"), StopService("a")}) == 2
    assert ReloadManager() == ReloadManager()
    assert ReloadManager()


def test_what_changes_has_its_own_default_and_no_hash() -> None:
    one, other = Changing(1), Changing(1)
    one.seen["a"] = 1
    assert other.seen == {}
    assert one != other
    with pytest.raises(TypeError):
        hash(one)


def test_match_takes_them_apart() -> None:
    match Ours("a", 7):
        case Ours(name, number):
            assert (name, number) == ("a", 7)
        case _:
            pytest.fail("not matched")


def test_an_expression_is_compiled_when_it_is_used() -> None:
    words = pattern("a+")
    assert deepcopy(words).fullmatch("aa")
    assert words.fullmatch("aa")
    assert not words.search("b")
    with pytest.raises(re.error):
        pattern("(").search("")


def test_they_can_be_copied_and_sent() -> None:
    assert deepcopy(Ours("a")) == pickle.loads(pickle.dumps(Ours("a"))) == Ours("a")

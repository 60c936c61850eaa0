"""What holds for every state: the lines are right, files merge by the rules, only StateError comes out."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress

from hypothesis import example, given, settings
from hypothesis import strategies as st

from reconciler.desired import (
    DesiredState,
    Inetd,
    ListenerRule,
    Listeners,
    Network,
    Processes,
    Rails,
    Services,
    load,
)
from reconciler.errors import StateError
from reconciler.statefile.lines import KeyPath, line_index
from tests.desired_trees import Written


def loaded(files: Mapping[str, bytes | str]) -> DesiredState:
    contents = {f"/s/{name}": c.encode() if isinstance(c, str) else c for name, c in files.items()}
    return load("/s/state.toml", Written(contents))


def refusals(files: Mapping[str, bytes | str]) -> tuple[str, ...]:
    """The error lines, none where the state is right."""
    try:
        loaded(files)
    except StateError as refused:
        return refused.errors or ("refused without a reason",)
    return ()


# --- the lines of keys ------------------------------------------------------------------------------------

BARE = st.text("abcXYZ019-_", min_size=1, max_size=4)
SPELLED = st.one_of(
    BARE,
    BARE.map(lambda name: f'"{name}"'),
    BARE.map(lambda name: f"'{name}'"),
    st.sampled_from(['""', "''", '"a.b"', "'#'", '"="', '"\\u0041\\n"', '"\\""', "'\\'", '" ["']),
)
DOTTED = st.lists(SPELLED, min_size=1, max_size=3).flatmap(
    lambda names: st.sampled_from([".", " . ", "\t."]).map(lambda dot: dot.join(names))
)
# "@" becomes the number of its own line: the value tells where it stands, whatever the scanner thinks.
SCALAR = st.one_of(
    st.just("@"),
    st.sampled_from(['"#"', "']'", '"\\""', "'\\'", '"}"', '""', "''", "1979-05-27 07:32:00", "1.5", "true", "-inf"]),
    st.sampled_from(
        [
            '"""\n\\"""\\\n ""x"""""',
            "'''\n[a]\nb = ']'\n'''",
            '"""""""',
            "''''a'''''",
            '"""\n""\\"\\n"""',
            "'''x'''",
        ]
    ),
)
GAP = st.sampled_from(["", " ", "\n", "  # ]}, \"'\n", "\r\n", "\n\n\t"])


def _array(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    items = st.lists(st.tuples(GAP, values, GAP), max_size=4)
    return st.builds(
        lambda parts, end: "[" + ",".join(map("".join, parts)) + ("," + end if parts and end else end) + "]",
        items,
        GAP,
    )


def _inline_table(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.lists(st.tuples(DOTTED, values).map(lambda pair: f" {pair[0]} = {pair[1]} "), max_size=3)
    return pairs.map(lambda written: "{" + ",".join(written) + "}")


VALUE = st.recursive(SCALAR, lambda inner: st.one_of(_array(inner), _inline_table(inner)), max_leaves=6)
LINE = st.one_of(
    st.builds(
        "{} ={}{}{}".format,
        DOTTED,
        st.sampled_from(["", " "]),
        VALUE,
        st.sampled_from(["", " # x = 1", "\t"]),
    ),
    DOTTED.map(lambda name: f"[{name}]"),
    DOTTED.map(lambda name: f"  [ {name} ] # [y]"),
    DOTTED.map(lambda name: f"[[{name}]]"),
    st.sampled_from(["", "# [z]", "\t", "#"]),
)
DOCUMENT = st.tuples(st.lists(LINE, max_size=14), st.sampled_from(["\n", "\r\n"])).map(
    lambda parts: "".join(line + parts[1] for line in parts[0])
)


def numbered(text: str) -> str:
    return "\n".join(line.replace("@", str(n)) for n, line in enumerate(text.split("\n"), 1))


def paths(value: object, at: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """Every key path of a value that tomllib gave, with the value there."""
    below: Iterator[tuple[str | int, object]] = iter(())
    if isinstance(value, dict):
        below = iter(value.items())
    elif isinstance(value, list):
        below = iter(enumerate(value))
    for part, inner in below:
        yield (*at, part), inner
        yield from paths(inner, (*at, part))


@settings(max_examples=500)
@given(DOCUMENT)
def test_every_key_has_its_line(text: str) -> None:
    text = numbered(text)
    try:
        seen = dict(paths(tomllib.loads(text)))
    except tomllib.TOMLDecodeError:
        return  # two lines that do not go together
    index = line_index(text)
    assert set(index) == set(seen)
    lines = text.split("\n")
    for path, value in seen.items():
        if type(value) is int:
            assert index[path] == value
        if isinstance(path[-1], str) and re.fullmatch("[a-zA-Z0-9_-]+", path[-1]) and path[-1] != "A":
            assert path[-1] in lines[index[path] - 1]


@given(st.text())
@example("a = [")
@example("a")
@example("[")
@example('"""')
def test_a_scan_of_anything_ends(text: str) -> None:
    with suppress(ValueError, RecursionError):
        line_index(text)


# --- nothing but StateError -------------------------------------------------------------------------------

TABLES = (DesiredState, Services, Rails, Inetd, Network, Listeners, Processes, ListenerRule)
WORDS = sorted({name for table in TABLES for name in table.__match_args__} | {"version", "include", "port"})
ANY_KEY = st.one_of(st.sampled_from(WORDS), SPELLED)
ANY_STRING = st.one_of(
    st.sampled_from(
        [
            "tcp/22",
            "tcp/x",
            "unix/",
            "!",
            "!ssh",
            "[",
            "enforce",
            "5min",
            "a.toml",
            "state.toml",
            "::",
            "\\u0000",
        ]
    ),
    st.text("ab!*[]/-0@. ", max_size=6),
).map(lambda text: f'"{text}"')
ANY_VALUE = st.recursive(
    st.one_of(ANY_STRING, SCALAR.map(lambda text: text.replace("@", "1")), st.integers().map(str)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(ANY_KEY, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
        ),
    ),
    max_leaves=5,
)
ANY_LINE = st.one_of(
    st.tuples(ANY_KEY, ANY_VALUE).map(" = ".join),
    ANY_KEY.map(lambda key: f"[{key}]"),
    st.just("version = 1"),
    st.text(max_size=8),
)
ANY_STATE = st.one_of(
    st.lists(ANY_LINE, max_size=8).map(lambda lines: "\n".join(["version = 1", *lines]).encode("utf-8", "replace")),
    st.binary(max_size=40),
)


@settings(max_examples=500)
@given(ANY_STATE, ANY_STATE, ANY_STATE)
@example(b"version = 1\nx = " + b"[" * 400 + b"]" * 400, b"", b"")
@example(b"version = 1\nx = " + b"{a=" * 200 + b"1" + b"}" * 200, b"", b"")
def test_any_bytes_give_a_state_or_errors_with_lines(main: bytes, included: bytes, drop_in: bytes) -> None:
    for line in refusals({"state.toml": main, "a.toml": included, "state.d/b.toml": drop_in}):
        assert line.startswith(("/s/state.toml", "/s/a.toml", "/s/state.d/b.toml"))
        assert line.isprintable()


# --- merging ----------------------------------------------------------------------------------------------

NAMES = st.lists(st.tuples(st.booleans(), st.sampled_from("abcde")), max_size=8)


def _joined(lists: list[list[tuple[bool, str]]]) -> list[str]:
    """The rule in one place: in order, each once, ``!`` takes out."""
    result: list[str] = []
    for out, name in (entry for entries in lists for entry in entries):
        if out and name in result:
            result.remove(name)
        elif not out and name not in result:
            result.append(name)
    return result


def _list(entries: list[tuple[bool, str]]) -> str:
    return "[" + ", ".join(f'"{"!" * out}{name}"' for out, name in entries) + "]"


@given(st.lists(NAMES, min_size=4, max_size=4), st.sampled_from(["services", "processes"]))
def test_lists_join_in_the_order_of_the_files(lists: list[list[tuple[bool, str]]], table: str) -> None:
    body = [f"[{table}]\napproved = {_list(entries)}\n" for entries in lists]
    state = loaded(
        {
            "one.toml": body[0],
            "state.toml": 'version = 1\ninclude = ["one.toml"]\n' + body[1],
            "state.d/10.toml": body[2],
            "state.d/20.toml": body[3],
        }
    )
    assert list(getattr(state, table).approved) == _joined(lists)


@given(st.lists(st.none() | st.sampled_from(["observe", "enforce"]), min_size=4, max_size=4))
def test_the_last_scalar_wins(modes: list[str | None]) -> None:
    text = ["" if mode is None else f'mode = "{mode}"\n' for mode in modes]
    state = loaded(
        {
            "one.toml": text[0],
            "state.toml": 'version = 1\ninclude = ["one.toml"]\n' + text[1],
            "state.d/10.toml": text[2],
            "state.d/20.toml": text[3],
        }
    )
    assert state.mode == next((mode for mode in reversed(modes) if mode), "observe")

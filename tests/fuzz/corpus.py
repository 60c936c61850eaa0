"""The kept inputs: one text file a target, an input a line as a Python bytes literal, so that a change can be read."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"

LARGEST = 1024
"""Bytes of one input that is kept; what needs more to be reached is no readable example."""

SHARE = 7000
"""Characters of one target's file: all of them together stay below 300 kB."""


def inputs(target: str, folder: Path = FOLDER) -> tuple[bytes, ...]:
    """What is kept of a target, the shortest first."""
    file = folder / target
    if not file.exists():
        return ()
    return tuple(ast.literal_eval(line) for line in file.read_text("ascii").splitlines())


def keep(target: str, found: Iterable[bytes], folder: Path = FOLDER) -> int:
    """Keep the shortest of these; how many."""
    chosen = list(_affordable(sorted(set(found), key=lambda each: (len(each), each))))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / target).write_text("".join(f"{each!r}\n" for each in chosen), "ascii")
    return len(chosen)


def _affordable(found: Iterable[bytes]) -> Iterator[bytes]:
    left = SHARE
    for each in found:
        left -= len(repr(each)) + 1
        if len(each) > LARGEST or left < 0:
            return
        yield each


def unpack(found: Iterable[bytes], folder: Path) -> None:
    """As libFuzzer wants them: a file each."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in found:
        (folder / sha256(each).hexdigest()[:20]).write_bytes(each)


def packed(folder: Path) -> Iterator[bytes]:
    """The inputs of such a folder."""
    return (file.read_bytes() for file in sorted(folder.iterdir()))

"""How the demonstration speaks: headings, plain sentences, the product's own words set apart."""

from __future__ import annotations

import os
import sys
import textwrap

_COLOURS = {"bold": "1", "dim": "2", "green": "32", "yellow": "33", "cyan": "36"}
_COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def paint(text: str, colour: str) -> str:
    """The text in a colour; on a terminal only, and not with NO_COLOR set."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if _COLOUR else text


def line(text: str = "") -> None:
    """One line, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def heading(text: str) -> None:
    """What comes next."""
    line()
    line(paint(text, "bold"))


def tell(text: str) -> None:
    """A sentence or two, folded."""
    for folded in textwrap.wrap(text, 96):
        line(f"  {folded}")


def fact(name: str, text: str) -> None:
    """A name and what is so."""
    first, *others = textwrap.wrap(text, 82) or ["nothing"]
    line(f"  {paint(f'{name:<11}', 'dim')} {first}")
    for other in others:
        line(f"  {'':<11} {other}")


def command(text: str) -> None:
    """A command that is run now."""
    line(f"  {paint('$', 'dim')} {paint(text, 'cyan')}")


def output(text: str) -> None:
    """What the product printed."""
    for each in text.splitlines():
        word, rest = each[:13].rstrip(), each[13:]
        colour = "green" if word in ("done", "converged:") else "yellow" if word in ("unapproved", "drifted") else ""
        line(f"    {paint(f'{word:<12}', colour) + ' ' + rest if colour and rest else each}".rstrip())


def timed(milliseconds: float, text: str) -> None:
    """What was done, and how long after its cause."""
    line(f"    {paint(f'{milliseconds:6.0f} ms', 'green')}  {text}")

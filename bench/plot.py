"""A chart of horizontal bars on a logarithmic scale, as SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, LABELS, ROW, TOP = 760, 190, 26, 54
_RIGHT, _BAR, _FOOT = 70, 16, 18
_STYLE = (
    "text{font:13px sans-serif;fill:#333}.title{font-size:15px;font-weight:bold}.small{font-size:11px;fill:#777}"
    ".bar{fill:#9db4c8}.own{fill:#2f6f4f}.tail{stroke:#333;stroke-width:1.5}.grid{stroke:#ddd}"
)


@dataclass(frozen=True)
class Bar:
    """``value`` is the bar's end, ``tail`` where its thin line ends; ``own`` is shown in another colour."""

    label: str
    value: float
    tail: float
    text: str
    own: bool = False


def chart(title: str, bars: Sequence[Bar], unit: str) -> str:
    """The whole file."""
    low = floor(log10(min(bar.value for bar in bars)) - 0.01)
    high = ceil(log10(max(bar.tail for bar in bars)) + 0.01)

    def x(value: float) -> float:
        return LABELS + (log10(value) - low) / (high - low) * (WIDTH - LABELS - _RIGHT)

    height = TOP + ROW * len(bars) + _FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="title" x="10" y="22">{escape(title)}</text>',
    ]
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 6}" y2="{height - _FOOT}"/>')
        parts.append(
            f'<text class="small" x="{at:.1f}" y="{TOP - 12}" text-anchor="middle">{10.0**power:g} {unit}</text>'
        )
    for number, bar in enumerate(bars):
        parts += _row(bar, TOP + ROW * number, x(bar.value), x(max(bar.tail, bar.value)))
    return "\n".join([*parts, "</svg>", ""])


def _row(bar: Bar, y: int, end: float, tail: float) -> list[str]:
    middle, kind = y + _BAR / 2, "bar own" if bar.own else "bar"
    return [
        f'<text x="{LABELS - 8}" y="{y + 13}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{kind}" x="{LABELS}" y="{y}" width="{max(1.0, end - LABELS):.1f}" height="{_BAR}"/>',
        f'<line class="tail" x1="{end:.1f}" x2="{tail:.1f}" y1="{middle}" y2="{middle}"/>',
        f'<text class="small" x="{tail + 5:.1f}" y="{y + 12}">{escape(bar.text)}</text>',
    ]

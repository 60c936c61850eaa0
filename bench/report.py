"""Results as the tables of docs/performance.md. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from bench.reach import GOALS, LIMIT, PRODUCT, growth, verdicts
from bench.run import ROUNDS, Measures
from bench.stats import medians_of_parts, percentile, spread

BEGIN, END = "<!-- scripts/bench writes from here -->", "<!-- to here -->"
Table = list[list[str]]

_PASSES = ("full pass", "quiet pass", "plan")
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_PLACES = ((100, 0), (10, 1), (0, 2))


def number(value: float) -> str:
    """Three digits that mean something."""
    places = next(places for least, places in _PLACES if abs(value) >= least)
    return f"{value:,.{places}f}"


def duration(seconds: float) -> str:
    """In the unit that reads best."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{number(seconds / size)} {unit}"
    return f"{number(seconds * 1e6)} µs"


def between(text: str, fresh: str) -> str:
    """The document with everything between the markers replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{fresh.strip()}\n\n{END}{after}"


def document(measures: Measures, facts: Sequence[str], plot: str) -> str:
    """Everything that is generated."""
    parts = [
        "\n".join(f"* {fact}" for fact in facts),
        "## The goals",
        table(["metric", "measured", "at least", "met", "aim", "aim met"], _goals(measures)),
        "## Beside what one would use instead",
        f"![How long a reintroduced start link lives]({plot})",
        table(["who", "link gone, p50 / C", "idle RSS, MiB", "one pass, 200 links / C", "10,000 links / C"],
              _peers(measures)),
        "## Reaction",
        table(["what", "who", "p50", "of the rounds", "p95", "p99", "p50 / C", "samples"], _reaction(measures)),
        "## Idle",
        table(["who", "RSS, MiB", "PSS", "USS", "wake-ups/h", "between ticks", "CPU, s/h"], _idle(measures)),
        "## Passes",
        table(["what", "who", "median", "least to greatest", "/ C"], _plain(measures, _PASSES)),
        _growth(measures),
        "## Storms",
        table(["what", "who", "median", "least to greatest", "/ C"], _plain(measures, ("storm",))),
        "## Start",
        table(["what", "who", "median", "least to greatest", "/ C"], _plain(measures, ("exec",))),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    lines = [list(heads), ["---"] * len(heads), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _goals(measures: Measures) -> Table:
    rows = []
    for verdict in verdicts(measures):
        goal = verdict.goal
        aimed = f" ({number(verdict.aim_value)})" if goal.aim_value else ""
        met, aim_met = ("yes" if so else "**no**" for so in (verdict.met, verdict.aim_met))
        row = [goal.metric, f"{number(verdict.value)} {goal.unit}", number(goal.at_least), met]
        rows.append([*row, number(goal.aim), f"{aim_met}{aimed}"])
    measured = {row[0] for row in rows}
    rows += [[goal.metric, "not measured", number(goal.at_least), "", number(goal.aim), ""]
             for goal in GOALS if goal.metric not in measured]  # fmt: skip
    return rows


def _peers(measures: Measures) -> Table:
    gone, rss = measures.get("link created", {}), measures.get("idle RSS, MiB", {})
    plan, storm = measures.get("plan, 200 links", {}), _storms(measures)
    names = dict.fromkeys([*gone, *plan, *(name for name in rss if not name.startswith(PRODUCT))])
    rows = []
    for name in names:
        memory = rss.get(name) or rss.get(f"{name}, 10 links")
        cells = [
            _to_limit(gone, name),
            number(memory[0]) if memory else "",
            _pass_of(measures, name),
            storm.get(name, ""),
        ]
        rows.append([name, *cells])
    return rows


def _pass_of(measures: Measures, name: str) -> str:
    """As a command from exec to exit; who has no such command, as its daemon's pass, to C's."""
    once, daemon = measures.get("plan, 200 links", {}), measures.get("full pass, 200 links", {})
    if name in once:
        return _to_limit(once, name)
    return f"{_to_limit(daemon, name)} (the daemon's)" if name in daemon else ""


def _storms(measures: Measures) -> dict[str, str]:
    """To the limit, of 10,000 links; of who would take minutes for them, of 1,000."""
    small, large = measures.get("storm of 1000", {}), measures.get("storm of 10000", {})
    return {name: f"{_to_limit(small, name)} (1,000 links)" for name in small} | {
        name: _to_limit(large, name) for name in large
    }


def _to_limit(rows: dict[str, list[float]], name: str) -> str:
    if name not in rows or LIMIT not in rows:
        return ""
    return number(median(rows[name]) / median(rows[LIMIT]))


def _reaction(measures: Measures) -> Table:
    rows = []
    for what, each in measures.items():
        if what.startswith(("link", "inetd", "interfaces", "unit", "stop")):
            for who, samples in each.items():
                middle, *high = (duration(percentile(samples, percent)) for percent in (50, 95, 99))
                least, _, greatest = spread(medians_of_parts(samples, ROUNDS))
                rounds = f"{duration(least)} to {duration(greatest)}"
                rows.append([what, who, middle, rounds, *high, _to_limit(each, who), str(len(samples))])
    return rows


def _plain(measures: Measures, kinds: tuple[str, ...]) -> Table:
    rows = []
    for what, each in measures.items():
        if what.startswith(kinds):
            for who, samples in each.items():
                least, middle, greatest = spread(samples)
                row = [what, who, duration(middle), f"{duration(least)} to {duration(greatest)}"]
                rows.append([*row, _to_limit(each, who)])
    return rows


def _idle(measures: Measures) -> Table:
    columns = [
        measures.get(f"idle {name}", {})
        for name in (
            "RSS, MiB",
            "PSS, MiB",
            "USS, MiB",
            "wake-ups per hour",
            "wake-ups between ticks",
            "CPU, s per hour",
        )
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    return [[name, *(number(column[name][0]) if name in column else "" for column in columns)] for name in names]


def _growth(measures: Measures) -> str:
    try:
        exponent = number(growth(measures))
    except KeyError:
        return ""
    return f"From 200 to 20,000 links the daemon's pass grows with the exponent {exponent} (1 is linear)."

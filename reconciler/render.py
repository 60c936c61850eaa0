"""Plans, reports and records -> text or JSON. Nobody else prints; what was observed is escaped before it is shown."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from reconciler.model import Gap, Plan, Record, Step, target_of, word_of
from reconciler.text import beginning, escape, plain

if TYPE_CHECKING:
    from reconciler.attempts import Attempt, Report
    from reconciler.explanation import Explanation
    from reconciler.origins import Origin
    from reconciler.statechange import Change

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}
_OUTCOME_COLOURS = {"done": "green", "failed": "red", "held": "yellow", "stale": "yellow", "unverified": "yellow"}

_SHOWN = 20  # of what may be many; --json has them all
_COMMAND = 100  # characters of a package tool's command line, which may be as long as it likes; --json has it all


class Printer:
    """Writes to one stream; colour only on a terminal, and never with ``NO_COLOR`` (no-color.org) set."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.colour = self.stream.isatty() and not os.environ.get("NO_COLOR")

    def line(self, text: str = "") -> None:
        """One line."""
        print(text, file=self.stream)

    def paint(self, text: str, colour: str) -> str:
        """The text in a colour, where colour is wanted."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.colour and colour in _COLOURS else text

    def json(self, value: object) -> None:
        """One JSON value, indented."""
        import json

        self.line(json.dumps(value, indent=2))

    def json_line(self, value: object) -> None:
        """One JSON value on one line, at once, so that a follower sees it."""
        import json

        print(json.dumps(value), file=self.stream, flush=True)

    def warnings(self, warnings: Iterable[str]) -> None:
        """What is odd but not wrong."""
        for warning in warnings:
            self.line(f"{self.paint('warning', 'yellow')}: {warning}")


def error(message: str) -> None:
    """One error on stderr, a line for each reason."""
    for line in message.splitlines() or [""]:
        print(f"dom0-reconciler: {line}", file=sys.stderr)


# --- for people --------------------------------------------------------------------------------------------------


def plan_text(plan: Plan, out: Printer, told: Mapping[str, str] | None = None) -> None:
    """What a plan found and would do, a service a line; not the steps of which it was just ``told`` how they ended."""
    for finding in plan.findings:
        colour = "dim" if finding.rule == "reported" else "yellow"
        out.line(f"{out.paint(finding.rule, colour):<12} {finding.ref}  {plain(finding.detail)}")
    steps = [step for step in plan.steps if not _is_told(step, told or {})]
    if steps:
        out.line("\nsteps:" if plan.findings else "steps:")
    for step in steps:
        out.line(f"  {_step_line(step)}" + (out.paint(f"   held: {plain(step.held)}", "yellow") if step.held else ""))
    gaps_text(plan.gaps, out)
    for kind in plan.skipped:
        out.line(f"{out.paint('skipped', 'dim')}  {kind}: needs root")
    out.line(_verdict(plan, out))


def gaps_text(gaps: Sequence[Gap], out: Printer) -> None:
    """What could not be observed."""
    for gap in gaps:
        out.line(f"{out.paint('gap', 'red')}  {gap.ref}: {plain(gap.why)}")


def _is_told(step: Step, told: Mapping[str, str]) -> bool:
    """Why a step is held is worth a line, unless that was how it ended."""
    word = told.get(_step_line(step))
    return word == "held" if step.held else word is not None


def _step_line(step: Step) -> str:
    return f"{word_of(step.action)} {escape(target_of(step.action))}"


def _verdict(plan: Plan, out: Printer) -> str:
    if plan.converged:
        return out.paint("converged", "green") + ": the host is as the state declares"
    held = sum(step.held is not None for step in plan.steps)
    parts = [f"{len(plan.steps) - held} to do", f"{held} held", f"{len(plan.gaps)} could not be looked at"]
    wanted = [part for part in parts if not part.startswith("0 ")]
    return out.paint("not converged", "yellow") + f": {', '.join(wanted)}"


def record_text(record: Record, out: Printer) -> None:
    """One record of the journal as a line."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.time))
    word = plain(record.outcome or record.record)
    painted = out.paint(f"{word:<10}", _OUTCOME_COLOURS.get(word, "dim"))
    what = plain(f"{record.action} {record.target}".strip())
    why = plain("; ".join(part for part in (record.detail, record.cause) if part))
    out.line(f"{when}  {plain(record.id):<24} {painted} {what}" + (f"  ({why})" if why else ""))


def order_text(word: str, order: Mapping[str, Any], out: Printer) -> None:
    """A line on a pause or an exception, given in its shape."""
    what = ", ".join((*order["names"], *order["paths"])) or "everything"
    out.line(f"{out.paint(word, 'yellow'):<11} {what} until {order['until']} by {order['who']}: {order['why']}")


def safe(value: Any) -> Any:  # noqa: ANN401  (whatever JSON holds)
    """The same with every text in it safe to print: on another tree a status is whatever somebody put there."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {key: safe(each) for key, each in value.items()}
    return [safe(each) for each in value] if isinstance(value, list) else value


def switch_text(switch: Mapping[str, Any], out: Printer) -> None:
    """A line on a change of the network, given in its shape."""
    how = 'unless "dom0-reconciler confirm" is said from a new login'
    until = f", reverts at {switch['until']} {how}" if switch["until"] else ""
    out.line(f"{out.paint('network', 'yellow')}     {' '.join(switch['interfaces'])}: {switch['phase']}{until}")


_NOT_KEPT = "start it with your init system"
_KEPT = "its keeper brings it back by itself, mostly within half a minute; wait"


def status_text(status: Mapping[str, Any], out: Printer, *, kept: bool = False) -> None:
    """The daemon's status for people: a fact a line, what is not as declared after it. ``kept``: it comes back."""
    if not status["running"]:
        out.line(f"{out.paint('not running', 'red')}: {_KEPT if kept else _NOT_KEPT}, or try dom0-reconciler plan")
        return
    _daemon_text(status, out)
    for finding in status["findings"]:
        out.line(f"{finding['rule']:<11} {finding['ref']}  {finding['detail']}")
    for each in status["contested"]:
        count = f"corrected {each['count']} times in a row since {each['since']}, and it comes back"
        out.line(f"{out.paint('contested', 'red')}   {each['name']}: {count}")
    if network := status.get("network"):
        switch_text(network, out)
    for word, key in (("paused", "pauses"), ("left alone", "exceptions")):
        for order in status[key]:
            order_text(word, order, out)
    for step in status["held"]:
        out.line(f"{out.paint('held', 'yellow')}        {step['action']} {step['target']}: {step['held']}")
    for gap in status["gaps"]:
        out.line(f"{out.paint('gap', 'red')}         {gap['ref']}: {gap['why']}")


def _daemon_text(status: Mapping[str, Any], out: Printer) -> None:
    verdict = out.paint("converged", "green") if status["converged"] else out.paint("not converged", "yellow")
    out.line(f"running     {verdict}, mode {status['mode']}, pid {status['pid']}, watching by {status['watch']}")
    if status["fault"]:
        out.line(f"{out.paint('fault', 'red')}       {status['fault']}")
    last = status["last_pass"]
    out.line(f"last pass   {last['time']} ({last['id']})" if last["time"] else "last pass   none yet")
    out.line(f"corrections {status['corrections']} since {status['started']}")
    for line in status["state_errors"]:
        out.line(f"{out.paint('refused', 'red')}     {line} (the last good state stays in force)")


# --- a change of the state ----------------------------------------------------------------------------------------


def change_text(change: Change, out: Printer) -> None:
    """The file, and each step that goes or comes with the change."""
    changed = change.text != change.file.text
    out.line(f"{escape(change.file.path)}: {'changed' if changed else 'as it was'}")
    for sign, colour, steps in (("-", "green", change.gone), ("+", "yellow", change.new)):
        for step in steps:
            held = f"   held: {plain(step.held)}" if step.held else ""
            out.line(f"{out.paint(sign, colour)} {_step_line(step)}{held}")
    if changed and not change.gone and not change.new:
        out.line("the plan stays the same")


def mode_text(change: Change, out: Printer) -> None:
    """The plan, and whose mode changes."""
    plan_text(change.plan, out)
    before, after = change.before.mode, change.after.mode
    changes = f"mode {before} -> {after}" if before != after else f"mode is {after} already"
    out.line(f"{escape(change.file.path)}: {changes}")


# --- one name ----------------------------------------------------------------------------------------------------


def explanation_text(found: Explanation, out: Printer) -> None:
    """A fact a line, with a word in front that says what it is."""
    for word, line in _explained(found):
        out.line(f"{out.paint(f'{word:<9}', 'bold')} {line}")


def _explained(found: Explanation) -> Iterator[tuple[str, str]]:
    if found.service.name:
        also = ", ".join(escape(name) for name in sorted(found.service.names - {found.service.name}))
        yield "service", escape(found.service.name) + (f" (also {also})" if also else "")
        yield "rule", _rule(found)
    yield from (("rail", plain(rail)) for rail in found.rails)
    yield from (("finding", f"{f.ref}  {f.rule}: {plain(f.detail)}") for f in found.findings)
    for each in found.listeners[:_SHOWN]:
        rules = "".join(f"; approved: listeners.approved has {escape(rule)}" for rule in each.approved)
        yield "listener", f"{each.ref}  {plain(each.detail)}{rules}"
    told = {each.ref for each in found.listeners}
    yield from (("seen", str(resource.ref)) for resource in found.seen[:_SHOWN] if resource.ref not in told)
    for step in found.steps:
        yield "would", _step_line(step) + (f"   held: {plain(step.held)}" if step.held else "")
    yield from (("package", _origin_line(origin)) for origin in found.origins)
    for record in found.records[-_SHOWN:]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.time))
        cause = f"  ({record.cause})" if record.cause else ""
        yield "did", plain(f"{when}  {record.id}  {record.outcome}: {record.action} {record.target}{cause}")
    yield from (("back", plain(command)) for command in found.back)
    yield from (("note", plain(note)) for note in found.notes)


def _rule(found: Explanation) -> str:
    if found.approved:
        return f'approved: services.approved has "{escape(found.approved)}"'
    rules = ", ".join(dict.fromkeys(finding.rule for finding in found.findings))
    return f"{rules or 'nothing of it is against the state'}; no name of it is in services.approved"


def _origin_line(origin: Origin) -> str:
    how = {True: "automatic", False: "by hand", None: ""}[origin.automatic]
    by = f" by {plain(origin.by)}" if origin.by else ""
    facts = (
        f"installed {escape(origin.time)}" if origin.time else "",
        f'"{beginning(origin.command, _COMMAND)}"{by}' if origin.command else "",
        how + (f": {', '.join(map(plain, origin.because))}" if origin.because else ""),
    )
    return ", ".join((escape(origin.package), *filter(None, facts)))


# --- what a pass did ----------------------------------------------------------------------------------------------


def attempt_text(attempt: Attempt, out: Printer) -> None:
    """A step and how it ended, as a line."""
    word = _ended(attempt)
    detail = f"  ({plain(attempt.outcome.detail)})" if attempt.outcome and attempt.outcome.detail else ""
    painted = out.paint(f"{word:<10}", _OUTCOME_COLOURS.get(word, "dim"))
    out.line(f"{painted} {_step_line(attempt.step)}{detail}")


def report_text(reports: Sequence[Report], left: Plan, out: Printer) -> None:
    """What was done, a step a line, then what is left. What was tried in vain is shown once, as it ended last."""
    attempts = [attempt for report in reports for attempt in report.attempts]
    last = {_step_line(attempt.step): attempt for attempt in attempts}
    for attempt in attempts:
        if _ended(attempt) == "done" or attempt is last[_step_line(attempt.step)]:
            attempt_text(attempt, out)
    if left.converged:
        out.line(_verdict(left, out))
    else:
        plan_text(left, out, {line: _ended(attempt) for line, attempt in last.items() if _ended(attempt) != "done"})


def _ended(attempt: Attempt) -> str:
    return attempt.outcome.word if attempt.outcome else "?"

"""The JSON of every command: values -> plain dicts. Their keys are a promise; they grow, and never change.

Whatever was observed is escaped here, so that a terminal shows what is in it and does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reconciler.model import Finding, Gap, Plan, Record, Step, target_of, word_of
from reconciler.text import escape, plain

if TYPE_CHECKING:
    from reconciler.attempts import Attempt, Report
    from reconciler.contested import Contest
    from reconciler.daemon import Status
    from reconciler.explanation import Explanation
    from reconciler.moment import Moment
    from reconciler.network.netswitch import Switch
    from reconciler.origins import Origin
    from reconciler.overrides import Order
    from reconciler.statechange import Change


def finding_shape(finding: Finding) -> dict[str, object]:
    """A finding as ``--json`` shows it."""
    return {
        "ref": str(finding.ref),
        "kind": finding.kind,
        "service": escape(finding.service),
        "verdict": finding.verdict,
        "rule": finding.rule,
        "detail": plain(finding.detail),
    }


def step_shape(step: Step) -> dict[str, object]:
    """A step as ``--json`` shows it."""
    return {
        "action": word_of(step.action),
        "target": escape(target_of(step.action)),
        "service": escape(step.service),
        "findings": [str(ref) for ref in step.findings],
        "held": plain(step.held) if step.held else None,
    }


def gap_shape(gap: Gap) -> dict[str, object]:
    """A gap as ``--json`` shows it."""
    return {"kind": gap.kind, "ref": str(gap.ref), "why": plain(gap.why)}


def plan_shape(plan: Plan) -> dict[str, object]:
    """A plan as ``--json`` shows it."""
    return {
        "converged": plan.converged,
        "findings": [finding_shape(finding) for finding in plan.findings],
        "steps": [step_shape(step) for step in plan.steps],
        "gaps": [gap_shape(gap) for gap in plan.gaps],
        "skipped": list(plan.skipped),
    }


def record_shape(record: Record) -> dict[str, object]:
    """A record as ``log --json`` shows it."""
    from reconciler.storage.chain import stamp

    return {
        "id": record.id,
        "time": stamp(record.time),
        "pass": record.pass_id,
        "record": record.record,
        "action": record.action,
        "kind": record.kind,
        "service": record.service,
        "target": record.target,
        "outcome": record.outcome,
        "cause": record.cause,
        "rule": record.rule,
        "detail": record.detail,
    }


def status_shape(status: Status) -> dict[str, object]:
    """The daemon's status as it is published, but for its last pass: the shapes of ``plan``, and how it is itself."""
    from reconciler.storage.chain import stamp

    steps = status.plan.steps
    return {
        **plan_shape(status.plan),
        "converged": status.plan.converged and not status.fault,
        "fault": plain(status.fault) or None,
        "mode": status.mode,
        "pid": os.getpid(),
        "watch": status.watch,
        "started": stamp(status.started),
        "corrections": status.corrections,
        "held": [step_shape(step) for step in steps if step.held],
        "in_flight": [escape(service) for service in status.in_flight],
        "contested": [
            contest_shape(name, contest, status.moment)
            for name, contest in sorted(status.memory.contested(status.moment).items())
        ],
        "pauses": [order_shape(each, status.moment) for each in status.overrides.pauses],
        "exceptions": [order_shape(each, status.moment) for each in status.overrides.exceptions],
        "network": switch_shape(status.switch, status.moment),
        "state_errors": list(status.state_errors),
    }


def last_pass_shape(status: Status) -> dict[str, object]:
    """What belongs beside it, as ``last_pass``: it is another one after each pass."""
    from reconciler.storage.chain import stamp

    return {"id": status.last_pass_id, "time": stamp(status.last_pass) if status.last_pass else ""}


def switch_shape(switch: Switch, now: Moment) -> dict[str, object] | None:
    """A change of the network that waits or was reverted; nothing where there is none."""
    from reconciler.storage.chain import stamp

    if not switch.pass_id:
        return None
    return {
        "phase": switch.phase,
        "interfaces": escape(switch.action.interfaces).split(),
        "pass": switch.pass_id,
        "until": stamp(now.wall + switch.left(now)) if switch.left(now) else None,
    }


def contest_shape(name: str, contest: Contest, now: Moment) -> dict[str, object]:
    """A service or a path that comes back: how often it was corrected in a row, since when, and when again at most."""
    from reconciler.storage.chain import stamp

    return {
        "name": escape(name),
        "count": contest.count,
        "since": stamp(contest.began.wall),
        "next": stamp(now.wall + contest.left(now)),
    }


def order_shape(order: Order, now: Moment) -> dict[str, object]:
    """A pause or an exception: about what (``names`` and ``paths``; neither: everything), by whom, why, how long."""
    from reconciler.storage.chain import stamp

    return {
        "names": [escape(name) for name in order.names],
        "paths": [escape(path) for path in order.paths],
        "who": escape(order.who),
        "why": plain(order.why),
        "until": stamp(order.span.end(now)),
        "undo": order.undo,
    }


def change_shape(change: Change) -> dict[str, object]:
    """``approve --json`` and ``revoke --json``: ``gone`` and ``new`` are the steps no longer, and newly, asked for."""
    return {
        "file": escape(change.file.path),
        "changed": change.text != change.file.text,
        "gone": [step_shape(step) for step in change.gone],
        "new": [step_shape(step) for step in change.new],
        "converged": change.plan.converged,
    }


def mode_shape(change: Change, *, running: bool) -> dict[str, object]:
    """``enforce --json`` and ``observe --json``: the plan as it is, and what the daemon is."""
    mode = {"mode": change.after.mode, "file": escape(change.file.path), "running": running}
    return {**plan_shape(change.plan), **mode}


def explanation_shape(found: Explanation) -> dict[str, object]:
    """``explain --json``."""
    return {
        "name": escape(found.name),
        "service": escape(found.service.name),
        "names": sorted(map(escape, found.service.names)),
        "approved": escape(found.approved) or None,
        "rails": [plain(rail) for rail in found.rails],
        "findings": [finding_shape(finding) for finding in found.findings],
        "seen": [str(resource.ref) for resource in found.seen],
        "listeners": [
            {"ref": str(each.ref), "detail": each.detail, "approved": [escape(rule) for rule in each.approved]}
            for each in found.listeners
        ],
        "steps": [step_shape(step) for step in found.steps],
        "origins": [origin_shape(each) for each in found.origins],
        "records": [record_shape(record) for record in found.records],
        "back": list(found.back),
        "notes": [plain(note) for note in found.notes],
    }


def origin_shape(origin: Origin) -> dict[str, object]:
    """How a package came, as ``--json`` shows it."""
    return {
        "package": escape(origin.package),
        "time": escape(origin.time) or None,
        "command": plain(origin.command) or None,
        "by": plain(origin.by) or None,
        "automatic": origin.automatic,
        "because": [plain(why) for why in origin.because],
    }


def report_shape(reports: Sequence[Report], left: Plan) -> dict[str, object]:
    """``apply --json``: what was found and done, with ``outcome`` and ``detail`` a step; ``converged`` is after it."""
    held = [{**step_shape(step), "id": None, "outcome": "held", "detail": ""} for step in left.steps if step.held]
    done = [attempt_shape(attempt) for report in reports for attempt in report.attempts]
    findings = dict.fromkeys(f for report in reports for f in report.plan.findings)
    return {
        "converged": left.converged,
        "pass": reports[0].pass_id,
        "findings": [finding_shape(finding) for finding in findings],
        "steps": done + held,
        "gaps": [gap_shape(gap) for gap in left.gaps],
        "skipped": list(left.skipped),
    }


def attempt_shape(attempt: Attempt) -> dict[str, object]:
    """A step with its id and how it ended."""
    outcome = attempt.outcome
    return {
        **step_shape(attempt.step),
        "id": attempt.id,
        "outcome": outcome.word if outcome else None,
        "detail": plain(outcome.detail) if outcome else "",
    }

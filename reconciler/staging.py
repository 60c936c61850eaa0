"""A change of the running network as part of a pass: all of its files as expected, and the way back durable first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from reconciler.attempts import Attempt, Staging
from reconciler.errors import ReconcilerError
from reconciler.model import Outcome
from reconciler.network.applying import ApplyNetwork
from reconciler.quarantine import Quarantine
from reconciler.values import replace


def staged(staging: Staging | None, quarantine: Quarantine, pass_id: str, attempts: list[Attempt]) -> list[Attempt]:
    """Make its way back durable, where the running network is to follow its files; held or stale where it cannot be."""
    applying = [attempt for attempt in attempts if isinstance(attempt.step.action, ApplyNetwork)]
    if not applying or staging is None:
        return attempts
    theirs = {attempt.id for attempt in attempts if attempt.step.findings[0].kind == applying[0].step.findings[0].kind}
    if any(attempt.outcome is not None for attempt in attempts if attempt.id in theirs):
        stale = Outcome("stale", "not all of the network's files are as they were looked at, or can be kept")
        return [replace(a, outcome=a.outcome or stale) if a.id in theirs else a for a in attempts]
    kept = [k for k in quarantine.of_pass(pass_id) if k.id in theirs - {applying[0].id}]
    action = applying[0].step.action
    assert isinstance(action, ApplyNetwork), action  # noqa: S101  (chosen so)
    try:
        staging.stage(pass_id, action, kept, applying[0].cause)
    except ReconcilerError as error:
        return [replace(a, outcome=Outcome("held", str(error))) if a.id in theirs else a for a in attempts]
    return attempts


def unstage(staging: Staging | None, attempts: Sequence[Attempt]) -> None:
    """Withdraw what was staged and not begun after all; where that fails too, the next start of the daemon does it."""
    for attempt in attempts:
        begun = attempt.outcome is not None and attempt.outcome.word == "pending"
        if isinstance(attempt.step.action, ApplyNetwork) and not begun and staging is not None:
            with suppress(ReconcilerError, OSError):
                staging.withdraw(attempt.outcome.detail if attempt.outcome else "it was not begun")

"""Waiting for what takes its time, for whoever has nothing else to do meanwhile, or what can be done later."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

from reconciler.host import Handle
from reconciler.model import Outcome


def ready_of(handles: Sequence[Handle]) -> set[int]:
    """The descriptors that are ready, at the latest when the first deadline is over."""
    poll = select.poll()
    for handle in handles:
        poll.register(handle.fd, select.POLLIN)
    timeout = min(handle.deadline for handle in handles) - time.monotonic()
    return {fd for fd, _ in poll.poll(max(0.0, min(timeout, 86400.0)) * 1000.0 + 1.0)}


def to_its_end(handle: Handle) -> Outcome:
    """Wait for one, press it when its time is up, and say how it ended."""
    while True:
        if ready_of((handle,)):
            outcome = handle.finish()
            if outcome.word != "pending":
                return outcome
        elif handle.deadline <= time.monotonic():
            handle.expire()


def give_way() -> None:
    """Let go first what was just started: on a host with one processor it would wait for all that we still do."""
    os.sched_yield()


def has_ended(fd: int) -> bool:
    """Whether the process of a pidfd has ended, reaped or not (``pidfd_open(2)``)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))

"""What reaches the system's log: every record of the journal, and what the daemon has to say besides.

A message is shaped by a few processors, plain functions of structlog's form, and delivered by
:mod:`reconciler.sinks`. One-shot commands, and the daemon until it calls :meth:`Log.adopt`, run the
processors themselves; afterwards structlog does, which adds the context of a pass and whatever processor a
later need brings. structlog takes 95 ms to import and python-systemd 25: that is time in which the first
correction can be done, so both are imported inside ``adopt``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

from reconciler.model import Record
from reconciler.sinks import Console, Fields, NativeJournald, Outlet, Sink, Syslog, SystemdJournald
from reconciler.text import escape
from reconciler.values import Value

IDENTIFIER = "dom0-reconciler"

Event = MutableMapping[str, Any]
Processor = Callable[[Any, str, Event], Any]


class Kind(Value):
    """A type of message: its ``MESSAGE_ID`` for ever, its priority (``syslog(3)``), its meaning in words."""

    message_id: str
    priority: int
    words: str


KINDS: Mapping[str, Kind] = {
    # A record of an action: its intent, or the word of its outcome.
    "intent": Kind("030ca1210a1c4866a63d000991479ea2", 6, "about to"),
    "done": Kind("423a82a644d54c65a3c89b23d54141fc", 5, "done"),
    "pending": Kind("6ecd1aef736e48cd83ab770c5a352b15", 6, "under way"),
    "stale": Kind("408e4cf7e5d849a19d4b2bf911622b86", 5, "not done, things have changed"),
    "held": Kind("5ec7b8a3de2743a3ac50c7b9d85c80d6", 4, "held"),
    "failed": Kind("0260fe1cf2344887bb3dc4c084a6068a", 3, "failed"),
    "unverified": Kind("2c378e7a378f4ad691b3d7c05a69a5b1", 4, "done or not, nobody saw it"),
    # A notice, and what the daemon says.
    "start": Kind("0216557bdff5434f8c75dbbc15fc9db8", 6, "started"),
    "stop": Kind("f189adf474214a0cb3f8576a78c8785a", 6, "stopped"),
    "reload": Kind("fe035e3a07ab4dd6b489edadeed93737", 6, "desired state read anew"),
    "refused": Kind("635afed683f745ec9b69ae8e4b3b0823", 3, "desired state refused, the last good one stays"),
    "torn": Kind("cf345659e80a479bbe699d1bf87a1089", 4, "journal torn by a crash"),
    "cut": Kind("9564b58058d04b1db1c9dfccf4f7ca82", 2, "journal cut by somebody"),
    "away": Kind("e48502724e6e4e0d94fdc104c2eb6380", 3, "the disk takes no records, they wait in memory"),
    "home": Kind("7b96204ca61642a1a29150d8b7d653c1", 4, "the disk takes records again"),
    "unforwarded": Kind("03c7d694105f4255bee37aa0b1af969e", 4, "records missing here"),
    "forgotten": Kind("9708d7c33baf4674bbb43c43852d0356", 6, "quarantine forgotten"),
    "expiring": Kind("ae8110f96a4b41b6b54b818df8e0625f", 4, "soon it can no longer be undone"),
    "watch-fallback": Kind("83f706f75330483aa07b88e81c271552", 4, "watching by polling"),
    "gap": Kind("b5bddf9b6c4941ee8591ef5991ea109d", 4, "could not look"),
    "finding": Kind("af756c7c12e94063b7d4413cf4de4171", 5, "found"),
    "contested": Kind("b6e300001675430fae9a3719f8e266b2", 4, "contested, it comes back again and again"),
    "pause": Kind("d0e1ed20b7a14affbc094bfd71e20db4", 5, "paused"),
    "resume": Kind("a97fb8cedef74aeeaf531788afa79355", 5, "resumed"),
    "mode": Kind("dda9a751694b4959a83ae8b9db2d8193", 5, "mode changed"),
    "approve": Kind("6d2f6c1f3c0b4f0e9a0d5a3c1b7e4f28", 5, "approved"),
    "revoke": Kind("b1c5e0d2a94f4e63b7f1c86d0e2a5934", 5, "no longer approved"),
    "undo": Kind("931e9ad59453451295c867238d14c121", 5, "undone"),
    "unmade": Kind("8ef563e8a5be4a579ef875c928b9f7fa", 3, "an order was recorded, and could not be carried out"),
    "staged": Kind("1dc12f68edb1473081a456168d6eb34b", 5, "a change of the network is staged"),
    "applied": Kind("c35987dd058147e0bdd5e9d25da09bfa", 4, "the network is changed, and waits to be confirmed"),
    "confirmed": Kind("24af9c7abaca4d5b88d1efb9bde63277", 5, "the change of the network is confirmed"),
    "reverted": Kind("fb4723bcdff349b7bef94937b32d4f6f", 4, "the change of the network is reverted"),
    "fault": Kind("cf7f3b762d10463c853e58dd261f5a68", 3, "fault"),
    "library": Kind("9307fdea51eb4bf7b6de4ff149ce90e3", 4, "a library says"),
    "sink": Kind("5588056fea4248219942845769cd3b7f", 5, "log"),
}
"""Every type of message. An id is a promise to whoever filters for it: one is added, none ever changes."""

_OTHER = Kind("", 6, "")


class Log:
    """Messages on their way out, with a context that each of them carries (``pass``, for one)."""

    def __init__(self, outlet: Outlet, shape: Callable[..., Fields] | None = None, **context: str) -> None:
        self._outlet, self._shape, self._context = outlet, shape or _shape, context

    def records(self, records: Sequence[Record]) -> None:
        """Log records of the journal as one burst: what :class:`~reconciler.journal.Journal` forwards to."""
        self._outlet.burst([self._shape(word_of(record), record=record) for record in records])

    def say(self, event: str, detail: str = "", **fields: str) -> None:
        """Log one thing: ``event`` is a word of :data:`KINDS`, ``detail`` already escaped."""
        self._outlet.burst([self._shape(event, detail=detail, **self._context, **fields)])

    def bind(self, **context: str) -> Log:
        """The same log, whose messages also carry ``context``. Bind after :meth:`adopt`."""
        return Log(self._outlet, self._shape, **(self._context | context))

    def adopt(self) -> None:
        """Import structlog, and python-systemd where it is installed, and go on through them.

        The daemon calls it after its first correction and before it first waits: later an upgrade may have
        taken either away. Without structlog, or with one that will not load, nothing changes; a log is no
        reason to end.
        """
        try:
            self._shape = _by_structlog()
        except ImportError as error:
            self.say("fault", f"structlog does not load: {error}")
        try:
            from systemd import journal
        except ImportError:
            pass  # the native protocol says the same
        else:
            self._outlet.replace(SystemdJournald(journal.send))
        _hear_libraries(self)


def for_daemon(*, live: bool) -> Log:
    """The daemon's log. On another tree than the host's own the only log is the console."""
    return Log(Outlet([NativeJournald(), Syslog(), Console()] if live else [Console()], _about_the_log))


def for_command(*, live: bool) -> Log:
    """A one-shot command's log. Never the console: what it did is its output, stderr is for errors."""
    sinks: list[Sink] = [NativeJournald(), Syslog()] if live else []
    return Log(Outlet(sinks, _about_the_log))


def word_of(record: Record) -> str:
    """The type of a record, a word of :data:`KINDS`."""
    return record.outcome if record.record == "outcome" else record.record


# --- processors: event in, event out; the last one makes the fields
# -----------------------------------------------


def expand_record(_logger: object, _method: str, event: Event) -> Event:
    """A record becomes fields and a sentence."""
    record: Record | None = event.pop("record", None)
    if record is None:
        return event
    event["message"] = _sentence(record)
    event.update(
        {
            "pass": record.pass_id,
            "action": record.action,
            "kind": record.kind,
            "service": record.service,
            "target": record.target,
            "outcome": record.outcome,
            "cause": record.cause,
            "rule": record.rule,
            "id": record.id,
        }
    )
    return event


def add_message(_logger: object, _method: str, event: Event) -> Event:
    """What is no record says its type in words, and the detail."""
    detail = event.pop("detail", "")
    if "message" not in event:
        words = KINDS.get(event["event"], _OTHER).words or event["event"]
        event["message"] = f"{words}: {detail}" if detail else words
    return event


def to_fields(_logger: object, _method: str, event: Event) -> dict[str, str]:
    """Journal fields; what is empty is left out."""
    word = event.pop("event")
    kind = KINDS.get(word, _OTHER)
    fields = {
        "MESSAGE": event.pop("message"),
        "MESSAGE_ID": kind.message_id,
        "PRIORITY": str(kind.priority),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        **{f"RECONCILER_{key.upper()}": str(value) for key, value in event.items()},
    }
    return {key: value for key, value in fields.items() if value}


PROCESSORS: tuple[Processor, ...] = (expand_record, add_message, to_fields)


def _shape(word: str, /, **fields: object) -> Fields:
    event: Any = {"event": word, **fields}
    for process in PROCESSORS:
        event = process(None, "info", event)
    shaped: dict[str, str] = event
    return shaped


class _Shaped:
    """The logger that structlog wraps: gives back what the processors made, for the burst it belongs to."""

    def info(self, fields: Fields) -> Fields:
        return fields


def _as_argument(_logger: object, _method: str, fields: Fields) -> tuple[tuple[Fields], dict[str, object]]:
    """How structlog is told to call its logger."""
    return (fields,), {}


def _by_structlog() -> Callable[..., Fields]:
    with _without("ssl", "rich"):
        import structlog

    logger = structlog.wrap_logger(
        _Shaped(),
        processors=[structlog.contextvars.merge_contextvars, *PROCESSORS, _as_argument],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=True,
    )
    shape: Callable[..., Fields] = logger.bind().info
    return shape


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Import something as if these were not there, for good: what has them as an extra goes without.

    structlog brings asyncio, which brings OpenSSL (4 MiB), and where it is installed rich (5 MiB) for a console in
    colour. No daemon needs either.
    """
    absent = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None makes an import fail (importlib)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


def _hear_libraries(log: Log) -> None:
    """What libraries say by the stdlib's logging, from warnings up, goes the same way."""
    import logging

    class Libraries(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            log.say("library", escape(f"{record.name}: {record.getMessage()}"))

    logging.getLogger().addHandler(Libraries(logging.WARNING))


# --- sentences
# ---------------------------------------------------------------------------------------------------


def _sentence(record: Record) -> str:
    kind = KINDS.get(word_of(record), _OTHER)
    if not record.action:
        words = kind.words or record.record
        return f"{words}: {record.detail}" if record.detail else words
    what = f"{record.action} {record.target or record.service}"
    if record.service and record.target:
        what += f" of {record.service}"
    if record.record == "intent":
        return f"{kind.words} {what}{_why(record)}"
    detail = f", {record.detail}" if record.detail else ""
    return f"{what}: {kind.words or record.outcome}{detail}{_why(record)}"


def _why(record: Record) -> str:
    found = "; ".join(part for part in (record.rule, record.cause) if part)
    return f" ({found})" if found else ""


def _about_the_log(detail: str) -> Fields:
    return _shape("sink", detail=detail)

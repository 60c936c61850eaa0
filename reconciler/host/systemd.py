"""What systemd is asked and told: which units are active, to forget and to stop.

Enabling, disabling and masking are links, and are made and removed as such (:func:`pieces`): one way for the running
host and for an image, confined to the root, and undone link by link. ``systemctl disable`` would do more than was
planned and differently on each host: it follows ``Also=``, removes emptied folders, and calls ``update-rc.d`` for units
that have an init script, whose start links are another kind's concern. It is silent on vendor links and static units.
Debian's own tools respect links that are gone: ``deb-systemd-helper`` takes a unit for disabled by its administrator
as soon as one of its links is missing (its ``was-enabled``).
"""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Sequence
from contextlib import suppress

from reconciler.errors import ActionFailed, Stale, Unobservable
from reconciler.host import bus
from reconciler.host.files import Root
from reconciler.model import (
    Action,
    DisableUnit,
    EnableUnit,
    Link,
    LinkState,
    MaskUnit,
    Outcome,
    ReloadManager,
    StartService,
    StopService,
    Unlink,
    UnmaskUnit,
)
from reconciler.text import escape

SYSTEMCTL = "/bin/systemctl"

ANSWER_SECONDS = 5.0
"""PID 1 answers a question in a millisecond; while it reloads it answers nobody for some tenths of a second."""

RELOAD_SECONDS = 60.0
"""A reload runs every generator and reads every unit: 0.3 s on a small host, some seconds on a large and busy one."""

STOP_SECONDS = 120.0
"""systemd itself kills what has not stopped after 90 s (``DefaultTimeoutStopSec``, systemd-system.conf(5))."""

KILL_SECONDS = 5.0
"""What is left to systemctl between TERM and KILL."""

_FOLDER = "/etc/systemd/system"
_MASK = LinkState("/dev/null")
_ACTIVE = ("active", "activating", "deactivating", "reloading", "refreshing", "maintenance")
_TRIGGERS = ("*.socket", "*.timer", "*.path")
_NAME = re.compile(r"[A-Za-z0-9:_.\\@*-]{1,249}\.(?:service|socket|timer|path)")  # systemd.unit(5); "*" is ours
_ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "SYSTEMD_COLORS": "0",
    "SYSTEMD_PAGER": "",
}
_RESET = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
_TAIL = 2048  # bytes of systemctl's last words that go into the record

UnitAction = DisableUnit | EnableUnit | MaskUnit | UnmaskUnit | ReloadManager


def pieces(action: Action) -> tuple[Unlink | Link, ...]:
    """The changes of files that an action on units consists of; what makes a batch durable wants to know them."""
    match action:
        case DisableUnit():
            return tuple(Unlink(path, target) for path, target in action.links)
        case EnableUnit():
            states = action.states or tuple(LinkState(target) for _, target in action.links)
            return tuple(Link(path, state) for (path, _), state in zip(action.links, states, strict=True))
        case MaskUnit():
            return tuple(Link(f"{_FOLDER}/{unit}", _MASK) for unit in action.units)
        case UnmaskUnit():
            return tuple(Unlink(f"{_FOLDER}/{unit}", _MASK.target) for unit in action.units)
        case _:
            return ()


class Systemd:
    """systemd on the running host, or its links below another root: there nothing is ever asked or started."""

    def __init__(
        self,
        root: Root,
        *,
        systemctl: str = SYSTEMCTL,
        sockets: Sequence[str] = bus.SOCKETS,
        seconds: float = STOP_SECONDS,
    ) -> None:
        """``seconds`` is what a stop gets; the other two exist for tests."""
        self._root, self._systemctl, self._sockets, self._seconds = root, systemctl, sockets, seconds

    def triggers(self) -> tuple[str, ...]:
        """The sockets, timers and paths that are active, sorted. Raises ``Unobservable``."""
        try:
            return self._active(_TRIGGERS)
        except bus.BusError as error:
            raise Unobservable(str(error)) from error

    def _active(self, patterns: Sequence[str]) -> tuple[str, ...]:
        answer = bus.ask("ListUnitsByPatterns", _ACTIVE, patterns, seconds=ANSWER_SECONDS, sockets=self._sockets)
        return tuple(sorted(name for name, state in bus.read_units(answer) if state in _ACTIVE))

    def do(self, action: UnitAction) -> Outcome:
        """Do one action that ends at once. Raises ``Stale`` when nothing was left to do, ``ActionFailed``."""
        if isinstance(action, ReloadManager):
            return self._reload()
        if isinstance(action, MaskUnit | EnableUnit):
            self._make_folders(action)
        return self._change(action)

    def _reload(self) -> Outcome:
        try:  # who does not answer at all must not hold up every other correction for as long as a reload may take
            bus.ask("ListUnitsByPatterns", (), ("-.slice",), seconds=ANSWER_SECONDS, sockets=self._sockets)
            bus.ask("Reload", seconds=RELOAD_SECONDS, sockets=self._sockets)
        except bus.BusError as error:
            raise ActionFailed(str(error)) from error
        return Outcome("done")

    def _make_folders(self, action: UnitAction) -> None:
        """``systemctl`` removes a farm with its last link: what puts links in must be able to make it."""
        self._root.release()  # a folder held open may be one that was removed
        for folder in {piece.path.rpartition("/")[0] for piece in pieces(action)}:
            try:
                os.close(self._root.folder_fd(folder, create=True))
            except (OSError, Unobservable) as error:
                raise ActionFailed(f"{escape(folder)} cannot be made: {error}") from error

    def _change(self, action: UnitAction) -> Outcome:
        """Each link on its own, so that one that is in the way keeps no other; then say what was."""
        wanted, stale, failed = pieces(action), list[str](), list[str]()
        for piece in wanted:
            try:
                self._root.unlink(piece) if isinstance(piece, Unlink) else self._root.link(piece)
            except Stale as error:
                stale.append(str(error))
            except ActionFailed as error:
                failed.append(str(error))
        if stale and isinstance(action, MaskUnit):  # something of that name is there: no mask can lie over it
            failed += [f"{why}: a unit of the administrator's own is not masked" for why in stale]
        if failed:
            raise ActionFailed("; ".join(failed))
        if not wanted:
            raise ActionFailed("it names no link to change")
        if len(stale) == len(wanted):
            raise Stale("; ".join(stale))
        return Outcome("done", "; ".join(stale))

    def begin(self, action: StopService | StartService) -> SystemctlHandle:
        """Stop or start all units of a service, in one batch. Raises ``ActionFailed`` where that cannot begin."""
        units = [unit for unit in action.units if _NAME.fullmatch(unit)]
        if isinstance(action, StartService):
            units = _to_start(units)
        if not units:
            raise ActionFailed(f"{escape(action.service)} has no unit that could be told")
        verb = "stop" if isinstance(action, StopService) else "start"
        arguments = (self._systemctl, "--no-ask-password", "--no-pager", verb, "--", *map(_pattern, units))
        return SystemctlHandle(action, arguments, self._seconds, self)

    def still_active(self, units: Sequence[str]) -> tuple[str, ...]:
        """Which of these units, or of those that these patterns match, are active. Raises ``BusError``."""
        return self._active([unit.replace("\\", "\\\\") for unit in units])


def _pattern(unit: str) -> str:
    """``fnmatch(3)`` eats a backslash (as systemd-escape(1) makes them) of a pattern, not of a plain name."""
    return unit.replace("\\", "\\\\") if "*" in unit else unit


def _to_start(units: Sequence[str]) -> list[str]:
    """Not the instances of a template, and not what a timer or a path is there to start when its time comes."""
    waiting = {unit.rpartition(".")[0] for unit in units if unit.endswith((".timer", ".path"))}
    plain = (unit for unit in units if "*" not in unit)
    return [unit for unit in plain if not (unit.endswith(".service") and unit.rpartition(".")[0] in waiting)]


class SystemctlHandle:
    """One ``systemctl`` that waits for its jobs: the :class:`~reconciler.host.Handle` of systemd.

    Ending it ends the waiting only; systemd goes on with the job.
    """

    def __init__(
        self, action: StopService | StartService, arguments: tuple[str, ...], seconds: float, systemd: Systemd
    ) -> None:
        """Start it. Raises ``ActionFailed``."""
        self.action = action
        self.deadline = time.monotonic() + seconds
        self._seconds, self._systemd, self._sent = seconds, systemd, 0
        self._output = os.memfd_create("systemctl", os.MFD_CLOEXEC)  # neither blocks it nor fills a disk
        try:
            pid = _spawn(arguments, self._output)
        except OSError as error:
            os.close(self._output)
            raise ActionFailed(f"{arguments[0]} cannot be run: {error.strerror}") from error
        try:
            self.fd = os.pidfd_open(pid)
        except OSError as error:
            os.close(self._output)
            os.kill(pid, signal.SIGKILL)  # ours, and not reaped: its number is nobody else's
            os.waitpid(pid, 0)
            raise ActionFailed(f"{arguments[0]} cannot be watched: {error.strerror}") from error

    def expire(self) -> None:
        """TERM, and KILL the next time; ``deadline`` moves on."""
        number = signal.SIGKILL if self._sent else signal.SIGTERM
        self.deadline = math.inf if self._sent else time.monotonic() + KILL_SECONDS
        self._sent = number
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.fd, number)

    def finish(self) -> Outcome:
        """Reap it and say how it ended; ``pending``, and nothing done, while it still runs."""
        try:
            ended = os.waitid(os.P_PIDFD, self.fd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            self._close()
            return Outcome("unverified", "its end was taken by another part of this process")
        if ended is None:
            return Outcome("pending", "it still runs")
        words = self._close()
        if self._sent:
            return Outcome("failed", f"not over after {self._seconds:.0f} s; systemd goes on with it")
        if ended.si_code == os.CLD_EXITED and not ended.si_status:
            return Outcome("done")
        return self._judge(words or f"systemctl ended with {ended.si_status}")

    def _judge(self, words: str) -> Outcome:
        """An error may be about a unit that is not loaded, which is no less stopped: ask what is still active."""
        if isinstance(self.action, StartService):
            return Outcome("failed", words)
        try:
            left = self._systemd.still_active(self.action.units)
        except bus.BusError as error:
            return Outcome("failed", f"{words}; {error}")
        return Outcome("failed", f"{words}; still active: {escape(' '.join(left))}") if left else Outcome("done")

    def _close(self) -> str:
        """Let the descriptors go; systemctl's last words."""
        size = os.fstat(self._output).st_size
        words = os.pread(self._output, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace").strip()
        os.close(self._output)
        os.close(self.fd)
        self.fd = -1
        return escape(words)


def _spawn(arguments: tuple[str, ...], output: int) -> int:
    """A child with no input, no terminal, no descriptor of ours and none of our signal settings."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    return os.posix_spawn(
        arguments[0],
        arguments,
        _ENVIRONMENT,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_RESET,
    )

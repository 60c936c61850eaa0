"""Init scripts run as init would run them, and signals sent to exactly the process that was seen.

A script runs with root's rights, so it is run only when nobody but root can have written it. It gets a clean
start (``service(8)`` gives the same: ``/`` as folder, a fixed environment) and a session of its own. What it
prints goes into a pipe that never blocks the writer: it may hang or print for ever, and neither holds up the
daemon nor fills anything. Once 64 KiB lie in the pipe, its further words are lost. A daemon that left the
script's process group (``setsid(2)``) outlives the time limit: only the group is signalled.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from reconciler.errors import ActionFailed, Stale, Unobservable
from reconciler.host import orphans
from reconciler.host.files import Located, Root
from reconciler.host.kernel import ProcessTable, started
from reconciler.host.orphans import OrphanHandle
from reconciler.model import Outcome, Signal, StartService, StopService
from reconciler.network.applying import ApplyNetwork
from reconciler.text import escape

STOP_SECONDS = 60.0
"""What a script gets. Debian's slowest ordinary stops, databases apart, are over in half of it."""

KILL_SECONDS = 5.0
"""What is left between TERM and KILL."""

TAIL_BYTES = 2048
"""So much of a script's last words goes into the record."""

_SCRIPTS = "/etc/init.d"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_STDERR = 2
_PIPE_BYTES = 1 << 16  # Linux's own size of a pipe (pipe(7))
_RESET = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


ScriptAction = StopService | StartService


class ScriptHandle:
    """One run of an init script: the :class:`~reconciler.host.Handle` of sysvinit; or of another command of ours."""

    def __init__(
        self,
        action: ScriptAction | ApplyNetwork,
        script: str,
        seconds: float = STOP_SECONDS,
        command: tuple[str, ...] = (),
    ) -> None:
        """Start ``script``, a path that was checked, or ``command``. ``ActionFailed`` where it cannot be started."""
        self.action = action
        self.deadline = time.monotonic() + seconds
        self._sent = ""  # the last signal it was sent
        self._seconds = seconds
        verb = "start" if isinstance(action, StartService) else "stop"
        try:
            self._pid, self._output = _start(command or (script, verb), keep=verb == "stop")
        except OSError as error:
            raise ActionFailed(f"{script} cannot be run: {error.strerror}") from error
        try:
            self.fd = os.pidfd_open(self._pid)
        except OSError as error:
            self._signal(signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._output)
            raise ActionFailed(f"{script} cannot be watched: {error.strerror}") from error

    def expire(self) -> None:
        """TERM to the process group, KILL the next time; ``deadline`` moves on. Nothing if it just ended."""
        last = self._sent != ""
        self.deadline = math.inf if last else time.monotonic() + KILL_SECONDS
        with suppress(ChildProcessError):
            if self._ended() is None:
                self._sent = "KILL" if last else "TERM"
                self._signal(signal.SIGKILL if last else signal.SIGTERM)

    def finish(self) -> Outcome:
        """Reap it and say how it ended; ``pending``, and nothing done, while it still runs."""
        try:
            ended = self._ended()
            if ended is None:
                return Outcome("pending", "it still runs")
            if self._sent:
                self._signal(signal.SIGKILL)  # what ignored TERM; until it is reaped the group's number is its own
            os.waitid(os.P_PIDFD, self.fd, os.WEXITED)
        except ChildProcessError:
            return Outcome("unverified", self._close("its exit status was lost"))
        how = self._how(ended)
        words = self._close(how)
        return Outcome("failed", words) if how else Outcome("done")

    def _ended(self) -> os.waitid_result | None:
        """How it ended, left to be reaped; ``None`` while it runs."""
        return os.waitid(os.P_PIDFD, self.fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _how(self, ended: os.waitid_result) -> str:
        """What was wrong with its end, "" for nothing."""
        if self._sent:
            return f"not over after {self._seconds:.0f} s, ended by {self._sent}"
        if ended.si_code != os.CLD_EXITED:
            return f"ended by signal {ended.si_status}"
        return f"exit {ended.si_status}" if ended.si_status else ""

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    def _close(self, how: str) -> str:
        """Let the descriptors go; how it ended, with its last words."""
        text = _drain(self._output)
        os.close(self._output)
        os.close(self.fd)
        self.fd = -1
        lines = text[-TAIL_BYTES:].decode("utf-8", "replace").split("\n")
        words = "; ".join(escape(line.strip()) for line in lines if line.strip())
        return f"{how}: {words}" if words else how


def _start(arguments: tuple[str, ...], *, keep: bool) -> tuple[int, int]:
    """Run a script, also one without ``#!``: for the shell that init runs scripts from, that is one of its own."""
    try:
        return _spawn(arguments, keep=keep)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        return _spawn(("/bin/sh", *arguments), keep=keep)


@contextmanager
def _clean_start() -> Iterator[None]:
    """The folder and umask that a script is to be given, ours while it is started: posix_spawn sets neither.

    A shell in between, which did, was half of the time until a stop script ran.
    """
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    before = os.umask(0o022)
    try:
        os.chdir("/")
        yield
    finally:
        os.umask(before)
        os.fchdir(here)
        os.close(here)


def _spawn(arguments: tuple[str, ...], *, keep: bool) -> tuple[int, int]:
    """Start a command of ours in a session of its own; its pid, and the end of its output that we read.

    Without ``keep`` the output goes to /dev/null: what a *start* leaves running may hold it, and must not die
    of SIGPIPE hours later.
    """
    _keep_to_ourselves()
    output, inner = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        sink = inner if keep else os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, sink, 1),
            (os.POSIX_SPAWN_DUP2, sink, 2),
        ]
        try:
            with _clean_start():
                pid = os.posix_spawn(
                    arguments[0],
                    arguments,
                    _ENVIRONMENT | dict([orphans.MARK] if keep else []),
                    file_actions=actions,
                    setsid=True,
                    setsigmask=(),
                    setsigdef=_RESET,
                )
        finally:
            if not keep:
                os.close(sink)
    except BaseException:
        os.close(output)
        raise
    finally:
        os.close(inner)
    return pid, output


@cache
def _keep_to_ourselves() -> None:
    """Let nobody inherit what we were started with and never closed; Python's own descriptors are not inherited."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            if int(name) > _STDERR:
                os.set_inheritable(int(name), False)


def _drain(output: int) -> bytes:
    """What is in the pipe now: it is never waited for, whoever still holds its other end."""
    with suppress(BlockingIOError):
        return os.read(output, _PIPE_BYTES)
    return b""


# --- which script may be run --------------------------------------------------------------------------------


class InitScripts:
    """The scripts of ``/etc/init.d`` below one root."""

    def __init__(self, root: Root, owner: int = 0, seconds: float = STOP_SECONDS) -> None:
        """``owner`` is the only user who may be able to write a script that is run."""
        self._root, self._owner, self._seconds = root, owner, seconds
        self._left: dict[str, list[int]] | None = None  # by an earlier run, when this one began its first

    def begin(self, action: ScriptAction) -> ScriptHandle | OrphanHandle:
        """Run a service's script, or wait for the stop of it that an earlier run of ours has left behind.

        Raises ``ActionFailed`` where it has none that may be run.
        """
        path = f"{_SCRIPTS}/{action.script}"
        try:
            self._check(action, path)
        except Unobservable as error:
            raise ActionFailed(str(error)) from error
        script = self._root.path.rstrip("/") + path
        left = self._adopted(action, script) if isinstance(action, StopService) else None
        return left or ScriptHandle(action, script, self._seconds)

    def _adopted(self, action: StopService, script: str) -> OrphanHandle | None:
        if self._left is None:
            self._left = orphans.find(self._owner)
        there = self._left.get(script, [])
        while there:
            times = self._seconds, KILL_SECONDS
            if handle := orphans.adopt(there.pop(), action, script, self._owner, times):
                return handle
        return None

    def _check(self, action: ScriptAction, path: str) -> None:
        if not action.script:
            raise ActionFailed(f"{escape(action.service)} has no init script")
        if "/" in action.script or action.script.startswith("."):
            raise ActionFailed(f"{escape(action.script)} is no name of an init script")
        folder, script = self._located(_SCRIPTS), self._located(path)
        if script.path.rpartition("/")[0] != folder.path:
            raise ActionFailed(f"{escape(path)} leads out of {_SCRIPTS}")
        if not stat.S_ISREG(script.status.st_mode):
            raise ActionFailed(f"{escape(path)} is no regular file")
        if not script.status.st_mode & stat.S_IXUSR:
            raise ActionFailed(f"{escape(path)} is not executable")
        self._must_be_ours(script, script.path)
        self._must_be_ours(folder, folder.path)
        above = folder.path
        while above != "/":
            above = above.rpartition("/")[0] or "/"
            self._must_be_ours(self._root.locate(above), above)

    def _located(self, path: str) -> Located:
        found = self._root.locate(path)
        if found is None:
            raise ActionFailed(f"{escape(path)} does not exist")
        return found

    def _must_be_ours(self, found: Located | None, path: str) -> None:
        if found is None or found.status.st_uid != self._owner or found.status.st_mode & _OTHERS_WRITE:
            raise ActionFailed(f"{escape(path)} can be written by another user than root: not run")


# --- signals ------------------------------------------------------------------------------------------------


def send(action: Signal, table: ProcessTable) -> Outcome:
    """Send a signal to processes, each held by a descriptor (``pidfd_open(2)``) so that no later one gets it.

    Raises ``Stale`` where none of ``pids`` runs any more, ``ActionFailed`` where a signal is refused.
    """
    number = _number(action.signal)
    pids = action.pids or _running(action.executable, table)
    if not pids:
        return Outcome("done", "not running")
    if any(pid <= 1 or pid == os.getpid() for pid, _ in pids):
        raise ActionFailed("neither the first process nor the reconciler itself is signalled")
    sent = [pid for pid, start in pids if _send(pid, start, number)]
    if action.pids and not sent:
        raise Stale(f"no process of {escape(action.service)} that was seen runs any more")
    return Outcome("done", f"{signal.Signals(number).name} to {', '.join(map(str, sent)) or 'nobody'}")


def _running(executable: str, table: ProcessTable) -> tuple[tuple[int, int], ...]:
    if not executable:
        raise ActionFailed("a signal without a process")
    wanted = table.normal(executable)
    seen = [process for process in table.look() if process.executable == wanted]
    return tuple((process.pid, process.started) for process in seen if process.pid != os.getpid())


def _number(name: str) -> signal.Signals:
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise ActionFailed(f"{escape(name)} is no signal") from None


def _send(pid: int, start: int, number: int) -> bool:
    """False where that very process is gone: its pid free, or another's."""
    try:
        fd = os.pidfd_open(pid)
        try:
            if started(pid) != start:
                return False
            signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise ActionFailed(f"process {pid} cannot be signalled: {error.strerror}") from error
    return True

"""The running network: ifupdown's own tools told to follow the files, and guests' ports put back on their bridges.

ifdown(8) must see the files as they were when it takes something down, or an old address stays: they are laid out
once more below :data:`FORMER` for it. Everything here may take its time and run anybody's hooks, so the daemon does
none of it: it starts a process beside itself (:func:`begin`), by PID 1 where there is systemd, since the daemon's
sandbox would be the hooks' as well.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from reconciler.errors import ActionFailed
from reconciler.host import Handle
from reconciler.host.services import ScriptHandle
from reconciler.network.applying import ApplyNetwork
from reconciler.text import escape

FORMER = "/run/dom0-reconciler/network"
"""The files as they were, for ifdown."""

HOME = "/etc/network"

SECONDS = 90.0
"""What one call of a tool gets: a DHCP client asks for a minute by default (dhclient.conf(5), timeout)."""

BEGIN_SECONDS = 4 * SECONDS
"""What a change gets until it is applied, or reverted because that failed."""

_STARTED = ("/run/network/ifstate", "/run/network/ifstatenew")
_TAIL = 1024  # bytes of a tool's last words that go into the record
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}
_SOURCE = re.compile(rb"(?m)^([ \t]*source(?:-dir(?:ectory)?)?[ \t]+)" + HOME.encode() + rb"/")
_SYSTEMD_RUN = "/usr/bin/systemd-run"
_UNIT = "dom0-reconciler-switch"


# --- the process beside ---------------------------------------------------------------------------------------------


def begin(action: ApplyNetwork, words: Sequence[str], *, systemd: bool) -> Handle:
    """Have what is staged applied by a process beside this one, which goes on and reverts it unless confirmed.

    ``words`` are what this program is to be told. The handle is over when it is applied, or has failed and is reverted.
    """
    arguments = _beside([*ourselves(), *words], systemd=systemd)
    return ScriptHandle(action, arguments[0], BEGIN_SECONDS, arguments)


def guard(words: Sequence[str], *, systemd: bool) -> None:
    """The same process for a change that waits already; nothing where one waits for it. Raises ``ActionFailed``."""
    result = run(_beside([*ourselves(), *words], systemd=systemd))
    if result:
        raise ActionFailed(result)


def _beside(command: Sequence[str], *, systemd: bool) -> tuple[str, ...]:
    if not systemd:
        return tuple(command)
    properties = ("--property=Type=forking", f"--property=TimeoutStartSec={BEGIN_SECONDS:.0f}")
    options = (f"--unit={_UNIT}", "--collect", "--quiet", f"--working-directory={os.getcwd()}", *properties)
    return (_SYSTEMD_RUN, "--no-ask-password", *options, "--", *command)


def ourselves() -> list[str]:
    """How this program was called, without what it was told (``sys.orig_argv``): the launcher, or ``-m reconciler``."""
    told = len(sys.argv) - 1
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - told]]


# --- tools ----------------------------------------------------------------------------------------------------------


def run(command: Sequence[str], seconds: float = SECONDS) -> str:
    """Run a tool to its end; what was wrong with it, "" for nothing. One that takes too long is killed, hooks and all.

    What it prints goes to a file: a daemon that it starts may hold that for ever, and nobody waits for it.
    """
    with open(os.memfd_create("output", os.MFD_CLOEXEC), "wb") as output:
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT,
                cwd="/" if command[0] != _SYSTEMD_RUN else None,
                start_new_session=True,
            )
        except OSError as error:
            return f"{command[0]} cannot be run: {error.strerror}"
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            return f"{' '.join(command)}: not over after {seconds:.0f} s, killed"
        return "" if code == 0 else f"{' '.join(map(escape, command))} ended with {code}{_last_words(output.fileno())}"


def _last_words(output: int) -> str:
    size = os.fstat(output).st_size
    text = os.pread(output, _TAIL, max(0, size - _TAIL)).decode("utf-8", "replace")
    words = "; ".join(escape(line.strip()) for line in text.splitlines() if line.strip())
    return f": {words}" if words else ""


def are_up(names: Iterable[str]) -> tuple[str, ...]:
    """Which of these interfaces ifupdown has up."""
    return tuple(name for name in names if not run(("/sbin/ifquery", "--state", name)))


def take_down(names: Sequence[str], former: str = "") -> str:
    """Take interfaces down, by the files in place or by those laid out in ``former``; what was wrong."""
    options = ("--interfaces", f"{former}/interfaces") if former else ()
    return run(("/sbin/ifdown", "--force", *options, *names)) if names else ""


def has_started() -> bool:
    """False early at boot, before ifupdown, of either version, brought up anything: then it is left to that."""
    return any(os.path.exists(path) for path in _STARTED)


def bring_up(names: Sequence[str]) -> str:
    """Bring interfaces up by the files in place; what was wrong."""
    return run(("/sbin/ifup", *names)) if names else ""


def reload() -> str:
    """Have ifupdown2 follow the files in place; what was wrong."""
    return run(("/sbin/ifreload", "--all"))


def lay_out(files: Mapping[str, bytes]) -> str:
    """Lay out network files as they were, by their paths below /etc/network; the folder."""
    shutil.rmtree(FORMER, ignore_errors=True)
    for path, content in files.items():
        place = f"{FORMER}/{path.removeprefix(f'{HOME}/')}"
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
        with open(place, "wb") as file:
            file.write(_SOURCE.sub(rb"\g<1>" + FORMER.encode() + b"/", content))
    return FORMER


# --- bridges --------------------------------------------------------------------------------------------------------


def ports() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each bridge with its ports."""
    found = []
    for name in sorted(os.listdir("/sys/class/net")):
        with suppress(OSError):
            found.append((name, tuple(sorted(os.listdir(f"/sys/class/net/{name}/brif")))))
    return tuple(found)


def attach(former: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Put back on its bridge what hung on it and hangs nowhere now; what was wrong.

    What the files themselves attach is left to them: it is there by now, or was meant to go elsewhere.
    """
    return [wrong for bridge, names in former for name in names if (wrong := _attach(bridge, name))]


def _attach(bridge: str, port: str) -> str:
    here = "/sys/class/net"
    if not os.path.exists(f"{here}/{port}") or os.path.exists(f"{here}/{port}/master"):
        return ""
    if not os.path.exists(f"{here}/{bridge}"):
        return f"{escape(port)} hung on {escape(bridge)}, which is gone"
    return run(("ip", "link", "set", "dev", port, "master", bridge)) or run(("ip", "link", "set", "dev", port, "up"))

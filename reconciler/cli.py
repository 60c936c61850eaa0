"""argv -> one command -> exit code.

Exit codes: 0 converged or done, 1 an error (a line each on stderr), 2 not converged, 3 the daemon does not run,
64 a usage error (``EX_USAGE`` of sysexits.h); as of a shell, 130 after ^C and 141 where the reader of the output went.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, NoReturn

from reconciler import __version__
from reconciler.errors import ReconcilerError, UsageError
from reconciler.patterns import pattern
from reconciler.session import STATE, Session
from reconciler.text import escape, plain

EX_USAGE = 64

EPILOG = """\
exit codes: 0 converged or done, 1 error, 2 not converged, 3 the daemon does not run, 64 usage error.
The first questions: "dom0-reconciler plan" (what is not as declared?), "dom0-reconciler log" (what was done?).
"""


class _Parser(argparse.ArgumentParser):
    """A usage error is one line and exit 64, not argparse's usage text and 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[_Parser]
    _Formatter = Callable[..., argparse.HelpFormatter]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; every expected failure is one line on stderr and an exit code, never a traceback."""
    _open_standard_streams()
    root = "/"
    try:
        options = _parse(argv)
        root = options.root
        return _run(options)
    except UsageError as error:
        return _fail(plain(str(error)), EX_USAGE)
    except BrokenPipeError:  # "| head": the reader has seen enough
        _silence()
        return 141
    except ReconcilerError as error:
        _silence()
        return _fail(_below(root, str(error)), 1)
    except OSError as error:
        _silence()
        why = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        return _fail(_below(root, why), 1)
    except KeyboardInterrupt:
        return 130


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Only what is named is made known to the parser: to make all commands known takes longer than to plan.

    Whoever asks for help, or is wrong, is told of all of them.
    """
    words = sys.argv[1:] if argv is None else argv
    if not any(word.startswith(("-h", "--h")) for word in words):
        with suppress(UsageError):
            return _parsed(_parser(words), words)
    return _parsed(_parser(), words)


def _parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """As ``parse_args``, but names may also stand behind an option: argparse takes the first that stand together."""
    options, more = parser.parse_known_args(argv)
    names = getattr(options, "names", None)
    if more and (names is None or any(word.startswith("-") for word in more)):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if names is not None:
        options.names = [*names, *more]
        if "" in options.names:
            parser.error("an empty NAME names nothing")
    return options


def _run(options: argparse.Namespace) -> int:
    _check_root(options)
    # Only what this command needs is imported: "plan" is asked often and must answer at once.
    command = import_module(f"reconciler.commands.{options.name}")
    code = int(command.run(Session(options.root, options.state), options))
    sys.stdout.flush()  # here, where a failure is still told by one line and the exit code
    return code


def _open_standard_streams() -> None:
    """Where one was closed (``>&-``), no file opened later may take its number: what is said would go there."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (fd := os.open(os.devnull, os.O_RDWR)) < 3:  # noqa: PLR2004  (0, 1 and 2 are theirs)
            pass
        os.close(fd)
        sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):  # a name that the terminal's encoding lacks is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")


def _silence() -> None:
    """Let what was not written go: at its end the interpreter would try again, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _below(root: str, message: str) -> str:
    """With the real paths of what is ours: on another tree nobody shall think that it was the host's own."""
    return _OURS.sub(lambda found: escape(root.rstrip("/")) + found[0], message)


_OURS = pattern(r"(?<![\w./-])/(?:run|var/lib)/dom0-reconciler\b")


def _fail(message: str, code: int) -> int:
    from reconciler.render import error

    error(message)
    return code


def _check_root(options: argparse.Namespace) -> None:
    if not os.path.isdir(options.root):
        raise UsageError(f"--root {options.root}: no such folder")


def _parser(words: Collection[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; or of those that are among the words, which gives no help."""
    parser = _Parser(
        prog="dom0-reconciler",
        description="Hold a Xen Domain-0 on Debian in the state that a TOML file declares.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter if words is None else _NARROW,
    )
    parser.add_argument("--version", action="version", version=f"dom0-reconciler {__version__}")
    parser.add_argument("--root", metavar="DIR", default="/", help="work on another tree, an image or a chroot")
    parser.add_argument("--state", metavar="FILE", help=f"the desired state (default: DIR{STATE})")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    # prog is given, or argparse formats a usage to find it: that alone imports a dozen modules
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="name", required=True, prog=parser.prog)
    for name, (summary, has) in COMMANDS.items():
        if words is None or name in words:
            has(_add(commands, name, summary, argparse.HelpFormatter if words is None else _NARROW))
    return parser


# argparse makes one for each argument, to check it; where it is given no width it asks for the terminal's, and imports
# all that compresses with what can tell it.
_NARROW = partial(argparse.HelpFormatter, width=80)

EXITS = {
    "plan": "0 converged, 2 not converged",
    "apply": "0 converged, 2 anything left",
    "run": "0 after SIGTERM",
    "status": "0 converged, 2 not converged, 3 the daemon does not run",
    "log": "0, with --verify 1 if the chain is broken",
}
"""What a command's exit code means, where it is more than 0 for done; 1 is an error everywhere, 64 a wrong usage."""


def _add(commands: _Commands, name: str, summary: str, formatter: _Formatter) -> argparse.ArgumentParser:
    exits = f"exit codes: {EXITS.get(name, '0 done')}; 1 error, {EX_USAGE} usage error."
    words = f"{summary[0].upper()}{summary[1:]}."
    command = commands.add_parser(name, help=summary, description=words, epilog=exits, formatter_class=formatter)
    # Also after the command's name; SUPPRESS keeps it from undoing the one before.
    command.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="machine-readable output")
    return command


def _plain(_command: argparse.ArgumentParser) -> None:
    """It has no arguments."""


def _check(check: argparse.ArgumentParser) -> None:
    check.add_argument("file", metavar="FILE", nargs="?", help="the state to check instead of --state")


def _log(log: argparse.ArgumentParser) -> None:
    log.add_argument("--since", metavar="TIME", help='a date ("2026-11-23 18:00", UTC with a Z) or a span ("2h")')
    log.add_argument("--service", metavar="NAME", help="only what concerns this service")
    log.add_argument("--follow", action="store_true", help="go on showing what is added")
    log.add_argument("--verify", action="store_true", help="check the journal's chain: a cut or an edit shows")


def _explain(explain: argparse.ArgumentParser) -> None:
    explain.add_argument("subject", metavar="NAME", help='"exim4", "rclinks:rc2.d/S20exim4", a path, "tcp/111", an id')


def _pause(pause: argparse.ArgumentParser) -> None:
    pause.add_argument("duration", metavar="DURATION", help='how long: "30min", "2h"; it ends by itself')
    pause.add_argument(
        "names", metavar="NAME", nargs="*", default=[], help="a service, by any of its names (default: everything)"
    )
    pause.add_argument("--reason", metavar="TEXT", required=True, help="why; it is shown and recorded")


def _resume(resume: argparse.ArgumentParser) -> None:
    resume.add_argument("names", metavar="NAME", nargs="*", help="a service, or a path left alone (default: all)")


def _init(init: argparse.ArgumentParser) -> None:
    init.add_argument("--stdout", action="store_true", help="show it, write nothing")


def _approve(command: argparse.ArgumentParser) -> None:
    command.add_argument("names", metavar="NAME", nargs="+", help='"cron", "tcp/22", "ident/tcp", "/usr/sbin/x"')


def _undo(undo: argparse.ArgumentParser) -> None:
    undo.add_argument("id", metavar="ID", help='the id of an action, as "log" shows it; with --pass that of a pass')
    undo.add_argument("--pass", dest="whole", action="store_true", help="everything that a pass did")
    undo.add_argument("--start", action="store_true", help="also start what was stopped")
    undo.add_argument("--for", dest="span", metavar="SPAN", default="1h", help="how long the daemon leaves it (1h)")


def _revert(revert: argparse.ArgumentParser) -> None:
    revert.add_argument("--when-due", action="store_true", help="return at once, and do it when its time is over")
    revert.add_argument("--at-boot", action="store_true", help="only what another boot left; nothing to do is no error")
    revert.add_argument("--staged", action="store_true", help="with --when-due: first apply what the daemon staged")


COMMANDS: Mapping[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "plan": ("show what is not as declared, and what would be done; writes nothing", _plain),
    "apply": ("correct it now, in one pass, whatever the state's mode says", _plain),
    "run": ("the daemon, in the foreground: watch, and hold the host in its state until SIGTERM", _plain),
    "status": ("show how the daemon is, and what is not as declared", _plain),
    "check": ("validate a state: every error with its file, line and key", _check),
    "log": ("show the corrective actions and their causes", _log),
    "explain": ("say all that is known of a service, a ref, a path, a port or an action", _explain),
    "pause": ("correct nothing for a while, or leave some services alone; only report", _pause),
    "resume": ("end pauses, and what undo has left alone, before their time", _resume),
    "init": ("write a state from the host as it is: it approves what is there, and only reports", _init),
    "approve": ("approve services, ports or programs in the state file, and show how the plan changes", _approve),
    "revoke": ("approve them no longer in the state file, and show how the plan changes", _approve),
    "enforce": ("show the plan, then have the daemon correct what is not as declared", _plain),
    "observe": ("have the daemon only report what is not as declared", _plain),
    "undo": ("put back what was removed, and leave it alone for a while", _undo),
    "confirm": ("let a change of the network stay: to be said from a new login, within its time", _plain),
    "revert": ("put a change of the network back that is not confirmed yet", _revert),
}
"""Every command: what it does, and what adds its arguments. ``reconciler.commands`` has a module for each."""

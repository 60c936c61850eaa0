"""The Domain-0s by hand.

python3 -m tests.hosts.vm take [SUITE-INIT]...    build their roots and take their snapshots; what is kept is kept
python3 -m tests.hosts.vm list                    which are kept, and where
python3 -m tests.hosts.vm run SUITE-INIT COMMAND  resume one with the product installed, and run one command in it
python3 -m tests.hosts.vm prune                   remove snapshots of former recipes that nobody used for a day
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import cast

from tests.hosts import roots
from tests.hosts.recipes import Init, Suite, all_dom0_recipes
from tests.hosts.vm import qemu, snapshot
from tests.hosts.vm.dom0 import dom0

Name = tuple[Suite, Init]


def main(argv: list[str]) -> int:
    """One command, its exit code."""
    known = [f"{one.suite}-{one.init}" for one in all_dom0_recipes()]
    parser = argparse.ArgumentParser(prog="python3 -m tests.hosts.vm", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("take", "list", "run", "prune"))
    parser.add_argument("words", nargs="*", metavar="WORD")
    chosen = parser.parse_args(argv)
    names = chosen.words[:1] if chosen.command == "run" else chosen.words
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no {unknown[0]!r}: they are named {', '.join(known)}")
    if reason := qemu.missing():
        return _fail(reason)
    if chosen.command == "take":
        return _take([_name(name) for name in names or known])
    if chosen.command == "run":
        return _run(_name(names[0]), " ".join(chosen.words[1:]))
    for line in snapshot.prune() if chosen.command == "prune" else _kept(known):
        _say(line)
    return 0


def _name(word: str) -> Name:
    suite, init = word.split("-")
    return cast("Suite", suite), cast("Init", init)


def _take(names: list[Name]) -> int:
    if reason := roots.can_build():
        return _fail(reason)
    for name in names:
        started = time.monotonic()
        try:
            kept = snapshot.take(*name, _say)
        except (roots.RootError, qemu.MachineError) as error:
            return _fail(str(error))
        _say(f"{'-'.join(name)}: in {kept.path} after {time.monotonic() - started:.0f} s")
    return 0


def _run(name: Name, command: str) -> int:
    with dom0(*name, progress=_say) as host:
        host.install_product()
        result = host.run(command, check=False, timeout=600)
    sys.stdout.write(result.out)
    sys.stderr.write(result.err)
    return result.rc


def _kept(known: list[str]) -> list[str]:
    found = {name: snapshot.find(*_name(name)) for name in known}
    return [f"{name}: {kept.path if kept else 'not taken'}" for name, kept in found.items()]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _fail(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The harness by hand.

python3 -m tests.hosts build [SUITE INIT]...   build roots (all four without arguments), two at a time
python3 -m tests.hosts shell SUITE INIT        boot one and open a shell in it, with the product installed
python3 -m tests.hosts prune                   remove roots of former recipes that nobody used for a day
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import cast

from tests.hosts import commands, levels, roots
from tests.hosts.host import boot
from tests.hosts.recipes import INITS, SUITES, Init, Recipe, Suite, all_recipes, recipe


def main(argv: list[str]) -> int:
    """One command, its exit code."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.hosts", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("command", choices=("build", "shell", "prune"))
    parser.add_argument("names", nargs="*", metavar="SUITE INIT", help="bookworm sysvinit, trixie systemd, …")
    chosen = parser.parse_args(argv)
    wanted = _recipes(parser, chosen.names)
    if chosen.command == "build":
        return _build(wanted or all_recipes())
    if chosen.command == "prune":
        return _prune()
    if len(wanted) != 1:
        parser.error("shell takes one SUITE INIT")
    return _shell(wanted[0])


def _recipes(parser: argparse.ArgumentParser, names: list[str]) -> list[Recipe]:
    """`bookworm sysvinit`, or `bookworm-sysvinit` as the tests' ids have it."""
    words = [word for name in names for word in name.split("-")]
    pairs = list(zip(words[::2], words[1::2], strict=False))
    if len(words) % 2 or not all(suite in SUITES and init in INITS for suite, init in pairs):
        parser.error(f"hosts are named {'|'.join(SUITES)} {'|'.join(INITS)}")
    return [recipe(cast("Suite", suite), cast("Init", init)) for suite, init in pairs]


def _build(wanted: list[Recipe]) -> int:
    if reason := roots.can_build():
        return _fail(reason)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(_build_one, wanted))
    return 0 if all(results) else 1


def _build_one(one: Recipe) -> bool:
    started = time.monotonic()
    try:
        root = roots.build(one.suite, one.init, _say)
    except roots.RootError as error:
        _say(str(error))
        return False
    _say(f"{one.name}: in {root.path} after {time.monotonic() - started:.0f} s")
    return True


def _shell(one: Recipe) -> int:
    if reason := levels.missing("systemd" if one.init == "systemd" else "namespaces"):
        return _fail(reason)
    with boot(one.suite, one.init) as host:
        host.install_product()
        host.use_static_address()
        _say(f"{one.name} is up; all of it is gone when this shell ends. Packages: /media/debs")
        shell = [*host.entry, "/bin/bash", "-l"]
        return subprocess.run(shell, env=commands.ENVIRONMENT, check=False).returncode


def _prune() -> int:
    for name in roots.prune():
        _say(f"removed {name}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _fail(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

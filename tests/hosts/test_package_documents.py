"""What the manual says can be done, done: every command of README, README.Debian and the manual pages, on each host."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from reconciler import cli
from tests.hosts import debs, product, repository
from tests.hosts.commands import Result
from tests.hosts.host import Host
from tests.hosts.recipes import PRODUCT

README = debs.CHECKOUT / "README.md"
DEBIAN = debs.CHECKOUT / "packaging/debian/README.Debian"
MAN = debs.CHECKOUT / "packaging/man/dom0-reconciler.8"
WEIGHT = 11, 3700
"""The most that the package may bring along on a host that has Python: packages, and kB of them."""

BEHIND = (
    *("python3-pyasyncore", "python3-yaml", "libyaml-0-2"),
    *("libjs-sphinxdoc", "libjs-jquery", "libjs-underscore"),
)
"""What our dependencies depend on."""

SAYS = {"plan": {0, 2}, "status": {0, 2}, "apply": {0, 2}}
"""What a command may answer besides 0."""

REFUSED = {"run": "daemon", "confirm": "change"}
"""What there is no reason to do on such a host, and what the refusal speaks of: one daemon runs, no network waits."""

NEVER_ENDS = re.compile(r"--follow\b")
OF_SYSTEMD = re.compile(r"^(journalctl|systemctl)\b")


@pytest.fixture
def fresh(host: Host, deb: Path) -> Host:
    """A host that has nothing of what the package needs but Python, can get it by apt, and holds the .deb."""
    there = set(host.run("dpkg-query -W -f '${Package}\\n'").lines)
    host.run(["dpkg", "--purge", *sorted(there & {*PRODUCT, *BEHIND})])
    repository.publish(host)
    host.run("mv /etc/apt/pool.list /etc/apt/sources.list && rm -rf /etc/apt/sources.list.d && apt-get -qq update")
    host.put(f"/root/{deb.name}", deb.read_bytes())
    return host


def _blocks(section: str) -> list[str]:
    """The shell commands of one section of README, in their order."""
    text = README.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def _examples() -> list[str]:
    """Those of dom0-reconciler(8) and of README.Debian, which stand on lines of their own."""
    man = re.findall(r"^\.(?:Dl|Ql) (.+)$", MAN.read_text(), re.MULTILINE)
    return [
        *man,
        *re.findall(r"^ {4,}((?:dom0-reconciler|journalctl|echo|service) .+)$", DEBIAN.read_text(), re.MULTILINE),
    ]


def _word(command: str) -> str:
    """Which of our commands a line calls."""
    words = re.sub(r"--(root|state) \S+", "", command).split()
    return next((word for word in words[1:] if not word.startswith("-")), "") if words[0] == product.NAME else ""


def _try(host: Host, command: str) -> Result:
    """As somebody types it, whom apt may ask whether to go on; ID is one that the log has shown."""
    if re.search(r"\bID$", command):
        (*_, last) = [one for one in host.journal() if one["record"] == "outcome" and one["action"] == "unlink"]
        command = command.replace("ID", last["id"])
    if NEVER_ENDS.search(command):
        command = f"timeout 2 {command}; [ $? = 124 ]"
    result = host.run(f"cd /root; {command}", check=False, stdin="\n", timeout=120)
    assert result.rc in SAYS.get(_word(command), {0}), f"{command}\n{result.out}{result.err}"
    return result


def _packages(host: Host) -> dict[str, int]:
    """What is installed, and how many kB it takes."""
    lines = host.run("dpkg-query -W -f '${Package} ${Installed-Size}\\n'").lines
    return {name: int(size) for name, size in map(str.split, lines)}


def _all_work(host: Host, commands: Iterable[str]) -> None:
    for command in commands:
        _try(host, command)


def test_a_stranger_gets_there(fresh: Host, number: Callable[[str], None]) -> None:
    """From the .deb to a host that is held, by the README alone; then whatever else the manual shows."""
    before, began, commands = _packages(fresh), time.monotonic(), _blocks("Installing")
    there = next(n for n, command in enumerate(commands) if _word(command) == "enforce") + 1
    assert fresh.running("cannaserver")
    _all_work(fresh, commands[:there])
    fresh.wait_for(lambda: product.status_code(fresh) == 0 and not fresh.running("cannaserver"), 60, "to be held")
    number(f"{time.monotonic() - began:.1f} s from the .deb to an enforced host")
    assert not [one.comm for one in fresh.processes() if one.comm in ("exim4", "lpd", "cannaserver")]
    assert not {link[9:] for link in fresh.start_links()} & {"exim4", "lpd", "canna"}
    assert fresh.running("sshd")
    _little_came_along(fresh, before, number)
    _all_work(fresh, commands[there:])
    assert {_word(one) for one in [*commands, *_the_rest(fresh)]} - {""} == _commands() - {*REFUSED}
    for command, why in REFUSED.items():
        refused = fresh.run([product.COMMAND, command], check=False)
        assert refused.rc == 1
        assert why in refused.err


def _little_came_along(host: Host, before: dict[str, int], number: Callable[[str], None]) -> None:
    came = {name: size for name, size in _packages(host).items() if name not in before}
    own = came.pop(product.NAME)
    number(f"{len(came)} packages of {sum(came.values())} kB come along, {own} kB are its own")
    assert len(came) <= WEIGHT[0]
    assert sum(came.values()) <= WEIGHT[1]


def _the_rest(host: Host) -> list[str]:
    """What the manual shows besides; what it only names, by the way that makes most of it."""
    host.run("mkdir -p /srv/image && cp -a /etc /srv/image/")
    host.put("/root/site.toml", 'version = 1\n[services]\napproved = ["ssh"]\n')
    named = ["dom0-reconciler init --stdout", "dom0-reconciler apply", "dom0-reconciler --version"]
    named.append("dom0-reconciler revert --at-boot")
    lines = [one for one in [*_examples(), *named] if host.init == "systemd" or not OF_SYSTEMD.match(one)]
    _all_work(host, lines)
    return lines


def _commands() -> set[str]:
    (choices,) = (one.choices for one in cli._parser()._actions if isinstance(one.choices, dict))
    return {*choices}

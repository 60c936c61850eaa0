"""A whole host made of the input: its names, links, files and processes; planned, and shown in every way there is."""

from __future__ import annotations

import io
import json
from pathlib import Path

from reconciler.desired import DesiredState, Inetd, Listeners, Network, Processes, Services
from reconciler.model import EntryState, FileState, Host, LinkState, Listener, OddState, Plan, Process
from reconciler.observer import Observer
from reconciler.render import Printer, plan_text
from reconciler.services import parse_catalogue
from reconciler.shapes import plan_shape
from reconciler.text import unescape
from reconciler.values import replace
from tests.fakes import SYSTEMD, MemoryEyes, Thing
from tests.fuzz.targets.bytes import names, printable, split, text

DATA = parse_catalogue((Path(__file__).parents[3] / "reconciler/catalogue.toml").read_text())
_FOLDERS = (
    "/etc/rc2.d",
    "/etc/rcS.d",
    "/etc/init.d",
    "/etc/inetd.d",
    "/etc/network/interfaces.d",
    "/etc/systemd/system",
    "/etc/systemd/system/multi-user.target.wants",
    "/run/systemd/units",
)
_DESIRED = DesiredState(
    services=Services(("ssh", "cron"), mask=True),
    inetd=Inetd(("ident/tcp",)),
    network=Network(FileState(b"iface eth0 inet dhcp\n"), {"xenbr0": FileState(b"iface xenbr0 inet manual\n")}),
    listeners=Listeners((), "stop"),
    processes=Processes(("sshd",), "stop"),
)


def plan(data: bytes) -> None:
    """Start links, scripts and files of any name; under sysvinit."""
    _plan_of(data, {}, Host(live=True, insserv=True))


def units(data: bytes) -> None:
    """The same under systemd."""
    _plan_of(data, SYSTEMD, Host(live=True, init="systemd"))


def _plan_of(data: bytes, base: dict[str, Thing], facts: Host) -> None:
    listed, content, target, process = split(data, 4)
    tree = dict(base)
    for number, name in enumerate(names(listed)[:12]):
        tree[f"{_FOLDERS[number % len(_FOLDERS)]}/{name}"] = _thing(number, content, target)
    tree["/etc/inetd.conf"] = FileState(content)
    running = _process(process)
    sockets = (Listener("tcp", "0.0.0.0", 113, inode=5, owners=(running,)), Listener("unix", path=text(process)))
    active = tuple(f"{name}.socket" for name in names(process)[:2])
    eyes = MemoryEyes(tree, facts, (running,), sockets, active=active)
    observer = Observer(eyes, DATA, _DESIRED)
    observer.look()
    found = observer.plan()
    _judge(found)
    assert observer.plan() == found


def _thing(number: int, content: bytes, target: bytes) -> EntryState:
    if number % 5 == 4:
        return OddState("fifo")
    if number % 3 == 2:
        return FileState(content)
    return LinkState(text(target.replace(b"\0", b"")) or "../init.d/x")


def _process(raw: bytes) -> Process:
    words = tuple(text(word) for word in raw.split(b"\0"))
    return replace(Process(9, 1, words[0][:15], words[-1], words), cgroup=f"/system.slice/{words[0]}")


def _judge(found: Plan) -> None:
    """No step without a finding, no two findings under one name, every line safe, every name read back."""
    counting = {finding.ref for finding in found.findings if finding.rule != "reported"}
    assert all(step.findings and counting.issuperset(step.findings) for step in found.steps)
    refs = [str(finding.ref) for finding in found.findings]
    assert len(set(refs)) == len(refs)
    for finding in found.findings:
        assert unescape(str(finding.ref)) == f"{finding.ref.kind}:{finding.ref.name}"
    out = io.StringIO()
    plan_text(found, Printer(out))
    for line in out.getvalue().split("\n"):
        assert printable(line), line
    for shown in _texts(json.loads(json.dumps(plan_shape(found)))):
        assert printable(shown), shown


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [one for each in value.values() for one in _texts(each)]
    if isinstance(value, list):
        return [one for each in value for one in _texts(each)]
    return [value] if isinstance(value, str) else []


TARGETS = (plan, units)

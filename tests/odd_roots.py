"""A small sane root with something to correct in every place, to be made odd; and what is true of every odd root.

Whatever is odd, ``plan`` names exactly the findings and gaps that are expected, ``apply`` corrects all that is sane,
nothing is lost that is not in the quarantine, and no error is a traceback.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.cli import main
from reconciler.host.files import Root
from reconciler.model import FileState, LinkState, Unlink, WriteFile
from reconciler.quarantine import Quarantine
from tests.trees import Tree

STATE = """version = 1
[services]
approved = ["ssh"]
[inetd]
approved = ["ident/tcp"]
[network]
interfaces = "interfaces"
interfaces_d = { xenbr0 = "xenbr0" }
"""
STATIC = "auto eth0\niface eth0 inet static\n    address 192.0.2.10/24\n"
BRIDGE = "auto xenbr0\niface xenbr0 inet manual\n"
FTP = "ftp stream tcp nowait root /usr/sbin/ftpd ftpd\n"
SANE = frozenset(
    (
        "rclinks:rc2.d/S20sane",
        "rclinks:rcS.d/S43sane",
        "inetd:inetd.conf/ftp/tcp",
        "inetd:inetd.d/ftp/ftp/tcp",
        "interfaces:interfaces",
        "interfaces:interfaces.d/eth1",
        "interfaces:interfaces.d/xenbr0",
    )
)
"""The findings of the root before it is made odd."""

Findings = dict[str, str]


@dataclass(frozen=True, slots=True)
class Odd:
    """One odd root: what makes it odd, the gaps and findings that brings, and the sane findings it takes away.

    ``left`` are the steps that even an apply leaves, ``ACTION TARGET`` -> how it ended and why.
    """

    make: Callable[[Tree], object]
    gaps: Mapping[str, str] = field(default_factory=dict)
    more: frozenset[str] = frozenset()
    fewer: frozenset[str] = frozenset()
    left: Mapping[str, str] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)


def sane_tree(path: Path) -> Tree:
    """A root with one thing to correct in each place."""
    tree = Tree(path / "root", STATE)
    tree.write("etc/dom0-reconciler/interfaces", STATIC)
    tree.write("etc/dom0-reconciler/xenbr0", BRIDGE)
    for script in ("ssh", "sane"):
        tree.script(script)
    for link in ("rc2.d/S20sane", "rcS.d/S43sane", "rc2.d/S20ssh"):
        tree.link(link)
    tree.write("etc/inetd.conf", FTP)
    tree.write("etc/inetd.d/ftp", FTP)
    tree.write("etc/network/interfaces", "iface eth0 inet dhcp\n")
    tree.write("etc/network/interfaces.d/eth1", "iface eth1 inet dhcp\n")
    tree.write("etc/network/interfaces.d/xenbr0", "# empty\n")
    return tree


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(*arguments: str) -> Said:
    """Run the command in this process; an exception that escapes is a traceback, and fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return Said(code, out.getvalue(), err.getvalue())


def on(tree: Tree, *arguments: str) -> Said:
    """Run the command on a tree."""
    return call("--root", str(tree.path), "--json", *arguments)


def things(top: Path) -> dict[str, object]:
    """Everything in a tree but what is the product's own: type, mode, owner, content or target."""
    found: dict[str, object] = {}
    for folder, folders, names in os.walk(os.fsencode(top)):
        folders[:] = [name for name in folders if name != b"dom0-reconciler"]
        for name in folders + names:
            path = os.path.join(folder, name)
            found[os.fsdecode(os.path.relpath(path, os.fsencode(top)))] = _thing(path)
    return found


def _thing(path: bytes) -> object:
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        return LinkState(os.fsdecode(os.readlink(path)), status.st_uid, status.st_gid, status.st_mtime_ns)
    if stat.S_ISREG(status.st_mode) and status.st_size < 4 << 20 and os.access(path, os.R_OK):
        content = Path(os.fsdecode(path)).read_bytes()
        return FileState(content, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size  # a folder's own size says nothing
    return (status.st_mode, status.st_uid, status.st_gid, size)


def check(tree: Tree, odd: Odd) -> None:
    """The whole promise: plan, apply, plan again."""
    outside = things(tree.path.parent / "outside")
    _check_plan(on(tree, "plan"), odd)
    before = things(tree.path)
    applied = on(tree, "apply")
    assert applied.err == ""
    _check_outcomes(applied, odd)
    _check_nothing_lost(tree, before, applied)
    _check_left(on(tree, "plan"), odd)
    assert applied.code == (2 if odd.gaps or odd.left else 0)
    assert things(tree.path.parent / "outside") == outside, "nothing outside the root was touched"


def _check_plan(planned: Said, odd: Odd) -> None:
    assert planned.err == ""
    plan = planned.json
    assert {gap["ref"]: gap["why"] for gap in plan["gaps"]} == dict(odd.gaps)
    assert {finding["ref"] for finding in plan["findings"]} == (SANE - odd.fewer) | odd.more
    assert len(plan["findings"]) == len(SANE - odd.fewer) + len(odd.more), "each ref once"
    assert planned.out.isascii() or planned.out.isprintable()
    assert planned.code == 2


def _check_outcomes(applied: Said, odd: Odd) -> None:
    ends = {f"{s['action']} {s['target']}": s for s in applied.json["steps"]}
    bad = {
        name: f"{s['outcome']}: {s.get('detail') or s['held']}" for name, s in ends.items() if s["outcome"] != "done"
    }
    assert bad == {**odd.left, **odd.ended}


def _check_left(planned: Said, odd: Odd) -> None:
    plan = planned.json
    assert {f"{step['action']} {step['target']}" for step in plan["steps"]} == set(odd.left)
    assert {gap["ref"]: gap["why"] for gap in plan["gaps"]} == dict(odd.gaps)


def _check_nothing_lost(tree: Tree, before: dict[str, object], applied: Said) -> None:
    """What was there and is not as it was: an apply says so, and the quarantine holds exactly what it was."""
    after = things(tree.path)
    changed = {name: state for name, state in before.items() if after.get(name) != state and _keeps(state)}
    root = Root(str(tree.path))
    kept = _kept(root, applied.json["pass"]) if applied.json["steps"] else {}
    real = {_place(root, path): state for path, state in kept.items() if state is not None}
    for name, state in changed.items():
        assert real.get(name) == state, f"{name!r} is not in the quarantine"


def _place(root: Root, path: str) -> str:
    """Where a kept path lies: a folder on the way may be a link, the last name is not followed."""
    folder, _, name = path.rpartition("/")
    located = root.locate(folder)
    assert located is not None
    return f"{located.path}/{name}".lstrip("/")


def _keeps(state: object) -> bool:
    return isinstance(state, FileState | LinkState)


def _kept(root: Root, pass_id: str) -> dict[str, object]:
    kept = Quarantine(root).of_pass(pass_id)
    return {k.action.path: k.state for k in kept if isinstance(k.action, Unlink | WriteFile)}

"""What must be true of the tree after a correction: by the orders given and what lay there before, nothing else.

An oracle of its own: it knows neither the planner nor the grammars, only the names that the machine itself made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from reconciler.model import FileState

SERVICES = ("alpha", "beta", "gamma")
STRANGERS = ("od\nd", "\udcff\x1b[1m", "S20", "x y")
"""Names that nobody can approve, or would; packages bring them all the same."""

START = tuple(f"etc/rc{level}.d" for level in "2345S")
INETD = "etc/inetd.conf"
INTERFACES = "etc/network/interfaces"
FOLDER = "etc/network/interfaces.d"
CANONICAL = b"auto eth0\niface eth0 inet static\n    address 192.0.2.10/24\n"
BRIDGE = b"iface xenbr0 inet manual\n"
LINES = ("ident", "ftp", "time")
_LINK = re.compile(r"(etc/rc[2345S]\.d)/([SK])([0-9]{2})(.+)", re.DOTALL)

Things = Mapping[str, object]


def line(service: str) -> bytes:
    """A line of inetd.conf that serves."""
    return f"{service} stream tcp nowait root /usr/sbin/{service}d {service}d\n".encode()


@dataclass(frozen=True)
class Orders:
    """All that was ordered: the state as the daemon last read it, pauses, and what an undo left alone."""

    mode: str = "enforce"
    approved: frozenset[str] = frozenset()
    lines: frozenset[str] = frozenset(("ident",))
    paused: frozenset[str] = frozenset()
    all_paused: bool = False
    spared: frozenset[str] = frozenset()
    spared_paths: frozenset[str] = field(default_factory=frozenset)

    def state(self) -> str:
        """The state file that says the first three."""
        return (
            f'version = 1\nmode = "{self.mode}"\naccept_lockout = true  # a tree\n[services]\n'
            f"approved = {json.dumps(sorted(self.approved))}\n[inetd]\n"
            f"approved = {json.dumps(sorted(f'{name}/tcp' for name in self.lines))}\n"
            '[network]\ninterfaces = "interfaces"\ninterfaces_d = { xenbr0 = "xenbr0" }\n'
        )

    def leaves(self, name: str) -> bool:
        """Whether a service is none of the daemon's business."""
        return self.all_paused or name in self.approved | self.paused | self.spared

    def with_state_of(self, other: Orders) -> Orders:
        """These pauses and exceptions, with another's state."""
        return replace(self, mode=other.mode, approved=other.approved, lines=other.lines)


def judge(before: Things, after: Things, orders: Orders) -> None:
    """After a correction of everything: what had to go is gone, what had to stay is as it was, nothing else changed."""
    _links(before, after, orders)
    _files(before, after, orders)
    known = (*START, INETD, INTERFACES, FOLDER)
    for path in before.keys() | after.keys():
        if not path.startswith(known):
            assert before.get(path) == after.get(path), path


def _links(before: Things, after: Things, orders: Orders) -> None:
    links = {path: parts for path in before.keys() | after.keys() if (parts := _LINK.fullmatch(path))}
    gone = {path for path, p in links.items() if p[2] == "S" and path in before and not orders.leaves(p[4])}
    for path, parts in links.items():
        folder, letter, _, name = parts.groups()
        if path in gone:
            assert path not in after, f"{path!r} is still there"
            stops = re.compile(rf"{re.escape(folder)}/K[0-9]{{2}}{re.escape(name)}", re.DOTALL)
            assert any(stops.fullmatch(each) for each in after), f"no K link of {name!r} in {folder}"
        elif path in before:
            assert after.get(path) == before[path], f"{path!r} was touched"
        else:
            assert letter == "K", f"{path!r} came from nowhere"
            assert any(path.startswith(links[s][1]) and links[s][4] == name for s in gone), f"{path!r}: why?"


def _files(before: Things, after: Things, orders: Orders) -> None:
    if orders.all_paused:
        for path in (INETD, INTERFACES):
            assert after.get(path) == before.get(path), path
        return
    if not orders.spared.intersection(LINES) and f"/{INETD}" not in orders.spared_paths:
        assert _content(after, INETD) == _commented(_content(before, INETD), orders)
    if f"/{INTERFACES}" not in orders.spared_paths:
        assert _content(after, INTERFACES) == CANONICAL
    for path in after:
        if path.startswith(f"{FOLDER}/") and f"/{path}" not in orders.spared_paths:
            assert path == f"{FOLDER}/xenbr0", f"{path!r} is not declared"
    if f"/{FOLDER}/xenbr0" not in orders.spared_paths:
        assert _content(after, f"{FOLDER}/xenbr0") == BRIDGE


def _content(things: Things, path: str) -> bytes | None:
    state = things.get(path)
    return state.content if isinstance(state, FileState) else None


def _commented(content: bytes | None, orders: Orders) -> bytes | None:
    if content is None:
        return None
    bad = {line(name) for name in LINES if name not in orders.lines}
    return b"".join(b"#" + each if each in bad else each for each in content.splitlines(keepends=True))

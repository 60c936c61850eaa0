"""The parts of the Domain-0 harness that need no machine: the agent's answers, and the link to it."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.commands import Result
from tests.hosts.vm import agent, snapshot
from tests.hosts.vm.link import Link, LinkError


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to an agent that runs here, in a thread, until the link is closed."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=_serve, args=(theirs,))
    thread.start()
    yield Link(ours, lambda: True)
    ours.close()
    thread.join(10)


def _serve(wire: socket.socket) -> None:
    with wire, wire.makefile("rb") as lines:
        for line in lines:
            wire.sendall(json.dumps(agent.answer(line)).encode() + b"\n")


def test_commands_and_their_words(link: Link) -> None:
    assert link.run("echo out; echo err >&2; exit 3", 10) == Result(3, "out\n", "err\n")
    assert link.run(["cat"], 10, stdin="é\n") == Result(0, "é\n", "")
    assert link.run(["/no/such/command"], 10).rc == 127


def test_a_command_that_lasts_too_long_counts_as_timeout_has_it(link: Link) -> None:
    assert link.run("echo begun; exec sleep 60", 0.3) == Result(124, "begun\n", "")


def test_a_daemon_that_a_command_leaves_is_not_waited_for(link: Link) -> None:
    assert link.run("sleep 5 & echo left", 3) == Result(0, "left\n", "")


def test_files_come_and_go_as_they_are(link: Link, tmp_path: Path) -> None:
    path, content = f"{tmp_path}/a/b/c", bytes(range(256))
    assert link.get(path) is None
    link.put(path, content, 0o640)
    assert link.get(path) == content
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640


def test_what_the_agent_cannot_do_is_an_answer(link: Link, tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="IsADirectoryError"):
        link.get(str(tmp_path))
    assert link.run("true", 10).rc == 0


def test_an_answer_that_comes_too_late_is_passed_over() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        late, mine = {"id": 0, "data": "bGF0ZQ=="}, {"id": 1, "data": "bWluZQ=="}
        theirs.sendall(b"".join(json.dumps(one).encode() + b"\n" for one in (late, mine)))
        assert Link(ours, lambda: True).get("/any") == b"mine"


def test_a_machine_that_ended_is_not_waited_for() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.close()
        with pytest.raises(LinkError, match="ended"):
            Link(ours, lambda: False).run("true", 60)


def test_commas_of_the_kernels_arguments_do_not_end_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "KERNEL", "root=LABEL=root console=hvc0,115200")
    assert snapshot.boots_from()[-1] == "vmlinuz root=LABEL=root console=hvc0,,115200,initrd"

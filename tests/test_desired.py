"""The desired state, case by case: in a folder of tests/states, what expected.txt says comes of state.toml.

``wrong``: the error lines, exactly. ``right``: lines ``field: value`` of the DesiredState. ``{folder}`` is
the folder of the case.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.desired import (
    DesiredState,
    Inetd,
    Listeners,
    Network,
    Processes,
    Services,
    load,
    lockout_errors,
)
from reconciler.errors import StateError, Unobservable
from reconciler.host.statefiles import StateFiles
from reconciler.model import FileState
from reconciler.statefile.table import Notes
from tests.desired_trees import SERVICES, STATES, copied, read

WRONG = sorted((STATES / "wrong").iterdir())
RIGHT = sorted((STATES / "right").iterdir())
BUILT = {"rclinks", "listeners", "interfaces", "processes"}


@pytest.fixture(autouse=True)
def _files_for_ourselves() -> Iterator[None]:
    """Whatever the caller's umask is: what a group may write is refused."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def names(cases: list[Path]) -> list[str]:
    return [case.name for case in cases]


@pytest.mark.parametrize("case", WRONG, ids=names(WRONG))
def test_a_wrong_state_is_refused_with_every_error(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(case, tmp_path)
    monkeypatch.chdir(folder)
    with pytest.raises(StateError) as refused:
        read("state.toml")
    given = [line.replace(str(folder), "{folder}") for line in refused.value.errors]
    assert given == (case / "expected.txt").read_text().splitlines()


@pytest.mark.parametrize("case", RIGHT, ids=names(RIGHT))
def test_a_right_state_says_what_it_should(case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(case, tmp_path)
    monkeypatch.chdir(folder)
    state = read("state.toml", built=BUILT)
    for line in (case / "expected.txt").read_text().splitlines():
        field, _, value = line.partition(": ")
        given = repr(getattr(state, field)).replace(str(folder), "{folder}")
        assert given.replace(f"uid={os.getuid()}, gid={os.getgid()}", "uid=0, gid=0") == value


def test_wrong_states_are_many_and_all_different() -> None:
    expected = [(case / "expected.txt").read_text() for case in WRONG]
    assert len(expected) >= 65
    assert all(text.strip() for text in expected)


def test_every_error_names_its_file_first() -> None:
    for case in WRONG:
        for line in (case / "expected.txt").read_text().splitlines():
            assert (case / line.split(":")[0]).exists(), line


def test_the_error_names_the_file_as_it_was_asked_for(tmp_path: Path) -> None:
    folder = copied(STATES / "wrong" / "mode-unknown-far", tmp_path)
    with pytest.raises(StateError) as refused:
        read(f"{folder}/state.toml")
    assert refused.value.errors[0].startswith(f"{folder}/state.toml:2: mode: ")


def test_a_file_of_any_name_has_drop_ins_too(tmp_path: Path) -> None:
    (tmp_path / "dom0.conf").write_text("version = 1\n")
    (tmp_path / "dom0.conf.d").mkdir()
    (tmp_path / "dom0.conf.d" / "a.toml").write_text("interval = 7\n")
    assert read(f"{tmp_path}/dom0.conf").interval == 7


def test_names_of_ports_without_services_file(tmp_path: Path) -> None:
    (tmp_path / "state.toml").write_text('version = 1\n[listeners]\napproved = ["tcp/ssh"]\n')
    with pytest.raises(StateError, match=r"approved: no such name in /etc/services: 'ssh'$"):
        load(f"{tmp_path}/state.toml", StateFiles())


def test_names_of_ports_with_an_unreadable_services_file(tmp_path: Path) -> None:
    def refuse() -> FileState:
        raise Unobservable("permission denied")

    (tmp_path / "state.toml").write_text('version = 1\n[listeners]\napproved = ["tcp/ssh"]\n')
    with pytest.raises(StateError, match="approved: /etc/services cannot be read: permission denied"):
        load(f"{tmp_path}/state.toml", StateFiles(), port_names=refuse)


def test_a_line_that_cannot_be_found_is_the_first() -> None:
    """tomllib may manage a nesting that the search for lines does not."""
    notes = Notes("state.toml")
    notes.text = f"x = {'[' * 5000}{']' * 5000}"
    notes.error(("x",), "unknown key")
    assert notes.error_lines() == ["state.toml:1: x: unknown key"]


def test_the_services_file_is_read_once_and_only_for_a_name(tmp_path: Path) -> None:
    reads: list[None] = []

    def counted() -> FileState:
        reads.append(None)
        return SERVICES

    state = tmp_path / "state.toml"
    state.write_text('version = 1\n[listeners]\napproved = ["tcp/22", "unix/x"]\n')
    load(str(state), StateFiles(), port_names=counted)
    assert not reads
    state.write_text('version = 1\n[listeners]\napproved = ["tcp/ssh", "udp/domain"]\n')
    load(str(state), StateFiles(), port_names=counted)
    assert len(reads) == 1


@pytest.mark.parametrize(
    "state",
    [
        DesiredState(services=Services(approved=("ssh",))),
        DesiredState(services=Services(), inetd=Inetd(approved=("ident/tcp",))),
        DesiredState(network=Network(interfaces_d={})),
        DesiredState(services=Services(), accept_lockout=True),
    ],
)
def test_what_may_be_enforced(state: DesiredState) -> None:
    assert lockout_errors(state) == []


@pytest.mark.parametrize(
    "state",
    [
        DesiredState(),
        DesiredState(services=Services()),
        DesiredState(services=Services(), network=Network(interfaces_d={})),
        DesiredState(inetd=Inetd(), listeners=Listeners(), processes=Processes()),
    ],
)
def test_what_would_lock_out(state: DesiredState) -> None:
    assert len(lockout_errors(state)) == 1
    assert "accept_lockout" in lockout_errors(state)[0]


def test_the_lockout_names_the_state(tmp_path: Path) -> None:
    (tmp_path / "state.toml").write_text("version = 1\n")
    assert lockout_errors(read(f"{tmp_path}/state.toml"))[0].startswith(f"{tmp_path}/state.toml: nothing")


def test_a_right_state_loads_without_what_only_errors_need(tmp_path: Path) -> None:
    """One-shot commands have 50 ms in all."""
    state = tmp_path / "state.toml"
    state.write_text('version = 1\n[listeners]\napproved = [{ port = "tcp/22", address = "192.0.2.10" }]\n')
    code = f"""
import sys
from reconciler.desired import load
from reconciler.host.statefiles import StateFiles
load({str(state)!r}, StateFiles())
unwanted = {{"difflib", "ipaddress", "reconciler.statefile.lines", "pathlib", "subprocess", "socket"}}
print(*(unwanted & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == ""

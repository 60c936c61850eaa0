"""Who did it: the kernel's word for it, in the words of a record; and nothing where it has none."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reconciler.watch import open_witness, witness
from reconciler.watch.inotify import InotifyWatcher
from reconciler.watch.witness import Witness
from tests.test_watch import PLACES, Bench, build, concerns


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Witness]:
    """Tells of the folder ``watched``."""
    (tmp_path / "watched").mkdir()
    found = open_witness()
    if found is None:
        pytest.skip("needs CAP_SYS_ADMIN")
    found.watch([str(tmp_path / "watched")])
    yield found
    found.close()


def ask(folder: Path, name: str, found: Witness) -> str:
    found.look()
    return found.who(str(folder), name.encode())


def test_a_process_that_lives_is_named_with_its_command(tmp_path: Path, one: Witness) -> None:
    script = "import os, sys; os.symlink('x', sys.argv[1]); print(flush=True); input()"
    argv = [sys.executable, "-c", script, str(tmp_path / "watched/S20x")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        said = ask(tmp_path / "watched", "S20x", one)
        process.communicate("\n")
    assert said.startswith('by "')
    assert f"(process {process.pid}) of " in said


def test_of_one_that_is_gone_its_number_is_left(tmp_path: Path, one: Witness) -> None:
    process = subprocess.Popen(["ln", "-s", "x", str(tmp_path / "watched/S20x")])
    process.wait()
    assert ask(tmp_path / "watched", "S20x", one) == f"by process {process.pid}, which is gone"
    assert ask(tmp_path / "watched", "S20x", one) == "", "what was told is told once"


def test_other_folders_and_names_are_nobodys(tmp_path: Path, one: Witness) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/S20x").symlink_to("x")
    assert ask(tmp_path / "watched", "S20x", one) == ask(tmp_path / "other", "S20x", one) == ""


def test_a_wake_carries_it(tmp_path: Path, one: Witness) -> None:
    build(tmp_path)
    watcher = InotifyWatcher(PLACES, str(tmp_path), concerns, one)
    subprocess.run(["ln", "-s", "../init.d/x", tmp_path / "etc/rc2.d/S20x"], check=True)
    bench = Bench(tmp_path, watcher)
    assert bench.drain(5000)
    watcher.close()
    assert "/etc/rc2.d S20x appeared by process " in bench.causes[0]


def test_who_may_not_ask_has_no_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "_is_privileged", lambda: False)
    assert open_witness() is None


def event(pid: int, name: bytes, kind: int = 2) -> bytes:
    handle = b"\x01\x02\x03\x04"
    info = (
        struct.pack("=BBH8sIi", kind, 0, 20 + len(handle) + len(name) + 1, b"", len(handle), 7) + handle + name + b"\0"
    )
    return struct.pack("=IBBHQii", 24 + len(info), 3, 0, 24, 0x100, -1, pid) + info


def test_what_the_kernel_writes_is_read() -> None:
    chunk = event(5, b"a") + event(6, b"b", kind=1) + event(7, b"\xff\n")
    handle = (7).to_bytes(4, "little") + b"\x01\x02\x03\x04"
    assert list(witness._events(chunk)) == [(handle, b"a", 5), (handle, b"\xff\n", 7)]


@given(st.binary(max_size=200))
@example(bytes((0, 0, 0, 1, 0, 0, 0, 1)) + bytes(16))  # longer than all there is
def test_any_bytes_are_events_or_none(chunk: bytes) -> None:
    assert len(list(witness._events(chunk))) <= len(chunk)

"""What fuzzing has found, each with the shortest input that shows it: the target itself judges."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

from reconciler.errors import Unobservable
from reconciler.host import kernel
from tests.fuzz.targets import TARGETS
from tests.fuzz.targets.bytes import SEPARATOR as S

STAT = b"7 (x) S 1 7 7 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 1234 5 6"
UNLINK = b'{"action":{"is":"Unlink","path":"/x","target":""},"state":null}\n'
CONTEST = b'{"version":1,"contests":{"x":[%s,0,"",0,0,"",0]},"established":[]}'


@pytest.mark.parametrize(
    ("target", "data"),
    [
        pytest.param("manifest", UNLINK, id="a manifest's line without an id"),
        pytest.param("port", b"ssh 22/\x1b[1m\n" + S + b"tcp/ssh", id="an escape in a protocol of /etc/services"),
        pytest.param("proc_net", b"\n0: 0100007F:FFFFF 0 0A 0 0 0 0 0 0 7\n", id="a port that is none"),
        pytest.param("proc_net", b"\n0: 0100007F:-1 0 0A 0 0 0 0 0 0 7\n", id="a port below zero"),
        pytest.param("proc_net", b"\n0: -1000000:0016 0 0A 0 0 0 0 0 0 7\n", id="an address below zero"),
        pytest.param("routes", b"\n0: 0100007F:-1016 0 01\n", id="a login's port below zero"),
        pytest.param("proc_pid", b"", id="an empty stat"),
        pytest.param("proc_pid", b"7 (x) S x" + S + S, id="a stat of no numbers"),
        pytest.param("proc_pid", STAT + S + S + b"1:name=systemd:/a\n5:cp", id="a cgroup file that is cut off"),
        pytest.param("routes", b"\na:b 0 0 01\n", id="a connection without an address"),
        pytest.param("routes", b"\neth0 00000000 0 x 0 0 0 00000000\n", id="a route without flags"),
        pytest.param("rtnetlink", b"\2\x18\0\0\1\0\0\0\x08\0\1\0\1\2\3\4\4\0\x08\0", id="an address with short flags"),
        pytest.param("memory", CONTEST % b"Infinity", id="an infinite contest"),
        pytest.param("memory", CONTEST % b"5.5e400", id="a contest too large for a number"),
        pytest.param("status", b"[" * 100_000, id="a status nested too deeply"),
    ],
)
def test_it_is_read_or_refused(target: str, data: bytes) -> None:
    TARGETS[target](data)


def test_a_cgroup_that_is_cut_off_is_still_found() -> None:
    """Who may make control groups (a user's own systemd) makes long names: the file is longer than what is read."""
    long = b"1:name=systemd:/user.slice/a\n4:cpu:/" + b"x" * kernel.ARGUMENT_BYTES
    assert kernel.parse_cgroup(long[: kernel.ARGUMENT_BYTES]) == "/user.slice/a"
    assert kernel.parse_cgroup(b"1:name=systemd:/a\n4:cp") == "/a"


def test_a_process_that_makes_no_sense_is_not_left_out_in_silence() -> None:
    with pytest.raises(Unobservable):
        kernel.parse_stat(b"7 (x) S")


# --- long texts -------------------------------------------------------------------------------------------------

LONG = 1 << 18
PATIENCE = 15.0
"""Seconds of the processor, whatever else the machine does; linear reading takes some tenths of one."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise where the block takes more of the processor."""

    def over(_signal: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"not over after {seconds:g} s of the processor")

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


HEADER = b"### BEGIN INIT INFO\n"
TEMPLATE = b"iface t inet static\n" + b"a 1\n" * (LONG // 16)


@pytest.mark.parametrize(
    ("target", "unit"),
    [
        pytest.param("script", b"\n", id="a script of empty lines"),
        pytest.param("script", HEADER, id="a script of headers without an end"),
        pytest.param("script", HEADER + b"\n" * LONG, id="a header before empty lines"),
        pytest.param("script", b"DAEMON", id="a script of one word"),
        pytest.param("script", b"A", id="a script of one capital"),
        pytest.param("script", b"#\n", id="a script of comments"),
        pytest.param("script", HEADER + b"# Provides: x\n#  " + b"\n#  " * LONG, id="one long list"),
        pytest.param("script", b"--exec ", id="a script of options"),
        pytest.param("unit", b"[Install]\nAlias=a.service\n", id="a unit of aliases"),
        pytest.param("interfaces", b"\\\n", id="a file of continuations"),
        pytest.param("interfaces", b"iface a\n", id="a file of interfaces"),
        pytest.param("interfaces", TEMPLATE + b"iface a inet static inherits t\n" * (LONG // 64), id="heirs of one"),
        pytest.param("inetd_conf", b"a stream tcp nowait root /x\n b\n", id="a file of continued lines"),
        pytest.param("inetd_conf", b'"', id="a file of quotes"),
        pytest.param("package", b"x" + S + b"Install: x" + b"a" * LONG, id="one long name of a package"),
        pytest.param("package", b"x" + S + b"Install: x" + b" (" * (LONG // 2), id="brackets that never close"),
        pytest.param("journal", S + b'{"a":1}\n', id="a journal of other objects"),
        pytest.param("proc_net", b"\n", id="a table of empty lines"),
    ],
)
def test_a_long_text_is_no_hang(target: str, unit: bytes) -> None:
    with limited(PATIENCE):
        TARGETS[target]((unit * (LONG // len(unit) + 1))[: max(LONG, len(unit))])

"""The tools that a change of the network runs: to their end, however they behave; and the files that ifdown reads."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from reconciler.host import network


def test_what_went_wrong_is_said_with_its_last_words() -> None:
    assert network.run(("true",)) == ""
    assert network.run(("sh", "-c", "echo one; echo two >&2; exit 3")) == (
        "sh -c echo one; echo two >&2; exit 3 ended with 3: one; two"
    )
    assert network.run(("/nowhere/ifup", "eth0")) == "/nowhere/ifup cannot be run: No such file or directory"


def test_one_that_hangs_is_killed_with_its_hooks(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    wrong = network.run(("sh", "-c", f"sleep 1000 & echo $! >{noted}; wait"), seconds=4.0)
    assert wrong.endswith("not over after 4 s, killed")
    pid = int(noted.read_text())
    deadline = time.monotonic() + 30
    while os.path.exists(f"/proc/{pid}") and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the hook still runs"
        time.sleep(0.02)


def test_a_daemon_that_it_leaves_is_not_waited_for(tmp_path: Path) -> None:
    """It holds the tool's output for as long as it lives, as a DHCP client does."""
    noted = tmp_path / "pid"
    assert network.run(("sh", "-c", f"setsid sleep 1000 & echo $! >{noted}"), seconds=60.0) == ""
    os.kill(int(noted.read_text()), 9)


def test_former_files_source_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = str(tmp_path / "former")
    monkeypatch.setattr(network, "FORMER", former)
    (tmp_path / "former").mkdir()
    (tmp_path / "former/left").write_text("of another change")
    text = (
        b"source /etc/network/interfaces.d/*\nsource-directory interfaces.d\n# source /etc/network/x\nsource /srv/x\n"
    )
    made = network.lay_out({"/etc/network/interfaces": text, "/etc/network/interfaces.d/a": b"iface a inet manual\n"})
    assert made == former
    assert sorted(str(p.relative_to(former)) for p in Path(former).rglob("*") if p.is_file()) == [
        "interfaces",
        "interfaces.d/a",
    ]
    wanted = text.replace(b"source /etc/network/interfaces.d", b"source " + former.encode() + b"/interfaces.d")
    assert Path(former, "interfaces").read_bytes() == wanted


@pytest.mark.parametrize(
    ("orig", "argv", "wanted"),
    [
        (["python3", "-I", "/usr/sbin/dom0-reconciler", "run"], ["/usr/sbin/dom0-reconciler", "run"], 2),
        (["python3", "-IS", "/usr/sbin/dom0-reconciler", "run"], ["/usr/sbin/dom0-reconciler", "run"], 2),
        (["python3", "-m", "reconciler", "--state", "x", "run"], ["/x/__main__.py", "--state", "x", "run"], 2),
    ],
)
def test_the_program_is_called_as_it_was(
    monkeypatch: pytest.MonkeyPatch, orig: list[str], argv: list[str], wanted: int
) -> None:
    monkeypatch.setattr(sys, "orig_argv", orig)
    monkeypatch.setattr(sys, "argv", argv)
    assert network.ourselves() == [sys.executable, *orig[1 : 1 + wanted]]

"""The throw-away trees are what they claim to be: nothing in them is out of order, until a workload makes it so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.stage import Stage, Tree
from bench.tree import DRIFTED, INETD_LINE, LEVELS, VENDOR, WANTS, Shape, approved_links, start_link, stranger
from bench.workloads.storms import links_of
from reconciler.cli import main

SHAPES = [Shape(links=40, strangers=3), Shape(links=8, units=12, init="systemd", strangers=3)]
CONVERGED, NOT = 0, 2


@pytest.fixture(params=SHAPES, ids=["sysvinit", "systemd"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    with Stage(tmp_path).tree(request.param) as made:
        yield made


def _plan(tree: Tree) -> int:
    return main(["--root", str(tree.path), "plan"])


def test_nothing_is_to_be_done_in_a_fresh_tree(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    assert _plan(tree) == CONVERGED, capsys.readouterr()


def test_a_start_link_of_a_stranger_is_a_finding(tree: Tree) -> None:
    os.symlink(f"../init.d/{stranger(1)}", tree.path / start_link(1))
    assert _plan(tree) == NOT


def test_an_inetd_line_is_a_finding(tree: Tree) -> None:
    with (tree.path / "etc/inetd.conf").open("a") as file:
        file.write(INETD_LINE)
    assert _plan(tree) == NOT


def test_other_interfaces_are_a_finding(tree: Tree) -> None:
    (tree.path / "etc/network/interfaces").write_text(DRIFTED)
    assert _plan(tree) == NOT


def test_an_enabled_stranger_is_a_finding_with_systemd(tmp_path: Path) -> None:
    with Stage(tmp_path).tree(SHAPES[1]) as tree:
        unit = f"{stranger(1)}.service"
        os.symlink(f"/{VENDOR}/{unit}", tree.path / WANTS / unit)
        assert _plan(tree) == NOT


@pytest.mark.parametrize("count", [1, 200, 2_000, 20_000])
def test_there_are_as_many_links_as_were_asked_for(count: int) -> None:
    assert len(set(approved_links(count))) == count
    assert len({path for path, _ in links_of(count, 1_000)}) == count


def test_a_storm_is_spread_over_services_first() -> None:
    assert {path for path, _ in links_of(8, 2)} == {
        f"etc/rc{level}.d/S20{stranger(number)}" for level in LEVELS for number in (0, 1)
    }


def test_strangers_take_turns(tmp_path: Path) -> None:
    with Stage(tmp_path).tree(Shape(links=0, strangers=3)) as tree:
        assert sorted(tree.stranger() for _ in range(6)) == [0, 0, 1, 1, 2, 2]

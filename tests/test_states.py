"""The shipped states: each is right and whole, and the sarge one leaves of the article's host what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.trees import CHECKOUT, Tree

STATES = CHECKOUT / "states"
SARGE = CHECKOUT / "tests/data/sarge"
INETD_CONF = CHECKOUT / "tests/kinds/data/inetd/sarge.conf"
SHIPPED = sorted(path.name for path in STATES.glob("*.toml"))
MODERN = ("bookworm-xen.toml", "trixie-xen.toml")
UNNEEDED = {"portmap", "nfs-common", "exim4", "inetd", "lpd", "canna"}


@pytest.fixture
def sarge(tmp_path: Path) -> Tree:
    """The article's host, with a state that includes the shipped one."""
    tree = Tree(tmp_path)
    for line in (SARGE / "rclinks").read_text().splitlines():
        name = tree.link(line).name[3:]
        if not (tmp_path / "etc/init.d" / name).exists():
            tree.script(name)
    tree.write("etc/inetd.conf", INETD_CONF.read_bytes())
    tree.write("etc/network/interfaces", (SARGE / "interfaces").read_bytes())
    (tmp_path / "etc/insserv.conf").unlink()  # sarge had none
    tree.state(f'version = 1\nmode = "enforce"\ninclude = ["{STATES}/sarge-domain0.toml"]\n')
    return tree


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The product, as a user runs it from a checkout."""
    return subprocess.run(
        [sys.executable, "-m", "reconciler", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )


def services_by_kind(plan: dict[str, Any]) -> dict[str, set[str]]:
    """Kind -> the services it has findings about."""
    found = defaultdict(set)
    for finding in plan["findings"]:
        found[finding["kind"]].add(finding["service"])
    return dict(found)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_is_right_without_a_warning(name: str) -> None:
    result = run("check", str(STATES / name))
    assert (result.returncode, result.stderr) == (0, "")
    assert "warning" not in result.stdout


@pytest.mark.parametrize("name", SHIPPED)
def test_none_enforces_by_itself(name: str) -> None:
    """Whoever includes one decides the mode; whoever tries one is only shown."""
    assert "mode observe" in run("check", str(STATES / name)).stdout


@pytest.mark.parametrize("name", MODERN)
def test_the_modern_ones_leave_the_network_alone(tmp_path: Path, name: str) -> None:
    """Their examples hold documentation addresses: nobody's host may be "restored" to them."""
    tree = Tree(tmp_path, f'version = 1\ninclude = ["{STATES}/{name}"]\n')
    tree.write("etc/network/interfaces", "auto lo\niface lo inet loopback\n")
    assert "interfaces" not in services_by_kind(tree.plan())


@pytest.mark.parametrize("name", MODERN)
def test_an_approval_is_taken_out_by_its_name(tmp_path: Path, name: str) -> None:
    tree = Tree(tmp_path, f'version = 1\ninclude = ["{STATES}/{name}"]\n[services]\napproved = ["!atd"]\n')
    tree.script("atd")
    tree.script("cron")
    for link in ("rc2.d/S02atd", "rc2.d/S02cron"):
        tree.link(link)
    assert services_by_kind(tree.plan()) == {"rclinks": {"atd"}}


@pytest.mark.parametrize(
    ("interfaces", "more"), [("static", {}), ("bridge", {"xenbr0": "xenbr0"}), ("sarge-xenbr0", {})]
)
def test_the_example_networks_can_be_declared(tmp_path: Path, interfaces: str, more: dict[str, str]) -> None:
    """As docs/states.md says: copied beside the state, named there, and then the host's file is theirs."""
    tree = Tree(tmp_path)
    (tmp_path / "etc/network/interfaces.d").mkdir(parents=True)
    for name in (interfaces, *more):
        tree.write(f"etc/dom0-reconciler/{name}", (STATES / "interfaces" / name).read_bytes())
    tables = "".join(f'interfaces_d = {{ "{name}" = "{file}" }}\n' for name, file in more.items())
    tree.state(f'version = 1\nmode = "enforce"\n[network]\ninterfaces = "{interfaces}"\n{tables}')
    assert tree.command("apply").returncode == 0
    canonical = {"interfaces": interfaces, **{f"interfaces.d/{name}": file for name, file in more.items()}}
    for place, file in canonical.items():
        assert (tmp_path / "etc/network" / place).read_bytes() == (STATES / "interfaces" / file).read_bytes()


def test_sarge_names_exactly_what_the_article_does_not_need(sarge: Tree) -> None:
    plan = sarge.plan()
    assert services_by_kind(plan) == {"rclinks": UNNEEDED, "inetd": {"ident"}, "interfaces": {""}}
    assert [step for step in plan["steps"] if step["held"]] == []
    assert plan["gaps"] == []


def test_sarge_is_left_with_what_the_article_needs(sarge: Tree) -> None:
    assert sarge.command("apply").returncode == 0
    started = {name[3:] for level in "2345" for name in sarge.names(f"rc{level}.d") if name.startswith("S")}
    needed = {"sysklogd", "klogd", "atd", "cron", "ssh", "xend", "xendomains"}
    assert started == needed | {"makedev", "rmnologin", "stop-bootlogd"}
    assert "K43portmap" in sarge.names("rcS.d")
    assert b"\n#ident" in (sarge.path / "etc/inetd.conf").read_bytes()
    assert "static" in (sarge.path / "etc/network/interfaces").read_text()
    assert sarge.plan()["converged"]


def test_sarge_goes_on_to_shut_down_as_it_did(sarge: Tree) -> None:
    before = [sarge.names(folder) for folder in ("rc0.d", "rc6.d")]
    sarge.command("apply")
    assert [sarge.names(folder) for folder in ("rc0.d", "rc6.d")] == before


def test_no_state_is_forgotten_in_the_manual() -> None:
    manual = (CHECKOUT / "docs/states.md").read_text()
    names = [*SHIPPED, *(f"interfaces/{path.name}" for path in (STATES / "interfaces").iterdir())]
    assert [name for name in names if f"`{name}`" not in manual] == []


def test_json_of_a_check_says_the_same() -> None:
    result = run("--json", "check", str(STATES / SHIPPED[0]))
    assert json.loads(result.stdout) == {"ok": True, "errors": [], "warnings": []}

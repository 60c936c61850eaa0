"""The shipped states on real Debian roots: they name exactly the services nobody approved, and nothing that boots.

The roots are looked at as they lie in the cache: a plan writes nothing, and tests/hosts boots none of them for this.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hosts import levels, roots
from tests.hosts.host import Host
from tests.hosts.recipes import INITS, SUITES, Init, Suite

_CHECKOUT = Path(__file__).parents[2]

UNNEEDED = {
    "rpcbind": {"rpcbind"},
    "nfs-common": {"nfs-common", "rpc-statd", "rpc-statd-notify", "nfs-blkmap"},
    "exim4": {"exim4", "exim4-base"},
    "inetd": {"openbsd-inetd", "inetd"},
    "lpd": {"lpd"},
    "canna": {"canna"},
}
"""What the article's host does not need, by all the names that its links and units have on Debian 12 and 13."""


def _plan(suite: Suite, init: Init, *layers: str) -> dict[str, Any]:
    if reason := levels.missing("roots"):
        pytest.skip(f"level roots: {reason}")
    root = roots.build(suite, init).path
    command = [sys.executable, "-m", "reconciler", "--root", str(root), "--json", *layers, "plan"]
    result = subprocess.run(command, cwd=_CHECKOUT, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 2), result.stderr
    plan: dict[str, Any] = json.loads(result.stdout)
    return plan


def _state(suite: Suite) -> tuple[str, str]:
    return "--state", str(_CHECKOUT / f"states/{suite}-xen.toml")


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("suite", SUITES)
def test_a_plan_names_exactly_the_unneeded(suite: Suite, init: Init) -> None:
    plan = _plan(suite, init, *_state(suite))
    found = {finding["service"] for finding in plan["findings"] if finding["kind"] in ("rclinks", "units")}
    assert found <= set().union(*UNNEEDED.values())
    assert [name for name, names in UNNEEDED.items() if not names & found] == []
    assert {f["service"] for f in plan["findings"] if f["kind"] == "inetd"} == {"ident", "discard", "daytime"}


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("suite", SUITES)
def test_nothing_is_held_or_unseen(suite: Suite, init: Init) -> None:
    """A held step would be something that boots the host and that the state forgot to approve."""
    plan = _plan(suite, init, *_state(suite))
    assert [step for step in plan["steps"] if step["held"]] == []
    assert plan["gaps"] == []


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("suite", SUITES)
def test_a_real_apply_leaves_nothing_to_do(suite: Suite, init: Init, tmp_path: Path) -> None:
    """On a copy of the root's configuration, apply converges at once, and a second plan agrees."""
    if reason := levels.missing("roots"):
        pytest.skip(f"level roots: {reason}")
    root = roots.build(suite, init).path
    for folder in ("etc", "usr/lib/systemd", "var/lib/dpkg/info"):
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", str(root / folder), str(tmp_path / folder)], check=True)
    for link in ("lib", "sbin", "bin"):
        (tmp_path / link).symlink_to(f"usr/{link}")
    (tmp_path / "usr/sbin").mkdir()
    init_link = root / "usr/sbin/init"
    if init_link.is_symlink():
        (tmp_path / "usr/sbin/init").symlink_to(init_link.readlink())
    command = [sys.executable, "-m", "reconciler", "--root", str(tmp_path), *_state(suite)]
    applied = subprocess.run([*command, "apply"], cwd=_CHECKOUT, capture_output=True, text=True, check=False)
    assert applied.returncode == 0, applied.stdout + applied.stderr
    planned = subprocess.run([*command, "plan"], cwd=_CHECKOUT, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stdout


def test_on_a_running_host_too(host: Host) -> None:
    """What runs and listens is looked at there: sshd, cron, init and this test's own shell are no findings."""
    host.install_product()
    for path in (_CHECKOUT / "states").glob("*.toml"):
        host.put(f"/usr/share/dom0-reconciler/states/{path.name}", path.read_bytes())
    include = f"/usr/share/dom0-reconciler/states/{host.suite}-xen.toml"
    host.put("/etc/dom0-reconciler/state.toml", f'version = 1\ninclude = ["{include}"]\n')
    plan = json.loads(host.run(["dom0-reconciler", "--json", "plan"], check=False).out)
    names = set().union(*UNNEEDED.values()) | {"ident", "discard", "daytime"}
    assert {f["service"] for f in plan["findings"]} - names == set(), plan["findings"]
    assert [step for step in plan["steps"] if step["held"]] == []
    assert plan["gaps"] == []

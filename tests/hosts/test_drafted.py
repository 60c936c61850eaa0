"""What ``init`` makes of the programs that run: those that init began are the host's, others are somebody's."""

from __future__ import annotations

import tomllib

from tests.hosts import product
from tests.hosts.host import Host
from tests.hosts.plugin import SYSVINIT

NAMES = ("lasting", "reading", "left", "visiting")


@SYSVINIT
def test_a_program_on_a_terminal_is_no_part_of_the_host(host: Host) -> None:
    """Under systemd a login has control groups of its own; here only the terminal tells."""
    host.install_product()
    for name in NAMES:
        host.run(f"cp /usr/bin/sleep /usr/local/bin/{name}")
    host.run("setsid -f lasting 1000 >/dev/null 2>&1 </dev/null")
    host.run("setsid -f script -qc '(left 1000 &); exec reading 1000' /dev/null >/dev/null 2>&1 </dev/zero")
    host.spawn("visiting 1000")
    host.wait_for(lambda: all(host.running(name) for name in NAMES), why="all of them")
    host.run(f"rm -f {product.STATE}")
    drafted = host.run([product.COMMAND, "init"]).out
    approved = tomllib.loads(host.read(product.STATE))["processes"]["approved"]
    assert [name for name in NAMES if f"/usr/local/bin/{name}" in approved] == ["lasting"]
    for name in ("reading", "left"):
        assert f"/usr/local/bin/{name} (it is on somebody's terminal" in drafted
    assert "/usr/local/bin/visiting (init did not begin it)" in drafted
    reported = {f["ref"]: f["rule"] for f in product.ask(host, "plan", 0, 2)["findings"]}
    for name in ("reading", "left", "visiting"):
        assert reported[f"processes:/usr/local/bin/{name}"] == "reported"

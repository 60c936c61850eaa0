"""Installing, starting and stopping a product, with a stand-in that keeps the command line's contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hosts import product
from tests.hosts.host import Host

STAND_IN = """
import json, os, signal, socket, sys

PID, JOURNAL = "/run/stand-in.pid", "/var/lib/dom0-reconciler/journal.jsonl"

def run():
    os.makedirs(os.path.dirname(JOURNAL), exist_ok=True)
    with open(JOURNAL, "a") as journal:
        journal.write(json.dumps({"id": 1, "action": "unlink"}) + "\\n")
    with open(PID, "w") as file:
        file.write(str(os.getpid()))
    print("stand-in is up", flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", address.replace("@", chr(0), 1))
    signal.sigwait({signal.SIGTERM})
    os.unlink(PID)

if sys.argv[1] == "run":
    run()
else:
    sys.exit(0 if os.path.exists(PID) else 3)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(product.DEB_VARIABLE, raising=False)
    (tmp_path / "kinds").mkdir()
    for name, text in {"__init__.py": "", "__main__.py": STAND_IN, "kinds/__init__.py": ""}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_the_daemon_as_the_init_would_run_it(host: Host, stand_in: Path) -> None:
    host.install_product(stand_in)
    assert host.exists(f"{product.PACKAGE}/kinds/__init__.py")
    assert product.status_code(host) == 3
    assert host.journal() == []

    host.start_daemon()
    assert product.status_code(host) == 0
    assert host.journal() == [{"id": 1, "action": "unlink"}]
    assert "stand-in is up" in product.said(host)
    (daemon,) = [process for process in host.processes() if process.args[-1:] == ("run",)]
    cgroup = Path(f"/proc/{daemon.outer}/cgroup").read_text().splitlines()[-1]
    assert host.init == "sysvinit" or cgroup.endswith("/system.slice/dom0-reconciler.service")

    host.stop_daemon()
    assert product.status_code(host) == 3
    host.start_daemon()
    assert len(host.journal()) == 2

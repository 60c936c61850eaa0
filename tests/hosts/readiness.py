"""When a host counts as up: its init says so, and the article's services listen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.hosts.host import Host

# What a pristine host offers, by `Listener.name`. Some start detached: no init knows when they are ready.
LISTENING = frozenset(
    {
        *("tcp/9", "tcp/13", "tcp/22", "tcp/25", "tcp/111", "tcp/113", "udp/111"),
        *("/dev/printer", "/tmp/.iroha_unix/IROHA"),
    }
)
RUNNING = frozenset({"atd", "cannaserver", "cron", "exim4", "inetd", "lpd", "rpc.statd", "rpcbind", "sshd"})


def init_is_done(host: Host, console_before: int) -> bool:
    """sysvinit starts the console's getty when its scripts are through; systemd is asked."""
    if host.init == "sysvinit":
        return "login:" in host.console[console_before:]
    if not host.exists("/run/systemd/private"):
        return False
    state = host.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=30).out.strip()
    return state in ("running", "degraded")


def is_settled(host: Host) -> bool:
    """Every service of the article runs and listens."""
    names = {one.name for one in host.listeners()}
    return names >= LISTENING and {process.comm for process in host.processes()} >= RUNNING

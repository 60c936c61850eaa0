"""Debian 3.1 as its installer left it: runlevel links, init scripts, inetd.conf, the network file, and a state."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
CHECKOUT = HERE if (HERE / "reconciler").is_dir() else HERE.parent
SARGE = CHECKOUT / "tests/data/sarge"
STATES = CHECKOUT / "states"

DAEMONS = {
    "sysklogd": "syslogd",
    "klogd": "klogd",
    "portmap": "portmap",
    "canna": "cannaserver",
    "exim4": "exim4",
    "inetd": "inetd",
    "lpd": "lpd",
    "ssh": "sshd",
    "nfs-common": "rpc.statd",
    "atd": "atd",
    "cron": "cron",
}
"""Each init script that starts a daemon, with the daemon, in the order of rc2.d."""

STATE = """\
version = 1
mode = "enforce"

# approves sysklogd, klogd, atd, cron, ssh, xend, xendomains and what boots the host;
# nothing behind inetd; a static address; tcp/22
include = ["sarge-domain0.toml"]

[listeners]
unapproved = "stop"
"""

_SCRIPT = """\
#!/bin/sh
# /etc/init.d/{name}
DAEMON=/usr/local/sbin/{daemon}
PIDFILE=/run/{daemon}.pid
case "$1" in
  start) start-stop-daemon --start --quiet --oknodo --pidfile $PIDFILE --startas $DAEMON ;;
  stop) start-stop-daemon --stop --quiet --oknodo --retry TERM/5/KILL/2 --pidfile $PIDFILE --remove-pidfile ;;
  *) exit 64 ;;
esac
"""
_BOOT_SCRIPT = "#!/bin/sh\n# /etc/init.d/{name}: nothing to do in a demonstration\nexit 0\n"


def furnish(root: Path, *, live: bool) -> None:
    """Write the host's files below ``root``; with ``live`` its daemons too."""
    for folder in ("init.d", "network/interfaces.d", "dom0-reconciler"):
        (root / "etc" / folder).mkdir(parents=True, exist_ok=True)
    for entry in (SARGE / "rclinks").read_text().splitlines():
        _link(root, entry)
    (root / "etc/inetd.conf").write_bytes(inetd_conf())
    (root / "etc/network/interfaces").write_bytes((SARGE / "interfaces").read_bytes())
    if live:
        stand_in = Path(__file__).with_name("stand_in.py").read_bytes()
        for daemon in (*DAEMONS.values(), "dhclient"):
            _executable(root / "usr/local/sbin" / daemon, stand_in)
    declare(root)


def inetd_conf() -> bytes:
    """The article's /etc/inetd.conf: one active line, ident."""
    beside = SARGE / "inetd.conf"
    return (beside if beside.exists() else CHECKOUT / "tests/kinds/data/inetd/sarge.conf").read_bytes()


def declare(root: Path) -> None:
    """Put the desired state in its place. A copy of the shipped states: they must belong to whoever runs this."""
    own = root / "etc/dom0-reconciler"
    (own / "interfaces").mkdir(exist_ok=True)
    for name in ("sarge-domain0.toml", "interfaces/sarge-static"):
        (own / name).write_bytes((STATES / name).read_bytes())
    (own / "state.toml").write_text(STATE)


def relink(root: Path, script: str) -> list[str]:
    """Make the start links that the installer made for a script anew; the names of all."""
    entries = (SARGE / "rclinks").read_text().splitlines()
    mine = [entry for entry in entries if entry[2] not in "06" and entry[6] == "S" and entry[9:] == script]
    for entry in mine:
        _link(root, entry)
    return mine


def _link(root: Path, entry: str) -> None:
    path = root / "etc" / entry
    path.parent.mkdir(exist_ok=True)
    name = path.name[3:]
    script = root / "etc/init.d" / name
    if not script.exists():
        text = _SCRIPT if name in DAEMONS else _BOOT_SCRIPT
        _executable(script, text.format(name=name, daemon=DAEMONS.get(name, "")).encode())
    if not path.is_symlink():
        path.symlink_to(f"../init.d/{name}")


def _executable(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)

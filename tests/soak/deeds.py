"""What brings services, lines and files back on the soaked host: the real tools, and how it shows that it is undone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tests.hosts import states
from tests.hosts.host import INTERFACES, STATIC
from tests.hosts.scenario import SERVICES, Scene

NETWORK = '[network]\ninterfaces = "interfaces"\ninterfaces_d = {}\n'
STATE = states.state("inetd", inetd=["discard/tcp"], listeners=["tcp/9"], interval="1min", extra=NETWORK)
CANONICAL = "/etc/dom0-reconciler/interfaces"
INETD = "/etc/inetd.conf"

PACKAGED = {"canna": "canna", "atd": "at", "lpd": "lpr"}
"""Services whose package is installed once more, by its .deb: postinst, invoke-rc.d and all."""


@dataclass(frozen=True)
class Deed:
    """One reintroduction: ``subject`` is what comes back (never twice within the rest), ``how`` by which tool.

    ``undone`` is true once nothing of it is left; ``records`` finds its corrections in the journal by service or path.
    """

    subject: str
    how: str
    do: Callable[[], object]
    undone: Callable[[], bool]
    names: frozenset[str]


def prepare(scene: Scene) -> None:
    """The canonical interfaces file, and one line of inetd's that is approved."""
    scene.host.put(CANONICAL, STATIC)
    scene.host.put(INTERFACES, STATIC)


def deeds(scene: Scene, chance: random.Random) -> list[Deed]:
    """One deed for each subject, its way drawn anew."""
    return [*_services(scene, chance), *_lines(scene, chance), *_files(scene, chance)]


def _run(scene: Scene, command: str | Sequence[str]) -> Callable[[], object]:
    # The guard may be quicker than the tool, which then finds its link or service gone.
    return lambda: scene.host.run(command, check=False, timeout=300)


def _services(scene: Scene, chance: random.Random) -> Iterator[Deed]:
    for name in ("canna", "exim4", "atd", "lpd", "rpcbind", "statd"):
        service = SERVICES[name]
        script, unit, number = service.script, service.units[-1], chance.randrange(10, 99)
        level = chance.choice("2345")
        ways = {
            "update-rc.d enable": f"update-rc.d {script} enable",
            "links deleted, update-rc.d defaults": (
                f"find /etc/rc?.d -name '*[0-9][0-9]{script}' -delete; update-rc.d {script} defaults"
            ),
            "ln -s": f"ln -s ../init.d/{script} /etc/rc{level}.d/S{number}{script}",
            "forty links": f"for n in $(seq 10 49); do ln -s ../init.d/{script} /etc/rc{level}.d/S${{n}}{script}; done",
            # Debian masks nfs-common.service: its script would start nothing
            "service start": f"service {'rpc-statd' if name == 'statd' else script} start",
            "systemctl enable --now": f"systemctl enable --now {unit}",
            "a backup restored": f"mkdir -p /root/b; cp -a /etc/init.d/{script} /root/b/; ln -sf "
            f"../init.d/{script} /root/b/S20{script}; cp -a /root/b/S20{script} /etc/rc{level}.d/",
        }
        if name in PACKAGED:
            ways["dpkg -i"] = (
                f"find /etc/rc?.d -name '*[0-9][0-9]{script}' -delete; dpkg -i {scene.host.deb(PACKAGED[name])}"
            )
        how = chance.choice(sorted(ways))
        yield Deed(name, how, _run(scene, ways[how]), lambda name=name: not scene.traces(name), _names(name))  # type: ignore[misc]


def _names(name: str) -> frozenset[str]:
    service = SERVICES[name]
    return frozenset(
        (name, service.script, service.comm, *service.packages, *(u.partition(".")[0] for u in service.units))
    )


def _lines(scene: Scene, chance: random.Random) -> Iterator[Deed]:
    line = "daytime\\t\\tstream\\ttcp\\tnowait\\troot\\tinternal"
    ways = {
        "update-inetd --add": f"sed -i /^#*daytime/d {INETD}; update-inetd --add '{line}'",
        "echo >>": f"printf '{line}\\n' >> {INETD}",
        "sed -i": f"printf '#{line}\\n' >> {INETD}; sed -i 's/^#*daytime/daytime/' {INETD}",
    }
    how = chance.choice(sorted(ways))
    yield Deed(
        "daytime/tcp", how, _run(scene, ways[how]), lambda: _inetd_is_closed(scene), frozenset(("daytime", INETD))
    )


def _inetd_is_closed(scene: Scene) -> bool:
    active = any(line.startswith("daytime") for line in scene.host.read(INETD).splitlines())
    return not active and not any(one.port == 13 for one in scene.host.listeners())


def _files(scene: Scene, chance: random.Random) -> Iterator[Deed]:
    ways = {
        "written in place": f"printf 'auto eth0\\niface eth0 inet dhcp\\n' > {INTERFACES}",
        "sed -i": f"sed -i s/static/dhcp/ {INTERFACES}",
        "mode and owner": f"chmod 0666 {INTERFACES}; chown nobody {INTERFACES}",
        "removed": f"rm -f {INTERFACES}",
        "renamed over": f"printf 'iface x inet dhcp\\n' > {INTERFACES}.new; mv {INTERFACES}.new {INTERFACES}",
    }
    how = chance.choice(sorted(ways))
    names = frozenset((INTERFACES,))
    yield Deed("interfaces", how, _run(scene, ways[how]), lambda: _is_canonical(scene), names)
    name = f"x{chance.randrange(10**6)}"
    path = f"{INTERFACES}.d/{name}"
    command = f"mkdir -p {INTERFACES}.d; printf 'iface {name} inet dhcp\\n' > {path}"
    yield Deed(
        "interfaces.d", "a new file", _run(scene, command), lambda: not scene.host.exists(path), frozenset((path,))
    )


def _is_canonical(scene: Scene) -> bool:
    status = scene.host.files.lstat(INTERFACES)
    if status is None or (status.st_mode & 0o7777, status.st_uid) != (0o644, 0):
        return False
    return scene.host.read(INTERFACES) == STATIC


def disturb(scene: Scene, chance: random.Random) -> str:
    """Now and then something that a daemon of years lives through; says what."""
    ways = {
        "journald restarted": "systemctl restart systemd-journald",
        "systemd reloaded": "systemctl daemon-reload",
        "the state saved anew": f"cp -p {states.PATH} {states.PATH}.new; mv {states.PATH}.new {states.PATH}",
        "two hundred names that mean nothing": "cd /etc/rc2.d; for n in $(seq 200); do : > .x$n; done; rm -f .x*",
        "a pause of a second": "dom0-reconciler pause 1s canna --reason soak",
    }
    how = chance.choice(sorted(ways))
    scene.host.run(ways[how], check=False, timeout=120)
    return how

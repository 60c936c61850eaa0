"""What an administrator would use instead, each set up to do the one thing: take unapproved start links away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from bench.contenders import HERE, PYTHON, Task, live
from bench.peerroot import PeerRoot
from bench.process import Running
from bench.stage import Tree
from bench.tree import approved_links

PATTERN = "S??bad*"

_HANDLER = "#!/bin/sh\nrm -f {folders}\n"
_SHELL_LOOP = """\
inotifywait -m -q -e create -e moved_to --format %w%f "$@" | while read -r path; do
    case "${path##*/}" in S??bad*) rm -f "$path" ;; esac
done
"""


def folders_of(tree: Tree) -> list[str]:
    """The runlevels' folders."""
    return [f"{tree.path}/etc/rc{level}.d" for level in "12345S"]


class Loop:
    """A bare loop of some lines of Python: the least that a library asks, or that the promises ask."""

    def __init__(self, script: str, name: str, work: Path, libraries: Path | None) -> None:
        self.name, self.said, self.stops = name, work / f"{script}.out", script in STOPPING
        self._program = HERE / "loops" / f"{script}.py"
        self._path = str(libraries) if libraries else ""

    def start(self, tree: Tree, task: Task = "links") -> Running:  # noqa: ARG002  (it knows links only)
        """Guard the runlevels' folders."""
        argv = [PYTHON, str(self._program), *folders_of(tree)]
        return Running(argv, said=self.said, env={"PYTHONPATH": self._path, "PYTHONDONTWRITEBYTECODE": "1"})

    def start_live(self, tree: Tree) -> Running:
        """Guard the links of a host of its own, and stop what they started."""
        folders = [f"/etc/rc{level}.d" for level in "12345S"]
        command = [
            "env",
            "PYTHONPATH=/staged",
            PYTHON,
            f"/staged/bench/loops/{self._program.name}",
            "--stops",
            *folders,
        ]
        return Running(live(tree, HERE.parent, command), inside=True, said=self.said)


class Peer:
    """A program of Debian's, run in the peers' root. ``prepare`` writes what it wants, and says how it is called."""

    def __init__(self, name: str, root: PeerRoot, work: Path, prepare: Callable[[Tree, Path], list[str]]) -> None:
        self.name, self.said = name, work / f"{name}.out"
        self._root, self._prepare = root, prepare

    def start(self, tree: Tree, task: Task = "links") -> Running:  # noqa: ARG002  (it knows links only)
        """Guard the runlevels' folders."""
        return Running(self._root.enter(*self._prepare(tree, self._root.path)), said=self.said)

    def argv(self, tree: Tree) -> list[str]:
        """The same as a command to be run once."""
        return self._root.enter(*self._prepare(tree, self._root.path))


def _inotifywait(tree: Tree, root: Path) -> list[str]:  # noqa: ARG001  (all have one signature)
    return ["sh", "-c", _SHELL_LOOP, "loop", *folders_of(tree)]


def _direvent(tree: Tree, root: Path) -> list[str]:  # noqa: ARG001
    config = tree.path / "direvent.conf"
    watchers = (
        f'watcher {{ path "{folder}"; event (create); file "{PATTERN}"; command "/bin/rm -f $file"; }}\n'
        for folder in folders_of(tree)
    )
    config.write_text("".join(watchers))
    return ["direvent", "-f", str(config)]


def _incron(tree: Tree, root: Path) -> list[str]:
    config, tables = tree.path / "incron.conf", tree.path / "incron.d"
    tables.mkdir(exist_ok=True)
    lines = (f"{folder} IN_CREATE,IN_MOVED_TO /bin/rm -f $@/$#\n" for folder in folders_of(tree))
    (tables / "links").write_text("".join(lines))
    (root / "run").mkdir(exist_ok=True)
    config.write_text(f"system_table_dir = {tables}\nuser_table_dir = {tree.path}/stage\nlockfile_dir = {tree.path}\n")
    return ["incrond", "-n", "-f", str(config)]


def handler_of(tree: Tree) -> str:
    """A script that takes every stranger's link away."""
    handler = tree.path / "handler"
    handler.write_text(_HANDLER.format(folders=" ".join(f"{folder}/{PATTERN}" for folder in folders_of(tree))))
    handler.chmod(0o755)
    return str(handler)


def _monit(tree: Tree, root: Path) -> list[str]:  # noqa: ARG001
    return _monit_with(tree, f'check program links with path "{handler_of(tree)}"\n  if status != 0 then alert\n')


def monit_looking(tree: Tree, root: Path) -> list[str]:  # noqa: ARG001
    """monit with one check a link and nothing to do: its pass."""
    checks = (
        f"check file link{number} path {tree.path}/{link}\n  if does not exist then alert\n"
        for number, link in enumerate(approved_links(tree.shape.links))
    )
    return _monit_with(tree, "".join(checks))


def _monit_with(tree: Tree, checks: str) -> list[str]:
    config = tree.path / "monitrc"
    where = "".join(f"set {name} {tree.path}/monit.{name}\n" for name in ("pidfile", "idfile", "statefile"))
    config.write_text(f"set daemon 1\n{where}{checks}")
    config.chmod(0o600)
    return ["monit", "-I", "-c", str(config)]


_POLICY = """\
body common control {{ bundlesequence => {{ "links" }}; inputs => {{ }}; }}
body delete tidy {{ dirlinks => "delete"; rmdirs => "false"; }}
bundle agent links {{ files:
{promises}
}}
"""


def _policy(tree: Tree) -> Path:
    policy = tree.path / "policy.cf"
    promises = [f'  "{folder}/S..bad.*" delete => tidy;' for folder in folders_of(tree)]
    policy.write_text(_POLICY.format(promises="\n".join(promises)))
    policy.chmod(0o600)
    return policy


def _cf_agent(tree: Tree, root: Path) -> list[str]:  # noqa: ARG001
    return ["cf-agent", "-K", "-f", str(_policy(tree))]


def _cf_execd(tree: Tree, root: Path) -> list[str]:  # noqa: ARG001
    return ["cf-execd", "-F", "-L", "-f", str(_policy(tree))]


def _fail2ban(tree: Tree, root: Path) -> list[str]:
    (root / "var/log").mkdir(parents=True, exist_ok=True)
    (root / "var/log/auth.log").touch()
    (root / "run/fail2ban").mkdir(parents=True, exist_ok=True)
    return ["fail2ban-server", "-f", "-x", "--loglevel", "INFO", "--logtarget", f"{tree.path}/fail2ban.log", "start"]


def _ansible(tree: Tree, root: Path) -> list[str]:  # noqa: ARG001
    playbook = tree.path / "playbook.yml"
    folders = "".join(f"\n          - {folder}" for folder in folders_of(tree))
    playbook.write_text(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n"
        f"    - find:\n        file_type: any\n        patterns: '{PATTERN}'\n"
        f"        paths:{folders}\n      register: found\n"
        "    - file: {path: '{{ item.path }}', state: absent}\n      loop: '{{ found.files }}'\n"
    )
    return ["env", "HOME=/tmp", "LC_ALL=C.UTF-8", "ansible-playbook", "-i", "localhost,", str(playbook)]


def _puppet(tree: Tree, root: Path) -> list[str]:  # noqa: ARG001
    manifest = tree.path / "links.pp"
    folders = (
        f"file {{ '{folder}': ensure => directory, recurse => true, purge => true }}\n" for folder in folders_of(tree)
    )
    links = (
        f"file {{ '{tree.path}/{link}': ensure => link, target => '../init.d/{Path(link).name[3:]}' }}\n"
        for link in approved_links(tree.shape.links)
    )
    manifest.write_text("".join((*folders, *links)))
    # Without a network it does not look for a cloud around it.
    return ["unshare", "--net", "env", "LC_ALL=C.UTF-8", "puppet", "apply", str(manifest)]


WATCHING: Mapping[str, Callable[[Tree, Path], list[str]]] = {
    "inotifywait + sh": _inotifywait,
    "direvent": _direvent,
    "incron": _incron,
}
"""They are told of a change."""

LOOKING: Mapping[str, Callable[[Tree, Path], list[str]]] = {
    "monit": _monit,
    "cf-execd": _cf_execd,
    "fail2ban": _fail2ban,
}
"""They look from time to time; the last is no guard of links, but a Python daemon of the same kind."""

ONE_PASS: Mapping[str, Callable[[Tree, Path], list[str]]] = {"cf-agent": _cf_agent}
HEAVY: Mapping[str, Callable[[Tree, Path], list[str]]] = {"ansible": _ansible, "puppet": _puppet}

BARE_LOOPS = {"with_ctypes": "Python, ctypes", "with_promises": "Python, with the promises"}
"""They need nothing but Python; the second keeps a record, keeps what goes and looks again, as the product does."""

STOPPING = ("with_promises",)
"""They can stop services as well."""

LOOPS = {**BARE_LOOPS, "with_pyinotify": "Python, pyinotify", "with_watchdog": "Python, watchdog"}

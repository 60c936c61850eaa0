"""Who is measured: the product as a package would install it, and the limit in C. The peers are in `bench.peers`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from bench.process import Running
from bench.stage import Tree
from bench.tree import WANTS

HERE = Path(__file__).parent
PYTHON = "/usr/bin/python3"
LIBRARIES = ("pyinotify", "structlog", "watchdog", "asyncore")
Task = Literal["links", "inetd", "interfaces", "units"]


class Contender(Protocol):
    """Somebody who puts right what a workload does to a tree."""

    @property
    def name(self) -> str: ...

    def start(self, tree: Tree, task: Task) -> Running:
        """Begin to guard the tree. It is ready once it corrects."""
        ...


class Product:
    """A checkout of the product, copied and compiled as its package is, and started as by its launcher."""

    def __init__(self, checkout: Path, work: Path, libraries: Path | None, name: str = "dom0-reconciler") -> None:
        self.name, self.staged, self.said = name, work / name, work / f"{name}.out"
        shutil.copytree(
            checkout / "reconciler", self.staged / "reconciler", ignore=shutil.ignore_patterns("__pycache__")
        )
        if libraries is not None:
            _copy_libraries(libraries, self.staged)
        for folder in (self.staged, Path("/staged")):
            launcher = _launcher(checkout).replace("/usr/share/dom0-reconciler", str(folder))
            (self.staged / ("launcher" if folder == self.staged else "live-launcher")).write_text(launcher)
        self.python = launcher.partition("\n")[0].removeprefix("#!").split()
        compiled = subprocess.run([PYTHON, "-m", "compileall", "-q", str(self.staged)], check=False)
        if compiled.returncode:
            raise RuntimeError(f"{checkout} cannot be compiled")

    def argv(self, tree: Tree, *arguments: str) -> list[str]:
        """One command on a tree."""
        return [*self.python, str(self.staged / "launcher"), "--root", str(tree.path), *arguments]

    def start(self, tree: Tree, task: Task = "links", env: Mapping[str, str] | None = None) -> Running:  # noqa: ARG002
        """The daemon on a tree that does not run; it guards everything, whatever the task."""
        return Running(self.argv(tree, "run"), said=self.said, env=env)

    def start_live(self, tree: Tree, env: Mapping[str, str] | None = None) -> Running:
        """The daemon on a tree that is the root of a host of its own: there it stops what it finds."""
        command = [*self.python, "/staged/live-launcher", "run"]
        return Running(live(tree, self.staged, command), inside=True, said=self.said, env=env)


class Limit:
    """The C program: the least that this kernel asks of whoever does it."""

    name = "C"

    def __init__(self, work: Path) -> None:
        self.staged, self.said = work / "limit", work / "limit.out"
        self.staged.mkdir()
        self.program = self.staged / "guard"
        subprocess.run(["cc", "-O2", "-o", str(self.program), str(HERE / "limit/guard.c")], check=True)

    def start(self, tree: Tree, task: Task = "links") -> Running:
        """Guard one thing of a tree."""
        return Running(self.argv(tree, task), said=self.said)

    def start_live(self, tree: Tree, env: Mapping[str, str] | None = None) -> Running:
        """Guard the links of a host of its own, and start the stops."""
        folders = [f"/etc/rc{level}.d" for level in "12345S"]
        command = ["/staged/guard", "-a", "/approved", "-s", "", "links", *folders]
        return Running(live(tree, self.staged, command), inside=True, said=self.said, env=env)

    def argv(self, tree: Tree, task: Task, *options: str) -> list[str]:
        """The program and what it looks at."""
        return [str(self.program), "-a", str(tree.path / "approved"), *options, *_subject(tree.path, task)]


def _subject(root: Path, task: Task) -> list[str]:
    match task:
        case "links":
            return ["links", *(f"{root}/etc/rc{level}.d" for level in "12345S")]
        case "units":
            return ["units", f"{root}/{WANTS}"]
        case "inetd":
            return ["inetd", f"{root}/etc/inetd.conf"]
        case "interfaces":
            return ["file", f"{root}/etc/network/interfaces", f"{root}/etc/dom0-reconciler/interfaces"]


def live(tree: Tree, staged: Path, command: Sequence[str]) -> list[str]:
    """A command on a tree that is the root of a host of its own, where ``staged`` lies in /staged."""
    own = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--"]
    return [*own, "sh", str(HERE / "live.sh"), str(tree.path), str(staged), *command]


def _launcher(checkout: Path) -> str:
    return (checkout / "packaging/dom0-reconciler").read_text()


def _copy_libraries(source: Path, target: Path) -> None:
    for name in LIBRARIES:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (source / f"{name}.py").exists():
            shutil.copy(source / f"{name}.py", target)


def find_libraries(checkout: Path) -> Path | None:
    """Where the product's libraries are; ``None`` where Python finds them by itself."""
    probe = [PYTHON, "-I", "-c", "import pyinotify, structlog, watchdog"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        return None
    own = HERE.parent
    places = [*own.glob(".venv/lib/python3*/site-packages"), *checkout.glob(".venv/lib/python3*/site-packages")]
    places.append(own / ".cache/demo/usr/lib/python3/dist-packages")
    for place in places:
        if (place / "structlog").is_dir():
            return place
    raise RuntimeError("pyinotify, structlog and watchdog are not installed: apt install python3-pyinotify ...")

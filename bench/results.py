"""What a run has measured so far, on disk: a run that was cut goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.contenders import PYTHON
from bench.process import cpus
from bench.run import Measures

Facts = dict[str, str]
SAME = ("product", "machine", "peers")
"""The facts that a run which goes on must share with the one that was cut."""


class Results:
    """One file. Measurements of another product or another machine are not taken for this one's."""

    def __init__(self, path: Path, facts: Facts, *, fresh: bool = False) -> None:
        self.path, self.facts = path, facts
        self.sections: dict[str, Any] = {}
        if not fresh and path.exists():
            kept = json.loads(path.read_text())
            if all(kept["facts"].get(key) == facts[key] for key in SAME):
                self.sections = kept["sections"]

    def put(self, name: str, measures: Measures, took: float) -> None:
        """Keep a section, at once and whole."""
        self.sections[name] = {"measures": measures, "took": took, "ended": time.time()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"facts": self.facts, "sections": self.sections}))
        temporary.replace(self.path)

    def measures(self) -> Measures:
        """Everything, by measure."""
        found: Measures = {}
        for section in self.sections.values():
            found |= section["measures"]
        return found


def facts_of(checkout: Path, peers: str) -> Facts:
    """What the tables must say about where they come from."""
    python = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return {
        "product": _digest(checkout / "reconciler"),
        "machine": machine(),
        "peers": peers,
        "kernel": platform.release(),
        "debian": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "python": python,
        "compiler": compiler,
        "pinned": "harness on processor {}, contenders on processor {}".format(*cpus()),
    }


def machine() -> str:
    """The kind of machine this is."""
    return f"{_model()}, {os.cpu_count()} processors ({platform.machine()}), {_memory()} GiB"


def _digest(folder: Path) -> str:
    text = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            text.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return text.hexdigest()[:12]


def _model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
    virtual = any(line.startswith("flags") and " hypervisor" in line for line in lines)
    return f"{model}{', a virtual machine' if virtual else ''}"


def _memory() -> int:
    line = Path("/proc/meminfo").read_text().splitlines()[0]
    return round(int(line.split()[1]) / (1 << 20))

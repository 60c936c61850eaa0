"""What the manual says of the code is so: links, commands, keys, modules. Whoever adds one of these adds its line."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.trees import CHECKOUT

DOCS = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
EVERY_KEY = CHECKOUT / "tests/states/right/every-key/state.toml"


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_has_exactly_the_commands_there_are() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "reconciler", "--help"], cwd=CHECKOUT, capture_output=True, check=True
    )
    commands = re.findall(r"^    ([a-z]+) ", shown.stdout.decode().partition("COMMAND\n")[2], re.MULTILINE)
    table = (CHECKOUT / "README.md").read_text().partition("## Commands")[2].partition("## Where")[0]
    documented = [
        word for cell in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for word in re.findall(r"`([a-z]+)", cell)
    ]
    assert sorted(documented) == sorted(commands)


def test_every_key_is_documented() -> None:
    manual = (CHECKOUT / "docs/state.md").read_text()
    state = tomllib.loads(EVERY_KEY.read_text())
    for name, value in state.items():
        assert f"## [{name}]" in manual if isinstance(value, dict) else f"| `{name}` |" in manual, name
        section = manual.partition(f"## [{name}]")[2].partition("\n## ")[0]
        for key in value if isinstance(value, dict) else ():
            assert f"| `{key}` |" in section, f"{name}.{key}"


def test_every_module_is_on_the_map() -> None:
    manual = (CHECKOUT / "docs/architecture.md").read_text()
    folder = CHECKOUT / "reconciler"
    modules = {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}
    modules |= {f"{path.name}/" for path in folder.iterdir() if (path / "__init__.py").exists()}
    assert [module for module in sorted(modules) if f"`{module}`" not in manual] == []

"""What is written for people says what the program does: manual pages, catalog and completions against the code."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from reconciler import cli, desired
from reconciler.log import KINDS
from reconciler.statefile import layers

PACKAGING = Path(__file__).parents[1] / "packaging"
COMMAND = PACKAGING / "man/dom0-reconciler.8"
STATE = PACKAGING / "man/dom0-reconciler-state.5"
PAGES = (COMMAND, STATE)


def _plain(line: str) -> str:
    """A line of mdoc without macros and quotes around words."""
    return re.sub(r"\bFl Fl ", "--", re.sub(r"\bFl (\w)\b", r"-\1", line)).replace("\\&", "")


# --- dom0-reconciler(8) against the parser -------------------------------------------------------------------------


def _parsers() -> dict[str, argparse.ArgumentParser]:
    parser = cli._parser()
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return {"": parser, **commands.choices}


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


def _section(command: str) -> str:
    """What the page says of one command, up to the next; for "" the section OPTIONS."""
    text = re.sub(r"^\.Bl .*$", "", _plain(COMMAND.read_text()), flags=re.MULTILINE)
    if not command:
        return text.split(".Sh OPTIONS")[1].split(".Sh ")[0]
    found = re.search(rf"^\.It Cm {command}\b.*?(?=^\.It Cm |^\.Ss |^\.Sh )", text, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{command} is not documented"
    return found[0]


@pytest.mark.parametrize("command", list(_parsers()))
def test_each_option_is_documented(command: str) -> None:
    everywhere = {"-h", "--help", "--json"} if command else set()
    documented = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", _section(command)))
    assert documented - everywhere == _options(_parsers()[command]) - everywhere


def test_each_command_is_documented() -> None:
    commands = _plain(COMMAND.read_text()).split(".Sh COMMANDS")[1].split(".Sh ")[0]
    assert set(re.findall(r"^\.It Cm (\S+)", commands, re.MULTILINE)) == set(_parsers()) - {""}


def test_values_are_called_as_in_the_help() -> None:
    text = _plain(COMMAND.read_text())
    for command, parser in _parsers().items():
        for action in parser._actions:
            if action.metavar and not isinstance(action, argparse._SubParsersAction):
                assert f"Ar {action.metavar}" in text, f"{command} {action.metavar}"


# --- dom0-reconciler-state(5) against the schema -------------------------------------------------------------------


def _keys() -> Iterator[tuple[str, str]]:
    """Each key that the loader asks for, with its table: ``table.strings("approved", ...)``; "" is the top level."""
    readers = {"text", "flag", "word", "span", "size", "strings", "joined", "items"}
    for module in (desired, layers):
        for function in ast.walk(ast.parse(Path(module.__file__ or "").read_text())):
            if isinstance(function, ast.FunctionDef):
                for call in ast.walk(function):
                    if (
                        isinstance(call, ast.Call)
                        and isinstance(call.func, ast.Attribute)
                        and call.func.attr in readers
                    ):
                        key = call.args[0] if call.args else None
                        if isinstance(key, ast.Constant) and isinstance(key.value, str):
                            yield function.name, key.value


TABLES = {"_services": "SERVICES", "_rails": "RAILS", "_inetd": "INETD", "_network": "NETWORK"}
TABLES |= {"_listeners": "LISTENERS", "_listener": "LISTENERS", "_processes": "PROCESSES"}
TABLES |= {"_quarantine": "QUARANTINE"}


def _documented() -> set[tuple[str, str]]:
    sections = re.split(r"^\.Sh (.+)$", STATE.read_text(), flags=re.MULTILINE)
    pairs = zip(sections[1::2], sections[2::2], strict=True)
    return {(name, key) for name, text in pairs for key in re.findall(r"^\.It Ic (\w+)", text, re.MULTILINE)}


def test_the_schema_is_documented() -> None:
    asked = {(TABLES.get(function, "TOP LEVEL"), key) for function, key in _keys()}
    asked |= {("TOP LEVEL", "version"), ("NETWORK", "interfaces_d")}
    assert _documented() == asked


def test_tables_are_documented() -> None:
    text = STATE.read_text()
    assert set(re.findall(r"^\.Ic \[(\w+)\]", text, re.MULTILINE)) == {*desired.KINDS, "rails", "quarantine"}


def test_the_example_is_fine(tmp_path: Path) -> None:
    example = STATE.read_text().split(".Bd -literal -offset indent\n")[1].split(".Ed")[0]
    shipped = PACKAGING.parent / "states"
    (tmp_path / "state.toml").write_text(example.replace("/usr/share/dom0-reconciler/states", str(shipped)))
    (tmp_path / "interfaces").write_text("auto lo\niface lo inet loopback\n")
    command = [sys.executable, "-m", "reconciler", "check", str(tmp_path / "state.toml")]
    assert subprocess.run(command, cwd=PACKAGING.parent, check=False).returncode == 0


# --- their form ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_pages_are_well_formed(page: Path) -> None:
    result = subprocess.run(
        ["groff", "-ww", "-mandoc", "-Tutf8", "-z", page], capture_output=True, text=True, check=False
    )
    assert result.stderr == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_pages_have_no_warnings(page: Path) -> None:
    result = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], capture_output=True, text=True, check=False)
    assert result.stdout == ""


# --- the catalog ---------------------------------------------------------------------------------------------------


def test_every_message_has_an_entry() -> None:
    text = (PACKAGING / "dom0-reconciler.catalog").read_text()
    ids = re.findall(r"^-- ([0-9a-f]{32})$", text, re.MULTILINE)
    assert len(ids) == len(set(ids))
    assert set(ids) == {kind.message_id for kind in KINDS.values()}
    for entry in text.split("\n-- ")[1:]:
        assert re.search(r"^Subject: \S", entry, re.MULTILINE)
        assert re.search(r"^Defined-By: dom0-reconciler$", entry, re.MULTILINE)


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="journalctl is not installed")
def test_journald_takes_the_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/systemd/catalog"
    folder.mkdir(parents=True)
    shutil.copy(PACKAGING / "dom0-reconciler.catalog", folder)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    update = subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], capture_output=True, check=False)
    listed = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--list-catalog"], capture_output=True, text=True, check=False
    )
    assert update.returncode == 0
    assert len(re.findall(r"^[0-9a-f]{32} dom0-reconciler: ", listed.stdout, re.MULTILINE)) == len(KINDS)


# --- completions ---------------------------------------------------------------------------------------------------


def _completions() -> ModuleType:
    spec = importlib.util.spec_from_file_location("completions", PACKAGING / "completions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["completions"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["bash", "zsh", "fish"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    module, path = _completions(), tmp_path / "completions"
    lines = module.SHELLS[request.param](module.commands(cli._parser()))
    path.write_text("\n".join(lines) + "\n")
    return request.param, path


def test_shells_take_their_completions(made: tuple[str, Path]) -> None:
    shell, path = made
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    result = subprocess.run([shell, "-n", path], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_every_command_and_option_is_completed(made: tuple[str, Path]) -> None:
    _, path = made
    text = path.read_text()
    for command, parser in _parsers().items():
        assert re.search(rf"\b{command}\b", text)
        for option in _options(parser):
            assert option in text or f"-l {option[2:]} " in text or f"-s {option[1:]} " in text


@pytest.mark.skipif(
    not Path("/usr/share/bash-completion/bash_completion").exists(), reason="bash-completion is not installed"
)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["dom0-reconciler", "pl"], "plan"),
        (["dom0-reconciler", "--root", "/", "sta"], "status"),
        (["dom0-reconciler", "log", "--fol"], "--follow"),
    ],
)
def test_bash_offers(tmp_path: Path, line: list[str], offered: str) -> None:
    module, path = _completions(), tmp_path / "completions"
    path.write_text("\n".join(module.bash(module.commands(cli._parser()))) + "\n")
    words = " ".join(line)
    script = f"""
        . /usr/share/bash-completion/bash_completion; . {path}
        COMP_WORDS=({words}) COMP_CWORD={len(line) - 1} COMP_LINE='{words}' COMP_POINT={len(words)}
        _dom0_reconciler; echo "${{COMPREPLY[@]}}"
    """
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [offered]


def _names_here() -> set[str]:
    """What services are called on this machine, by its init scripts and units."""
    suffixes = r"\.(service|socket|timer|path)$"
    units = [one.name for folder in ("/etc", "/usr/lib") for one in Path(folder, "systemd/system").glob("*.*")]
    names = {re.sub(suffixes, "", name) for name in units if re.search(suffixes, name)}
    names |= {one.name for one in Path("/etc/init.d").glob("[!.]*")}
    return {name.partition("@")[0] for name in names}


@pytest.mark.skipif(
    not Path("/usr/share/bash-completion/bash_completion").exists(), reason="bash-completion is not installed"
)
@pytest.mark.parametrize("line", ["approve", "explain", "log --service", "pause 1h"])
def test_bash_offers_services(tmp_path: Path, line: str) -> None:
    module, path = _completions(), tmp_path / "completions"
    path.write_text("\n".join(module.bash(module.commands(cli._parser()))) + "\n")
    words = len(line.split()) + 1
    script = f"""
        . /usr/share/bash-completion/bash_completion; . {path}
        COMP_WORDS=(dom0-reconciler {line} '') COMP_CWORD={words} COMP_LINE='dom0-reconciler {line} '
        COMP_POINT=${{#COMP_LINE}}; _dom0_reconciler; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(result.stdout.split("\n")) - {""} == _names_here()


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_services(tmp_path: Path) -> None:
    module, path = _completions(), tmp_path / "completions"
    path.write_text("\n".join(module.fish(module.commands(cli._parser()))) + "\n")
    script = f"source {path}; complete -C 'dom0-reconciler approve '"
    result = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, check=True)
    assert {one.partition("\t")[0] for one in result.stdout.splitlines()} == _names_here()


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_offers_services(tmp_path: Path) -> None:
    """The function that looks for names; who asks it is told by zsh's own completion system."""
    module, path = _completions(), tmp_path / "completions"
    lines = "\n".join(module.zsh(module.commands(cli._parser())))
    path.write_text(lines.partition("local curcontext")[0])
    script = f"compadd() {{ print -rl -- ${{(P)2}} }}; source {path}; _dom0_reconciler_names"
    result = subprocess.run(["zsh", "-f", "-c", script], capture_output=True, text=True, check=True)
    assert set(result.stdout.split("\n")) - {""} == _names_here()
    assert "approve) _arguments" in lines
    assert re.search(r"approve\) _arguments .*:service:_dom0_reconciler_names", lines)

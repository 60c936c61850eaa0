"""Completions for bash, zsh and fish, made from the parser itself: ``python3 packaging/completions.py bash``.

What the parser learns they know with the next build; nothing is written twice.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from reconciler import cli

NAME = "dom0-reconciler"


@dataclass(frozen=True)
class Option:
    """One option: its spellings, what its value is ("" for none), and its help."""

    names: tuple[str, ...]
    value: str
    help: str


@dataclass(frozen=True)
class Command:
    """One command; the unnamed one holds the options that stand before any."""

    name: str
    help: str
    options: tuple[Option, ...]
    arguments: tuple[str, ...]  # what its positional arguments are called: FILE, NAME ...


def commands(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    """The parser as values: first the options before a command, then each command."""
    found = [_command("", "", parser)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            found += [_command(name, helps.get(name, ""), one) for name, one in action.choices.items()]
    return tuple(found)


def _command(name: str, text: str, parser: argparse.ArgumentParser) -> Command:
    options = tuple(
        Option(tuple(action.option_strings), _value(action), (action.help or "").replace("\n", " "))
        for action in parser._actions
        if action.option_strings
    )
    positional = [a for a in parser._actions if not a.option_strings and not isinstance(a, argparse._SubParsersAction)]
    return Command(name, text, options, tuple(_value(action) for action in positional))


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    return str(action.metavar or action.dest).upper()


FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system")
SUFFIXES = ("service", "socket", "timer", "path")
"""The names that a host's services go by are those of its init scripts and units: read by the shell, at once."""


def _takes_name(command: Command) -> bool:
    return "NAME" in command.arguments


# --- bash ------------------------------------------------------------------------------------------------------


def bash(every: Sequence[Command]) -> Iterator[str]:
    """A function for bash-completion, which loads it by the command's name."""
    top, *rest = every
    yield f"# bash completion for {NAME}(8)"
    yield from _bash_names()
    yield "_dom0_reconciler() {"
    yield "    local cur prev words cword command= word i"
    yield "    _init_completion || return"
    yield "    case $prev in"
    names = 'COMPREPLY=($(compgen -W "$(_dom0_reconciler_names)" -- "$cur"))'
    for value, line in (("FILE", "_filedir"), ("DIR", "_filedir -d"), ("NAME", names)):
        if found := _spellings(every, lambda option, value=value: option.value == value):  # type: ignore[misc]
            yield f"        {'|'.join(found)}) {line}; return ;;"
    if found := _spellings(every, lambda option: option.value not in ("", "FILE", "DIR", "NAME")):
        yield f"        {'|'.join(found)}) return ;;"
    yield "    esac"
    yield "    for ((i = 1; i < cword; i++)); do"
    yield "        word=${words[i]}"
    yield f"        case $word in {'|'.join(_spellings([top], lambda option: bool(option.value)))}) ((i++)) ;; -*) ;;"
    yield "            *) command=$word; break ;; esac"
    yield "    done"
    yield "    case $command in"
    for command in every:
        words = " ".join(name for option in command.options for name in option.names)
        yield f'        "{command.name}")'
        if not command.name:
            words += " " + " ".join(one.name for one in rest)
        elif "FILE" in command.arguments:
            yield "            if [[ $cur != -* ]]; then _filedir; return; fi"
        elif _takes_name(command):
            yield f"            if [[ $cur != -* ]]; then {names}; return; fi"
        yield f'            COMPREPLY=($(compgen -W "{words}" -- "$cur")) ;;'
    yield "    esac"
    yield "} &&"
    yield f"    complete -F _dom0_reconciler {NAME}"


def _bash_names() -> Iterator[str]:
    units = " ".join(f"{folder}/*.{{{','.join(SUFFIXES)}}}" for folder in FOLDERS)
    yield "_dom0_reconciler_names() {"
    yield "    local one"
    yield f"    for one in /etc/init.d/* {units}; do"
    yield "        [[ -e $one || -L $one ]] || continue"
    yield "        one=${one##*/}"
    yield f"        case $one in {'|'.join(f'*.{suffix}' for suffix in SUFFIXES)}) one=${{one%.*}} ;; esac"
    yield '        echo "${one%%@*}"'
    yield "    done | sort -u"
    yield "}"


def _spellings(every: Sequence[Command], wanted: Callable[[Option], bool]) -> list[str]:
    found = (name for command in every for option in command.options if wanted(option) for name in option.names)
    return list(dict.fromkeys(found))


# --- zsh -------------------------------------------------------------------------------------------------------


def zsh(every: Sequence[Command]) -> Iterator[str]:
    """A function for the completion system, found by its name in fpath."""
    top, *rest = every
    yield f"#compdef {NAME}"
    yield ""
    yield from _zsh_names()
    yield "local curcontext=$curcontext state line"
    yield "local -a commands"
    yield "commands=("
    for command in rest:
        yield f"    {_quoted(f'{command.name}:{command.help}')}"
    yield ")"
    yield "_arguments -C \\"
    for option in top.options:
        yield f"    {_zsh_option(option)} \\"
    yield "    '1:command:->command' \\"
    yield "    '*::argument:->arguments' && return"
    yield "case $state in"
    yield "    command) _describe -t commands command commands ;;"
    yield "    arguments)"
    yield "        case $words[1] in"
    for command in rest:
        parts = [_zsh_option(option) for option in command.options]
        parts += ["'*:file:_files'"] if "FILE" in command.arguments else []
        parts += ["'*:service:_dom0_reconciler_names'"] if _takes_name(command) else []
        yield f"            {command.name}) _arguments {' '.join(parts)} ;;"
    yield "        esac ;;"
    yield "esac"


def _zsh_names() -> Iterator[str]:
    units = " ".join(f"{folder}/*.({'|'.join(SUFFIXES)})(N:t:r)" for folder in FOLDERS)
    yield "(( $+functions[_dom0_reconciler_names] )) || _dom0_reconciler_names() {"
    yield "    local -aU names"
    yield f"    names=(/etc/init.d/*(N:t) {units})"
    yield "    names=(${names%%@*})"
    yield "    compadd -a names"
    yield "}"
    yield ""


def _zsh_option(option: Option) -> str:
    text = option.help.replace("[", "(").replace("]", ")").replace(":", " -")
    action = {"FILE": "_files", "DIR": "_files -/", "NAME": "_dom0_reconciler_names"}.get(option.value, "")
    value = f":{option.value.lower()}:{action}" if option.value else ""
    if len(option.names) == 1:
        return _quoted(f"{option.names[0]}[{text}]{value}")
    names = " ".join(option.names)
    return f"{_quoted(f'({names})')}{{{','.join(option.names)}}}{_quoted(f'[{text}]{value}')}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# --- fish ------------------------------------------------------------------------------------------------------


def fish(every: Sequence[Command]) -> Iterator[str]:
    """One line for each thing that can stand in a place."""
    top, *rest = every
    yield from _fish_names()
    yield f"complete -c {NAME} -f"
    for option in top.options:
        yield f"complete -c {NAME} -n __fish_use_subcommand {_fish_option(option)}"
    for command in rest:
        yield f"complete -c {NAME} -n __fish_use_subcommand -a {command.name} -d {_quoted_fish(command.help)}"
    for command in rest:
        where = f"-n '__fish_seen_subcommand_from {command.name}'"
        for option in command.options:
            yield f"complete -c {NAME} {where} {_fish_option(option)}"
        if "FILE" in command.arguments:
            yield f"complete -c {NAME} {where} -F"
        elif _takes_name(command):
            yield f"complete -c {NAME} {where} -a '(__dom0_reconciler_names)'"


def _fish_names() -> Iterator[str]:
    units = " ".join(f"{folder}/*.{suffix}" for folder in FOLDERS for suffix in SUFFIXES)
    yield "function __dom0_reconciler_names"
    yield f"    set -l found /etc/init.d/* {units}"
    yield f"    string replace -r '^.*/' '' -- $found | string replace -r '\\.({'|'.join(SUFFIXES)})$' '' |"
    yield "        string replace -r '@.*$' '' | sort -u"
    yield "end"


def _fish_option(option: Option) -> str:
    parts = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.value:
        parts.append(
            {"FILE": "-r -F", "DIR": "-x -a '(__fish_complete_directories)'", "NAME": NAMED}.get(option.value, "-x")
        )
    return " ".join([*parts, f"-d {_quoted_fish(option.help)}"])


NAMED = "-x -a '(__dom0_reconciler_names)'"


def _quoted_fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def main() -> None:
    """Print the completions for the shell that is named."""
    make = SHELLS[sys.argv[1]]
    sys.stdout.write("\n".join(make(commands(cli._parser()))) + "\n")


if __name__ == "__main__":
    main()

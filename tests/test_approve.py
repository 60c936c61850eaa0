"""``approve``, ``revoke``, ``enforce``, ``observe``: one thing more is said, and all else of the file stays."""

from __future__ import annotations

import argparse
import errno
import json
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import standing, statechange
from reconciler.cli import main
from reconciler.commands import enforce, observe
from reconciler.editing import change_list, set_mode
from reconciler.errors import JournalError, ReconcilerError, Stale
from reconciler.holds import BUDGET
from reconciler.host import statusfile
from reconciler.session import Session
from reconciler.statechange import judge, make
from reconciler.storage import small
from tests.trees import Tree, wait_for

STATE = """\
# Who may run here.
version = 1  # the only one
mode = "observe"   # for now

[services]
approved = [
    "ssh",      # the way in
    # the clock
    "ntp",
]
stop = true

[inetd]
approved = []
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path, STATE)
    for script in ("ssh", "exim4", "portmap"):
        tree.script(script)
        tree.link(f"rc2.d/S20{script}")
    return tree


def text(tree: Tree) -> str:
    return (tree.path / "etc/dom0-reconciler/state.toml").read_text()


def approved(tree: Tree) -> list[object]:
    found: list[object] = tomllib.loads(text(tree))["services"]["approved"]
    return found


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


# --- the text ---

words = st.text("abc-*\"'\\ #[]\n", min_size=1, max_size=6)
layouts = st.sampled_from(["[{}]", "[\n    {},  # one\n]", "[\n  # none\n  {}\n]", "[{}] # end"])


@given(
    st.lists(words, min_size=1, max_size=3),
    words,
    layouts,
    st.sampled_from(["[services]\napproved = ", "services.approved = "]),
)
def test_a_word_more_and_back_is_what_it_was(items: list[str], word: str, layout: str, key: str) -> None:
    listed = ", ".join(json.dumps(item) for item in items)
    before = f"# top\nversion = 1\n{key}{layout.format(listed)}\n# end\n"
    more = change_list(before, "services", put=[word])
    assert tomllib.loads(more)["services"]["approved"] == [*items, word]
    assert sorted(comments(more)) == sorted(comments(before)) or "#" in word + "".join(items)
    less = change_list(more, "services", take=[word])
    assert tomllib.loads(less)["services"]["approved"] == [item for item in items if item != word]


@given(
    st.sampled_from(
        [STATE, "version = 1\n", "version = 1\n[services]\napproved = []\n", "version=1\nmode='observe'#x\n"]
    )
)
def test_the_mode_and_nothing_else(before: str) -> None:
    after = set_mode(before, "enforce")
    assert tomllib.loads(after) == {**tomllib.loads(before), "mode": "enforce"}
    assert comments(after) == comments(before)
    assert set_mode(after, "enforce") == after


def test_what_is_no_table_is_not_edited() -> None:
    with pytest.raises(ReconcilerError):
        change_list("services = 1\n", "services", put=["x"])


# --- approve and revoke ---


def test_approve_says_what_it_changes(tree: Tree) -> None:
    (tree.path / "etc/dom0-reconciler/state.toml").chmod(0o640)
    result = tree.command("approve", "exim4")
    assert result.returncode == 0, result.stderr
    assert "- unlink /etc/rc2.d/S20exim4" in result.stdout
    assert approved(tree) == ["ssh", "ntp", "exim4"]
    assert comments(text(tree)) == comments(STATE)
    assert (tree.path / "etc/dom0-reconciler/state.toml").stat().st_mode & 0o777 == 0o640
    assert [step["service"] for step in tree.plan()["steps"]] == ["portmap"]
    assert tree.records()[-1]["record"] == "approve"
    assert tree.records()[-1]["detail"].endswith("state.toml: exim4")


def test_an_empty_name_is_a_wrong_usage_told_as_a_sentence(tree: Tree) -> None:
    result = tree.command("approve", "")
    assert (result.returncode, text(tree)) == (64, STATE)
    assert result.stderr == "dom0-reconciler: an empty NAME names nothing (see dom0-reconciler --help)\n"


def test_what_somebody_edited_meanwhile_is_not_written_over_nor_recorded(tree: Tree) -> None:
    session = Session(str(tree.path), None)
    change = judge(session, lambda text: change_list(text, "services", put=["exim4"]))
    tree.state(STATE + "# mine\n")
    with pytest.raises(Stale, match="nothing was written"):
        make(session, change, "approve", "exim4")
    assert (text(tree), tree.records()) == (STATE + "# mine\n", [])


def test_a_change_that_could_not_be_written_is_recorded_as_unmade(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(statechange, "replace_file", refuse)
    assert main(["--root", str(tree.path), "approve", "exim4"]) == 1
    intent, outcome = tree.records()
    assert (intent["record"], outcome["record"]) == ("approve", "unmade")
    assert outcome["cause"] == intent["cause"]
    assert outcome["detail"] == intent["detail"] + ": Read-only file system"


def test_revoke_is_the_way_back(tree: Tree) -> None:
    tree.command("approve", "exim4")
    result = tree.command("revoke", "exim4", "--json")
    assert json.loads(result.stdout)["new"][0]["target"] == "/etc/rc2.d/S20exim4"
    assert tomllib.loads(text(tree)) == tomllib.loads(STATE)


def test_any_name_of_the_service_does(tree: Tree) -> None:
    assert "approved already, by 'ssh'" in tree.command("approve", "sshd").stderr
    assert tree.command("approve", "rpcbind").returncode == 0
    assert tree.command("revoke", "portmap").returncode == 0
    assert approved(tree) == ["ssh", "ntp"]


def test_a_slip_is_refused_and_a_stranger_is_doubted(tree: Tree) -> None:
    result = tree.command("approve", "exmi4")
    assert (result.returncode, text(tree)) == (1, STATE)
    assert "'exmi4', did you mean 'exim4'?" in result.stderr
    assert tree.command("approve", "zzzzzz").returncode == 0
    assert approved(tree)[-1] == "zzzzzz"


def test_what_an_include_approves_is_taken_out_here(tree: Tree) -> None:
    included = 'version = 1\n[services]\napproved = ["exim4", "ssh"]\n'
    tree.write("etc/dom0-reconciler/more.toml", included)
    tree.state('version = 1\ninclude = ["more.toml"]\n[services]\napproved = ["exim4"]\n')
    assert tree.command("revoke", "exim4").returncode == 0
    assert approved(tree) == ["!exim4"]
    assert "S20exim4" in str(tree.plan()["steps"])
    assert tree.command("approve", "exim4").returncode == 0
    assert approved(tree) == []
    assert (tree.path / "etc/dom0-reconciler/more.toml").read_text() == included


def test_what_a_drop_in_says_is_to_be_edited_there(tree: Tree) -> None:
    tree.write("etc/dom0-reconciler/state.d/x.toml", '[services]\napproved = ["exim4"]\n')
    before = text(tree)
    result = tree.command("revoke", "exim4")
    assert (result.returncode, text(tree)) == (1, before)
    assert "state.d/x.toml" in result.stderr


def test_only_the_file_that_says_otherwise_is_named(tree: Tree) -> None:
    """Of all that the state is read from: an include, which the main file overrules, and other drop-ins."""
    folder = tree.path / "etc/dom0-reconciler"
    tree.write("etc/dom0-reconciler/more.toml", 'version = 1\nmode = "observe"\n[services]\napproved = ["cron"]\n')
    tree.state('include = ["more.toml"]\n' + STATE)
    tree.write("etc/dom0-reconciler/state.d/1.toml", '[services]\napproved = ["exim4"]\n')
    tree.write("etc/dom0-reconciler/state.d/2.toml", 'mode = "observe"\n')
    assert tree.command("revoke", "exim4").stderr.endswith(f"edit it there: {folder}/state.d/1.toml\n")
    assert tree.command("enforce").stderr.endswith(f"edit it there: {folder}/state.d/2.toml\n")


def test_a_glob_is_not_guessed_at(tree: Tree) -> None:
    tree.state('version = 1\n[services]\napproved = ["ex*"]\n')
    result = tree.command("revoke", "exim4")
    assert (result.returncode, "'ex*'" in result.stderr) == (1, True)
    assert tree.command("revoke", "ex*").returncode == 0
    assert approved(tree) == []


def test_lines_of_inetd_have_a_table_of_their_own(tree: Tree) -> None:
    tree.write("etc/inetd.conf", "ident stream tcp nowait nobody /usr/sbin/identd identd\n")
    assert tree.command("approve", "ident/tcp").returncode == 0
    assert tomllib.loads(text(tree))["inetd"]["approved"] == ["ident/tcp"]
    result = tree.command("approve", "tcp/22")
    assert (result.returncode, "no [listeners]" in result.stderr) == (1, True)
    assert tree.command("approve", "../x").returncode == 64


LOCAL = '{ port = "tcp/25", address = "127.0.0.1" }'


@pytest.mark.parametrize("narrow", [LOCAL, LOCAL.replace("address", "process").replace("127.0.0.1", "exim4")])
def test_a_narrower_rule_does_not_approve_the_wider_one(tree: Tree, narrow: str) -> None:
    tree.write("etc/services", "smtp 25/tcp mail\n")
    tree.state(f"version = 1\n[listeners]\napproved = [{narrow}]\n")
    before = tomllib.loads(text(tree))["listeners"]["approved"]
    assert tree.command("approve", "tcp/25").returncode == 0
    assert tomllib.loads(text(tree))["listeners"]["approved"] == [*before, "tcp/25"]
    assert "approved already, by 'tcp/smtp'" in tree.command("approve", "tcp/smtp").stderr
    assert tree.command("revoke", "tcp/25").returncode == 0
    assert tomllib.loads(text(tree))["listeners"]["approved"] == [*before, "!tcp/25"]
    assert tree.command("approve", "tcp/25").returncode == 0
    assert tomllib.loads(text(tree))["listeners"]["approved"] == [*before, "tcp/25"]


@pytest.mark.parametrize(("rule", "name"), [("tcp/20-30", "tcp/25"), ("unix/run/*.sock", "unix/run/x.sock")])
def test_a_range_is_named_and_not_guessed_at(tree: Tree, rule: str, name: str) -> None:
    tree.state(f'version = 1\n[listeners]\napproved = ["{rule}"]\n')
    before = text(tree)
    result = tree.command("revoke", name)
    assert (result.returncode, text(tree)) == (1, before)
    assert f"{name} is approved by '{rule}'" in result.stderr
    assert f"{name} is approved already, by '{rule}'" in tree.command("approve", name).stderr
    assert tree.command("revoke", rule).returncode == 0
    assert tomllib.loads(text(tree))["listeners"]["approved"] == []


@pytest.mark.parametrize("command", ["approve", "revoke"])
def test_no_services_table_is_made_by_the_way(tree: Tree, command: str) -> None:
    """It would have everything judged that its one entry does not name."""
    state = 'version = 1\nmode = "enforce"\n[inetd]\napproved = ["ident/tcp"]\n'
    tree.state(state)
    result = tree.command(command, "exim4")
    assert (result.returncode, text(tree)) == (1, state)
    assert "the state has no [services]: nothing there is judged" in result.stderr


def test_a_file_through_a_link_is_edited_where_it_lies(tree: Tree) -> None:
    file = tree.path / "etc/dom0-reconciler/state.toml"
    real = file.rename(file.with_name("real.toml"))
    file.symlink_to("real.toml")
    tree.command("approve", "exim4")
    assert file.is_symlink()
    assert "exim4" in real.read_text()


@pytest.mark.parametrize("command", [("approve", "exim4"), ("revoke", "ssh"), ("enforce",), ("observe",)])
def test_without_tomlkit_one_line_says_how_to_get_it(
    tree: Tree, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    folder = tmp_path_factory.mktemp("without")
    (folder / "tomlkit.py").write_text("raise ModuleNotFoundError(\"No module named 'tomlkit'\", name='tomlkit')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    result = tree.command(*command)
    assert (result.returncode, len(result.stderr.splitlines()), text(tree)) == (1, 1, STATE)
    assert "apt install python3-tomlkit" in result.stderr
    assert tree.command("plan").returncode == 2


# --- the mode ---


def test_enforce_shows_the_plan_and_switches(tree: Tree) -> None:
    result = tree.command("enforce")
    assert result.returncode == 0, result.stderr
    assert "unlink /etc/rc2.d/S20exim4" in result.stdout
    assert "mode observe -> enforce" in result.stdout
    assert 'mode = "enforce"   # for now' in text(tree)
    assert tree.records()[-1]["record"] == "mode"
    assert tree.command("observe").returncode == 0
    assert text(tree) == STATE


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_mode_that_is_in_force_is_not_written_again(tree: Tree, mode: str) -> None:
    tree.command(mode)
    before, records = text(tree), tree.records()
    result = tree.command(mode)
    assert (result.returncode, text(tree), tree.records()) == (0, before, records)
    assert f"mode is {mode} already" in result.stdout
    assert "written" not in result.stdout


def test_what_the_budget_holds_may_be_ordered_in_enforce(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """The held step itself says: if it is meant so, "dom0-reconciler enforce"."""
    tree.command("enforce")
    options = argparse.Namespace(json=False)
    for held, lifted in (("paused", 0), (f"{BUDGET}too much", 1)):
        overrides = tree.path / "var/lib/dom0-reconciler/overrides.json"
        overrides.write_text(overrides.read_text().replace('"enforce"', '"before"'))
        monkeypatch.setattr(statusfile, "read", lambda _, held=held: {"held": [{"held": held}]})
        assert enforce.run(Session(str(tree.path), None), options) == 0
        assert overrides.read_text().count('"enforce"') == lifted
    assert [record["record"] for record in tree.records()].count("enforce") == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPERM])
def test_enforce_on_a_full_disk_is_in_force_within_the_budget(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise JournalError("overrides.json: refused") from OSError(number, "refused")

    monkeypatch.setattr(small, "replace", refuse)
    session, options = Session(str(tree.path), None), argparse.Namespace(json=False)
    if number == errno.EPERM:
        with pytest.raises(JournalError, match=r"overrides.json: refused"):
            enforce.run(session, options)
        assert text(tree) == STATE
        return
    assert enforce.run(session, options) == 0
    assert 'mode = "enforce"' in text(tree)
    assert "the budget stays in force: overrides.json: refused" in capsys.readouterr().err


def test_a_pause_that_cannot_be_stored_is_said_not_to_be_in_force(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise JournalError("overrides.json: refused")

    monkeypatch.setattr(small, "replace", refuse)
    with pytest.raises(JournalError, match="refused: what was ordered is not in force"):
        standing.order(Session(str(tree.path), None), lambda found, _: found, "pause", "a test")


@pytest.mark.parametrize("command", [enforce, observe])
def test_who_may_not_is_told_before_the_plan(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: ModuleType
) -> None:
    monkeypatch.setattr(Session, "must_be_able", _refuse)
    with pytest.raises(ReconcilerError, match="needs root"):
        command.run(Session(str(tree.path), None), argparse.Namespace(json=False))
    assert (capsys.readouterr().out, text(tree)) == ("", STATE)


def _refuse(_: Session) -> None:
    raise ReconcilerError("correcting this host needs root; try sudo")


def test_enforce_refuses_what_locks_out(tree: Tree) -> None:
    tree.state("version = 1\n[services]\napproved = []\n")
    before = text(tree)
    result = tree.command("enforce")
    assert (result.returncode, text(tree)) == (1, before)
    assert "lock you out" in result.stderr
    tree.state('version = 1\nmode = "enforce"\n[services]\napproved = []\n')
    assert tree.command("approve", "ssh").returncode == 0


def test_a_mode_that_a_drop_in_sets_is_said(tree: Tree) -> None:
    tree.write("etc/dom0-reconciler/state.d/x.toml", 'mode = "observe"\n')
    result = tree.command("enforce")
    assert (result.returncode, text(tree)) == (1, STATE)
    assert "state.d/x.toml" in result.stderr


def test_the_daemon_follows_at_once(tree: Tree) -> None:
    with tree.daemon():
        assert tree.names("rc2.d") == ["S20exim4", "S20portmap", "S20ssh"]
        tree.command("approve", "portmap")
        assert "the daemon does so from now on" in tree.command("enforce").stdout
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4", "S20portmap", "S20ssh"], "it corrects")

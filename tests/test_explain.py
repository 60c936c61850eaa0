"""``explain``: of one name everything that is known, and who brought it."""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from reconciler.commands import explain as command
from reconciler.desired import DesiredState, ListenerRule, Listeners, Services
from reconciler.errors import JournalError, ReconcilerError
from reconciler.explanation import explain, files_of, look_at, subject_of
from reconciler.journal import Journal
from reconciler.model import Listener, Plan, Record
from reconciler.observer import Observer
from reconciler.origins import Origin, Texts, origin
from reconciler.render import Printer, explanation_text
from reconciler.session import Session
from tests.scenes import DATA, INIT, Scene, process
from tests.trees import Tree

HISTORY = """
Start-Date: 2026-01-02  03:04:05
Commandline: apt-get install mailutils
Requested-By: admin (1000)
Install: exim4-base:amd64 (4.96-15, automatic), exim4-daemon-light:amd64 (4.96-15, automatic), mailutils:amd64 (1:3-4)
End-Date: 2026-01-02  03:04:09

Start-Date: 2026-02-02  03:04:05
Commandline: apt-get upgrade
Upgrade: exim4-base:amd64 (4.96-15, 4.96-16)
End-Date: 2026-02-02  03:04:09
"""
STATUS = """Package: mailutils
Depends: libc6 (>= 2.34)
Recommends: exim4-daemon-light | default-mta
 | mail-transport-agent

Package: exim4-daemon-light
Depends: exim4-base (>= 4.96)
"""
DPKG = (
    "2026-03-01 10:00:00 install rpcbind:amd64 <none> 1.2.6-6\n2026-03-01 10:00:01 status installed rpcbind:amd64 1\n"
)
EXTENDED = "Package: exim4-daemon-light\nArchitecture: amd64\nAuto-Installed: 1\n"


def test_apt_says_which_command_and_what_wanted_it() -> None:
    found = origin("exim4-daemon-light", Texts(HISTORY, "", EXTENDED, STATUS))
    assert found == Origin(
        "exim4-daemon-light",
        "2026-01-02 03:04:05",
        "apt-get install mailutils",
        "admin (1000)",
        automatic=True,
        because=("mailutils recommends it",),
    )
    assert origin("exim4-base", Texts(HISTORY, status=STATUS)).because == ("exim4-daemon-light depends on it",)
    assert origin("mailutils", Texts(HISTORY, "", EXTENDED, STATUS)).automatic is False


def test_without_apt_dpkg_says_when() -> None:
    assert origin("rpcbind", Texts(HISTORY, DPKG)) == Origin("rpcbind", "2026-03-01 10:00:00")
    assert origin("nothing", Texts()) == Origin("nothing")


def test_a_long_command_is_shown_by_its_beginning(tree: Tree) -> None:
    """Whoever sets up a host names dozens of packages at once; a program may have all of it."""
    begin = "apt-get install --yes -o Dpkg::Options::=--force-confold mailutils bell\x07"
    whole = " ".join((begin, *(f"package-{number}" for number in range(100))))
    tree.write("var/log/apt/history.log", HISTORY.replace("apt-get install mailutils", whole))
    text = tree.command("explain", "exim4").stdout
    [line] = [line for line in text.splitlines() if line.startswith("package ")]
    shown = line.split('"')[1]
    assert shown.startswith(begin.replace("\x07", "\\x07 "))
    assert shown.endswith("...")
    assert len(shown) == 100
    assert line.endswith('" by admin (1000), automatic: exim4-daemon-light depends on it')
    [told] = explained(tree, "exim4")["origins"]
    assert told["command"] == whole.replace("\x07", "\\x07")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.script("exim4")
    tree.link("rc2.d/S20exim4")
    tree.link("rc2.d/S20ssh")
    tree.write("var/lib/dpkg/info/exim4-base.list", "/.\n/etc/init.d/exim4\n")
    tree.write("var/lib/dpkg/status", STATUS)
    tree.write("var/log/apt/history.log.1.gz", gzip.compress(HISTORY.encode()))
    return tree


def explained(tree: Tree, name: str) -> dict[str, Any]:
    result = tree.command("explain", name, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(
    "name", ["exim4", "exim", "rclinks:rc2.d/S20exim4", "/etc/rc2.d/S20exim4", "/etc/init.d/exim4"]
)
def test_what_is_against_the_state_by_every_way_to_name_it(tree: Tree, name: str) -> None:
    found = explained(tree, name)
    assert "exim4-base" in found["names"]
    assert found["approved"] is None
    assert [f["ref"] for f in found["findings"]] == ["rclinks:rc2.d/S20exim4"]
    assert [s["action"] for s in found["steps"]] == ["unlink"]
    assert found["origins"][0]["command"] == "apt-get install mailutils"
    assert "dom0-reconciler approve" in found["back"][0]


def test_what_is_approved_says_by_which_word(tree: Tree) -> None:
    found = explained(tree, "sshd")
    assert (found["approved"], found["findings"]) == ("ssh", [])
    assert found["rails"] == ["never stopped: it is the way in", "never unlinked: it is the way in"]
    assert "rclinks:rc2.d/S20ssh" in found["seen"]


def test_what_was_done_and_the_way_back(tree: Tree) -> None:
    tree.command("apply")
    id_ = tree.records()[-1]["id"]
    for name in ("exim4", id_, "/etc/rc2.d/S20exim4"):
        found = explained(tree, name)
        assert [r["id"] for r in found["records"]] == [id_]
        assert found["back"][:2] == [f"dom0-reconciler undo {id_}", "dom0-reconciler approve exim4"]
    assert explained(tree, "exim4")["back"][-1] == "update-rc.d exim4 enable"
    text = tree.command("explain", "exim4").stdout
    assert "did " in text
    assert 'exim4-base, installed 2026-01-02 03:04:05, "apt-get install mailutils" by admin (1000)' in text


def test_an_inetd_line_by_its_port(tree: Tree) -> None:
    tree.state("version = 1\n[inetd]\napproved = []\n")
    tree.write("etc/inetd.conf", "ident stream tcp nowait nobody /usr/sbin/identd identd\n")
    for name in ("tcp/ident", "ident/tcp"):
        found = explained(tree, name)
        assert [f["kind"] for f in found["findings"]] == ["inetd"]
    tree.state('version = 1\n[inetd]\napproved = ["ident/tcp"]\n')
    found = explained(tree, "ident/tcp")
    assert ([f["kind"] for f in found["findings"]], found["steps"]) == ([], [])
    assert found["seen"] == ["inetd:inetd.conf/ident/tcp"]


def test_what_is_gone_is_known_from_the_journal_by_its_ref(tree: Tree) -> None:
    tree.link("rc3.d/S44evil")
    tree.command("apply")
    (tree.path / "etc/rc3.d/S44evil").unlink(missing_ok=True)
    found = explained(tree, "rclinks:rc3.d/S44evil")
    assert [record["target"] for record in found["records"]] == ["/etc/rc3.d/S44evil"]
    assert found["back"][:2] == [f"dom0-reconciler undo {found['records'][0]['id']}", "dom0-reconciler approve evil"]
    assert tree.command("explain", "rclinks:rc4.d/S44evil").returncode == 1


def test_a_line_of_inetd_that_was_taken_out_is_known_from_the_quarantine(tree: Tree) -> None:
    tree.state('version = 1\n[inetd]\napproved = ["time/tcp"]\n')
    line = "{} stream tcp nowait nobody /usr/sbin/in.{} {}\n"
    tree.write("etc/inetd.conf", "".join(line.format(*(name,) * 3) for name in ("ident", "finger", "time")))
    tree.command("apply")
    undo = f"dom0-reconciler undo {tree.records()[-1]['id']}"
    for name in ("inetd:inetd.conf/finger/tcp", "finger/tcp", "/etc/inetd.conf"):
        found = explained(tree, name)
        assert (found["service"], len(found["records"])) == ("", 1)
        assert found["back"] == [undo, "dom0-reconciler approve ident/tcp finger/tcp"]
    assert tree.command("explain", "inetd:inetd.conf/telnet/tcp").returncode == 1


def test_an_unread_journal_is_no_proof_that_nothing_is_known(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Journal) -> Iterator[Record]:
        raise JournalError("only root reads it")

    monkeypatch.setattr(Journal, "read", refuse)
    options = argparse.Namespace(subject="rclinks:rc4.d/S44evil", json=False)
    with pytest.raises(ReconcilerError, match=r"\nwhat was done is not known: only root reads it"):
        command.run(Session(str(tree.path), None), options)


def test_an_unknown_name_is_1_with_the_nearest(tree: Tree) -> None:
    result = tree.command("explain", "exmi4")
    assert (result.returncode, result.stdout) == (1, "")
    assert "'exmi4' means nothing here, did you mean 'exim4'?" in result.stderr
    assert 'a ref of "plan" or an id of "log" would' in tree.command("explain", "/srv/nothing").stderr


# --- a port ---


@pytest.mark.parametrize("rule", [ListenerRule("tcp", (20, 30)), ListenerRule("tcp", (25, 25), "127.0.0.1")])
@pytest.mark.parametrize("name", ["tcp/25", "listeners:tcp/127.0.0.1:25"])
def test_an_approved_port_tells_the_rule_the_process_and_its_program(rule: ListenerRule, name: str) -> None:
    exim = process(812, "/usr/sbin/exim4")
    scene = Scene(running=(INIT, exim), sockets=[Listener("tcp", "127.0.0.1", 25, owners=(exim,))])
    observer = Observer(scene, DATA, DesiredState(services=Services(("ssh",)), listeners=Listeners((rule,))))
    look_at(name, observer)
    context, plan = observer.context(), Plan()
    about = subject_of(name, context, plan, ())
    found = explain(name, about, context, plan, ())
    assert about == "exim4"
    assert [each.approved for each in found.listeners] == [(", ".join((rule.word, *rule.narrowed)),)]
    assert files_of(found.service, found.seen, context) == ("/usr/sbin/exim4",)
    shown = StringIO()
    explanation_text(found, Printer(shown))
    [line] = [line for line in shown.getvalue().splitlines() if line.startswith("listener ")]
    assert "exim4 (process 812, /usr/sbin/exim4) listens on 127.0.0.1; approved: listeners.approved has tcp/2" in line


# --- the way back ---


def done(id_: str, action: str, target: str = "exim4", service: str = "exim4", cause: str = "") -> Record:
    pass_id = id_.rpartition(".")[0]
    return Record(id_, 0.0, pass_id, "outcome", action, "rclinks", service, target, "done", cause)


def way_back(*records: Record, name: str = "exim4") -> list[str]:
    context = Scene().context(DesiredState())
    service = name if name == "exim4" else ""
    return [line.removeprefix("dom0-reconciler ") for line in explain(name, service, context, Plan(), records).back]


LINKS = (done("P.1", "unlink", "/etc/rc2.d/S20exim4"), done("P.2", "unlink", "/etc/rc3.d/S20exim4"))
STOP = done("P.3", "stop-service")
OTHER = done("P.4", "unlink", "/etc/rc2.d/S20cron", "cron")


def test_a_stop_is_undone_with_what_was_taken_away() -> None:
    assert way_back(*LINKS, STOP) == ["undo --pass P --start", "approve exim4"]
    assert way_back(*LINKS[:1], STOP) == ["undo P.1 --start", "approve exim4"]
    assert way_back(*LINKS) == ["undo --pass P", "approve exim4"]
    assert way_back(*LINKS, done("Q.1", "stop-service")) == ["undo --pass P --start", "approve exim4"]
    assert way_back(STOP, done("Q.1", "unlink", "/etc/rc2.d/S20exim4")) == ["undo Q.1", "approve exim4"]
    assert way_back(STOP) == ["undo P.3 --start", "approve exim4"]


def test_nothing_of_others_is_undone() -> None:
    assert way_back(*LINKS, STOP, OTHER) == ["undo P.1", "undo P.2 --start", "approve exim4"]


def test_what_was_undone_is_not_undone_again() -> None:
    undos = [done(f"Q.{n}", "link", record.target, cause="undo of P by root") for n, record in enumerate(LINKS)]
    assert way_back(*LINKS, STOP, *undos) == ["undo P.3 --start", "approve exim4"]
    assert way_back(*LINKS, STOP, *undos, done("Q.3", "start-service", cause="undo of P by root")) == []
    again = done("R.1", "unlink", "/etc/rc2.d/S20exim4")
    assert way_back(*LINKS, *undos, again) == ["undo R.1", "approve exim4"]


def test_an_undone_file_offers_no_undo_of_the_undo() -> None:
    path = "/etc/network/interfaces"
    written = done("P.1", "write-file", path, "")
    assert way_back(written, name=path) == ["undo P.1"]
    undo = done("Q.1", "write-file", path, "", "undo of P.1 by root")
    assert [way_back(written, undo, name=name) for name in (path, "P.1")] == [[], []]

"""``undo``: what was removed comes back byte for byte, and the daemon leaves it alone for a while."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.cli import main
from reconciler.errors import ActionFailed
from reconciler.host.hands import RealHands
from reconciler.text import escape
from tests.trees import Tree, wait_for

STATE = """\
version = 1
mode = "enforce"
interval = "1h"
[services]
approved = ["ssh"]
[inetd]
approved = ["time/tcp"]
[network]
interfaces = "interfaces"
interfaces_d = {}
"""
CANONICAL = "auto lo\niface lo inet loopback\n"
IDENT = "ident\tstream\ttcp\tnowait\tnobody\t/usr/sbin/identd\tidentd\n"
TIME = "time\tstream\ttcp\tnowait\troot\tinternal\n"


def a_tree(path: Path) -> Tree:
    tree = Tree(path, STATE)
    tree.write("etc/dom0-reconciler/interfaces", CANONICAL)
    tree.write("etc/network/interfaces", CANONICAL)
    (path / "etc/network/interfaces.d").mkdir()
    return tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return a_tree(tmp_path)


def everything(tree: Tree) -> dict[str, tuple[object, ...]]:
    """Every name below /etc with all that undo promises: type, mode, owner, time, content or target."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(tree.path / "etc"):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                content = Path(path).read_bytes()
            time = None if os.path.isdir(path) and not os.path.islink(path) else status.st_mtime_ns
            found[path] = (status.st_mode, status.st_uid, status.st_gid, time, content)
    return found


def outcomes(tree: Tree) -> list[dict[str, Any]]:
    return [r for r in tree.records() if r["record"] == "outcome"]


def undo_all(tree: Tree) -> None:
    for pass_id in reversed(list(dict.fromkeys(r["pass"] for r in outcomes(tree)))):
        assert main(["--root", str(tree.path), "undo", "--pass", pass_id]) == 0


names = st.sampled_from(["exim4", "portmap", "ssh", "nfs-common", "lpd", "odd\n\udce4name"])
links = st.sets(st.tuples(st.sampled_from("2345S"), st.integers(1, 99), names), max_size=8)
moments = st.integers(10**9, 2 * 10**9).map(lambda s: s * 10**9 + 123456789)


@settings(max_examples=15)
@given(
    links,
    st.lists(st.sampled_from([IDENT, TIME, "# a comment\n", "odd \xe4 bytes"])),
    st.binary(),
    moments,
    st.booleans(),
)
def test_undo_after_apply_is_the_identity(
    chosen: set[tuple[str, int, str]], lines: list[str], strange: bytes, moment: int, linked: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = a_tree(Path(folder))
        for level, number, name in chosen:
            path = tree.path / f"etc/rc{level}.d/S{number:02}{name}"
            os.symlink(f"../init.d/{name}", path)
            os.utime(path, ns=(moment, moment), follow_symlinks=False)
        tree.write("etc/inetd.conf", "".join(lines).encode("latin-1")).chmod(0o640)
        kept = tree.write("etc/network/interfaces.d/eth0", strange)
        os.utime(kept, ns=(moment, moment))
        if linked:
            tree.write("etc/network/real", strange)
            (tree.path / "etc/network/interfaces").unlink()
            (tree.path / "etc/network/interfaces").symlink_to("real")
        before = everything(tree)
        main(["--root", folder, "apply"])
        assert tree.plan()["converged"]
        undo_all(tree)
        assert everything(tree) == before


def test_one_link_comes_back_and_stays_for_an_hour(tree: Tree) -> None:
    tree.link("rc2.d/S20exim4")
    tree.link("rc3.d/S20exim4")
    tree.command("apply")
    id_ = outcomes(tree)[0]["id"]
    result = tree.command("undo", id_)
    assert result.returncode == 0, result.stderr
    assert "dom0-reconciler approve exim4" in result.stdout
    assert tree.names("rc2.d") == ["S20exim4"]
    assert tree.names("rc3.d") == ["K01exim4"]
    [step] = tree.plan()["steps"]
    assert step["held"].startswith("left alone until ")
    assert f"undo of {id_} by " in step["held"]
    assert tree.command("apply").returncode == 2
    assert tree.names("rc2.d") == ["S20exim4"]
    intent, notice, outcome = tree.records()[-3:]
    assert (intent["record"], notice["record"], outcome["record"]) == ("intent", "undo", "outcome")
    assert (outcome["outcome"], outcome["action"], outcome["kind"]) == ("done", "link", "rclinks")
    assert outcome["cause"].startswith(f"undo of {id_} by ")
    assert tree.command("log", "--verify").returncode == 0


@pytest.mark.parametrize("name", ["e\x1bvil", "new\nline", "back\\x0aslash", "bytes\udcff"])
def test_a_name_that_is_shown_escaped_is_left_alone_as_well(tree: Tree, name: str) -> None:
    tree.link(f"rc2.d/S05{name}", "../init.d/cron")
    tree.command("apply")
    result = tree.command("--json", "undo", outcomes(tree)[0]["id"])
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["exception"]["names"] == [escape(name)]
    assert tree.records()[-1]["service"] == escape(name)
    assert tree.plan()["steps"][0]["held"].startswith("left alone until ")
    assert tree.command("apply").returncode == 2
    assert f"S05{name}" in tree.names("rc2.d")


ACL = bytes.fromhex("0200000001000600ffffffff02000400e803000004000400ffffffff10000400ffffffff20000000ffffffff")
"""``user::rw-,user:1000:r--,group::r--,mask::r--,other::---`` as acl(5) lies on disk."""


def test_an_acl_survives_a_correction_and_comes_back_with_what_was_removed(tree: Tree) -> None:
    edited, gone = tree.write("etc/inetd.conf", IDENT + TIME), tree.write("etc/network/interfaces.d/eth0", "x")
    for path in (edited, gone):
        os.setxattr(path, "system.posix_acl_access", ACL)
    before = everything(tree)
    tree.command("apply")
    assert not gone.exists()
    assert os.getxattr(edited, "system.posix_acl_access") == ACL
    undo_all(tree)
    assert everything(tree) == before
    assert os.getxattr(gone, "system.posix_acl_access") == ACL


def test_the_exception_ends(tree: Tree) -> None:
    tree.link("rc2.d/S20exim4")
    tree.command("apply")
    tree.command("undo", "--for", "1ms", outcomes(tree)[0]["id"])
    assert tree.command("apply").returncode == 0
    assert tree.names("rc2.d") == ["K01exim4"]


def test_an_inetd_line_comes_back_and_the_line_says_how_to_approve_it(tree: Tree) -> None:
    tree.write("etc/inetd.conf", IDENT + TIME)
    tree.command("apply")
    result = tree.command("undo", outcomes(tree)[0]["id"])
    assert "dom0-reconciler approve ident/tcp" in result.stdout
    assert (tree.path / "etc/inetd.conf").read_text() == IDENT + TIME
    assert tree.plan()["steps"][0]["held"]


def test_what_changed_since_is_stale_and_left(tree: Tree) -> None:
    tree.write("etc/inetd.conf", IDENT)
    tree.link("rc2.d/S20exim4")
    tree.command("apply")
    tree.write("etc/inetd.conf", "# mine\n")
    result = tree.command("--json", "undo", "--pass", outcomes(tree)[0]["pass"])
    assert result.returncode == 1
    words = {step["action"]: step["outcome"] for step in json.loads(result.stdout)["steps"]}
    assert words == {"write-file": "stale", "link": "done"}
    assert (tree.path / "etc/inetd.conf").read_text() == "# mine\n"


def test_a_file_that_was_made_and_then_edited_is_not_taken_away(tree: Tree) -> None:
    (tree.path / "etc/network/interfaces").unlink()
    tree.command("apply")
    tree.write("etc/network/interfaces", "# mine\n")
    assert tree.command("undo", outcomes(tree)[0]["id"]).returncode == 1
    assert (tree.path / "etc/network/interfaces").read_text() == "# mine\n"


def test_twice_is_no_harm_and_an_undo_can_be_undone(tree: Tree) -> None:
    tree.link("rc2.d/S20exim4")
    tree.command("apply")
    id_ = outcomes(tree)[0]["id"]
    tree.command("undo", id_)
    again = tree.command("undo", id_)
    assert (again.returncode, "as it was already" in again.stdout) == (0, True)
    assert tree.command("undo", outcomes(tree)[-1]["id"]).returncode == 0
    assert tree.names("rc2.d") == ["K01exim4"]


def test_an_unknown_id_is_an_error_with_the_nearest(tree: Tree) -> None:
    assert "nothing was ever done here" in tree.command("undo", "x.1").stderr
    tree.link("rc2.d/S20exim4")
    tree.command("apply")
    id_ = outcomes(tree)[0]["id"]
    result = tree.command("undo", id_[:-1] + "7")
    assert result.returncode == 1
    assert f"the nearest: '{id_}'" in result.stderr
    assert "--pass" in tree.command("undo", outcomes(tree)[0]["pass"]).stderr


def test_the_daemon_leaves_it_alone_until_the_exception_ends(tree: Tree) -> None:
    tree.link("rc2.d/S20exim4")
    with tree.daemon():
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "it is corrected")
        wait_for(lambda: outcomes(tree), "the outcome is written")
        assert tree.command("undo", "--for", "15s", outcomes(tree)[0]["id"]).returncode == 0
        assert tree.names("rc2.d") == ["S20exim4"]
        tree.link("rc2.d/S20portmap")
        wait_for(lambda: "K01portmap" in tree.names("rc2.d"), "another is corrected")
        assert "S20exim4" in tree.names("rc2.d")
        wait_for(lambda: "K01exim4" in tree.names("rc2.d"), "the exception is over", patience=60)


def test_what_is_put_back_and_cannot_be_made_durable_has_an_outcome_all_the_same(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.link("rc2.d/S20exim4")
    tree.command("apply")

    def settle(_hands: RealHands, _actions: object) -> None:
        raise ActionFailed("/etc/rc2.d: Input/output error")

    monkeypatch.setattr(RealHands, "settle", settle)
    done = next(r for r in outcomes(tree) if r["action"] == "unlink")
    assert main(["--root", str(tree.path), "undo", done["id"]]) == 1
    last = outcomes(tree)[-1]
    assert (last["action"], last["outcome"]) == ("link", "unverified")
    assert last["detail"] == "done, but a crash may undo it: /etc/rc2.d: Input/output error"

"""The host of the article, whole: what is left runs and listens, and nothing else; on all four hosts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from tests.hosts import product, states
from tests.hosts.host import ADDRESS, Host
from tests.hosts.scenario import ARTICLE, SCRIPTS, Scene

# What may be left besides the approved: the init, what it brings up itself, logins, and the daemon with its commands.
_APPROVED = {"sshd", "cron", "rsyslogd", "dbus-daemon", "python3"}
_INITS = {"init", "systemd", "systemd-journal", "systemd-udevd", "systemd-logind", "getty", "agetty", "udevd"}
_SOCKETS = re.compile(r"tcp6?/22|/dev/log|/run/(systemd|udev|dbus|initctl|ssh-unix-local)/.*|@.*")

Number = Callable[[str], None]


@pytest.fixture(scope="class")
def article(shared_host: Host) -> Scene:
    """The host of the article with an address, the product in it and not yet begun."""
    scene = Scene(shared_host)
    shared_host.use_static_address()
    scene.install(states.state(interval="1s", unapproved="report"))
    return scene


def approved_pids(host: Host) -> dict[str, list[int]]:
    """The processes of the approved services."""
    return {comm: [one.pid for one in host.running(comm)] for comm in ("sshd", "cron", "rsyslogd", "dbus-daemon")}


def only_the_approved(host: Host) -> None:
    """`ps` and `ss`, by the host's own tools and from outside, show what was approved and nothing else."""
    host.wait_for(lambda: not _strangers(host), 5, f"the end of {_strangers(host)}")
    assert [one for one in host.listeners() if not _SOCKETS.fullmatch(one.name)] == []
    assert {line.split()[4].rpartition(":")[2] for line in host.run("ss -H -lntup").lines} == {"22"}
    assert {line.strip() for line in host.run("ps -e -o comm=").lines} - _APPROVED - _INITS == {"sh", "ps"}


def _strangers(host: Host) -> set[str]:
    """In parentheses: what systemd has forked and not yet turned into a program."""
    return {one.comm.strip("()") for one in host.processes()} - _APPROVED - _INITS


def nobody_at_111(host: Host) -> None:
    """One connect from outside finds nobody, and wakes nobody."""
    reach = f"import socket; socket.create_connection(('{ADDRESS}', 111), 2)"
    assert "refused" in host.from_lan(["python3", "-c", reach], check=False).err
    assert not host.running("rpcbind")


class TestArticleHost:
    """In order: each test finds the host as the one before has left it."""

    def test_it_is_left_with_what_was_approved(self, article: Scene, number: Number) -> None:
        before = approved_pids(article.host)
        found = article.plan()["findings"]
        began = time.monotonic()
        article.host.start_daemon()
        article.converge()
        took = time.monotonic() - began
        only_the_approved(article.host)
        nobody_at_111(article.host)
        assert [trace for name in ARTICLE for trace in article.traces(name)] == []
        assert approved_pids(article.host) == before
        done = [record for record in article.records() if record["outcome"] == "done"]
        number(f"{len(found)} findings, {len(done)} corrections, {took:.1f} s until converged")
        article.sound()

    def test_the_second_pass_finds_nothing(self, article: Scene) -> None:
        former = len(article.host.journal())
        passed = article.status()["last_pass"]["id"]
        article.host.wait_for(lambda: article.status()["last_pass"]["id"] != passed, 5, "another pass")
        assert article.host.run([product.COMMAND, "plan"]).rc == 0
        assert article.host.run([product.COMMAND, "apply"]).rc == 0
        assert len(article.host.journal()) == former
        only_the_approved(article.host)

    def test_a_listener_started_by_hand_is_reported_with_its_process(self, article: Scene) -> None:
        job = article.host.spawn(["nc", "-l", "-p", "4444"])
        found = article.host.wait_for(lambda: _reported(article, "listeners:tcp/4444"), 5, "the report")
        (nc,) = article.host.running("nc")
        assert f"nc (process {nc.pid}, /usr/bin/nc" in found
        assert job.running, "reported means: not stopped"
        job.kill()
        article.host.wait_for(lambda: not _reported(article, "listeners:tcp/4444"), 5, "its end to be noticed")

    def test_nothing_comes_back_with_a_reboot(self, article: Scene) -> None:
        article.host.reboot()
        article.host.wait_for(lambda: article.host.running("sshd") and article.host.running("cron"), 20, "the approved")
        only_the_approved(article.host)
        article.mark = len(article.host.journal())
        article.host.start_daemon()
        article.converge()
        # nfs-client.target, which nobody judges, wants rpc-statd-notify: a one-shot that then counts as active.
        expected = {"nfs-common"} if article.host.init == "systemd" else set()
        assert {record["service"] for record in article.records() if record["outcome"]} <= expected
        nobody_at_111(article.host)
        only_the_approved(article.host)


def _reported(scene: Scene, ref: str) -> str:
    return next((str(one["detail"]) for one in scene.status()["findings"] if one["ref"] == ref), "")


class TestLinksLikeDebians:
    """The links that an unlinking leaves are those that the real tool leaves, and the real tool can undo it."""

    def test_as_after_disable_and_back_by_enable(self, shared_host: Host) -> None:
        host, scene = shared_host, Scene(shared_host)
        pristine = links(host)
        host.run("mkdir /root/rc && cp -a /etc/rc?.d /root/rc")
        by_the_tool: dict[str, str] = {}
        for script in SCRIPTS:  # each on a copy: what is disabled together, insserv numbers anew
            host.run(["update-rc.d", script, "disable"])
            by_the_tool |= links(host, script)
            host.run("rm -r /etc/rc?.d && cp -a /root/rc/. /etc")
        assert links(host) == pristine
        scene.guard()
        assert links(host) == by_the_tool
        host.stop_daemon()
        for script in SCRIPTS:
            host.run(["update-rc.d", script, "enable"])
        assert links(host) == pristine


def links(host: Host, *scripts: str) -> dict[str, str]:
    """Every link of these scripts, else of all the article's, by its path, with its target."""
    tree = {path: entry for path, entry in host.tree("/etc").items() if re.match(r"/etc/rc[0-6S]\.d/[SK]", path)}
    mine = {path: entry for path, entry in tree.items() if path.rpartition("/")[2][3:] in (scripts or SCRIPTS)}
    return {path: entry.content.decode() for path, entry in mine.items()}

"""What is shown, in order: the host as it is, the plan, the correction, and three things that come back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from demo_parts import furnish, talk
from demo_parts.host import Host, Record

SAME = ("rc3.d", "rc4.d", "rc5.d")
"""Runlevels that hold the same as rc2.d: shown once."""

WIDTH = 100


class Tour:
    """The demonstration on one host."""

    def __init__(self, root: Path, *, live: bool, confined: bool = False) -> None:
        self.host, self.live, self.confined = Host(root, live=live), live, confined
        self.began = time.time()

    def run(self) -> int:
        """From the first word to the last."""
        self.introduce()
        self.show_host()
        self.show_plan()
        with self.host.daemon() as started:
            self.correct(started)
            self.bring_portmap_back()
            self.bring_inetd_line_back()
            self.bring_dhcp_back()
            self.status()
        self.show_journal()
        self.leave()
        return 0

    def introduce(self) -> None:
        """What this is, and what it is not."""
        talk.line(talk.paint("dom0-reconciler: a demonstration", "bold"))
        if self.live:
            talk.tell(
                "A throw-away host in namespaces of its own, with the services of a default Debian 3.1 Domain-0. "
                "Stand-ins, but they run, listen and are stopped by their init scripts. This machine is not touched."
            )
            return
        why = "root may not make namespaces here" if self.confined else "you are not root"
        talk.tell(
            f"A throw-away tree with the files of a default Debian 3.1 Domain-0 ({why}). In a bare tree nothing "
            "runs, so there is nothing to stop: it shows the correction of files. sudo scripts/demo shows services too."
        )

    def show_host(self) -> None:
        """Build the host, boot it, and look around."""
        talk.heading("1. The host as its installer left it")
        furnish.furnish(self.host.root, live=self.live)
        self.host.boot()
        self.look_around()
        talk.fact("inetd", "serves ident")
        talk.fact("network", "eth0 asks a DHCP server")

    def look_around(self) -> None:
        """Who runs and who listens."""
        if self.live:
            talk.fact("running", "  ".join(self.host.running()))
            talk.fact("listening", "  ".join(self.host.listening()).replace(" ", "\xa0").replace("\xa0\xa0", "  "))
        else:
            links = list((self.host.root / "etc/rc2.d").glob("S*"))
            talk.fact("rc2.d starts", "  ".join(sorted(link.name[3:] for link in links)))

    def show_plan(self) -> None:
        """The state, and what it makes of the host."""
        talk.heading("2. What its administrator wants, and what that means here")
        talk.command("cat /etc/dom0-reconciler/state.toml")
        talk.output(furnish.STATE)
        talk.command("dom0-reconciler plan")
        shown = self.host.product("plan").splitlines()
        kept = [line for line in shown if not any(level in line for level in SAME)]
        talk.output("\n".join(_short(line) for line in kept))
        talk.line(talk.paint(f"    (rc3.d, rc4.d and rc5.d as rc2.d: {len(shown) - len(kept)} lines left out)", "dim"))

    def correct(self, started: float) -> None:
        """Start the daemon, and let it put all of that right."""
        talk.heading("3. The daemon starts, and puts it right")
        talk.command("dom0-reconciler run &")
        self.host.wait(self.host.settled)
        outcomes = self.host.outcomes(started)
        for action in dict.fromkeys(record["action"] for record in outcomes):
            mine = [record for record in outcomes if record["action"] == action]
            last = max(record["time"] for record in mine)
            services = dict.fromkeys(r["service"] or Path(r["target"]).name for r in mine)
            talk.timed((last - started) * 1000, f"{len(mine):2} {action}: {', '.join(services)}")
        talk.tell("Counted from the start of the process, the interpreter's own start included. What is left:")
        self.look_around()

    def bring_back(self, what: str, act: Callable[[], None], targets: Sequence[str]) -> None:
        """Do what somebody does, and show what the daemon makes of it and when."""
        talk.tell(what)
        began = time.time()
        act()
        self.host.wait(lambda: {f"/etc/{name}" for name in targets} <= self.host.targets(began))
        self.host.wait(self.host.settled)
        for record in self.host.outcomes(began):
            talk.timed((record["time"] - began) * 1000, _said(record))

    def bring_portmap_back(self) -> None:
        """What an upgrade or a careless hand leaves: the service started, and its start links."""
        how = "it is started, and linked into every runlevel" if self.live else "it is linked into every runlevel"
        talk.heading(f"4. Meanwhile portmap comes back: {how}")
        links: list[str] = []

        def act() -> None:
            links.extend(furnish.relink(self.host.root, "portmap"))

        self.host.start("portmap")
        self.bring_back("Milliseconds are counted from before the first link.", act, links)
        if self.live:
            back = "portmap" in self.host.running() or "tcp 111" in self.host.listening()
            talk.tell("portmap still runs: a bug, please report it." if back else "It is stopped; port 111 is closed.")

    def bring_inetd_line_back(self) -> None:
        """update-inetd, or an administrator in a hurry."""
        talk.heading("5. Somebody adds a line to /etc/inetd.conf")
        file = self.host.root / "etc/inetd.conf"

        def act() -> None:
            with file.open("a") as conf:
                conf.write("daytime\t\tstream\ttcp\tnowait\troot\tinternal\n")

        self.bring_back("daytime stream tcp nowait root internal", act, ["inetd.conf"])
        off = file.read_text().endswith("\n#daytime\t\tstream\ttcp\tnowait\troot\tinternal\n")
        talk.tell("The line is commented out." if off else "The line is active: a bug, please report it.")

    def bring_dhcp_back(self) -> None:
        """A tool rewrites the network file."""
        talk.heading("6. A tool rewrites /etc/network/interfaces to DHCP")
        file = self.host.root / "etc/network/interfaces"
        self.bring_back(
            "iface eth0 inet dhcp",
            lambda: _replace(file, (furnish.SARGE / "interfaces").read_bytes()),
            ["network/interfaces"],
        )
        static = "iface eth0 inet static" in file.read_text()
        talk.tell(f"The file is {'the canonical one again' if static else 'still wrong: a bug, please report it'}.")

    def status(self) -> None:
        """How the daemon sees it."""
        talk.heading("7. What the daemon says of itself, and what it wrote down")
        talk.command("dom0-reconciler status")
        talk.output(self.host.product("status"))

    def show_journal(self) -> None:
        """The last records, and the chain."""
        talk.command("dom0-reconciler log | tail -n 4")
        talk.output("\n".join(self.host.product("log").splitlines()[-4:]))
        talk.command("dom0-reconciler log --verify")
        talk.output(self.host.product("log", "--verify"))
        kept = len(list((self.host.root / "var/lib/dom0-reconciler/quarantine").iterdir()))
        talk.tell(f"What {kept} passes took away is kept in /var/lib/dom0-reconciler/quarantine.")

    def leave(self) -> None:
        """The end, and where to go on."""
        talk.heading(f"That was all, in {time.time() - self.began:.1f} s. The host is gone, nothing is left behind.")
        talk.tell("Next: README.md, and docs/quickstart.md for a host of your own.")


def _short(line: str) -> str:
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def _said(record: Record) -> str:
    outcome = record["outcome"] + (f" ({record['detail']})" if record["detail"] and record["outcome"] != "done" else "")
    return f"{record['action']} {record['target']}: {outcome}"


def _replace(file: Path, content: bytes) -> None:
    """As editors and tools do: a new file, renamed into place."""
    new = file.with_name(".interfaces.new")
    new.write_bytes(content)
    new.rename(file)

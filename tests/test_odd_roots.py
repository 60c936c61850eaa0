"""Odd roots: what lies there is not what belongs there. Each reaches a branch that no other one reaches.

Each entry of a table is a root: how it differs from the sane one of :mod:`tests.odd_roots`, and the exact gaps,
findings and remains that this means. What is sane in the same root must be corrected all the same.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.host import FILE_LIMIT
from tests.odd_roots import FTP, SANE, STATIC, Odd, check, sane_tree
from tests.trees import Tree

RC2, RCS = frozenset(("rclinks:rc2.d/S20sane",)), frozenset(("rclinks:rcS.d/S43sane",))
CONF, FOLDER = frozenset(("inetd:inetd.conf/ftp/tcp",)), frozenset(("inetd:inetd.d/ftp/ftp/tcp",))
FILE = frozenset(("interfaces:interfaces",))
FILES = frozenset(("interfaces:interfaces.d/eth1", "interfaces:interfaces.d/xenbr0"))


# --- how a root is made odd -------------------------------------------------------------------------------------


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Tree], object]:
    """Something else where a file, a folder or nothing was."""

    def do(tree: Tree) -> None:
        path = tree.path / name
        if path.is_dir() and not path.is_symlink():
            path.rename(tree.path / "set-aside")
        else:
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return do


def link(name: str, target: str) -> Callable[[Tree], object]:
    """A link, where nothing or something else was; ``OUT`` in its target is a folder beside the root."""
    return instead(name, lambda path: path.symlink_to(target.replace("OUT", _outside(path))))


def _outside(path: Path) -> str:
    top = next(folder for folder in path.parents if folder.name == "root")
    return str(top.parent / "outside")


def file(name: str, content: bytes | str = b"") -> Callable[[Tree], object]:
    return lambda tree: tree.write(name, content)


def a_socket(path: Path) -> None:
    """Made by a relative name: an address has room for 107 bytes."""
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


def a_device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root makes devices")


def all_of(*makes: Callable[[Tree], object]) -> Callable[[Tree], object]:
    return lambda tree: [make(tree) for make in makes]


def sparse(name: str, size: int, start: bytes = b"") -> Callable[[Tree], object]:
    return lambda tree: os.truncate(tree.write(name, start), size)


def renamed(name: str, to: str) -> Callable[[Tree], object]:
    return lambda tree: (tree.path / name).rename(tree.path / to)


WRONG = "a {} where a start link belongs"
LIMIT = f"is larger than the limit of {FILE_LIMIT} bytes"

START_LINKS = {
    "entry-is-directory": Odd(
        instead("etc/rc2.d/S20odd", lambda path: (path / "inside").mkdir(parents=True)),
        {"rclinks:rc2.d/S20odd": WRONG.format("directory")},
    ),
    "entry-is-fifo": Odd(instead("etc/rc2.d/S20odd", os.mkfifo), {"rclinks:rc2.d/S20odd": WRONG.format("fifo")}),
    "entry-is-socket": Odd(instead("etc/rc2.d/S20odd", a_socket), {"rclinks:rc2.d/S20odd": WRONG.format("socket")}),
    "entry-is-device": Odd(instead("etc/rc2.d/S20odd", a_device), {"rclinks:rc2.d/S20odd": WRONG.format("device")}),
    "dangling": Odd(link("etc/rc2.d/S20odd", "../init.d/gone"), more=frozenset(("rclinks:rc2.d/S20odd",))),
    "loop-of-links": Odd(
        all_of(link("etc/rc2.d/S20one", "S20two"), link("etc/rc2.d/S20two", "S20one")),
        more=frozenset(("rclinks:rc2.d/S20one", "rclinks:rc2.d/S20two")),
    ),
    "leads-out-relative": Odd(
        link("etc/rc2.d/S20odd", "../../../../../../../../etc/hostname"), more=frozenset(("rclinks:rc2.d/S20odd",))
    ),
    "leads-out-absolute": Odd(link("etc/rc2.d/S20odd", "OUT/script"), more=frozenset(("rclinks:rc2.d/S20odd",))),
    "runs-a-folder": Odd(link("etc/rc2.d/S20odd", ".."), more=frozenset(("rclinks:rc2.d/S20odd",))),
    "longest-name": Odd(
        link(f"etc/rc2.d/S20{'x' * 252}", f"../init.d/{'x' * 252}"),
        more=frozenset((f"rclinks:rc2.d/S20{'x' * 252}",)),
    ),
    "longest-target": Odd(
        link("etc/rc2.d/S20odd", "../init.d/" + "./" * 2042), more=frozenset(("rclinks:rc2.d/S20odd",))
    ),
    "name-with-spaces": Odd(link("etc/rc2.d/S20 a b ", "../init.d/ a b "), more=frozenset(("rclinks:rc2.d/S20 a b ",))),
    "name-with-newline": Odd(
        link("etc/rc2.d/S20a\nb", "../init.d/a\nb"),
        more=frozenset(("rclinks:rc2.d/S20a\\x0ab",)),
    ),
    "name-is-newline": Odd(link("etc/rc2.d/S20\n", "../init.d/\n"), more=frozenset(("rclinks:rc2.d/S20\\x0a",))),
    "name-not-utf8": Odd(
        link("etc/rc2.d/S20a\udcff\udcc3", "../init.d/a\udcff\udcc3"), more=frozenset(("rclinks:rc2.d/S20a\\xff\\xc3",))
    ),
    "name-with-terminal-escape": Odd(
        link("etc/rc2.d/S20\x1b[2J\x1b]0;title\x07", "../init.d/\x1b[2J"),
        more=frozenset(("rclinks:rc2.d/S20\\x1b[2J\\x1b]0;title\\x07",)),
    ),
    "name-with-c1-escape": Odd(
        link("etc/rc2.d/S20\x9b2J", "../init.d/\x9b2J"), more=frozenset(("rclinks:rc2.d/S20\\xc2\\x9b2J",))
    ),
    "name-turns-direction": Odd(
        link("etc/rc2.d/S20\u202ehss", "../init.d/\u202ehss"), more=frozenset(("rclinks:rc2.d/S20\\xe2\\x80\\xaehss",))
    ),
    "name-with-backslash": Odd(
        link("etc/rc2.d/S20a\\x41", "../init.d/a\\x41"), more=frozenset(("rclinks:rc2.d/S20a\\x5cx41",))
    ),
    "two-names-one-look": Odd(  # composed and decomposed: to a person the same name
        all_of(link("etc/rc2.d/S20caf\u00e9", "../init.d/x"), link("etc/rc2.d/S20cafe\u0301", "../init.d/x")),
        more=frozenset(("rclinks:rc2.d/S20caf\u00e9", "rclinks:rc2.d/S20cafe\u0301")),
    ),
    "name-empty-after-number": Odd(link("etc/rc2.d/S20", "../init.d/odd"), more=frozenset(("rclinks:rc2.d/S20",))),
    "name-without-a-number": Odd(link("etc/rc2.d/Sodd", "OUT"), more=frozenset(("rclinks:rc2.d/Sodd",))),
    "case-variants": Odd(
        all_of(link("etc/rc2.d/S20SSH", "../init.d/SSH"), link("etc/rc2.d/s20lower", "../init.d/lower")),
        more=frozenset(("rclinks:rc2.d/S20SSH",)),
    ),
    "k-name-taken-by-another-link": Odd(
        link("etc/rc2.d/K01sane", "/etc/init.d/sane"),
    ),
    "k-name-taken-by-a-file": Odd(file("etc/rc2.d/K01sane", "#!/bin/sh\n")),
    "k-name-taken-by-a-folder": Odd(
        instead("etc/rc2.d/K01sane", Path.mkdir), {"rclinks:rc2.d/K01sane": WRONG.format("directory")}
    ),
    "folder-missing": Odd(instead("etc/rc2.d", lambda path: None), fewer=RC2),
    "folder-is-file": Odd(
        instead("etc/rc2.d", Path.touch), {"rclinks:rc2.d": "/etc/rc2.d: rc2.d is not a folder"}, fewer=RC2
    ),
    "folder-is-fifo": Odd(
        instead("etc/rcS.d", os.mkfifo), {"rclinks:rcS.d": "/etc/rcS.d: rcS.d is not a folder"}, fewer=RCS
    ),
    "folder-is-link-to-another": Odd(
        all_of(link("etc/rc2.d", "rc3.d"), link("etc/rc3.d/S20late", "../init.d/late")),
        more=frozenset(("rclinks:rc2.d/S20late", "rclinks:rc3.d/S20late")),
        fewer=RC2,
        ended={"unlink /etc/rc3.d/S20late": "stale: /etc/rc3.d/S20late is not there any more"},
    ),
    "folder-leads-out-relative": Odd(
        link("etc/rc2.d", "../../outside"), {"rclinks:rc2.d": "/etc/rc2.d leads out of the root"}, fewer=RC2
    ),
    "folder-leads-out-absolute": Odd(  # an absolute target begins at the root again, as in a chroot
        link("etc/rc2.d", "OUT"), {"rclinks:rc2.d": "/etc/rc2.d: a link that leads nowhere"}, fewer=RC2
    ),
    "folder-links-in-a-circle": Odd(
        all_of(link("etc/rc2.d", "rc2.e"), link("etc/rc2.e", "rc2.d")),
        {"rclinks:rc2.d": "/etc/rc2.d: links that lead in a circle"},
        fewer=RC2,
    ),
    "folder-moved-and-linked": Odd(all_of(renamed("etc/rc2.d", "etc/rc.d"), link("etc/rc2.d", "/etc/rc.d"))),
    "etc-is-a-link": Odd(all_of(renamed("etc", "etc.real"), link("etc", "etc.real"))),
    "shutdown-folder-is-file": Odd(
        instead("etc/rc0.d", Path.touch), {"rclinks:rc0.d": "/etc/rc0.d: rc0.d is not a folder"}
    ),
}

NO_SCRIPTS = "/etc/init.d cannot be looked at: whether it is approved, or needed, is not known"
SCRIPTS = {
    "scripts-missing": Odd(instead("etc/init.d", lambda path: None)),
    "scripts-is-file": Odd(
        instead("etc/init.d", Path.touch),
        {"rclinks:init.d": "/etc/init.d: init.d is not a folder"},
        left={f"unlink /etc/{link}": f"held: {NO_SCRIPTS}" for link in ("rc2.d/S20sane", "rcS.d/S43sane")},
    ),
    "script-is-fifo": Odd(instead("etc/init.d/ssh", os.mkfifo)),
    "script-is-directory": Odd(instead("etc/init.d/sane", Path.mkdir)),
    "script-dangling": Odd(
        link("etc/init.d/odd", "gone"), {"rclinks:init.d/odd": "/etc/init.d/odd: a link that leads nowhere"}
    ),
    "script-leads-out": Odd(
        link("etc/init.d/odd", "../../../outside/script"),
        {"rclinks:init.d/odd": "/etc/init.d/odd leads out of the root"},
    ),
    "script-runs-a-folder": Odd(
        link("etc/init.d/odd", "."), {"rclinks:init.d/odd": "/etc/init.d/odd is a directory, not a file"}
    ),
    "script-too-large": Odd(
        sparse("etc/init.d/odd", FILE_LIMIT + 1), {"rclinks:init.d/odd": f"/etc/init.d/odd {LIMIT}"}
    ),
    "script-just-small-enough": Odd(sparse("etc/init.d/odd", FILE_LIMIT)),
    "script-is-binary": Odd(file("etc/init.d/odd", b"\x7fELF\0\xff\xfe### BEGIN INIT INFO\n# Provides: \xff\0\n\0")),
    "script-name-is-odd": Odd(
        link("etc/init.d/a\nb\x1b[0m", "gone"),
        {"rclinks:init.d/a\\x0ab\\x1b[0m": "/etc/init.d/a\\x0ab\\x1b[0m: a link that leads nowhere"},
    ),
}

INETD = {
    "inetd-is-directory": Odd(
        instead("etc/inetd.conf", Path.mkdir),
        {"inetd:inetd.conf": "/etc/inetd.conf is a directory, not a file"},
        fewer=CONF,
    ),
    "inetd-is-fifo": Odd(
        instead("etc/inetd.conf", os.mkfifo), {"inetd:inetd.conf": "/etc/inetd.conf is a fifo, not a file"}, fewer=CONF
    ),
    "inetd-dangling": Odd(
        link("etc/inetd.conf", "gone"), {"inetd:inetd.conf": "/etc/inetd.conf: a link that leads nowhere"}, fewer=CONF
    ),
    "inetd-leads-out": Odd(
        link("etc/inetd.conf", "../../outside/inetd.conf"),
        {"inetd:inetd.conf": "/etc/inetd.conf leads out of the root"},
        fewer=CONF,
    ),
    "inetd-leads-to-a-device": Odd(
        all_of(instead("null", a_device), link("etc/inetd.conf", "/null")),
        {"inetd:inetd.conf": "/etc/inetd.conf is a device, not a file"},
        fewer=CONF,
    ),
    "inetd-of-50-MB": Odd(
        sparse("etc/inetd.conf", 50 << 20), {"inetd:inetd.conf": f"/etc/inetd.conf {LIMIT}"}, fewer=CONF
    ),
    "inetd-just-small-enough": Odd(  # with the comment sign it still is
        file("etc/inetd.conf", FTP.encode() + b"#" * (FILE_LIMIT - len(FTP) - 1100)),
    ),
    "inetd-without-last-newline": Odd(file("etc/inetd.conf", FTP.rstrip())),
    "inetd-with-nul": Odd(file("etc/inetd.conf", b"\0\n" + FTP.encode() + b"\0ident")),
    "inetd-with-dos-line-ends": Odd(file("etc/inetd.conf", FTP.replace("\n", "\r\n"))),
    "inetd-names-are-odd": Odd(
        file("etc/inetd.conf", b"f\x1b[1mtp\xff stream tcp nowait root /usr/sbin/ftpd\x07 ftpd\n"),
        more=frozenset(("inetd:inetd.conf/f\\x1b[1mtp\\xff/tcp",)),
        fewer=CONF,
    ),
    "inetd-is-empty": Odd(file("etc/inetd.conf"), fewer=CONF),
    "inetd-folder-is-file": Odd(
        instead("etc/inetd.d", Path.touch), {"inetd:inetd.d": "/etc/inetd.d: inetd.d is not a folder"}, fewer=FOLDER
    ),
    "inetd-folder-holds-odd-things": Odd(
        all_of(instead("etc/inetd.d/fifo", os.mkfifo), instead("etc/inetd.d/folder", Path.mkdir)),
    ),
    "inetd-folder-entry-too-large": Odd(
        sparse("etc/inetd.d/odd", FILE_LIMIT + 1), {"inetd:inetd.d/odd": f"/etc/inetd.d/odd {LIMIT}"}
    ),
}

NETWORK = {
    "interfaces-is-directory": Odd(
        instead("etc/network/interfaces", Path.mkdir),
        {"interfaces:network/interfaces": "/etc/network/interfaces is a directory, not a file"},
        fewer=FILE,
    ),
    "interfaces-is-socket": Odd(
        instead("etc/network/interfaces", a_socket),
        {"interfaces:network/interfaces": "/etc/network/interfaces is a socket, not a file"},
        fewer=FILE,
    ),
    "interfaces-dangling": Odd(link("etc/network/interfaces", "gone")),
    "interfaces-leads-out": Odd(link("etc/network/interfaces", "../../../outside/interfaces")),
    "interfaces-of-50-MB": Odd(
        sparse("etc/network/interfaces", 50 << 20),
        {"interfaces:network/interfaces": f"/etc/network/interfaces {LIMIT}"},
        fewer=FILE,
    ),
    "interfaces-mode-differs": Odd(
        all_of(
            file("etc/network/interfaces", STATIC), lambda tree: (tree.path / "etc/network/interfaces").chmod(0o4666)
        ),
    ),
    "network-missing": Odd(  # a declared file brings its folder along
        instead("etc/network", lambda path: None), fewer=frozenset(("interfaces:interfaces.d/eth1",))
    ),
    "network-is-file": Odd(
        instead("etc/network", Path.touch),
        {
            "interfaces:network/interfaces": "/etc/network/interfaces: network is not a folder",
            "interfaces:network/interfaces.d": "/etc/network/interfaces.d: network is not a folder",
        },
        fewer=FILE | FILES,
    ),
    "network-folder-is-fifo": Odd(
        instead("etc/network/interfaces.d", os.mkfifo),
        {"interfaces:network/interfaces.d": "/etc/network/interfaces.d: interfaces.d is not a folder"},
        fewer=FILES,
    ),
    "network-entry-is-directory": Odd(
        instead("etc/network/interfaces.d/odd", Path.mkdir),
        {"interfaces:interfaces.d/odd": "/etc/network/interfaces.d/odd is a directory, not a file"},
    ),
    "declared-entry-is-fifo": Odd(  # a gap, and so not missing
        instead("etc/network/interfaces.d/xenbr0", os.mkfifo),
        {"interfaces:interfaces.d/xenbr0": "/etc/network/interfaces.d/xenbr0 is a fifo, not a file"},
        fewer=frozenset(("interfaces:interfaces.d/xenbr0",)),
    ),
    "network-entry-is-odd-link": Odd(
        link("etc/network/interfaces.d/a\nb\udcff", "../../../../outside/interfaces"),
        more=frozenset(("interfaces:interfaces.d/a\\x0ab\\xff",)),
    ),
}

ROOTS = {**START_LINKS, **SCRIPTS, **INETD, **NETWORK}


@pytest.mark.parametrize("name", ROOTS)
def test_odd_root(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for each in ("inetd.conf", "interfaces", "script", "S20odd"):
        (outside / each).write_text(FTP)
    odd = ROOTS[name]
    tree = sane_tree(tmp_path)
    odd.make(tree)
    check(tree, odd)


def test_the_sane_root_has_no_gap_and_nothing_is_left(tmp_path: Path) -> None:
    check(sane_tree(tmp_path), Odd(lambda tree: None))


def test_each_root_is_odd_in_its_own_way() -> None:
    assert len(ROOTS) >= 40
    assert all(odd.fewer <= SANE for odd in ROOTS.values())

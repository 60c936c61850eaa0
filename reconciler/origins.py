"""Who brought a package, pure: from the texts that apt and dpkg leave behind.

``/var/log/apt/history.log`` says which command installed what, when, at whose request and what of it was automatic
(apt(8)); ``/var/log/dpkg.log`` says when, for packages that came without apt; ``/var/lib/apt/extended_states`` says
whether a package counts as asked for; ``/var/lib/dpkg/status`` who depends on it or recommends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from reconciler.values import Value

_ENTRY = re.compile(r"(?<![^\s,])([^\s:,]+)(?::[^\s,]+)? \(([^()]*)\)")  # rpcbind:amd64 (1.2.6-6+b1, automatic)
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_WANTING = ("Pre-Depends", "Depends", "Recommends")


class Origin(Value):
    """How a package came. ``time`` as the log has it (local time), "" where no log goes back so far.

    ``command`` is apt's command line; ``by`` who asked for it, where it was by sudo; ``because`` says what wanted it
    where it came by itself; ``automatic`` is ``None`` where nobody knows.
    """

    package: str
    time: str = ""
    command: str = ""
    by: str = ""
    automatic: bool | None = None
    because: tuple[str, ...] = ()


class Texts(Value):
    """What was read; of logs the newest last."""

    history: str = ""
    dpkg: str = ""
    extended: str = ""
    status: str = ""


def origin(package: str, texts: Texts) -> Origin:
    """All that is known of how a package came; of several installations the last."""
    run = _last_run(package, texts.history)
    automatic = _automatic(package, texts.extended)
    if run is None:
        return Origin(package, _dpkg_time(package, texts.dpkg), automatic=automatic)
    installed = _installed(run)
    automatic = "automatic" in installed[package] if automatic is None else automatic
    because = tuple(_wanted_by(package, installed, texts.status)) if "automatic" in installed[package] else ()
    time = " ".join(run.get("Start-Date", "").split())
    return Origin(package, time, run.get("Commandline", ""), run.get("Requested-By", ""), automatic, because)


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a control file, ``deb822(5)``: keys and values, continuation lines left out."""
    for paragraph in text.split("\n\n"):
        pairs = (line.partition(": ") for line in paragraph.splitlines() if line[:1].isalpha())
        found = {key: value.strip() for key, _, value in pairs}
        if found:
            yield found


def _last_run(package: str, history: str) -> dict[str, str] | None:
    found = None
    for run in stanzas(history):
        if package in run.get("Install", "") and package in _installed(run):
            found = run
    return found


def _installed(run: dict[str, str]) -> dict[str, str]:
    """Package -> its version, with apt's ``, automatic``."""
    return {match[1]: match[2] for match in _ENTRY.finditer(run.get("Install", ""))}


def _wanted_by(package: str, installed: dict[str, str], status: str) -> Iterator[str]:
    """What of the same installation asked for it: ``mailutils recommends it``."""
    for stanza in stanzas(status):
        name = stanza.get("Package", "")
        if name != package and name in installed:
            keys = [key for key in _WANTING if package in _NAME.findall(stanza.get(key, ""))]
            if keys:
                verb = "recommends" if keys == ["Recommends"] else "depends on"
                yield f"{name} {verb} it"


def _automatic(package: str, extended: str) -> bool | None:
    for stanza in stanzas(extended):
        if stanza.get("Package") == package:
            return stanza.get("Auto-Installed") == "1"
    return False if extended else None  # what was asked for by hand has no stanza


def _dpkg_time(package: str, log: str) -> str:
    """When dpkg last installed it anew: ``2026-11-23 18:04:11 install rpcbind:amd64 <none> 1.2.6-6``."""
    found = ""
    for line in log.splitlines():
        words = line.split(" ")
        if len(words) > 3 and words[2] == "install" and words[3].partition(":")[0] == package:  # noqa: PLR2004
            found = f"{words[0]} {words[1]}"
    return found

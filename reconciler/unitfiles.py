"""What a unit file says of other units, pure: enough of ``systemd.syntax(7)`` to tell which units are one service.

Only keys that relate units, or say what a socket listens on, are kept. Drop-ins (``NAME.service.d``) are not read:
Debian's packages relate units in the unit files themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from reconciler.model import Ref
from reconciler.services import UNIT_SUFFIXES, UnitFile, base_name

_LISTENS = {"ListenStream": "tcp", "ListenDatagram": "udp", "ListenSequentialPacket": ""}  # over IP; systemd.socket(5)
_RELATIONS = frozenset(("Requires", "Requisite", "BindsTo", "Alias", "Also", "Service", "Unit", "Sockets", *_LISTENS))
_TRIGGERS = ("Socket.Service", "Timer.Unit", "Path.Unit", "Service.Sockets")
_NEEDS = ("Unit.Requires", "Unit.Requisite", "Unit.BindsTo")


def parse_unit(ref: Ref, path: str, text: str, target: str = "") -> UnitFile:
    """Read a unit file at ``path`` (``target``: where that is a link to). An empty one is a mask.

    Sockets, timers and paths that are installed with a service (``Also=``) are it; a service that is, may be another.
    Names with specifiers (``%i``) are left out: those of an instance are its template's, and have its name.
    """
    unit = path.rpartition("/")[2]
    found = settings(text)
    also = [name for name in found.get("Install.Also", ()) if not name.endswith(".service")]
    return UnitFile(
        ref,
        (base_name(unit),),
        unit,
        aliases=_units(found.get("Install.Alias", ())),
        requires=_units(name for key in _NEEDS for name in found.get(key, ())),
        triggers=_units((*(name for key in _TRIGGERS for name in found.get(key, ())), *also)),
        path=path,
        target=target,
        masked=not text,
        opens=tuple(_opens(found)),
    )


def _opens(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """``tcp/111``, ``unix//run/rpcbind.sock``: what PID 1 waits on for the service, until it is stopped as well."""
    for key, protocol in _LISTENS.items():
        for word in found.get(f"Socket.{key}", ()):
            path, port = word.replace("%t", "/run"), word.rpartition(":")[2]
            if path.startswith(("/", "@")) and protocol != "udp":
                yield f"unix/{path}"
            elif port.isdecimal() and protocol and not word.startswith("vsock:"):
                yield f"{protocol}/{port}"


def settings(text: str) -> dict[str, list[str]]:
    """``Section.Key`` -> words. Lines add up, an empty one clears, a backslash goes on with the next line."""
    found: dict[str, list[str]] = {}
    section = ""
    for raw in text.replace("\\\n", " ").split("\n"):
        line = raw.strip()
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, equals, value = line.partition("=")
        if equals and key.rstrip() in _RELATIONS:
            words = found.setdefault(f"{section}.{key.rstrip()}", [])
            words.extend(value.split()) if value.strip() else words.clear()
    return found


def _units(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for word in words if word.endswith(UNIT_SUFFIXES) and "%" not in word))

"""The rails: what a host boots, guests and logins live on; built in, or added and taken away by the state. Pure.

What they are is data (``catalogue.toml``); here is whom they keep. :mod:`reconciler.holds` holds the steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.kinds.base import Context
from reconciler.lineage import Mounted, base_of, installed
from reconciler.model import Process
from reconciler.services import matches


def rails_of(service: str, context: Context) -> tuple[str, ...]:
    """The rails that keep a service, with their reasons."""
    keys = (("never stopped", stop_rail(service, context)), ("never unlinked", unlink_rail(service, context)))
    return tuple(f"{key}: {why.removeprefix('rail: ')}" for key, why in keys if why)


def stop_rail(service: str, context: Context) -> str:
    """Why a service is never ended, "" where it may be."""
    rails = context.desired.rails
    return _rail("never_stop", service, context, context.catalogue.data.never_stop, rails.never_stop)


def unlink_rail(service: str, context: Context) -> str:
    """Why what starts a service is never taken away, "" where it may be."""
    rails = context.desired.rails
    return _rail("never_unlink", service, context, context.catalogue.data.never_unlink, rails.never_unlink)


def _rail(key: str, service: str, context: Context, built_in: Mapping[str, str], added: Iterable[str]) -> str:
    names = context.catalogue.service(service).names
    if matches(names, context.desired.rails.allow):
        return ""
    if pattern := matches(names, added):
        return f'rail: rails.{key} names "{pattern}"'
    pattern = matches(names, built_in)
    why = built_in[pattern] if pattern else _mounted_over(names, context)
    return f"rail: {why}" if why else ""


def _mounted_over(names: frozenset[str], context: Context) -> str:
    """What a mounted file system lives on. Nothing is mounted in an image; an ordinary user's plan does not ask."""
    rails = context.catalogue.data.while_mounted
    pattern = matches(names, rails)
    if not pattern:
        return ""
    filesystems, why = rails[pattern]
    tables = [sight for place, sight in context.snapshot.sights.items() if place.kind == "processes"]
    mounted = [each for sight in tables for each in sight.resources if isinstance(each, Mounted)]
    if tables and not mounted:
        return f"what is mounted is not known, and it may be {' or '.join(sorted(filesystems))}"
    return why if any(filesystems & each.types for each in mounted) else ""


def program_rail(process: Process, service: str, context: Context) -> str:
    """What guests live on is that by its program's name as well, whatever started it: an orphan is of no service.

    A program that any user may have brought is not; nor is one of a service from which the state took the rails.
    """
    if process.uid and not installed(process):
        return ""
    if matches(context.catalogue.service(service).names, context.desired.rails.allow):
        return ""
    names = (base_of(process), process.name) if not process.uid else (base_of(process),)
    why = next(filter(None, (stop_rail(name, context) for name in names)), "")
    return f"{why} (process {process.pid}, {process.name})" if why else ""

"""What one call of the command works with: the real host below ``--root`` and the desired state, made when first asked.

Reading commands (``plan``, ``status``, ``explain``) are handed an :class:`~reconciler.observer.Observer`, which has
``Eyes`` alone: a write there is a type error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from reconciler import render
from reconciler.desired import DesiredState, load, lockout_errors
from reconciler.errors import ReconcilerError, StateError
from reconciler.host import lock, packaging
from reconciler.host.eyes import RealEyes
from reconciler.host.files import Root
from reconciler.host.statefiles import StateFiles
from reconciler.kinds import KINDS
from reconciler.model import FileState, Place
from reconciler.observer import Observer
from reconciler.services import Catalogue, CatalogueData, matches, parse_catalogue
from reconciler.statefile.words import did_you_mean, quote
from reconciler.values import replace

if TYPE_CHECKING:
    from reconciler.converge import Tools
    from reconciler.host.hands import RealHands
    from reconciler.log import Log
    from reconciler.model import Mode
    from reconciler.network.switching import Switchboard

STATE = "/etc/dom0-reconciler/state.toml"
SHIPPED = "/usr/share/dom0-reconciler/states"
_HERE = os.path.dirname(os.path.abspath(__file__))


class Session:
    """The parts of one call, each built once and only when needed."""

    def __init__(self, root: str, state: str | None) -> None:
        self.root = Root(root)
        self.state_path = state or os.path.join(self.root.path, STATE.lstrip("/"))
        self._is_default = not state
        self.overrule: Mode | None = None  # what the daemon was told at the boot prompt, instead of the state's mode

    @cached_property
    def eyes(self) -> RealEyes:
        """What looks at the host."""
        return RealEyes(self.root)

    @cached_property
    def hands(self) -> RealHands:
        """What corrects it."""
        self.must_be_able()
        from reconciler.host.hands import RealHands

        return RealHands(self.root)

    def must_be_able(self) -> None:
        """Refuse to correct without the privilege: half a correction is worse than none."""
        if self.eyes.host().live and os.geteuid() != 0:
            raise ReconcilerError("correcting this host needs root; try sudo, or --root DIR on a tree of your own")

    @cached_property
    def data(self) -> CatalogueData:
        """The shipped data on names and rails."""
        with open(os.path.join(_HERE, "catalogue.toml"), encoding="utf-8") as file:
            return parse_catalogue(file.read())

    def load_state(
        self, path: str | None = None, reader: StateFiles | None = None, *, refuse: bool = True
    ) -> DesiredState:
        """Read the desired state; raises ``StateError`` with every reason.

        Without ``refuse`` also one that would lock somebody out: who wants to mend it must be able to read it.
        """
        default = self._is_default and path in (None, self.state_path)
        if default and not self._is_below(self.state_path):
            raise StateError([f"{self.state_path}: leads out of the root (--state may name a file outside)"])
        if default and not os.path.lexists(self.state_path):
            hint = 'write one ("dom0-reconciler init" does it from the host as it is), or name another with --state'
            raise StateError([f"{self.state_path}: no such file: {hint}"])
        built = [kind.NAME for kind in KINDS]
        desired = load(
            path or self.state_path,
            reader or StateFiles(),
            shipped=shipped_folders(),
            built=built,
            port_names=self.port_names,
        )
        if self.overrule is not None:
            desired = replace(desired, mode=self.overrule)
        if refuse and desired.mode == "enforce":
            self.refuse_lockout(desired)
        return desired

    def port_names(self) -> FileState | None:
        """The file that gives ports their names."""
        return self.eyes.read("/etc/services")

    def _is_below(self, path: str) -> bool:
        """A link in an image that would be followed on the host: ``/etc -> /usr/etc``."""
        return os.path.join(os.path.realpath(path), "").startswith(os.path.join(self.root.path, ""))

    def tools(self, log: Log) -> Tools:
        """What a pass corrects with; its records go to the log as well."""
        from reconciler.converge import Tools  # what only looks does not pay for what acts
        from reconciler.journal import Journal
        from reconciler.network.switching import Switchboard
        from reconciler.quarantine import Quarantine

        correcting = lock.Correcting(self.root)
        tools = Tools(
            hands=self.hands,
            journal=Journal(self.root, log.records),
            quarantine=Quarantine(self.root),
            lock=lambda: correcting,
            clock=time.time,
            new_pass=new_pass,
            packaging=packaging.Patience(self.root),
        )
        return replace(tools, staging=Switchboard(self.root, self.eyes, tools))

    def switchboard(self, log: Log) -> Switchboard:
        """What an administrator confirms and reverts changes of the network with."""
        from reconciler.network.switching import Switchboard

        return Switchboard(self.root, self.eyes, self.tools(log))

    def sweep(self, places: Iterable[Place]) -> None:
        """Take away the temporaries that killed runs left where files are written. Call it under the lock."""
        for folder in sorted({place.folder for place in places if place.folder}):
            with suppress(ReconcilerError):  # a gap: whoever looks there says so
                self.root.sweep(folder)

    def command_log(self) -> Log:
        """Where the records of a one-shot command go besides the journal."""
        from reconciler.log import for_command

        return for_command(live=self.eyes.host().live)

    @cached_property
    def catalogue(self) -> Catalogue:
        """Who is who on this host; by the shipped names alone where the state is refused."""
        try:
            observer = Observer(self.eyes, self.data, self.load_state(refuse=False))
        except StateError:
            return Catalogue(self.data)
        observer.look([place for place in observer.places if place.folder])
        return observer.context().catalogue

    def doubt(self, names: Iterable[str]) -> list[str]:
        """A line for each name that no service of this host has, with the nearest that one has; globs may match."""
        known = self.catalogue.names()
        strange = [name for name in names if not matches(known, (name,))]
        return [f"no service here is called {quote(name)}{did_you_mean(name, known)}" for name in strange]

    def observer(self) -> Observer:
        """An observer for the desired state, with its warnings told."""
        desired = self.load_state()
        for warning in desired.warnings:
            render.error(f"warning: {warning}")
        return Observer(self.eyes, self.data, desired)

    def refuse_lockout(self, desired: DesiredState) -> None:
        """Raise ``StateError`` for a state that would lock somebody out when enforced on this host as it is now."""
        errors = lockout_errors(desired)
        if self.eyes.host().live and not errors:
            from reconciler import lockout

            observer = Observer(self.eyes, self.data, desired)
            observer.look(
                [place for place in observer.places if not place.folder or place.kind in ("rclinks", "units")]
            )
            errors = lockout.lockout_errors(observer.context(), self.eyes)
        if errors:
            raise StateError(errors)


def shipped_folders() -> tuple[str, ...]:
    """Where the shipped states lie: installed, or beside an uninstalled tree."""
    return SHIPPED, os.path.join(os.path.dirname(_HERE), "states")


def new_pass() -> str:
    """A name for a pass: its time in UTC, readable and sortable, and eight hex digits against a clash."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"

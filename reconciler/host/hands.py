"""The real ``Hands``: a table of who does what below one root.

On a root that is not the running system nothing is started, stopped or
signalled: no such step is planned there, and here it is refused once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Protocol

from reconciler.errors import ActionFailed
from reconciler.host import Handle, Hands
from reconciler.host.addresses import keep, must_last
from reconciler.host.farewell import SignalHandle
from reconciler.host.files import Root
from reconciler.host.kernel import ProcessTable, host_facts, is_live
from reconciler.host.services import InitScripts, send
from reconciler.model import (
    Action,
    DisableUnit,
    EnableUnit,
    KeepAddress,
    Link,
    MaskUnit,
    Outcome,
    ReloadManager,
    Signal,
    StartService,
    StopService,
    Unlink,
    UnmaskUnit,
    WriteFile,
)
from reconciler.network.applying import ApplyNetwork

APPLY = ("revert", "--when-due", "--staged")
"""What this program is told to apply what is staged, and to wait for its confirmation."""

UnitAction = DisableUnit | EnableUnit | MaskUnit | UnmaskUnit | ReloadManager


class Manager(Protocol):
    """A service manager that knows units: systemd."""

    def do(self, action: UnitAction) -> Outcome:
        """Change units. Raises ``Stale`` and ``ActionFailed`` as every effect does."""
        ...

    def begin(self, action: StopService | StartService) -> Handle:
        """Stop or start all ``units`` of a service at once."""
        ...


class RealHands(Hands):
    """Acts on one root; ``manager`` stands in for the service manager that knows units, for tests."""

    def __init__(self, root: Root, manager: Manager | None = None) -> None:
        self._root = root
        self._manager = manager
        self._live = is_live(root)

    def do(self, action: Action) -> Outcome:
        match action:
            case Unlink():
                self._root.unlink(action)
            case Link():
                self._root.link(action)
            case WriteFile():
                self._root.write(action)
            case KeepAddress():
                self._must_be_live()
                return keep(action)
            case Signal():
                self._must_be_live()
                must_last(action.keeps)
                return send(action, self._table)
            case StopService() | StartService() | ApplyNetwork():
                raise ActionFailed("a stop takes its time: it is begun, not done")
            case ReloadManager():
                manager = self._units()
                self._must_be_live()
                return manager.do(action)
            case _:
                return self._units().do(action)
        return Outcome("done")

    def begin(self, action: StopService | StartService | Signal | ApplyNetwork) -> Handle:
        self._must_be_live()
        if isinstance(action, ApplyNetwork):
            from reconciler.host import network  # hosts whose network follows its files are few

            return network.begin(action, APPLY, systemd=host_facts(self._root).init == "systemd")
        if isinstance(action, Signal):
            must_last(action.keeps)
            return SignalHandle(action, self._table)
        if action.units:
            return self._units().begin(action)
        return self._scripts.begin(action)

    def settle(self, actions: Sequence[Action]) -> None:
        units = [action for action in actions if isinstance(action, UnitAction)]
        if units:
            from reconciler.host.systemd import pieces

            actions = [*actions, *(piece for action in units for piece in pieces(action))]
        self._root.settle(actions)

    def _must_be_live(self) -> None:
        if not self._live:
            raise ActionFailed(f"{self._root.path} is not the running system: nothing runs there")

    @cached_property
    def _table(self) -> ProcessTable:
        return ProcessTable(self._root)

    @cached_property
    def _scripts(self) -> InitScripts:
        return InitScripts(self._root)

    def _units(self) -> Manager:
        if self._manager is None:
            if host_facts(self._root).init != "systemd":
                raise ActionFailed("this host has no systemd")
            from reconciler.host.systemd import Systemd

            self._manager = Systemd(self._root)
        return self._manager

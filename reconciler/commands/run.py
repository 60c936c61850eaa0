"""``run``: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import gc
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module

from reconciler import contested
from reconciler.contested import Memory
from reconciler.converge import Converger, Tools
from reconciler.daemon import Daemon, Seams
from reconciler.desired import DesiredState
from reconciler.errors import JournalError, ReconcilerError, Unobservable
from reconciler.host import lock
from reconciler.host.bootarg import ARGUMENT, boot_word
from reconciler.host.caller import may_be_trusted
from reconciler.host.signals import Signals
from reconciler.journal import notice, unverified
from reconciler.kinds import KINDS
from reconciler.log import Log, for_daemon
from reconciler.model import Place, Record
from reconciler.network import netswitch
from reconciler.observer import WAITING, read_switch
from reconciler.overrides import PATH
from reconciler.planner import OVERRIDES
from reconciler.render import error
from reconciler.session import Session
from reconciler.standing import bring_home
from reconciler.storage import small
from reconciler.values import replace
from reconciler.voice import RealVoice
from reconciler.watch import Watcher, Witness, open_watcher, open_witness


def run(session: Session, options: argparse.Namespace) -> int:  # noqa: ARG001
    """0 after SIGTERM, or where the boot prompt said "off"; 1 when the state is refused, or another daemon runs."""
    _collect()  # what the imports left: where that lay, all else can lie
    session.must_be_able()  # said in these words, not as a refusal of the lock's folder
    word = boot_word(session.root)
    if word == "off":
        error(f"not started: the kernel was given {ARGUMENT}off")
        return 0
    session.overrule = word or None
    with lock.held(session.root, lock.DAEMON, wait=False), small.held(session.root, lock.DAEMON):
        signals = Signals()
        observer = session.observer()
        log = for_daemon(live=observer.snapshot.host.live)
        voice, tools = RealVoice(session.root, log), session.tools(log)
        start = explain_the_past(session, tools, observer.places)
        if session.overrule:
            voice.say("mode", f"{session.overrule}, whatever the state says: the kernel was given {ARGUMENT}{word}")
        witness = open_witness() if observer.snapshot.host.live else None
        watcher = open_watcher(observer.places, session.root.path, say=voice.say, concerns=_concerns, witness=witness)
        declared = _Declared(session)
        state_watcher = open_watcher(declared(observer.desired), "/", say=voice.say)

        def rearm(desired: DesiredState) -> None:
            watcher.watch(observer.places, session.root.path)
            state_watcher.watch(declared(desired), "/")

        tools = replace(
            tools,
            remember=partial(_remember, session, voice),
            come_home=partial(come_home, session, tools, start),
            presses=watcher.presses,
        )
        converger = Converger(observer, tools, memory=_memory(session, voice))
        seams = Seams(
            session.load_state,
            watcher,
            state_watcher,
            rearm,
            voice,
            partial(_settle_in, session, log, tools),
            partial(_guard, session, voice),
            voice.watchdog,
        )
        try:
            Daemon(converger, seams, signals).run()
        finally:
            _close(tools, watcher, state_watcher, *filter(None, (witness,)))
    return 0


def _settle_in(session: Session, log: Log, tools: Tools) -> None:
    """What the first correction did without, before the first idle."""
    log.adopt()
    load_the_rest()
    tools.quarantine.ahead = True
    with suppress(ReconcilerError), tools.lock():
        tools.quarantine.prepare()
    with suppress(ImportError, AttributeError):  # no ctypes, or no C library of a kind that it knows
        session.root.at_once = import_module("reconciler.host.swift").open_folder
    _collect_at_leisure()


def _collect_at_leisure() -> None:
    """No search for garbage in cycles while something is corrected: the daemon makes one after each periodic pass.

    Values make no cycles. In a batch of ten thousand links, looking for some was a fifth of the time.
    """
    _collect()
    gc.disable()


def _collect() -> None:
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # what is there now stays for good


LATER = (
    *("reconciler.lockout", "reconciler.statefile.lines", "reconciler.host.sockets", "reconciler.host.addresses"),
    *("reconciler.host.systemd", "reconciler.host.network", "reconciler.watch.polling"),
    *("reconciler.host.hands", "reconciler.network.switching", "reconciler.digest"),
    *("difflib", "ipaddress", "json", "datetime", "logging", "pwd"),
)
"""What is imported inside functions, since a command, or the daemon's first correction, may do without it."""


def load_the_rest() -> None:
    """Import what the daemon may come to need, while it is there: an upgrade takes a library away, or changes it."""
    for module in LATER:
        with suppress(ImportError):  # the fallback's library may be missing
            import_module(module)


def _guard(session: Session, voice: RealVoice) -> None:
    """Of a change of the network that waits, and nobody with it: somebody must revert it when its time is over."""
    host = session.eyes.host()
    if not host.live or not read_switch(session.eyes, host).waits:
        return
    from reconciler.host import network

    try:
        if not lock.is_held(session.root, lock.SWITCH):
            network.guard(("revert", "--when-due"), systemd=host.init == "systemd")
    except (ReconcilerError, OSError) as error:
        voice.say("fault", f"a change of the network waits, and nobody can be set to revert it: {error}")


def _memory(session: Session, voice: RealVoice) -> Memory:
    """What an earlier daemon knew; one that makes no sense is told, and forgotten."""
    try:
        state = session.eyes.read(contested.PATH)
        if state is None or may_be_trusted(state.uid, state.mode):
            return contested.parse(state.content) if state is not None else Memory()
        why = "it may be written by others than root"  # who may write it could have every stop wait
    except (Unobservable, ValueError) as error:
        why = str(error)
    voice.say("fault", f"{contested.PATH} is forgotten, it cannot be used: {why}")
    return Memory()


def _remember(session: Session, voice: RealVoice, memory: Memory) -> None:
    """For the next daemon; that it cannot be kept is no reason not to go on."""
    try:
        small.replace(session.root, contested.PATH.rpartition("/")[2], contested.text_of(memory))
    except JournalError as error:
        voice.say("fault", str(error))


def _concerns(place: Place, name: str) -> bool:
    """Ask the place's kind whether a new name there can matter; a kind without an opinion wants all."""
    for kind in KINDS:
        if place.kind == kind.NAME:
            return kind.concerns(place, name)
    return True


class _Declared:
    """The files of the state, the folders of drop-ins, and what is ordered for a while, as places to watch."""

    def __init__(self, session: Session) -> None:
        root = session.root.path.rstrip("/")
        self._orders = f"{root}{PATH}".rpartition("/")
        self._waiting = f"{root}{WAITING}".rpartition("/")
        self._of: DesiredState | None = None
        self._kinds: tuple[bool, ...] = ()
        self._places: tuple[Place, ...] = ()

    def __call__(self, desired: DesiredState) -> tuple[Place, ...]:
        kinds = tuple(map(os.path.isdir, (self._waiting[0], *desired.files)))
        if self._of is not desired or self._kinds != kinds:
            self._of, self._kinds, self._places = desired, kinds, tuple(self._find(desired, *kinds))
        return self._places

    def _find(self, desired: DesiredState, waits: bool, *are_folders: bool) -> Iterator[Place]:
        folder, _, name = self._orders
        yield Place(OVERRIDES, folder, name)
        yield Place(OVERRIDES, folder, netswitch.PATH.rpartition("/")[2])
        if waits:  # else each status that is published would be an event on the way to it
            folder, _, name = self._waiting
            yield Place(OVERRIDES, folder, name)
        for path, is_folder in zip(desired.files, are_folders, strict=True):
            if is_folder:
                yield Place("state", path)
            else:
                folder, _, name = path.rpartition("/")
                yield Place("state", folder or "/", name)


def explain_the_past(session: Session, tools: Tools, places: Iterable[Place]) -> str:
    """Mend what a killed run left: its temporaries, the journal, the quarantine; each intent gets its outcome.

    Gives the id of the record of this start.
    """
    with tools.lock():
        now = tools.clock()
        session.sweep(places)
        left = tools.journal.recover()
        tools.quarantine.recover()
        start = notice("start", now, "the daemon started")
        tools.journal.write([*_explained(left, now), start])
    return start.id


def come_home(session: Session, tools: Tools, start: str) -> None:
    """The disk takes records again: it is to keep what was ordered, and may tell what it could not at the start."""
    bring_home(session)
    if tools.journal.unread:
        tools.journal.write(_explained(tools.journal.recover(before=start), tools.clock()))


def _explained(left: Iterable[Record], now: float) -> list[Record]:
    why = "the run that began it was killed; the first pass looks at what is there now"
    return [unverified(intent, now, why) for intent in left]


def _close(tools: Tools, *watchers: Watcher | Witness) -> None:
    with suppress(ReconcilerError), tools.lock():  # a record that cannot be written keeps nobody from stopping
        tools.quarantine.withdraw()
        tools.journal.write([notice("stop", tools.clock(), "the daemon stopped")])
    tools.journal.flush()
    for watcher in watchers:
        watcher.close()
    tools.journal.close()

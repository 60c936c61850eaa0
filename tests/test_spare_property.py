"""Home fails and heals at any call, processes die at any call, two write by turns: nothing twice, nothing lost."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reconciler.errors import JournalError
from reconciler.host.files import Root
from reconciler.journal import Journal
from reconciler.model import LinkState, Record, Unlink
from reconciler.quarantine import Quarantine
from reconciler.storage import spare, store
from tests.broken_home import Killed, trouble
from tests.crash.calls import in_memory
from tests.crash.faults import AT_HOME

LINK = LinkState("../init.d/exim4")
NOTES = ("torn", "cut", "away", "home")
READABLE = sorted(set(AT_HOME) - {"home broken"})

whiches = st.integers(0, 1)
moments = st.integers(0, 60)


class Histories(RuleBasedStateMachine):
    """``sure`` was written without an error; ``may`` was being written when its process was killed."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(TemporaryDirectory(dir=in_memory())))
        self.root = Root(str(self.folder))
        self.trouble = self.stack.enter_context(trouble(self.folder))
        self.sure: list[str] = []
        self.may: set[str] = set()
        self.kept: set[str] = set()
        self.count = 0

    @initialize()
    def begin(self) -> None:
        self.journals = [self._journal(), self._journal()]
        self.quarantines = [Quarantine(self.root), Quarantine(self.root)]

    def _journal(self) -> Journal:
        return Journal(self.root, limit=2500, keep=500, clock=lambda: 1.0)

    def _batch(self, size: int) -> list[Record]:
        self.count += 1
        return [Record(f"p{self.count}.{n}", 1.5, f"p{self.count}", "intent") for n in range(size)]

    def _restart(self, which: int) -> None:
        """Another process: it knows nothing of the dead one."""
        self.journals[which].close()
        self.journals[which], self.quarantines[which] = self._journal(), Quarantine(self.root)

    @rule(which=whiches, size=st.integers(1, 4))
    def write(self, which: int, size: int) -> None:
        batch = self._batch(size)
        try:
            self.journals[which].write(batch)
        except JournalError:  # of both places: what is half there may stay
            self.may |= {record.id for record in batch}
        except Killed:
            self.may |= {record.id for record in batch}
            self.trouble.heal()
            self._restart(which)
        else:
            self.sure += [record.id for record in batch]

    @rule(which=whiches)
    def keep(self, which: int) -> None:
        self.count += 1
        name = f"p{self.count}"
        try:
            if not self.quarantines[which].keep(name, [(f"{name}.1", Unlink("/etc/rc2.d/S20x", LINK.target), LINK)]):
                self.kept.add(name)
        except Killed:
            self.trouble.heal()
            self._restart(which)

    @rule(how=st.sampled_from(READABLE), after=moments)
    def fail(self, how: str, after: int) -> None:
        self.trouble.set(how, after)

    @rule(after=moments)
    def doom(self, after: int) -> None:
        self.trouble.set("kill", after)

    @rule()
    def heal(self) -> None:
        self.trouble.heal()

    @rule(which=whiches)
    def full_pass(self, which: int) -> None:
        try:
            with suppress(JournalError):
                self.journals[which].bring_home()
                self.quarantines[which].bring_home()
        except Killed:
            self.trouble.heal()
            self._restart(which)

    @rule(which=whiches)
    def start(self, which: int) -> None:
        self._restart(which)
        try:
            self.journals[which].recover()
            self.quarantines[which].recover()
        except Killed:
            self.trouble.heal()
            self._restart(which)

    @invariant()
    def nothing_twice_nothing_lost(self) -> None:
        how, made = (self.trouble.how, self.trouble.kill), len(self.trouble.made)
        self.trouble.heal()
        found = self._journal().verify()
        assert found.ok, found
        there = [record.id for record in self._journal().read() if record.record not in NOTES]
        assert len(there) == len(set(there)), "twice"
        assert set(self.sure) <= set(there), "lost"
        assert set(there) <= set(self.sure) | self.may, "out of nowhere"
        for name in self.kept:
            assert len(Quarantine(self.root).of_pass(name)) == 1
        del self.trouble.made[made:]
        self.trouble.how, self.trouble.kill = how

    def teardown(self) -> None:
        if hasattr(self, "journals"):
            self.trouble.heal()
            for which in (0, 1):
                self.full_pass(which)
            self.nothing_twice_nothing_lost()
            assert [path.name for path in (self.folder / store.SPARE[1:]).glob("*")] == []
            assert not spare.holds(self.root, spare.JOURNAL)
            for journal in self.journals:
                journal.close()
        self.root.close()
        self.stack.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=30)

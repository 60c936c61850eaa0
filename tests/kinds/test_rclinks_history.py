"""Looks at names over a history of changes decide what a look at everything would decide."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import DesiredState, Services
from reconciler.kinds import rclinks
from reconciler.model import FileState, Host, LinkState, Plan, Unlink
from reconciler.observer import Observer
from reconciler.services import CatalogueData
from tests.fakes import MemoryEyes, Thing, link, script

NAMES = ("a", "b", "c\nx")
DESIRED = DesiredState(services=Services(("a",)))
Told = dict[str, set[str]]


class History:
    """A tree that changes, and what a watch has told of it: what appeared, and later what it had set aside."""

    def __init__(self, chance: random.Random, *, insserv: bool) -> None:
        self.chance, self.aside = chance, Told()
        self.eyes = MemoryEyes({}, Host(insserv=insserv))
        for name in NAMES:
            self.eyes.tree = {**self.eyes.tree, **self._script(name)}

    def _script(self, name: str) -> dict[str, Thing]:
        return {**script(name, provides=self.chance.choice((name, "a")), needs=self.chance.choice(("", "a", "b")))}

    def change(self, told: Told) -> None:
        """Something comes, changes or goes; of what goes nothing is told, but of a script."""
        chance, tree = self.chance, dict(self.eyes.tree)
        folder, name = chance.choice(("rc0.d", "rc2.d", "rc2.d", "rcS.d", "init.d")), chance.choice(NAMES)
        if folder == "init.d":
            told.setdefault("/etc/init.d", set()).add(name)
            tree.pop(f"/etc/init.d/{name}", None)
            self.eyes.tree = tree if chance.random() < 0.3 else {**tree, **self._script(name)}
            return
        entry = f"{chance.choice('SSK')}{chance.choice(('01', '20'))}{name}"
        tree.pop(f"/etc/{folder}/{entry}", None)
        if chance.random() < 0.5:
            new = chance.choice((*link(f"{folder}/{entry}").values(), LinkState("../init.d/a"), FileState(b"")))
            tree[f"/etc/{folder}/{entry}"] = new
            starts = entry.startswith("S") and folder != "rc0.d"
            (told if starts else self.aside).setdefault(f"/etc/{folder}", set()).add(entry)
        self.eyes.tree = tree


def unlinks(plan: Plan) -> dict[tuple[str, str], tuple[bool, str | None]]:
    """What is taken away, whether a K link is left for it, and why it is held."""
    steps = [(step.action, step.held) for step in plan.steps]
    return {(a.path, a.target): (bool(a.leave), held) for a, held in steps if isinstance(a, Unlink)}


@given(st.integers(0, 1 << 32), st.booleans())
def test_a_focused_plan_decides_what_the_full_one_does(seed: int, insserv: bool) -> None:
    chance = random.Random(seed)
    history = History(chance, insserv=insserv)
    observer = Observer(history.eyes, CatalogueData(), DESIRED, (rclinks,))
    observer.look()
    for _ in range(16):
        told = Told()
        for _ in range(chance.randint(1, 4)):
            history.change(told)
        focus = {place for place in observer.places if place.folder in told}
        names = {place: told[place.folder] | history.aside.pop(place.folder, set()) for place in focus}
        observer.look(focus, names)
        everything = Observer(history.eyes, CatalogueData(), DESIRED, (rclinks,))
        everything.look()
        full, focused = unlinks(everything.plan()), unlinks(observer.plan(focus=focus))
        assert focused.items() <= full.items()
        appeared = {f"{folder}/{name}" for folder, some in told.items() for name in some}
        assert {path for path, _ in focused} >= {path for path, _ in full if path in appeared}

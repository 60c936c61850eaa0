"""What comes back again and again, and the budget: stops wait, the disk never does, and nothing is given up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import contested
from reconciler.contested import FIRST, LONGEST, QUIET, THRESHOLD, Contest, Memory
from reconciler.desired import DesiredState, Services
from reconciler.holds import Restraints, running
from reconciler.lineage import Lineage
from reconciler.model import Plan
from reconciler.moment import Moment, Span
from reconciler.overrides import Order, Overrides
from reconciler.planner import plan
from reconciler.values import replace
from tests.scenes import INIT, Scene, process, script
from tests.trees import Tree, wait_for

NOON = Moment(1_000_000.0, "a-boot", 500.0)


def after(seconds: float) -> Moment:
    return Moment(NOON.wall + seconds, "a-boot", NOON.since_boot + seconds)


def fought(times: int, every: float = 1.0, name: str = "exim4") -> Memory:
    memory = Memory()
    for number in range(times):
        memory = memory.corrected([name], after(number * every))
    return memory


# --- contests ---


def test_some_corrections_make_no_contest() -> None:
    assert not fought(THRESHOLD - 1).contested(after(THRESHOLD))


def test_the_pauses_grow_and_have_an_end() -> None:
    pauses = [Contest(count, NOON, NOON).pause for count in range(THRESHOLD - 1, THRESHOLD + 30)]
    assert pauses[:4] == [0.0, FIRST, 2 * FIRST, 4 * FIRST]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST


def test_the_records_thin_out() -> None:
    assert [c for c in range(1, 200) if Contest(c, NOON, NOON).escalates] == [5, 10, 20, 40, 80, 160]


@given(st.integers(1, 60))
def test_quiet_ends_it_and_never_before_the_pause_does(times: int) -> None:
    contest = Contest(times, NOON, NOON)
    assert contest.is_over(after(max(QUIET, 4 * LONGEST) + 1))
    assert not contest.is_over(after(contest.pause))
    memory = Memory({"exim4": contest}).corrected(["exim4"], after(10 * LONGEST))
    assert memory.contests["exim4"].count == 1


def test_a_cron_job_each_minute_is_a_contest() -> None:
    assert fought(THRESHOLD, every=60.0).contested(after(60.0 * THRESHOLD))


def test_a_restart_remembers_what_is_contested_and_what_ran() -> None:
    memory = replace(fought(9), established=frozenset(("ssh", "cron")))
    assert contested.parse(contested.text_of(memory)) == memory
    assert contested.parse(contested.text_of(fought(2))) == Memory()


@given(st.binary())
def test_a_memory_that_makes_no_sense_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        contested.parse(text)


# --- what is held ---

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")


def a_host(*runs: str, **facts: Any) -> Scene:
    programs = {name: f"/usr/sbin/{name}d" for name in NAMES}
    scripts = [script(name, program) for name, program in programs.items()]
    processes = [process(100 + number, programs[name]) for number, name in enumerate(runs)]
    return Scene(running=[INIT, *processes], scripts=scripts, **facts)


def planned(scene: Scene, approved: tuple[str, ...], restraints: Restraints) -> Plan:
    return plan(scene.context(DesiredState(services=Services(approved))), restraints)


def held(plan: Plan) -> dict[str, str]:
    return {step.service: (step.held or "").partition(":")[0] for step in plan.steps}


def test_what_is_contested_waits_and_is_tried_again() -> None:
    scene, memory = a_host("alpha", "beta"), fought(8, name="alpha")
    restraints = Restraints(now=after(8), memory=memory)
    assert held(planned(scene, ("beta",), restraints)) == {"alpha": "contested"}
    later = replace(restraints, now=after(7.0 + memory.contests["alpha"].pause + 1))
    assert held(planned(scene, ("beta",), later)) == {"alpha": ""}
    assert held(planned(scene, ("beta",), replace(restraints, ordered=True))) == {"alpha": ""}


PEACE = Restraints(now=NOON, memory=Memory(established=frozenset(NAMES)))


def test_a_state_that_is_plainly_wrong_stops_nothing() -> None:
    scene = a_host(*NAMES)
    assert held(planned(scene, ("alpha", "beta"), PEACE)) == dict.fromkeys(("gamma", "delta", "epsilon"), "budget")


@pytest.mark.parametrize("approved", [("alpha", "beta", "gamma"), NAMES])
def test_half_of_them_and_fewer_may_go(approved: tuple[str, ...]) -> None:
    assert set(held(planned(a_host(*NAMES), approved, PEACE)).values()) <= {""}


def test_whoever_orders_it_gets_it() -> None:
    order = Order("root", "enforce", Span(NOON, 600.0))
    for restraints in (
        replace(PEACE, ordered=True),
        replace(PEACE, overrides=Overrides(released=(order,))),
    ):
        assert set(held(planned(a_host(*NAMES), (), restraints)).values()) == {""}


def test_what_never_ran_in_peace_is_no_slip() -> None:
    """The first correction of a host, and what packages bring at once."""
    assert set(held(planned(a_host(*NAMES), (), Restraints(now=NOON))).values()) == {""}
    few = replace(PEACE, memory=Memory(established=frozenset(("alpha", "beta"))))
    assert held(planned(a_host(*NAMES), ("alpha", "beta"), few)) == dict.fromkeys(("gamma", "delta", "epsilon"), "")


def test_what_a_full_plan_found_a_focused_one_holds_too() -> None:
    scene = a_host("gamma")
    restraints = replace(PEACE, budgeted=frozenset(("gamma",)))
    assert held(planned(scene, (), restraints)) == {"gamma": "budget"}


def test_a_boot_script_that_is_through_does_not_count() -> None:
    scene = a_host("alpha")
    context = scene.context(DesiredState(services=Services(())))
    assert running(context, Lineage.of(context.snapshot, context.catalogue, context.desired)) == {"alpha"}


# --- the daemon ---

ENFORCE = 'version = 1\nmode = "enforce"\ninterval = "1h"\n[services]\napproved = ["ssh"]\n'


def status(tree: Tree) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(tree.command("--json", "status").stdout)
    return found


def test_a_link_that_comes_back_is_unlinked_each_time_and_told_once(tmp_path: Any) -> None:
    tree = Tree(tmp_path, ENFORCE)
    with tree.daemon():
        for _ in range(THRESHOLD + 2):
            tree.link("rc2.d/S20exim4")
            wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "it is unlinked")
            wait_for(lambda: tree.records()[-1]["record"] != "intent", "and written down")
        wait_for(lambda: status(tree)["contested"], "status says so")
        assert status(tree)["contested"][0]["name"] == "/etc/rc2.d/S20exim4"
    notices = [r for r in tree.records() if r["record"] == "contested"]
    assert [n["detail"] for n in notices] == [
        f"/etc/rc2.d/S20exim4: corrected {THRESHOLD} times in a row, and it comes back"
    ]
    assert "appeared" in notices[0]["cause"]
    with tree.daemon():
        assert status(tree)["contested"][0]["count"] == THRESHOLD + 2


def test_a_memory_that_makes_no_sense_is_told_and_forgotten(tmp_path: Any) -> None:
    tree = Tree(tmp_path, ENFORCE)
    tree.write("var/lib/dom0-reconciler/memory.json", "{")
    with tree.daemon():
        tree.link("rc2.d/S20exim4")
        wait_for(lambda: tree.names("rc2.d") == ["K01exim4"], "it works all the same")

"""Laws of planning in a thread, until time is up or ahead: an answer in any case, and nothing computed in vain."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from tdmpc.deploy import bundle, realtime
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import ControlFault, Fault
from tdmpc.deploy.plan_runner import Anytime, thread
from tests.deploy.conftest import HIGH, ITERATIONS, LOW, PLAN, Scripted, planned

NEVER = 1e9


class Gate:
    """A refinement that waits to be let through: a backend as slow as a test wants it."""

    def __init__(self) -> None:
        self.entered, self.opened = Event(), Event()

    def __call__(self, _: dict[str, np.ndarray]) -> dict[str, Any]:
        self.entered.set()
        assert self.opened.wait(60)
        return planned()


@contextmanager
def controlled(described: Bundle, refine: Callable[..., dict[str, Any]], **settings: Any) -> Iterator[Any]:
    start = Scripted(lambda inputs: {"latent": [1.0], "mean": inputs["previous_mean"], "std": 2 * np.ones((3, 2))})
    graphs = {bundle.START: start, bundle.REFINE: Scripted(refine)}
    controller = Controller(described, graphs, **{"deadline_ms": 60_000.0, **settings})
    try:
        yield controller, graphs[bundle.REFINE]
    finally:
        controller.close()


class Inline(Executor):
    """A thread that is as quick as a test wants it: each job is done when ``release`` is called."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs.append((Future(), fn))
        return self.jobs[-1][0]

    def release(self) -> None:
        while self.jobs:
            future, fn = self.jobs.pop(0)
            try:
                future.set_result(fn())
            except RuntimeError as error:
                future.set_exception(error)


@contextmanager
def pipelined(
    described: Bundle, planner: Callable[..., dict[str, Any]], *, delay: int = 1, quick: bool = True, **settings: Any
) -> Iterator[Any]:
    """A controller that answers at once, for a bundle of some delay; its thread is quick, or waits for ``release``."""
    graphs = {bundle.PLANNER: Scripted(planner), bundle.POLICY: Scripted(lambda _: {"action": [1.25, 1.75]})}
    executor = Inline()
    described = dataclasses.replace(described, **{"delay": delay, **settings.pop("bundle", {})})
    controller = Controller(described, graphs, pipelined=True, executor=executor, **settings)
    act = controller.act

    def act_and_plan(observation: Any) -> np.ndarray:
        try:
            return act(observation)
        finally:
            executor.release()

    if quick:
        controller.act = act_and_plan
    controller.release = executor.release
    yield controller, graphs[bundle.PLANNER]


def test_with_enough_time_every_iteration_is_made(described: Bundle, observation: dict[str, Any]) -> None:
    """Each iteration begins where the one before ended, on noise of its own, and the last one's action is taken."""
    means = [PLAN, 0.5 * PLAN]
    with controlled(described, lambda _: planned(means[len(refine.given) - 1])) as (controller, refine):
        action = controller.act(observation)
    first, second = refine.given
    assert second["mean"].tolist() == PLAN.tolist() and second["std"].tolist() == np.ones((3, 2)).tolist()
    assert first["latent"] == second["latent"] == 1
    assert first["noise"].shape == (3, 4, 2) and first["noise"].tolist() != second["noise"].tolist()
    assert action.tolist() == planned(0.5 * PLAN)["action"].tolist()
    assert (controller.counters.iterations, controller.counters.late) == (ITERATIONS, 0)


@pytest.mark.parametrize(("until", "made"), [(0.5, 1), (1.0, 1), (2.5, 2), (3.0, 3), (NEVER, 5)])
def test_as_many_iterations_as_fit(until: float, made: int) -> None:
    """An iteration that, like the ones before it, would not be over in time is not begun; the first one is."""
    now = 0.0

    def refine(_: dict[str, np.ndarray]) -> dict[str, Any]:
        nonlocal now
        now += 1.0
        return planned()

    anytime = Anytime(Scripted(lambda _: {}), Scripted(refine), executor=thread(None), clock=lambda: now)
    anytime.plan(7, {}, lambda: {"noise_samples": np.zeros((5, 3, 4, 2), np.float32)}, until=until)
    anytime.close()
    latest = anytime.finished()
    assert latest is not None and anytime.finished() is None
    assert (latest.decision, latest.iterations) == (7, made)


def test_a_late_plan_does_not_hold_the_robot_up(described: Bundle, observation: dict[str, Any]) -> None:
    """While the backend is busy the last plan is followed, then the fault policy; what comes late is not lost."""
    gate = Gate()
    gate.opened.set()
    with controlled(described, gate, deadline_ms=60_000.0) as (controller, refine):
        first = controller.act(observation)
        gate.opened.clear()
        controller._deadline_ms = 1.0
        late = [controller.act(observation) for _ in range(3)]
        gate.opened.set()
        controller._deadline_ms = 60_000.0
        controller.act(observation)
    low, high = described.low, described.high
    followed = [bundle.actuate(PLAN[1], low, high), bundle.actuate(PLAN[2], low, high)]
    assert [action.tolist() for action in late] == [*(each.tolist() for each in followed), followed[1].tolist()]
    assert first.tolist() == planned()["action"].tolist()
    assert controller.counters.late == 3 and controller.counters.faults[Fault.LATE] == 1
    # What began as decision 2 and came late is, at decision 5, two decisions older than a previous plan.
    assert refine.given[-ITERATIONS]["mean"].tolist() == [PLAN[2].tolist(), [0, 0], [0, 0]]


def test_late_from_the_start_is_a_fault(described: Bundle, observation: dict[str, Any]) -> None:
    """Without any plan to follow, a missed deadline is decided by the fault policy."""
    gate = Gate()
    with controlled(described, gate, deadline_ms=1.0) as (controller, _):
        assert controller.act(observation).tolist() == [0.0, 0.5]
        gate.opened.set()
    assert controller.counters.faults[Fault.LATE] == 1


def test_a_deadline_runs_from_the_release(
    described: Bundle, observation: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision that was due before has only what is left of its deadline; one that comes early has no more of it."""
    untils: list[float] = []
    monkeypatch.setattr(Anytime, "is_free", lambda _, until: untils.append(until))
    with controlled(described, planned, deadline_ms=5000.0, clock=lambda: 100.0) as (controller, _):
        for released_at in (None, 98.0, 101.0):
            controller.act(observation, released_at=released_at)
    assert untils == [105.0, 103.0, 105.0]


def test_a_plan_of_the_episode_before_is_not_followed(described: Bundle, observation: dict[str, Any]) -> None:
    """A plan that comes late, after a reset, is no warm start of the new episode."""
    gate = Gate()
    with controlled(described, gate, deadline_ms=1.0) as (controller, refine):
        controller.act(observation)
        assert gate.entered.wait(60)
        controller.reset()
        gate.opened.set()
        controller._deadline_ms = 60_000.0
        controller.act(observation)
    assert refine.given[-ITERATIONS]["mean"].tolist() == (0 * PLAN).tolist()


def test_a_late_plan_that_is_not_finite_is_forgotten(described: Bundle, observation: dict[str, Any]) -> None:
    """NaN that comes late neither becomes a warm start nor stops the next plan."""
    gate = Gate()
    answers = [lambda i: {**gate(i), "new_mean": np.full_like(PLAN, np.nan)}]
    with controlled(described, lambda i: answers.pop(0)(i) if answers else planned(), deadline_ms=1.0) as (
        controller,
        refine,
    ):
        controller.act(observation)
        gate.opened.set()
        controller._deadline_ms = 60_000.0
        assert controller.act(observation).tolist() == planned()["action"].tolist()
    assert np.isfinite(refine.given[-1]["mean"]).all()
    assert controller.counters.faults[Fault.PLAN] == 0


@pytest.mark.parametrize("ahead", [False, True])
def test_what_the_thread_raises_is_a_fault(described: Bundle, observation: dict[str, Any], ahead: bool) -> None:
    """An error of the backend in the planner's thread is told as a fault, and the next decision plans again."""
    errors = [RuntimeError("the accelerator is gone")]

    def fail_once(_: dict[str, np.ndarray]) -> dict[str, Any]:
        if errors:
            raise errors.pop()
        return planned()

    way = pipelined if ahead else controlled
    with way(described, fail_once, on_fault="raise") as (controller, _):
        if ahead:
            controller.act(observation)
        with pytest.raises(ControlFault, match="planner failed: RuntimeError: the accelerator is gone") as caught:
            controller.act(observation)
        assert caught.value.fault is Fault.PLAN and controller.counters.faults[Fault.PLAN] == 1
        for _ in range(3):
            controller.act(observation)
        assert controller.plan.tolist() == PLAN.tolist()


def test_who_waits_comes_before_who_plans(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a real-time priority the planning threads run one below: on a single core, too, the deadline is seen."""
    asked: list[tuple[bool, int | None]] = []
    main = threading.get_ident()

    def ask(priority: int | None) -> None:
        asked.append((threading.get_ident() == main, priority))

    monkeypatch.setattr(realtime, "prioritise", ask)
    controller = Controller.load(copied, Runtime(priority=40), deadline_ms=60_000.0)
    controller.act(np.zeros(2))
    controller.close()
    assert asked == [(True, 39), (True, 39), (True, 40), (False, 39)]


# ------------------------------------------------------------------------------------------------------- planning ahead

MIDDLE = [1.0, 1.5]
"""Of the actuators' range."""


def units(plan: np.ndarray) -> list[float]:
    return bundle.actuate(plan, np.array(LOW, np.float32), np.array(HIGH, np.float32)).tolist()


@pytest.mark.parametrize("delay", [1, 2])
def test_the_action_that_is_due_is_returned_at_once(described: Bundle, observation: dict[str, Any], delay: int) -> None:
    """A plan's action is due as many decisions later as the delay; before any is due, the middle of the range is."""
    plans = [PLAN, 0.5 * PLAN, -PLAN, 0.25 * PLAN]
    with pipelined(described, lambda _: planned(plans[len(planner.given) - 1]), delay=delay) as (controller, planner):
        actions = [controller.act(observation).tolist() for _ in range(4)]
    assert actions == [*[MIDDLE] * delay, *(units(plan[0]) for plan in plans[: 4 - delay])]
    assert controller.counters.late == 0 and controller.counters.iterations == 4 * ITERATIONS - ITERATIONS


@pytest.mark.parametrize("delay", [1, 2])
def test_a_plan_begins_behind_what_is_committed(described: Bundle, observation: dict[str, Any], delay: int) -> None:
    """The planner is given the action before the observation and those that are due until its plan begins, and the
    plan of the decision before as its warm start.
    """
    plans = [PLAN, 0.5 * PLAN, -PLAN, 0.25 * PLAN]
    with pipelined(described, lambda _: planned(plans[len(planner.given) - 1]), delay=delay) as (controller, planner):
        for _ in range(4):
            controller.act(observation)
    applied = [np.zeros(2)] * (delay + 1) + [plan[0] for plan in plans]
    for number, given in enumerate(planner.given):
        assert given["committed"] == pytest.approx(np.stack(applied[number : number + delay + 1]), abs=1e-6)
        assert given["previous_mean"].tolist() == (plans[number - 1] if number else 0 * PLAN).tolist()


def test_while_a_plan_is_late_the_one_before_is_followed(described: Bundle, observation: dict[str, Any]) -> None:
    """A plan that is not there is replaced by what the one before has for the moment, then by the fault policy; what
    comes late is followed from where it has come to.
    """
    plans = [PLAN, 0.5 * PLAN]
    with pipelined(described, lambda _: planned(plans[len(planner.given) - 1]), quick=False) as (controller, planner):
        actions = [controller.act(observation)]
        controller.release()
        actions += [controller.act(observation) for _ in range(5)]
        controller.release()
        actions.append(controller.act(observation))
    assert [action.tolist() for action in actions[:6]] == [
        *(MIDDLE, units(PLAN[0]), units(PLAN[1]), units(PLAN[2]), units(PLAN[2]), units(PLAN[2])),
    ]
    assert controller.counters.late == 5 and controller.counters.faults[Fault.LATE] == 3
    assert len(planner.given) == 2, "nothing is planned while a plan is being made"


@pytest.mark.parametrize(("policy", "safe"), [("hold", units(PLAN[0])), ("zero", [0.0, 0.5]), ("prior", [1.25, 1.75])])
def test_a_missed_observation_is_a_fault_of_the_decision_it_was_for(
    described: Bundle, observation: dict[str, Any], policy: Any, safe: list[float]
) -> None:
    """What is due is still returned; the action that the missed observation was for is the fault policy's."""
    with pipelined(described, lambda _: planned(), on_fault=policy) as (controller, planner):
        actions = [controller.act(seen).tolist() for seen in (observation, None, observation, observation)]
    assert actions == [MIDDLE, units(PLAN[0]), pytest.approx(safe), units(PLAN[0])]
    assert len(planner.given) == 3 and controller.counters.faults[Fault.SHAPE] == 1 and controller.counters.late == 0
    assert planner.given[1]["committed"][-1] == pytest.approx(
        bundle.deactuate(np.float32(safe), described.low, described.high)
    )


def test_a_plan_of_the_episode_before_is_not_waited_for(described: Bundle, observation: dict[str, Any]) -> None:
    """After a reset the middle of the range comes first again, and a plan that was still being made is thrown away."""
    with pipelined(described, lambda _: planned(), quick=False) as (controller, planner):
        controller.act(observation)
        controller.reset(seed=1)
        first = controller.act(observation)
        controller.release()
        second = controller.act(observation)
        controller.release()
        third = controller.act(observation)
    assert first.tolist() == MIDDLE
    # The thread was busy with the old episode's plan at the first decision, so the first plan is for the third.
    assert second.tolist() == MIDDLE and third.tolist() == units(PLAN[0])
    assert planner.given[1]["previous_mean"].tolist() == (0 * PLAN).tolist()


@pytest.mark.parametrize("policy", ["hold", "zero", "prior"])
@pytest.mark.parametrize("delay", [0, 2])
def test_nothing_changes_faster_than_allowed(
    described: Bundle, observation: dict[str, Any], policy: Any, delay: int
) -> None:
    """Neither plans, nor late ones, nor a fault policy move an actuator further in a decision than the limit."""
    random = np.random.default_rng(0)
    limit = {"bundle": {"max_change": 0.1}}
    with pipelined(
        described,
        lambda _: planned(random.uniform(-1, 1, PLAN.shape).astype(np.float32)),
        delay=max(delay, 1),
        quick=False,
        on_fault=policy,
        **limit,
    ) as (controller, _):
        actions = [np.array(MIDDLE)]
        for _ in range(60):
            actions.append(controller.act(observation if random.random() < 0.7 else None))
            if random.random() < 0.6:
                controller.release()
    half = (np.array(HIGH) - np.array(LOW)) / 2
    changes = np.abs(np.diff(actions, axis=0)) / half
    assert 0.05 < changes.max() <= 0.1 + 1e-6


def test_a_pipeline_needs_a_bundle_for_a_delay(copied: Path) -> None:
    """A bundle that plans for the moment of the observation is refused, with what to export instead."""
    with pytest.raises(BundleError, match="--delay 1"):
        Controller.load(copied, pipelined=True)
    with pytest.raises(BundleError, match="not both"):
        Controller.load(copied, pipelined=True, deadline_ms=5)

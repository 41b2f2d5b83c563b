"""Laws of planning until time is up: as much as fits, an answer in any case, and nothing computed in vain."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from deploy import bundle, realtime
from deploy.anytime import Anytime
from deploy.backends import Runtime
from deploy.bundle import Bundle
from deploy.controller import Controller
from deploy.faults import Fault
from tests.deploy.conftest import ITERATIONS, PLAN, Scripted, planned

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

    anytime = Anytime(Scripted(lambda _: {}), Scripted(refine), clock=lambda: now)
    anytime.plan(7, {}, np.zeros((5, 3, 4, 2), np.float32), until=until)
    anytime.close()
    assert anytime.latest is not None
    assert (anytime.latest.decision, anytime.latest.iterations) == (7, made)


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


def test_what_the_thread_raises_is_raised(described: Bundle, observation: dict[str, Any]) -> None:
    """An error of the backend is not swallowed by the thread that it happens in."""

    def fail(_: dict[str, np.ndarray]) -> dict[str, Any]:
        raise RuntimeError("the accelerator is gone")

    with controlled(described, fail) as (controller, _), pytest.raises(RuntimeError, match="accelerator is gone"):
        controller.act(observation)


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

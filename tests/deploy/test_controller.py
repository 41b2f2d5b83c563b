"""Laws of the controller: what it feeds its planner, and that nothing but safe actions leaves it."""

import dataclasses
import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays

from tdmpc.deploy import bundle, contract
from tdmpc.deploy.bundle import Bundle, actuate
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import ControlFault, Fault
from tests.deploy.conftest import HIGH, LOW, MANIFEST, PLAN, Scripted, planned

Make = Callable[..., tuple[Controller, Scripted]]
ZERO = np.array([0.0, 0.5])
"""Nought, or the bound nearest to it."""

BAD: dict[str, tuple[Any, Fault]] = {
    "nan": ({"joint": [np.nan, 0], "body": {"height": 1}}, Fault.NONFINITE),
    "infinite": ({"joint": [0, 0], "body": {"height": -np.inf}}, Fault.NONFINITE),
    "beyond single precision": ({"joint": [0, 1e300], "body": {"height": 1}}, Fault.NONFINITE),
    "too long": ({"joint": [0, 0, 0], "body": {"height": 1}}, Fault.SHAPE),
    "a scalar too deep": ({"joint": [0, 0], "body": {"height": [1]}}, Fault.SHAPE),
    "ragged": ({"joint": [[0], [0, 1]], "body": {"height": 1}}, Fault.SHAPE),
    "no numbers": ({"joint": ["left", "right"], "body": {"height": 1}}, Fault.SHAPE),
    "missing": ({"joint": [0, 0]}, Fault.SHAPE),
    "not nested": ({"joint": [0, 0], "body": 1}, Fault.SHAPE),
    "nothing": (None, Fault.SHAPE),
    "an integer beyond all numbers": ({"joint": [0, 10**400], "body": {"height": 1}}, Fault.SHAPE),
    "a complex number": ({"joint": np.array([1, 2j]), "body": {"height": 1}}, Fault.SHAPE),
}


def test_sensors_go_in_and_actuator_units_come_out(control: Make, observation: dict[str, Any]) -> None:
    """The planner is given each sensor under its input's name, and its action is what the robot gets."""
    controller, planner = control()
    assert controller.value == 0.0
    action = controller.act(observation)
    assert planner.given[0]["observation/joint"] == pytest.approx([0.1, -0.2])
    assert planner.given[0]["observation/body/height"] == 1.5
    assert action.tolist() == actuate(PLAN[0], np.array(LOW), np.array(HIGH)).tolist() == [2.0, 1.0]
    assert controller.value == 5.0


def test_each_plan_begins_with_the_one_before(control: Make, observation: dict[str, Any]) -> None:
    """The planner is given its own last plan, none at the start of an episode; the graph itself shifts it."""
    controller, planner = control()
    for _ in range(2):
        controller.act(observation)
    controller.reset()
    controller.act(observation)
    given = [inputs["previous_mean"].tolist() for inputs in planner.given]
    assert given == [(0 * PLAN).tolist(), PLAN.tolist(), (0 * PLAN).tolist()]


def test_a_decision_without_a_plan_moves_the_last_one_on(control: Make, observation: dict[str, Any]) -> None:
    """After two faults, the plan of three decisions ago is given as it stands one decision ago."""
    controller, planner = control()
    for sensed in (observation, None, None, observation):
        controller.act(sensed)
    assert planner.given[1]["previous_mean"].tolist() == [PLAN[2].tolist(), [0, 0], [0, 0]]


def test_the_seed_is_the_noise(control: Make, observation: dict[str, Any]) -> None:
    """The same seed draws the same noise again, another seed other noise, every decision new noise."""
    controller, planner = control()
    for seed in (3, 3, 4):
        controller.reset(seed=seed)
        controller.act(observation)
        controller.act(observation)
    noise = [inputs["noise_samples"].ravel().tolist() for inputs in planner.given]
    assert noise[:2] == noise[2:4] and noise[0] != noise[1] and noise[0] != noise[4]
    draws = np.concatenate([inputs["noise_policy"].ravel() for inputs in planner.given])
    assert abs(draws.mean()) < 0.7 and 0.5 < draws.std() < 1.5


@pytest.mark.parametrize(("sensed", "kind"), BAD.values(), ids=BAD)
def test_a_bad_observation_reaches_no_actuator(
    control: Make, observation: dict[str, Any], sensed: Any, kind: Fault
) -> None:
    """Whatever is wrong with an observation, the planner does not see it, the last action is held, a counter tells."""
    controller, planner = control()
    before = controller.act(observation)
    assert controller.act(sensed).tolist() == before.tolist()
    assert len(planner.given) == 1
    assert controller.counters.faults == {**dict.fromkeys(Fault, 0), kind: 1}
    assert controller.counters.decisions == 2


@pytest.mark.parametrize(
    ("policy", "first", "later"),
    [("hold", ZERO, [2.0, 1.0]), ("zero", ZERO, ZERO), ("prior", ZERO, [1.25, 1.75])],
)
def test_on_fault_decides(
    control: Make, observation: dict[str, Any], policy: str, first: list[float], later: list[float]
) -> None:
    """Before and after the first good observation, a fault gives the action that ``on_fault`` says."""
    controller, _ = control(on_fault=policy)
    assert controller.act(None).tolist() == pytest.approx(first)
    controller.act(observation)
    assert controller.act(None).tolist() == pytest.approx(later)


def test_nought_is_brought_within_bounds(described: Bundle) -> None:
    """Where an actuator's range lies below or above nought, the bound nearest to it is the safe action."""
    beyond = dataclasses.replace(described, low=np.float32([-3.0, 0.5]), high=np.float32([-1.0, 2.5]))
    graphs = {bundle.PLANNER: Scripted(lambda _: planned())}
    assert Controller(beyond, graphs).act(None).tolist() == [-1.0, 0.5]


def test_raising_is_a_policy(control: Make, observation: dict[str, Any]) -> None:
    """With ``raise`` a fault is an error that names sensor and reason, is counted, and the next decision goes on."""
    controller, _ = control(on_fault="raise")
    with pytest.raises(ControlFault, match=r"sensor 'joint' must have shape \(2,\), got \(1,\)") as error:
        controller.act({"joint": [0], "body": {"height": 1}})
    assert error.value.fault is Fault.SHAPE and controller.counters.faults[Fault.SHAPE] == 1
    assert controller.act(observation).tolist() == [2.0, 1.0]


class Failing:
    """An object that is no reading, and says so as it likes."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise self.error

    def __getitem__(self, _: object) -> object:
        raise self.error


class Unapproachable:
    """An object that cannot even be asked what it is."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError("do not touch")


SCALARS = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.integers(min_value=10**39, max_value=10**400)
    | st.complex_numbers()
    | st.text(max_size=3)
    | st.binary(max_size=3)
    | st.sampled_from([ValueError("v"), RuntimeError("r"), KeyError("k"), OSError("o"), ZeroDivisionError()]).map(
        Failing
    )
    | st.builds(Unapproachable)
)
KINDS = st.sampled_from(["f2", "f4", "f8", "i8", "u8", "c8", "c16", "?", "M8[s]", "m8[s]", "U2", "S2", "O"])
JUNK = st.recursive(
    SCALARS | arrays(KINDS, array_shapes(min_dims=0, max_dims=2, max_side=3)),
    lambda parts: (
        st.lists(parts, max_size=3)
        | st.tuples(parts, parts)
        | st.dictionaries(st.sampled_from(["joint", "body", "height", "0"]), parts, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("policy", ["hold", "zero", "prior", "raise"])
@given(observations=st.lists(JUNK | st.fixed_dictionaries({"joint": JUNK, "body": JUNK}), min_size=1, max_size=4))
def test_whatever_is_sensed_the_answer_is_safe(module_bundle: Bundle, policy: Any, observations: list[Any]) -> None:
    """Any junk in place of an observation gives an action that is finite and within bounds, or a fault if so asked."""
    graphs = {
        bundle.PLANNER: Scripted(lambda _: planned()),
        bundle.POLICY: Scripted(lambda _: {"action": [1.25, 1.75]}),
    }
    controller = Controller(module_bundle, graphs, on_fault=policy)
    for observation in observations:
        try:
            action = controller.act(observation)
        except ControlFault:
            assert policy == "raise"
        else:
            assert action.dtype == np.float32 and np.isfinite(action).all()
            assert (action >= LOW).all() and (action <= HIGH).all()


@pytest.fixture(scope="module")
def module_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    (folder / bundle.MANIFEST).write_text(json.dumps(MANIFEST))
    return bundle.read(folder)


def test_an_old_observation_is_a_fault(control: Make, observation: dict[str, Any]) -> None:
    """What was measured longer ago than allowed is not planned from; without a time it is taken as new."""
    now = 100.0
    controller, planner = control(max_age_ms=20.0, clock=lambda: now)
    for measured_at in (None, 99.99, 99.97, float("nan")):
        controller.act(observation, measured_at=measured_at)
    assert len(planner.given) == 2 and controller.counters.faults[Fault.STALE] == 2


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, Scripted]:
    """The graphs that are loaded from now on, by name; each is scripted and takes two numbers."""
    graphs: dict[str, Scripted] = {}

    def load(_: Bundle, name: str, __: object) -> Scripted:
        graphs[name] = Scripted(lambda _: planned())
        graphs[name].shapes = {"numbers": (2,)}
        return graphs[name]

    monkeypatch.setattr(contract, "load", load)
    return graphs


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({}, [bundle.PLANNER]),
        ({"on_fault": "prior"}, [bundle.PLANNER, bundle.POLICY]),
        ({"deadline_ms": 60_000.0}, [bundle.START, bundle.REFINE]),
    ],
    ids=str,
)
def test_what_is_needed_is_loaded_and_run_once(
    described: Bundle, loaded: dict[str, Scripted], settings: dict[str, Any], needed: list[str]
) -> None:
    """A controller loads the graphs that its settings ask for, and no other, and runs each once before it acts."""
    Controller.load(described.folder, **settings).close()
    assert list(loaded) == needed
    assert all([given["numbers"].tolist() for given in graph.given] == [[0, 0]] for graph in loaded.values())


@pytest.mark.parametrize(("allowed", "stale"), [(None, 1), (1e9, 0)])
def test_an_observation_may_be_as_old_as_a_period(
    described: Bundle, loaded: dict[str, Scripted], observation: dict[str, Any], allowed: float | None, stale: int
) -> None:
    """What was measured longer ago than a control period, here of 20 ms, is a fault unless another age is allowed."""
    controller = Controller.load(described.folder, max_age_ms=allowed)
    controller.act(observation, measured_at=time.monotonic() - 0.021)
    assert controller.counters.faults[Fault.STALE] == stale


@pytest.mark.parametrize("part", ["action", "new_mean"])
def test_a_plan_that_is_not_finite_is_a_fault(control: Make, observation: dict[str, Any], part: str) -> None:
    """NaN out of the planner neither leaves the controller nor becomes a warm start."""
    answers = [planned(), {**planned(), part: np.full_like(planned()[part], np.nan)}, planned()]
    controller, planner = control(lambda _: answers.pop(0))
    actions = [controller.act(observation) for _ in range(3)]
    assert np.isfinite(actions).all() and controller.counters.faults[Fault.PLAN] == 1
    assert np.isfinite(planner.given[2]["previous_mean"]).all()


def test_a_prior_that_is_not_finite_is_not_followed(control: Make, observation: dict[str, Any]) -> None:
    """Where the policy itself gives NaN, its fault policy falls back to the last action."""
    controller, _ = control(on_fault="prior")
    before = controller.act(observation)
    controller._graphs["policy.onnx"] = Scripted(lambda _: {"action": [np.nan, 0]})  # type: ignore[index]
    assert controller.act(None).tolist() == before.tolist()


def test_a_caller_cannot_change_the_held_action(control: Make, observation: dict[str, Any]) -> None:
    """Writing into a returned action does not change what is held later."""
    controller, _ = control()
    action = controller.act(observation)
    action[:] = np.nan
    assert controller.act(None).tolist() == [2.0, 1.0]


def test_a_single_sensor_may_come_bare(control: Make) -> None:
    """An environment whose observation is one array needs no mapping around it, a tuple is read by number."""
    from tdmpc.deploy import faults
    from tdmpc.deploy.bundle import Sensor

    (bare,) = faults.read([1, 2], [Sensor("observation", "observation", (2,))]).values()
    assert bare.dtype == np.float32 and bare.tolist() == [1, 2]
    (second,) = faults.read(([0], {"x": 3}), [Sensor("1/x", "observation/1/x", ())]).values()
    assert second == 3


def test_sensors_may_come_by_their_names(control: Make) -> None:
    """A mapping by the names of the manifest is read as the nested one of the environment is."""
    controller, planner = control()
    controller.act({"joint": [0.1, -0.2], "body/height": 1.5})
    controller.act({"joint": [0.1, -0.2], "body": {"height": 1.5}})
    flat, nested = ({name: values.tolist() for name, values in each.items() if "/" in name} for each in planner.given)
    assert flat == nested and flat["observation/body/height"] == 1.5


def test_acting_allocates_nothing_that_grows(control: Make, observation: dict[str, Any]) -> None:
    """A thousand decisions hold less memory than one object each would."""
    controller, planner = control()

    def act(decisions: int) -> int:
        for _ in range(decisions):
            controller.act(observation)
            planner.given.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = act(100)
        assert act(1000) - before < 1000 * sys.getsizeof(0.0)
    finally:
        tracemalloc.stop()


def test_time_is_monotonic(control: Make, observation: dict[str, Any]) -> None:
    """``measured_at`` is on the clock that the documentation names."""
    controller, _ = control(max_age_ms=10_000.0)
    controller.act(observation, measured_at=time.monotonic())
    assert controller.counters.faults[Fault.STALE] == 0

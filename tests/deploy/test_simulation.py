"""Laws of the loop in real time: the simulator goes on while the controller computes, and nothing else changes."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box

from tdmpc.deploy import bundle, simulation
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.deploy.simulation import Clock, constant, drawn, quantiles_of, real_time
from tests.deploy.conftest import Exported

STEPS = 12


class Tape(gym.Env):
    """Keeps what its actuator took at each step, and shows how many steps there were."""

    dt = 0.01
    taken: list[float]

    def __init__(self) -> None:
        self.action_space = Box(-2, 2, (1,), np.float64)
        self.observation_space = Box(-np.inf, np.inf, (1,), np.float64)
        self.taken = []
        tapes.append(self)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = []
        return np.zeros(1), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.taken.append(float(action[0]))
        return np.full(1, float(len(self.taken))), float(action[0]), False, len(self.taken) == STEPS, {}


tapes: list[Tape] = []


@pytest.fixture
def taped(described: Bundle) -> Iterator[Bundle]:
    """A bundle of an environment with four simulator steps of 10 ms in a decision."""
    known = dict(gym.registry)
    gym.register("Tape-v0", entry_point=Tape)
    environment = {"id": "Tape-v0", "control_period_ms": 40.0, "action_repeat": 4}
    bounds = {"low": np.float32([-2]), "high": np.float32([2])}
    yield dataclasses.replace(described, manifest={**described.manifest, "environment": environment}, **bounds)
    gym.registry.clear()
    gym.registry.update(known)


@pytest.mark.parametrize(
    ("latency_ms", "taken", "idle"),
    [
        (0, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3], 0),
        (1, [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3], 0),
        (20, [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3], 0),
        (40, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], 0),
        (41, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1], 1),
        (90, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1], 2),
    ],
)
def test_until_an_action_is_there_the_one_before_goes_on(
    taped: Bundle, latency_ms: float, taken: list[int], idle: int
) -> None:
    """An action reaches the actuators in the first step of the simulator behind its latency; before the first one they
    are in the middle of their range; releases that pass meanwhile begin no decision.
    """
    clock, decisions = Clock(), iter(range(1, 99))
    found = simulation._play(
        taped,
        lambda _: np.float32([next(decisions) / 10]),
        lambda: None,
        clock=clock,
        latency=constant(latency_ms),
        episodes=1,
        seed=0,
    )
    assert tapes[-1].taken == pytest.approx([each / 10 for each in taken])
    assert found.returns == pytest.approx([sum(taken) / 10]) and clock.now == pytest.approx(0.12)
    assert (found.releases, found.idle) == (3, idle)


def test_times_are_drawn_as_they_were_measured() -> None:
    """Drawn times have the distribution that was measured, slowed down, and the same seed draws the same."""
    quantiles = np.linspace(1.0, 3.0, 1001).tolist()
    first, again, other = (drawn(quantiles, 10, seed) for seed in (0, 0, 1))
    times = np.array([first(0.0) for _ in range(2000)])
    assert times.tolist() == [again(0.0) for _ in range(2000)] and times[0] != other(0.0)
    assert (
        0.01 <= times.min() < 0.0102 and 0.0298 < times.max() <= 0.03 and times.mean() == pytest.approx(0.02, rel=0.02)
    )


@pytest.mark.slow
def test_a_pipeline_in_time_loses_nothing(export_case: Callable[[str], Exported]) -> None:
    """Until a plan takes as long as a control period, a pipelined controller returns what it does where the simulator
    waits. Then not every decision is planned, and beyond the delay every plan is late; both are counted.
    """
    folder = export_case("default-pruned-terminates").folder
    play = {"episodes": 2, "seed": 0}
    quick, busy, slow = (real_time(folder, Runtime(), constant(ms), **play) for ms in (19.9, 39.9, 41))
    assert quick.returns == quick.waiting_returns and quick.late == 0
    assert busy.waiting_returns == slow.waiting_returns == quick.waiting_returns
    assert 0 < busy.late < busy.releases / 2 < slow.late
    assert quick.latencies_ms[0] == pytest.approx(19.9) and len(quick.latencies_ms) == quick.releases


@pytest.mark.slow
def test_without_delay_an_action_comes_late(export_case: Callable[[str], Exported]) -> None:
    """A controller that plans for the moment of the observation returns something else as soon as it takes time."""
    folder = export_case("reference-pruned").folder
    found = real_time(folder, Runtime(), constant(20), episodes=2, seed=0)
    assert found.returns != found.waiting_returns and found.late == 0
    by_policy = real_time(folder, Runtime(), constant(0), policy="prior", episodes=2, seed=0)
    assert by_policy.returns == by_policy.waiting_returns != found.returns


@pytest.mark.slow
def test_without_a_period_there_is_no_real_time(export_case: Callable[[str], Exported]) -> None:
    """An environment that tells no control period is refused, with what it would have to tell."""
    with pytest.raises(BundleError, match=r"tells no control period.*dt"):
        real_time(export_case("default").folder, Runtime(), constant(0), episodes=1, seed=0)


def test_times_of_another_bundle_are_refused(described: Bundle, tmp_path: Path) -> None:
    """Times are drawn only from a file of this bundle with this runtime; else one line says what to measure."""
    path = tmp_path / "latency.json"
    row = {
        "model": described.model_id,
        "precision": "float32",
        "backend": "onnxruntime",
        "threads": 1,
        "mode": "single",
    }
    for rows, says in [
        ([{**row, "model": "another"}], "measure it by tdmpc latency"),
        ([{**row, "threads": 2}], "measure it by tdmpc latency"),
        ([{**row, "mode": "periodic"}], "measure it by tdmpc latency"),
        ([{**row, "precision": "bfloat16"}], "measure it by tdmpc latency"),
        ([row], "is not what tdmpc latency --json writes"),
        ({"a": 1}, "is not what tdmpc latency --json writes"),
    ]:
        path.write_text(json.dumps(rows))
        with pytest.raises(BundleError, match=says):
            quantiles_of(path, described, Runtime())
    path.write_text(json.dumps([{**row, "quantiles_ms": [1.0, 2.0]}]))
    assert quantiles_of(path, described, Runtime()) == [1.0, 2.0]
    path.write_text(json.dumps([{**row, "precision": "bfloat16", "quantiles_ms": [3.0]}]))
    assert quantiles_of(path, described, Runtime(precision="auto")) == [3.0]
    with pytest.raises(BundleError, match="No such file"):
        quantiles_of(tmp_path / "missing.json", described, Runtime())
    assert bundle.read(described.folder).model_id == described.model_id

"""Laws of what must not happen: where numbers, environment or disk go wrong a run stops, says so and loses nothing."""

import errno
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tdmpc import checkpoint
from tdmpc.agent import NonFiniteError
from tdmpc.checkpoint import CheckpointError
from tdmpc.config import TrainConfig
from tests.tdmpc.conftest import TOY, Toy, open_run, spec_of, tiny
from tests.tdmpc.outcomes import differing, last_saved, outcome, whole_run


@pytest.fixture
def lanes_that_fail(register: Callable[..., str]) -> Callable[..., TrainConfig]:
    """Register toys whose step or reset is spoilt in one lane; the run's config."""

    def prepare(lane: int, time: int, *, sensor: float = 0.0, reward: float = 0.0) -> TrainConfig:
        toys: list[Toy] = []

        def tamper(toy: Toy, observation: np.ndarray, pay: float, terminated: bool) -> tuple[Any, float, bool]:
            hit = toys.index(toy) == lane and next(steps) == time
            return np.array([observation[0], sensor if hit else 0]), reward if hit else pay, terminated

        steps = itertools.count()

        def make(**options: Any) -> Toy:
            toys.append(Toy(tamper, **options))
            return toys[-1]

        register(make)
        config = tiny(TOY, num_envs=3, checkpoint_every=15)
        spec_of(config)
        toys.clear()
        return config

    return prepare


@pytest.mark.parametrize(
    ("what", "spoilt"),
    [("observation", {"sensor": math.nan}), ("observation", {"sensor": math.inf}), ("reward", {"reward": math.nan})],
    ids=["nan observation", "infinite observation", "nan reward"],
)
def test_an_environment_that_returns_nan_stops_the_run(
    tmp_path: Path, lanes_that_fail: Callable[..., TrainConfig], what: str, spoilt: dict[str, float]
) -> None:
    """A number from the environment that is not finite is named with step and lane, never stored, and saved apart."""
    trainer = open_run(lanes_that_fail(lane=1, time=13, **spoilt), tmp_path)
    with pytest.raises(NonFiniteError, match=f"{what} .* environment step 39, lane 1: ") as caught:
        trainer.run()
    assert "\n" not in str(caught.value) and str(tmp_path / "fault-39") in str(caught.value)
    dump = checkpoint.load(tmp_path / "fault-39")
    assert what in dump.meta["error"]
    assert not dump.tensors[f"fault/{what}"][1].isfinite().all()
    assert dump.tensors["replay/rows"].isfinite().all()
    assert checkpoint.load(tmp_path).meta["agent_steps"] == 30


def test_a_reset_that_returns_nan_stops_the_run(
    tmp_path: Path, register: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An episode that begins with what is not finite stops the run just so."""
    register()
    trainer = open_run(tiny(TOY, num_envs=2), tmp_path)
    begin = trainer.envs.begin
    monkeypatch.setattr(trainer.envs, "begin", lambda ended: begin(ended) * np.array([[1], [math.nan]], np.float32))
    with pytest.raises(NonFiniteError, match=r"observation .* environment step 18, lane 1: "):
        trainer.run()
    assert checkpoint.load(tmp_path / "fault-18").tensors["trainer/observations"][1].isnan().all()


@pytest.mark.parametrize("where", ["reward", "dynamics", "value", "policy"])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, where: str) -> None:
    """A loss that is not finite is named with the update; the batch and the agent are saved apart."""
    trainer = open_run(tiny("Pendulum-v1", checkpoint_every=15), tmp_path)
    update = trainer.agent.update

    def poisoned(batch: Any) -> Any:
        if trainer.agent.updates == 6:
            with torch.no_grad():
                next(trainer.agent.model.components[where].parameters()).fill_(math.nan)
        return update(batch)

    trainer.agent.update = poisoned  # pyright: ignore[reportAttributeAccessIssue]
    names = {"reward": "reward loss", "dynamics": "consistency, ", "value": "value", "policy": "value"}
    with pytest.raises(NonFiniteError, match=f"{names[where]}.* not finite at update 6") as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    dump = checkpoint.load(tmp_path / "fault-20")
    assert dump.tensors["batch/observations"].shape == (4, 16, 3) and "not finite" in dump.meta["error"]
    assert int(dump.tensors["agent/updates"]) == 6
    assert checkpoint.load(tmp_path).meta["agent_steps"] == 15


def test_a_plan_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that is not finite is an error with its step, and is saved apart too."""
    trainer = open_run(tiny("Pendulum-v1", updates_per_step=0.0, pretrain_updates=0, checkpoint_every=15), tmp_path)
    with torch.no_grad():
        next(trainer.agent.model.components["encoder"].parameters()).fill_(math.nan)
    with pytest.raises(NonFiniteError, match=r"plan is not finite at agent step 20.*fault-20"):
        trainer.run()
    assert checkpoint.load(tmp_path / "fault-20").tensors["trainer/observations"].isfinite().all()
    assert checkpoint.load(tmp_path).meta["agent_steps"] == 15


def test_a_simulation_that_fails_stops_the_run(tmp_path: Path, register: Callable[..., str]) -> None:
    """A simulation that gives up is named with its step, and the actions that broke it are saved apart."""

    def diverge(toy: Toy, *step: Any) -> Any:
        if toy.time == 4 and gives_up:
            raise RuntimeError("the state is not finite")
        return step

    gives_up: list[bool] = []
    register(lambda **options: Toy(diverge, **options))
    trainer = open_run(tiny(TOY, num_envs=2), tmp_path)
    gives_up.append(True)
    with pytest.raises(NonFiniteError, match=r"the state is not finite, at environment step 6.*fault-6"):
        trainer.run()
    assert checkpoint.load(tmp_path / "fault-6").tensors["fault/actions"].shape == (2, 1)
    assert last_saved(tmp_path) == 0


def test_a_fault_does_not_end_the_run_for_good(tmp_path: Path, lanes_that_fail: Callable[..., TrainConfig]) -> None:
    """After a fault the run can be gone on with from its last checkpoint."""
    config = lanes_that_fail(lane=2, time=13, sensor=math.nan)
    trainer = open_run(config, tmp_path)
    with pytest.raises(NonFiniteError):
        trainer.run()
    trainer = open_run(config, tmp_path)
    assert trainer.agent_steps == 30


def test_a_fault_on_a_full_disk_is_still_told(tmp_path: Path, lanes_that_fail: Callable[..., TrainConfig]) -> None:
    """Where what went wrong cannot be saved apart, it is told all the same, and so is why not."""
    trainer = open_run(lanes_that_fail(lane=1, time=13, reward=math.nan), tmp_path)
    (tmp_path / "fault-39").touch()
    with pytest.raises(
        NonFiniteError, match=r"reward .* step 39, lane 1: .*Nothing of it could be saved \(.*File exists"
    ):
        trainer.run()
    assert last_saved(tmp_path) == 30


def test_a_full_disk_stops_the_run_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that could not save says so; with space again it goes on from its last checkpoint and ends the same."""
    config = tiny("Pendulum-v1")
    folder = tmp_path / "full"
    folder.mkdir()
    save_file, saves = checkpoint.save_file, itertools.count()

    def fill(*args: Any) -> None:
        if next(saves) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(*args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", fill)
        trainer = open_run(config, folder)
        with pytest.raises(CheckpointError, match="No space left on device"):
            trainer.run()
    assert last_saved(folder) == 25
    trainer = open_run(config, folder)
    trainer.run()
    assert differing(whole_run(config, tmp_path / "whole"), outcome(trainer)) == []

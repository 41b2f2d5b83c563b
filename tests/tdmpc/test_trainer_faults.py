"""Laws of what must not happen: where numbers, environment or disk go wrong a run stops, says so and loses nothing."""

import errno
import itertools
import math
from collections.abc import Callable, Container
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tdmpc import checkpoint, runs
from tdmpc.agent import NonFiniteError
from tdmpc.checkpoint import CheckpointError
from tdmpc.config import TrainConfig
from tdmpc.env_faults import EnvironmentFault
from tdmpc.metrics import read_rows
from tdmpc.trainer import Trainer
from tests.tdmpc.conftest import TOY, Toy, open_run, spec_of, tiny
from tests.tdmpc.outcomes import differing, last_saved, outcome, whole_run

Tamper = Callable[..., Any]


class Counting(Toy):
    """Knows which of its episodes it is in."""

    episode = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.episode += 1
        return super().reset(seed=seed, options=options)


def breaking(spoil: Tamper, *, lane: int = 0, episodes: Container[int] = range(99)) -> Callable[..., Toy]:
    """Toys; that of one lane is spoilt in step 4 of some of its episodes: ``spoil(observation, reward)``."""
    toys: list[Toy] = []

    def tamper(toy: Counting, observation: np.ndarray, reward: float, terminated: bool) -> tuple[Any, Any, bool]:
        hit = toys.index(toy) == lane and toy.time == 4 and toy.episode in episodes
        return (*spoil(observation, reward), terminated) if hit else (observation, reward, terminated)

    def make(**options: Any) -> Toy:
        toys.append(Counting(tamper, **options))
        return toys[-1]

    return make


def raising(error: Exception) -> Tamper:
    def spoil(*_: Any) -> Any:
        raise error

    return spoil


# ------------------------------------------------------------------------------------------ a simulation that diverges

DIVERGENCES = {
    "an error": (raising(RuntimeError("bad QACC")), "RuntimeError: bad QACC"),
    "a nan observation": (lambda seen, pay: (seen * math.nan, pay), "observation is not finite: element 0 is nan"),
    "an infinite reward": (lambda seen, pay: (seen, math.inf), "reward is not finite: inf"),
}


def prepared(config: TrainConfig, folder: Path, make: Callable[..., Toy], register: Callable[..., str]) -> Trainer:
    """A run on toys that were described while all was well."""
    register()
    spec_of(config)
    register(make)
    return open_run(config, folder)


@pytest.mark.parametrize(("spoil", "says"), DIVERGENCES.values(), ids=DIVERGENCES.keys())
def test_a_divergence_cuts_its_episode(
    tmp_path: Path, register: Callable[..., str], caplog: pytest.LogCaptureFixture, spoil: Tamper, says: str
) -> None:
    """Where the simulation of a lane diverges its episode ends with the transition before; that is logged in one line
    and counted, nothing of it is stored, the other lanes go on, and so does the run.
    """
    config = tiny(TOY, num_envs=3)
    trainer = prepared(config, tmp_path, breaking(spoil, lane=1, episodes=(1,)), register)
    trainer.run()
    assert trainer.env_steps == 60 and len(trainer.replay) == 60 - 1
    kept = trainer.replay.state()
    assert all(np.isfinite(kept[name]).all() for name in ("rows", "leaves"))
    assert math.isfinite(trainer.agent.model.reward_scale)
    rows = read_rows(tmp_path / runs.METRICS)
    assert [(row["env_steps"], row["length"], row["diverged"]) for row in rows] == [
        *[(27, 9, 0)] * 3,
        (39, 3, 1),
        *[(54, 9, 1)] * 2,
    ]
    (line,) = [record.message for record in caplog.records if "diverged" in record.message]
    assert line.startswith("the simulation diverged at environment step 36, lane 1; its episode is cut there: ")
    assert says in line and "\n" not in line


@pytest.mark.parametrize("lanes", [1, 3])
def test_divergence_without_end_stops_the_run(tmp_path: Path, register: Callable[..., str], lanes: int) -> None:
    """When ten episodes of a lane in a row diverged the run stops with what happened, and saves all of it apart."""
    config = tiny(TOY, num_envs=lanes, env_steps=60 * lanes)
    trainer = prepared(config, tmp_path, breaking(raising(RuntimeError("bad QACC")), lane=lanes - 1), register)
    step = 39 * lanes
    with pytest.raises(
        EnvironmentFault, match=rf"10 episodes in a row.*: bad QACC.* step {step}\..*fault-{step}"
    ) as it:
        trainer.run()
    assert "\n" not in str(it.value)
    dump = checkpoint.load(tmp_path / f"fault-{step}")
    assert dump.tensors["fault/actions"].shape == (lanes, 1) and "bad QACC" in dump.meta["error"]
    assert dump.tensors["trainer/lengths"][-1] == 3 == len(trainer.replay.episode_actions(lanes - 1))
    assert 0 < last_saved(tmp_path) < step


def test_only_divergences_in_a_row_stop_the_run(tmp_path: Path, register: Callable[..., str]) -> None:
    """An episode that ends properly begins the count of those in a row anew, also when the run is gone on with."""
    odd, config = range(1, 99, 2), tiny(TOY, env_steps=135, random_steps=140)
    trainer = prepared(config, tmp_path, breaking(raising(RuntimeError("bad QACC")), episodes=odd), register)
    trainer.run()
    assert trainer.episodes.diverged == 10
    trainer = prepared(config, tmp_path, breaking(raising(RuntimeError("bad QACC"))), register)
    assert (trainer.episodes.diverged, trainer.episodes.diverged_in_a_row.tolist()) == (10, [1])


# ------------------------------------------------------------------------------------------------- faults of a program

FAULTS = {
    "an exception": (raising(ValueError("bad gear")), "ValueError: bad gear"),
    "a lost port": (raising(OSError(5, "Input/output error")), "OSError: .*Input/output error"),
    "no reward": (lambda seen, pay: (seen, None), "reward must be a number, got None"),
    "another shape": (lambda seen, pay: (seen[:1], pay), r"observation must have shape \(2,\), got \(1,\)"),
}


@pytest.mark.parametrize(("spoil", "says"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_of_the_environment_stops_the_run(
    tmp_path: Path, register: Callable[..., str], spoil: Tamper, says: str
) -> None:
    """A fault of the environment's program is one line with environment and step, and loses nothing: what was there is
    saved apart with the actions, the last checkpoint stays, and from it the mended environment goes on.
    """
    config = tiny(TOY, num_envs=2, checkpoint_every=15)
    trainer = prepared(config, tmp_path, breaking(spoil, lane=1, episodes=(2,)), register)
    with pytest.raises(
        EnvironmentFault, match=f"^Toy-v0 failed .*{says}.*, at environment step 42.*fault-42"
    ) as caught:
        trainer.run()
    assert "\n" not in str(caught.value)
    dump = checkpoint.load(tmp_path / "fault-42")
    assert dump.tensors["fault/actions"].shape == (2, 1) and len(dump.tensors["replay/rows"]) > 40
    assert last_saved(tmp_path) == 30
    trainer = prepared(config, tmp_path, Toy, register)
    trainer.run()
    assert trainer.env_steps == 60


def test_a_reset_that_fails_stops_the_run(tmp_path: Path, register: Callable[..., str]) -> None:
    """An episode that cannot begin stops the run just so."""

    class Stillborn(Toy):
        born = 0

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self.born += 1
            start, info = super().reset(seed=seed, options=options)
            return start * (math.nan if self.born == 3 else 1), info

    trainer = prepared(tiny(TOY, num_envs=2), tmp_path, Stillborn, register)
    with pytest.raises(EnvironmentFault, match=r"at a reset: .*not finite.* at environment step 36.*fault-36"):
        trainer.run()
    assert checkpoint.load(tmp_path / "fault-36").meta["agent_steps"] == 36


def test_a_fault_in_an_evaluation_loses_nothing(tmp_path: Path, register: Callable[..., str]) -> None:
    """A fault while the run is evaluated is one line too, and what was learned is saved apart."""
    config = tiny(TOY, eval_every=30)
    trainer = prepared(config, tmp_path, breaking(raising(ValueError("bad gear")), lane=1), register)
    with pytest.raises(EnvironmentFault, match=r"bad gear.* at environment step 30.*fault-30"):
        trainer.run()
    assert int(checkpoint.load(tmp_path / "fault-30").tensors["agent/updates"]) == trainer.agent.updates > 0


# ---------------------------------------------------------------------------------------- terminations nobody expected


def test_an_unexpected_termination_is_told_once(
    tmp_path: Path, register: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """The first episode that terminates without a termination head is told, with what it means and the option."""
    dying = partial(Toy, lambda toy, *step: (*step[:2], toy.time == 5))
    trainer = prepared(tiny(TOY), tmp_path, dying, register)
    trainer.run()
    lines = [record.message for record in caplog.records if "--terminates True" in record.message]
    assert len(lines) == 1 and "environment step 5" in lines[0] and "plans past" in lines[0]
    assert trainer.episodes.ended == 12


# ------------------------------------------------------------------------------------------------------------ numbers


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


def test_a_fault_on_a_full_disk_is_still_told(tmp_path: Path, register: Callable[..., str]) -> None:
    """Where what went wrong cannot be saved apart, it is told all the same, and so is why not."""
    trainer = prepared(tiny(TOY), tmp_path, breaking(raising(ValueError("bad gear"))), register)
    (tmp_path / "fault-3").touch()
    with pytest.raises(EnvironmentFault, match=r"bad gear.* step 3\. Nothing of it could be saved \(.*File exists"):
        trainer.run()
    assert last_saved(tmp_path) == 0


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

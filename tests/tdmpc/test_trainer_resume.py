"""Laws of going on: after any stop a run continues exactly, or says what it cannot continue."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tdmpc import checkpoint, pages, runs
from tdmpc.agent import Agent
from tdmpc.config import PerturbConfig, ReplayConfig, TrainConfig, from_json, to_json
from tdmpc.metrics import JsonlSink
from tdmpc.replay import Replay
from tdmpc.trainer import Interrupted, Trainer
from tdmpc.vector_env import Environments
from tests.tdmpc.conftest import TOY, Toy, open_run, tiny
from tests.tdmpc.outcomes import Outcome, deadly, differing, last_saved, outcome, rows_of, whole_run


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of eight rows, so that short runs have many."""
    monkeypatch.setattr(pages, "PAGE", 8)


# -------------------------------------------------------------------------------------------- resume = uninterrupted


class Impatient(Trainer):
    """Stops when it has been asked whether to stop so many times: after updates, decisions, and in evaluations."""

    patience = -1

    def _stop_if_asked(self) -> None:
        self.patience -= 1
        self.stop_requested = self.patience == 0
        super()._stop_if_asked()


def run_in_parts(config: TrainConfig, folder: Path, parts: Iterable[int]) -> tuple[Outcome, list[tuple[int, int]]]:
    """Stop after each number of seams and go on in a new trainer; the outcome, steps and updates at each stop."""
    folder.mkdir()
    stops = []
    for patience in itertools.chain(parts, itertools.repeat(-1)):
        trainer = open_run(config, folder, Impatient)
        trainer.patience = patience
        try:
            trainer.run()
        except Interrupted:
            stops.append((trainer.agent_steps, trainer.agent.updates))
        else:
            return outcome(trainer), stops
    raise AssertionError


CARTPOLE = "dm_control/cartpole-swingup-v0"
ROBOT: dict[str, Any] = {
    "delay": (0, 2),
    "planner": dataclasses.replace(tiny("").planner, max_change=0.3),
    "perturb": PerturbConfig(
        observation_delay=1,
        observation_noise=0.1,
        dropped_sensors=0.1,
        stuck_sensors=0.1,
        fault_decisions=2,
        action_noise=0.2,
        masses=0.3,
        friction=0.3,
        damping=0.3,
        gains=0.3,
    ),
}
"""All that a robot has."""
RUNS = {
    "one lane": tiny("Pendulum-v1"),
    "evaluations": tiny("Pendulum-v1", action_repeat=20, env_steps=1000, eval_every=410),
    "three lanes": tiny("Pendulum-v1", num_envs=3, env_steps=91),
    "terminations": tiny("InvertedPendulum-v5"),
    "terminations in three lanes": tiny("InvertedPendulum-v5", num_envs=3, env_steps=120, updates_per_step=0.5),
    "a full replay": tiny("InvertedPendulum-v5", num_envs=2, replay=ReplayConfig(capacity=40)),
    "a delay for each episode": tiny("InvertedPendulum-v5", num_envs=3, env_steps=120, delay=(0, 3)),
    "dm_control": tiny(CARTPOLE, env_steps=8 * 140, random_steps=110),
    "a robot": tiny("InvertedPendulum-v5", num_envs=3, env_steps=120, **ROBOT),
    "a robot of dm_control": tiny(CARTPOLE, env_steps=8 * 140, random_steps=110, **ROBOT),
    "bfloat16": tiny("Pendulum-v1", env_steps=40, precision="bfloat16"),
}


@pytest.mark.parametrize("config", RUNS.values(), ids=RUNS.keys())
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, config: TrainConfig) -> None:
    """Stopped at random moments and gone on with, a run ends with the same bits and the same rows."""
    expected = whole_run(config, tmp_path / "whole")
    seams = expected.meta["agent_steps"] // config.num_envs + int(expected.tensors["agent/updates"])
    moments = random.Random(config.env)
    parts = [moments.randint(seams // 9, seams // 4) for _ in range(5)]
    resumed, stops = run_in_parts(config, tmp_path / "parts", parts)
    assert len(stops) >= 4 and stops[-1][1] > 0
    assert differing(expected, resumed) == []


def test_a_run_with_divergences_resumes_exactly(tmp_path: Path, register: Callable[..., str]) -> None:
    """Where simulations diverged in the past of a run, and will again, it goes on with the same bits and rows too."""

    def fragile(toy: Toy, point: np.ndarray, reward: float, terminated: bool) -> tuple[Any, float, bool]:
        if toy.time > 2 and point[0] > 0.3:
            raise RuntimeError("bad QACC")
        return point, reward, terminated

    register(lambda **options: Toy(fragile, **options))
    config = tiny(TOY, num_envs=2, env_steps=120)
    expected = whole_run(config, tmp_path / "whole")
    assert expected.meta["diverged"] >= 5 and len({row["length"] for row in expected.rows}) > 1
    resumed, stops = run_in_parts(config, tmp_path / "parts", [7, 11, 40, 23, 36])
    assert len(stops) == 5
    assert differing(expected, resumed) == []


def test_every_moment_can_be_the_last(tmp_path: Path) -> None:
    """Stopped after each step and each update, through random start, pretraining and on, nothing differs."""
    config = tiny("Pendulum-v1", env_steps=12, random_steps=6, pretrain_updates=5)
    expected = whole_run(config, tmp_path / "whole")
    # A trainer first asks once for what was left undone; then each step is a seam, or each update that it makes due.
    resumed, stops = run_in_parts(config, tmp_path / "parts", [1, *6 * [2], *4 * [1], *6 * [2]])
    random_start, pretraining = [(step, 0) for step in range(6)], [(6, update) for update in range(1, 6)]
    assert stops == [*random_start, *pretraining, *((step, step - 1) for step in range(7, 13))]
    assert differing(expected, resumed) == []


class Telling(Trainer):
    """Keeps what ``restore`` tells."""

    told = ""

    def restore(self, saved: checkpoint.Checkpoint) -> str:
        self.told = super().restore(saved)
        return self.told


def resumed(config: TrainConfig, folder: Path) -> tuple[Trainer, str]:
    trainer = open_run(config, folder, Telling)
    return trainer, trainer.told


def test_what_is_restored_is_what_was_saved(tmp_path: Path) -> None:
    """Restoring a checkpoint and saving it again gives the same checkpoint; the user is told what came back."""
    config = tiny("InvertedPendulum-v5", num_envs=2)
    trainer = open_run(config, tmp_path)
    trainer.run()
    torch.randn(1), np.random.rand(), random.random()  # noqa: NPY002 - as an environment of the user's may
    trainer.save()
    saved = outcome(trainer)
    trainer, told = resumed(config, tmp_path)
    assert differing(saved, outcome(trainer)) == []
    assert told == (
        f"restored checkpoint.safetensors: step 60 of 60, {trainer.agent.updates} updates, 60 transitions, "
        "both optimisers, random streams; the running episodes were played again and agree"
    )


def test_a_checkpoint_of_the_first_format_goes_on(tmp_path: Path) -> None:
    """A run whose last checkpoint has no hash, and all rows in its file, goes on like any other."""
    config = tiny("InvertedPendulum-v5", num_envs=2)
    expected = whole_run(config, tmp_path / "whole")
    (tmp_path / "old").mkdir()
    trainer = stopped(config, tmp_path / "old", after=40)
    tensors, meta = trainer.state()
    shutil.rmtree(tmp_path / "old" / pages.FOLDERS[0])
    header = {"format_version": "1", "meta": json.dumps(meta)}
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, tmp_path / "old" / checkpoint.CURRENT, header
    )
    trainer = open_run(config, tmp_path / "old")
    trainer.run()
    assert differing(expected, outcome(trainer)) == []


def test_a_checkpoint_writes_what_is_new(tmp_path: Path) -> None:
    """A checkpoint writes the pages that steps since the last one went to, also where the ring goes round, also after
    a stop; pages that neither checkpoint needs are gone.
    """
    config = tiny("Pendulum-v1", replay=ReplayConfig(capacity=47), env_steps=96, checkpoint_every=16)
    stopped(config, tmp_path, after=40)
    trainer = open_run(config, tmp_path)
    done, written = trainer.agent_steps, []
    write = pages.write_whole
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "write_whole", lambda *args: (written.append(trainer.agent_steps), write(*args)))
        trainer.run()
    # 48 rows in 6 pages: 16 steps write to 3 of them at most, and a page is two files.
    assert sorted(set(written)) == [step for step in range(16, 97, 16) if step > done]
    assert all(written.count(step) <= 2 * 3 for step in written)
    assert all(len(list((tmp_path / name).iterdir())) <= 6 + 3 for name in pages.FOLDERS)


def test_processor_time_is_that_of_the_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process computed before a run began or went on is not its own; what the run itself spent before is."""
    spent = iter(range(100, 10_000))
    monkeypatch.setattr(os, "times", lambda: (next(spent), 0.0, 0.0, 0.0, 0.0))
    (tmp_path / "run").mkdir()
    trainer = open_run(tiny("Pendulum-v1"), tmp_path / "run")
    assert trainer.cpu_s == 1
    trainer.save()
    assert 2 < open_run(tiny("Pendulum-v1"), tmp_path / "run").cpu_s < 10


def test_a_longer_run_goes_on(tmp_path: Path) -> None:
    """A finished run that is made longer ends like one that was meant to be so long."""
    config = tiny("Pendulum-v1", env_steps=37)
    whole_run(config, tmp_path / "short")
    longer = dataclasses.replace(config, env_steps=70)
    expected = whole_run(longer, tmp_path / "long")
    trainer = open_run(longer, tmp_path / "short")
    trainer.run()
    assert differing(expected, outcome(trainer)) == []


def test_a_stop_says_how_to_go_on(tmp_path: Path) -> None:
    """Whoever stops a run, also in an evaluation after its end, is told the command that goes on with it."""
    trainer = open_run(tiny("Pendulum-v1"), tmp_path)
    trainer.stop_requested = True
    for act in (trainer.run, lambda: trainer.evaluate(1)):
        with pytest.raises(Interrupted, match=f"saved.* tdmpc train --resume {tmp_path}"):
            act()
    assert checkpoint.load(tmp_path).meta["agent_steps"] == 0


# ----------------------------------------------------------------------------------------------------------- SIGKILL

SERVER = multiprocessing.get_context("forkserver")
WRITING = [(checkpoint, "save_file"), (os, "fsync"), (os, "link"), (os, "replace")]
TRAINING = [(Environments, "step"), (Agent, "update"), (JsonlSink, "log"), (checkpoint, "save_file")]


def train_until_killed(config: dict[str, Any], folder: Path, seams: str, patience: int) -> None:
    """Go on with a run in this process; die before the seam for which there is no more patience."""
    left, pages.PAGE = [patience], 8
    for owner, name in {"writing": WRITING, "training": TRAINING, "none": []}[seams]:
        setattr(owner, name, deadly(getattr(owner, name), left))
    trainer = open_run(from_json(TrainConfig, config), folder)
    trainer.run()


def start(config: TrainConfig, folder: Path, seams: str = "none", patience: int = -1) -> Any:
    SERVER.set_forkserver_preload([__name__, "torch._dynamo"])  # the latter by every optimiser, once in a process
    process = SERVER.Process(target=train_until_killed, args=(to_json(config), folder, seams, patience))
    process.start()
    return process


@pytest.mark.parametrize(
    ("seams", "patience"),
    [("writing", range(0, 36, 3)), ("training", [0, 5, 8, 14, 21, 27, 30, 35])],
    ids=["writing", "training"],
)
def test_killed_at_any_step_a_run_resumes(tmp_path: Path, seams: str, patience: Iterable[int]) -> None:
    """Killed by SIGKILL at each step of writing a checkpoint, or of training, and gone on with, nothing differs."""
    config = tiny("Pendulum-v1", checkpoint_every=7, env_steps=80)
    folder = tmp_path / "killed"
    folder.mkdir()
    before = -1
    for seam in patience:
        process = start(config, folder, seams, seam)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert last_saved(folder) >= before
        before = last_saved(folder)
    assert before < 80
    trainer = open_run(config, folder)
    trainer.run()
    assert differing(whole_run(config, tmp_path / "whole"), outcome(trainer)) == []
    files = {runs.METRICS, checkpoint.CURRENT, checkpoint.PREVIOUS}
    assert {path.name for path in folder.iterdir()} == {*files, *pages.FOLDERS}
    needed = [checkpoint._paged(checkpoint._header(path))["files"] for path in folder.glob("*.safetensors")]
    assert all({path.name for path in (folder / name).iterdir()} == set().union(*needed) for name in pages.FOLDERS)


def test_killed_at_random_times_a_run_resumes(tmp_path: Path) -> None:
    """Killed by SIGKILL whenever it happens to come, a run resumes from its last checkpoint and nothing differs."""
    config = tiny("InvertedPendulum-v5", num_envs=3, checkpoint_every=4, env_steps=10**6, updates_per_step=0.5)
    folder = tmp_path / "killed"
    folder.mkdir()
    moments, before = random.Random(7), -1
    for _ in range(4):
        process = start(config, folder)
        while process.is_alive() and last_saved(folder) <= before:
            time.sleep(0.001)
        process.join(moments.uniform(0, 0.05))
        process.kill()
        process.join()
        assert last_saved(folder) > before
        before = last_saved(folder)
    config = dataclasses.replace(config, env_steps=before + 30)
    trainer = open_run(config, folder)
    trainer.run()
    assert differing(whole_run(config, tmp_path / "whole"), outcome(trainer)) == []


# ------------------------------------------------------------------------------------------ what cannot be replayed


def forgetful(ends: Callable[[Toy], bool] = lambda toy: False) -> Callable[..., Toy]:
    """Toys that draw on entropy of their own, which no seed governs."""
    entropy = np.random.default_rng()

    def tamper(toy: Toy, observation: np.ndarray, reward: float, terminated: bool) -> tuple[Any, float, bool]:
        return observation + entropy.normal(size=2), reward, terminated or ends(toy)

    return lambda **options: Toy(tamper, **options)


def stopped(config: TrainConfig, folder: Path, after: int) -> Trainer:
    trainer = open_run(config, folder, Impatient)
    trainer.patience = after
    with pytest.raises(Interrupted):
        trainer.run()
    return trainer


MID_EPISODE = 1 + 4 + (8 + 1) + 17 * 3
"""Seams until two lanes of toys are 4 steps into their third episode: 5 random decisions, pretraining, 17 planned."""


def test_what_cannot_be_played_again_starts_anew(tmp_path: Path, register: Callable[..., str]) -> None:
    """Where an environment draws on more than its seed, running episodes are cut off and new ones begin, and that is
    said; what was learned and stored stays.
    """
    register(forgetful())
    config = tiny(TOY, num_envs=2, random_steps=10)
    before = stopped(config, tmp_path, after=MID_EPISODE)
    assert before.episodes.lengths.tolist() == [4, 4] and before.actor.mean.any()
    trainer, told = resumed(config, tmp_path)
    assert "2 running episode(s) could not be played again exactly and start anew" in told
    assert trainer.envs.episodes.tolist() == [3, 3] and trainer.episodes.lengths.tolist() == [0, 0]
    assert not trainer.actor.mean.any() and not trainer.episodes.returns.any()
    assert len(trainer.replay) == len(before.replay) == 44
    assert [len(trainer.replay.episode_actions(lane)) for lane in range(2)] == [0, 0]
    trainer.run()
    assert trainer.agent_steps == 60
    assert [(row["env_steps"], row["length"]) for row in rows_of(tmp_path)] == [(18, 9), (18, 9), (36, 9), (36, 9)]


def test_only_lanes_that_went_astray_start_anew(
    tmp_path: Path, register: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that could be played again goes on, beside one that could not."""
    register()
    config = tiny(TOY, num_envs=2, random_steps=10)
    before = stopped(config, tmp_path, after=MID_EPISODE)
    restore = Environments.restore

    def astray(self: Environments, *args: Any) -> np.ndarray:
        return restore(self, *args) + np.array([[0, 0], [0, 1]], np.float32)

    monkeypatch.setattr(Environments, "restore", astray)
    trainer, told = resumed(config, tmp_path)
    assert "1 running episode(s)" in told
    assert trainer.episodes.lengths.tolist() == [4, 0] and trainer.envs.episodes.tolist() == [2, 3]
    assert trainer.episodes.returns[0] == before.episodes.returns[0] and np.array_equal(
        trainer.observations[0], before.observations[0]
    )
    assert not np.array_equal(trainer.observations[1], before.observations[1])
    assert torch.equal(trainer.actor.mean[:, 0], before.actor.mean[:, 0]) and not trainer.actor.mean[:, 1].any()
    trainer.run()


def test_an_episode_that_ends_when_played_again_starts_anew(tmp_path: Path, register: Callable[..., str]) -> None:
    """An episode that ends before its recorded end when it is played again is no reason to crash."""
    haste: list[int] = []
    register(forgetful(lambda toy: bool(haste) and toy.time == 2))
    config = tiny(TOY, num_envs=2, env_steps=60)
    stopped(config, tmp_path, after=13)
    haste.append(2)
    trainer, told = resumed(config, tmp_path)
    assert "2 running episode(s) could not be played again" in told
    assert trainer.envs.episodes.tolist() == [2, 2]
    haste.clear()
    trainer.run()


def test_an_episode_longer_than_the_replay_starts_anew(tmp_path: Path) -> None:
    """A run whose running episode is no longer in the replay as a whole resumes all the same."""
    config = tiny("Pendulum-v1", replay=ReplayConfig(capacity=30))
    stopped(config, tmp_path, after=60)
    trainer, told = resumed(config, tmp_path)
    assert "1 running episode(s) could not be played again" in told
    assert trainer.envs.episodes.tolist() == [1]
    trainer.run()


@pytest.mark.parametrize("lanes", [(True, False), (True, True), (False, False)])
def test_to_cut_an_episode_is_to_truncate_it(lanes: tuple[bool, bool]) -> None:
    """Cutting running episodes leaves the replay as if their last step had been truncated; nothing else changes."""
    cut, truncated = (
        Replay(ReplayConfig(capacity=24), observation_dim=2, action_dim=1, horizon=3, lanes=2) for _ in range(2)
    )
    draws = np.random.default_rng(0)
    for step in range(40):
        ended = draws.random(2) < 0.1
        row = draws.normal(size=(2, 2)), draws.normal(size=(2, 1)), draws.normal(size=2)
        last = np.array(lanes) & (step % 7 == 0)
        for replay, ends in ((cut, ended), (truncated, ended | last)):
            replay.add(*row, np.zeros(2, bool), ends, row[0] + 1)
        cut.cut(last)
        cut.cut(last)  # a second time there is no episode to end
        assert all(np.array_equal(value, truncated.state()[name]) for name, value in cut.state().items())
        assert (len(cut), cut.windows) == (len(truncated), truncated.windows)

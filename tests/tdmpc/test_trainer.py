"""Laws of the training loop: exact continuation after any stop, counts, and stopping where numbers go wrong."""

import dataclasses
import errno
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from tdmpc import checkpoint, runs
from tdmpc import spec as spec_module
from tdmpc.agent import Actor, Agent, NonFiniteError
from tdmpc.checkpoint import CheckpointError
from tdmpc.config import ReplayConfig, TrainConfig, from_json, to_json
from tdmpc.envs import Environments
from tdmpc.metrics import JsonlSink, Sink, read_rows
from tdmpc.replay import Replay
from tdmpc.trainer import Interrupted, Trainer, load_agent
from tests.tdmpc.conftest import TOY, Toy, open_run, spec_of, tiny

CLOCKS = ("time/", "wall_s", "decisions_per_s")


class Outcome(NamedTuple):
    """All that a run came to, except for how long it took."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]
    rows: list[dict[str, Any]]


def outcome(trainer: Trainer) -> Outcome:
    tensors, meta = trainer.state()
    return Outcome(tensors, {name: value for name, value in meta.items() if name != "wall_s"}, rows_of(trainer.folder))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows = read_rows(folder / runs.METRICS)
    return [{key: value for key, value in row.items() if not key.startswith(CLOCKS)} for row in rows]


# Where shapes are checked, beartype draws from python's generator: which item of a tuple to look at.
UNOWNED = {"python_rng"} if type(spec_module.__loader__).__module__.startswith("jaxtyping") else set()


def differing(left: Outcome, right: Outcome) -> list[str]:
    """Names of what is not equal, bit for bit; the first rows that differ."""
    assert left.tensors.keys() == right.tensors.keys() and left.meta.keys() == right.meta.keys()
    names = [name for name, tensor in left.tensors.items() if not same(tensor, right.tensors[name])]
    names += [name for name, value in left.meta.items() if value != right.meta[name] and name not in UNOWNED]
    pairs = itertools.zip_longest(left.rows, right.rows)
    return names + [f"{one} != {other}" for one, other in pairs if one != other][:2]


def same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and left.numpy().tobytes() == right.numpy().tobytes()


def whole_run(config: TrainConfig, folder: Path) -> Outcome:
    folder.mkdir()
    trainer = open_run(config, folder)
    trainer.run()
    return outcome(trainer)


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
RUNS = {
    "one lane": tiny("Pendulum-v1"),
    "evaluations": tiny("Pendulum-v1", action_repeat=20, env_steps=1000, eval_every=410),
    "three lanes": tiny("Pendulum-v1", num_envs=3, env_steps=91),
    "terminations": tiny("InvertedPendulum-v5"),
    "terminations in three lanes": tiny("InvertedPendulum-v5", num_envs=3, env_steps=120, updates_per_step=0.5),
    "a full replay": tiny("InvertedPendulum-v5", num_envs=2, replay=ReplayConfig(capacity=40)),
    "dm_control": tiny(CARTPOLE, env_steps=8 * 140, random_steps=110),
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
    left = [patience]
    for owner, name in {"writing": WRITING, "training": TRAINING, "none": []}[seams]:
        setattr(owner, name, deadly(getattr(owner, name), left))
    trainer = open_run(from_json(TrainConfig, config), folder)
    trainer.run()


def deadly(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def wrapped(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            if call.__name__ == "save_file":
                args[1].write_bytes(b"the first half of a checkpoint")
            if call.__qualname__ == "JsonlSink.log":
                args[0]._file.write(b'{"kind": "train", "env_st')
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    return wrapped


def start(config: TrainConfig, folder: Path, seams: str = "none", patience: int = -1) -> Any:
    SERVER.set_forkserver_preload([__name__, "torch._dynamo"])  # the latter by every optimiser, once in a process
    process = SERVER.Process(target=train_until_killed, args=(to_json(config), folder, seams, patience))
    process.start()
    return process


def last_saved(folder: Path) -> int:
    """Step of the last good checkpoint, -1 where there is none."""
    return checkpoint.load(folder).meta["agent_steps"] if runs.has_checkpoint(folder) else -1


@pytest.mark.parametrize(
    ("seams", "patience"),
    [("writing", range(12)), ("training", [0, 5, 8, 14, 21, 27, 30, 35])],
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
    assert {path.name for path in folder.iterdir()} == {runs.METRICS, checkpoint.CURRENT, checkpoint.PREVIOUS}


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
    assert before.lengths.tolist() == [4, 4] and before.actor.mean.any()
    trainer, told = resumed(config, tmp_path)
    assert "2 running episode(s) could not be played again exactly and start anew" in told
    assert trainer.envs.episodes.tolist() == [3, 3] and trainer.lengths.tolist() == [0, 0]
    assert not trainer.actor.mean.any() and not trainer.returns.any()
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
    assert trainer.lengths.tolist() == [4, 0] and trainer.envs.episodes.tolist() == [2, 3]
    assert trainer.returns[0] == before.returns[0] and np.array_equal(trainer.observations[0], before.observations[0])
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


# -------------------------------------------------------------------------------------------------- the same and other


def test_one_seed_governs_everything(tmp_path: Path) -> None:
    """Two runs with the same seed are identical, whatever was drawn before them; another seed gives another run."""
    config = tiny("InvertedPendulum-v5", num_envs=2)
    first = whole_run(config, tmp_path / "first")
    torch.manual_seed(9), np.random.seed(9), random.seed(9)  # noqa: NPY002
    second = whole_run(config, tmp_path / "second")
    assert differing(first, second) == []
    other = whole_run(dataclasses.replace(config, seed=1), tmp_path / "other")
    changed = differing(first, other)
    assert {"replay/rows", "agent/model/components.encoder.0.weight", "actor/generator"} <= set(changed)
    assert first.rows != other.rows


def test_evaluations_do_not_change_training(tmp_path: Path) -> None:
    """With evaluations in between, and checkpoints at other times, a run ends with the same bits as without."""
    config = tiny("InvertedPendulum-v5", num_envs=2, updates_per_step=0.7)
    plain = whole_run(config, tmp_path / "plain")
    busy = whole_run(
        dataclasses.replace(config, eval_every=17, eval_episodes=2, checkpoint_every=11), tmp_path / "busy"
    )
    settings = {"config", "evaluated_at"}
    assert set(differing(plain._replace(rows=[]), busy._replace(rows=[]))) == settings
    assert [row for row in busy.rows if row["kind"] == "train"] == plain.rows
    evaluations = [row for row in busy.rows if row["kind"] == "eval"]
    assert [row["env_steps"] for row in evaluations] == [18, 34, 52]
    assert all(row["episodes"] == 2 for row in evaluations)


def test_the_end_is_evaluated_once(tmp_path: Path) -> None:
    """Where a periodic evaluation falls on the end of a run, it is left to the final one."""
    run = whole_run(tiny("Pendulum-v1", env_steps=60, eval_every=20, eval_episodes=1), tmp_path / "run")
    assert [row["env_steps"] for row in run.rows if row["kind"] == "eval"] == [20, 40]


class Listener(Sink):
    """Notes at which steps checkpoints come."""

    def __init__(self) -> None:
        self.saved: list[int] = []
        self.heard: list[int] = []

    def artifact(self, path: Path, env_steps: int) -> None:
        assert path == path.parent / checkpoint.CURRENT and path.exists()
        self.saved.append(env_steps)

    def progress(self, env_steps: int) -> None:
        self.heard.append(env_steps)


@pytest.mark.parametrize(
    ("num_envs", "repeat", "length", "steps", "saves"),
    [
        (1, 1, 50, 50, [0, 20, 40, 50]),
        (3, 1, 50, 51, [0, 21, 42, 51]),
        (1, 8, 50, 56, [0, 24, 40, 56]),
        (2, 15, 100, 120, [0, 30, 60, 90, 120, 120]),
    ],
)
def test_steps_are_counted_with_the_action_repeat(
    tmp_path: Path, num_envs: int, repeat: int, length: int, steps: int, saves: list[int]
) -> None:
    """A run stops at the first count that reaches its length, and saves at each that reaches a multiple."""
    config = tiny("Pendulum-v1", num_envs=num_envs, action_repeat=repeat, env_steps=length, checkpoint_every=20)
    sink = Listener()
    trainer = Trainer(config, spec_of(config), tmp_path, sink)
    trainer.run()
    assert (trainer.env_steps, trainer.agent_steps) == (steps, steps // repeat)
    assert sink.heard == list(range(num_envs * repeat, steps + 1, num_envs * repeat))
    assert sink.saved == saves


@pytest.mark.parametrize(
    ("pretrain", "ratio", "num_envs", "expected"),
    [(None, 1.0, 1, 20 + 30), (12, 1.0, 1, 12 + 30), (0, 0.5, 1, 15), (12, 0.25, 3, 12 + 31 // 4), (7, 2.0, 1, 67)],
)
def test_updates_follow_the_ratio(
    tmp_path: Path, pretrain: int | None, ratio: float, num_envs: int, expected: int
) -> None:
    """After the random start come the pretraining updates, then so many for each agent step."""
    changes: dict[str, Any] = {"pretrain_updates": pretrain, "updates_per_step": ratio, "num_envs": num_envs}
    trainer = open_run(tiny("Pendulum-v1", env_steps=50, **changes), tmp_path)
    trainer.run()
    assert trainer.agent.updates == expected


def test_no_update_before_there_is_a_window(tmp_path: Path, register: Callable[..., str]) -> None:
    """Where no episode is as long as the loss looks ahead, a run waits instead of failing."""
    register(lambda **options: Toy(lambda toy, *step: step, **options))
    config = dataclasses.replace(tiny(TOY), loss=dataclasses.replace(tiny(TOY).loss, horizon=10))
    trainer = open_run(config, tmp_path)
    trainer.run()
    assert (trainer.env_steps, trainer.agent.updates) == (60, 0)


def test_random_start_then_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first actions are uniformly random, and from then on every action is planned."""
    planned: list[int] = []
    act = Actor.act

    def spy(self: Actor, observations: Tensor, *, step: int, explore: bool) -> Tensor:
        planned.append(step)
        assert explore
        return act(self, observations, step=step, explore=explore)

    monkeypatch.setattr(Actor, "act", spy)
    trainer = open_run(tiny("Pendulum-v1", random_steps=40), tmp_path)
    trainer.run()
    assert planned == list(range(40, 60))
    actions = trainer.replay.episode_actions(0)[:40]
    assert np.abs(actions).max() <= 1 and abs(actions.mean()) < 0.3 and 0.45 < actions.std() < 0.7


def test_a_row_for_each_episode(tmp_path: Path, register: Callable[..., str]) -> None:
    """Each finished episode is a row with its return, length and the mean losses since the last one."""
    register()
    trainer = open_run(tiny(TOY, num_envs=2), tmp_path)
    update, totals = trainer.agent.update, []

    def spy(batch: Any) -> Any:
        result = update(batch)
        totals.append((trainer.agent_steps, result.metrics["loss/total"].item()))
        return result

    trainer.agent.update = spy  # pyright: ignore[reportAttributeAccessIssue]
    trainer.run()
    rows = read_rows(tmp_path / runs.METRICS)
    assert [row["episode"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["env_steps"] for row in rows] == [18, 18, 36, 36, 54, 54]
    assert {row["length"] for row in rows} == {9}
    ended = trainer.replay.state()["rows"][:20].reshape(10, 2, -1)[:9, :, -1].sum(0)
    assert [rows[0]["return"], rows[1]["return"]] == pytest.approx(ended.tolist())
    losses = {key for key in rows[2] if key.startswith("loss/")}
    assert losses == {"loss/total", "loss/policy", "loss/consistency", "loss/reward", "loss/value"}
    assert not losses & rows[0].keys()
    for row in rows[2:]:
        since = [total for step, total in totals if row["env_steps"] - 18 <= step < row["env_steps"]]
        assert row["loss/total"] == pytest.approx(np.mean(since), rel=1e-5)
    assert {"time/plan_ms", "time/environment_ms", "time/replay_ms", "time/update_ms"} <= rows[2].keys()


# ------------------------------------------------------------------------------------------------- what must not happen


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


# ---------------------------------------------------------------------------------------------------------- load_agent


def test_an_agent_is_loaded_without_its_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent of a run acts as it did, without the replay having been read; settings of the run time may differ."""
    config = tiny("Pendulum-v1")
    trainer = open_run(config, tmp_path)
    trainer.run()
    asked = []
    load = checkpoint.load
    monkeypatch.setattr(
        checkpoint, "load", lambda folder, prefixes=("",): (asked.append(prefixes), load(folder, prefixes=prefixes))[1]
    )
    agent, meta = load_agent(tmp_path)
    assert asked == [("agent/",)] and meta["env_steps"] == 60
    assert (agent.config, agent.spec) == (config, trainer.spec)
    assert all(same(tensor, trainer.agent.state()[name]) for name, tensor in agent.state().items())
    observation = torch.randn(1, 3)
    first, second = (
        Actor(one, lanes=1, seed=5).act(observation, step=60, explore=True) for one in (trainer.agent, agent)
    )
    assert torch.equal(first, second)
    assert load_agent(tmp_path, precision="bfloat16")[0].precision == "bfloat16"


def test_a_checkpoint_is_read_without_training_code(tmp_path: Path) -> None:
    """What a checkpoint holds beside tensors is plain JSON."""
    trainer = open_run(tiny("Pendulum-v1", env_steps=5), tmp_path)
    trainer.run()
    _, meta = trainer.state()
    assert json.loads(json.dumps(meta)).keys() == checkpoint.load(tmp_path).meta.keys()

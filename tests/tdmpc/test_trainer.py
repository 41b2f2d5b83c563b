"""Laws of the training loop: one seed, counts, rows; and of agents loaded from a run."""

import dataclasses
import json
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tdmpc import checkpoint, runs
from tdmpc.actor import Actor
from tdmpc.config import Linear
from tdmpc.metrics import Sink, read_rows
from tdmpc.replay import EPSILON
from tdmpc.runs import load_agent
from tdmpc.trainer import Trainer
from tests.tdmpc.conftest import TOY, Toy, open_run, spec_of, tiny
from tests.tdmpc.outcomes import differing, same, whole_run

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


def test_an_episode_begins_without_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an episode has just begun nothing is left of the last one's plan; where one goes on, its plan is."""
    config = tiny("InvertedPendulum-v5", num_envs=2, random_steps=0, env_steps=80)
    planner = dataclasses.replace(config.planner, horizon_schedule=Linear(3, 3, 0))
    trainer = open_run(dataclasses.replace(config, planner=planner), tmp_path)
    act, begun, warm = Actor.act, [], []

    def spy(self: Actor, observations: Tensor, *, step: int, explore: bool) -> Tensor:
        begun.append(trainer.episodes.lengths == 0)
        warm.append(self.mean.abs().sum((0, 2)).numpy() > 0)
        return act(self, observations, step=step, explore=explore)

    monkeypatch.setattr(Actor, "act", spy)
    trainer.run()
    assert np.array_equal(np.stack(warm), ~np.stack(begun))
    assert any(mask.sum() == 1 for mask in begun[1:])  # one lane ended while the other went on


def test_updates_hand_priorities_back(tmp_path: Path) -> None:
    """After an update, each window that it was made on is drawn by the priority that the update gave it."""
    config = tiny("Pendulum-v1")
    trainer = open_run(config, tmp_path)
    update, done = trainer.agent.update, []

    def spy(batch: Any) -> Any:
        done.append((batch.indices, update(batch)))
        return done[-1][1]

    trainer.agent.update = spy  # pyright: ignore[reportAttributeAccessIssue]
    trainer.run()
    windows, last = done[-1]
    given = dict(zip(windows.tolist(), last.priorities.tolist(), strict=True))  # of one drawn twice, the last counts
    leaves = trainer.replay.state()["leaves"][list(given)]
    expected = (np.array(list(given.values())) + EPSILON) ** config.replay.alpha
    assert leaves == pytest.approx(expected, rel=1e-6) and len(set(given.values())) > 1


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
    rewards = trainer.replay.state()["rows"][:60, -1].reshape(
        3, 10, 2
    )  # an episode takes one row more than it has steps
    assert [row["return"] for row in rows] == pytest.approx(rewards.sum(1).flatten().tolist())
    losses = {key for key in rows[2] if key.startswith("loss/")}
    assert losses == {"loss/total", "loss/policy", "loss/consistency", "loss/reward", "loss/value"}
    assert not losses & rows[0].keys()
    for row in rows[2:]:
        since = [total for step, total in totals if row["env_steps"] - 18 <= step < row["env_steps"]]
        assert row["loss/total"] == pytest.approx(np.mean(since), rel=1e-5)
    assert {"time/plan_ms", "time/environment_ms", "time/replay_ms", "time/update_ms"} <= rows[2].keys()


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


def test_the_replay_has_what_was_applied(tmp_path: Path, register: Callable[..., str]) -> None:
    """With a delay of two decisions, environment and replay get what was decided two decisions before, and nothing in
    the first two decisions of an episode.
    """
    register()
    trainer = open_run(tiny(TOY, delay=(2,), env_steps=40), tmp_path)
    decided, applied, lengths = [], [], []
    commit, step, reset = trainer.actor.commit, trainer.envs.step, trainer.actor.reset

    def noted(numbers: torch.Tensor) -> torch.Tensor:
        decided.append(float(numbers[0, 0]))
        return commit(numbers)

    trainer.actor.commit = noted
    trainer.envs.step = lambda actions: applied.append(float(actions[0, 0])) or step(actions)
    trainer.actor.reset = lambda *episode: lengths.append(len(decided)) or reset(*episode)
    trainer.run()
    episodes = list(pairwise([0, *lengths]))
    assert len(episodes) == 4
    for start, end in episodes:
        assert applied[start:end] == [0.0, 0.0, *decided[start : end - 2]]
    state = trainer.replay.state()
    stored = state["rows"][state["is_transition"], trainer.spec.observation_dim]
    assert stored.tolist() == pytest.approx(applied) and len(applied) == 40

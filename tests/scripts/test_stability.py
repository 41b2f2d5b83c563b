"""Laws of ``tdmpc stability``: episodes side by side, and what is read from them."""

import csv
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tdmpc.envs import make_env
from tdmpc.evaluation import evaluate
from tdmpc.runs import load_agent
from tdmpc.scripts import closed_loop as loop
from tdmpc.scripts.closed_loop import Trace, closed_loop, conformal, excess, prediction_errors, settled, turned
from tdmpc.scripts.main import main
from tdmpc.scripts.stability import _starts
from tests.scripts.conftest import TINY


def trace_of(rewards: list[list[float]]) -> Trace:
    paid = torch.tensor(rewards)
    steps, lanes = paid.shape
    poles = np.zeros((steps + 1, lanes, 2))
    alive = torch.ones_like(paid, dtype=torch.bool)
    return Trace(torch.zeros(steps + 1, lanes, 2), torch.zeros(steps, lanes, 1), paid, alive, poles)


def test_one_episode_is_that_of_the_evaluation(trained: Path) -> None:
    """An episode in closed loop returns what the evaluation with the same seed returns."""
    agent, meta = load_agent(trained, compile=False)
    trace = closed_loop(agent, step=meta["agent_steps"], episodes=1, seed=4)
    alone = evaluate(agent, step=meta["agent_steps"], episodes=1, seed=4)
    assert trace.rewards.sum().item() == pytest.approx(alone.returns[0])
    assert trace.alive.all() and len(trace.actions) == alone.lengths[0] == len(trace.observations) - 1


def test_who_believes_what_comes_decreases(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the discounted return that really comes as value nothing is in excess; with more at first, that much is."""
    agent, _ = load_agent(trained, compile=False)
    trace, discount = trace_of([[1.0], [3.0], [2.0]]), agent.config.loss.discount
    believed = [0.0]
    for reward in (2.0, 3.0, 1.0):
        believed.insert(0, reward + discount * believed[0])
    monkeypatch.setattr(loop, "values", lambda agent, observations: torch.tensor(believed)[:, None])
    assert excess(agent, trace).abs().max() < 1e-5
    believed[0] += 0.5
    assert excess(agent, trace)[:, 0].tolist() == pytest.approx([0.5, 0, 0], abs=1e-5)


def test_prediction_errors_are_those_of_a_loop(trained: Path) -> None:
    """The largest errors two decisions ahead are what one finds state by state."""
    agent, meta = load_agent(trained, compile=False)
    agent.config = replace(agent.config, loss=replace(agent.config.loss, discount=0.5))
    with torch.no_grad():
        for parameter in agent.model.components["value"].parameters():
            parameter += 0.5  # a new agent values everything at nothing
    trace = closed_loop(agent, step=meta["agent_steps"], episodes=2, seed=4)
    found = prediction_errors(agent, trace, ahead=2)
    model, discount, scale = agent.model, agent.config.loss.discount, agent.model.reward_scale
    with torch.no_grad():
        z = model.encode(trace.observations)
        spread = (z - z.mean((0, 1))).square().sum(-1).mean().sqrt()
        for lane in range(2):
            latent, paid = [], []
            for t in range(len(trace.actions) - 1):
                first, second = trace.actions[t, lane], trace.actions[t + 1, lane]
                middle = model.next(z[t, lane], first)
                end = model.next(middle, second)
                latent.append(((end - z[t + 2, lane]).norm() / spread).item())
                rewards = (
                    model.reward(z[t, lane], first),
                    model.reward(middle, second),
                )
                ends = (model.value(each, model.pi(each)) for each in (end, z[t + 2, lane]))
                ahead, real = (scale * discount**2 * each for each in ends)
                imagined = scale * (rewards[0] + discount * rewards[1]) + ahead
                happened = trace.rewards[t, lane] + discount * trace.rewards[t + 1, lane] + real
                paid.append((imagined - happened).abs().item())
            assert found[0][lane].item() == pytest.approx(max(latent), rel=1e-4)
            assert found[1][lane].item() == pytest.approx(max(paid), rel=1e-3, abs=1e-5)


def test_who_leaves_the_goal_has_not_settled() -> None:
    """An episode has settled where every reward of its last share is the goal's, whatever was before."""
    trace = trace_of([[0.0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]])
    assert settled(trace, goal=0.9, last=0.4).tolist() == [True, True, False]
    assert settled(trace, goal=0.9, last=1.0).tolist() == [False, True, False]


def test_a_conformal_quantile_covers() -> None:
    """The score of one more episode lies below the quantile as often as promised; 18 scores promise no 95 %."""
    random = np.random.default_rng(0)
    scores = random.exponential(size=(4000, 20))
    below = [each[-1] <= conformal(each[:-1], 0.95) for each in scores]
    assert 0.94 < np.mean(below) < 0.96
    assert conformal(np.arange(18.0), 0.95) == float("inf") and conformal(np.arange(19.0), 0.95) == 18.0


def test_a_pole_is_turned() -> None:
    """A start is what the sensors say, for cartpole and pendulum: upright at angle 0; the grid has no angle twice."""
    for task, sensed in (("cartpole-swingup", [0, 1, 0, 0, 2]), ("pendulum-swingup", [1, 0, 2])):
        with closing(make_env(f"dm_control/{task}-v0")) as env:
            env.reset(seed=0)
            assert turned(env, 0.0, 2.0).tolist() == pytest.approx(sensed, abs=1e-6)
    angles = _starts(4)[:4, 0]
    assert len({round(float(np.cos(each)), 6) + 9 * round(float(np.sin(each)), 6) for each in angles}) == 4


def test_the_command_writes_table_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a planar task there are a row for each agent and all three figures; a name is that of its run."""
    run = tmp_path / "swing"
    options = ["--eval-episodes=1", "--max-episode-steps=80", f"--run-dir={run}"]
    assert main(["train", "pendulum-swingup", *TINY, *options]) == 0
    out = tmp_path / "out"
    other = shutil.copytree(run, tmp_path / "again")
    assert main(["stability", str(run), str(other), "--episodes=2", "--grid=2", f"--out={out}"]) == 0
    with (out / "stability.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first.pop("agent"), second.pop("agent")) == ("swing", "again")
    assert first == second and float(first["macs_left"]) == 1
    assert first["settled_of"] == "4" and first["latent_error"] == "inf"
    assert all((out / name).read_bytes()[1:4] == b"PNG" for name in ("measures.png", "phase.png", "attraction.png"))
    assert str(out / "phase.png") in capsys.readouterr().out.replace("\n", "")


def test_other_tasks_have_no_phase_portrait(trained: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """Of another task the measures remain, if the highest reward is told; without it, or a run, one line says so."""
    assert "which agents?" in fails("stability")
    assert "--reward-max" in fails("stability", str(trained), f"--out={tmp_path}")
    assert main(["stability", str(trained), "--reward-max=1", "--episodes=2", f"--out={tmp_path}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"stability.csv", "measures.png"}

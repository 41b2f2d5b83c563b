"""Playing episodes without exploration, with the planner or with the policy prior alone."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from tdmpc.agent import Actor, Agent
from tdmpc.envs import make_env
from tdmpc.lanes import episode_seed
from tdmpc.spec import EnvSpec

Policy = Literal["planner", "prior"]

EVALUATION_STREAM = 1_000_003
"""Added to the run's seed, so that evaluation meets other episodes and noise than training."""


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole episodes."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    """Decisions in each episode."""
    decision_ms: tuple[float, ...]
    """Time of every decision."""
    frames: tuple[np.ndarray, ...] = ()
    """Pictures of the first episode, ``UInt8[height width 3]``, one for each decision."""

    @property
    def return_mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def return_std(self) -> float:
        """Standard deviation of the returns over the episodes."""
        return float(np.std(self.returns))

    @property
    def decision_ms_p50(self) -> float:
        """Median time of a decision."""
        return float(np.median(self.decision_ms))


def evaluate(
    agent: Agent,
    *,
    step: int,
    episodes: int,
    seed: int,
    policy: Policy = "planner",
    record: bool = False,
    between_decisions: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Play whole episodes.

    Args:
        agent: is only read; playing does not disturb its training.
        step: agent step, for the planner's schedules.
        episodes: how many.
        seed: of the episodes and of the planner's noise.
        policy: plan, or take the policy prior's mean action.
        record: keep pictures of the first episode.
        between_decisions: called after each decision; may raise to stop.
    """
    returns, lengths, times, frames = [], [], [], []
    actor = Actor(agent, lanes=1, seed=seed)
    with closing(make_env(agent.spec.id, action_repeat=agent.spec.action_repeat, render=record)) as env:
        for episode in range(episodes):
            observation, _ = env.reset(seed=episode_seed(seed, 0, episode))
            actor.forget(torch.ones(1, dtype=torch.bool))
            total, length, ended = 0.0, 0, False
            while not ended:
                started = time.perf_counter()
                action = _decide(actor, torch.from_numpy(observation)[None], step, policy)
                times.append(1000 * (time.perf_counter() - started))
                observation, reward, terminated, truncated, _ = env.step(action[0].numpy())
                total, length, ended = total + float(reward), length + 1, terminated or truncated
                if record and episode == 0:
                    frames.append(_picture(env))
                between_decisions()
            returns.append(total)
            lengths.append(length)
    return Evaluation(tuple(returns), tuple(lengths), tuple(times), tuple(frames))


def frame_rate(spec: EnvSpec) -> float:
    """Pictures a second at which a film runs in real time; 30 where the environment tells no period."""
    return 1000 / spec.control_period_ms if spec.control_period_ms else 30.0


def _decide(actor: Actor, observation: Tensor, step: int, policy: Policy) -> Tensor:
    if policy == "planner":
        return actor.act(observation, step=step, explore=False)
    model = actor.agent.planning_model()
    with torch.no_grad():
        return model.pi(model.encode(observation.to(actor.agent.device))).float().cpu()


def _picture(env: gym.Env) -> np.ndarray:
    frame = env.render()
    if not isinstance(frame, np.ndarray):
        raise RuntimeError(f"the environment rendered {type(frame).__name__} instead of a picture")
    return frame

"""Playing episodes without exploration, with the planner or with the policy prior alone."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.env_faults import DIVERGED
from tdmpc.envs import make_env
from tdmpc.spec import EnvSpec
from tdmpc.vector_env import episode_delay, episode_seed

log = logging.getLogger(__name__)

CUT = "episode %d of the evaluation ends after %d decisions, where the simulation diverged: %s"

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
    diverged: int = 0
    """Episodes that ended because the simulation diverged; their returns count what was paid until then."""
    action_variation: float = 0.0
    """Mean absolute change of an action from one decision to the next, over actuators, in half ranges."""

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
    decisions: int | None = None,
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
        decisions: of each episode, at most; all when not given.
        between_decisions: called after each decision; may raise to stop.

    Raises:
        EnvironmentFault: the environment's program failed.
    """
    returns, lengths, times, frames, changes, diverged = [], [], [], [], [], 0
    actor = Actor(agent, lanes=1, seed=seed)
    perturb, options = agent.config.perturb, agent.spec.options
    with closing(make_env(agent.spec.id, render=record, perturb=perturb, **options)) as env:
        for episode in range(episodes):
            observation, _ = env.reset(seed=episode_seed(seed, 0, episode))
            delay = episode_delay(agent.config.delay, episode_seed(seed, 0, episode))
            actor.reset(torch.ones(1, dtype=torch.bool), torch.tensor([delay]))
            total, length, ended, applied = 0.0, 0, False, []
            while not ended and length != decisions:
                started = time.perf_counter()
                action = decide(actor, torch.from_numpy(observation)[None], step, policy)
                times.append(1000 * (time.perf_counter() - started))
                applied.append(action[0].numpy())
                observation, reward, terminated, truncated, info = env.step(action[0].numpy())
                if DIVERGED in info:
                    diverged += 1
                    log.warning(CUT, episode + 1, length, info[DIVERGED])
                    break
                total, length, ended = total + float(reward), length + 1, terminated or truncated
                if record and episode == 0:
                    frames.append(env.render())
                between_decisions()
            returns.append(total)
            lengths.append(length)
            changes.append(np.abs(np.diff(applied, axis=0)))
    variation = float(np.concatenate(changes).mean()) if sum(map(len, changes)) else 0.0
    return Evaluation(tuple(returns), tuple(lengths), tuple(times), tuple(frames), diverged, variation)


def frame_rate(spec: EnvSpec) -> float:
    """Pictures a second at which a film runs in real time; 30 where the environment tells no period."""
    return 1000 / spec.control_period_ms if spec.control_period_ms else 30.0


def decide(actor: Actor, observation: Tensor, step: int, policy: Policy) -> Tensor:
    """An action without exploration."""
    return actor.act(observation, step=step, explore=False) if policy == "planner" else actor.act_by_policy(observation)

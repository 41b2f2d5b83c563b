"""Episodes of an agent in closed loop, and what a control engineer reads from them.

Legend: ``S`` states (``T + 1``), ``T`` decisions, ``N`` episodes side by side, ``K`` decisions ahead.
"""

import re
from contextlib import ExitStack
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from gymnasium.spaces.utils import flatten
from jaxtyping import Bool, Float
from torch import Tensor

from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.envs import make_env
from tdmpc.planner import imagined_return
from tdmpc.vector_env import episode_delay, episode_seed

PLANAR = re.compile(r"dm_control/(cartpole-(balance|swingup)(_sparse)?|pendulum-swingup)-v\d+")
"""Tasks with one pole, whose last joint it hangs from: angle 0 is upright."""


@dataclass(frozen=True)
class Trace:
    """What happened in ``N`` episodes; where one has ended, its last state stands and its rewards are 0."""

    observations: Float[Tensor, "S N O"]
    actions: Float[Tensor, "T N A"]
    rewards: Float[Tensor, "T N"]
    """In the environment's units."""
    alive: Bool[Tensor, "T N"]
    """Whether the transition took place."""
    poles: Float[np.ndarray, "S N 2"]
    """Angle and angular velocity, in radians and seconds; not a number where the task is not planar."""


def closed_loop(
    agent: Agent, *, step: int, episodes: int, seed: int, starts: Float[np.ndarray, "N 2"] | None = None
) -> Trace:
    """Play episodes side by side, without exploration.

    Args:
        agent: is only read.
        step: agent step, for the planner's schedules.
        episodes: how many.
        seed: of episodes and planner noise.
        starts: angle and angular velocity of each episode's pole; the environment's own start when not given.
    """
    actor = Actor(agent, lanes=episodes, seed=seed)
    seeds = [episode_seed(seed, 0, number) for number in range(episodes)]
    delays = torch.tensor([episode_delay(agent.config.delay, each) for each in seeds])
    actor.reset(torch.ones(episodes, dtype=torch.bool), delays)
    with ExitStack() as stack:
        envs = [make_env(agent.spec.id, perturb=agent.config.perturb, **agent.spec.options) for _ in seeds]
        for env in envs:
            stack.callback(env.close)
        sensed = np.stack([env.reset(seed=each)[0] for env, each in zip(envs, seeds, strict=True)])
        if starts is not None:
            sensed = np.stack([turned(env, *start) for env, start in zip(envs, starts, strict=True)])
        observations, poles = [sensed], [_poles(agent, envs)]
        actions, rewards, alive = [], [], []
        goes_on = np.ones(episodes, bool)
        while goes_on.any():
            chosen = actor.act(torch.from_numpy(sensed), step=step, explore=False).numpy()
            paid, sensed, alive_now = np.zeros(episodes, np.float32), sensed.copy(), goes_on.copy()
            for lane in np.flatnonzero(goes_on):
                sensed[lane], paid[lane], terminated, truncated, _ = envs[lane].step(chosen[lane])
                goes_on[lane] = not (terminated or truncated)
            observations.append(sensed)
            actions.append(chosen)
            rewards.append(paid)
            alive.append(alive_now)
            poles.append(_poles(agent, envs))
    stacked = (np.stack(values) for values in (observations, actions, rewards, alive))
    return Trace(*(torch.from_numpy(values) for values in stacked), poles=np.stack(poles))


def turned(env: Any, angle: float, rate: float) -> Float[np.ndarray, "O"]:
    """Turn the pole of a planar task, leave a cart in the middle and at rest; returns what is sensed then."""
    task, physics = env.unwrapped.task, env.unwrapped.physics
    with physics.reset_context():
        physics.data.qpos[:], physics.data.qvel[:] = 0, 0
        physics.data.qpos[-1], physics.data.qvel[-1] = angle, rate
    return np.asarray(flatten(env.unwrapped.observation_space, task.get_observation(physics)), np.float32)


def _poles(agent: Agent, envs: list[Any]) -> Float[np.ndarray, "N 2"]:
    if not PLANAR.fullmatch(agent.spec.id):
        return np.full((len(envs), 2), np.nan)
    found = [(env.unwrapped.physics.data.qpos[-1], env.unwrapped.physics.data.qvel[-1]) for env in envs]
    return np.array([((angle + np.pi) % (2 * np.pi) - np.pi, rate) for angle, rate in found])


# What is read from them --------------------------------------------------------------------------------------------


@torch.no_grad()
def values(agent: Agent, observations: Float[Tensor, "*M O"]) -> Float[Tensor, "*M"]:
    """Discounted return from here on that the agent believes in, in the environment's units."""
    model = agent.model
    z = model.encode(observations)
    return model.value(z, model.pi(z)) * model.reward_scale


def excess(agent: Agent, trace: Trace) -> Float[Tensor, "T N"]:
    """By how much the Lyapunov decrease is missed, in the environment's units of reward; at most 0 where it holds.

    With the cost c = r_max - r and V = r_max / (1 - gamma) - value, it is V(z') - V(z) + c - (1 - gamma) V(z'). The
    highest reward falls out: value(z) - r - gamma value(z').
    """
    believed = values(agent, trace.observations)
    return believed[:-1] - trace.rewards - agent.config.loss.discount * believed[1:]


@torch.no_grad()
def prediction_errors(agent: Agent, trace: Trace, *, ahead: int) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """Largest errors in each episode of what the model predicts so many decisions ahead, with the actions known.

    Returns:
        of the latent, as a share of the spread of all latents; of the return, in the environment's units: rewards on
        the way and the value at the end, against the rewards that were paid and the value of the latent arrived at.
    """
    model, discount, count = agent.model, agent.config.loss.discount, len(trace.actions) - ahead + 1
    encoded = model.encode(trace.observations)
    actions = torch.stack([trace.actions[k : k + count] for k in range(ahead)])
    latents = [encoded[:count]]
    for action in actions:
        latents.append(model.next(latents[-1], action))
    spread = (encoded - encoded.mean((0, 1))).square().sum(-1).mean().sqrt()
    of_latent = (latents[-1] - encoded[ahead:]).square().sum(-1).sqrt() / spread
    imagined = imagined_return(model, torch.stack(latents), actions, discount=discount) * model.reward_scale
    paid = sum(discount**k * trace.rewards[k : k + count] for k in range(ahead))
    of_return = (imagined - paid - discount**ahead * values(agent, trace.observations[ahead:])).abs()
    whole = trace.alive[ahead - 1 :]
    return torch.where(whole, of_latent, 0).amax(0), torch.where(whole, of_return, 0).amax(0)


def settled(trace: Trace, *, goal: float, last: float) -> Bool[np.ndarray, "N"]:
    """Which episodes reach the goal set and never leave it again: each reward of the last share of them is ``goal``."""
    begin = ceil((1 - last) * len(trace.rewards))
    return (trace.rewards[begin:] >= goal).all(0).numpy()


def conformal(scores: np.ndarray, share: float) -> float:
    """What the score of one more episode is at most, with a probability of this share; infinite of too few scores.

    Holds where the episodes are exchangeable, whatever their distribution (Vovk et al. 2005; arXiv 2107.07511): of 19
    scores and 95 %, the largest one.
    """
    rank = ceil((len(scores) + 1) * share - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")

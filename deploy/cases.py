"""Plans on which a graph is compared with the agent that it was made of, and how the agent plans them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from deploy.graphs import Settings
from tdmpc.planner import Plan, PlanNoise, draw_noise, mppi, propose, shift
from tdmpc.spec import EnvSpec
from tdmpc.world_model import OBSERVATION_CLIP, WorldModel

Inputs = tuple[Float[Tensor, "O"], Float[Tensor, "H A"], PlanNoise]
"""Observation, plan of the decision before, and noise: what one plan is made of."""


class Original(NamedTuple):
    """An agent as a bundle's settings have it."""

    model: WorldModel
    settings: Settings
    spec: EnvSpec


class Cases(NamedTuple):
    """Plans to compare: ``S`` consecutive ones from each of ``B`` places in the replay."""

    observations: Float[Tensor, "S B O"]
    previous: Float[Tensor, "S H B A"]
    """What the agent had planned one decision before."""
    noise: list[PlanNoise]
    plans: list[Plan]


@torch.no_grad()
def plan_cases(
    original: Original, observations: Float[Tensor, "S B O"], *, seed: int, noise: PlanNoise | None = None
) -> Cases:
    """Plan from windows of the replay with the agent, each plan beginning with the one before.

    Args:
        original: the agent.
        observations: the windows.
        seed: of the noise.
        noise: of one plan, to be that of all.
    """
    batch, config = observations.shape[1], original.settings.planner
    generator, action_dim = torch.Generator().manual_seed(seed), original.spec.action_dim
    previous, noises, plans = [torch.zeros(config.horizon, batch, action_dim)], [], []
    for observation in observations:
        drawn = draw_noise(generator, config=config, horizon=config.horizon, batch=batch, action_dim=action_dim)
        if noise is not None:
            drawn = PlanNoise(*(one.unsqueeze(-3).expand_as(each) for one, each in zip(noise, drawn, strict=True)))
        noises.append(drawn)
        plans.append(plan(original, observation, previous[-1], drawn))
        previous.append(plans[-1].mean)
    return Cases(observations, torch.stack(previous[:-1]), noises, plans)


@torch.no_grad()
def corner_cases(original: Original, observations: Float[Tensor, "B O"], *, seed: int) -> Cases:
    """Plans that reach the planner's bounds, which ordinary plans may never touch.

    First: sensors far outside of their range, and draws ten times as large. Then: candidates that all are the policy's
    own plan, so that their deviation is the least that is allowed.
    """
    model, settings, spec = original
    config, batch = settings.planner, len(observations)
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_noise(generator, config=config, horizon=config.horizon, batch=batch, action_dim=spec.action_dim)
    quiet = torch.zeros(config.horizon, batch, 1, spec.action_dim)
    own = propose(model, model.encode(observations), quiet, config=config, discount=settings.discount).actions
    alike = PlanNoise(*map(torch.zeros_like, drawn))
    alike.samples[0] = own / config.max_std
    noises = [PlanNoise(10 * drawn.samples, 10 * drawn.policy), alike]
    far = observations + (2 * OBSERVATION_CLIP if model.config.normalize_observations else 0) * model.observation_std
    sensed, nothing = [far, observations], torch.zeros(config.horizon, batch, spec.action_dim)
    plans = [plan(original, observation, nothing, noise) for observation, noise in zip(sensed, noises, strict=True)]
    return Cases(torch.stack(sensed), torch.stack([nothing, nothing]), noises, plans)


def plan(
    original: Original,
    observation: Float[Tensor, "B O"],
    previous: Float[Tensor, "H B A"],
    noise: PlanNoise,
    **hooks: Callable[..., Any],
) -> Plan:
    """The agent's plans; ``hooks`` as ``mppi`` has them."""
    model, settings, _ = original
    return mppi(
        *(model, model.encode(observation), shift(previous), noise),
        config=settings.planner,
        discount=settings.discount,
        min_std=settings.min_std,
        **hooks,
    )


def case(cases: Cases, step: int, window: int) -> Inputs:
    """The inputs of one plan."""
    noise = PlanNoise(cases.noise[step].samples[:, :, window], cases.noise[step].policy[:, window])
    return cases.observations[step, window], cases.previous[step, :, window], noise

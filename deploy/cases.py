"""Plans on which a graph is compared with the agent that it was made of, as the agent makes them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc.deploy.original import Inputs, Original
from tdmpc.planner import Plan, PlanNoise, draw_noise
from tdmpc.world_model import OBSERVATION_CLIP


class Cases(NamedTuple):
    """Plans to compare: ``S`` consecutive ones from each of ``B`` places in the replay."""

    observations: Float[Tensor, "S B O"]
    previous: Float[Tensor, "S H B A"]
    """What the agent had planned one decision before."""
    noise: list[PlanNoise]
    committed: Float[Tensor, "S C B A"]
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
    committed = [torch.zeros(original.settings.delay + 1, batch, action_dim)]
    for observation in observations:
        drawn = draw_noise(generator, config=config, horizon=config.horizon, batch=batch, action_dim=action_dim)
        if noise is not None:
            drawn = PlanNoise(*(one.unsqueeze(-3).expand_as(each) for one, each in zip(noise, drawn, strict=True)))
        noises.append(drawn)
        plans.append(original.plan(observation, previous[-1], drawn, committed[-1]))
        previous.append(plans[-1].mean)
        committed.append(torch.cat([committed[-1][1:], plans[-1].mean[:1]]))
    return Cases(observations, torch.stack(previous[:-1]), noises, torch.stack(committed[:-1]), plans)


@torch.no_grad()
def corner_cases(original: Original, observations: Float[Tensor, "B O"], *, seed: int) -> Cases:
    """Plans that reach the planner's bounds, which ordinary plans may never touch.

    All begin behind actions at random. First: sensors far outside of their range, and draws ten times as large.
    Then: candidates that all are the policy's own plan, so that their deviation is the least that is allowed.
    """
    model, settings, spec = original
    config, batch = settings.planner, len(observations)
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_noise(generator, config=config, horizon=config.horizon, batch=batch, action_dim=spec.action_dim)
    quiet = torch.zeros(config.horizon, batch, 1, spec.action_dim)
    committed = 2 * torch.rand(settings.delay + 1, batch, spec.action_dim, generator=generator) - 1
    own = original.propose(original.start(observations, committed), quiet, committed[-1]).actions
    alike = PlanNoise(*map(torch.zeros_like, drawn))
    alike.samples[0] = own / config.max_std
    noises = [PlanNoise(10 * drawn.samples, 10 * drawn.policy), alike]
    far = observations + (2 * OBSERVATION_CLIP if model.config.normalize_observations else 0) * model.observation_std
    seen, nothing = [far, observations], torch.zeros(config.horizon, batch, spec.action_dim)
    plans = [
        original.plan(observation, nothing, noise, committed) for observation, noise in zip(seen, noises, strict=True)
    ]
    return Cases(torch.stack(seen), torch.stack([nothing] * 2), noises, torch.stack([committed] * 2), plans)


def case(cases: Cases, step: int, window: int) -> Inputs:
    """The inputs of one plan."""
    noise = PlanNoise(cases.noise[step].samples[:, :, window], cases.noise[step].policy[:, window])
    return Inputs(
        cases.observations[step, window], cases.previous[step, :, window], noise, cases.committed[step, :, window]
    )

"""What plans are worth that a graph makes in less than single precision.

They are not compared number by number: another seed of the noise moves an action further than eight bits do. They are
judged in the agent's own model, beside what another seed changes and what the policy alone loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc.deploy.original import Inputs, Original
from tdmpc.planner import PlanNoise


class Loss(NamedTuple):
    """Of one plan, in model units."""

    lost: float
    """Against the agent's plan on the same noise."""
    other_noise: float
    """What another seed of the noise changes."""
    policy: float
    """What the policy alone loses."""
    value: float
    """Of the agent's plan."""


@dataclass(frozen=True)
class Regret:
    """What plans of a graph lose in the agent's model, in the environment's units."""

    plans: int
    mean: float
    """Mean loss against the agent's plan on the same noise."""
    worst: float
    other_noise: float
    """What another seed of the noise changes, on average."""
    policy: float
    """What the policy alone loses: a planner that loses more is worth nothing."""
    value: float
    """Mean value of the agent's plans."""

    @property
    def acceptable(self) -> bool:
        """Whether the plans are still worth more than what costs less, or no less than another seed's."""
        return self.mean <= max(self.policy, self.other_noise)


@torch.no_grad()
def loss(
    original: Original,
    inputs: Inputs,
    made: Float[Tensor, "H A"],
    own: Float[Tensor, "H A"],
    generator: torch.Generator,
) -> Loss:
    """What one plan loses.

    Args:
        original: the agent.
        inputs: what both plan from.
        made: the graph's plan.
        own: the agent's.
        generator: of another noise.
    """
    observation, previous, noise, committed = inputs
    begun = committed[:, None]
    z = original.start(observation[None], begun)
    other = PlanNoise(*(torch.randn(each.shape, generator=generator).unsqueeze(-3) for each in noise))
    reseeded = original.plan(observation[None], previous[:, None], other, begun).mean
    still = torch.zeros_like(own)[:, None, None]
    prior = original.propose(z, still, begun[-1]).actions[:, :, 0]
    compared = torch.stack([own, made, reseeded[:, 0], prior[:, 0]], dim=1)[:, None]
    mine, theirs, others, priors = original.imagine(z, compared)[0].tolist()
    return Loss(mine - theirs, abs(mine - others), mine - priors, mine)


def regret(original: Original, losses: Sequence[Loss]) -> Regret:
    """All losses together."""
    in_units = original.model.reward_scale.item() * torch.tensor(losses)
    lost, other_noise, policy, value = in_units.mean(0).tolist()
    worst = in_units[:, 0].max().item()
    return Regret(len(losses), mean=lost, worst=worst, other_noise=other_noise, policy=policy, value=value)

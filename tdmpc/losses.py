"""The objective of TD-MPC (arXiv 2203.04955, equations 4-8): pure functions of models and a batch."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tdmpc.config import LossConfig, PlannerConfig
from tdmpc.planner import perturb
from tdmpc.spec import Batch
from tdmpc.world_model import WorldModel

LOSS_CAP = 1e4
"""A single sequence's loss counts no more than this, as published."""


class ModelLoss(NamedTuple):
    """The world model's loss on a batch and what else the update needs from it."""

    total: Float[Tensor, ""]
    parts: dict[str, Float[Tensor, ""]]
    priorities: Float[Tensor, "B"]
    latents: Float[Tensor, "S B Z"]
    """Detached latents of the rollout, where the policy is trained."""


class Targets(NamedTuple):
    """What the rollout is fitted to; no gradient flows into it."""

    latents: Float[Tensor, "T B Z"]
    values: Float[Tensor, "T B"]


@torch.no_grad()
def targets(
    model: WorldModel,
    target: WorldModel,
    batch: Batch,
    noise: Float[Tensor, "T B A"],
    *,
    loss: LossConfig,
    planner: PlannerConfig,
) -> Targets:
    """Latents of the next observations by the target encoder, and bootstrapped returns in model units.

    The return bootstraps from the online latent and policy, valued by the target ensemble.
    """
    following = batch.observations[1:]
    z = model.encode(following)
    action = perturb(model.pi(z), noise, config=planner)
    values = batch.rewards / model.reward_scale + loss.discount * batch.alive * target.value(z, action)
    return Targets(latents=target.encode(following).float(), values=values)


def model_loss(model: WorldModel, batch: Batch, goal: Targets, *, config: LossConfig) -> ModelLoss:
    """Consistency, reward, value and termination losses of an open-loop rollout of ``T`` steps."""
    latents = rollout(model, batch)
    before, after = latents[:-1], latents[1:]
    width = config.consistency_width or latents.shape[-1]
    rho = temporal_weights(batch, config=config)
    rewards = batch.rewards / model.reward_scale
    q = model.q(before, batch.actions)
    elementwise = {
        "consistency": (after.float() - goal.latents).square().sum(-1) / width,
        "reward": (model.reward(before, batch.actions) - rewards).square(),
        "value": (q - goal.values).square().sum(0),
    }
    if model.can_terminate:
        logits = model.terminates(after)
        elementwise["termination"] = F.binary_cross_entropy_with_logits(
            logits, batch.terminated.float(), reduction="none"
        )
    parts = {name: (rho * loss).sum(0) for name, loss in elementwise.items()}
    weighted = sum(getattr(config, name) * part.clamp(max=LOSS_CAP) for name, part in parts.items())
    errors = (q - goal.values).abs().sum(0)
    return ModelLoss(
        total=(batch.weights * weighted).mean() / config.horizon,
        parts={name: part.detach().mean() for name, part in parts.items()},
        priorities=(rho * errors).sum(0).detach().clamp(max=LOSS_CAP),
        latents=latents.detach(),
    )


def policy_loss(
    model: WorldModel,
    latents: Float[Tensor, "S B Z"],
    alive: Float[Tensor, "T B"],
    noise: Float[Tensor, "S B A"],
    *,
    loss: LossConfig,
    planner: PlannerConfig,
) -> Float[Tensor, ""]:
    """Negative value of the policy's actions on the rollout's latents, each step weighted by rho^t.

    A latent counts only while the episode goes on: nothing is decided where it has ended, and no value is fitted there.
    """
    value = model.value(latents, perturb(model.pi(latents), noise, config=planner))
    counts = torch.cat([torch.ones_like(alive[:1]), alive])
    rho = loss.rho ** torch.arange(len(latents), device=latents.device)
    return -(rho[:, None] * counts * value).mean(1).sum()


def rollout(model: WorldModel, batch: Batch) -> Float[Tensor, "S B Z"]:
    """Latents that the dynamics predict from the first observation and the actions taken."""
    latents = [model.encode(batch.observations[0])]
    for action in batch.actions:
        latents.append(model.next(latents[-1], action))
    return torch.stack(latents)


def temporal_weights(batch: Batch, *, config: LossConfig) -> Float[Tensor, "T B"]:
    """rho^t for real transitions, 0 after a termination."""
    steps = torch.arange(len(batch.mask), device=batch.mask.device)
    return config.rho ** steps[:, None] * batch.mask

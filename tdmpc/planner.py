"""Model predictive path integral planning with policy trajectories (arXiv 2203.04955, section 3).

A pure, batched function of (model, latent, previous mean, noise): the same code acts in
training, in evaluation and in an exported graph, where randomness has to be an input.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc.config import ConfigError, PlannerConfig
from tdmpc.world_model import WorldModel


class PlanNoise(NamedTuple):
    """Standard normal draws that one plan consumes."""

    samples: Float[Tensor, "I H B N A"]
    policy: Float[Tensor, "H B P A"]


class Proposals(NamedTuple):
    """Plans of the policy prior."""

    actions: Float[Tensor, "H B P A"]
    values: Float[Tensor, "B P"]
    """Their return in the model, in model units."""


class Plan(NamedTuple):
    """What an iteration, and so a plan, ends with."""

    mean: Float[Tensor, "H B A"]
    std: Float[Tensor, "H B A"]
    elites: Float[Tensor, "H B K A"]
    weights: Float[Tensor, "B K"]
    """Share of each elite in the mean; they sum to one."""
    value: Float[Tensor, "B"]
    """Weighted return of the elites, in model units."""


def draw_noise(
    generator: torch.Generator, *, config: PlannerConfig, horizon: int, batch: int, action_dim: int
) -> PlanNoise:
    """Noise for one batch of plans, on the generator's device."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, action_dim, generator=generator, device=generator.device)

    return PlanNoise(
        samples=normal(config.iterations, horizon, batch, config.samples),
        policy=normal(horizon, batch, config.policy_trajectories),
    )


def imagine(
    model: WorldModel, z: Float[Tensor, "B Z"], actions: Float[Tensor, "H B N A"], *, discount: float
) -> Float[Tensor, "B N"]:
    """Return of action sequences in the model."""
    latents = [z[:, None].expand(-1, actions.shape[2], -1)]
    for action in actions:
        latents.append(model.next(latents[-1], action))
    return imagined_return(model, torch.stack(latents), actions, discount=discount)


def imagined_return(
    model: WorldModel, latents: Float[Tensor, "S B N Z"], actions: Float[Tensor, "H B N A"], *, discount: float
) -> Float[Tensor, "B N"]:
    """Rewards on the way of a rollout, then the value of the policy's action.

    Rewards (and terminations) of all steps are computed in one pass: larger products use the cores better.
    """
    rewards = model.reward(latents[:-1], actions)
    steps = torch.arange(len(latents), device=actions.device)
    weights = (discount**steps)[:, None, None].expand(-1, *rewards.shape[1:])
    if model.can_terminate:
        # Step by step: ONNX has no running product.
        survival = torch.stack(list(accumulate(torch.sigmoid(-model.terminates(latents[1:])), torch.mul)))
        weights = weights * torch.cat([torch.ones_like(survival[:1]), survival])
    final = latents[-1]
    return (weights[:-1] * rewards).sum(0) + weights[-1] * model.value(final, model.pi(final))


def propose(
    model: WorldModel,
    z: Float[Tensor, "B Z"],
    noise: Float[Tensor, "H B P A"],
    *,
    config: PlannerConfig,
    discount: float,
    before: Float[Tensor, "B A"] | None = None,
) -> Proposals:
    """Action sequences that the policy prior takes in the model, and their return."""
    latents, actions = [z[:, None].expand(-1, noise.shape[2], -1)], []
    previous = None if before is None else before[:, None]
    for draws in noise:
        proposed = perturb(model.pi(latents[-1]), draws, config=config)
        actions.append(previous := limit_change(proposed, previous, config.max_change))
        latents.append(model.next(latents[-1], actions[-1]))
    sequences = torch.stack(actions)
    return Proposals(sequences, imagined_return(model, torch.stack(latents), sequences, discount=discount))


def ahead(model: WorldModel, z: Float[Tensor, "B Z"], pending: Float[Tensor, "D B A"]) -> Float[Tensor, "B Z"]:
    """The latent to which actions lead that are decided already: where a delayed decision begins."""
    for actions in pending:
        z = model.next(z, actions)
    return z


def mppi(
    model: WorldModel,
    z: Float[Tensor, "B Z"],
    mean: Float[Tensor, "H B A"],
    noise: PlanNoise,
    *,
    config: PlannerConfig,
    discount: float,
    min_std: float,
    before: Float[Tensor, "B A"] | None = None,
    propose: Callable[..., Proposals] = propose,
    evaluate: Callable[..., Tensor] = imagine,
) -> Plan:
    """Plan ``H`` actions from each of ``B`` latents.

    Args:
        model: the world model; its weights are only read.
        z: where the plans start.
        mean: the previous plan, already shifted by one decision; zeros at the start of an episode.
        noise: standard normal draws; the function has no other randomness.
        config: numbers of samples, elites and iterations, temperature, momentum.
        discount: of rewards along the plan.
        min_std: least deviation of the samples.
        before: the action that comes just before the plan, from which ``config.max_change`` counts; zeros when not
            given.
        propose: ``propose``, compiled or as it is.
        evaluate: ``imagine``, compiled or as it is, for the sampled plans.
    """
    before = torch.zeros_like(mean[0]) if before is None else before
    proposals = propose(model, z, noise.policy, config=config, discount=discount, before=before)
    mean = limit_changes(mean, before, config.max_change)
    std = torch.full_like(mean, config.max_std)
    plan = None
    for draws in noise.samples:
        plan = improve(
            *(model, z, mean, std, draws, proposals),
            config=config,
            discount=discount,
            min_std=min_std,
            before=before,
            evaluate=evaluate,
        )
        mean, std = plan.mean, plan.std
    assert plan is not None, "a planner needs at least one iteration"
    return plan


def improve(
    model: WorldModel,
    z: Float[Tensor, "B Z"],
    mean: Float[Tensor, "H B A"],
    std: Float[Tensor, "H B A"],
    draws: Float[Tensor, "H B N A"],
    proposals: Proposals,
    *,
    config: PlannerConfig,
    discount: float,
    min_std: float,
    before: Float[Tensor, "B A"] | None = None,
    evaluate: Callable[..., Tensor] = imagine,
) -> Plan:
    """One iteration: sample plans, value them, move to the best; the arguments are those of ``mppi``.

    With ``config.max_change``, the mean of smooth plans is smooth: no step is needed that makes it so.
    """
    actions, values = candidates(
        *(model, z, mean, std, draws, proposals),
        discount=discount,
        before=before,
        max_change=config.max_change,
        evaluate=evaluate,
    )
    return refit(mean, actions, values, config=config, min_std=min_std)


def candidates(
    model: WorldModel,
    z: Float[Tensor, "B Z"],
    mean: Float[Tensor, "H B A"],
    std: Float[Tensor, "H B A"],
    draws: Float[Tensor, "H B N A"],
    proposals: Proposals,
    *,
    discount: float,
    before: Float[Tensor, "B A"] | None = None,
    max_change: float | None = None,
    evaluate: Callable[..., Tensor] = imagine,
) -> tuple[Float[Tensor, "H B M A"], Float[Tensor, "B M"]]:
    """What an iteration chooses from, and its return in the model: the samples, then the policy's plans."""
    samples = (mean[:, :, None] + std[:, :, None] * draws).clamp(-1, 1)
    samples = limit_changes(samples, None if before is None else before[:, None], max_change)
    values = torch.cat([evaluate(model, z, samples, discount=discount), proposals.values], dim=-1)
    return torch.cat([samples, proposals.actions], dim=2), values


def perturb(action: Float[Tensor, "*M A"], noise: Float[Tensor, "*M A"], *, config: PlannerConfig) -> Tensor:
    """A policy action with its clipped exploration noise, inside [-1, 1].

    The gradient passes straight through the bounds, as published: an action beyond them can come back.
    """
    jitter = (config.policy_std * noise).clamp(-config.policy_noise_clip, config.policy_noise_clip)
    noisy = action.float() + jitter
    return noisy.clamp(-1, 1).detach() + (noisy - noisy.detach())


def limit_changes(
    actions: Float[Tensor, "H *M A"], before: Float[Tensor, "*#M A"] | None, max_change: float | None
) -> Float[Tensor, "H *M A"]:
    """Action sequences none of which changes by more than ``max_change`` in a decision; as they are without one."""
    if max_change is None:
        return actions
    limited = []
    for action in actions:
        limited.append(before := limit_change(action, before, max_change))
    return torch.stack(limited)


def limit_change(
    action: Float[Tensor, "*M A"], before: Float[Tensor, "*#M A"] | None, max_change: float | None
) -> Float[Tensor, "*M A"]:
    """An action at most ``max_change`` (the rate limit) from the one before it; as it is without a limit.

    Raises:
        ConfigError: there is a limit, and whoever asks does not say what came before.
    """
    if max_change is None:
        return action
    if before is None:
        raise ConfigError(
            "--planner.max-change limits the change from the action before, which is not known here. Plan with an "
            "agent that was trained without it"
        )
    return torch.minimum(torch.maximum(action, before - max_change), before + max_change)


def refit(
    mean: Float[Tensor, "H B A"],
    actions: Float[Tensor, "H B M A"],
    values: Float[Tensor, "B M"],
    *,
    config: PlannerConfig,
    min_std: float,
) -> Plan:
    """Move the sampling distribution to the elites, each weighted by exp(temperature x advantage)."""
    best = values.topk(config.elites, dim=-1)
    index = best.indices[None, :, :, None].expand(actions.shape[0], -1, -1, actions.shape[-1])
    elites = actions.gather(2, index)
    weights = torch.softmax(config.temperature * best.values, dim=-1)
    share = weights[None, :, :, None]
    fitted = (share * elites).sum(2)
    std = (share * (elites - fitted[:, :, None]).square()).sum(2).sqrt()
    return Plan(
        mean=config.momentum * mean + (1 - config.momentum) * fitted,
        std=std.clamp(min_std, config.max_std),
        elites=elites,
        weights=weights,
        value=(weights * best.values).sum(-1),
    )


def shift(mean: Float[Tensor, "H *B A"]) -> Float[Tensor, "H *B A"]:
    """The plan one decision later; nothing is known of its last step."""
    return torch.cat([mean[1:], torch.zeros_like(mean[:1])])

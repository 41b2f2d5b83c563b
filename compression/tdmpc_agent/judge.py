"""The judge of a smaller agent: its losses and its plans beside those of the one that it was cut from."""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tdmpc.compression.prunable import Judgement
from tdmpc.compression.tdmpc_agent.networks import Networks
from tdmpc.losses import Targets, model_loss, targets, temporal_weights
from tdmpc.planner import draw_noise, imagine, mppi
from tdmpc.replay import Replay
from tdmpc.spec import Batch

FLOOR = 1e-4
"""What a constant leaves unexplained, or planning gains, counts as at least this much."""
JUDGED_WINDOWS = 256
"""Windows on which losses are judged."""
JUDGED_PLANS, FEWER_SAMPLES = 8, 8
"""Observations from which plans are judged, and how many times fewer samples such a plan takes."""


class Fit(NamedTuple):
    """How well networks explain data."""

    losses: dict[str, float]
    unexplained: dict[str, float]
    """Each loss as a share of what the best constant would have."""


class Reference:
    """An agent on windows of its replay: the values that smaller ones are measured by, and how well it does itself."""

    def __init__(self, agent: Networks, replay: Replay, draw: int) -> None:
        config, device = agent.config, next(agent.model.parameters()).device
        self.larger = agent
        windows = replay.sample(JUDGED_WINDOWS, rng=np.random.default_rng((config.seed, draw)))
        self.batch = windows.to(device)
        generator = torch.Generator(device).manual_seed(draw)
        self.noise = torch.randn(self.batch.actions.shape, generator=generator, device=device)
        self.values = self._targets(agent).values
        self.fit = self.fit_of(agent)
        self.observations = self.batch.observations[0, :JUDGED_PLANS]
        self.start = agent.model.encode(self.observations)
        full = config.planner
        self.planner = dataclasses.replace(
            full, samples=-(-full.samples // FEWER_SAMPLES), elites=-(-full.elites // FEWER_SAMPLES)
        )
        self.plan_noise = draw_noise(
            generator,
            config=self.planner,
            horizon=full.horizon_at(agent.step),
            batch=len(self.observations),
            action_dim=agent.spec.action_dim,
        )
        self.plan_value = self.value_of_plan(agent)
        """Return of its plans, in units of the environment."""
        self.chance_value = self._value(self.plan_noise.samples[0].clamp(-1, 1))
        """Return of random actions."""

    def judge(self, smaller: Networks) -> Judgement:
        """Compare an agent with this one."""
        fit, plan_value = self.fit_of(smaller), self.value_of_plan(smaller)
        worsening = {name: fit.unexplained[name] - self.fit.unexplained[name] for name in fit.unexplained}
        gain = max(self.plan_value - self.chance_value, FLOOR)
        return Judgement(
            before={**self.fit.losses, "plan_value": self.plan_value},
            after={**fit.losses, "plan_value": plan_value},
            worsening={**worsening, "plan": (self.plan_value - plan_value) / gain},
        )

    def fit_of(self, agent: Networks) -> Fit:
        """Losses of an agent against its own target network's latents and the larger agent's values."""
        goal = self._targets(agent)._replace(values=self.values)
        parts = model_loss(agent.model, self.batch, goal, config=agent.config.loss).parts
        losses = {name: value.item() for name, value in parts.items()}
        constant = _constant_losses(agent, self.batch, goal)
        return Fit(losses, {name: loss / max(constant[name], FLOOR) for name, loss in losses.items()})

    def value_of_plan(self, agent: Networks) -> float:
        """What the larger agent thinks of an agent's plans."""
        horizon, batch, *_ = self.plan_noise.policy.shape
        plan = mppi(
            agent.model,
            agent.model.encode(self.observations),
            self.noise.new_zeros(horizon, batch, agent.spec.action_dim),
            self.plan_noise,
            config=self.planner,
            discount=agent.config.loss.discount,
            min_std=agent.config.planner.std(agent.step),
        )
        return self._value(plan.mean[:, :, None])

    def _targets(self, agent: Networks) -> Targets:
        config = agent.config
        return targets(agent.model, agent.target, self.batch, self.noise, loss=config.loss, planner=config.planner)

    def _value(self, actions: Float[Tensor, "H B N A"]) -> float:
        model = self.larger.model
        returns = imagine(model, self.start, actions, discount=self.larger.config.loss.discount)
        return (returns.mean() * model.reward_scale).item()


def _constant_losses(agent: Networks, batch: Batch, goal: Targets) -> dict[str, float]:
    """What each loss would be if the best constant were predicted."""
    config = agent.config
    rho = temporal_weights(batch, config=config.loss)

    def around_mean(values: Float[Tensor, "T B *X"]) -> Float[Tensor, "T B"]:
        return (values - values.mean((0, 1))).square().flatten(2).sum(-1)

    ended = batch.terminated.float()
    elementwise = {
        "consistency": around_mean(goal.latents) / (config.loss.consistency_width or goal.latents.shape[-1]),
        "reward": around_mean((batch.rewards / agent.model.reward_scale)[..., None]),
        "value": config.model.value_heads * around_mean(goal.values[..., None]),
        "termination": F.binary_cross_entropy(ended.mean().expand_as(ended), ended, reduction="none"),
    }
    return {name: (rho * loss).sum(0).mean().item() for name, loss in elementwise.items()}

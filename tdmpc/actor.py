"""The actor: plans with an agent in several environments, each with its own warm start."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tdmpc.agent import Agent, NonFiniteError, restore_generator
from tdmpc.planner import Plan, draw_noise, mppi, shift


class Actor:
    """Plans for ``N`` lanes, each with its own warm start, from one stream of noise."""

    def __init__(self, agent: Agent, *, lanes: int, seed: int) -> None:
        self.agent = agent
        self.lanes = lanes
        self.generator = torch.Generator(agent.device).manual_seed(seed)
        self.mean = torch.zeros(agent.config.planner.horizon, lanes, agent.spec.action_dim, device=agent.device)

    @torch.no_grad()
    def act(self, observations: Float[Tensor, "N O"], *, step: int, explore: bool) -> Float[Tensor, "N A"]:
        """Actions in [-1, 1]: the plan's mean, or in training a random elite with exploration noise.

        Args:
            observations: in sensor units.
            step: agent step, for the schedules of horizon and deviation.
            explore: whether to explore.

        Raises:
            NonFiniteError: the plan is not finite.
        """
        plan = self._plan(observations.to(self.agent.device), step)
        if not torch.isfinite(plan.value).all():
            raise NonFiniteError(f"the plan is not finite at agent step {step}")
        action = self._explore(plan) if explore else plan.mean[0]
        return action.clamp(-1, 1).cpu()

    def forget(self, ended: Bool[Tensor, "N"]) -> None:
        """Drop the warm start of lanes whose episode ended."""
        self.mean[:, ended.to(self.mean.device)] = 0

    def _plan(self, observations: Tensor, step: int) -> Plan:
        agent, config = self.agent, self.agent.config.planner
        horizon, min_std = min(config.horizon, int(config.horizon_schedule(step))), config.std(step)
        noise = draw_noise(
            self.generator, config=config, horizon=horizon, batch=self.lanes, action_dim=agent.spec.action_dim
        )
        model = agent.planning_model()
        plan = mppi(
            model,
            model.encode(observations),
            self.mean[:horizon],
            noise,
            config=config,
            discount=agent.config.loss.discount,
            min_std=min_std,
            propose=agent.propose,
            evaluate=agent.imagine,
        )
        self.mean[:horizon] = plan.mean
        self.mean = shift(self.mean)
        return plan

    def _explore(self, plan: Plan) -> Float[Tensor, "N A"]:
        pick = torch.multinomial(plan.weights, 1, generator=self.generator)
        index = pick[:, :, None].expand(-1, -1, plan.elites.shape[-1])
        elite = plan.elites[0].gather(1, index).squeeze(1)
        noise = torch.randn(elite.shape, generator=self.generator, device=elite.device)
        return elite + plan.std[0] * noise

    def state(self) -> dict[str, Tensor]:
        """Warm starts and noise stream."""
        return {"mean": self.mean, "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.mean = state["mean"].to(self.agent.device).clone()
        restore_generator(self.generator, state["generator"])

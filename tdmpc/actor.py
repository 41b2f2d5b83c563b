"""The actor: decides with an agent in several environments, each with its own warm start and its own delay.

With a delay of D decisions, the action decided at time t is applied at t + D. Until then others are applied that were
decided before, and nobody can change them: they are *pending*. The actor lets the dynamics predict where they lead and
begins its plan there. With D = 2:

    time            t            t + 1        t + 2
    applied         pending[0]   pending[1]   what is decided at t
    latent          encoded      predicted    predicted: the plan begins here

The model learns from what was applied, so it is that of the robot without delay.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tdmpc import compiling
from tdmpc.agent import Agent, NonFiniteError, restore_generator
from tdmpc.planner import Plan, draw_noise, limit_change, mppi, shift
from tdmpc.world_model import WorldModel


class Actor:
    """Decides for ``N`` lanes, from one stream of noise."""

    def __init__(self, agent: Agent, *, lanes: int, seed: int) -> None:
        self.agent = agent
        self.lanes = lanes
        self.generator = torch.Generator(agent.device).manual_seed(seed)
        longest, actions = max(agent.config.delay), (lanes, agent.spec.action_dim)
        self.mean = torch.zeros(agent.config.planner.horizon, *actions, device=agent.device)
        self.pending = torch.zeros(longest, *actions, device=agent.device)
        """``[D N A]``: what is to be applied now and in the next decisions; zeros before anything was decided."""
        self.applied = torch.zeros(actions, device=agent.device)
        """``[N A]``: what was applied in the decision before; zeros at the start of an episode."""
        self.delays = torch.full((lanes,), longest, device=agent.device)
        self._each = torch.arange(lanes, device=agent.device)

    @torch.no_grad()
    def act(self, observations: Float[Tensor, "N O"], *, step: int, explore: bool) -> Float[Tensor, "N A"]:
        """Decide by planning: the plan's mean, or in training a random elite with exploration noise.

        Args:
            observations: in sensor units.
            step: agent step, for the schedules of horizon and deviation.
            explore: whether to explore.

        Returns:
            the actions to apply now, in [-1, 1]: what was decided as many decisions ago as the delay is.

        Raises:
            NonFiniteError: the plan is not finite.
        """
        plan = self._plan(observations.to(self.agent.device), step)
        if not torch.isfinite(plan.value).all():
            raise NonFiniteError(f"the plan is not finite at agent step {step}")
        action = self._explore(plan) if explore else plan.mean[0]
        return self.commit(action.clamp(-1, 1))

    @torch.no_grad()
    def act_by_policy(self, observations: Float[Tensor, "N O"]) -> Float[Tensor, "N A"]:
        """Decide by the policy network alone; returns as ``act``."""
        model = self.agent.planning_model()
        return self.commit(model.pi(self.ahead(model, observations.to(self.agent.device))).float())

    def commit(self, decided: Float[Tensor, "N A"]) -> Float[Tensor, "N A"]:
        """Put what is decided behind what is pending, within reach of it, and take out what is due."""
        decided = limit_change(decided.to(self.agent.device), self._before(), self.agent.config.planner.max_change)
        queue = torch.cat([self.pending, torch.zeros_like(decided)[None]])
        queue[self.delays, self._each] = decided
        self.applied, self.pending = queue[0], queue[1:]
        return queue[0].cpu().clone()  # an environment may write into its action

    def reset(self, started: Bool[Tensor, "N"], delays: Int[Tensor, "N"]) -> None:
        """Start episodes: without a warm start, nothing pending.

        Args:
            started: the lanes whose episode starts.
            delays: of all lanes, in decisions; those of other lanes are not looked at.
        """
        started = started.to(self.agent.device)
        self.mean[:, started] = 0
        self.pending[:, started] = 0
        self.applied[started] = 0
        self.delays = torch.where(started, delays.to(self.agent.device), self.delays)

    def _before(self) -> Float[Tensor, "N A"]:
        """What is applied just before that which is decided now."""
        return torch.cat([self.applied[None], self.pending])[self.delays, self._each]

    def ahead(self, model: WorldModel, observations: Float[Tensor, "N O"]) -> Float[Tensor, "N Z"]:
        """The latent at which a decision of now is applied."""
        latents = [model.encode(observations)]
        for actions in self.pending:
            latents.append(model.next(latents[-1], actions))
        return torch.stack(latents)[self.delays, self._each]

    def _plan(self, observations: Tensor, step: int) -> Plan:
        agent, config = self.agent, self.agent.config.planner
        horizon, min_std = config.horizon_at(step), config.std(step)
        noise = draw_noise(
            self.generator, config=config, horizon=horizon, batch=self.lanes, action_dim=agent.spec.action_dim
        )
        model = agent.planning_model()
        start = self.ahead(model, observations)
        compiling.of_any_size(start, 1)
        plan = mppi(
            model,
            start,
            self.mean[:horizon],
            noise,
            config=config,
            discount=agent.config.loss.discount,
            min_std=min_std,
            before=self._before(),
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
        """Warm starts, noise stream, and what is pending."""
        kept = {"mean": self.mean, "pending": self.pending, "applied": self.applied, "delays": self.delays}
        return {**kept, "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a saved state."""
        self.mean = state["mean"].to(self.agent.device).clone()
        if "pending" in state:  # runs of versions without delay have none
            self.pending = state["pending"].to(self.agent.device).clone()
            self.delays = state["delays"].to(self.agent.device).clone()
        if "applied" in state:  # older runs had no limit of change
            self.applied = state["applied"].to(self.agent.device).clone()
        restore_generator(self.generator, state["generator"])

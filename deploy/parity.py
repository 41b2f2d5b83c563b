"""How far a graph's plans are from those of the agent that it was made of.

Two measures. *Parity* is for graphs that compute in the same precision: the largest difference on the same noise.
*Regret* is for those that do not: what their plans are worth in the agent's own model, for another seed of the noise
moves an action further than rounding does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from deploy.graphs import Settings
from tdmpc.planner import Plan, PlanNoise, draw_noise, imagine, mppi, propose, shift
from tdmpc.world_model import WorldModel

TOLERANCE = 1e-4
"""Largest difference, in the units of [-1, 1], with which a bundle is still written."""
ROUNDING = 1e-6
"""Relative size of the disturbance that asks whether single precision decides a plan."""
DISTURBED = 32
"""Disturbed copies of a plan."""
TOGETHER = 4
"""Copies planned in one batch: most plans that rounding decides show it among the first."""

Planner = Callable[[Float[Tensor, "O"], Float[Tensor, "H A"], PlanNoise], tuple[Tensor, Tensor]]
"""(observation, previous mean, noise of one plan) to (new mean, value): a graph, seen from here."""


class Cases(NamedTuple):
    """Plans to compare: ``S`` consecutive ones from each of ``B`` places in the replay."""

    observations: Float[Tensor, "S B O"]
    previous: Float[Tensor, "S H B A"]
    """What the agent had planned one decision before."""
    noise: list[PlanNoise]
    plans: list[Plan]


@dataclass(frozen=True)
class Parity:
    """Largest differences between a graph and the agent."""

    plans: int
    mean: float
    """Of a plan, in [-1, 1]."""
    value: float
    """Of what a plan is worth, relative to the largest value."""
    undecided: int
    """Plans left out: which samples are the best is a matter of rounding, in the agent as well."""
    policy: float = 0.0
    """Of the policy's action, in [-1, 1]."""

    @property
    def compared(self) -> int:
        """Plans that were not left out."""
        return self.plans - self.undecided

    def joined(self, other: "Parity") -> "Parity":
        """Of both comparisons together."""
        return Parity(
            plans=self.plans + other.plans,
            mean=max(self.mean, other.mean),
            value=max(self.value, other.value),
            undecided=self.undecided + other.undecided,
            policy=max(self.policy, other.policy),
        )


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


@torch.no_grad()
def plan_cases(
    model: WorldModel, settings: Settings, observations: Float[Tensor, "S B O"], *, action_dim: int, seed: int
) -> Cases:
    """Plan from windows of the replay with the agent, each plan beginning with the one before."""
    generator = torch.Generator().manual_seed(seed)
    config, batch = settings.planner, observations.shape[1]
    previous, noises, plans = [torch.zeros(config.horizon, batch, action_dim)], [], []
    for observation in observations:
        noise = draw_noise(generator, config=config, horizon=config.horizon, batch=batch, action_dim=action_dim)
        plans.append(plan(model, settings, model.encode(observation), previous[-1], noise))
        noises.append(noise)
        previous.append(plans[-1].mean)
    return Cases(observations, torch.stack(previous[:-1]), noises, plans)


def plan(
    model: WorldModel,
    settings: Settings,
    z: Float[Tensor, "B Z"],
    previous: Float[Tensor, "H B A"],
    noise: PlanNoise,
    evaluate: Callable[..., Tensor] = imagine,
) -> Plan:
    """The agent's plan, as a bundle's settings have it; ``evaluate`` as ``mppi`` has it."""
    return mppi(
        model,
        z,
        shift(previous),
        noise,
        config=settings.planner,
        discount=settings.discount,
        min_std=settings.min_std,
        evaluate=evaluate,
    )


@torch.no_grad()
def parity(model: WorldModel, settings: Settings, cases: Cases, planner: Planner) -> Parity:
    """Plan all cases with a graph and compare."""
    differences, undecided = [], 0
    values = model.reward_scale * torch.stack([expected.value for expected in cases.plans])
    for step, window in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
        expected = cases.plans[step]
        mean, value = planner(*case(cases, step, window))
        off = (mean - expected.mean[:, window]).abs().max().item()
        if off > TOLERANCE and not is_decided(model, settings, *case(cases, step, window)):
            undecided += 1
        else:
            differences.append((off, (value - values[step, window]).abs().item()))
    mean, value = map(max, zip(*differences, strict=True)) if differences else (0.0, 0.0)
    largest = max(values.abs().max().item(), torch.finfo(values.dtype).tiny)  # nought: an agent that has learnt nothing
    return Parity(values.numel(), mean, value / largest, undecided)


def case(cases: Cases, step: int, window: int) -> tuple[Tensor, Tensor, PlanNoise]:
    """The inputs of one plan."""
    noise = PlanNoise(cases.noise[step].samples[:, :, window], cases.noise[step].policy[:, window])
    return cases.observations[step, window], cases.previous[step, :, window], noise


@torch.no_grad()
def is_decided(
    model: WorldModel,
    settings: Settings,
    observation: Float[Tensor, "O"],
    previous: Float[Tensor, "H A"],
    noise: PlanNoise,
) -> bool:
    """Whether single precision decides a plan: it stays where it is when its start moves by a rounding error.

    Where the last elite and the best sample that is none are worth the same but for rounding, two correct planners
    differ by what one elite moves the mean, some hundredths.
    """
    generator = torch.Generator().manual_seed(0)

    def planned(copies: int, size: float) -> Float[Tensor, "H D A"]:
        def rounded(exact: Float[Tensor, "D N"]) -> Float[Tensor, "D N"]:
            return exact * (1 + size * torch.randn(exact.shape, generator=generator))

        def evaluate(model: WorldModel, z: Tensor, actions: Tensor, *, discount: float) -> Tensor:
            # One by one: a moved latent moves the worth of all samples together, and shows few ties between them.
            return rounded(imagine(model, z, actions, discount=discount))

        z = rounded(model.encode(observation[None]).expand(copies, -1))
        draws = PlanNoise(*(each[..., None, :, :].expand(*each.shape[:-2], copies, -1, -1) for each in noise))
        before = previous[:, None].expand(-1, copies, -1)
        return plan(model, settings, z, before, draws, evaluate=evaluate).mean

    exact = planned(1, 0.0)
    disturbed = (planned(TOGETHER, ROUNDING) for _ in range(DISTURBED // TOGETHER))
    return all((copies - exact).abs().max().item() <= TOLERANCE for copies in disturbed)


@torch.no_grad()
def regret(model: WorldModel, settings: Settings, cases: Cases, planner: Planner, *, seed: int) -> Regret:
    """What a graph's plans lose against the agent's, in the agent's model; and what another seed changes."""
    steps, windows = cases.observations.shape[:2]
    scale = model.reward_scale.item()
    other = torch.Generator().manual_seed(seed)
    lost, changed, unplanned, worth = [], [], [], []
    still = torch.zeros_like(cases.previous[0])[:, :, None]
    for step in range(steps):
        z = model.encode(cases.observations[step])
        draws = PlanNoise(*(torch.randn(each.shape, generator=other) for each in cases.noise[step]))
        reseeded = plan(model, settings, z, cases.previous[step], draws).mean
        judged = torch.stack([planner(*case(cases, step, window))[0] for window in range(windows)], dim=1)
        prior = propose(model, z, still, config=settings.planner, discount=settings.discount).actions[:, :, 0]
        candidates = torch.stack([cases.plans[step].mean, reseeded, judged, prior], dim=2)
        mine, reseeds, theirs, priors = scale * imagine(model, z, candidates, discount=settings.discount).T
        lost.append(mine - theirs)
        changed.append((mine - reseeds).abs())
        unplanned.append(mine - priors)
        worth.append(mine)
    loss = torch.cat(lost)
    return Regret(
        plans=steps * windows,
        mean=loss.mean().item(),
        worst=loss.max().item(),
        other_noise=torch.cat(changed).mean().item(),
        policy=torch.cat(unplanned).mean().item(),
        value=torch.cat(worth).mean().item(),
    )

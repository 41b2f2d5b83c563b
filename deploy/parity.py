"""Whether a graph plans as the agent that it was made of.

Only questions with one right answer are asked. Do the same candidates get the same values? Are the elites the best of
them? Do the next mean and deviation follow from the elites? Are the plans worth as much in the agent's own model?
Equal actions are no such question: where the worst elite and the best non-elite have equal value up to rounding, two
correct planners choose different elites.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc.deploy.bundle import actuate
from tdmpc.deploy.cases import Cases, case
from tdmpc.deploy.original import Inputs, Original
from tdmpc.deploy.probe import Iteration, Trace
from tdmpc.planner import Proposals, candidates, limit_changes, refit, shift
from tdmpc.spec import EnvSpec
from tdmpc.world_model import WorldModel

TOLERANCE = 1e-4
"""Largest difference of an action, a mean or a deviation, in the units of [-1, 1]."""
VALUE_TOLERANCE = 2e-5
"""Largest difference of a value, relative to ``value_scale``. Single precision makes 1e-6 or a little more."""
REGRET_TOLERANCE = 1e-4
"""Largest mean loss of the plans, relative to their mean gain."""
STANDARD_ERRORS = 4
"""How many of them a mean loss may be higher: where elites tie, one plan loses what another gains."""
NUDGE = 1e-3
"""Relative change of each weight that tells the scale of values: far above rounding, and still small."""
NUDGES = 4
SCALED = 8
"""Plans on which the scale of values is measured."""

Planner = Callable[[Inputs], Trace]
"""A graph, seen from here."""


class Difference(NamedTuple):
    """Between a plan of a graph and the agent's: the largest of all iterations, values in model units."""

    start: float = 0.0
    """Of the latent, relative to its largest number, and of the policy's plans."""
    values: float = 0.0
    """Of the candidates and of the whole plan."""
    elites: float = 0.0
    """How much less the graph's worst elite is worth than the agent's."""
    mean: float = 0.0
    """Of the means and of the action."""
    std: float = 0.0
    loss: float = 0.0
    """Of the graph's plan against the agent's own, in the agent's model."""
    gain: float = 0.0
    """Of planning: what the best of the first candidates is worth above their average. They lie in the whole range of
    actions, so this is not zero for an agent that has arrived and stays: most of them would lead away."""
    gap: float = math.inf
    """Smallest difference between the worst elite and the best non-elite."""
    tied: bool = False
    """From the same mean and deviation, the agent itself would have chosen other elites and moved elsewhere."""


@dataclass(frozen=True)
class Parity:
    """Largest differences between a graph and the agent."""

    plans: int
    ties: int
    """Plans in which the agent would have moved elsewhere, with other elites of equal value up to rounding."""
    start: float
    """Of the latent, relative to its largest number, and of the policy's plans, in [-1, 1]."""
    values: float
    """Of a value, relative to ``value_scale``."""
    elites: float
    """How much less the graph's worst elite is worth than the agent's, on the same scale."""
    mean: float
    """Of the mean after an iteration with the same elites from the same mean and deviation, in [-1, 1]."""
    std: float
    """Of the deviation after it."""
    regret: float
    """What the graph's plans lose against the agent's own, on average, in the agent's model and the environment's
    units."""
    regret_error: float
    """Standard error of that average, rounding included."""
    gain: float
    """What planning gains on average, see ``Difference``."""
    policy: float = 0.0
    """Of the policy's action, in [-1, 1]."""

    def failures(self, *, worth: bool = True) -> list[str]:
        """What rounding does not explain, in words; nothing where the graph is the agent's.

        Args:
            worth: whether what the plans are worth is judged, too.
        """
        limits = {
            "the latent or the policy's plans": (self.start, TOLERANCE),
            "a value": (self.values, VALUE_TOLERANCE),
            "the value of the worst elite": (self.elites, 2 * VALUE_TOLERANCE),
            "the mean after an iteration": (self.mean, TOLERANCE),
            "the deviation after an iteration": (self.std, TOLERANCE),
            "the policy's action": (self.policy, TOLERANCE),
        }
        if worth:
            allowed = REGRET_TOLERANCE * self.gain + STANDARD_ERRORS * self.regret_error
            limits["the plans' worth"] = (self.regret, allowed)
        return [
            f"{name} by {found:.1e} (allowed {limit:.1e})"
            for name, (found, limit) in limits.items()
            if not found <= limit  # NaN is within no limit
        ]


# Comparison ------------------------------------------------------------------------------------------------------


def differences(original: Original, cases: Cases, planner: Planner) -> list[Difference]:
    """Plan all cases with a graph and compare: one step after the other, each with all its windows."""
    return [
        difference(original, inputs := case(cases, step, window), planner(inputs), cases.plans[step].mean[:, window])
        for step, window in np.ndindex(*cases.observations.shape[:2])
    ]


def parity(original: Original, found: Sequence[Difference], scale: float) -> Parity:
    """All comparisons together; ``scale`` as ``value_scale`` has it."""
    columns = dict(zip(Difference._fields, np.array(found, np.float64).T, strict=True))
    worst = {name: float(column.max()) for name, column in columns.items()}
    in_units = original.model.reward_scale.item()
    spread = math.hypot(columns["loss"].std(), torch.finfo(torch.float32).eps * scale)
    return Parity(
        plans=len(found),
        ties=int(columns["tied"].sum()),
        start=worst["start"],
        values=_relative(worst["values"], scale),
        elites=_relative(worst["elites"], scale),
        mean=worst["mean"],
        std=worst["std"],
        regret=in_units * float(columns["loss"].mean()),
        regret_error=in_units * spread / math.sqrt(len(found)),
        gain=in_units * float(columns["gain"].mean()),
    )


def _relative(difference: float, scale: float) -> float:
    """Nothing is nothing even on a scale of nothing: an agent that has learnt nothing values everything alike."""
    return difference / scale if scale else math.inf if difference else 0.0


@torch.no_grad()
def value_scale(
    original: Original, observations: Float[Tensor, "B O"], samples: Float[Tensor, "H B N A"], *, seed: int = 0
) -> float:
    """What values are made of: how much they change with their weights, relative to the weights' own change.

    Rounding grows with the numbers that a network adds up, and these can be much larger than their sum. So its scale
    is no value, but what values change by when each weight changes a little, at random.
    """
    generator = torch.Generator().manual_seed(seed)
    actions = (original.settings.planner.max_std * samples[:, :SCALED]).clamp(-1, 1)

    def values(model: WorldModel) -> Float[Tensor, "B N"]:
        return original._replace(model=model).imagine(model.encode(observations[:SCALED]), actions)

    exact, changes = values(original.model), []
    for _ in range(NUDGES):
        nudged = copy.deepcopy(original.model)
        for parameter in nudged.parameters():
            parameter *= 1 + NUDGE * torch.randn(parameter.shape, generator=generator)
        changes.append(values(nudged) - exact)
    return torch.stack(changes).square().mean().sqrt().item() / NUDGE


@torch.no_grad()
def difference(original: Original, inputs: Inputs, trace: Trace, own: Float[Tensor, "H A"]) -> Difference:
    """Compare a plan of a graph with what the agent makes of the same, iteration by iteration.

    Args:
        original: the agent.
        inputs: what both plan from.
        trace: the graph's plan.
        own: the agent's plan.
    """
    if not _fits(original, trace):
        return Difference(*[math.inf] * 5, gap=0.0)
    model, settings, spec = original
    observation, previous, noise, committed = inputs
    config, before = settings.planner, committed[-1:]
    z = original.start(observation[None], committed[:, None])
    proposals = original.propose(z, noise.policy[:, None], before)
    mean = limit_changes(shift(previous)[:, None], before, config.max_change)
    std = torch.full_like(mean, config.max_std)
    steps = [_start(z, proposals, trace)]
    for draws, made in zip(noise.samples, trace.iterations, strict=True):
        actions, values = candidates(
            *(model, z, mean, std, draws[:, None], proposals),
            discount=settings.discount,
            before=before,
            max_change=config.max_change,
        )
        steps.append(_step(original, mean, actions, values, made))
        mean, std = made.mean[:, None], made.std[:, None]
    steps.append(_end(spec, trace))
    mine, theirs = original.imagine(z, torch.stack([own, trace.mean], 1)[:, None])[0].tolist()
    largest = Difference._make(np.array(steps, np.float64).max(0))  # NaN is the largest number here
    gap = min(each.gap for each in steps)
    return largest._replace(loss=mine - theirs, gain=steps[1].gain, gap=gap)


def _fits(original: Original, trace: Trace) -> bool:
    """Whether everything is there, and the elites are as many different candidates as they should be."""
    model, settings, spec = original
    config = settings.planner
    count, plan_shape = config.samples + config.policy_trajectories, (config.horizon, spec.action_dim)
    return (
        len(trace.iterations) == config.iterations
        and trace.latent.shape == (model.config.latent,)
        and trace.proposals.shape == (config.horizon, config.policy_trajectories, spec.action_dim)
        and all(
            made.values.shape == (count,)
            and made.mean.shape == made.std.shape == plan_shape
            and len(set(made.elites.tolist()) & set(range(count))) == len(made.elites) == config.elites
            for made in trace.iterations
        )
    )


def _start(z: Float[Tensor, "1 Z"], proposals: Proposals, trace: Trace) -> Difference:
    latent = (trace.latent - z[0]) / z.abs().max().clamp(min=torch.finfo(z.dtype).tiny)
    return Difference(start=_largest(latent, trace.proposals - proposals.actions[:, 0]))


def _step(
    original: Original,
    mean: Float[Tensor, "H 1 A"],
    actions: Float[Tensor, "H 1 M A"],
    values: Float[Tensor, "1 M"],
    made: Iteration,
) -> Difference:
    """One iteration: the values of the candidates, which are elites, and what follows from the graph's own choice."""
    model, settings, _ = original
    scale, chosen, config = model.reward_scale, made.elites, settings.planner
    own = refit(mean, actions, values, config=config, min_std=settings.min_std)
    following = refit(mean, actions[:, :, chosen], made.values[None, chosen], config=config, min_std=settings.min_std)
    worst, *others = values[0].sort(descending=True).values[config.elites - 1 : config.elites + 1].tolist()
    return Difference(
        values=_largest(made.values - values[0], made.value / scale - following.value[0]),
        elites=worst - values[0, chosen].min().item(),
        mean=_largest(made.mean - following.mean[:, 0]),
        std=_largest(made.std - following.std[:, 0]),
        gain=max((values.max() - values.mean()).item(), 0.0),  # rounding can lift the average above the best
        gap=worst - others[0] if others else math.inf,
        tied=_largest(made.mean - own.mean[:, 0]) > TOLERANCE,
    )


def _end(spec: EnvSpec, trace: Trace) -> Difference:
    """The action, in half widths of the actuators' range."""
    low, high = np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32)
    action = (trace.action.numpy() - actuate(trace.mean[0].numpy(), low, high)) / ((high - low) / 2)
    return Difference(mean=float(np.abs(action).max()))


def _largest(*differences: Tensor) -> float:
    return torch.cat([difference.flatten() for difference in differences]).abs().max().item()  # NaN is the largest

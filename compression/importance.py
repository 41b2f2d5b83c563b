"""How much a group matters: criteria on weights and gradients, and the running statistics that they read.

After Sundaram, Ulmen and Goerges (arXiv 2601.19794), of which we read abstract and reviews: gradient accumulation,
Fisher information, Bayesian uncertainty, temporal smoothing. Published: Taylor (Molchanov et al., arXiv 1906.10771);
the PQ index (arXiv 2302.05601). The form of the Bayesian posterior and its bounds, the weight of history, the rank
average and the use of the PQ index as a score are ours: docs/compression.md.

Everything is one number for each group, so a statistic takes no more memory than the groups are many.
"""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tdmpc.compression.groups import Axis, Groups, Slice

CriterionName = Literal["bayesian", "gradient", "fisher", "average", "taylor", "l1", "l2", "pq", "random"]
Moment = Literal["absolute", "squared", "taylor"]
Bound = Literal["lower", "mean", "upper"]

PQ = (0.5, 1.0)
"""p and q of the PQ index."""
PRIOR = (3.0, 1e-8)
"""Shape a0 and rate b0 of the Gamma prior on a group's gradient energy; a0 > 2, so that its deviation is finite."""
LEAST_STEP = 0.02
"""Least mean squared step from one energy to the next, in variances: an observation counts as 1/199 at least."""
DEVIATIONS: dict[Bound, int] = {"lower": -1, "mean": 0, "upper": 1}
"""Posterior deviations that a bound lies beside the mean; with a0 = 3 the lower one is never negative."""


# Sums over groups ------------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """How a parameter is added up onto an axis: over all dimensions across it, from where the axis starts."""

    parameter: str
    across: tuple[int, ...]
    start: int


class Tally:
    """Adds up numbers that belong to parameters over the groups, all groups at once, on one device."""

    def __init__(self, groups: Groups, device: torch.device | str = "cpu") -> None:
        self.device = device
        self.readings = {
            axis: [_reading(axis, piece, groups.shapes[piece.parameter]) for piece in axis.slices]
            for axis in groups.axes
        }
        self.sizes = self({name: torch.ones(shape, device=device) for name, shape in groups.shapes.items()})
        """Parameters of each group."""

    def __call__(self, values: Mapping[str, Tensor]) -> Float[Tensor, "U"]:
        """The sum over each group; parameters that are not given count as zero.

        Nothing is scattered: a GPU would add in any order, and the last digits would differ from run to run.
        """
        return torch.cat([self._along(axis, readings, values) for axis, readings in self.readings.items()])

    def _along(self, axis: Axis, readings: list[Reading], values: Mapping[str, Tensor]) -> Float[Tensor, "W"]:
        """The sums of an axis' groups, head by head."""
        sums = [
            (values[name].sum(across) if across else values[name]).narrow(-1, start, axis.size)
            for name, across, start in readings
            if name in values
        ]
        return reduce(torch.add, sums).flatten() if sums else torch.zeros(axis.heads * axis.size, device=self.device)


def _reading(axis: Axis, piece: Slice, shape: tuple[int, ...]) -> Reading:
    along = {piece.dim} if axis.heads == 1 else {0, piece.dim}
    return Reading(piece.parameter, tuple(dim for dim in range(len(shape)) if dim not in along), piece.start)


# Running statistics ----------------------------------------------------------------------------------------------


class Statistics(NamedTuple):
    """What the gradients seen so far say about each group."""

    moments: Mapping[Moment, Float[Tensor, "U"]]
    """Exponential averages, not yet corrected for their start at zero: of the mean |g|, of the mean g^2, and of the
    squared sum of w g."""
    rate: Float[Tensor, "U"]
    """Rate b of each group's Gamma posterior."""
    shape: float
    """Its shape a, the same for all groups, because all are observed at the same times."""
    weight: float
    """What the weights of the averages sum to: 1 - smoothing^observations."""
    spread: Float[Tensor, "U"]
    """Sum of the squared distances of each group's energies from their mean, with the posterior's forgetting."""
    steps: Float[Tensor, "U"]
    """Sum of the squared steps from one energy to the next, likewise."""
    latest: Float[Tensor, "U"]
    """The last energy."""

    @property
    def remembered(self) -> float:
        """Observations that the posterior has not forgotten."""
        return self.shape - PRIOR[0]


def nothing_seen(total: int, moments: tuple[Moment, ...], device: torch.device | str = "cpu") -> Statistics:
    """The statistics of ``total`` groups before the first observation, on the device of the gradients to come."""
    rate = torch.full((total,), PRIOR[1], device=device)
    zeros = {name: torch.zeros_like(rate) for name in ("spread", "steps", "latest")}
    return Statistics({name: torch.zeros_like(rate) for name in moments}, rate, PRIOR[0], 0.0, **zeros)


def sums_of(
    parameters: Mapping[str, Tensor], gradients: Mapping[str, Tensor], tally: Tally, wanted: tuple[Moment, ...]
) -> dict[Moment, Float[Tensor, "U"]]:
    """What a gradient adds to each group: the sums of |g|, of g^2 and of w g."""
    parts: dict[Moment, Callable[[str, Tensor], Tensor]] = {
        "absolute": lambda name, g: g.abs(),
        "squared": lambda name, g: g.square(),
        "taylor": lambda name, g: parameters[name] * g,
    }
    return {moment: tally({name: parts[moment](name, g) for name, g in gradients.items()}) for moment in wanted}


def moments_of(sums: Mapping[Moment, Tensor], tally: Tally) -> dict[Moment, Float[Tensor, "U"]]:
    """The mean |g| and g^2 of each group, and the squared first-order change of the loss when the group is removed."""
    return {name: total.square() if name == "taylor" else total / tally.sizes for name, total in sums.items()}


def observed(
    statistics: Statistics, moments: Mapping[Moment, Tensor], *, smoothing: float, forgetting: float
) -> Statistics:
    """The statistics after one more gradient.

    The posterior forgets towards the prior: ``a <- a0 + f (a - a0) + 1``, ``b <- b0 + f (b - b0) + E``. The spread is
    updated from the distances to the mean before and after, so that nothing cancels.
    """
    shape, rate = PRIOR
    seen = moments.get("absolute", torch.zeros_like(statistics.rate))
    distance = (
        seen - (statistics.rate - rate) / statistics.remembered if statistics.remembered else torch.zeros_like(seen)
    )
    step = seen - statistics.latest if statistics.remembered else distance
    return Statistics(
        moments={name: average.lerp(moments[name], 1 - smoothing) for name, average in statistics.moments.items()},
        rate=rate + forgetting * (statistics.rate - rate) + seen,
        shape=shape + forgetting * (statistics.shape - shape) + 1,
        weight=1 - smoothing * (1 - statistics.weight),
        # distance (1 - 1 / n) is that to the new mean, with n = f count + 1.
        spread=forgetting * statistics.spread + distance.square() * (1 - 1 / (forgetting * statistics.remembered + 1)),
        steps=forgetting * statistics.steps + step.square(),
        latest=seen,
    )


def kept(statistics: Statistics, places: Int[Tensor, "K"]) -> Statistics:
    """The statistics of the groups that stay."""
    places = places.to(statistics.rate.device)
    return statistics._replace(
        moments={name: average[places] for name, average in statistics.moments.items()},
        **{name: getattr(statistics, name)[places] for name in BY_GROUP},
    )


BY_GROUP = ("rate", "spread", "steps", "latest")
"""Statistics with one number for each group, beside the moments."""


def own_shapes(statistics: Statistics) -> Float[Tensor, "U"]:
    """Shape a_g of each group's own posterior: the observations count by what those of this group tell.

    They are divided by the dispersion, the squared coefficient of variation of the group's energies, which is 1 where
    these are exponential as the model says; and by the autocorrelation time (1 + r) / (1 - r), r the correlation of an
    energy with the next. One observation more has the dispersion 1, so that few alike are not taken for certainty.
    """
    count = statistics.remembered
    mean = (statistics.rate - PRIOR[1]) / max(count, 1.0)
    variance = statistics.spread / max(count, 1.0)
    step = (statistics.steps / max(count, 1.0)).clamp(LEAST_STEP * variance, 2 * variance)  # 2 variance (1 - r)
    dispersion = (variance / mean.square() * (4 * variance - step) / step).nan_to_num()
    return PRIOR[0] + count * (1 + count) / (1 + count * dispersion)


# Criteria --------------------------------------------------------------------------------------------------------


class Evidence(NamedTuple):
    """All that a criterion may judge by."""

    statistics: Statistics
    weights: Mapping[str, Tensor]
    groups: Groups
    tally: Tally
    generator: torch.Generator
    """Of the random baseline."""
    bound: Bound = "mean"
    """What the Bayesian score takes of the posterior."""
    history: float = 0.5
    """Weight of the posterior against the current energy in the Bayesian score, from 0 to 1."""

    def average(self, moment: Moment) -> Float[Tensor, "U"]:
        """A smoothed moment, corrected for its start at zero."""
        return self.statistics.moments[moment] / max(self.statistics.weight, 1e-12)

    def norms(self, power: float) -> Float[Tensor, "U"]:
        """Sum of |w|^power over each group."""
        return self.tally({name: weight.detach().abs() ** power for name, weight in self.weights.items()})


def gradient(evidence: Evidence) -> Float[Tensor, "U"]:
    """Gradient accumulation: the mean |dL/dw| of a group."""
    return evidence.average("absolute")


def fisher(evidence: Evidence) -> Float[Tensor, "U"]:
    """Diagonal empirical Fisher information: the mean squared gradient of a group."""
    return evidence.average("squared")


def bayesian(evidence: Evidence) -> Float[Tensor, "U"]:
    """Current gradient energy times its posterior mean b / (a - 1): sensitive now and active in the past.

    The energy E is exponential with a Gamma(a, b) posterior on its rate. All groups are observed at the same times and
    share a. The deviation, the mean over sqrt(a_g - 2), follows from what each group's own observations tell, and a
    bound lies one deviation beside the mean. With another weight h of history, the score is E^(2 - 2h) mean^(2h).
    """
    statistics, history = evidence.statistics, evidence.history
    deviations = DEVIATIONS[evidence.bound] / (own_shapes(statistics) - 2).sqrt()
    posterior = statistics.rate / (statistics.shape - 1) * (1 + deviations)
    return evidence.average("absolute") ** (2 - 2 * history) * posterior ** (2 * history)


def average(evidence: Evidence) -> Float[Tensor, "U"]:
    """Mean rank by the three gradient criteria inside each axis and head, from 1 / W for the least to 1."""
    ranks = [_ranks(criterion(evidence), evidence.groups) for criterion in (gradient, fisher, bayesian)]
    return torch.stack(ranks).mean(0)


def _ranks(scores: Float[Tensor, "U"], groups: Groups) -> Float[Tensor, "U"]:
    parts = groups.split(scores).values()
    return torch.cat([((part.argsort(1).argsort(1) + 1) / part.shape[1]).flatten() for part in parts])


def taylor(evidence: Evidence) -> Float[Tensor, "U"]:
    """Squared first-order change of the loss when the group is set to zero."""
    return evidence.average("taylor")


def l1(evidence: Evidence) -> Float[Tensor, "U"]:
    """Mean magnitude of a group's weights."""
    return evidence.norms(1) / evidence.tally.sizes


def l2(evidence: Evidence) -> Float[Tensor, "U"]:
    """Root mean square of a group's weights."""
    return (evidence.norms(2) / evidence.tally.sizes).sqrt()


def pq(evidence: Evidence) -> Float[Tensor, "U"]:
    """Magnitude that is spread over the group: ``|w|_q (1 - I(w)) = d^(1/q - 1/p) |w|_p``, with the PQ index I.

    With adaptive allocation this is SAP on units.
    """
    p, q = PQ
    return evidence.tally.sizes ** (1 / q - 1 / p) * evidence.norms(p) ** (1 / p)


def random(evidence: Evidence) -> Float[Tensor, "U"]:
    """Nothing is known."""
    return torch.rand(evidence.groups.total, generator=evidence.generator)


Criterion = Callable[[Evidence], Float[Tensor, "U"]]
CRITERIA: dict[CriterionName, Criterion] = {
    "bayesian": bayesian,
    "gradient": gradient,
    "fisher": fisher,
    "average": average,
    "taylor": taylor,
    "l1": l1,
    "l2": l2,
    "pq": pq,
    "random": random,
}
"""All criteria by name; a group with a smaller score goes first. Scores compare inside an axis only."""

NEEDED: dict[CriterionName, tuple[Moment, ...]] = {
    "bayesian": ("absolute",),
    "gradient": ("absolute",),
    "fisher": ("squared",),
    "average": ("absolute", "squared"),
    "taylor": ("taylor",),
}
"""The gradient moments that a criterion reads; the others look at weights alone, and gradients are not observed."""

"""From scores, costs and a target to the units that stay.

One loop takes a step of one axis after the other, the cheapest loss first, until the cost is reached; the methods
differ in what they call cheap:

    global     importance that the axis loses, for each multiply-add (or parameter) freed
    uniform    every axis keeps the same share of its initial width
    adaptive   every axis goes as far as the PQ index of its scores says that it can: SAP (arXiv 2302.05601) on units
    importance as global, but what an axis loses also counts by the importance of its level (``levels``)

With ``uniform``, all components are cut at one rate, and what they share with them: this is the ablation against one
joint dependency graph, in which components are not told apart.

Scores of different axes live on different scales (loss coefficients, widths), so ``global`` takes what an axis has
left as a share of what it had at first, and its loss as the growth of one over that share: what is scarce is dear, so
that no layer disappears and neighbours, whose units cost as much as the other is wide, shrink together. (With the
logarithm of the share they would not: the wider one of two neighbours is then never worth cutting.) What components
share counts once for each of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from tdmpc.compression.groups import Budget, Groups
from tdmpc.compression.importance import PQ
from tdmpc.compression.levels import levels
from tdmpc.compression.sparsity import pq_index

Method = Literal["global", "uniform", "adaptive", "importance"]

BETA = 0.9
"""The largest share of an axis that SAP takes at once."""


@dataclass(frozen=True)
class Limits:
    """How far each axis may go."""

    initial: Mapping[str, int]
    """Widths before any pruning."""
    floors: Mapping[str, int]
    """Least width of each axis."""
    round_to: int = 1
    """Widths become multiples of this."""

    def next_below(self, axis: str, width: int) -> int:
        """The next smaller width an axis may have; the same where there is none: round to 8, 50 -> 48 -> 40."""
        smaller = (width - 1) // self.round_to * self.round_to
        return smaller if smaller >= self.floors[axis] else width


def allocate(
    scores: Mapping[str, Float[Tensor, "E W"]],
    groups: Groups,
    *,
    method: Method,
    budget: Budget,
    goal: float,
    limits: Limits,
) -> dict[str, Int[Tensor, "E K"]]:
    """The units that stay, for the axes that lose some.

    Args:
        scores: of every group, by axis; the least goes first. Heads of a stacked axis choose their own units and keep
            one width. ``importance`` asks for those of the parts (``Groups.with_parts``) too.
        groups: the model as it is.
        method: which axis gives next.
        budget: which cost counts.
        goal: the cost to come down to. It is undershot by less than one step of one axis; where the limits do not
            allow it, it is approached as far as they do.
        limits: how far each axis may go.
    """
    names = list(groups.widths)
    widths = np.array([groups.widths[name] for name in names], dtype=float)
    cost = groups.polynomial(budget)
    rank = METHODS[method](scores, groups, limits)
    while cost(widths) > goal:
        smaller = [limits.next_below(name, int(width)) for name, width in zip(names, widths, strict=True)]
        below = np.array(smaller, dtype=float)
        order = np.where(below < widths, rank(widths, below, cost.of_a_unit(widths)), np.inf)
        if not np.isfinite(order).any():
            break
        axis = int(order.argmin())
        widths[axis] = below[axis]
    return {
        name: best(scores[name], int(width))
        for name, width in zip(names, widths, strict=True)
        if width < groups.widths[name]
    }


def best(scores: Float[Tensor, "E W"], count: int) -> Int[Tensor, "E K"]:
    """The highest scored units of each head, ascending; of equal ones the first."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count].sort(dim=1).values


Widths = Float[np.ndarray, "X"]
Rank = Callable[[Widths, Widths, Widths], Widths]
"""From the widths, the next smaller ones and the cost of a unit, to the order in which axes give: the least first."""


def _global(scores: Mapping[str, Tensor], groups: Groups, limits: Limits) -> Rank:
    return _by_worth(scores, groups, limits, dict.fromkeys(groups.widths, 1.0))


def _importance(scores: Mapping[str, Tensor], groups: Groups, limits: Limits) -> Rank:
    return _by_worth(scores, groups, limits, levels(scores, groups.with_parts()))


def _by_worth(scores: Mapping[str, Tensor], groups: Groups, limits: Limits, worth: Mapping[str, float]) -> Rank:
    # left[axis][k] is what its k best units are worth, together and averaged over heads, as a share of the axis' first
    # worth: the width that it has now is taken to be worth its share of the first one.
    left = [_share_left(scores[axis.name], axis.size / limits.initial[axis.name]) for axis in groups.axes]
    weight = np.array([axis.shared_by * worth[axis.name] for axis in groups.axes])

    def need(widths: Widths) -> Widths:
        return np.array([1 / table[int(width)] for table, width in zip(left, widths, strict=True)])

    def rank(widths: Widths, below: Widths, unit_cost: Widths) -> Widths:
        freed = (widths - below) * unit_cost
        lost = weight * (need(below) - need(widths))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(freed > 0, lost / freed, np.inf)

    return rank


def _share_left(scores: Float[Tensor, "E W"], width: float) -> Float[np.ndarray, "V"]:
    best = scores.double().sort(dim=1, descending=True).values.mean(0).cumsum(0).numpy()
    whole = best[-1] if best[-1] > 0 else 1.0
    return np.concatenate([[0.0], width * best / whole]).clip(min=1e-9)  # also where all scores are zero


def _uniform(scores: Mapping[str, Tensor], groups: Groups, limits: Limits) -> Rank:
    initial = np.array([limits.initial[name] for name in groups.widths], dtype=float)
    return lambda widths, below, unit_cost: -below / initial


def _adaptive(scores: Mapping[str, Tensor], groups: Groups, limits: Limits) -> Rank:
    now = np.array(list(groups.widths.values()), dtype=float)
    # An axis that SAP would cut to a half goes to a quarter while one that it would cut to 0.9 goes to 0.81.
    pace = np.log(1 - np.array([max(sap_share(scores[name]), 1e-3) for name in groups.widths]))
    return lambda widths, below, unit_cost: np.log(below / now) / pace


def sap_share(scores: Float[Tensor, "E W"]) -> float:
    """The share of an axis that SAP would take: ``min(1 - r / d, beta)`` with the PQ bound ``r``, heads averaged."""
    p, q = PQ
    stay = (1 - pq_index(scores.double(), p, q)) ** (q * p / (q - p))
    return min(1 - stay.mean().item(), BETA)


METHODS: dict[Method, Callable[[Mapping[str, Tensor], Groups, Limits], Rank]] = {
    "global": _global,
    "uniform": _uniform,
    "adaptive": _adaptive,
    "importance": _importance,
}

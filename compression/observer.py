"""An observer: what the gradients of a training have told about every group until now."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tdmpc.compression.config import PruneConfig
from tdmpc.compression.groups import Groups, Keep
from tdmpc.compression.importance import (
    BY_GROUP,
    CRITERIA,
    NEEDED,
    Bound,
    CriterionName,
    Evidence,
    Moment,
    Statistics,
    Tally,
    kept,
    moments_of,
    nothing_seen,
    observed,
    sums_of,
)

WATCHED: tuple[CriterionName, ...] = ("gradient", "fisher", "bayesian", "taylor", "l1", "l2", "pq")
"""What is recorded of every group where all criteria are watched."""
ALL = "all/"
WATCHED_EVERY = 8
"""All criteria look at every eighth of the updates that one looks at: so they cost little."""


class Observer:
    """Looks at every n-th update for some criteria. An update may come in parts."""

    def __init__(
        self,
        groups: Groups,
        criteria: tuple[CriterionName, ...],
        *,
        every: int,
        smoothing: float,
        forgetting: float,
        parts: bool,
        device: torch.device | str = "cpu",
    ) -> None:
        """Nothing is seen yet.

        Args:
            groups: of what is trained.
            criteria: that are to be known.
            every: look at every n-th update.
            smoothing: share of the past in the averages, for each look.
            forgetting: share of the past in the posterior, for each look.
            parts: whether shared axes are also observed component by component (``Groups.with_parts``).
            device: of the gradients.
        """
        self.criteria, self.every, self.parts, self.device = criteria, every, parts, device
        self.smoothing, self.forgetting = smoothing, forgetting
        self.needed: tuple[Moment, ...] = tuple(
            dict.fromkeys(moment for name in criteria for moment in NEEDED.get(name, ()))
        )
        self._set_groups(groups)
        self.statistics = nothing_seen(self.table.total, self.needed, device)

    def _set_groups(self, groups: Groups) -> None:
        self.table = groups.with_parts() if self.parts else groups
        self.tally = Tally(self.table, self.device)
        self._sums: dict[Moment, Tensor] = {}

    @property
    def knows(self) -> bool:
        """Whether it can score: it has seen a gradient, or looks at weights alone."""
        return bool(self.statistics.weight) or not self.needed

    def look(self, parameters: Mapping[str, Tensor], *, update: int) -> None:
        """See the gradients of some parameters, a part of an update."""
        if self.needed and update % self.every == 0:
            gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
            sums = sums_of(parameters, gradients, self.tally, self.needed)
            self._sums = {name: self._sums[name] + total for name, total in sums.items()} if self._sums else sums

    def conclude(self) -> None:
        """The update is whole."""
        if self._sums:
            moments = moments_of(self._sums, self.tally)
            self.statistics = observed(self.statistics, moments, smoothing=self.smoothing, forgetting=self.forgetting)
            self._sums = {}

    @torch.no_grad()
    def scores(
        self, weights: Mapping[str, Tensor], generator: torch.Generator, *, bound: Bound, history: float
    ) -> dict[CriterionName, dict[str, Tensor]]:
        """The importance ``[E W]`` of every group by each criterion, by axis; arguments as in ``Evidence``."""
        evidence = Evidence(self.statistics, weights, self.table, self.tally, generator, bound, history)
        return {name: self.table.split(CRITERIA[name](evidence).cpu()) for name in self.criteria}

    def keep(self, keep: Keep, groups: Groups) -> None:
        """Go on with the groups that a cut leaves."""
        parts = {part.name: keep[axis.name] for axis in self.table.axes if axis.name in keep for part in axis.parts}
        self.statistics = kept(self.statistics, self.table.flat({**keep, **parts}))
        self._set_groups(groups)

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Its statistics: tensors, and numbers."""
        tensors = {name: getattr(self.statistics, name) for name in BY_GROUP}
        tensors |= {f"moments/{name}": average for name, average in self.statistics.moments.items()}
        return tensors, {"shape": self.statistics.shape, "weight": self.statistics.weight}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], groups: Groups) -> None:
        """Go on from a saved state with these groups."""
        rate = tensors["rate"]
        # The state of a run from before there were bounds has no spread, and its posterior mean does without.
        by_group = {name: tensors.get(name, torch.zeros_like(rate)).to(self.device).clone() for name in BY_GROUP}
        moments: dict[Moment, Tensor] = {
            name: tensors[f"moments/{name}"].to(self.device).clone() for name in self.needed
        }
        self.statistics = Statistics(moments, shape=meta["shape"], weight=meta["weight"], **by_group)
        self._set_groups(groups)


def observers(config: PruneConfig, groups: Groups, device: torch.device | str = "cpu") -> dict[str, Observer]:
    """Who decides, and who watches all criteria; by what stands before their names in a checkpoint.

    Each remembers as many updates as the other, however seldom it looks.
    """

    def observer(*criteria: CriterionName, every: int = 1) -> Observer:
        return Observer(
            groups,
            criteria,
            every=every * config.observe_every,
            smoothing=config.smoothing**every,
            forgetting=config.forgetting**every,
            parts=every > 1 or config.allocation == "importance",
            device=device,
        )

    decides = {"": observer(config.criterion)} if config.target or not config.observe else {}
    watches = {ALL: observer(config.criterion, *WATCHED, every=WATCHED_EVERY)} if config.observe else {}
    return decides | watches

"""Importance of a whole level: a layer, a component, or what components share.

Scores of different components live on different scales, because their losses do, and a shared (coupling) group
averages over parameters of all of them. So a score counts as a multiple of its component's mean; a coupling group first
has a score in each component, from that component's parameters alone, and then the mean of these multiples.
Component-specific and coupling groups are those of arXiv 2601.19794 (read in reviews); this normalisation is ours.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc.compression.groups import Groups


def relative(scores: Mapping[str, Float[Tensor, "E W"]], table: Groups) -> dict[str, Float[Tensor, "E W"]]:
    """Scores as multiples of the mean over all groups of their component, its parts of shared axes among them.

    Args:
        scores: of every group, by axis.
        table: of ``Groups.with_parts``.
    """
    means = {name: torch.cat(_flat(scores, table, name)).mean() for name in table.components}
    own = {axis.name: _multiples(scores[axis.name], means[axis.component]) for axis in table.axes}
    shared = {
        axis.name: torch.stack([own[part.name] for part in axis.parts]).mean(0) for axis in table.axes if axis.parts
    }
    return own | shared


def _flat(scores: Mapping[str, Tensor], table: Groups, component: str) -> list[Float[Tensor, "U"]]:
    return [scores[axis.name].flatten() for axis in table.axes if axis.component == component]


def _multiples(scores: Float[Tensor, "E W"], mean: Float[Tensor, ""]) -> Float[Tensor, "E W"]:
    """One for all where nothing is known of the component."""
    return scores / mean if mean > 0 else torch.ones_like(scores)


def levels(scores: Mapping[str, Float[Tensor, "E W"]], table: Groups) -> dict[str, float]:
    """The importance of every layer (``dynamics.0``), of what components share (``latent``) and of every component.

    It is the mean of ``relative`` over the groups of the level. That of a component is the mean over its own layers, so
    that 1 says: they matter as much as its part of what is shared, and less says that this part matters more.

    Args:
        scores: of every group, by axis.
        table: of ``Groups.with_parts``.
    """
    values = relative(scores, table)
    axes = {axis.name: [values[axis.name].flatten()] for axis in table.axes if axis.layer is not None or axis.parts}
    components = {
        name: [values[axis.name].flatten() for axis in table.axes if axis.component == name and axis.layer is not None]
        for name in table.components
        if name not in axes
    }
    return {name: torch.cat(parts).mean().item() for name, parts in {**axes, **components}.items() if parts}

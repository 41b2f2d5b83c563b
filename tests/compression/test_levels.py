"""Laws of levels: what is compared with what, and that components do not mix."""

import pytest
import torch
from torch import Tensor

from tdmpc.compression.groups import Axis, Groups, Slice
from tdmpc.compression.importance import Tally
from tdmpc.compression.levels import levels, relative

# One latent of two coordinates: component a writes it, component b, which has a layer of its own, reads it.
TABLE = Groups(
    (
        Axis("latent", None, 2, (Slice("a.out", 0, component="a"), Slice("b.in", 1, component="b"))),
        Axis("a", 0, 2, (Slice("a.in", 0), Slice("a.out", 1))),
        Axis("b", 0, 3, (Slice("b.in", 0), Slice("b.out", 1))),
    ),
    {"a.in": (2, 4), "a.out": (2, 2), "b.in": (3, 2), "b.out": (1, 3)},
    {},
).with_parts()
SCORES = {
    "latent": [99.0, 99.0],  # a mixture of both components, which counts for nothing
    "a.0": [1.0, 3.0],
    "b.0": [10.0, 20.0, 30.0],
    "a": [2.0, 6.0],  # mean of a: 3
    "b": [40.0, 0.0],  # mean of b: 20
}


def scores(**scales: float) -> dict[str, Tensor]:
    return {name: torch.tensor([values]) * scales.get(name[0], 1.0) for name, values in SCORES.items()}


def test_a_shared_group_is_the_mean_of_its_parts() -> None:
    """A coupling group has in each component a multiple of that component's mean, and counts as their mean."""
    values = relative(scores(), TABLE)
    assert values["latent"].flatten().tolist() == pytest.approx([(2 / 3 + 2) / 2, (2 + 0) / 2])
    assert values["a.0"].flatten().tolist() == pytest.approx([1 / 3, 1])


def test_levels_are_means_over_their_groups() -> None:
    """Layers, components and what they share have the mean of their groups; that of a component, over its layers."""
    found = levels(scores(), TABLE)
    assert found == pytest.approx({"latent": (8 / 6 + 1) / 2, "a.0": 2 / 3, "b.0": 1, "a": 2 / 3, "b": 1})


def test_losses_do_not_mix() -> None:
    """All scores of one component may be multiplied, and no level changes."""
    assert levels(scores(a=1e5), TABLE) == pytest.approx(levels(scores(), TABLE))


def test_a_component_without_gradients_counts_as_even() -> None:
    """Where all scores of a component are zero, nothing is known of it, and its groups count as one."""
    assert levels(scores(a=0.0), TABLE)["a.0"] == 1


def test_parts_add_up_to_the_whole() -> None:
    """What the parts of a shared group hold is what the group holds, and each part is of its component alone."""
    tally = Tally(TABLE)
    values = {name: torch.rand(shape) for name, shape in TABLE.shapes.items()}
    sums = TABLE.split(tally(values))
    torch.testing.assert_close(sums["a"] + sums["b"], sums["latent"])
    torch.testing.assert_close(sums["a"], values["a.out"].sum(1)[None])

"""Laws of the table of groups: what it covers, what it never touches, and what a unit costs."""

from collections.abc import Callable
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tdmpc.compression.groups import Axis, Groups, Slice
from tdmpc.compression.tdmpc_agent.groups import agent_groups, with_widths
from tdmpc.macs import planning_macs
from tdmpc.world_model import WorldModel, parameter_shapes
from tests.tdmpc.conftest import MODEL, PLANNER

BUDGETS = ("macs", "parameters")
TERMINATES = pytest.mark.parametrize("terminates", [False, True])


@TERMINATES
def test_costs_are_those_of_the_model(make_spec: Callable, make_model: Callable, terminates: bool) -> None:
    """The table's cost is the planner's count of multiply-adds, and the number of the model's parameters."""
    spec = make_spec(terminates=terminates)
    groups = agent_groups(MODEL, spec, PLANNER)
    assert groups.cost("macs") == sum(planning_macs(MODEL, spec, PLANNER).values())
    assert groups.cost("parameters") == sum(p.numel() for p in make_model(terminates=terminates).parameters())


@TERMINATES
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_unit_costs_what_its_removal_saves(make_spec: Callable, budget: str, terminates: bool) -> None:
    """What a unit of an axis is said to cost is the difference to the model that has one less of them in each head."""
    groups = agent_groups(MODEL, make_spec(terminates=terminates), PLANNER)
    widths = np.array(list(groups.widths.values()), dtype=float)
    cost = groups.polynomial(budget)
    assert cost(widths) == groups.cost(budget)
    saved = [groups.cost(budget) - groups.resized({a.name: a.size - 1}).cost(budget) for a in groups.axes]
    assert cost.of_a_unit(widths).tolist() == saved


def test_a_shared_square_costs_what_its_removal_saves() -> None:
    """Where an axis runs along both sides of a weight, removing one unit of w saves 2 w - 1 entries."""
    groups = Groups(
        (Axis("latent", None, 5, (Slice("square", 0), Slice("square", 1))),), {"square": (5, 7)}, {"square": 3}
    )
    assert groups.polynomial("macs").of_a_unit(np.array([5.0])) == 3 * (5 * 7 - 4 * 6)


@TERMINATES
@settings(max_examples=20)
@given(st.data())
def test_shapes_agree_after_any_cut(make_spec: Callable, terminates: bool, data: st.DataObject) -> None:
    """For any widths, the shapes that the table foretells are those of such a model, and so is its table."""
    spec = make_spec(terminates=terminates)
    groups = agent_groups(MODEL, spec, PLANNER)
    widths = {name: data.draw(st.integers(1, width), label=name) for name, width in groups.widths.items()}
    smaller = with_widths(MODEL, widths)
    assert groups.resized(widths).shapes == parameter_shapes(smaller, spec)
    assert groups.resized(widths) == agent_groups(smaller, spec, PLANNER)


@TERMINATES
def test_what_the_world_reads_and_writes_is_on_no_axis(make_spec: Callable, terminates: bool) -> None:
    """All sides of all parameters lie on an axis, except for observations, actions, heads and their outputs."""
    spec = make_spec(terminates=terminates)
    groups = agent_groups(MODEL, spec, PLANNER)
    free = {}
    for name, shape in groups.shapes.items():
        left = list(shape)
        for piece, axis in groups.cuts(name):
            assert left[piece.dim] == shape[piece.dim] and piece.start + axis.size <= shape[piece.dim]
            left[piece.dim] -= axis.size
        sides = {dim: size for dim, size in enumerate(left) if size}
        if sides:
            free[name.removeprefix("components.")] = sides
    observations, actions = spec.observation_dim, spec.action_dim
    stacked = {f"value.{part}" for part in ("norm_weight", "norm_bias", "weights.1", "biases.0", "biases.1")}
    assert free == {
        "encoder.0.weight": {1: observations},
        "dynamics.0.weight": {1: actions},
        "reward.0.weight": {1: actions},
        "reward.4.weight": {0: 1},
        "reward.4.bias": {0: 1},
        "policy.4.weight": {0: actions},
        "policy.4.bias": {0: actions},
        **({"termination.2.weight": {0: 1}, "termination.2.bias": {0: 1}} if terminates else {}),
        "value.weights.0": {0: 2, 2: actions},
        "value.weights.2": {0: 2, 1: 1},
        "value.biases.2": {0: 2, 1: 1},
        **{name: {0: 2} for name in stacked},
    }


def test_the_encoder_costs_nothing_in_planning(make_spec: Callable) -> None:
    """A unit of the encoder costs about as many parameters as one of the policy, but next to no multiply-adds."""
    groups = agent_groups(MODEL, make_spec(), PLANNER)
    widths = np.array(list(groups.widths.values()), dtype=float)
    macs, parameters = (
        dict(zip(groups.widths, groups.polynomial(budget).of_a_unit(widths), strict=True)) for budget in BUDGETS
    )
    assert parameters["encoder.0"] == 3 + 1 + 6 and parameters["policy.0"] == 6 + 1 + 8
    assert macs["encoder.0"] * 40 < macs["policy.0"]


# Torch-Pruning traces what the table declares ----------------------------------------------------------------------


class Unrolled(nn.Module):
    """Two steps of the model's rollout, whose graph Torch-Pruning can trace: latents first, then actions."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.components = nn.ModuleDict({name: part for name, part in model.components.items() if name != "value"})

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> list[torch.Tensor]:
        parts, found = self.components, []
        z = parts["encoder"](observation)
        for _ in range(2):
            joint = torch.cat([z, action], -1)
            z = parts["dynamics"](joint)
            found += [parts["reward"](joint), parts["termination"](z), parts["policy"](z)]
        return [z, *found]


def traced(model: WorldModel, layer: nn.Linear) -> set[tuple[str, int]]:
    """Sides of parameters that fall together with an output of a layer, by Torch-Pruning."""
    import torch_pruning

    unrolled = Unrolled(model)
    graph = torch_pruning.DependencyGraph().build_dependency(unrolled, (torch.randn(2, 3), torch.randn(2, 2)))
    names = {module: name for name, module in unrolled.named_modules()}
    sides = set()
    for dependency, _ in graph.get_pruning_group(layer, torch_pruning.prune_linear_out_channels, idxs=[0]):
        module, name = dependency.target.module, names.get(dependency.target.module)
        if isinstance(module, nn.Linear):
            along = 0 if dependency.handler == torch_pruning.prune_linear_out_channels else 1
            sides |= {(f"{name}.weight", along)} | ({(f"{name}.bias", 0)} if along == 0 else set())
    return sides


def test_the_table_is_what_torch_pruning_traces(make_model: Callable, make_spec: Callable) -> None:
    """Hidden units and latent coordinates tie together what Torch-Pruning traces; its search ends at no value heads."""
    model = make_model(terminates=True)
    groups = agent_groups(model.config, make_spec(terminates=True), PLANNER)
    roots = {"latent": ("encoder", 2)} | {
        axis.name: (axis.component, 2 * axis.layer)
        for axis in groups.axes
        if axis.layer is not None and axis.component != "value"
    }
    assert len(roots) == 9
    for axis, (component, place) in roots.items():
        declared = {(p.parameter, p.dim) for p in groups[axis].slices if ".value." not in p.parameter}
        assert declared == traced(model, model.components[component][place]), axis


def test_flat_places_are_axis_by_axis() -> None:
    """Groups are counted axis by axis, head by head, unit by unit; splitting goes the same way."""
    groups = Groups((Axis("a", 0, 2, ()), Axis("b", 0, 3, (), heads=2)), {}, {})
    assert groups.total == 8 == prod([2]) + 2 * 3
    kept = {"b.0": torch.tensor([[0, 2], [1, 2]])}
    assert groups.flat(kept).tolist() == [0, 1, 2, 4, 6, 7]
    split = groups.split(torch.arange(8))
    assert split["a.0"].tolist() == [[0, 1]] and split["b.0"].tolist() == [[2, 3, 4], [5, 6, 7]]

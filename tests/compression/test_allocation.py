"""Laws of allocation: the cost is reached within a step, limits hold, and which axis gives."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tdmpc.compression.allocation import METHODS, Limits, allocate, best, sap_share
from tdmpc.compression.groups import Axis, Groups, Slice
from tdmpc.compression.sparsity import pq_index
from tdmpc.compression.tdmpc_agent.groups import agent_groups
from tests.tdmpc.conftest import MODEL, PLANNER


def scores_of(groups: Groups) -> dict[str, Tensor]:
    return {axis.name: torch.rand(axis.heads, axis.size) + 0.01 for axis in groups.with_parts().axes}


def free(groups: Groups, *, least: int = 1, round_to: int = 1) -> Limits:
    return Limits(groups.widths, dict.fromkeys(groups.widths, least), round_to)


@settings(max_examples=60)
@given(
    st.sampled_from(sorted(METHODS)),
    st.sampled_from(["macs", "parameters"]),
    st.floats(0.1, 0.95),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 1000),
)
def test_a_goal_is_reached_within_one_step(
    make_spec: Callable, method: str, budget: str, goal: float, least: int, round_to: int, seed: int
) -> None:
    """The cost comes down to the goal, and would be above it with one step less of some axis; widths keep limits."""
    torch.manual_seed(seed)
    groups = agent_groups(MODEL, make_spec(), PLANNER)
    limits, wanted = free(groups, least=least, round_to=round_to), goal * groups.cost(budget)
    keep = allocate(scores_of(groups), groups, method=method, budget=budget, goal=wanted, limits=limits)
    smaller = groups.kept(keep)
    for name in keep:
        assert smaller.widths[name] >= least and smaller.widths[name] % round_to == 0
    blocked = all(limits.next_below(name, width) == width for name, width in smaller.widths.items())
    if smaller.cost(budget) > wanted:
        assert blocked
        return
    wider = [
        smaller.resized({name: min(smaller.widths[name] + round_to, groups.widths[name])}).cost(budget) for name in keep
    ]
    assert max(wider, default=wanted + 1) > wanted


def test_the_best_units_stay() -> None:
    """Each head keeps its own highest scores, in ascending order; of equal ones the first."""
    assert best(torch.tensor([[3.0, 1, 2, 3], [0, 0, 0, 0]]), 2).tolist() == [[0, 3], [0, 1]]


def two_axes(calls: tuple[int, int], width: int = 8, shared_by: int = 1) -> Groups:
    """Two layers of their own, whose units cost one multiply-add for each call; the second may be shared."""
    owners = ["b", *(f"owner {number}" for number in range(1, shared_by))]
    pieces = tuple(Slice(owner, 0, component=owner if shared_by > 1 else "") for owner in owners)
    axes = (Axis("a", 0, width, (Slice("a", 0),)), Axis("b", 0, width, pieces))
    return Groups(axes, dict.fromkeys(["a", *owners], (width, 1)), dict(zip("ab", calls, strict=True)))


def widths_at(groups: Groups, scores: dict[str, Tensor], goal: float, method: str = "global") -> dict[str, int]:
    keep = allocate(scores, groups, method=method, budget="macs", goal=goal, limits=free(groups))
    return groups.kept(keep).widths


def test_equal_scores_share_the_cost() -> None:
    """Equally scored layers end where the square of the width times the cost of a unit is the same."""
    groups = two_axes((4, 1), width=16)
    even = {name: torch.ones(1, 16) for name in groups.widths}
    assert widths_at(groups, even, goal=48) == {"a.0": 8, "b.0": 16}
    assert widths_at(groups, even, goal=24) == {"a.0": 4, "b.0": 8}


def test_neighbours_shrink_together() -> None:
    """Two layers on both sides of one weight keep the same width, also in several events."""
    axes = (Axis("net", 0, 16, (Slice("w", 0),)), Axis("net", 1, 16, (Slice("w", 1),)))
    dense = groups = Groups(axes, {"w": (16, 16)}, {"w": 1})
    for goal in (144, 64, 16):
        even = {axis.name: torch.ones(1, axis.size) for axis in groups.axes}
        keep = allocate(even, groups, method="global", budget="macs", goal=goal, limits=free(dense))
        groups = groups.kept(keep)
        assert set(groups.widths.values()) == {goal**0.5}


def test_what_is_shared_is_dearer() -> None:
    """Coordinates that four components share keep twice the width of a layer of one component."""
    groups = two_axes((1, 1), width=24, shared_by=4)
    even = {name: torch.ones(1, 24) for name in groups.widths}
    assert widths_at(groups, even, goal=18) == {"a.0": 6, "b.0": 12}


def test_a_layer_whose_importance_is_spread_gives_less() -> None:
    """At equal cost the layer with some next to useless units loses them before the other loses any."""
    groups = two_axes((1, 1))
    scores = {"a.0": torch.tensor([[1.0, 1, 1, 1, 1e-3, 1e-3, 1e-3, 1e-3]]), "b.0": torch.ones(1, 8)}
    assert widths_at(groups, scores, goal=12) == {"a.0": 4, "b.0": 8}


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_a_layer_s_scores_does_not_matter(scale: float) -> None:
    """Multiplying all scores of a layer changes nothing: they are compared inside it only."""
    groups = two_axes((2, 1))
    scores = {name: torch.rand(1, 8) for name in groups.widths}
    scaled = {**scores, "a.0": scale * scores["a.0"]}
    assert widths_at(groups, scores, goal=10) == widths_at(groups, scaled, goal=10)


def test_uniform_keeps_the_same_share_of_every_layer() -> None:
    """All layers keep the same share of their initial width, whatever they cost and score."""
    groups = two_axes((5, 1))
    scores = {name: torch.rand(1, 8) for name in groups.widths}
    assert widths_at(groups, scores, goal=24, method="uniform") == {"a.0": 4, "b.0": 4}


def test_adaptive_takes_more_where_scores_are_sparse() -> None:
    """SAP takes from the layer whose scores are concentrated on few units more than from one with equal scores."""
    groups = two_axes((1, 1))
    scores = {"a.0": torch.tensor([[8.0, 4, 2, 1, 0.5, 0.2, 0.1, 0.05]]), "b.0": torch.linspace(0.9, 1, 8)[None]}
    widths = widths_at(groups, scores, goal=10, method="adaptive")
    assert widths["a.0"] == 2 and widths["b.0"] == 8


def test_sap_takes_what_the_bound_allows() -> None:
    """The share of a layer that SAP takes is 1 - (1 - I)^(qp / (q - p)), at most 0.9."""
    scores = torch.tensor([[8.0, 4, 2, 1]])
    index = pq_index(scores, 0.5, 1.0)
    assert sap_share(scores) == pytest.approx(1 - (1 - index.item()) ** 1.0)
    assert sap_share(torch.tensor([[1.0] + [0.0] * 99])) == 0.9
    assert sap_share(torch.ones(2, 5)) == pytest.approx(0, abs=1e-6)


def test_an_important_level_gives_less() -> None:
    """Of two layers of one component, the one with four times the mean score keeps twice the width."""
    axes = tuple(Axis("net", layer, 24, (Slice(name, 0),)) for layer, name in enumerate("ab"))
    groups = Groups(axes, {"a": (24, 1), "b": (24, 1)}, {"a": 1, "b": 1})
    scores = {"net.0": torch.ones(1, 24), "net.1": torch.full((1, 24), 4.0)}
    assert widths_at(groups, scores, goal=18, method="importance") == {"net.0": 6, "net.1": 12}
    assert widths_at(groups, scores, goal=18, method="global") == {"net.0": 9, "net.1": 9}


def test_the_scale_of_a_component_does_not_matter(make_spec: Callable) -> None:
    """By importance, too, all scores of a component may be multiplied: losses of different scales do not mix."""
    groups = agent_groups(MODEL, make_spec(), PLANNER)
    scores = scores_of(groups)
    scaled = {name: values * (1e4 if name.startswith("policy") else 1) for name, values in scores.items()}
    goal = 0.4 * groups.cost("macs")
    widths = [widths_at(groups, each, goal=goal, method="importance") for each in (scores, scaled)]
    assert widths[0] == widths[1] != groups.widths


def test_uniform_cuts_as_one_joint_graph_does(make_spec: Callable) -> None:
    """All components and the latent are cut at one rate, up to a unit: nothing is told apart."""
    groups = agent_groups(MODEL, make_spec(), PLANNER)
    widths = widths_at(groups, scores_of(groups), goal=0.3 * groups.cost("macs"), method="uniform")
    rates = [(widths[name] / width, 1 / width) for name, width in groups.widths.items()]
    assert max(rate for rate, _ in rates) - min(rate for rate, _ in rates) <= max(unit for _, unit in rates)
    assert widths["latent"] < groups.widths["latent"]


def test_what_is_kept_or_rests_gives_nothing() -> None:
    """An axis whose floor is its width stays whole, and the others make up for it as far as they can."""
    groups = two_axes((1, 1))
    limits = Limits(groups.widths, {"a.0": 8, "b.0": 2})
    keep = allocate(scores_of(groups), groups, method="global", budget="macs", goal=1, limits=limits)
    assert groups.kept(keep).widths == {"a.0": 8, "b.0": 2}


def test_layers_without_any_importance_can_go() -> None:
    """Scores that are all zero are no fault: such a layer gives first, down to its floor."""
    groups = two_axes((1, 1))
    scores = {"a.0": torch.zeros(1, 8), "b.0": torch.ones(1, 8)}
    assert widths_at(groups, scores, goal=9) == {"a.0": 1, "b.0": 8}

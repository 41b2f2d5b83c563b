"""Laws of the criteria: values computed by hand, running statistics, and finding what was planted."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tdmpc.compression.groups import Axis, Groups, Slice
from tdmpc.compression.importance import (
    CRITERIA,
    NEEDED,
    PRIOR,
    Evidence,
    Statistics,
    Tally,
    kept,
    moments_of,
    nothing_seen,
    observed,
    own_shapes,
    sums_of,
)
from tests.compression.conftest import MakeAgent, groups_of

ALL = ("absolute", "squared", "taylor")
SLOW = {"smoothing": 0.9, "forgetting": 0.5}

# Two hidden units over one input and one output: a group is an input weight, a bias and an output weight.
TWO = Groups(
    (Axis("net", 0, 2, (Slice("in", 0), Slice("bias", 0), Slice("out", 1))),),
    {"in": (2, 1), "bias": (2,), "out": (1, 2), "end": (1,)},
    {},
)
WEIGHTS = {"in": [[1.0], [-2.0]], "bias": [0.5, 0.0], "out": [[3.0, 4.0]], "end": [9.0]}
GRADIENTS = {"in": [[0.1], [-0.4]], "bias": [0.2, 0.0], "out": [[-0.3, 0.2]], "end": [7.0]}


def tensors(values: dict[str, list]) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in values.items()}


def evidence(statistics: Statistics) -> Evidence:
    return Evidence(statistics, tensors(WEIGHTS), TWO, Tally(TWO), torch.Generator().manual_seed(0))


def seen(times: int, scales: tuple[float, ...] = (1.0,)) -> Statistics:
    """Statistics after gradients of these scales, over and over."""
    statistics, tally = nothing_seen(2, ALL), Tally(TWO)
    for time in range(times):
        gradients = {name: scales[time % len(scales)] * g for name, g in tensors(GRADIENTS).items()}
        moments = moments_of(sums_of(tensors(WEIGHTS), gradients, tally, ALL), tally)
        statistics = observed(statistics, moments, **SLOW)
    return statistics


BY_HAND = {
    "gradient": [0.6 / 3, 0.6 / 3],
    "fisher": [(0.01 + 0.04 + 0.09) / 3, (0.16 + 0.04) / 3],
    "taylor": [(0.1 + 0.1 - 0.9) ** 2, (0.8 + 0.8) ** 2],
    "l1": [4.5 / 3, 6.0 / 3],
    "l2": [(10.25 / 3) ** 0.5, (20.0 / 3) ** 0.5],
    "pq": [(1 + 0.5**0.5 + 3**0.5) ** 2 / 3, (2**0.5 + 2.0) ** 2 / 3],
    "bayesian": [0.2 * (PRIOR[1] + 0.2) / 3, 0.2 * (PRIOR[1] + 0.2) / 3],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_criteria_agree_with_values_computed_by_hand(name: str) -> None:
    """On a two-unit model after one gradient, every criterion has the value computed by hand."""
    assert CRITERIA[name](evidence(seen(1))).tolist() == pytest.approx(BY_HAND[name], rel=1e-5)


def test_ranks_are_averaged_inside_each_head() -> None:
    """The mean rank of three criteria runs from 1 / W to 1 on each axis and head, whatever their scales."""
    groups = Groups((Axis("a", 0, 2, ()), Axis("b", 0, 3, (), heads=2)), {}, {})
    statistics = Statistics(
        {"absolute": torch.tensor([5.0, 1, 1, 2, 3, 30, 20, 10]), "squared": torch.tensor([1.0, 5, 1, 2, 3, 3, 2, 1])},
        *(torch.ones(8), 3.0, 1.0),
        **dict.fromkeys(("spread", "steps", "latest"), torch.zeros(8)),
    )
    ranks = CRITERIA["average"](Evidence(statistics, {}, groups, None, torch.Generator()))
    third = 1 / 3
    assert ranks.tolist() == pytest.approx([2.5 * third, 2 * third, third, 2 * third, 1, 1, 2 * third, third])


def test_averages_are_corrected_for_their_start() -> None:
    """Equal gradients give the same average after one as after many: the start at zero leaves no trace."""
    for times in (1, 2, 50):
        assert evidence(seen(times)).average("absolute").tolist() == pytest.approx([0.2, 0.2], rel=1e-5)


def test_averages_weigh_the_past_by_the_smoothing() -> None:
    """Two gradients weigh 1 and the smoothing, and nothing else."""
    average = evidence(seen(2, scales=(1.0, 3.0))).average("absolute")
    assert average.tolist() == pytest.approx([0.2 * (0.9 * 1 + 3) / 1.9] * 2, rel=1e-5)


def test_the_posterior_forgets_towards_the_prior() -> None:
    """Shape and rate follow a0 + f (a - a0) + 1 and b0 + f (b - b0) + E."""
    statistics = seen(2, scales=(1.0, 3.0))
    assert statistics.shape == PRIOR[0] + 0.5 * 1 + 1
    assert statistics.rate.tolist() == pytest.approx([0.5 * 0.2 + 0.6] * 2, rel=1e-5)


def test_a_group_of_now_and_then_beats_one_of_now() -> None:
    """Of two groups with the same gradient now, the Bayesian score prefers the one that was active before."""
    rate = torch.tensor([1.0, 2.0])
    statistics = seen(1)._replace(moments={"absolute": torch.tensor([0.3, 0.3])}, rate=rate, weight=1.0)
    first, second = CRITERIA["bayesian"](evidence(statistics)).tolist()
    assert second == pytest.approx(2 * first)


def looking(energies: list[list[float]], forgetting: float = 1.0) -> Statistics:
    """Statistics of two groups with these energies."""
    statistics = nothing_seen(2, ("absolute",))
    for pair in energies:
        statistics = observed(statistics, {"absolute": torch.tensor(pair)}, smoothing=0.9999, forgetting=forgetting)
    return statistics


def bayesian(statistics: Statistics, **how: Any) -> list[float]:
    return CRITERIA["bayesian"](evidence(statistics)._replace(**how)).tolist()


def test_certainty_ranks_groups_of_equal_mean() -> None:
    """Of two groups of equal mean, the lower bound prefers the one with steady energies, the upper the other."""
    statistics = looking([[0.2, 0.1 + 0.2 * (time % 2)] for time in range(40)])
    steady, moving = bayesian(statistics)
    assert steady == pytest.approx(moving, rel=1e-3)
    (low, lower), (high, higher) = (bayesian(statistics, bound=bound) for bound in ("lower", "upper"))
    assert lower < 0.97 * low and low < steady < high < 0.97 * higher


def test_energies_that_follow_each_other_tell_less() -> None:
    """The same energies in another order: a group whose energy drifts is less certain than one whose energy jumps."""
    order = [0.01 * (1 + time) for time in range(40)]
    jumping = order[::2] + order[1::2]
    jumping[::2], jumping[1::2] = order[:20], order[20:]
    drifting, jumps = own_shapes(looking([[*pair] for pair in zip(order, jumping, strict=True)])).tolist()
    assert drifting < 0.2 * jumps


def test_own_evidence_agrees_with_values_computed_by_hand() -> None:
    """Energies 1, 3, 1, 3 have mean 2, variance 1, no positive correlation: 4 looks count as 4 * 5 / (1 + 4 / 4)."""
    statistics = looking([[1.0, 2.0], [3.0, 2.0], [1.0, 2.0], [3.0, 2.0]])
    assert statistics.spread.tolist() == pytest.approx([4, 0], abs=1e-6)
    assert statistics.steps.tolist() == pytest.approx([12, 0], abs=1e-6)
    assert own_shapes(statistics).tolist() == pytest.approx([PRIOR[0] + 10, PRIOR[0] + 20], rel=1e-5)


def test_a_spread_is_forgotten_as_a_mean_is() -> None:
    """The spread is the sum of the squared distances, each with the weight that forgetting leaves it."""
    energies, forgetting = [1.0, 4.0, 2.0, 8.0], 0.5
    weights = torch.tensor([forgetting**age for age in (3, 2, 1, 0)])
    values = torch.tensor(energies)
    mean = (weights * values).sum() / weights.sum()
    expected = (weights * (values - mean).square()).sum()
    assert looking([[e, e] for e in energies], forgetting).spread.tolist() == pytest.approx([expected.item()] * 2)


def test_history_weighs_from_nothing_to_everything() -> None:
    """With weight 0 the score is the present energy squared, with 1 the past one, with a half their product."""
    statistics = looking([[0.1, 0.2]] * 5)._replace(moments={"absolute": torch.tensor([0.3, 0.4])}, weight=1.0)
    past = (statistics.rate / (statistics.shape - 1)).tolist()
    assert bayesian(statistics, history=0.0) == pytest.approx([0.09, 0.16])
    assert bayesian(statistics, history=1.0) == pytest.approx([past[0] ** 2, past[1] ** 2])
    assert bayesian(statistics) == pytest.approx([0.3 * past[0], 0.4 * past[1]])


def test_statistics_follow_a_cut() -> None:
    """After a cut, the statistics are those of the groups that stay."""
    statistics = kept(seen(3), torch.tensor([1]))
    assert statistics.rate.tolist() == seen(3).rate[1:].tolist()
    assert {name: m.tolist() for name, m in statistics.moments.items()} == {
        name: m[1:].tolist() for name, m in seen(3).moments.items()
    }


def test_every_parameter_of_a_group_is_counted_once(make_agent: MakeAgent) -> None:
    """For every group of an agent, the sum over its parameters is that over the entries which die with it."""
    agent = make_agent(terminates=True)
    groups, tally = groups_of(agent), Tally(groups_of(agent))
    values = {name: torch.rand(shape) for name, shape in groups.shapes.items()}
    sums, sizes = groups.split(tally(values)), groups.split(tally.sizes)
    for axis in groups.axes:
        for head in range(axis.heads):
            parts = [
                (values[p.parameter][head] if axis.heads > 1 else values[p.parameter])
                .movedim(p.dim - (axis.heads > 1), 0)[p.start : p.start + axis.size]
                .flatten(1)
                if values[p.parameter].dim() > 1 + (axis.heads > 1)
                else (values[p.parameter][head] if axis.heads > 1 else values[p.parameter])[:, None]
                for p in axis.slices
            ]
            expected = torch.cat(parts, 1)
            torch.testing.assert_close(sums[axis.name][head], expected.sum(1))
            assert (sizes[axis.name][head] == expected.shape[1]).all()


def test_parameters_without_a_gradient_count_as_zero() -> None:
    """A part of the gradients is added up as if the others were zero, so that an update may come in parts."""
    tally, gradients = Tally(TWO), tensors(GRADIENTS)
    parts = [tally({name: g}) for name, g in gradients.items()]
    torch.testing.assert_close(sum(parts), tally(gradients))


class Planted(nn.Module):
    """A regression in which some hidden units matter and the others are multiplied by next to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 12), nn.Linear(12, 1)
        self.vital = torch.zeros(12)
        self.vital[torch.randperm(12)[:5]] = 1

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)) * (self.vital + 1e-3))


def planted_scores(name: str) -> tuple[Tensor, Tensor]:
    """Scores of a criterion after some training, and which units were planted as vital."""
    net = Planted()
    groups = Groups(
        (Axis("net", 0, 12, (Slice("first.weight", 0), Slice("first.bias", 0), Slice("last.weight", 1))),),
        {key: tuple(p.shape) for key, p in net.named_parameters()},
        {},
    )
    tally, wanted = Tally(groups), NEEDED.get(name, ())
    statistics = nothing_seen(groups.total, wanted)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(60):
        x = torch.randn(32, 4)
        optimizer.zero_grad()
        (net(x) - x.sum(1, keepdim=True).sin()).square().mean().backward()
        parameters = dict(net.named_parameters())
        gradients = {key: p.grad for key, p in parameters.items()}
        with torch.no_grad():
            moments = moments_of(sums_of(parameters, gradients, tally, wanted), tally)
        statistics = observed(statistics, moments, smoothing=0.9, forgetting=0.9)
        optimizer.step()
    with torch.no_grad():
        facts = Evidence(statistics, dict(net.named_parameters()), groups, tally, torch.Generator().manual_seed(3))
        return CRITERIA[name](facts), net.vital.bool()


@pytest.mark.parametrize("name", ["gradient", "fisher", "bayesian", "average", "taylor"])
def test_gradient_criteria_find_what_was_planted(name: str) -> None:
    """On a planted problem the five vital units have the five highest scores by every gradient criterion."""
    scores, vital = planted_scores(name)
    assert set(scores.topk(5).indices.tolist()) == set(vital.nonzero().flatten().tolist())


def test_chance_does_not_find_what_was_planted() -> None:
    """Random scores do not put the planted units first."""
    scores, vital = planted_scores("random")
    assert set(scores.topk(5).indices.tolist()) != set(vital.nonzero().flatten().tolist())


def test_both_losses_are_seen_before_clipping(make_agent: MakeAgent, make_batch: Callable) -> None:
    """An agent shows the gradients of the world model's loss and of the policy's, each once and not yet clipped."""
    shown: list[dict[str, float]] = []
    norms = []
    for clip in (1e9, 1e-3):
        torch.manual_seed(0)
        agent = make_agent(seed=0, loss={"gradient_clip": clip})
        agent.watch = lambda parameters: shown.append({name: p.grad.norm().item() for name, p in parameters.items()})
        torch.manual_seed(1)
        metrics = agent.update(make_batch()).metrics
        names = dict(agent.model.named_parameters()).keys()
        model, policy = shown[-2:]
        assert policy.keys() == {name for name in names if ".policy." in name}
        assert model.keys() | policy.keys() == names and not model.keys() & policy.keys()
        totals = [sum(norm**2 for norm in part.values()) ** 0.5 for part in (model, policy)]
        assert totals == pytest.approx([metrics[f"grad_norm/{part}"].item() for part in ("model", "policy")], rel=1e-4)
        norms.append(totals[0])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)

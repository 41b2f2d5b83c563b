"""Laws of pruning single weights: which stay, what those make up for, and what bounds promise of the rest."""

import copy

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from tdmpc.compression.absorb import refitted
from tdmpc.compression.error_bounds import mean_square, worst_case
from tdmpc.compression.single_weights import Rule, changes, chosen, drop, measured, sap_masks, watched
from tdmpc.compression.sparsity import counts_at_one_level, sap_pruned, weights_sufficient
from tdmpc.layers import Ensemble, mlp

RULES: tuple[Rule, ...] = ("global", "layer", "neuron")
seeds = st.integers(0, 2**31)


def layers(seed: int) -> dict[str, Tensor]:
    """A plain layer and a stacked one, of different scales."""
    draw = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(7, 11, generator=draw), "b": 3 * torch.randn(2, 5, 7, generator=draw) ** 3}


class Net(nn.Module):
    """A component with tanh outputs, and stacked networks behind a LayerNorm that read it."""

    def __init__(self) -> None:
        super().__init__()
        self.components = nn.ModuleDict({"trunk": mlp(6, (12, 9), 5), "value": Ensemble(2, 5, (8, 7), 1)})
        with torch.no_grad():
            for parameter in self.parameters():
                parameter += 0.3 * torch.randn_like(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.components["value"](torch.tanh(self.components["trunk"](x)))


def data() -> Tensor:
    """Inputs that say nearly the same."""
    hidden = torch.randn(400, 3)
    return hidden @ torch.randn(3, 6) + 0.1 * torch.randn(400, 6)


# Which weights stay ----------------------------------------------------------------------------------------------


def test_rules_by_hand() -> None:
    """Half of [4 3 | 0.1 0.2] and [2 1]: all together, layer by layer, and neuron by neuron at one error level."""
    weights = {"a": torch.tensor([[4.0, 3.0], [0.1, 0.2]]), "b": torch.tensor([[2.0, -1.0]])}
    kept = {rule: {n: m.int().tolist() for n, m in chosen(weights, rule=rule, sparsity=0.5).items()} for rule in RULES}
    assert kept["global"] == {"a": [[1, 1], [0, 0]], "b": [[1, 0]]}
    assert kept["layer"] == {"a": [[1, 1], [0, 0]], "b": [[1, 0]]}
    assert kept["neuron"] == kept["layer"]  # the second neuron of a is within the error that the first may have
    assert chosen(weights, rule="layer", sparsity=0.75)["b"].int().tolist() == [[0, 0]]
    assert chosen(weights, rule="global", sparsity=2 / 3)["b"].int().tolist() == [[0, 0]]


@settings(max_examples=30)
@given(seeds, st.sampled_from(RULES), st.floats(0, 1))
def test_the_asked_share_goes(seed: int, rule: Rule, sparsity: float) -> None:
    """Whatever the rule, the share asked for is dropped: exactly, or at most one weight of a neuron more."""
    weights = layers(seed)
    masks = chosen(weights, rule=rule, sparsity=sparsity)
    kept, total = sum(int(mask.sum()) for mask in masks.values()), sum(w.numel() for w in weights.values())
    slack = 7 + 10 if rule == "neuron" else len(weights) if rule == "layer" else 0
    assert -len(weights) <= round((1 - sparsity) * total) - kept <= slack


@settings(max_examples=20)
@given(seeds, st.integers(0, 80))
def test_one_error_level_serves_a_layer(seed: int, total: int) -> None:
    """One tolerance asks of every neuron for as many weights as it keeps, and a slightly smaller one for too many."""
    w = layers(seed)["a"]
    counts = counts_at_one_level(w, total, 0.5)
    low, high = 1e-6, 1e6
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if weights_sufficient(w, middle, 0.5).sum() <= total else (middle, high)
    assert counts.tolist() == weights_sufficient(w, high * (1 + 1e-9), 0.5).tolist()
    assert counts.sum() <= total or total >= w.numel()


@settings(max_examples=15)
@given(seeds, st.sampled_from(RULES))
def test_what_is_dropped_stays_dropped(seed: int, rule: Rule) -> None:
    """Chosen again among what a first choice left, no dropped weight comes back."""
    weights = layers(seed)
    first = chosen(weights, rule=rule, sparsity=0.4)
    again = chosen({name: w * first[name] for name, w in weights.items()}, rule=rule, sparsity=0.6)
    assert all((first[name] | ~mask).all() for name, mask in again.items())


@settings(max_examples=15)
@given(seeds)
def test_a_later_round_of_sap_sees_what_remains(seed: int) -> None:
    """Among zeros of earlier rounds SAP prunes as many as it would of the remaining weights alone."""
    w = torch.randn(30, generator=torch.Generator().manual_seed(seed))
    padded = torch.cat([w, torch.zeros(50)])
    alone = sap_pruned(w, 0.5, 1).item()
    assert sap_pruned(padded, 0.5, 1, remaining=torch.tensor(30)).item() == alone
    mask = sap_masks({"a": padded[None]}, scope="neuron", p=0.5, q=1)["a"]
    assert mask.sum().item() == 30 - alone and not mask[0, 30:].any()


def test_scopes_of_sap_differ() -> None:
    """A neuron of one weight beside one of equal ones: by neuron the first is cut alone, globally the smallest are."""
    weights = {"a": torch.tensor([[8.0, 0.1, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]])}
    by_neuron = sap_masks(weights, scope="neuron", p=1, q=2)["a"].int().tolist()
    assert by_neuron == [[1, 1, 0, 0], [1, 1, 1, 1]]
    for scope in ("layer", "global"):
        assert sap_masks(weights, scope=scope, p=1, q=2)["a"].sum() == 8 - sap_pruned(weights["a"].flatten(), 1, 2)


# What they do ----------------------------------------------------------------------------------------------------


def test_a_weight_is_taken_over() -> None:
    """By hand: x1 = 2 x0 + 1, so that a neuron that drops its weight 3 on x1 adds 6 to that on x0 and 3 to its bias."""
    layer = nn.ModuleDict({"net": nn.Sequential(nn.Linear(2, 2))})
    x = torch.randn(20_000, 1)
    x = torch.cat([x, 2 * x + 1], dim=1)
    seen = watched(layer, lambda: layer["net"](x)).inputs["net.0.weight"]
    weight, stays = torch.tensor([[1.0, 3.0], [1.0, 3.0]]), torch.tensor([[True, False], [True, True]])
    new, bias = refitted(weight, torch.zeros(2), stays, seen)
    assert torch.allclose(new, torch.tensor([[7.0, 0.0], [1.0, 3.0]]), atol=0.03)
    assert torch.allclose(bias, torch.tensor([3.0, 0.0]), atol=0.03)


def test_a_neuron_without_weights_says_the_mean() -> None:
    """Where nothing stays, the bias takes over the neuron's mean."""
    layer, x = nn.ModuleDict({"net": nn.Sequential(nn.Linear(3, 1))}), torch.randn(50, 3) + 2
    before = watched(layer, lambda: layer["net"](x))
    drop(layer, {"net.0.weight": torch.zeros(1, 3, dtype=torch.bool)}, before.inputs)
    assert torch.allclose(layer["net"](x), before.calls["net"][0][1].mean(0).expand(50, 1), atol=1e-5)


@settings(max_examples=15)
@given(seeds, st.sampled_from(RULES), st.floats(0.2, 0.9))
def test_least_squares_never_lose(seed: int, rule: Rule, sparsity: float) -> None:
    """On the data, a layer whose weights are fitted again is no further off than one whose weights are dropped."""
    torch.manual_seed(seed)
    net, x = nn.ModuleDict({"net": nn.Sequential(nn.Linear(6, 8))}), data()
    seen = watched(net, lambda: net["net"](x))
    errors = []
    for inputs in (seen.inputs, None):
        other = copy.deepcopy(net)
        drop(other, chosen(seen.weights(), rule=rule, sparsity=sparsity), inputs)
        errors.append(measured(seen, other, "net").root_mean_square)
    assert errors[0] <= errors[1] * (1 + 1e-4) + 1e-6


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from(RULES), st.floats(0.05, 1), st.booleans())
def test_bounds_hold(seed: int, rule: Rule, sparsity: float, refit: bool) -> None:
    """No component is further off than its two bounds say, stacked or not, with weights dropped or fitted again."""
    torch.manual_seed(seed)
    net, x = Net(), data()
    seen = watched(net.components, lambda: net(x))
    drop(net.components, chosen(seen.weights(), rule=rule, sparsity=sparsity), seen.inputs if refit else None)
    for component in ("trunk", "value"):
        change, found = changes(seen, net.components, component), measured(seen, net.components, component)
        assert found.largest <= worst_case(change).max().item() * (1 + 1e-4) + 1e-5
        assert found.root_mean_square <= mean_square(change).max().item() * (1 + 1e-3) + 1e-5


def test_the_mean_square_of_a_layer_is_exact() -> None:
    """Of a single layer the mean-square bound is what is measured, and the worst case is not below the largest."""
    net, x = nn.ModuleDict({"net": nn.Sequential(nn.Linear(6, 8))}), data()
    seen = watched(net, lambda: net["net"](x))
    drop(net, chosen(seen.weights(), rule="layer", sparsity=0.5))
    change, found = changes(seen, net, "net"), measured(seen, net, "net")
    assert mean_square(change).item() == pytest.approx(found.root_mean_square, rel=1e-4)
    assert worst_case(change).max().item() >= found.largest


def test_what_follows_a_component_is_not_its_own() -> None:
    """A tanh behind a component does not bound how far the component's own output is off."""
    net, x = Net(), 20 * data()
    seen = watched(net.components, lambda: net(x))
    assert seen.stages["trunk"][-1].range == 2
    drop(net.components, {name: torch.zeros_like(w, dtype=torch.bool) for name, w in seen.weights().items()})
    found = measured(seen, net.components, "trunk")
    assert 2 < found.largest <= worst_case(changes(seen, net.components, "trunk")).max().item()

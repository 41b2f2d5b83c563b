"""Laws of absorption: what goes is taken over by what stays, exactly where it can be foreseen from it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tdmpc.compression.absorb import Inputs, Watch, absorbed
from tdmpc.compression.groups import Axis, Groups, Slice
from tdmpc.compression.shrink import shrink
from tdmpc.compression.tdmpc_agent.agent import PrunableAgent
from tdmpc.layers import Ensemble
from tests.compression.conftest import random_keep
from tests.tdmpc.conftest import open_run, tiny

READER = Groups(
    (Axis("unit", None, 3, (Slice("reader.weight", 1, start=1),)),), {"reader.weight": (2, 5), "reader.bias": (2,)}, {}
)
"""A layer of two neurons that reads something, an axis of three units, and something else."""


def watched(module: nn.Module, x: Tensor) -> dict[str, Inputs]:
    with torch.no_grad(), Watch(dict(module.named_parameters())) as watch:
        module(x)
    return watch.inputs()


def reader() -> nn.ModuleDict:
    return nn.ModuleDict({"reader": nn.Linear(5, 2)})


def seen(layer: nn.ModuleDict, x: Tensor) -> dict[str, Inputs]:
    with torch.no_grad(), Watch(dict(layer.named_parameters())) as watch:
        layer["reader"](x)
    return watch.inputs()


def test_what_reaches_a_layer_is_added_up() -> None:
    """Mean and covariance are those of all rows of all calls, head by head, with the name of the bias."""
    value = Ensemble(2, 3, (4,), 1)
    x, y = torch.randn(50, 3), torch.randn(2, 7, 3)
    with torch.no_grad(), Watch(dict(value.named_parameters())) as watch:
        value(x)
        value(y)
    rows = torch.cat([x, y.flatten(0, 1)])
    found = watch.inputs()
    assert {name: each.bias for name, each in found.items()} == {"weights.0": "biases.0", "weights.1": "biases.1"}
    assert torch.allclose(found["weights.0"].mean, rows.mean(0).expand(2, 3), atol=1e-6)
    assert torch.allclose(found["weights.0"].covariance[1], rows.T.cov(correction=0), atol=1e-5)
    assert not torch.allclose(*found["weights.1"].covariance)


def test_a_unit_that_follows_from_another_is_taken_over() -> None:
    """By hand: u1 = 2 u0 + 1 goes, so its reader adds twice its weight to u0's and once to its bias."""
    layer, x = reader(), torch.randn(20_000, 5)
    x[:, 2] = 2 * x[:, 1] + 1
    state = layer.state_dict()
    weight, bias = state["reader.weight"], state["reader.bias"]
    after = absorbed(state, READER, {"unit": torch.tensor([[0, 2]])}, seen(layer, x))
    expected = weight.clone()
    expected[:, 1] += 2 * weight[:, 2]
    expected[:, 2] = 0
    assert torch.allclose(after["reader.weight"], expected, atol=0.02)
    assert torch.allclose(after["reader.bias"], bias + weight[:, 2], atol=0.02)


def test_constants_go_into_the_bias() -> None:
    """Units that never change are folded into the bias to the last digits, dead ones change nothing."""
    layer, x = reader(), torch.randn(100, 5)
    x[:, 1], x[:, 2] = 0.0, 3.0
    state = layer.state_dict()
    after = absorbed(state, READER, {"unit": torch.tensor([[2]])}, seen(layer, x))
    smaller = shrink(after, READER, {"unit": torch.tensor([[2]])})
    before = x @ state["reader.weight"].T + state["reader.bias"]
    assert torch.allclose(x[:, [0, 3, 4]] @ smaller["reader.weight"].T + smaller["reader.bias"], before, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(0, 2))
def test_absorbing_is_never_worse_than_cutting(seed: int, stays: int) -> None:
    """On the data, a layer that absorbs is nearer to what it put out than one that only loses inputs."""
    torch.manual_seed(seed)
    layer, x = reader(), torch.randn(200, 5) @ torch.randn(5, 5) + torch.randn(5)
    state, keep = layer.state_dict(), {"unit": torch.tensor([[stays]])}
    reads = [0, 1 + stays, 4]
    outputs = [
        x[:, reads] @ smaller["reader.weight"].T + smaller["reader.bias"]
        for smaller in (shrink(part, READER, keep) for part in (absorbed(state, READER, keep, seen(layer, x)), state))
    ]
    absorbing, cut = ((output - layer["reader"](x)).square().mean().item() for output in outputs)
    assert absorbing <= 1.01 * cut + 1e-9


def test_nobody_reads_what_will_go() -> None:
    """Once absorbed, cutting the units that go changes no output; each head absorbs for the units that it loses."""
    value = Ensemble(3, 4, (6, 6), 1)
    with torch.no_grad():
        for parameter in value.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    slices = (Slice("weights.1", 1), Slice("biases.1", 1), Slice("weights.2", 2))
    shapes = {name: tuple(parameter.shape) for name, parameter in value.named_parameters()}
    groups = Groups((Axis("value", 1, 6, slices, heads=3),), shapes, {})
    keep, x = random_keep(groups, {"value.1": 3}), torch.randn(500, 4)
    state = absorbed(value.state_dict(), groups, keep, watched(value, x))
    whole, smaller = Ensemble(3, 4, (6, 6), 1), Ensemble(3, 4, (6, 3), 1)
    whole.load_state_dict(state)
    smaller.load_state_dict(shrink(state, groups, keep))
    assert torch.allclose(whole(x), smaller(x), atol=1e-5)
    assert not torch.allclose(whole(x), value(x), atol=1e-3)


def test_copies_absorb_too_and_moments_stay() -> None:
    """The weights of a target network absorb by their own values; an optimiser's moments are left as they are."""
    layer, x = reader(), torch.randn(300, 5)
    parts = {f"model/{name}": tensor for name, tensor in layer.state_dict().items()}
    copies = {f"target/{name}": 2 * tensor for name, tensor in layer.state_dict().items()}
    moments = {"optimizer/reader.weight/exp_avg": torch.randn(2, 5)}
    state = {**parts, **copies, **moments}
    after = absorbed(state, READER, {"unit": torch.tensor([[1]])}, seen(layer, x))
    assert after.keys() == state.keys()
    for name in ("reader.weight", "reader.bias"):
        assert not torch.equal(after[f"model/{name}"], state[f"model/{name}"])
        assert torch.allclose(after[f"target/{name}"], 2 * after[f"model/{name}"])
    assert after["optimizer/reader.weight/exp_avg"] is moments["optimizer/reader.weight/exp_avg"]


@pytest.mark.parametrize("env", ["Pendulum-v1", "InvertedPendulum-v5"])
def test_an_agent_absorbs(env: str, tmp_path: Path) -> None:
    """Every component loses less by a cut that was absorbed; what it was made from stays, and it can be repeated."""
    trainer = open_run(tiny(env), tmp_path)
    trainer.run()
    before = {name: tensor.clone() for name, tensor in trainer.agent.state().items()}
    dense = PrunableAgent.of(trainer.agent, trainer.replay, step=60)
    keep = random_keep(dense.groups, {name: width - 1 for name, width in dense.groups.widths.items()})
    cut, absorbing = dense.shrunk(keep), dense.absorbed(keep).shrunk(keep)
    worse, better = (sum(each.judge(dense, 0).worsening.values()) for each in (cut, absorbing))
    assert better < worse
    again = PrunableAgent.of(trainer.agent, trainer.replay, step=60).absorbed(keep).shrunk(keep)
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in absorbing.state.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.agent.state().items())
    read = {name for name in dense.groups.shapes if name.endswith("weight") or ".weights." in name}
    assert read - dense.inputs().keys() == {"components.value.norm_weight"}

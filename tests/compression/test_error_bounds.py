"""Laws of the bounds on a network's error: what is measured never exceeds what is promised."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from tdmpc.compression.error_bounds import Probe, Stage, assess, carry
from tdmpc.compression.sparsity import weights_needed
from tdmpc.layers import Ensemble


class Net(nn.Module):
    """Two components in a row; the second has a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 9), nn.ELU(inplace=True), nn.Linear(9, 4), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(4, 7), nn.LayerNorm(7), nn.ReLU(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


@torch.no_grad()
def seen(module: nn.Module, x: Tensor) -> dict[str, list[Stage]]:
    with Probe(dict(module.named_children())) as probe:
        module(x)
    return probe.stages()


@torch.no_grad()
def drop_within(stage: Stage, parameter: Tensor, tolerance: float) -> None:
    """Set to zero all but the needed weights of each neuron, by the reach that was seen."""
    reach = stage.reach
    order = reach.argsort(-1, descending=True)
    rank = order.argsort(-1)
    parameter *= (rank < weights_needed(reach, tolerance)[..., None]).view_as(parameter)


def trained() -> Net:
    """A net that has learned something, so that its weights are far from their random start."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(200):
        x = torch.randn(64, 5)
        loss = (net(x) - torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin(), x[:, 0]], dim=-1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def test_carried_by_hand() -> None:
    """An error of 0.1 in both inputs of rows [1, -2] and [3, 0] becomes 0.3 and 0.3, and then 0.1 more by itself."""
    first = Stage("0", torch.eye(2)[None], torch.ones(1, 2))
    second = Stage("1", torch.tensor([[[1.0, -2.0], [3.0, 0.0]]]), torch.ones(1, 2))
    torch.testing.assert_close(carry([first, second], [0.1, 0.1]), torch.tensor([[0.4, 0.4]]))


def test_layer_norm_by_hand() -> None:
    """Behind a LayerNorm over two units an error of 0.1 in both counts (0 + 0.1 + 0.1) gain / deviation."""
    stage = Stage("0", torch.eye(2)[None], torch.ones(1, 2), torch.tensor([[1.0, 3.0]]), torch.tensor([0.5]))
    torch.testing.assert_close(carry([stage], [0.1]), torch.tensor([[0.4, 1.2]]))


def test_tanh_bounds_any_error() -> None:
    """Two outputs of tanh differ by no more than 2, however wrong its input is."""
    assert carry([Stage("0", torch.ones(1, 1, 1), torch.ones(1, 1), range=2.0)], [1e6]).item() == 2


@settings(max_examples=50)
@given(st.integers(2, 9), st.floats(1e-4, 10), st.integers(0, 2**31))
def test_layer_norm_moves_no_further_than_said(width: int, error: float, seed: int) -> None:
    """Rows moved by an error, small or large, come out of a LayerNorm no further apart than the bound says."""
    draw = torch.Generator().manual_seed(seed)
    x, sign, gain = torch.randn(3, 64, width, generator=draw, dtype=torch.double)
    std = (x.var(-1, correction=0) + 1e-5).sqrt()
    stage = Stage("0", torch.eye(width).double().expand(64, -1, -1), torch.ones_like(x), gain.abs(), std)
    before, after = (nn.functional.layer_norm(row, (width,)) * gain for row in (x, x + error * sign.sign()))
    assert ((after - before).abs() <= carry([stage], [error]) * (1 + 1e-9)).all()


@pytest.mark.parametrize("make", [Net, trained], ids=["random", "trained"])
@pytest.mark.parametrize("tolerance", [0.1, 0.5, 2.0])
def test_a_pruned_network_stays_within_its_bound(make: type[Net], tolerance: float) -> None:
    """With all layers pruned to a tolerance, each component's output is off by no more than what is carried to it."""
    net, x = make(), 2 * torch.randn(500, 5)
    stages = seen(net, x)
    with torch.no_grad():
        before = net.encoder(x)
        outputs = before, net.head(before)
        for component, chain in stages.items():
            for stage in chain:
                drop_within(stage, net.get_parameter(f"{component}.{stage.name}"), tolerance)
        after = net.encoder(x), net.head(before)
    for old, new, chain in zip(outputs, after, stages.values(), strict=True):
        assert (old - new).abs().max().item() > 0
        assert ((old - new).abs().amax(0) <= carry(chain, [tolerance] * len(chain))[0] + 1e-5).all()


def test_errors_pass_from_component_to_component() -> None:
    """Carried through the layers of both components, the bound holds for the two of them together."""
    net, x = trained(), torch.randn(500, 5)
    stages = seen(net, x)
    with torch.no_grad():
        before = net(x)
        for component, chain in stages.items():
            for stage in chain:
                drop_within(stage, net.get_parameter(f"{component}.{stage.name}"), 0.01)
        off = (before - net(x)).abs().amax(0)
    assert (off <= carry([*stages["encoder"], *stages["head"]], [0.01] * 4)[0] + 1e-5).all()


def test_stacked_heads_are_bounded_head_by_head() -> None:
    """Each head of an ensemble has bounds, norm and error of its own, and keeps to them when it is pruned."""
    value = Ensemble(3, 4, (6, 5), 1)
    with torch.no_grad():
        for parameter in value.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    x = torch.rand(300, 4) * 2 - 1
    with torch.no_grad(), Probe({"value": value}) as probe:
        value(x)
    (chain,) = probe.stages().values()
    assert [stage.weight.shape for stage in chain] == [(3, 6, 4), (3, 5, 6), (3, 1, 5)]
    assert chain[0].norm_std is not None and (chain[0].norm_std.diff() != 0).all()
    assert chain[0].range == 2 and (chain[1].bound <= 1).all()
    with torch.no_grad():
        before = value(x)
        for stage in chain:
            drop_within(stage, value.get_parameter(stage.name), 0.05)
        off = (before - value(x)).abs().amax(1)
    assert (off <= carry(chain, [0.05] * 3) + 1e-5).all()


def test_what_reaches_a_layer_is_seen() -> None:
    """The bound of each input is its largest magnitude over all calls, the deviation the least one."""
    net = Net()
    x = torch.randn(30, 5)
    with torch.no_grad(), Probe({"encoder": net.encoder, "head": net.head}) as probe:
        net(x[:10])
        net(x[10:].view(4, 5, 5))
    encoder, head = probe.stages().values()
    with torch.no_grad():
        hidden = net.encoder[0](x)
        z = net.encoder(x)
        std = (net.head[0](z).var(-1, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(encoder[0].bound[0], x.abs().amax(0))
    torch.testing.assert_close(encoder[1].bound[0], nn.functional.elu(hidden).abs().amax(0))
    torch.testing.assert_close(head[0].bound[0], z.abs().amax(0))
    assert head[0].norm_std is not None
    torch.testing.assert_close(head[0].norm_std, std.amin()[None])
    assert [stage.range for stage in (*encoder, *head)] == [float("inf"), 2.0, float("inf"), float("inf")]


class Twice(nn.Module):
    """Doubles what it is given, in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


@pytest.mark.parametrize("between", [nn.GELU(), nn.Softplus(), Twice()], ids=["gelu", "softplus", "in place"])
def test_an_unknown_step_between_layers_is_refused(between: nn.Module) -> None:
    """Where something without a known bound lies between two layers, none is invented."""
    net = nn.ModuleDict({"odd": nn.Sequential(nn.Linear(3, 3), between, nn.Linear(3, 3))})
    complaint = pytest.raises(ValueError, match=r"odd\.2\.weight: its input does not come from odd\.0\.weight")
    with complaint, torch.no_grad(), Probe(dict(net.items())):
        net["odd"](torch.randn(2, 3))


def test_inputs_needed_keep_the_layer() -> None:
    """With only its needed inputs, the others at zero, no neuron of a layer is off by more than the tolerance."""
    net, x = trained(), torch.randn(400, 5)
    chain = seen(net, x)["encoder"]
    judged = assess(chain, 0.3, p=0.5, q=1, soft_q=0.5)[1]
    assert judged.inputs_needed is not None and 0 < judged.inputs_needed < judged.inputs == 9
    with torch.no_grad():
        hidden = nn.functional.elu(net.encoder[0](x))
        out = hidden.clone()
        out[:, chain[1].input_reach.argsort()[: 9 - judged.inputs_needed]] = 0
        assert (net.encoder[2](hidden) - net.encoder[2](out)).abs().max().item() <= 0.3 + 1e-6


@settings(max_examples=20)
@given(st.floats(0.01, 10))
def test_sufficient_is_never_less_than_needed(tolerance: float) -> None:
    """What soft sparsity alone asks for is no fewer weights than sorting shows to be enough, and no more than all."""
    torch.manual_seed(1)
    for chain in seen(Net(), torch.randn(100, 5)).values():
        for layer in assess(chain, tolerance, p=1, q=2, soft_q=0.5):
            assert layer.weights_needed <= layer.weights_sufficient <= layer.weights


def test_units_behind_a_layer_norm_have_no_guarantee() -> None:
    """No number of inputs is promised where a LayerNorm mixes the units that would go."""
    chain = seen(Net(), torch.randn(100, 5))["head"]
    first, second = assess(chain, 0.1, p=1, q=2, soft_q=0.5)
    assert first.inputs_needed is not None
    assert second.inputs_needed is None

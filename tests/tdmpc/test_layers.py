"""Laws of the layers: what is between them, how they start, and that stacked heads are separate networks."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tdmpc.layers import Elu, Ensemble, elu, mlp


def is_orthogonal(weight: Tensor) -> bool:
    """Rows or columns, whichever are fewer, are orthonormal."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    return torch.allclose(wide @ wide.T, torch.eye(len(wide)), atol=1e-5)


def separate_head(ensemble: Ensemble, index: int) -> nn.Sequential:
    """One member of an ensemble as the layers of the published code."""
    layers: list[nn.Module] = []
    for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
        _, fan_out, fan_in = weight.shape
        linear = nn.Linear(fan_in, fan_out)
        linear.weight.data, linear.bias.data = weight[index].detach().clone(), bias[index].detach().clone()
        layers += [linear, nn.ELU()]
    norm = nn.LayerNorm(ensemble.norm_weight.shape[1])
    norm.weight.data, norm.bias.data = ensemble.norm_weight[index].detach(), ensemble.norm_bias[index].detach()
    layers[1:2] = [norm, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def shuffled(module: nn.Module) -> None:
    """Give every parameter a random value, as if it had been trained."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()


@pytest.mark.parametrize("hidden", [(), (7,), (7, 4, 9)])
def test_mlp_is_linear_layers_with_elu_between(hidden: tuple[int, ...]) -> None:
    """A perceptron is linear layers of the given widths with ELU between them and none at its end."""
    net = mlp(5, hidden, 3)
    linears = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linears] == list(pairwise((5, *hidden, 3)))
    shuffled(net)
    x = torch.randn(2, 4, 5)
    expected = x
    for index, layer in enumerate(linears):
        expected = expected @ layer.weight.T + layer.bias
        if index < len(hidden):
            expected = torch.where(expected > 0, expected, expected.exp() - 1)
    torch.testing.assert_close(net(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_elu_is_elu(dtype: torch.dtype) -> None:
    """The fast ELU has the values and gradients of PyTorch's, in planning and in learning, at the extremes as well."""
    x = torch.cat([torch.randn(50), torch.tensor([0.0, -0.0, -1e-9, 100.0, -100.0, math.inf, -math.inf, math.nan])])
    x = x.to(dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = elu(ours), F.elu(theirs)
    torch.testing.assert_close(found, expected, equal_nan=True)
    with torch.no_grad():
        assert torch.equal(elu(x).nan_to_num(), found.nan_to_num())
    assert torch.equal(x.nan_to_num(), ours.detach().nan_to_num()), "the input is left alone"
    found.nan_to_num().sum().backward()
    expected.nan_to_num().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, equal_nan=True)


def test_elu_is_one_operator_of_an_export() -> None:
    """An exported graph holds ELU itself, not what stands for it in eager mode."""
    program = torch.export.export(Elu(), (torch.randn(3),))
    assert [node.target for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten.elu.default)]


@pytest.mark.parametrize("scalar", [False, True])
def test_mlp_starts_orthogonal(scalar: bool) -> None:
    """Weights start orthogonal and biases at zero; outputs that are numbers start at zero."""
    *hidden, last = [layer for layer in mlp(5, (7, 4), 3, scalar=scalar) if isinstance(layer, nn.Linear)]
    assert all(is_orthogonal(layer.weight) for layer in hidden)
    assert not any(layer.bias.any() for layer in (*hidden, last))
    assert not last.weight.any() if scalar else is_orthogonal(last.weight)


def test_ensemble_starts_with_different_orthogonal_heads() -> None:
    """Every head starts orthogonal on its own, unlike the others, with the output layer and all biases at zero."""
    ensemble = Ensemble(3, 5, (7, 4), 1)
    for weight in list(ensemble.weights)[:-1]:
        assert all(is_orthogonal(head) for head in weight)
        assert not torch.equal(weight[0], weight[1])
    assert not ensemble.weights[-1].any()
    assert not any(bias.any() for bias in (*ensemble.biases, ensemble.norm_bias))
    assert (ensemble.norm_weight == 1).all()


@pytest.mark.parametrize("hidden", [(7,), (7, 4), (7, 4, 9)])
@pytest.mark.parametrize("heads", [1, 2, 5])
def test_ensemble_is_separate_heads(heads: int, hidden: tuple[int, ...]) -> None:
    """A stacked ensemble computes what its heads compute apart: linear, LayerNorm, tanh, then ELU between the rest."""
    ensemble = Ensemble(heads, 5, hidden, 2)
    shuffled(ensemble)
    x = torch.randn(3, 4, 5)
    expected = torch.stack([separate_head(ensemble, index)(x) for index in range(heads)])
    torch.testing.assert_close(ensemble(x), expected)


def test_heads_do_not_touch_each_other() -> None:
    """The gradient of one head's output lies in that head's slices of the parameters only."""
    ensemble = Ensemble(3, 5, (7, 4), 1)
    shuffled(ensemble)
    ensemble(torch.randn(6, 5))[1].sum().backward()
    for parameter in ensemble.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].any()
        assert not parameter.grad[[0, 2]].any()


@pytest.mark.compiles
def test_compiled_layers_are_the_same() -> None:
    """Compiled, to plan and to learn, a perceptron has the values and the gradients that it has as it is."""
    net, x = mlp(5, (7, 6), 3), torch.randn(4, 5)
    shuffled(net)
    compiled = torch.compile(net)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x))
    gradients = [torch.autograd.grad(run(x).square().sum(), list(net.parameters())) for run in (compiled, net)]
    torch.testing.assert_close(*gradients)

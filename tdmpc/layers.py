"""Multi-layer perceptrons, single and stacked, with the initialisation of TD-MPC."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary


def full_precision(x: Float[Tensor, "*M X"], weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"]) -> Tensor:
    """A linear layer in single precision whatever the precision around it.

    For outputs that are numbers rather than features: a return of 100 in bfloat16 is known only to 0.5.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float(), bias.float())


def linear(x: Float[Tensor, "*M X"], weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"]) -> Float[Tensor, "*M Y"]:
    """A linear layer.

    Compiled to plan with, its bias is added by what follows; PyTorch would first copy it into the result. To learn
    with, the sums would be kept beside the results and cost more than the copies.
    """
    if torch.compiler.is_compiling() and not torch.is_grad_enabled() and not torch.onnx.is_in_onnx_export():
        return x @ weight.t() + bias
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A layer of features."""

    def forward(self, input: Float[Tensor, "*M X"]) -> Float[Tensor, "*M Y"]:
        return linear(input, self.weight, self.bias)


class ScalarOutput(nn.Linear):
    """An output layer in single precision."""

    def forward(self, input: Float[Tensor, "*M X"]) -> Float[Tensor, "*M Y"]:
        return full_precision(input, self.weight, self.bias)


class Elu(nn.Module):
    """ELU: ``x`` where it is positive, ``exp(x) - 1`` elsewhere."""

    def forward(self, x: Float[Tensor, "*M X"]) -> Float[Tensor, "*M X"]:
        return elu(x)


def elu(x: Float[Tensor, "*M X"]) -> Float[Tensor, "*M X"]:
    """ELU by way of ``exp``, which the vector library computes several times faster than PyTorch's kernel ``expm1``.

    Compilers make of PyTorch's operator what is best for them, so they are given that one, but with a gradient that
    needs no second exponential.
    """
    if torch.compiler.is_compiling() and x.requires_grad and torch.is_grad_enabled():
        return _Elu.apply(x)  # pyright: ignore[reportReturnType]
    if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or x.is_cuda:
        return F.elu(x)
    if has_torch_function_unary(x):  # to a mode that watches, this is one function, as PyTorch's own
        return handle_torch_function(elu, (x,), x)
    return _Elu.apply(x) if torch.is_grad_enabled() else _exp_elu(x)  # pyright: ignore[reportReturnType]


def _exp_elu(x: Tensor) -> Tensor:
    """max(x, exp(min(x, 0)) - 1): -1 -> max(-1, -0.63), 2 -> max(2, 0)."""
    negative = x.clamp(max=0).exp_().sub_(1)
    return torch.maximum(x, negative, out=negative)


class _Elu(torch.autograd.Function):
    """Keeps the output for the backward pass, and lets the input go."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return F.elu(x) if torch.compiler.is_compiling() else _exp_elu(x)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (output,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        if torch.compiler.is_compiling():
            return torch.where(output > 0, gradient, gradient * (output + 1))
        return torch.ops.aten.elu_backward(gradient, 1, 1, 1, True, output)


def mlp(inputs: int, hidden: Sequence[int], outputs: int, *, scalar: bool = False) -> nn.Sequential:
    """Linear layers with ELU between them, orthogonal weights and zero biases.

    Args:
        inputs: width of the input.
        hidden: width of each hidden layer; may be empty.
        outputs: width of the output.
        scalar: the outputs are numbers, not features: they are computed in single precision
            and start at zero, as TD-MPC has it for rewards.
    """
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [Linear(fan_in, fan_out), Elu()]
    last = (ScalarOutput if scalar else Linear)(widths[-1], outputs)
    for layer in (*layers[::2], last):
        assert isinstance(layer, nn.Linear)
        nn.init.orthogonal_(layer.weight)
        nn.init.zeros_(layer.bias)
    if scalar:
        nn.init.zeros_(last.weight)
    return nn.Sequential(*layers, last)


class Ensemble(nn.Module):
    """``E`` value networks with stacked parameters: linear, LayerNorm, tanh, then linear layers with ELU between.

    Parameters have the heads as their leading axis. The output layer starts at zero, as in TD-MPC.
    """

    def __init__(self, heads: int, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        widths = [inputs, *hidden, outputs]
        self.weights = nn.ParameterList(torch.empty(heads, out, fan_in) for fan_in, out in pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(heads, out) for out in widths[1:])
        self.norm_weight = nn.Parameter(torch.ones(heads, widths[1]))
        self.norm_bias = nn.Parameter(torch.zeros(heads, widths[1]))
        for head in (head for weight in self.weights for head in weight):
            nn.init.orthogonal_(head.data)
        nn.init.zeros_(self.weights[-1])

    def forward(self, x: Float[Tensor, "*M X"]) -> Float[Tensor, "E *M Y"]:
        # One head after the other: a batched product would copy the shared input and every weight.
        layers = [_heads(weight, bias) for weight, bias in zip(self.weights, self.biases, strict=True)]
        norms = _heads(self.norm_weight, self.norm_bias)
        return torch.stack([_value(x, norm, head) for norm, *head in zip(norms, *layers, strict=True)])


def _heads(weight: Float[Tensor, "E ..."], bias: Float[Tensor, "E Y"]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(weight.unbind(0), bias.unbind(0), strict=True))


def _value(
    x: Float[Tensor, "*M X"], norm: tuple[Tensor, Tensor], layers: list[tuple[Tensor, Tensor]]
) -> Float[Tensor, "*M Y"]:
    """One value network: its LayerNorm's gain and bias, its layers' weights and biases."""
    (weight, bias), *hidden, last = layers
    # Norm and tanh in single precision: the statistics want it, and tanh is several times faster there on a CPU.
    x = linear(x, weight, bias).float()
    x = F.layer_norm(x, x.shape[-1:], norm[0].float(), norm[1].float())
    x = torch.tanh(x).to(weight.dtype)
    for weight, bias in hidden:
        x = elu(linear(x, weight, bias))
    return full_precision(x, *last)

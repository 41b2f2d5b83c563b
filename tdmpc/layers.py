"""Multi-layer perceptrons, single and stacked, with the initialisation of TD-MPC."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def full_precision(x: Float[Tensor, "*M X"], weight: Float[Tensor, "Y X"], bias: Float[Tensor, "Y"]) -> Tensor:
    """A linear layer in single precision whatever the precision around it.

    For outputs that are numbers rather than features: a return of 100 in bfloat16 is known only to 0.5.
    """
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), weight.float(), bias.float())


class ScalarOutput(nn.Linear):
    """An output layer in single precision."""

    def forward(self, input: Float[Tensor, "*M X"]) -> Float[Tensor, "*M Y"]:
        return full_precision(input, self.weight, self.bias)


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
        layers += [nn.Linear(fan_in, fan_out), nn.ELU(inplace=True)]
    last = (ScalarOutput if scalar else nn.Linear)(widths[-1], outputs)
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
        return torch.stack([self._head(index, x) for index in range(len(self.norm_weight))])

    def _head(self, index: int, x: Float[Tensor, "*M X"]) -> Float[Tensor, "*M Y"]:
        first, *hidden, last = zip(self.weights, self.biases, strict=True)
        x = F.linear(x, first[0][index], first[1][index])
        # In single precision: the statistics want it, and tanh is several times faster there on a CPU.
        x = F.layer_norm(x.float(), x.shape[-1:], self.norm_weight[index].float(), self.norm_bias[index].float())
        x = torch.tanh(x).to(first[0].dtype)
        for weight, bias in hidden:
            x = F.elu_(F.linear(x, weight[index], bias[index]))
        return full_precision(x, last[0][index], last[1][index])

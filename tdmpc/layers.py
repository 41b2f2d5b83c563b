"""Multi-layer perceptrons, single and stacked, with the initialisation of TD-MPC."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def mlp(inputs: int, hidden: Sequence[int], outputs: int, *, zero_last: bool = False) -> nn.Sequential:
    """Linear layers with ELU between them, orthogonal weights and zero biases.

    Args:
        inputs: width of the input.
        hidden: width of each hidden layer; may be empty.
        outputs: width of the output.
        zero_last: start from a constant zero output, as TD-MPC does for rewards.
    """
    widths = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.orthogonal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ELU(inplace=True)]
    layers.pop()
    if zero_last:
        nn.init.zeros_(linear.weight)
    return nn.Sequential(*layers)


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
        return F.linear(x, last[0][index], last[1][index])

"""What removed units did is taken over by those that stay, as far as it can be foreseen from them.

A linear layer W x + b behind an axis loses the inputs g and keeps the inputs k. On data, with the mean m and the
covariance C of its inputs, the best linear guess of all inputs from those that stay is

    x ~ m + P (x - m),    P[k,k] = 1,    P[g,k] = C[g,k] (C[k,k] + ridge)^-1,    P[:,g] = 0

so that W <- W P and b <- b + W (m - P m) hardly change what the layer puts out, and no longer read what will go.
Least-squares reconstruction is published for channels of convolutions (arXiv 1707.06168); that every reader of a group
absorbs for itself, on what an optimiser goes on with, is ours. Axes: ``E`` stacked networks, ``X`` inputs of a layer.
"""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tdmpc.compression.groups import Axis, Groups, Keep, Slice

RIDGE = 1e-3
"""Added to the variances, as a share of their mean: what hardly varies is not relied upon."""
LEAST = 1e-12
"""Added where nothing varies at all."""


class Inputs(NamedTuple):
    """What reaches a layer."""

    mean: Float[Tensor, "E X"]
    covariance: Float[Tensor, "E X X"]
    bias: str
    """Name of the layer's bias."""


class Watch(TorchFunctionMode):
    """Adds up what reaches the linear layers that run inside its ``with`` block.

    Weights that are stacked, ``[E Y X]``, may be used one slice after the other. Layers without a bias are left alone:
    they could not take over a mean.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        # A parameter begins where its first part does, so that one used whole is found as head 0.
        self._names = {
            part.data_ptr(): (name, head)
            for name, parameter in parameters.items()
            for head, part in enumerate(parameter.unbind(0) if parameter.dim() > 1 else (parameter,))
        }
        self._biases: dict[str, str] = {}
        self._sums: dict[tuple[str, int], tuple[int, Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and len(args) == 3 and args[2] is not None:
            weight, bias = (self._names.get(part.data_ptr()) for part in args[1:])
            if weight is not None and bias is not None:
                self._biases[weight[0]] = bias[0]
                self._see(weight, args[0].detach().reshape(-1, args[0].shape[-1]).float())
        return func(*args, **(kwargs or {}))

    def _see(self, place: tuple[str, int], x: Float[Tensor, "N X"]) -> None:
        count, total, products = self._sums.get(place, (0, 0.0, 0.0))
        self._sums[place] = count + len(x), total + x.sum(0), products + x.T @ x

    def inputs(self) -> dict[str, Inputs]:
        """What reached each layer, by the name of its weight."""
        found = {}
        for name, bias in self._biases.items():
            heads = [sums for (weight, _), sums in sorted(self._sums.items(), key=itemgetter(0)) if weight == name]
            means = torch.stack([total / count for count, total, _ in heads])
            squares = torch.stack([products / count for count, _, products in heads])
            found[name] = Inputs(means, squares - means[:, :, None] * means[:, None, :], bias)
        return found


def absorbed(
    state: Mapping[str, Tensor], groups: Groups, keep: Keep, inputs: Mapping[str, Inputs]
) -> dict[str, Tensor]:
    """The state of a model of the same size in which nobody reads the units that are to go.

    Args:
        state: as ``shrink`` takes it. A weight is found by its name at the end, behind a slash or alone, so that the
            copy in a target network absorbs too, while an optimiser's moments stay as they are.
        groups: the model as it is.
        keep: the units that will stay.
        inputs: of ``Watch``, by weight; layers that are not named stay as they are.
    """
    changed = dict(state)
    for name, seen in inputs.items():
        for piece, axis in groups.cuts(name):
            if axis.name in keep and piece.dim == len(groups.shapes[name]) - 1:
                stays = _stays(axis, piece, keep, seen)
                guess = torch.stack([_guess(*each) for each in zip(seen.covariance, stays, strict=True)])
                for prefix in _copies(state, name):
                    _take_over(changed, prefix + name, prefix + seen.bias, guess, seen.mean)
    return changed


def _stays(axis: Axis, piece: Slice, keep: Keep, seen: Inputs) -> Bool[Tensor, "E X"]:
    stays = torch.ones(seen.mean.shape, dtype=torch.bool)
    part = torch.zeros(axis.heads, axis.size, dtype=torch.bool).scatter_(1, keep[axis.name].cpu(), True)
    stays[:, piece.start : piece.start + axis.size] = part
    return stays.to(seen.mean.device)


def _guess(covariance: Float[Tensor, "X X"], stays: Bool[Tensor, "X"]) -> Float[Tensor, "X X"]:
    """P: all inputs from those that stay."""
    known, gone = covariance[stays].double(), ~stays
    among = known[:, stays]
    ridge = RIDGE * among.diagonal().mean() + LEAST
    share = torch.linalg.solve(among + ridge * torch.eye(len(among), device=among.device).double(), known[:, gone])
    guess = torch.diag(stays.to(covariance.dtype))
    guess[gone.nonzero(), stays.nonzero().T] = share.T.to(covariance.dtype)
    return guess


ROWS = 64
"""Neurons whose least squares are solved at once."""


def refitted(
    weight: Float[Tensor, "*E Y X"], bias: Float[Tensor, "*E Y"], stays: Bool[Tensor, "*E Y X"], seen: Inputs
) -> tuple[Float[Tensor, "*E Y X"], Float[Tensor, "*E Y"]]:
    """A layer without its dropped weights, where those that stay take over what they did: each neuron for itself.

    Where units go, all neurons lose the same inputs, and one guess serves them (``absorbed``); here each has its own.
    The guess is the same: the dropped part of w.x from the inputs whose weights stay.

    Args:
        weight: of the whole layer; what was dropped before is zero in it.
        bias: of the whole layer.
        stays: the weights that stay.
        seen: what reaches the layer.

    Returns:
        Weight, zero where nothing stays, and bias.
    """
    rows = weight.view(len(seen.mean), -1, weight.shape[-1]).double()
    kept = stays.view_as(rows).double()
    new = torch.stack([_refitted(*each) for each in zip(rows, kept, seen.covariance.double(), strict=True)])
    shift = ((rows - new) @ seen.mean.double()[..., None]).squeeze(-1)
    return new.to(weight.dtype).view_as(weight), bias + shift.to(bias.dtype).view_as(bias)


def _refitted(
    rows: Float[Tensor, "Y X"], stays: Float[Tensor, "Y X"], covariance: Float[Tensor, "X X"]
) -> Float[Tensor, "Y X"]:
    varies = covariance.diagonal() * stays
    ridge = RIDGE * varies.sum(-1, keepdim=True) / stays.sum(-1, keepdim=True).clamp(min=1) + LEAST
    wanted = stays * ((rows * (1 - stays)) @ covariance)
    # Rows and columns of what goes are those of the identity, so that its share is zero.
    diagonal = stays * ridge + 1 - stays
    shares = [
        torch.linalg.solve(covariance * s[:, :, None] * s[:, None, :] + torch.diag_embed(d), v)
        for s, d, v in zip(stays.split(ROWS), diagonal.split(ROWS), wanted.split(ROWS), strict=True)
    ]
    return rows * stays + torch.cat(shares)


def _copies(state: Mapping[str, Tensor], name: str) -> list[str]:
    """What stands before a parameter's name in a state, for each tensor that is the parameter or a copy of it."""
    return [key.removesuffix(name) for key in state if key == name or key.endswith(f"/{name}")]


def _take_over(
    state: dict[str, Tensor], weight: str, bias: str, guess: Float[Tensor, "E X X"], mean: Float[Tensor, "E X"]
) -> None:
    old = state[weight].view(len(guess), -1, guess.shape[-1])
    missing = mean - (guess @ mean[..., None]).squeeze(-1)
    shift = (old @ missing[..., None]).squeeze(-1)
    state[weight] = (old @ guess).view_as(state[weight])
    state[bias] = state[bias] + shift.view_as(state[bias])

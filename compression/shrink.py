"""``shrink(state, keep) -> smaller state``: the pure function that makes a model smaller.

It acts on flat dictionaries of tensors, as checkpoints hold them, and knows nothing of what they are for: what belongs
to a parameter (the parameter itself, its copy in a target network, an optimiser's moments) has its name and its shape.
Undoing a cut is keeping the old state.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tdmpc.compression.groups import Axis, Groups, Keep


def shrink(state: Mapping[str, Tensor], groups: Groups, keep: Keep) -> dict[str, Tensor]:
    """Cut every tensor down to the units that stay.

    A tensor belongs to a parameter when one part of its name, between slashes, is the parameter's name, and its shape
    is the parameter's: ``target/dynamics.0.weight``, ``optimizer/dynamics.0.weight/exp_avg``, but not
    ``optimizer/dynamics.0.weight/step``. All others are handed on as they are.

    Raises:
        ValueError: ``keep`` names an axis that there is not, or units that it does not have.
    """
    check(groups, keep)
    return {name: _cut(tensor, _owner(name, groups), groups, keep) for name, tensor in state.items()}


def _owner(name: str, groups: Groups) -> str | None:
    return next((part for part in name.split("/") if part in groups.shapes), None)


def _cut(tensor: Tensor, parameter: str | None, groups: Groups, keep: Keep) -> Tensor:
    if parameter is None or tensor.shape != groups.shapes[parameter]:
        return tensor
    for piece, axis in groups.cuts(parameter):
        if axis.name in keep:
            index = _index(keep[axis.name], axis, piece.start, tensor.shape[piece.dim]).to(tensor.device)
            tensor = _take(tensor, piece.dim, index)
    return tensor


def _index(units: Int[Tensor, "E K"], axis: Axis, start: int, size: int) -> Int[Tensor, "E D"]:
    """Entries along a dimension that stay: size 7, an axis of 4 from 1 on, units 0 and 3 -> 0, 1, 4, 5, 6."""
    before = torch.arange(start).expand(axis.heads, -1)
    behind = torch.arange(start + axis.size, size).expand(axis.heads, -1)
    return torch.cat([before, start + units, behind], dim=1)


def _take(tensor: Tensor, dim: int, index: Int[Tensor, "E D"]) -> Tensor:
    """The entries of each head along a dimension; heads are dimension 0 of what is stacked."""
    if len(index) == 1:
        return tensor.index_select(dim, index[0])
    shape = [1] * tensor.dim()
    shape[0], shape[dim] = index.shape
    return tensor.take_along_dim(index.view(shape), dim)


def check(groups: Groups, keep: Keep) -> None:
    """Refuse units that do not exist; raises as ``shrink``."""
    for name, units in keep.items():
        if name not in groups.widths:
            raise ValueError(f"there is no axis {name!r}; there are {', '.join(groups.widths)}")
        axis = groups[name]
        legal = units.dim() == 2 and len(units) == axis.heads and units.shape[1] > 0
        if not legal or units.min() < 0 or units.max() >= axis.size or (units.diff() <= 0).any():
            raise ValueError(
                f"what stays of {name} must be ascending numbers below {axis.size}, at least one, "
                f"in {axis.heads} row(s), got {units.tolist()}"
            )


def composed(first: Keep, then: Keep) -> dict[str, Tensor]:
    """The one cut that does what two do: keep 1, 4, 6 and of these keep the second -> keep 4."""
    both = {name: units.gather(1, then[name]) if name in then else units for name, units in first.items()}
    return {**then, **both}


def training_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """A module and its optimiser as ``shrink`` takes them: ``model/NAME`` and ``optimizer/NAME/MOMENT``."""
    moments = {
        f"optimizer/{name}/{key}": torch.as_tensor(value)
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return {f"model/{name}": tensor for name, tensor in module.state_dict().items()} | moments


def load_training_state(module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Take up what ``training_state`` gave, cut or not, in a module and an optimiser of the right sizes."""
    module.load_state_dict({name[6:]: tensor for name, tensor in state.items() if name.startswith("model/")})
    parameters = dict(module.named_parameters())
    optimizer.state.clear()
    for name, tensor in state.items():
        kind, parameter, *key = name.split("/")
        if kind == "optimizer":
            optimizer.state[parameters[parameter]][key[0]] = tensor.clone()

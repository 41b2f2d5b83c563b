"""How far the output of a network is off when weights of its layers are dropped: bounds, and what is seen on data.

The worst case over all inputs that stay within what was seen (``Probe``), carried from layer to layer (``carry``).
``docs/sparsity.md`` derives what is stated here. Axes: ``X`` inputs of a layer, ``Y`` its outputs, ``E`` networks whose
weights are stacked, 1 where they are not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tdmpc.compression import sparsity
from tdmpc.compression.absorb import Inputs

RANGES = {"elu": math.inf, "relu": math.inf, "leaky_relu": math.inf, "tanh": 2.0, "sigmoid": 1.0}
"""Activations that never enlarge a difference (1-Lipschitz), and the largest difference of two of their outputs."""


@dataclass(frozen=True)
class Stage:
    """A linear layer and what follows it up to the next one, with what was seen of them on data."""

    name: str
    weight: Float[Tensor, "E Y X"]
    bound: Float[Tensor, "E X"]
    """Largest magnitude of each input."""
    norm_gain: Float[Tensor, "E Y"] | None = None
    """Magnitude of the gain of the LayerNorm behind the layer, where there is one."""
    norm_std: Float[Tensor, "E"] | None = None
    """Least deviation that this LayerNorm divided by."""
    range: float = math.inf
    """Largest difference of two outputs: 2 behind tanh."""

    @property
    def reach(self) -> Float[Tensor, "E Y X"]:
        """What each weight adds to its neuron at most."""
        return self.weight.abs() * self.bound[:, None, :]

    @property
    def input_reach(self) -> Float[Tensor, "X"]:
        """What each input adds to any one neuron at most."""
        return self.reach.amax((0, 1))


def carry(stages: Sequence[Stage], errors: Sequence[float | Float[Tensor, "E _"]]) -> Float[Tensor, "E Y"]:
    """How far the output of layers in a row is off at most, coordinate by coordinate.

    An error e of the inputs becomes |W| e, which is at most the largest row l1 norm of W times the largest error.
    Dropping weights makes no row longer, and the part that is due to the drop is judged on the inputs that the whole
    network gives: so the sum of both bounds the pruned network. Activations pass an error on as it is.

    Args:
        stages: in the order in which they run.
        errors: for each, how far a neuron is off by itself: the l1 norm of the reach dropped from it. One number
            stands for all neurons.
    """
    error = torch.zeros_like(stages[0].bound)
    for stage, own in zip(stages, errors, strict=True):
        passed = (stage.weight.abs() @ error[..., None]).squeeze(-1)
        error = _behind_norm(stage, passed + own).clamp(max=stage.range)
    return error


def _behind_norm(stage: Stage, error: Float[Tensor, "E Y"]) -> Float[Tensor, "E Y"]:
    """An error behind a LayerNorm: it moves the unit itself, the mean and the deviation.

    No normalised unit is larger than sqrt(Y - 1), hence the deviations that were seen without the error are enough.
    """
    if stage.norm_gain is None or stage.norm_std is None:
        return error
    width = error.shape[-1]
    centred = (1 - 2 / width) * error + error.mean(-1, keepdim=True)
    rescaled = math.sqrt(width - 1) * error.square().mean(-1, keepdim=True).sqrt()
    return stage.norm_gain * (centred + rescaled) / stage.norm_std[:, None]


class Change(NamedTuple):
    """What became of a layer, whose weights were dropped and perhaps fitted again."""

    stage: Stage
    """As it was."""
    weight: Float[Tensor, "E Y X"]
    """As it is."""
    shift: Float[Tensor, "E Y"]
    """What was added to the bias."""
    seen: Inputs
    """What reached it as it was."""


def worst_case(changes: Sequence[Change]) -> Float[Tensor, "E Y"]:
    """How far the output of changed layers in a row is off at most, coordinate by coordinate.

    As ``carry``, but with the rows as they are: weights that are fitted again may be larger than they were. It holds
    for inputs within the bounds that were seen.
    """
    errors = [
        ((weight - stage.weight).abs() @ stage.bound[..., None]).squeeze(-1) + shift.abs()
        for stage, weight, shift, _ in changes
    ]
    return carry([replace(change.stage, weight=change.weight) for change in changes], errors)


def mean_square(changes: Sequence[Change]) -> Float[Tensor, "E"]:
    """Root of the mean square, over the data seen, of the l2 norm of the output's error, at most (ours).

    A layer alone is off by D x + s with D the change of its weights and s that of its bias, in the mean square exactly
    by tr(D C D') + |D m + s|^2, with mean m and covariance C of its inputs: the l2 norm of what was dropped, in the
    metric of the inputs. An error from before is enlarged at most by the largest singular value of the layer as it is;
    Minkowski's inequality adds both up. It holds on the data that were seen, and promises nothing elsewhere.
    """
    error = torch.zeros_like(changes[0].shift[..., 0])
    for stage, weight, shift, seen in changes:
        gone = weight - stage.weight
        spread = ((gone @ seen.covariance) * gone).sum((1, 2)).clamp(min=0)
        moved = ((gone @ seen.mean[..., None]).squeeze(-1) + shift).square().sum(-1)
        error = torch.linalg.matrix_norm(weight, 2) * error + (spread + moved).sqrt()
        if stage.norm_gain is not None and stage.norm_std is not None:
            # |u'/s' - u/s| <= |u' - u| / s + |u'| / s' |s' - s| / s, where |u'| / s' <= sqrt(Y), and |s' - s| is
            # at most |u' - u| / sqrt(Y).
            error = 2 * stage.norm_gain.amax(-1) / stage.norm_std * error
        error = error.clamp(max=stage.range * math.sqrt(weight.shape[1]))
    return error


class Place(NamedTuple):
    """One slice of one layer: where in its component it runs."""

    component: str
    position: int
    member: int


class Probe(TorchFunctionMode):
    """Watches the linear layers of components that run inside its ``with`` block, and what reaches them.

    Between two layers of a component there may be a LayerNorm and the activations of ``RANGES``, nothing else. Weights
    that are stacked, ``[E Y X]``, may be used one slice after the other.

    Raises:
        ValueError: something else lies between two layers, so that nothing is known to bound an error.
    """

    def __init__(self, components: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._stages: dict[str, list[Stage]] = {component: [] for component in components}
        self._places = {
            matrix.data_ptr(): (component, name, parameter.detach(), index)
            for component, module in components.items()
            for name, parameter in module.named_parameters()
            if parameter.dim() > 1
            for index, matrix in enumerate(_stacked(parameter.detach()))
        }
        self._end: tuple[Tensor, int, Place] | None = None
        """What the last layer has put out so far (held, so that its memory is not used again), how often that was
        written to, and the layer."""

    def stages(self) -> dict[str, list[Stage]]:
        """The layers of each component in the order in which they ran."""
        return {component: list(stages) for component, stages in self._stages.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").rstrip("_")
        if name == "linear" and args[1].data_ptr() in self._places:
            place = self._see_linear(args[0], args[1])
            result = func(*args, **kwargs)
            self._end = result, result._version, place
            return result
        place = self._place_behind(args[0]) if args and isinstance(args[0], Tensor) else None
        if place is not None and name == "layer_norm":
            self._see_norm(place, *args, **kwargs)
        result = func(*args, **kwargs)
        if place is not None and name in ("layer_norm", *RANGES):
            self._see(place, range=RANGES.get(name, math.inf))
            self._end = result, result._version, place
        return result

    def _place_behind(self, x: Tensor) -> Place | None:
        """The layer whose output this is, with all that came behind it."""
        if self._end is None:
            return None
        end, version, place = self._end
        return place if x.data_ptr() == end.data_ptr() and x._version == version else None

    def _see_linear(self, x: Float[Tensor, "*M X"], weight: Float[Tensor, "Y X"]) -> Place:
        component, name, parameter, index = self._places[weight.data_ptr()]
        stages = self._stages[component]
        if name not in [stage.name for stage in stages]:
            matrices = _stacked(parameter)
            stages.append(Stage(name, matrices, torch.zeros_like(matrices[:, 0])))
        position = [stage.name for stage in stages].index(name)
        if position and self._place_behind(x) != Place(component, position - 1, index):
            raise ValueError(
                f"{component}.{name}: its input does not come from {component}.{stages[position - 1].name} through "
                f"LayerNorm, {', '.join(RANGES)} alone, so no bound on an error is known"
            )
        bound = stages[position].bound[index]
        torch.maximum(bound, x.abs().reshape(-1, x.shape[-1]).amax(0), out=bound)
        return Place(component, position, index)

    def _see_norm(
        self, place: Place, x: Tensor, shape: Any, weight: Tensor | None = None, bias: Any = None, eps: float = 1e-5
    ) -> None:
        stage = self._stages[place.component][place.position]
        gain = torch.zeros_like(stage.weight[..., 0]) if stage.norm_gain is None else stage.norm_gain
        std = torch.full_like(gain[:, 0], math.inf) if stage.norm_std is None else stage.norm_std
        gain[place.member] = 1.0 if weight is None else weight.abs()
        std[place.member] = std[place.member].minimum((x.var(-1, correction=0) + eps).sqrt().amin())
        self._see(place, norm_gain=gain, norm_std=std)

    def _see(self, place: Place, **seen: Any) -> None:
        stages = self._stages[place.component]
        stages[place.position] = replace(stages[place.position], **seen)


@dataclass(frozen=True)
class LayerSparsity:
    """How compressible a layer is, and what may be dropped from it."""

    name: str
    """Its weight, within the component."""
    neurons: int
    inputs: int
    weights: int
    pq_index: float
    """Mean over the neurons."""
    soft_sparsity: float
    """Mean over the neurons."""
    sap_neuron: int
    """Weights that a round of SAP prunes, each neuron a scope."""
    sap_layer: int
    """The same, the layer one scope."""
    weights_sufficient: int
    """Weights that keep every neuron within the tolerance, known from soft sparsity alone."""
    weights_needed: int
    """The least number of which this can be said, known from sorting."""
    inputs_needed: int | None
    """Inputs that keep every neuron within the tolerance when the others are zero; ``None`` behind a LayerNorm, where
    removing a unit moves all others."""
    output_error: float
    """How far the component's output is off at most when every neuron of this layer alone is off by the tolerance."""


def assess(stages: Sequence[Stage], tolerance: float, *, p: float, q: float, soft_q: float) -> list[LayerSparsity]:
    """Judge the layers of a component.

    Args:
        stages: in the order in which they run.
        tolerance: how far any output of a linear layer may be off, in that layer's own units.
        p: of the PQ index.
        q: of the PQ index.
        soft_q: of the soft sparsity.
    """
    found = []
    for position, stage in enumerate(stages):
        weight, reach = stage.weight, stage.reach
        alone = [tolerance, *(0.0 for _ in stages[position + 1 :])]
        behind_norm = position > 0 and stages[position - 1].norm_gain is not None
        found.append(
            LayerSparsity(
                name=stage.name,
                neurons=weight[..., 0].numel(),
                inputs=weight.shape[-1],
                weights=weight.numel(),
                pq_index=sparsity.pq_index(weight, p, q).mean().item(),
                soft_sparsity=sparsity.soft_sparsity(weight, soft_q).mean().item(),
                sap_neuron=int(sparsity.sap_pruned(weight, p, q).sum()),
                sap_layer=int(sparsity.sap_pruned(weight.flatten(), p, q)),
                weights_sufficient=int(sparsity.weights_sufficient(reach, tolerance, soft_q).sum()),
                weights_needed=int(sparsity.weights_needed(reach, tolerance).sum()),
                inputs_needed=None if behind_norm else int(sparsity.weights_needed(stage.input_reach, tolerance)),
                output_error=carry(stages[position:], alone).max().item(),
            )
        )
    return found


def _stacked(parameter: Float[Tensor, "*E Y X"]) -> Float[Tensor, "E Y X"]:
    return parameter.reshape(-1, *parameter.shape[-2:])

"""Pruning single weights: which of them stay, and what the others cost.

Units go where a layer is to become smaller. Single weights go where units cannot: the layer keeps its size, dense
kernels gain nothing, and what is dropped is exactly zero in an ordinary state. A dropped weight stays dropped, because
every rule takes the largest first.

    global   the largest weights of all layers together
    layer    the largest weights of each layer, the same share of each
    neuron   the largest weights of each neuron, as many as its l_q norm asks for at one error level for the layer:
             after the idea of arXiv 2206.05604, by the formula of ``sparsity.weights_sufficient``

``sap_masks`` is one round of SAP (arXiv 2302.05601, read in the authors' code), which sets its own number.
Axes: ``E`` stacked networks, ``Y`` neurons, ``X`` inputs; a plain layer has no ``E``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tdmpc.compression.absorb import Inputs, Watch, refitted
from tdmpc.compression.error_bounds import Change, Probe, Stage
from tdmpc.compression.sparsity import counts_at_one_level, sap_pruned

Rule = Literal["global", "layer", "neuron"]
Scope = Literal["neuron", "layer", "global"]
Weights = Mapping[str, Float[Tensor, "*E Y X"]]
Masks = dict[str, Bool[Tensor, "*E Y X"]]


# Which weights stay ----------------------------------------------------------------------------------------------


def chosen(weights: Weights, *, rule: Rule, sparsity: float, soft_q: float = 0.5) -> Masks:
    """The weights that stay where a share of all is dropped.

    Args:
        weights: of every layer, by name.
        rule: see above.
        sparsity: share of all weights that is zero afterwards; ``neuron`` drops up to a neuron's rounding more.
        soft_q: q of the l_q norm that ``neuron`` counts by.
    """
    if rule == "neuron":
        return {
            name: largest(w, counts_at_one_level(w, _kept(w.numel(), sparsity), soft_q)) for name, w in weights.items()
        }
    scopes = _as_scopes(weights, rule)
    flat = {name: largest(w, torch.tensor(_kept(w.numel(), sparsity))) for name, w in scopes.items()}
    return _as_weights(flat, weights, rule)


def sap_masks(
    weights: Weights, *, scope: Scope, p: float, q: float, eta: float = 0.0, gamma: float = 1.0, beta: float = 0.9
) -> Masks:
    """The weights that stay in a round of SAP; arguments as in ``sparsity.sap_pruned``."""
    scopes = weights if scope == "neuron" else _as_scopes(weights, scope)
    stay = {}
    for name, w in scopes.items():
        remaining = (w != 0).sum(-1)
        pruned = sap_pruned(w, p, q, remaining=remaining, eta=eta, gamma=gamma, beta=beta)
        stay[name] = largest(w, remaining - pruned)
    return stay if scope == "neuron" else _as_weights(stay, weights, scope)


def largest(w: Float[Tensor, "*M D"], counts: Int[Tensor, "*M"]) -> Bool[Tensor, "*M D"]:
    """The largest entries of each scope, of equal ones the first: [3, -1, 2] and 2 give yes, no, yes."""
    order = w.abs().argsort(dim=-1, descending=True, stable=True)
    return order.argsort(-1) < counts[..., None]


def _kept(total: int, sparsity: float) -> int:
    return round((1 - sparsity) * total)


def _as_scopes(weights: Weights, scope: str) -> dict[str, Float[Tensor, "D"]]:
    flat = {name: w.flatten() for name, w in weights.items()}
    return {"": torch.cat(list(flat.values()))} if scope == "global" else flat


def _as_weights(flat: Mapping[str, Tensor], weights: Weights, scope: str) -> Masks:
    parts = flat[""].split([w.numel() for w in weights.values()]) if scope == "global" else flat.values()
    return {name: part.view_as(w) for (name, w), part in zip(weights.items(), parts, strict=True)}


# What they do ----------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """The linear layers of a network at work; weights and biases are copies, so that it tells what was."""

    stages: dict[str, list[Stage]]
    """In their order, by component."""
    inputs: dict[str, Inputs]
    """What reached each layer, by the full name of its weight."""
    biases: dict[str, Float[Tensor, "*E Y"]]
    """By full name."""
    calls: dict[str, list[tuple[Tensor, Tensor]]]
    """What each component got and gave, call by call."""

    def weights(self) -> dict[str, Float[Tensor, "E Y X"]]:
        """Of every layer, by full name."""
        return {
            f"{component}.{stage.name}": stage.weight for component, chain in self.stages.items() for stage in chain
        }


@torch.no_grad()
def watched(components: nn.ModuleDict, run: Callable[[], Any]) -> Seen:
    """Watch components while something is run through them; raises as ``Probe``."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in components}

    def recorder(name: str) -> Callable[..., None]:
        return lambda module, args, output: calls[name].append((args[0], output))

    hooks = [module.register_forward_hook(recorder(name)) for name, module in components.items()]
    try:
        with Watch(dict(components.named_parameters())) as watch, Probe(dict(components.items())) as probe:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    stages = {
        name: [replace(stage, weight=stage.weight.clone()) for stage in chain] for name, chain in probe.stages().items()
    }
    inputs = watch.inputs()
    biases = {seen.bias: components.get_parameter(seen.bias).detach().clone() for seen in inputs.values()}
    return Seen(stages, inputs, biases, calls)


@torch.no_grad()
def drop(components: nn.ModuleDict, masks: Masks, inputs: Mapping[str, Inputs] | None = None) -> None:
    """Set to zero, in place, what does not stay.

    Args:
        components: with layers of these names.
        masks: what stays, by weight.
        inputs: where given, the weights that stay take over by least squares what the others did on these data.
    """
    parameters = dict(components.named_parameters())
    for name, stays in masks.items():
        weight, stays = parameters[name], stays.view_as(parameters[name])
        if inputs is None:
            weight.mul_(stays)
            continue
        seen = inputs[name]
        new = refitted(weight, parameters[seen.bias], stays, seen)
        weight.copy_(new[0])
        parameters[seen.bias].copy_(new[1])


@torch.no_grad()
def changes(before: Seen, components: nn.ModuleDict, component: str) -> list[Change]:
    """What became of the layers of a component, up to its own output: to be bounded by ``error_bounds``.

    Args:
        before: the network as it was.
        components: as they are.
        component: whose layers.
    """
    parameters = dict(components.named_parameters())
    found = []
    for stage in before.stages[component]:
        seen = before.inputs[f"{component}.{stage.name}"]
        weight = parameters[f"{component}.{stage.name}"].view_as(stage.weight)
        shift = (parameters[seen.bias] - before.biases[seen.bias]).view(stage.weight.shape[:-1])
        found.append(Change(stage, weight.detach(), shift, seen))
    # What follows the component, as the tanh behind a policy, is not its own.
    end = replace(found[-1].stage, range=math.inf)
    return [*found[:-1], found[-1]._replace(stage=end)]


class Measured(NamedTuple):
    """How far the output of a component is off on data."""

    largest: float
    """Of all coordinates and data."""
    root_mean_square: float
    """Of the l2 norm over the coordinates; of stacked networks, the worst."""
    of_output: float
    """The same beside what the output varies by: 1 is as bad as a constant."""


@torch.no_grad()
def measured(before: Seen, components: nn.ModuleDict, component: str) -> Measured:
    """Run what reached a component through it as it is now, and compare."""
    calls = before.calls[component]
    old, new = (
        torch.cat([_rows(x, output) for (x, _), output in zip(calls, outputs, strict=True)], dim=1)
        for outputs in ([output for _, output in calls], [components[component](x) for x, _ in calls])
    )
    off = (new - old).double()
    spread = old.double().var(1, correction=0).sum(-1).clamp(min=1e-24)
    square = off.square().sum(-1).mean(1)
    return Measured(off.abs().max().item(), square.max().sqrt().item(), (square / spread).max().sqrt().item())


def _rows(x: Float[Tensor, "*M X"], output: Float[Tensor, "... Y"]) -> Float[Tensor, "E N Y"]:
    """Stacked networks, and only they, give an axis more than they get."""
    return output.reshape(len(output) if output.dim() > x.dim() else 1, -1, output.shape[-1])

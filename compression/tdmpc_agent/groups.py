"""The groups of a TD-MPC agent, and how what a checkpoint holds of it is cut.

Component-specific groups are the hidden units of encoder, dynamics, reward, termination, policy and value (stacked
value heads keep one width, each chooses its own units). Coupling groups are the latent coordinates: what encoder and
dynamics put out and what every component reads. Observations, actions and the outputs of heads are on no axis.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from torch import Tensor

from tdmpc.compression.groups import Axis, Groups, Keep, Slice
from tdmpc.compression.shrink import shrink
from tdmpc.config import ModelConfig, PlannerConfig, TrainConfig
from tdmpc.macs import planning_macs
from tdmpc.spec import EnvSpec
from tdmpc.world_model import parameter_shapes

LATENT = "latent"


@lru_cache(maxsize=64)
def agent_groups(model: ModelConfig, spec: EnvSpec, planner: PlannerConfig) -> Groups:
    """The groups of a world model of these widths; multiply-adds are those of one plan."""
    shapes = parameter_shapes(model, spec)
    axes = [Axis(LATENT, None, model.latent, tuple(_latent_slices(model, spec)))]
    for component in _perceptrons(spec):
        axes += [
            Axis(component, layer, width, _hidden_unit(component, layer))
            for layer, width in enumerate(getattr(model, component))
        ]
    axes += [
        Axis("value", layer, width, _value_unit(layer), heads=model.value_heads)
        for layer, width in enumerate(model.value)
    ]
    return Groups(tuple(axes), shapes, _calls(model, spec, planner, shapes))


def _perceptrons(spec: EnvSpec) -> list[str]:
    return ["encoder", "dynamics", "reward", *(["termination"] if spec.terminates else []), "policy"]


def _weight(component: str, layer: int) -> str:
    """Linear layers of a perceptron have the even places, activations lie between them."""
    return f"components.{component}.{2 * layer}.weight"


def _bias(component: str, layer: int) -> str:
    return f"components.{component}.{2 * layer}.bias"


def _hidden_unit(component: str, layer: int) -> tuple[Slice, ...]:
    return (
        Slice(_weight(component, layer), 0),
        Slice(_bias(component, layer), 0),
        Slice(_weight(component, layer + 1), 1),
    )


def _value_unit(layer: int) -> tuple[Slice, ...]:
    """Dimension 0 is the head; LayerNorm follows the first layer."""
    value = "components.value"
    norm = (Slice(f"{value}.norm_weight", 1), Slice(f"{value}.norm_bias", 1)) if layer == 0 else ()
    return (
        Slice(f"{value}.weights.{layer}", 1),
        Slice(f"{value}.biases.{layer}", 1),
        *norm,
        Slice(f"{value}.weights.{layer + 1}", 2),
    )


def _latent_slices(model: ModelConfig, spec: EnvSpec) -> list[Slice]:
    """Everything that a latent coordinate ties together; where actions are read too, they come behind the latent."""
    last = {"encoder": len(model.encoder), "dynamics": len(model.dynamics)}
    readers = [component for component in _perceptrons(spec) if component != "encoder"]
    return [
        *(Slice(part(name, layer), 0, component=name) for name, layer in last.items() for part in (_weight, _bias)),
        *(Slice(_weight(component, 0), 1, component=component) for component in readers),
        Slice("components.value.weights.0", 2, component="value"),
    ]


def _calls(
    model: ModelConfig, spec: EnvSpec, planner: PlannerConfig, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Rows that each weight multiplies in one plan."""
    calls = {}
    for component, macs in planning_macs(model, spec, planner).items():
        weights = [name for name in shapes if name.startswith(f"components.{component}.") and ".weight" in name]
        rows = macs // sum(int(np.prod(shapes[name])) for name in weights)
        calls |= dict.fromkeys(weights, rows)
    return calls


def with_widths(model: ModelConfig, widths: Mapping[str, int]) -> ModelConfig:
    """The model's settings with other widths; axes that are not named keep theirs."""
    layers = {
        field.name: tuple(widths.get(f"{field.name}.{layer}", width) for layer, width in enumerate(value))
        for field in dataclasses.fields(model)
        if isinstance(value := getattr(model, field.name), tuple)
    }
    return dataclasses.replace(model, latent=widths.get(LATENT, model.latent), **layers)


def shrink_agent(
    config: TrainConfig, spec: EnvSpec, state: Mapping[str, Tensor], keep: Keep
) -> tuple[TrainConfig, dict[str, Tensor]]:
    """What a checkpoint holds of an agent, cut down: its settings, networks, target network and moments.

    Args:
        config: settings that the state belongs to.
        spec: the environment.
        state: of ``Agent.state``.
        keep: the units that stay; raises ``ValueError`` as ``shrink``.
    """
    groups = agent_groups(config.model, spec, config.planner)
    smaller = with_widths(config.model, groups.kept(keep).widths)
    return dataclasses.replace(config, model=smaller), shrink(state, groups, keep)

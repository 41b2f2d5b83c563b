"""The graphs of a bundle: the agent's own planner between what a sensor gives and what an actuator takes.

No algorithm lives here: ``tdmpc.planner`` plans, these modules only flatten observations, shift the warm start and
scale actions. A graph plans for one robot, so it has no batch axis: ``B`` is 1 inside and absent outside.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tdmpc.config import ModelConfig
from tdmpc.deploy.original import Original
from tdmpc.planner import Proposals, ahead, improve, limit_changes, propose, shift
from tdmpc.spec import EnvSpec
from tdmpc.world_model import WorldModel

TILE = 16
"""Units that a processor computes at once: of a single-precision vector, and of a matrix tile in bfloat16."""

Sensors = tuple[Float[Tensor, "..."], ...]
"""One tensor for each sensor, in the order and with the shapes of ``EnvSpec.observation_layout``."""


class Start(NamedTuple):
    """What every iteration needs, and the mean and deviation that the first one samples with."""

    latent: Float[Tensor, "Z"]
    proposals: Float[Tensor, "H P A"]
    proposal_values: Float[Tensor, "P"]
    mean: Float[Tensor, "H A"]
    std: Float[Tensor, "H A"]
    before: Float[Tensor, "A"]
    """The action just before the plan; only handed on where the change of actions is limited."""


class Refined(NamedTuple):
    """A plan after one more iteration."""

    action: Float[Tensor, "A"]
    """In the actuator's units, within its bounds."""
    new_mean: Float[Tensor, "H A"]
    """The whole plan, in [-1, 1]."""
    new_std: Float[Tensor, "H A"]
    value: Float[Tensor, ""]
    """Discounted return that the model expects, in the environment's units."""


class _Rows(nn.Module):
    """A component that sees a matrix: runtimes fuse a linear layer with what follows only for two axes."""

    def __init__(self, component: nn.Module, axis: int) -> None:
        super().__init__()
        self.component, self.axis = component, axis

    def forward(self, x: Float[Tensor, "*M X"]) -> Tensor:
        return self.component(x.flatten(0, -2)).unflatten(self.axis, x.shape[:-1])


def in_rows(model: WorldModel) -> WorldModel:
    """A copy of a model whose components see matrices; its predictions are the same."""
    copied = copy.deepcopy(model).requires_grad_(False).eval()
    for name, component in copied.components.items():
        copied.components[name] = _Rows(component, 1 if name == "value" else 0)  # the ensemble's axis comes first
    return copied


def in_tiles(model: WorldModel, spec: EnvSpec) -> WorldModel:
    """The same functions with hidden layers of whole tiles: pruning leaves widths like 179, and 192 is quicker.

    What is added is zero and stays zero through ELU, so no prediction changes. Layers under a LayerNorm keep their
    width: zeros would count in its statistics.
    """
    with torch.device("meta"):
        wide = WorldModel(tiled(model.config), spec)
    wide.to_empty(device="cpu")
    narrow = model.state_dict()
    for name, values in wide.state_dict().items():
        values.zero_()
        values[tuple(map(slice, narrow[name].shape))] = narrow[name]
    return wide


def tiled(config: ModelConfig) -> ModelConfig:
    """The widths that run, of those that pruning left."""
    widths = {name: tiles(getattr(config, name)) for name in ("encoder", "dynamics", "reward", "termination", "policy")}
    return replace(config, **widths, value=config.value[:1] + tiles(config.value[1:]))


def tiles(widths: Sequence[int]) -> tuple[int, ...]:
    """Widths rounded up to whole tiles: 179, 92 -> 192, 96."""
    return tuple(-(-width // TILE) * TILE for width in widths)


class BundleGraph(nn.Module):
    """A model with the units of its sensors and actuators."""

    names: tuple[str, ...]
    """Of what ``forward`` returns."""
    low: Tensor
    high: Tensor

    def __init__(self, original: Original) -> None:
        super().__init__()
        self.model, self.settings, spec = original
        self.register_buffer("low", torch.tensor(spec.action_low))
        self.register_buffer("high", torch.tensor(spec.action_high))

    def _latent(self, sensors: Sensors) -> Float[Tensor, "1 Z"]:
        return self.model.encode(torch.cat([sensor.reshape(-1) for sensor in sensors])[None])

    def _actuate(self, action: Float[Tensor, "A"]) -> Float[Tensor, "A"]:
        scaled = (self.high + self.low) / 2 + (self.high - self.low) / 2 * action
        return torch.minimum(torch.maximum(scaled, self.low), self.high)


class StartGraph(BundleGraph):
    """``start.onnx``: everything that comes before the first iteration."""

    names = Start._fields

    def forward(
        self,
        sensors: Sensors,
        previous_mean: Float[Tensor, "H A"],
        noise_policy: Float[Tensor, "H P A"],
        committed: Float[Tensor, "C A"] | None = None,
    ) -> tuple[Tensor, ...]:
        config, z = self.settings.planner, self._latent(sensors)
        committed = torch.zeros_like(previous_mean[:1]) if committed is None else committed
        z, before = ahead(self.model, z, committed[1:, None]), committed[-1]
        proposals = propose(
            *(self.model, z, noise_policy[:, None]),
            config=config,
            discount=self.settings.discount,
            before=before[None],
        )
        mean = limit_changes(shift(previous_mean), before, config.max_change)
        std = torch.full_like(mean, config.max_std)
        start = Start(z[0], proposals.actions[:, 0], proposals.values[0], mean, std, before)
        return tuple(start) if config.max_change is not None else start[:-1]


class RefineGraph(BundleGraph):
    """``refine.onnx``: one iteration."""

    names = Refined._fields

    def forward(
        self,
        latent: Float[Tensor, "Z"],
        proposals: Float[Tensor, "H P A"],
        proposal_values: Float[Tensor, "P"],
        mean: Float[Tensor, "H A"],
        std: Float[Tensor, "H A"],
        noise: Float[Tensor, "H N A"],
        before: Float[Tensor, "A"] | None = None,
    ) -> Refined:
        plan = improve(
            self.model,
            latent[None],
            mean[:, None],
            std[:, None],
            noise[:, None],
            Proposals(proposals[:, None], proposal_values[None]),
            config=self.settings.planner,
            discount=self.settings.discount,
            min_std=self.settings.min_std,
            before=None if before is None else before[None],
        )
        return Refined(
            action=self._actuate(plan.mean[0, 0]),
            new_mean=plan.mean[:, 0],
            new_std=plan.std[:, 0],
            value=plan.value[0] * self.model.reward_scale,
        )


class PolicyGraph(BundleGraph):
    """``policy.onnx``: the policy prior alone."""

    names = ("action",)

    def forward(self, sensors: Sensors) -> Float[Tensor, "A"]:
        return self._actuate(self.model.pi(self._latent(sensors))[0])

"""The nouns that travel between the parts.

Axis legend, used in every signature of this project: ``B`` batch, ``T`` time, ``S`` states (``T + 1``), ``H`` horizon,
``N`` sampled plans, ``P`` policy plans, ``K`` elites, ``I`` planner iterations, ``Z`` latent,
``A`` action, ``O`` observation, ``E`` ensemble. The time axis comes first.
"""

from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class EnvOptions(TypedDict, total=False):
    """How an environment is made, beside its id; what is left out, or ``None``, is the environment's own."""

    action_repeat: int | None
    """Environment steps for each decision, at least 1."""
    max_episode_steps: int | None
    """Environment steps after which an episode is cut, at least 1."""


@dataclass(frozen=True)
class Channel:
    """One number that a sensor gives or an actuator takes."""

    name: str
    """Of a joint, sensor or actuator of the environment's model, or as the environment says; else its index."""
    unit: str | None
    """``rad``, ``m/s``, ...; ``None`` where nobody tells."""
    low: float | None
    """``None`` where there is no bound."""
    high: float | None


@dataclass(frozen=True)
class EnvSpec:
    """What an environment tells about itself; the agent is built from it, never from config."""

    id: str
    """Canonical Gymnasium id, for example ``dm_control/cartpole-swingup-v0``."""
    observation_dim: int
    """Length of the flattened observation."""
    action_dim: int
    action_low: tuple[float, ...]
    """What the actuator takes; the agent itself acts in [-1, 1]."""
    action_high: tuple[float, ...]
    action_repeat: int
    """Environment steps for each decision of the agent."""
    terminates: bool
    """Whether episodes can end other than by a time limit."""
    episode_steps: int | None
    """Decisions until the time limit; ``None`` only in runs of versions that did not ask for one."""
    control_period_ms: float | None
    """Time between two decisions, action repeat included; ``None`` where the environment does not tell."""
    observation_layout: tuple[tuple[str, tuple[int, ...]], ...]
    """Name and shape of each sensor, in the order in which they are flattened."""
    max_episode_steps: int | None = None
    """Time limit in environment steps, where it is not the environment's own."""
    readings: tuple[Channel, ...] = ()
    """Each number of the flattened observation; none in runs of versions that did not ask."""
    actuators: tuple[Channel, ...] = ()
    """Each number of an action; none in runs of versions that did not ask."""
    pose: tuple[tuple[str, float], ...] = ()
    """Joints with their default positions: the model's first keyframe, or its reference."""

    @property
    def options(self) -> EnvOptions:
        """With which the same environment is made again."""
        return {"action_repeat": self.action_repeat, "max_episode_steps": self.max_episode_steps}


class Batch(NamedTuple):
    """``B`` windows of ``T`` consecutive transitions drawn from the replay."""

    observations: Float[Tensor, "S B O"]
    actions: Float[Tensor, "T B A"]
    rewards: Float[Tensor, "T B"]
    terminated: Bool[Tensor, "T B"]
    """The transition ended the episode for good: nothing is worth anything after it."""
    mask: Float[Tensor, "T B"]
    """1 for real transitions, 0 after a termination inside the window."""
    weights: Float[Tensor, "B"]
    """Importance weights of prioritised sampling, the largest is 1."""
    indices: Int[np.ndarray, "B"]
    """Where the windows start, to hand priorities back."""

    @property
    def alive(self) -> Float[Tensor, "T B"]:
        """1 where the episode goes on after the transition."""
        return self.mask * (1 - self.terminated.float())

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the indices, by name."""
        return {name: value for name, value in self._asdict().items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device."""
        return self._replace(**{name: value.to(device) for name, value in self.tensors().items()})

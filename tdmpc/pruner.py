"""What a training loop tells a pruner; the one here does nothing, so that the loop never asks whether there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from tdmpc.agent import Agent
    from tdmpc.trainer import Trainer


class NullPruner:
    """A pruner overrides what it cares for."""

    def follow(self, agent: Agent) -> None:
        """Hear of the agent that learns from now on; its gradients can be watched by ``agent.watch``."""

    def between_updates(self, trainer: Trainer) -> None:
        """Do what is due between two updates; ``trainer.adopt`` takes a smaller agent."""

    def row(self) -> dict[str, float]:
        """What to tell in each row of metrics."""
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps of it: tensors, and what JSON holds."""
        return {}, {}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from a saved state; the agent that belongs to it is followed already."""

"""What a training loop tells a pruner; ``NoPruning`` does nothing, so that the loop never asks whether there is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from tdmpc.agent import Agent
    from tdmpc.trainer import Trainer


class Pruner(Protocol):
    """What makes an agent smaller while it trains."""

    def attach(self, agent: Agent) -> None:
        """Take the agent that learns from now on; ``agent.watch`` shows its gradients."""

    def between_updates(self, trainer: Trainer) -> None:
        """Do what is due between two updates; ``trainer.replace_agent`` takes a smaller agent."""

    def row(self) -> dict[str, float]:
        """What to tell in each row of metrics."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint keeps of it: tensors, and what JSON holds."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Go on from a saved state; the agent that belongs to it is attached already."""


class NoPruning:
    """The agent stays as it is."""

    def attach(self, agent: Agent) -> None: ...

    def between_updates(self, trainer: Trainer) -> None: ...

    def row(self) -> dict[str, float]:
        return {}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {}

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None: ...

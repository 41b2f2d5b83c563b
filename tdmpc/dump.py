"""What a training leaves where it must stop: everything that it holds, and what was not as it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from tdmpc import checkpoint
from tdmpc.agent import NonFiniteError
from tdmpc.env_faults import EnvironmentFault

if TYPE_CHECKING:
    from tdmpc.trainer import Trainer

Fault = TypeVar("Fault", NonFiniteError, EnvironmentFault)


def dumped(trainer: Trainer, error: Fault, evidence: Mapping[str, Tensor] | None = None) -> Fault:
    """Save everything beside the checkpoints; the error that tells where it is, or why it could not be saved."""
    folder = trainer.folder / f"fault-{trainer.agent_steps}"
    tensors, meta = trainer.state()
    try:
        folder.mkdir(exist_ok=True)
        checkpoint.save(folder, {**tensors, **(evidence or {})}, {**meta, "error": str(error)})
    except (OSError, checkpoint.CheckpointError) as unsaved:
        reason = unsaved.__cause__ or unsaved
        return type(error)(f"{error}. Nothing of it could be saved ({reason}); the last checkpoint is untouched")
    return type(error)(f"{error}. Everything is in {folder}; the last checkpoint is untouched")

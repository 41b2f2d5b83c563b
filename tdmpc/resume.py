"""Everything that a run's future depends on, and going on from it exactly."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tdmpc.agent import Agent
from tdmpc.checkpoint import Checkpoint, below, prefixed
from tdmpc.config import ModelConfig, from_json, to_json
from tdmpc.progress import Tally

if TYPE_CHECKING:
    from tdmpc.trainer import Trainer


def state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything the run's future depends on: tensors, and what JSON holds."""
    pruner, pruner_meta = trainer.pruner.state()
    episodes, episodes_meta = trainer.episodes.state()
    tensors = {
        **prefixed("agent", trainer.agent.state()),
        **prefixed("pruner", pruner),
        **prefixed("actor", trainer.actor.state()),
        **prefixed("window", trainer.tally.sums),
        **prefixed("replay", {name: torch.from_numpy(array) for name, array in trainer.replay.state().items()}),
        "trainer/observations": torch.from_numpy(trainer.observations),
        **prefixed("trainer", episodes),
        "trainer/episodes": torch.from_numpy(trainer.envs.episodes),
        "trainer/torch_rng": torch.get_rng_state(),
    }
    meta = {
        "config": to_json(trainer.agent.config),
        "pruner": pruner_meta,
        "spec": to_json(trainer.spec),
        "agent_steps": trainer.agent_steps,
        "env_steps": trainer.env_steps,
        "evaluated_at": trainer.evaluated_at,
        **episodes_meta,
        "wall_s": trainer.wall_s,
        "cpu_s": trainer.cpu_s,
        "window_updates": trainer.tally.updates,
        "window_decisions": trainer.tally.decisions,
        "exploration": trainer.exploration.bit_generator.state,
        "python_rng": random.getstate(),
        "numpy_rng": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    }
    return tensors, meta


def restore(trainer: Trainer, saved: Checkpoint) -> str:
    """Go on from a checkpoint of a run with the same config, whatever its widths; tells what was restored."""
    tensors, meta = saved.tensors, saved.meta
    widths = from_json(ModelConfig, meta["config"]["model"])
    if widths != trainer.config.model:
        trainer.replace_agent(Agent(dataclasses.replace(trainer.config, model=widths), trainer.spec))
    trainer.agent.load_state(below("agent", tensors))
    trainer.actor.load_state(below("actor", tensors))
    trainer.replay.load_state({name: value.numpy() for name, value in below("replay", tensors).items()})
    trainer.is_saved_in(saved.pages)
    trainer.episodes.load_state(below("trainer", tensors), meta)
    trainer.agent_steps, trainer.evaluated_at = meta["agent_steps"], meta["evaluated_at"]
    trainer.wall_s = meta["wall_s"]
    trainer.cpu_offset += meta.get("cpu_s", 0.0)
    trainer.tally = Tally(below("window", tensors), meta["window_updates"], meta["window_decisions"])
    environment = _restore_environments(trainer, tensors)
    trainer.exploration.bit_generator.state = meta["exploration"]
    kind, numbers, gauss = meta["python_rng"]
    random.setstate((kind, tuple(numbers), gauss))
    np.random.set_state(tuple(meta["numpy_rng"]))
    torch.set_rng_state(tensors["trainer/torch_rng"])
    if meta.get("pruner"):  # last, for it drops the records that came after the checkpoint
        trainer.pruner.load_state(below("pruner", tensors), meta["pruner"])
    return (
        f"restored {saved.path.name}: step {trainer.env_steps:,} of {trainer.config.env_steps:,}, "
        f"{trainer.agent.updates:,} updates, {len(trainer.replay):,} transitions, both optimisers, "
        f"random streams; {environment}"
    )


def _restore_environments(trainer: Trainer, tensors: dict[str, Tensor]) -> str:
    """Play the running episodes again; where that leads elsewhere, start new ones."""
    trainer.envs.episodes = tensors["trainer/episodes"].numpy()
    try:
        actions = [trainer.replay.episode_actions(lane) for lane in range(trainer.config.num_envs)]
        trainer.observations = trainer.envs.restore(trainer.envs.episodes, actions)
        astray = (trainer.observations != tensors["trainer/observations"].numpy()).any(1)
    except ValueError:  # one ended on the way, or is longer than the replay
        astray = np.ones(trainer.config.num_envs, dtype=bool)
    if not astray.any():
        return "the running episodes were played again and agree"
    trainer.episodes.start(astray)
    trainer.replay.cut(astray)
    trainer.observations = trainer.envs.start(astray)
    trainer.reset_actor(astray)
    return f"{astray.sum()} running episode(s) could not be played again exactly and start anew"

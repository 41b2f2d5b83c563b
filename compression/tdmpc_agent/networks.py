"""The networks of an agent, around the tensors that a checkpoint holds of it."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc.checkpoint import below
from tdmpc.config import ModelConfig, TrainConfig
from tdmpc.spec import EnvSpec
from tdmpc.world_model import WorldModel


class Networks:
    """An agent's world model and target network in single precision, without optimisers or planner."""

    def __init__(self, config: TrainConfig, spec: EnvSpec, state: Mapping[str, Tensor], *, step: int) -> None:
        """Copy nothing.

        Args:
            config: settings that the state belongs to.
            spec: the environment.
            state: of ``Agent.state``.
            step: agent step, for the planner's schedules.
        """
        self.config, self.spec, self.step = config, spec, step
        self.model, self.target = (_network(config.model, spec, below(part, state)) for part in ("model", "target"))


def _network(config: ModelConfig, spec: EnvSpec, state: Mapping[str, Tensor]) -> WorldModel:
    """A world model around tensors that are there already."""
    with torch.device("meta"):
        model = WorldModel(config, spec)
    model.load_state_dict(dict(state), assign=True)
    return model


def run_all(model: WorldModel, observations: Float[Tensor, "B O"], actions: Float[Tensor, "T B A"]) -> None:
    """Imagine actions and put every component to work on the way, for who wants to watch them."""
    latents = [model.encode(observations)]
    for action in actions:
        latents.append(model.next(latents[-1], action))
    reached = torch.stack(latents)
    model.reward(reached[:-1], actions)
    model.q(reached[:-1], actions)
    model.q(reached, model.pi(reached))
    if model.can_terminate:
        model.terminates(reached)

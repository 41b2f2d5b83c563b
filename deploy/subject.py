"""What is exported: an agent, the planner's settings in force, and observations that it has met."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from deploy.bundle import Arrays, BundleError
from deploy.cases import Original
from deploy.graphs import Settings
from tdmpc import checkpoint
from tdmpc.agent import Agent
from tdmpc.checkpoint import below
from tdmpc.config import ConfigError, Linear, TrainConfig, check
from tdmpc.planner import PlanNoise
from tdmpc.replay import Replay
from tdmpc.spec import EnvSpec
from tdmpc.trainer import load_agent

COMPARED = 100
"""Replayed observations, at least, on which a bundle is compared with its agent."""


@dataclass(frozen=True)
class ExportConfig:
    """What a bundle is made of; where nothing is given, it is as in the run's last checkpoint."""

    horizon: int | None = None
    """Decisions planned ahead."""
    samples: int | None = None
    iterations: int | None = None
    elites: int | None = None
    policy_trajectories: int | None = None
    noise: Literal["input", "baked"] = "input"
    """``baked``: every plan uses the same draws, and the controller draws nothing; it cannot plan within deadlines."""
    precision: Literal["fp32", "int8"] = "fp32"
    """``int8``: products in eight bits, calibrated on replayed observations. Not faster everywhere: measure it."""
    opset: int = 18
    """Version of ONNX's operators."""
    seed: int = 0
    """Of the noise that is baked in, and of all comparisons."""


class Subject(NamedTuple):
    """What is exported."""

    agent: Agent
    meta: Mapping[str, Any]
    """What the checkpoint says of itself."""
    settings: Settings
    observations: Float[Tensor, "S B O"]
    """Windows of the replay."""

    @property
    def spec(self) -> EnvSpec:
        """The environment."""
        return self.agent.spec

    @property
    def original(self) -> Original:
        """The agent as the bundle has it."""
        return Original(self.agent.model, self.settings, self.spec)

    @property
    def sensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the sensors, by graph input."""
        return {sensor_input(name): shape for name, shape in self.spec.observation_layout}

    def split(self, observation: Float[Tensor, "O"]) -> tuple[Tensor, ...]:
        """A flat observation as its sensors gave it."""
        sizes = [math.prod(shape) for shape in self.sensors.values()]
        parts = observation.split(sizes)
        return tuple(part.reshape(shape) for part, shape in zip(parts, self.sensors.values(), strict=True))

    def sense(self, observation: Float[Tensor, "O"]) -> Arrays:
        """A flat observation as the graphs take it."""
        return {name: part.numpy() for name, part in zip(self.sensors, self.split(observation), strict=True)}

    def feed(self, observation: Float[Tensor, "O"], previous: Float[Tensor, "H A"], noise: PlanNoise) -> Arrays:
        """What a planner's graph is given, in the order in which the golden file has it."""
        inputs = {"previous_mean": previous, "noise_policy": noise.policy, "noise_samples": noise.samples}
        return self.sense(observation) | {name: value.contiguous().numpy() for name, value in inputs.items()}


def sensor_input(name: str) -> str:
    """The graph input of a sensor; the only one of an environment is called ``observation`` already."""
    return name if name == "observation" else f"observation/{name}"


def load_subject(run: Path, config: ExportConfig) -> Subject:
    """Read a run's last checkpoint; whatever it was trained in, it is exported in single precision.

    Raises:
        BundleError: the run has not stored enough to compare on, or was trained with a delay.
        CheckpointError: there is no checkpoint that can be read.
        ConfigError: the planner cannot be set so.
    """
    agent, meta = load_agent(run, device="cpu", precision="float32", compile=False)
    if max(agent.config.delay):
        raise BundleError(
            f"{run} was trained with a delay of {agent.config.delay}: a bundle knows no actions on their way yet, and "
            "would plan from the wrong moment. Export a run without --delay"
        )
    settings = _settings(agent.config, meta["agent_steps"], config)
    windows = math.ceil(COMPARED / (agent.config.loss.horizon + 1))
    return Subject(agent, {**meta, "run": str(run.resolve())}, settings, _replayed(run, agent, windows))


def _settings(trained: TrainConfig, step: int, config: ExportConfig) -> Settings:
    """Schedules at the checkpoint's step, and what the user asked for instead."""
    names = ("horizon", "samples", "iterations", "elites", "policy_trajectories")
    asked = {name: value for name in names if (value := getattr(config, name)) is not None}
    planner, std = trained.planner, trained.planner.std(step)
    asked.setdefault("horizon", planner.horizon_at(step))
    fixed = {"horizon_schedule": Linear(asked["horizon"], asked["horizon"], 0), "std": Linear(std, std, 0)}
    planner = dataclasses.replace(planner, **asked, **fixed)
    try:
        check(dataclasses.replace(trained, planner=planner))
    except ConfigError as error:
        raise ConfigError(str(error).replace("--planner.", "--")) from error
    return Settings(planner, std, trained.loss.discount)


def _replayed(run: Path, agent: Agent, windows: int) -> Float[Tensor, "S B O"]:
    saved = checkpoint.load(run, prefixes=("replay/",))
    config = agent.config
    replay = Replay(
        config.replay,
        observation_dim=agent.spec.observation_dim,
        action_dim=agent.spec.action_dim,
        horizon=config.loss.horizon,
        lanes=config.num_envs,
    )
    replay.load_state({name: value.numpy() for name, value in below("replay", saved.tensors).items()})
    if not replay.windows:
        raise BundleError(f"{run} has stored no {config.loss.horizon} consecutive decisions yet: train it longer")
    return replay.sample(windows).observations

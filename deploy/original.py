"""What is exported: an agent with its planner's settings in force, and observations that it has met."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tdmpc import planner
from tdmpc.config import ConfigError, Linear, PlannerConfig, TrainConfig
from tdmpc.config_checks import check, check_delay
from tdmpc.deploy.bundle import COMMITTED, Arrays, Shapes
from tdmpc.planner import Plan, PlanNoise, Proposals, mppi, shift
from tdmpc.runs import load_agent, load_replay
from tdmpc.spec import EnvSpec
from tdmpc.world_model import WorldModel

COMPARED = 100
"""Replayed observations, at least, on which a bundle is compared with its agent."""
MET = 10_000
"""Transitions, at most, from which a bundle knows what readings were like in training."""


Transitions = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Observations ``Float32[N O]``, actions ``Float32[N A]`` in [-1, 1], and observations one decision later."""


class Inputs(NamedTuple):
    """What one plan is made of."""

    observation: Float[Tensor, "O"]
    previous: Float[Tensor, "H A"]
    """The plan of the decision before."""
    noise: PlanNoise
    committed: Float[Tensor, "C A"]
    """The action before the observation, and those that are applied until the plan begins, one more than the delay."""


@dataclass(frozen=True)
class ExportConfig:
    """What a bundle is made of; where nothing is given, it is as in the run's last checkpoint."""

    horizon: int | None = None
    """Decisions planned ahead."""
    samples: int | None = None
    """Plans sampled in an iteration; the run's own when not given, as are the next three."""
    iterations: int | None = None
    """Rounds of sampling and choosing."""
    elites: int | None = None
    """Best plans of an iteration."""
    policy_trajectories: int | None = None
    """Plans that the policy proposes."""
    delay: int | None = None
    """Decisions between an observation and the action that is planned from it; where the run was trained with several,
    the most of them when not given. Any agent can plan ahead; one that was trained for it does so better."""
    noise: Literal["input", "baked"] = "input"
    """``baked``: every plan uses the same draws, and the controller draws nothing; it cannot plan within deadlines."""
    precision: Literal["float32", "int8"] = "float32"
    """``int8``: products in eight bits, calibrated on replayed observations. Not faster everywhere: measure it."""
    opset: int = 18
    """Version of ONNX's operators."""
    seed: int = 0
    """Of the noise that is baked in, and of all comparisons."""


@dataclass(frozen=True)
class Settings:
    """A planner with everything that a schedule or a flag decided: constants of the graphs."""

    planner: PlannerConfig
    """Its ``horizon`` is the one in force."""
    min_std: float
    discount: float
    delay: int = 0
    """Decisions between an observation and the action that is planned from it."""

    @property
    def takes_committed(self) -> bool:
        """Whether a plan depends on actions that were decided before."""
        return self.delay > 0 or self.planner.max_change is not None


class Original(NamedTuple):
    """An agent as its bundle has it: what graphs are exported from and compared with."""

    model: WorldModel
    settings: Settings
    spec: EnvSpec

    def plan(
        self,
        observation: Float[Tensor, "B O"],
        previous: Float[Tensor, "H B A"],
        noise: PlanNoise,
        committed: Float[Tensor, "C B A"],
        **hooks: Any,
    ) -> Plan:
        """The agent's plans; ``hooks`` as ``mppi`` has them."""
        config, discount, min_std = self.settings.planner, self.settings.discount, self.settings.min_std
        start = (self.start(observation, committed), shift(previous), noise)
        return mppi(
            *(self.model, *start),
            config=config,
            discount=discount,
            min_std=min_std,
            before=committed[-1],
            **hooks,
        )

    def start(self, observation: Float[Tensor, "B O"], committed: Float[Tensor, "C B A"]) -> Float[Tensor, "B Z"]:
        """The latents at which plans begin."""
        return planner.ahead(self.model, self.model.encode(observation), committed[1:])

    def propose(
        self, z: Float[Tensor, "B Z"], noise: Float[Tensor, "H B P A"], before: Float[Tensor, "B A"]
    ) -> Proposals:
        """The policy's plans."""
        config, discount = self.settings.planner, self.settings.discount
        return planner.propose(self.model, z, noise, config=config, discount=discount, before=before)

    def imagine(self, z: Float[Tensor, "B Z"], actions: Float[Tensor, "H B N A"]) -> Float[Tensor, "B N"]:
        """What plans are worth, in model units."""
        return planner.imagine(self.model, z, actions, discount=self.settings.discount)

    @property
    def sensors(self) -> Shapes:
        """Shapes of the sensors, by graph input."""
        return {sensor_input(name): shape for name, shape in self.spec.observation_layout}

    def readings(self, observation: Float[Tensor, "O"]) -> Arrays:
        """A flat observation as its sensors gave it, by graph input."""
        parts = observation.split([math.prod(shape) for shape in self.sensors.values()])
        shaped = zip(self.sensors.items(), parts, strict=True)
        return {name: part.reshape(shape).numpy() for (name, shape), part in shaped}

    def feed(self, given: Inputs) -> Arrays:
        """What a planner's graph is given, in the order in which the golden file has it."""
        noise = {"noise_policy": given.noise.policy, "noise_samples": given.noise.samples}
        committed = {COMMITTED: given.committed} if self.settings.takes_committed else {}
        inputs = {"previous_mean": given.previous, **noise, **committed}
        return self.readings(given.observation) | {name: each.contiguous().numpy() for name, each in inputs.items()}


class Source(NamedTuple):
    """What a bundle is made from."""

    original: Original
    training: Mapping[str, Any]
    """Run, seed and steps, as the manifest has them."""
    observations: Float[Tensor, "S B O"]
    """Windows of the replay."""
    transitions: Transitions


def sensor_input(name: str) -> str:
    """The graph input of a sensor; the only one of an environment is called ``observation`` already."""
    return name if name == "observation" else f"observation/{name}"


def load(run: Path, config: ExportConfig) -> Source:
    """Read a run's last checkpoint; whatever it was trained in, it is exported in single precision.

    Raises:
        CheckpointError: there is no checkpoint that can be read.
        ConfigError: the planner cannot be set so.
        RunError: the run has not yet stored a window to compare on.
    """
    agent, meta = load_agent(run, device="cpu", precision="float32", compile=False)
    original = Original(agent.model, _settings(agent.config, agent.spec, meta["agent_steps"], config), agent.spec)
    steps = {name: meta[name] for name in ("env_steps", "agent_steps")}
    windows = math.ceil(COMPARED / (agent.config.loss.horizon + 1))
    training = {"run": str(run.resolve()), "seed": agent.config.seed, **steps}
    replay = load_replay(run, agent)
    return Source(original, training, replay.sample(windows).observations, replay.transitions(MET))


def _settings(trained: TrainConfig, spec: EnvSpec, step: int, config: ExportConfig) -> Settings:
    """Schedules at the checkpoint's step, and what the user asked for instead."""
    names = ("horizon", "samples", "iterations", "elites", "policy_trajectories")
    asked = {name: value for name in names if (value := getattr(config, name)) is not None}
    planner, std = trained.planner, trained.planner.std(step)
    asked.setdefault("horizon", planner.horizon_at(step))
    fixed = {"horizon_schedule": Linear(asked["horizon"], asked["horizon"], 0), "std": Linear(std, std, 0)}
    planner = dataclasses.replace(planner, **asked, **fixed)
    delay = max(trained.delay) if config.delay is None else config.delay
    try:
        checked = dataclasses.replace(trained, planner=planner, delay=(delay, delay))
        check(checked)
        check_delay(checked, spec)
    except ConfigError as error:
        raise ConfigError(str(error).replace("--planner.", "--")) from error
    return Settings(planner, std, trained.loss.discount, delay)

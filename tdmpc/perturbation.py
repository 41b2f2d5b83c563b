"""Domain randomisation and imperfect sensors and actuators, after the real-world RL challenges (arXiv 2003.11881).

The delay of actions is the actor's, not here: see ``tdmpc.actor``.

An episode's perturbations are drawn from its seed alone, as many numbers for every strength and whatever the agent
does: played again, it is the same one, and two agents or two strengths meet the same draws.
"""

from collections import deque
from importlib import import_module
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from jaxtyping import Float32

from tdmpc.config import PerturbConfig
from tdmpc.env_names import UnsupportedEnvironment

SENSING, ACTING, DYNAMICS = range(3)
"""Streams of an episode, beside the environment's own."""


def perturbed_signals(env: gym.Env, config: PerturbConfig) -> gym.Env:
    """An environment whose observations or actions are perturbed, or the environment itself where none is."""
    parts = (config.observation_delay, config.observation_noise, config.dropped_sensors, config.stuck_sensors)
    return PerturbedSignals(env, config) if any((*parts, config.action_noise)) else env


def perturbed_dynamics(env: gym.Env, env_id: str, config: PerturbConfig) -> gym.Env:
    """An environment whose MuJoCo model is another in each episode, or the environment itself where it is not.

    Raises:
        UnsupportedEnvironment: it has no MuJoCo model.
    """
    asked = [name for name in ("masses", "friction", "damping", "gains") if getattr(config, name)]
    if asked and physics(env)[0] is None:
        flags = ", ".join(f"--perturb.{name}" for name in asked)
        raise UnsupportedEnvironment(f"{env_id} has no MuJoCo model, which {flags} would change: leave that out")
    return PerturbedDynamics(env, config) if asked else env


class PerturbedSignals(gym.Wrapper):
    """Flat observations with noise, faults and a delay, in this order; actions in [-1, 1] with noise."""

    def __init__(self, env: gym.Env, config: PerturbConfig) -> None:
        super().__init__(env)
        self._config = config
        self._on_their_way: deque[np.ndarray] = deque(maxlen=config.observation_delay + 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; until the first observation of an episode would come, it is there already."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._sensing, self._acting = _stream(seed, SENSING), _stream(seed, ACTING)
        self._faulty = np.zeros((2, *observation.shape), np.int64)  # for so many decisions dropped, stuck
        self._read = observation
        reading = self._reading(observation)
        self._on_their_way.extend([reading] * (self._config.observation_delay + 1))
        return reading, info

    def step(self, action: np.ndarray) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Make a step with a noisy action; the actuators' bounds hold for it too."""
        noise = self._config.action_noise * self._acting.standard_normal(action.shape)
        observation, reward, terminated, truncated, info = self.env.step((action + noise).astype(np.float32))
        self._on_their_way.append(self._reading(observation))
        return self._on_their_way[0], reward, terminated, truncated, info

    def _reading(self, observation: Float32[np.ndarray, "O"]) -> Float32[np.ndarray, "O"]:
        noise = self._config.observation_noise * self._sensing.standard_normal(observation.shape)
        begun = self._sensing.random(self._faulty.shape) < [
            [self._config.dropped_sensors],
            [self._config.stuck_sensors],
        ]
        self._faulty = np.where(begun, self._config.fault_decisions, np.maximum(self._faulty - 1, 0))
        dropped, stuck = self._faulty > 0
        self._read = np.where(stuck, self._read, (observation + noise).astype(np.float32))
        return np.where(dropped, np.float32(0), self._read)


class PerturbedDynamics(gym.Wrapper):
    """A MuJoCo environment with another model in each episode.

    A reset finds the nominal model, whatever the episode before had: where an episode starts does not depend on it.
    The draw follows the reset, because some tasks build or change their model there.
    """

    def __init__(self, env: gym.Env, config: PerturbConfig) -> None:
        super().__init__(env)
        self._config = config
        self._nominal: dict[str, np.ndarray] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with the nominal model, then draw its own."""
        model, _ = physics(self.env)
        _write(model, self._nominal)
        observation, info = self.env.reset(seed=seed, options=options)
        model, data = physics(self.env)
        factors = _factors(model, _stream(seed, DYNAMICS), self._config)
        self._nominal = {name: getattr(model, name).copy() for name in factors}
        _write(model, {name: self._nominal[name] * factor for name, factor in factors.items()})
        _mujoco().mj_forward(model, data)  # a step of dm_control begins with what was computed before it
        return observation, info


def _write(model: Any, values: dict[str, np.ndarray]) -> None:
    """Change a model, and then what is derived from it; the running state stays, for this one has its own."""
    for name, value in values.items():
        getattr(model, name)[:] = value
    _mujoco().mj_setConst(model, _mujoco().MjData(model))


def _factors(model: Any, random: np.random.Generator, config: PerturbConfig) -> dict[str, np.ndarray]:
    """What each field of a model is multiplied by."""

    def draw(spread: float, count: int) -> np.ndarray:
        return 1 + spread * random.uniform(-1, 1, count)

    masses, (friction,) = draw(config.masses, model.nbody), draw(config.friction, 1)
    damping, gains = draw(config.damping, model.njnt), draw(config.gains, model.nu)[:, None]
    kind, column = model.actuator_gaintype[:, None], np.arange(model.actuator_gainprm.shape[1])
    gain = _mujoco().mjtGain
    # The force of a motor or servo is linear in its first three parameters, that of a muscle in the third or fourth.
    linear = np.isin(kind, (int(gain.mjGAIN_FIXED), int(gain.mjGAIN_AFFINE))) & (column < 3)
    muscle = (kind == int(gain.mjGAIN_MUSCLE)) & np.isin(column, (2, 3))
    forces = np.where(linear | muscle, gains, 1.0)
    return {
        "body_mass": masses,
        "body_inertia": masses[:, None],
        "geom_friction": friction,
        "pair_friction": friction,
        "dof_frictionloss": friction,
        "dof_damping": damping[model.dof_jntid],
        "actuator_gainprm": forces,
        "actuator_biasprm": forces,
    }


def _mujoco() -> Any:
    """MuJoCo, which tells no types; loaded where it is needed, for that takes time and readies its renderer."""
    return import_module("mujoco")


def physics(env: gym.Env) -> tuple[Any, Any]:
    """MuJoCo's model and data, of Gymnasium's environments and of dm_control's; ``None`` twice where there are none."""
    holder = getattr(env.unwrapped, "physics", env.unwrapped)  # dm_control's, whose wrappers hold MuJoCo's own
    model, data = (getattr(holder, name, None) for name in ("model", "data"))
    model, data = getattr(model, "ptr", model), getattr(data, "ptr", data)
    known = isinstance(model, _mujoco().MjModel) and isinstance(data, _mujoco().MjData)
    return (model, data) if known else (None, None)


def _stream(seed: int | None, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))

"""One environment: any Gymnasium id with sensor vectors and continuous actions.

What comes out of here is uniform: observations are flat float32 vectors, actions live in
[-1, 1], an action is repeated as the domain asks. Legend: ``O`` observation, ``A`` action.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec as RegisteredSpec
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Dict, Space, Tuple
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.wrappers import RepeatAction, TransformAction, TransformObservation

from tdmpc.env_names import DM_CONTROL, UnsupportedEnvironment, resolve
from tdmpc.rendering import prepare_rendering
from tdmpc.spec import EnvSpec

DOMAIN_REPEATS = {"cartpole": 8, "finger": 2, "walker": 2, "humanoid": 2, "humanoid_CMU": 2, "dog": 2}
"""Action repeat of the published results; the other dm_control domains have 4."""


def make_env(env_id: str, *, action_repeat: int | None = None, render: bool = False) -> gym.Env:
    """Make an environment with observations ``Float32[O]`` and actions ``Float32[A]`` in [-1, 1].

    Actions are scaled to the actuators, clipped and repeated; rewards are summed over the
    repeat, which stops early where the episode ends. Nothing else is changed: non-finite
    observations and rewards come through.

    Args:
        env_id: any name that ``resolve`` takes.
        action_repeat: environment steps for each action, at least 1; ``None`` for ``default_action_repeat``.
        render: make ``env.render()`` return ``UInt8[height width 3]``. On Linux without a display
            MuJoCo renders through EGL, unless ``MUJOCO_GL`` says otherwise.

    Raises:
        UnsupportedEnvironment: unknown, not installed, or spaces that the agent cannot handle.
    """
    env_id = resolve(env_id)
    return _adapt(_construct(env_id, render), env_id, action_repeat)


def make_bare_env(env_id: str, *, action_repeat: int | None = None) -> gym.Env:
    """The environment with its own sensors and actuators, decision by decision: what a controller in use meets.

    Raises:
        UnsupportedEnvironment: as ``make_env``.
    """
    env_id = resolve(env_id)
    return _repeated(_construct(env_id), env_id, action_repeat)


def default_action_repeat(env_id: str) -> int:
    """Environment steps for each decision: as published for dm_control's domains, 1 for everything else."""
    if not env_id.startswith(DM_CONTROL):
        return 1
    domain = env_id.removeprefix(DM_CONTROL).partition("-")[0]
    return DOMAIN_REPEATS.get(domain, 4)


def _construct(env_id: str, render: bool = False) -> gym.Env:
    """The bare environment behind a canonical id."""
    options: dict[str, Any] = {}
    if re.fullmatch(r"dm_control/\w+-\w+-v\d+", env_id):
        options["task_kwargs"] = {"random": 0}  # lqr draws its springs when it is built, before any reset
    try:
        return _construct_rendering(env_id, options) if render else gym.make(env_id, **options)
    except (gym.error.Error, ImportError, AssertionError) as error:  # Gymnasium's checker of spaces asserts
        raise UnsupportedEnvironment(f"{env_id} cannot be made: {error}") from error


def _construct_rendering(env_id: str, options: dict[str, Any]) -> gym.Env:
    if not _has_pictures(env_id):
        raise UnsupportedEnvironment(f"{env_id} has no render mode 'rgb_array': go without pictures of it")
    prepare_rendering()
    env = gym.make(env_id, render_mode="rgb_array", **options)
    uses_mujoco = env_id.startswith(DM_CONTROL) or hasattr(env.unwrapped, "mujoco_renderer")
    if uses_mujoco and os.environ.get("MUJOCO_GL") == "off":
        raise UnsupportedEnvironment(
            f"{env_id} cannot be rendered: no display and no EGL. Install EGL (apt-get install libegl1 "
            f"libgl1-mesa-dri), set MUJOCO_GL to a renderer that works here, or go without pictures of it"
        )
    return env


def _has_pictures(env_id: str) -> bool:
    """What the class says of itself; a function that makes the environment says nothing, and is believed."""
    maker = _registration(env_id).entry_point
    metadata = getattr(load_env_creator(maker) if isinstance(maker, str) else maker, "metadata", None)
    return metadata is None or "rgb_array" in metadata.get("render_modes", ())


def _registration(env_id: str) -> RegisteredSpec:
    """Gymnasium's entry for a canonical id."""
    return gym.registry[env_id.rpartition(":")[2]]


def _adapt(env: gym.Env, env_id: str, action_repeat: int | None) -> gym.Env:
    """Repeat, scale, clip and flatten; the repeat is innermost, so that the rest is done once a decision."""
    actuators, sensors = _actuators(env_id, env.action_space), env.observation_space
    observations = Box(-np.inf, np.inf, (_observation_dim(env_id, sensors),), np.float32)
    actions = Box(-1.0, 1.0, (flatdim(actuators),), np.float32)
    env = TransformAction(_repeated(env, env_id, action_repeat), lambda action: _drive(actuators, action), actions)
    return TransformObservation(env, lambda sensed: np.asarray(flatten(sensors, sensed), np.float32), observations)


def _repeated(env: gym.Env, env_id: str, action_repeat: int | None) -> RepeatAction:
    repeat = default_action_repeat(env_id) if action_repeat is None else action_repeat
    if repeat < 1:
        raise UnsupportedEnvironment(f"{env_id}: action_repeat must be at least 1, got {repeat}")
    return RepeatAction(env, repeat)


def _drive(actuators: Box, action: np.ndarray) -> np.ndarray:
    """What the actuators take for an action in [-1, 1].

    Gymnasium's RescaleAction computes in the precision of the space and may leave its bounds by a
    rounding error: of [-1, 5] in float32 it makes -1.0000001 to 5.
    """
    low, high = actuators.low.astype(np.float64), actuators.high.astype(np.float64)
    share = action.reshape(actuators.shape).astype(np.float64)
    scaled = (high + low) / 2 + (high - low) / 2 * share
    return np.clip(scaled, low, high).astype(actuators.dtype)


def _actuators(env_id: str, space: Space) -> Box:
    """The action space, if the agent can act in it."""
    expected = "a Box of real numbers with finite bounds, low < high"
    if not isinstance(space, Box) or not np.issubdtype(space.dtype, np.floating) or flatdim(space) == 0:
        remedy = "Choose an environment with continuous actions: `tdmpc envs` lists them"
        raise _refusal(env_id, "actions", expected, space, remedy)
    if not np.all(np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)):
        raise _refusal(env_id, "actions", expected, space, "State the actuators' limits in its action_space")
    return space


def _observation_dim(env_id: str, space: Space) -> int:
    """Length of the flattened observation, if all of it are sensor readings."""
    expected = "a Box of sensor readings, or a Dict or Tuple of such"
    for name, sensor in _sensors(space):
        if not isinstance(sensor, Box):
            remedy = "Make numbers of it where you register it: gymnasium.wrappers.FlattenObservation does, for example"
            raise _refusal(env_id, "observations", expected, f"{sensor} in {name!r}", remedy)
        if sensor.dtype == np.uint8 and len(sensor.shape) >= 2:
            remedy = "Images are not supported: encode them, or leave them out (gymnasium.wrappers.FilterObservation)"
            raise _refusal(env_id, "observations", expected, f"{sensor} in {name!r}", remedy)
    if flatdim(space) == 0:
        raise _refusal(env_id, "observations", expected, f"nothing in {space}", "Give it at least one sensor")
    return flatdim(space)


def _refusal(env_id: str, part: str, expected: str, came: object, remedy: str) -> UnsupportedEnvironment:
    return UnsupportedEnvironment(f"{env_id}: the {part} must be {expected}; got {came}. {remedy}")


def _sensors(space: Space, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Space]]:
    """Each leaf of a nested space, named ``outer/inner``, in the order in which Gymnasium flattens them."""
    if isinstance(space, Dict | Tuple):
        for key, part in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
            yield from _sensors(part, (*path, str(key)))
    else:
        yield "/".join(path) or "observation", space


# What an environment tells


def describe(
    env_id: str, *, action_repeat: int | None = None, terminates: bool | None = None, probe_steps: int = 1000
) -> EnvSpec:
    """What the agent is built from.

    ``terminates=None`` finds out by playing ``probe_steps`` decisions of seeded random actions; an
    environment that ends only where random play never comes should be given ``True``.

    Raises:
        UnsupportedEnvironment: as ``make_env``.
    """
    env_id = resolve(env_id)
    bare = _construct(env_id)
    with closing(_adapt(bare, env_id, action_repeat)) as env:
        actuators = _actuators(env_id, bare.action_space)
        repeat = env.get_wrapper_attr("num_repeats")
        return EnvSpec(
            id=env_id,
            observation_dim=flatdim(env.observation_space),
            action_dim=flatdim(env.action_space),
            action_low=tuple(actuators.low.ravel().tolist()),
            action_high=tuple(actuators.high.ravel().tolist()),
            action_repeat=repeat,
            terminates=_probe(env, probe_steps) if terminates is None else terminates,
            episode_steps=_episode_steps(env_id, env, repeat),
            control_period_ms=_control_period_ms(env, repeat),
            observation_layout=tuple((name, sensor.shape or ()) for name, sensor in _sensors(bare.observation_space)),
        )


def _probe(env: gym.Env, steps: int, seed: int = 0) -> bool:
    """Whether any episode terminates within ``steps`` decisions of random play.

    Extreme actions, each held for 1 to 32 decisions, because independent draws average out: a
    car that must swing up a hill never leaves the valley.
    """
    random = np.random.default_rng(seed)
    action, hold, ended = np.zeros(0), 0, True
    for _ in range(steps):
        if ended:
            env.reset(seed=int(random.integers(2**31)))
        if hold == 0:
            hold = 2 ** int(random.integers(6))
            action = random.choice(np.array([-1, 1], np.float32), size=env.action_space.shape)
        hold -= 1
        _, _, terminated, ended, _ = env.step(action)
        if terminated:
            return True
    return False


def _episode_steps(env_id: str, env: gym.Env, repeat: int) -> int | None:
    """Decisions until the time limit: that of the registration, or that of dm_control's environment."""
    limit = _registration(env_id).max_episode_steps
    if limit is None and env_id.startswith(DM_CONTROL):
        limit = _dm_control_steps(env.unwrapped)
    return None if limit is None or limit == math.inf else math.ceil(limit / repeat)


def _dm_control_steps(env: Any) -> float:
    """Environment steps of a dm_control episode: suite tasks count them, the others watch the clock."""
    if hasattr(env, "_step_limit"):
        return env._step_limit
    return round(env._time_limit / env.control_timestep(), 6)


def _control_period_ms(env: gym.Env, repeat: int) -> float | None:
    """MuJoCo environments, dm_control's and Pendulum tell their step as ``dt``, in seconds."""
    step = getattr(env.unwrapped, "dt", None)
    return round(1000 * float(step) * repeat, 6) if isinstance(step, int | float) else None

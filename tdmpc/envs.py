"""One environment: any Gymnasium id with sensor vectors and continuous actions.

What comes out of here is uniform: observations are flat float32 vectors, actions live in
[-1, 1], an action is repeated as the domain asks. Legend: ``O`` observation, ``A`` action.
"""

import logging
import math
import os
import re
from contextlib import closing
from typing import Any, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Space
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.wrappers import RepeatAction, TimeLimit, TransformAction, TransformObservation, TransformReward

from tdmpc import robot
from tdmpc.config import PerturbConfig
from tdmpc.env_faults import FAULTS, CheckedEnv, number, sensors, told
from tdmpc.env_names import DM_CONTROL, UnsupportedEnvironment, resolve
from tdmpc.perturbation import perturbed_dynamics, perturbed_signals
from tdmpc.random_play import Seen, never_terminates, probe, usual_limit
from tdmpc.rendering import prepare_rendering
from tdmpc.spec import EnvOptions, EnvSpec

log = logging.getLogger(__name__)

DOMAIN_REPEATS = {"cartpole": 8, "finger": 2, "walker": 2, "humanoid": 2, "humanoid_CMU": 2, "dog": 2}
"""Action repeat of the published results; the other dm_control domains have 4."""


PICTURE = {"width": 640, "height": 480}
"""Pixels of a film."""
GYMNASIUM_MUJOCO = "gymnasium.envs.mujoco"

NOMINAL = PerturbConfig()


def make_env(
    env_id: str, *, render: bool = False, perturb: PerturbConfig = NOMINAL, **options: Unpack[EnvOptions]
) -> gym.Env:
    """Make an environment with observations ``Float32[O]`` and actions ``Float32[A]`` in [-1, 1].

    Actions are scaled to the actuators, clipped and repeated; rewards are summed over the
    repeat, which stops early where the episode ends. A ``CheckedEnv`` watches over it.

    Args:
        env_id: any name that ``resolve`` takes.
        render: make ``env.render()`` return ``UInt8[height width 3]``. On Linux without a display
            MuJoCo renders through EGL, unless ``MUJOCO_GL`` says otherwise.
        perturb: what is perturbed, drawn anew in each episode from its seed.
        options: action repeat (``None`` for ``default_action_repeat``) and time limit.

    Raises:
        UnsupportedEnvironment: unknown, not installed, spaces that the agent cannot handle, a time limit
            beyond the one that the environment keeps by itself, or no MuJoCo model to perturb.
    """
    env_id = resolve(env_id)
    env = perturbed_dynamics(_construct(env_id, options, render), env_id, perturb)
    return perturbed_signals(_adapt(env, env_id, options), perturb)


def make_bare_env(env_id: str, **options: Unpack[EnvOptions]) -> gym.Env:
    """The environment with its own sensors and actuators, decision by decision: what a controller in use meets.

    Raises:
        UnsupportedEnvironment: as ``make_env``.
    """
    env_id = resolve(env_id)
    return _checked(_construct(env_id, options), env_id, options)


def default_action_repeat(env_id: str) -> int:
    """Environment steps for each decision: as published for dm_control's domains, 1 for everything else."""
    if not env_id.startswith(DM_CONTROL):
        return 1
    domain = env_id.removeprefix(DM_CONTROL).partition("-")[0]
    return DOMAIN_REPEATS.get(domain, 4)


def _construct(env_id: str, options: EnvOptions, render: bool = False) -> gym.Env:
    """The bare environment behind a canonical id, with the time limit that was asked for."""
    asked = options.get("max_episode_steps")
    if asked is not None and asked < 1:
        raise UnsupportedEnvironment(f"{env_id}: max_episode_steps must be at least 1, got {asked}")
    settings: dict[str, Any] = {"max_episode_steps": asked}
    if re.fullmatch(r"dm_control/\w+-\w+-v\d+", env_id):
        settings["task_kwargs"] = {"random": 0}  # lqr draws its springs when it is built, before any reset
    env = _construct_rendering(env_id, settings) if render else _make(env_id, settings)
    if asked is not None and (own := _time_limit(env_id, env)) < asked:
        raise UnsupportedEnvironment(
            f"{env_id} ends its episodes itself after {own:g} steps: --max-episode-steps must be at most that, "
            f"got {asked}"
        )
    return env


def _make(env_id: str, settings: dict[str, Any]) -> gym.Env:
    try:
        return gym.make(env_id, disable_env_checker=True, **settings)  # a CheckedEnv names the sensor, too
    except (gym.error.Error, ImportError) as error:
        raise UnsupportedEnvironment(f"{env_id} cannot be made: {error}") from error
    except FAULTS as error:
        raise UnsupportedEnvironment(f"{env_id} cannot be made: {told(error)}") from error


def _construct_rendering(env_id: str, settings: dict[str, Any]) -> gym.Env:
    if not _has_pictures(env_id):
        raise UnsupportedEnvironment(f"{env_id} has no render mode 'rgb_array': go without pictures of it")
    prepare_rendering()
    env = _make(env_id, {"render_mode": "rgb_array", **_picture_size(env_id), **settings})
    uses_mujoco = env_id.startswith(DM_CONTROL) or hasattr(env.unwrapped, "mujoco_renderer")
    if uses_mujoco and os.environ.get("MUJOCO_GL") == "off":
        raise UnsupportedEnvironment(
            f"{env_id} cannot be rendered: no display and no EGL. Install EGL (apt-get install libegl1 "
            f"libgl1-mesa-dri), set MUJOCO_GL to a renderer that works here, or go without pictures of it"
        )
    return env


def _picture_size(env_id: str) -> dict[str, Any]:
    """How MuJoCo's environments are told the size of their pictures; others have their own."""
    if env_id.startswith(DM_CONTROL):
        return {"render_kwargs": PICTURE}
    return PICTURE if str(gym.registry[env_id.rpartition(":")[2]].entry_point).startswith(GYMNASIUM_MUJOCO) else {}


def _has_pictures(env_id: str) -> bool:
    """What the class says of itself; a function that makes the environment says nothing, and is believed."""
    maker = gym.registry[env_id.rpartition(":")[2]].entry_point
    metadata = getattr(load_env_creator(maker) if isinstance(maker, str) else maker, "metadata", None)
    return metadata is None or "rgb_array" in metadata.get("render_modes", ())


def _adapt(env: gym.Env, env_id: str, options: EnvOptions) -> gym.Env:
    """Repeat, scale, clip and flatten; the repeat is innermost, so that the rest is done once a decision."""
    actuators, space = _actuators(env_id, env.action_space), env.observation_space
    observations = Box(-np.inf, np.inf, (_observation_dim(env_id, space),), np.float32)
    actions = Box(-1.0, 1.0, (flatdim(actuators),), np.float32)
    env = TransformAction(_checked(env, env_id, options), lambda action: _drive(actuators, action), actions)
    return TransformObservation(env, lambda sensed: np.asarray(flatten(space, sensed), np.float32), observations)


def _checked(env: gym.Env, env_id: str, options: EnvOptions) -> CheckedEnv:
    """The environment decision by decision, with what goes wrong inside it told apart."""
    asked = options.get("action_repeat")
    repeat = default_action_repeat(env_id) if asked is None else asked
    if repeat < 1:
        raise UnsupportedEnvironment(f"{env_id}: action_repeat must be at least 1, got {repeat}")
    return CheckedEnv(RepeatAction(TransformReward(env, number), repeat), env_id)


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
    for sensor in sensors(space):
        came = f"{sensor.space} in {sensor.name!r}"
        if not isinstance(sensor.space, Box):
            remedy = "Make numbers of it where you register it: gymnasium.wrappers.FlattenObservation does, for example"
            raise _refusal(env_id, "observations", expected, came, remedy)
        if sensor.space.dtype == np.uint8 and len(sensor.space.shape) >= 2:
            remedy = "Images are not supported: encode them, or leave them out (gymnasium.wrappers.FilterObservation)"
            raise _refusal(env_id, "observations", expected, came, remedy)
    if flatdim(space) == 0:
        raise _refusal(env_id, "observations", expected, f"nothing in {space}", "Give it at least one sensor")
    return flatdim(space)


def _refusal(env_id: str, part: str, expected: str, came: object, remedy: str) -> UnsupportedEnvironment:
    shown = " ".join(str(came).split())  # bounds of many numbers would take several lines
    return UnsupportedEnvironment(f"{env_id}: the {part} must be {expected}; got {shown}. {remedy}")


# What an environment tells -----------------------------------------------------------------------------------------


def describe(
    env_id: str, *, terminates: bool | None = None, probe_steps: int = 10_000, **options: Unpack[EnvOptions]
) -> EnvSpec:
    """What the agent is built from.

    ``terminates=None`` finds out by ``probe_steps`` decisions of seeded random actions, where the environment
    does not tell; one that ends only where random play never comes should be given ``True``.

    Episodes that end, but that nothing limits, get a time limit: else an agent good enough to stay alive would
    be evaluated for ever.

    Raises:
        UnsupportedEnvironment: as ``make_env``, or if episodes have no time limit and no end was seen.
        EnvironmentFault: a step of random play failed.
    """
    env_id = resolve(env_id)
    bare = _construct(env_id, options)
    with closing(_adapt(bare, env_id, options)) as env:
        actuators, layout = _actuators(env_id, bare.action_space), tuple(sensors(bare.observation_space))
        repeat = env.get_wrapper_attr("num_repeats")
        limit, given = _time_limit(env_id, bare), options.get("max_episode_steps")
        if terminates is None and never_terminates(env_id, bare):
            terminates = False
        seen = Seen(bool(terminates))
        if terminates is None or (limit == math.inf and not terminates):
            log.info("%s: %s decisions of random play, at most, show how its episodes end", env_id, f"{probe_steps:,}")
            seen = probe(env, probe_steps, until_any_end=terminates is not None)
        if limit == math.inf:
            limit = given = usual_limit(env_id, seen, repeat, probe_steps)
        return EnvSpec(
            id=env_id,
            observation_dim=flatdim(env.observation_space),
            action_dim=flatdim(env.action_space),
            action_low=tuple(actuators.low.ravel().tolist()),
            action_high=tuple(actuators.high.ravel().tolist()),
            action_repeat=repeat,
            terminates=seen.terminated if terminates is None else terminates,
            episode_steps=math.ceil(limit / repeat),
            control_period_ms=_control_period_ms(env, repeat),
            observation_layout=tuple((each.name, each.space.shape or ()) for each in layout),
            max_episode_steps=given,
            **robot.describe(env, layout, actuators)._asdict(),
        )


def _time_limit(env_id: str, env: gym.Env) -> float:
    """Environment steps until the first time limit of an environment, infinite where there is none."""
    limits = [_dm_control_steps(env.unwrapped) if env_id.startswith(DM_CONTROL) else math.inf]
    while isinstance(env, gym.Wrapper):
        limits += [env._max_episode_steps] if isinstance(env, TimeLimit) else []
        env = env.env
    return min(limits)


def _dm_control_steps(env: Any) -> float:
    """Environment steps of a dm_control episode: suite tasks count them, the others watch the clock."""
    if hasattr(env, "_step_limit"):
        return env._step_limit
    return round(env._time_limit / env.control_timestep(), 6)


def _control_period_ms(env: gym.Env, repeat: int) -> float | None:
    """MuJoCo environments, dm_control's and Pendulum tell their step as ``dt``, in seconds."""
    step = getattr(env.unwrapped, "dt", None)
    return round(1000 * float(step) * repeat, 6) if isinstance(step, int | float) else None

"""Environments: any Gymnasium id with sensor vectors and continuous actions, and dm_control through Shimmy.

What comes out of here is uniform: observations are flat float32 vectors, actions live in
[-1, 1], an action is repeated as the domain asks, and an episode's end is told apart from its
time limit. Legend: ``N`` lanes (environments stepped together), ``O`` observation, ``A`` action.
"""

import difflib
import importlib
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from fnmatch import fnmatchcase
from importlib.util import find_spec
from typing import Any, NamedTuple, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec as RegisteredSpec
from gymnasium.envs.registration import load_env_creator
from gymnasium.spaces import Box, Dict, Space, Tuple
from gymnasium.spaces.utils import flatdim, flatten
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RepeatAction, TransformAction, TransformObservation
from jaxtyping import Bool, Float32, Int

from tdmpc.spec import EnvSpec

DM_CONTROL = "dm_control/"
DOMAIN_REPEATS = {"cartpole": 8, "finger": 2, "walker": 2, "humanoid": 2, "humanoid_CMU": 2, "dog": 2}
"""Action repeat of the published results; the other dm_control domains have 4."""

UNTRAINABLE = (
    "gymnasium.envs.toy_text.*",
    "gymnasium.envs.tabular.*",
    "gymnasium.envs.phys2d.*",
    "gymnasium.envs:",  # a function that says that MuJoCo v2 and v3 have moved
    "shimmy.*",
    "ale_py.*",
    "dm_control/compatibility-env-*",
    "dm_control/*_vision-*",
    "dm_control/Rodent*",
    "dm_control/CmuHumanoid[!G]*",  # all but GoToTarget see through a camera
    "dm_control/lqr-*",  # without a time limit, and random actions break the simulation
    "Acrobot-*",
    "CarRacing-*",
    "CartPole-*",
    "LunarLander-*",
    "MountainCar-*",
    "Pusher-v4",  # asks for mujoco<3
)
"""Entry points and ids of environments that are registered but cannot be learned: discrete actions,
pixels, or simulators that are gone."""


class UnsupportedEnvironment(ValueError):
    """The environment that was asked for is unknown, cannot be made, or is not one the agent can learn."""


class SimulationError(RuntimeError):
    """The simulation itself gave up, as dm_control does when it diverges."""


class EnvName(NamedTuple):
    """What an environment is called."""

    id: str
    """Canonical Gymnasium id, for example ``dm_control/cartpole-swingup-v0``."""
    short: str | None
    """Short name of a dm_control task, for example ``cartpole-swingup``."""


class Transition(NamedTuple):
    """What one decision in each of ``N`` lanes led to."""

    observations: Float32[np.ndarray, "N O"]
    """After the decision; for an ended lane the true last observation of its episode."""
    rewards: Float32[np.ndarray, "N"]
    """Summed over the repeated action."""
    terminated: Bool[np.ndarray, "N"]
    """The episode ended for good: nothing is worth anything after it."""
    truncated: Bool[np.ndarray, "N"]
    """The episode was cut off, by its time limit as a rule, and would have gone on."""


# Names


def resolve(name: str) -> str:
    """The id with which ``name`` can be made, here and in another process.

    Takes a registered Gymnasium id (``Hopper-v5``), one that a module of the user registers
    (``module:Id-v0``; the module stays part of the id), a dm_control id
    (``dm_control/cartpole-swingup-v0``) or its short name (``cartpole-swingup``).

    Raises:
        UnsupportedEnvironment: nothing has this name, or its module cannot be imported.
    """
    module, colon, registered = name.rpartition(":")
    if colon:
        _import_module(module, name)
    if registered in gym.registry:
        return name
    has_dm_control = _register_dm_control()
    canonical = _short_names().get(name, name)
    if canonical not in gym.registry:
        raise UnsupportedEnvironment(_unknown(name, has_dm_control))
    return canonical


def available(pattern: str = "") -> list[EnvName]:
    """The registered environments that an agent can be trained on, sorted by id.

    ``pattern`` selects by id or short name, in any case: a glob where it has ``*``, ``?`` or
    ``[``, otherwise a part of the name. Nothing is constructed, so a listed environment of an
    unknown package may still be refused by ``make_env``.
    """
    _register_dm_control()
    wanted = pattern.lower() if re.search(r"[*?\[]", pattern) else f"*{pattern.lower()}*"
    short_names = {canonical: short for short, canonical in _short_names().items()}
    names = (EnvName(id, short_names.get(id)) for id in sorted(filter(_trainable, gym.registry)))
    return [name for name in names if any(fnmatchcase(part.lower(), wanted) for part in name if part)]


def _import_module(module: str, name: str) -> None:
    if not all(part.isidentifier() for part in module.split(".")):
        raise UnsupportedEnvironment(f"{name}: write a module as in `import`, package.module, got {module!r}")
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UnsupportedEnvironment(
            f"{name}: cannot import module {module!r} ({error}). It must be importable from here and register "
            f"the environment when it is imported; if its file is in this folder, set PYTHONPATH=. and try again"
        ) from error


def _register_dm_control() -> bool:
    """Register the dm_control tasks (about a second, hence only on demand); False where not installed."""
    if find_spec("dm_control") is None or find_spec("shimmy") is None:
        return False
    _choose_headless_renderer()
    try:
        with redirect_stdout(sys.stderr):  # where labmaze is missing it prints that the mazes are
            gym.register_envs(importlib.import_module("shimmy"))
    except (ImportError, AttributeError, RuntimeError) as error:  # what a renderer raises that does not work
        chosen = os.environ.get("MUJOCO_GL", "not set")
        raise UnsupportedEnvironment(
            f"dm_control cannot be imported: {error}. It loads the renderer that MUJOCO_GL names ({chosen}): "
            f"unset it, or MUJOCO_GL=off does without pictures"
        ) from error
    return True


def _short_names() -> dict[str, str]:
    """``cartpole-swingup`` -> ``dm_control/cartpole-swingup-v0``, for all that are registered."""
    return {re.sub(r"-v\d+$", "", id.removeprefix(DM_CONTROL)): id for id in gym.registry if id.startswith(DM_CONTROL)}


def _unknown(name: str, has_dm_control: bool) -> str:
    module, colon, wanted = name.rpartition(":")
    names = {alias.lower(): env.short or module + colon + env.id for env in available() for alias in env if alias}
    matches = difflib.get_close_matches(wanted.lower(), names, n=4)
    close = " or ".join(dict.fromkeys(names[match] for match in matches))
    hints = [f"Did you mean {close}?" if close else "Nothing has a similar name."]
    hints += ["`tdmpc envs` lists what can be trained; an environment of your own is named module:Id-v0."]
    if not has_dm_control:
        hints += ["dm_control is not installed: pip install 'tdmpc[train]' (on Python 3.13 see the README)."]
    return f"unknown environment {name!r}. {' '.join(hints)}"


def _trainable(env_id: str) -> bool:
    entry_point = gym.registry[env_id].entry_point
    source = entry_point if isinstance(entry_point, str) else f"{getattr(entry_point, '__module__', '')}:"
    if source.startswith("gymnasium.envs.box2d.") and find_spec("Box2D") is None:
        return False
    return not any(fnmatchcase(name, known) for name in (env_id, source) for known in UNTRAINABLE)


# Making one environment


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
    _choose_headless_renderer()
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


def _choose_headless_renderer() -> None:
    """Make MuJoCo render without a screen, unless there is one or the user has chosen.

    dm_control picks its renderer when it is imported, so this comes before: left alone, it tries
    the missing display first. Where EGL does not work either, rendering is off and the rest works.
    """
    has_screen = not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not has_screen and "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl" if _egl_works() else "off"


def _egl_works() -> bool:
    try:
        from mujoco import egl
    except (ImportError, AttributeError):  # AttributeError is how PyOpenGL says that libEGL is missing
        return False
    try:
        return egl.create_initialized_egl_device_display() != egl.EGL.EGL_NO_DISPLAY
    except egl.error.Error:
        return False


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


# Many environments


def episode_seed(seed: int, lane: int, episode: int) -> int:
    """The seed that an episode starts from: a pure function, so an episode can be played again."""
    return int(np.random.SeedSequence(seed, spawn_key=(lane, episode)).generate_state(1)[0] & 0x7FFFFFFF)


class _Uninformed(gym.Wrapper):
    """Drops ``info``, which nobody reads: where the infos of lanes differ in shape, stacking them fails."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, _ = self.env.reset(seed=seed, options=options)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, _ = self.env.step(action)
        return observation, reward, terminated, truncated, {}


class Environments:
    """``N`` copies of an environment, its *lanes*, stepped together.

    Nothing is reset behind the caller's back, so every transition is a real one: after a step
    that ended episodes, call ``begin`` with the lanes that ended. Each episode starts from
    ``episode_seed``; hence its number and the actions so far are its whole state (``restore``).
    """

    num_envs: int
    episodes: Int[np.ndarray, "N"]
    """Number of the episode that runs in each lane, from 0; -1 before the first."""

    def __init__(self, env_id: str, *, num_envs: int = 1, seed: int = 0, action_repeat: int | None = None) -> None:
        """Make the lanes; nothing is started before ``reset`` or ``restore``.

        Raises:
            UnsupportedEnvironment: as ``make_env``, or if ``num_envs`` is less than 1.
        """
        if num_envs < 1:
            raise UnsupportedEnvironment(f"num_envs must be at least 1, got {num_envs}")
        lanes = [lambda: _Uninformed(make_env(env_id, action_repeat=action_repeat))] * num_envs
        self._lanes = SyncVectorEnv(lanes, autoreset_mode=AutoresetMode.DISABLED)
        self._observations = np.zeros(self._lanes.observation_space.shape or (), np.float32)
        self._ended = np.ones(num_envs, np.bool_)
        self._seed = seed
        self.num_envs = num_envs
        self.episodes = np.full(num_envs, -1)

    def reset(self) -> Float32[np.ndarray, "N O"]:
        """Start episode 0 in every lane."""
        self.episodes = np.full(self.num_envs, -1)
        return self.begin(np.zeros(self.num_envs, np.bool_))

    def begin(self, ended: Bool[np.ndarray, "N"]) -> Float32[np.ndarray, "N O"]:
        """Start the next episode in the lanes that are set, or never began; the current observations of all lanes."""
        starts = ended | (self.episodes < 0)
        self.episodes = self.episodes + starts
        self._start(starts)
        return self._observations.copy()

    def step(self, actions: Float32[np.ndarray, "N A"]) -> Transition:
        """Take one decision in every lane; actions in [-1, 1], clipped.

        Raises:
            ValueError: the actions do not have shape ``[N A]``.
            RuntimeError: a lane has ended, or never begun.
            SimulationError: the simulation gave up.
        """
        if actions.shape != self._lanes.action_space.shape:
            raise ValueError(f"actions must have shape {self._lanes.action_space.shape}, got {actions.shape}")
        if self._ended.any():
            raise RuntimeError(
                f"no episode runs in lanes {np.flatnonzero(self._ended).tolist()}: call begin(ended) first"
            )
        try:
            observations, rewards, terminated, truncated, _ = self._lanes.step(actions)
        except RuntimeError as error:
            raise SimulationError(f"the simulation failed: {error}") from error
        self._observations, self._ended = observations, terminated | truncated
        return Transition(observations.copy(), rewards.astype(np.float32), terminated, truncated)

    def restore(
        self, episodes: Int[np.ndarray, "N"], actions: Sequence[Float32[np.ndarray, "_ A"]]
    ) -> Float32[np.ndarray, "N O"]:
        """Bring every lane back to mid-episode, bit for bit, by playing its episode again.

        Args:
            episodes: ``self.episodes`` as it was.
            actions: for each lane all actions since its episode began, as they were given to ``step``.

        Returns:
            the current observations; where they differ from the recorded ones, the environment
            draws on something besides its seed and cannot be resumed exactly.

        Raises:
            ValueError: not one number and one list of actions for each lane, or an episode that ends
                before its last action.
        """
        if not len(episodes) == len(actions) == self.num_envs:
            raise ValueError(f"expected {self.num_envs} lanes, got {len(episodes)} episodes, {len(actions)} actions")
        self.episodes = np.array(episodes)
        self._start(np.ones(self.num_envs, np.bool_))
        for lane, past in enumerate(actions):
            self._replay(lane, past)
        return self._observations.copy()

    def close(self) -> None:
        """Free the simulators."""
        self._lanes.close()

    def _start(self, lanes: Bool[np.ndarray, "N"]) -> None:
        if not lanes.any():
            return
        seeds: list[int | None] = [
            episode_seed(self._seed, lane, int(number)) for lane, number in enumerate(self.episodes)
        ]
        fresh, _ = self._lanes.reset(seed=seeds, options={"reset_mask": lanes})
        self._observations[lanes] = fresh[lanes]
        self._ended[lanes] = False

    def _replay(self, lane: int, actions: Float32[np.ndarray, "T A"]) -> None:
        env = self._lanes.envs[lane]
        for step, action in enumerate(actions):
            if self._ended[lane]:
                raise ValueError(f"lane {lane}: the episode ended after {step} of {len(actions)} recorded actions")
            self._observations[lane], _, terminated, truncated, _ = env.step(action)
            self._ended[lane] = terminated or truncated

"""What goes wrong inside an environment, told apart: its simulation diverges, or its program has a fault.

A divergence costs one episode, which ends there; the next begins from its own seed as if nothing had been.
A fault is for whoever wrote the environment to mend, and stops what meets it.
"""

import copy
import logging
import operator
import traceback
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any, NamedTuple, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Space, Tuple

log = logging.getLogger(__name__)

DIVERGED = "diverged"
"""Key of ``info`` under which a step says why the simulation diverged; no other step has it."""

FAULTS = (Exception, SystemExit)
"""What a program of others may raise; some leave where they should raise."""
DIVERGENCES = (RuntimeError, ArithmeticError, np.linalg.LinAlgError)
"""What a simulation raises that cannot go on from where it is; dm_control's PhysicsError is a RuntimeError."""

LARGEST = float(np.finfo(np.float32).max)


class EnvironmentFault(Exception):
    """The program of an environment failed, or gave what it had not announced; the message says what and where."""


class Sensor(NamedTuple):
    """One leaf of a nested observation space."""

    path: tuple[Any, ...]
    """The keys that lead to it."""
    space: Space

    @property
    def name(self) -> str:
        """``outer/inner``, and ``observation`` where the whole space is one leaf."""
        return "/".join(map(str, self.path)) or "observation"

    def __str__(self) -> str:
        return f"the observation {self.name!r}" if self.path else "the observation"


def sensors(space: Space, path: tuple[Any, ...] = ()) -> Iterator[Sensor]:
    """Each leaf of a nested space, in the order in which Gymnasium flattens them."""
    if isinstance(space, Dict | Tuple):
        for key, part in space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces):
            yield from sensors(part, (*path, key))
    else:
        yield Sensor(path, space)


class CheckedEnv(gym.Wrapper):
    """An environment that ends an episode where its simulation diverges, and raises one kind of error for its faults.

    A simulation diverges where it raises one of ``DIVERGENCES`` in a step, or gives an observation or a
    reward that is not finite in single precision. That step then gives the last good observation, no reward,
    ``truncated`` and, in ``info[DIVERGED]``, one line that says why.
    """

    def __init__(self, env: gym.Env, env_id: str) -> None:
        super().__init__(env)
        self._id = env_id
        self._sensors = tuple(sensors(env.observation_space))
        self._decisions = 0
        self._last_good: Any = None
        self._beyond: set[str] = set()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Raises:
            EnvironmentFault: it cannot begin, for whatever reason.
        """
        self._decisions = 0
        try:
            observation, info = self.env.reset(seed=seed, options=options)
            if trouble := self._trouble(observation, 0.0):
                raise EnvironmentFault(f"{trouble}, but an episode must begin with finite readings")
        except FAULTS as error:
            raise EnvironmentFault(f"{self._id} failed at a reset: {told(error)}") from error
        self._last_good = copy.deepcopy(observation)
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Make a step, or end the episode where its simulation diverges.

        Raises:
            EnvironmentFault: any other exception, a reward that is no number, an observation unlike its space, an end
                that is neither true nor false, or an info that is no dictionary.
        """
        self._decisions += 1
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            trouble = self._trouble(observation, float(reward))
            terminated, truncated = _flag("terminated", terminated), _flag("truncated", truncated)
            if not isinstance(info, Mapping):
                raise EnvironmentFault(f"info must be a dictionary, got {_shown(info)}")
            if not trouble:
                self._last_good = copy.deepcopy(observation)  # the environment may write into its own again
                return observation, reward, terminated, truncated, dict(info)
        except DIVERGENCES as error:
            trouble = told(error)
        except FAULTS as error:
            place = f"decision {self._decisions} of an episode"
            raise EnvironmentFault(f"{self._id} failed in {place}: {told(error)}") from error
        return self._last_good, 0.0, False, True, {DIVERGED: trouble}

    def render(self) -> Any:
        """Take a picture, ``UInt8[height width 3]``.

        Raises:
            EnvironmentFault: there is none to take, or what came is none.
        """
        try:
            frame = self.env.render()
        except Exception as error:
            raise EnvironmentFault(f"{self._id} failed to draw a picture: {told(error)}") from error
        found = np.asarray(frame)
        if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
            came = f"{found.dtype} {found.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise EnvironmentFault(f"{self._id} must render a picture, uint8 [height width 3], got {came}")
        return frame

    def close(self) -> None:
        """Free the simulator; where that fails, what was computed with it is not lost."""
        try:
            self.env.close()
        except FAULTS as error:
            log.warning("%s failed to close: %s", self._id, told(error))

    def _trouble(self, observation: Any, reward: float) -> str:
        """What is not finite, if anything; raises where the observation is unlike its space."""
        for sensor in self._sensors:
            reading = _reading(sensor, observation)
            if trouble := _not_finite(sensor, reading):
                return trouble
            self._tell_beyond(sensor, reading)
        return _not_finite("the reward", np.array(reward))

    def _tell_beyond(self, sensor: Sensor, reading: np.ndarray) -> None:
        """Tell once of each sensor that it reads what its space does not have: units or bounds are wrong."""
        space = sensor.space
        if sensor.name in self._beyond or not isinstance(space, Box):
            return
        outside = (reading < space.low) | (reading > space.high)
        if outside.any():
            self._beyond.add(sensor.name)
            found, low, high = reading[outside].flat[0], space.low[outside].flat[0], space.high[outside].flat[0]
            log.warning(
                "%s: %s reads %g, outside of its space, %g to %g; is it in another unit?",
                *(self._id, sensor, found, low, high),
            )


def number(reward: Any) -> float:
    """A reward as a number; arrays of one number are taken.

    Raises:
        EnvironmentFault: it is none.
    """
    try:
        return float(getattr(reward, "item", lambda: reward)())
    except (TypeError, ValueError, RuntimeError) as error:  # the last by tensors of several
        raise EnvironmentFault(f"the reward must be a number, got {_shown(reward)}") from error


def _flag(name: str, value: Any) -> bool:
    """Whether an episode has ended; arrays of one truth value are taken."""
    found = np.asarray(value)
    if found.dtype != np.bool_ or found.size != 1:
        raise EnvironmentFault(f"{name} must be true or false, got {_shown(value)}")
    return bool(found.item())


def told(error: BaseException) -> str:
    """An error in one line: its kind, its message, and the file and line that raised it."""
    message = " ".join(str(error).split())
    if isinstance(error, EnvironmentFault):
        return message
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{': '.join(filter(None, (type(error).__name__, message)))} ({place.filename}:{place.lineno})"


def _reading(sensor: Sensor, observation: Any) -> np.ndarray:
    try:
        found = reduce(operator.getitem, sensor.path, observation)
    except (TypeError, LookupError) as error:
        raise EnvironmentFault(f"the observation lacks {sensor.name!r}, which is in its space") from error
    try:
        reading = np.asarray(found, np.float64)
    except (TypeError, ValueError):
        reading = None
    if reading is None or reading.shape != sensor.space.shape:
        came = (reading is not None and reading.shape) or _shown(found)
        raise EnvironmentFault(f"{sensor} must have shape {sensor.space.shape}, got {came}")
    return reading


def _not_finite(name: object, values: np.ndarray) -> str:
    sizes = np.abs(values)
    if sizes.max(initial=0.0) <= LARGEST:
        return ""
    element = int(np.argmin(sizes <= LARGEST))  # nan is not at most anything either
    return f"{name} is not finite: {f'element {element} is ' if values.ndim else ''}{values.flat[element]}"


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."

"""Toy environments of many shapes."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Tuple


class Toy(gym.Env):
    """Terminates after a number of steps that the seed draws; pays 1, 2, 3, ...; senses the time and the action."""

    def __init__(self, actions: gym.Space | None = None, sensors: gym.Space | None = None, lasts: int | None = None):
        self.action_space = Box(-1, 1, (1,), np.float32) if actions is None else actions
        self.observation_space = Box(-np.inf, np.inf, (3,), np.float64) if sensors is None else sensors
        self.lasts, self.time, self.ends = lasts, 0, 0
        self.taken: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.ends = 0, self.lasts or int(self.np_random.integers(1, 9))
        return self.sense(0.0), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.taken.append(action)
        return self.sense(float(np.sum(action))), float(self.time), self.time >= self.ends, False, {}

    def sense(self, action: float) -> np.ndarray:
        return np.array([self.time, action, self.np_random.normal()])


class Sled(Toy):
    """A toy with named sensors, as a user might write it: nested, scalars among them."""

    def __init__(self) -> None:
        arm = Dict({"grip": Box(0, 1, (), np.float32), "joints": Box(-4, 4, (2, 2), np.float64)})
        super().__init__(
            sensors=Dict({"wind": Tuple([Box(-9, 9, (1,)), Box(0, 99, (), np.int64)]), "arm": arm}), lasts=9
        )

    def sense(self, action: float) -> Any:
        joints = np.array([[1.0, 2.0], [3.0, 4.0]])
        arm = {"grip": np.array(0.5, np.float32), "joints": joints}
        return {"wind": (np.array([-7.0], np.float32), np.array(self.time)), "arm": arm}

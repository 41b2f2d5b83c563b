"""Several environments stepped together, whose episodes can be played again.

An episode's end is told apart from its time limit. Legend: ``N`` lanes, ``O`` observation, ``A`` action.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsFloat, Unpack

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from jaxtyping import Bool, Float32, Int

from tdmpc.config import PerturbConfig
from tdmpc.env_faults import DIVERGED
from tdmpc.env_names import UnsupportedEnvironment
from tdmpc.envs import NOMINAL, make_env
from tdmpc.spec import EnvOptions


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
    diverged: tuple[str, ...]
    """For each lane why its simulation diverged, empty where it did not. There was no transition in a lane that did:
    its observation is the one before, its reward 0, its episode truncated."""

    @property
    def real(self) -> Bool[np.ndarray, "N"]:
        """The lanes in which there was a transition."""
        return np.array([not reason for reason in self.diverged])

    @property
    def ended(self) -> Bool[np.ndarray, "N"]:
        """The lanes whose episode is over."""
        return self.terminated | self.truncated


def episode_seed(seed: int, lane: int, episode: int) -> int:
    """The seed that an episode starts from: a pure function, so an episode can be played again."""
    return int(np.random.SeedSequence(seed, spawn_key=(lane, episode)).generate_state(1)[0] & 0x7FFFFFFF)


def episode_delay(delay: Sequence[int], seed: int) -> int:
    """The delay of an episode that starts from a seed, in decisions: from the least to the largest."""
    return int(np.random.default_rng(seed).integers(min(delay), max(delay) + 1))


class _Uninformed(gym.Wrapper):
    """Drops of ``info`` what nobody reads: where the infos of lanes differ in shape, stacking them fails."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, _ = self.env.reset(seed=seed, options=options)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {key: info[key] for key in info if key == DIVERGED}


class Environments:
    """``N`` copies of an environment, its *lanes*, stepped together.

    Nothing is reset behind the caller's back, so every transition is a real one: after a step
    that ended episodes, call ``start`` with the lanes that ended. Each episode starts from
    ``episode_seed``; hence its number and the actions so far are its whole state (``restore``).
    """

    num_envs: int
    episodes: Int[np.ndarray, "N"]
    """Number of the episode that runs in each lane, from 0; -1 before the first."""

    def __init__(
        self,
        env_id: str,
        *,
        num_envs: int = 1,
        seed: int = 0,
        perturb: PerturbConfig = NOMINAL,
        **options: Unpack[EnvOptions],
    ) -> None:
        """Make the lanes; nothing is started before ``reset`` or ``restore``.

        Raises:
            UnsupportedEnvironment: as ``make_env``, or if ``num_envs`` is less than 1.
        """
        if num_envs < 1:
            raise UnsupportedEnvironment(f"num_envs must be at least 1, got {num_envs}")
        lanes = [lambda: _Uninformed(make_env(env_id, perturb=perturb, **options))] * num_envs
        self._lanes = SyncVectorEnv(lanes, autoreset_mode=AutoresetMode.DISABLED)
        self._observations = np.zeros(self._lanes.observation_space.shape or (), np.float32)
        self._ended = np.ones(num_envs, np.bool_)
        self._seed = seed
        self.num_envs = num_envs
        self.episodes = np.full(num_envs, -1)

    def delays(self, delay: Sequence[int]) -> Int[np.ndarray, "N"]:
        """The delay of the episode that runs in each lane, of a range of delays."""
        return np.array([episode_delay(delay, seed) for seed in self._seeds()])

    def reset(self) -> Float32[np.ndarray, "N O"]:
        """Start episode 0 in every lane."""
        self.episodes = np.full(self.num_envs, -1)
        return self.start(np.zeros(self.num_envs, np.bool_))

    def start(self, ended: Bool[np.ndarray, "N"]) -> Float32[np.ndarray, "N O"]:
        """Start the next episode in the lanes that are set, or never started; the current observations of all lanes.

        Raises:
            EnvironmentFault: one cannot start.
        """
        starts = ended | (self.episodes < 0)
        self.episodes = self.episodes + starts
        self._reset(starts)
        return self._observations.copy()

    def step(self, actions: Float32[np.ndarray, "N A"]) -> Transition:
        """Take one decision in every lane; actions in [-1, 1], clipped.

        Raises:
            ValueError: the actions do not have shape ``[N A]``.
            RuntimeError: a lane has ended, or never started.
            EnvironmentFault: the environment's program failed.
        """
        if actions.shape != self._lanes.action_space.shape:
            raise ValueError(f"actions must have shape {self._lanes.action_space.shape}, got {actions.shape}")
        if self._ended.any():
            raise RuntimeError(
                f"no episode runs in lanes {np.flatnonzero(self._ended).tolist()}: call start(ended) first"
            )
        observations, rewards, terminated, truncated, infos = self._lanes.step(actions)
        self._observations, self._ended = observations, terminated | truncated
        diverged = tuple(reason or "" for reason in infos.get(DIVERGED, [""] * self.num_envs))
        return Transition(observations.copy(), rewards.astype(np.float32), terminated, truncated, diverged)

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
        self._reset(np.ones(self.num_envs, np.bool_))
        for lane, past in enumerate(actions):
            self._replay(lane, past)
        return self._observations.copy()

    def close(self) -> None:
        """Free the simulators."""
        self._lanes.close()

    def _seeds(self) -> list[int]:
        return [episode_seed(self._seed, lane, int(number)) for lane, number in enumerate(self.episodes)]

    def _reset(self, lanes: Bool[np.ndarray, "N"]) -> None:
        if not lanes.any():
            return
        fresh, _ = self._lanes.reset(seed=list(self._seeds()), options={"reset_mask": lanes})
        self._observations[lanes] = fresh[lanes]
        self._ended[lanes] = False

    def _replay(self, lane: int, actions: Float32[np.ndarray, "T A"]) -> None:
        env = self._lanes.envs[lane]
        for step, action in enumerate(actions):
            if self._ended[lane]:
                raise ValueError(f"lane {lane}: the episode ended after {step} of {len(actions)} recorded actions")
            self._observations[lane], _, terminated, truncated, _ = env.step(action)
            self._ended[lane] = terminated or truncated

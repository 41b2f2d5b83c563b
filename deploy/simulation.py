"""The loop closed in real time: the simulator's clock goes on while the controller computes.

Time is virtual. A decision takes as long as ``Latency`` says. Meanwhile the simulator goes on, step by step, with the
action before. So a board can be tried that is not at hand, and the same seed gives the same episodes.

A bundle without delay is run as most robots are: observe, plan, act when the plan is there, however late. A bundle for
a delay runs pipelined.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tdmpc.deploy import bundle, contract, faults, timing
from tdmpc.deploy.backends import Graph, Runtime
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.deploy.controller import Controller
from tdmpc.envs import make_bare_env
from tdmpc.vector_env import episode_seed

Latency = Callable[[float], float]
"""Seconds that a decision takes, given those that it took here."""


@dataclass
class Clock:
    """What time it is on the robot, in seconds."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Board(Executor):
    """A thread of a robot's processor: what it was given is computed at once, and done when the latency is over."""

    def __init__(self, clock: Clock, latency: Latency) -> None:
        self._clock, self._latency = clock, latency

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        answer, begun = _Answer(self._clock), time.perf_counter()
        try:
            answer.set_result(fn(*args, **kwargs))
        except Exception as error:  # as a thread hands it on to whoever asks for the result
            answer.set_exception(error)
        answer.at = self._clock.now + self._latency(time.perf_counter() - begun)
        return answer


class _Answer(Future[Any]):
    at = 0.0

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def done(self) -> bool:
        return self._clock.now >= self.at - 1e-9


# How long decisions take ------------------------------------------------------------------------------------------


def constant(latency_ms: float) -> Latency:
    """Always the same."""
    return lambda _: latency_ms / 1000


def measured(slowdown: float) -> Latency:
    """As they come, on a processor so many times slower than this one."""
    return lambda seconds: slowdown * seconds


def drawn(quantiles_ms: Sequence[float], slowdown: float, seed: int) -> Latency:
    """Drawn from what was measured before."""
    random, times = np.random.default_rng(seed), slowdown * np.array(quantiles_ms) / 1000
    return lambda _: float(random.choice(times))


def quantiles_of(path: Path, described: Bundle, runtime: Runtime) -> list[float]:
    """What ``tdmpc latency --json`` measured of a bundle, call after call, in milliseconds.

    Raises:
        BundleError: the file is none of these, or has nothing of this bundle with this runtime.
    """
    with timing.read(path) as rows:
        known = [(row["model"], row["backend"], row["threads"], row["mode"], row["precision"]) for row in rows]
        computed = ("float32", "bfloat16") if runtime.precision == "auto" else (described.precision,)
        wanted = [(described.model_id, runtime.backend, runtime.threads, "single", each) for each in computed]
        found = [row["quantiles_ms"] for row, key in zip(rows, known, strict=True) if key in wanted]
    if not found:
        raise BundleError(
            f"{path} holds no times of {described.folder} with {runtime.backend} on {runtime.threads} threads: measure "
            f"it by tdmpc latency {described.folder} --backend {runtime.backend} --threads {runtime.threads} --json"
        )
    return found[0]


# The loop ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RealTime:
    """What a controller is worth on a robot that does not wait for it."""

    returns: tuple[float, ...]
    waiting_returns: tuple[float, ...]
    """Of the same episodes with a simulator that waits for the planner."""
    releases: int
    """Control periods."""
    late: int
    """Of these, such as had no new action because it was still being planned."""
    latencies_ms: tuple[float, ...]
    action_variation: float
    """Mean absolute change of an action from one period to the next, over actuators, in half ranges."""


def real_time(
    folder: Path,
    runtime: Runtime,
    latency: Latency,
    *,
    policy: Literal["planner", "prior"] = "planner",
    episodes: int,
    seed: int,
) -> RealTime:
    """Play episodes in real time, and as many with a simulator that waits.

    Args:
        folder: the bundle.
        runtime: what runs it.
        latency: of its decisions.
        policy: plan, or take the policy's action.
        episodes: how many, of each.
        seed: of episodes and of the planner's noise.

    Raises:
        BundleError: the bundle is damaged, or its environment tells no control period.
        UnsupportedEnvironment: there is no such environment here.
    """
    described, took = bundle.read(folder), []
    graph = contract.load(described, bundle.POLICY if policy == "prior" else bundle.PLANNER, runtime)
    pipelined = policy == "planner" and described.delay > 0

    def kept(seconds: float) -> float:
        took.append(latency(seconds))
        return took[-1]

    def played(latency: Latency) -> tuple[_Played, int]:
        clock = Clock()
        if policy == "prior":
            act, reset = _by_policy(described, graph), lambda: None
            found = _play(described, act, reset, clock=clock, latency=latency, episodes=episodes, seed=seed)
            return found, found.idle
        board = Board(clock, latency) if pipelined else None
        graphs = {bundle.PLANNER: graph}
        controller = Controller(described, graphs, pipelined=pipelined, executor=board, clock=clock)
        controller.reset(seed=seed)
        answers = constant(0) if pipelined else latency  # a pipeline's latency is its planner's, on the board
        play = partial(_play, described, controller.act, controller.reset)
        found = play(clock=clock, latency=answers, episodes=episodes, seed=seed)
        return found, controller.counters.late if pipelined else found.idle

    (waiting, _), (found, late) = played(constant(0)), played(kept)
    return RealTime(
        returns=found.returns,
        waiting_returns=waiting.returns,
        releases=found.releases,
        late=late,
        latencies_ms=tuple(1000 * seconds for seconds in took),
        action_variation=found.action_variation,
    )


def _by_policy(described: Bundle, policy: Graph) -> Callable[[Any], np.ndarray]:
    return lambda observation: policy(faults.read(observation, described.sensors))["action"]


@dataclass(frozen=True)
class _Played:
    returns: tuple[float, ...]
    releases: int
    idle: int
    """Releases at which an earlier decision was still being made, so that none was begun."""
    action_variation: float


def _play(
    described: Bundle,
    act: Callable[[Any], np.ndarray],
    reset: Callable[[], None],
    *,
    clock: Clock,
    latency: Latency,
    episodes: int,
    seed: int,
) -> _Played:
    """Play whole episodes; an answer of ``act`` reaches the actuators when its latency is over."""
    environment = described.manifest["environment"]
    repeat, step = environment["action_repeat"], _simulator_step(described)
    returns, releases, idle, changes = [], 0, 0, []
    half, middle = (described.high - described.low) / 2, (described.high + described.low) / 2
    limit = environment.get("max_episode_steps")
    with closing(make_bare_env(environment["id"], action_repeat=1, max_episode_steps=limit)) as env:
        for episode in range(episodes):
            observation, _ = env.reset(seed=episode_seed(seed, 0, episode))
            reset()
            total, ended, applied, before = 0.0, False, middle, middle
            while not ended:
                begun = time.perf_counter()
                action = act(observation)
                arrives = ceil(latency(time.perf_counter() - begun) / step - 1e-9)
                # A decision that takes 2.5 periods acts in the middle of the third, and the next one begins behind it.
                periods = max(ceil(arrives / repeat), 1)
                for number in range(periods * repeat):
                    if number % repeat == 0:
                        releases, idle = releases + 1, idle + (number > 0)
                    applied = action if number >= arrives else applied
                    given = applied.reshape(env.action_space.shape or ()).astype(env.action_space.dtype)
                    observation, reward, terminated, truncated, _ = env.step(given)
                    clock.now += step
                    total, ended = total + float(reward), terminated or truncated
                    if (number + 1) % repeat == 0:
                        changes.append(np.abs(applied - before) / half)
                        before = applied
                    if ended:
                        break
                applied = action
            returns.append(total)
    return _Played(tuple(returns), releases, idle, float(np.mean(changes)) if changes else 0.0)


def _simulator_step(described: Bundle) -> float:
    """Seconds of one step of the simulator."""
    environment, period = described.manifest["environment"], described.control_period_ms
    if period is None:
        raise BundleError(
            f"{environment['id']} tells no control period, so there is no time in which it could go on: an environment "
            "tells it by its attribute dt, in seconds"
        )
    return period / 1000 / environment["action_repeat"]

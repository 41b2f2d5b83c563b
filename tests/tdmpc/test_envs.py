"""Laws of the environments: names, spaces, actions, ends of episodes, lanes, and going back to mid-episode."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from tdmpc.envs import (
    Environments,
    UnsupportedEnvironment,
    available,
    default_action_repeat,
    describe,
    episode_seed,
    make_env,
    resolve,
)

TOY = "Toy-v0"


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


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    """Register an environment for one test."""

    def add(make: Callable[..., gym.Env] = Toy, **options: Any) -> str:
        gym.registry.pop(TOY, None)
        gym.register(TOY, entry_point=make, **options)
        return TOY

    yield add
    gym.registry.pop(TOY, None)


@pytest.fixture
def sled_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register: Callable[..., str]) -> Iterator[str]:
    """A module of the user's that registers ``Sled-v0`` when it is imported."""
    (tmp_path / "sledge.py").write_text(
        "import gymnasium\ndef make(**options):\n    return gymnasium.make('Toy-v0').unwrapped\n"
        "gymnasium.register('Sled-v0', entry_point=make, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    register(Sled)
    yield "sledge"
    sys.modules.pop("sledge", None)
    gym.registry.pop("Sled-v0", None)


def random_actions(env_id: str, count: int, lanes: int, seed: int = 0) -> np.ndarray:
    with closing(make_env(env_id)) as env:
        size = env.action_space.shape or ()
    return np.random.default_rng(seed).uniform(-1, 1, (count, lanes, *size)).astype(np.float32)


def same(left: Any, right: Any) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right, strict=True))


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("Hopper-v5", "Hopper-v5"),
        ("cartpole-swingup", "dm_control/cartpole-swingup-v0"),
        ("ball_in_cup-catch", "dm_control/ball_in_cup-catch-v0"),
        ("reacher-easy", "dm_control/reacher-easy-v0"),
        ("point_mass-easy", "dm_control/point_mass-easy-v0"),
        ("humanoid_CMU-run", "dm_control/humanoid_CMU-run-v0"),
        ("dm_control/walker-walk-v0", "dm_control/walker-walk-v0"),
    ],
)
def test_every_kind_of_name_resolves(name: str, canonical: str) -> None:
    """Ids and short names resolve to an id, and an id to itself."""
    assert resolve(name) == canonical == resolve(canonical)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("cartpol-swingup", "cartpole-swingup"),
        ("Hoper-v5", "Hopper-v5"),
        ("halfcheetah", "HalfCheetah-v5"),
        ("dm_control/walker-wlak-v0", "walker-walk"),
        ("Pendulum", "Pendulum-v1"),
    ],
)
def test_an_unknown_name_gets_a_did_you_mean(typed: str, meant: str) -> None:
    """A mistyped name is refused with the name that was meant, once."""
    with pytest.raises(UnsupportedEnvironment, match="Did you mean") as refusal:
        resolve(typed)
    assert repr(typed) in str(refusal.value)
    assert str(refusal.value).replace("?", " ").split().count(meant) == 1


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("no_such_module:Sled-v0", "PYTHONPATH"),
        ("./sledge.py:Sled-v0", "package.module"),
        (":Sled-v0", "package.module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(name: str, advice: str) -> None:
    """A module that is missing or misspelt is one error that says how to name it."""
    with pytest.raises(UnsupportedEnvironment, match=advice):
        make_env(name)


def test_a_users_own_environment_works(sled_module: str) -> None:
    """``module:Id-v0`` makes an environment of the user's, and nested sensors come flat, in the order of the layout."""
    spec = describe(f"{sled_module}:Sled-v0", action_repeat=2)
    assert spec.id == f"{sled_module}:Sled-v0" == resolve(spec.id)
    assert spec.observation_layout == (("arm/grip", ()), ("arm/joints", (2, 2)), ("wind/0", (1,)), ("wind/1", ()))
    assert (spec.episode_steps, spec.action_repeat, spec.control_period_ms) == (math.ceil(7 / 2), 2, None)
    with closing(make_env(spec.id)) as env:
        observation, _ = env.reset(seed=0)
        assert observation.dtype == np.float32
        assert observation.tolist() == [0.5, 1, 2, 3, 4, -7, 0]
        assert env.step(np.zeros(1, np.float32))[0].tolist() == [0.5, 1, 2, 3, 4, -7, 1]


def test_a_wrong_id_in_a_right_module_is_unknown(sled_module: str) -> None:
    """Where the module registers something else, what it does register is proposed with its module."""
    with pytest.raises(UnsupportedEnvironment, match="Did you mean sledge:Sled-v0"):
        resolve(f"{sled_module}:Sledd-v0")


def test_available_finds_by_part_and_by_glob() -> None:
    """A pattern matches a part of an id or short name in any case, or all of it where it is a glob."""
    assert ("dm_control/cartpole-swingup-v0", "cartpole-swingup") in available("SWINGUP")
    assert ("Hopper-v5", None) in available("hop")
    assert [name.short for name in available("walker-*")] == ["walker-run", "walker-stand", "walker-walk"]
    assert available("no such thing") == []


def test_available_leaves_out_what_cannot_be_trained() -> None:
    """Discrete actions, pixels and dead simulators are not listed; continuous control is."""
    listed = {name.id for name in available()}
    assert {"Pendulum-v1", "MountainCarContinuous-v0", "HalfCheetah-v5", "dm_control/dog-run-v0"} <= listed
    assert "dm_control/reach_site_features-v0" in listed
    left_out = {"CartPole-v1", "Taxi-v4", "CarRacing-v3", "Hopper-v3", "phys2d/Pendulum-v0", "GymV21Environment-v0"}
    assert not listed & (left_out | {"dm_control/reach_site_vision-v0", "dm_control/compatibility-env-v0"})


# -------------------------------------------------------------------------------------------------------------- spaces


IMAGE = Box(0, 255, (8, 8, 3), np.uint8)


@pytest.mark.filterwarnings("ignore:.*Box action space maximum and minimum values are equal")
@pytest.mark.parametrize(
    ("spaces", "says"),
    [
        ({"actions": Discrete(3)}, ["actions must be", "Discrete(3)", "continuous"]),
        ({"actions": MultiBinary(3)}, ["actions must be", "MultiBinary(3)", "continuous"]),
        ({"actions": Box(0, 9, (2,), np.int64)}, ["actions must be", "int64", "continuous"]),
        ({"actions": Box(-1, 1, (0,))}, ["actions must be", "(0,)"]),
        ({"actions": Box(-np.inf, np.inf, (2,))}, ["finite bounds", "inf", "limits"]),
        ({"actions": Box(np.array([-1, 0]), np.array([1, 0]), dtype=np.float64)}, ["low < high", "limits"]),
        ({"sensors": Discrete(5)}, ["observations must be", "Discrete(5)", "FlattenObservation"]),
        ({"sensors": Dict({"gear": Discrete(5)})}, ["Discrete(5) in 'gear'"]),
        ({"sensors": IMAGE}, ["observations must be", "(8, 8, 3)", "Images"]),
        ({"sensors": Dict({"eye": IMAGE, "wheel": Box(-1, 1, (1,))})}, ["in 'eye'", "FilterObservation"]),
        ({"sensors": Box(-1, 1, (0,))}, ["nothing in", "at least one sensor"]),
        ({"sensors": Dict({})}, ["cannot be made", "empty Dict observation space"]),
    ],
)
def test_spaces_that_the_agent_cannot_handle_are_refused(
    register: Callable[..., str], spaces: dict[str, gym.Space], says: list[str]
) -> None:
    """The refusal names the id, what was expected, what came and what to do."""
    register(lambda **options: Toy(**spaces))
    for ask in (make_env, describe, Environments):
        with pytest.raises(UnsupportedEnvironment) as refusal:
            ask(TOY)
        assert all(part in str(refusal.value) for part in [TOY, *says])


def test_what_is_not_installed_is_said(register: Callable[..., str]) -> None:
    """A missing simulator is one error, with the advice of its wrapper."""

    def make(**options: Any) -> gym.Env:
        raise gym.error.DependencyNotInstalled("pip install spaceship")

    with pytest.raises(UnsupportedEnvironment, match="Toy-v0 cannot be made: pip install spaceship"):
        make_env(register(make))


def test_numbers_are_checked() -> None:
    """An action repeat or a number of lanes below 1 is refused."""
    with pytest.raises(UnsupportedEnvironment, match="action_repeat must be at least 1, got 0"):
        make_env("Pendulum-v1", action_repeat=0)
    with pytest.raises(UnsupportedEnvironment, match="num_envs must be at least 1, got 0"):
        Environments("Pendulum-v1", num_envs=0)


# ------------------------------------------------------------------------------------------------- actions and rewards


@pytest.mark.parametrize(
    ("action", "current"),
    [(-1.0, -2.0), (0.0, 1.0), (0.25, 1.75), (1.0, 4.0), (7.0, 4.0), (-np.inf, -2.0)],
)
def test_actions_are_scaled_and_clipped(register: Callable[..., str], action: float, current: float) -> None:
    """The agent's [-1, 1] is the actuator's [-2, 4], and nothing leaves it."""
    register(lambda **options: Toy(Box(-2, 4, (1,), np.float32)))
    with closing(make_env(TOY)) as env:
        env.reset(seed=0)
        env.step(np.array([action], np.float32))
        assert env.unwrapped.taken == [current]


@settings(max_examples=50)
@given(
    action=st.floats(-2, 2, width=32),
    low=st.floats(-100, 100, width=32),
    span=st.floats(0.125, 100, width=32),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_actuators_never_leave_their_bounds(action: float, low: float, span: float, dtype: Any) -> None:
    """Whatever the bounds and the rounding, the actuators' space contains what the actuators get."""
    gym.registry.pop(TOY, None)
    gym.register(TOY, entry_point=lambda **options: Toy(Box(low, low + span, (1,), dtype)))
    with closing(make_env(TOY)) as env:
        env.reset(seed=0)
        env.step(np.array([action], np.float32))
        assert env.unwrapped.action_space.contains(env.unwrapped.taken[0])


def test_pendulum_gets_all_of_its_torque() -> None:
    """The agent's 1 is Pendulum's 2."""
    with closing(make_env("Pendulum-v1")) as env:
        env.reset(seed=0)
        env.step(np.ones(1, np.float32))
        assert env.unwrapped.last_u == 2


def test_actions_of_any_shape_come_from_a_flat_vector(register: Callable[..., str]) -> None:
    """A matrix of actuators with bounds of their own is one vector in [-1, 1], row by row."""
    low, high = np.array([[0, -1], [-4, 10]], np.float32), np.array([[1, 1], [4, 30]], np.float32)
    register(lambda **options: Toy(Box(low, high)))
    spec = describe(TOY)
    assert (spec.action_dim, spec.action_low, spec.action_high) == (4, (0, -1, -4, 10), (1, 1, 4, 30))
    with closing(make_env(TOY)) as env:
        assert env.action_space == Box(-1, 1, (4,), np.float32)
        env.reset(seed=0)
        env.step(np.array([-1, 1, 0.5, 0], np.float32))
        assert env.unwrapped.taken[0].tolist() == [[0, 1], [2, 20]]


def test_a_repeated_action_pays_the_sum_and_ends_early(register: Callable[..., str]) -> None:
    """Rewards 1 to 5 of an episode of 5 steps arrive as 1+2+3 and, cut short by its end, 4+5."""
    register(lambda **options: Toy(lasts=5))
    with closing(make_env(TOY, action_repeat=3)) as env:
        env.reset(seed=0)
        observation, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        assert (observation[0], reward, terminated, truncated) == (3, 6, False, False)
        observation, reward, terminated, truncated, _ = env.step(np.zeros(1, np.float32))
        assert (observation[0], reward, terminated, truncated) == (5, 9, True, False)


def test_non_finite_values_come_through(register: Callable[..., str]) -> None:
    """What an environment returns is not mended: the trainer must see it."""

    class Broken(Toy):
        def sense(self, action: float) -> np.ndarray:
            return np.array([np.inf, action, 0 if self.time == 0 else -np.inf])

    register(lambda **options: Broken(lasts=5))
    with closing(make_env(TOY)) as env:
        env.reset(seed=0)
        assert env.step(np.ones(1, np.float32))[0].tolist() == [np.inf, 1, -np.inf]


@pytest.mark.parametrize(
    ("name", "repeat"),
    [
        ("cartpole-swingup", 8),
        ("finger-spin", 2),
        ("walker-walk", 2),
        ("humanoid-run", 2),
        ("humanoid_CMU-run", 2),
        ("dog-run", 2),
        ("cheetah-run", 4),
        ("reacher-easy", 4),
        ("reach_site_features", 4),
        ("Walker2d-v5", 1),
    ],
)
def test_the_default_action_repeat_is_as_published(name: str, repeat: int) -> None:
    """Cartpole 8; finger, walker, humanoid and dog 2; the rest of dm_control 4; everything else 1."""
    assert default_action_repeat(resolve(name)) == repeat


# --------------------------------------------------------------------------------------------------- ends of episodes


@pytest.mark.parametrize(("name", "decisions"), [("cartpole-swingup", 125), ("walker-walk", 500), ("Pendulum-v1", 200)])
def test_a_time_limit_truncates(name: str, decisions: int) -> None:
    """Where nothing terminates the episode is truncated, after the decisions that the description foretells."""
    assert describe(name, terminates=False).episode_steps == decisions
    with closing(make_env(name)) as env:
        env.reset(seed=0)
        ends = [env.step(np.zeros(env.action_space.shape, np.float32))[2:4] for _ in range(decisions)]
    assert ends == [(False, False)] * (decisions - 1) + [(False, True)]


def test_a_fall_terminates() -> None:
    """A pole that falls is a termination and not a truncation."""
    with closing(Environments("InvertedPendulum-v5")) as lanes:
        lanes.reset()
        ends = [lanes.step(np.ones((1, 1), np.float32))]
        while not ends[-1].terminated.any():
            ends.append(lanes.step(np.ones((1, 1), np.float32)))
    assert len(ends) < 50
    assert not any(end.truncated.any() for end in ends)


@pytest.mark.parametrize(
    ("name", "terminates"),
    [
        ("Hopper-v5", True),
        ("Ant-v5", True),
        ("InvertedPendulum-v5", True),
        ("MountainCarContinuous-v0", True),
        ("Pendulum-v1", False),
        ("cartpole-swingup", False),
    ],
)
def test_the_probe_finds_terminations(name: str, terminates: bool) -> None:
    """Random play finds out whether episodes terminate, unless the user says so."""
    assert describe(name, probe_steps=1000 if terminates else 300).terminates == terminates
    assert describe(name, terminates=not terminates, probe_steps=0).terminates == (not terminates)


# ---------------------------------------------------------------------------------------------------------- description


@pytest.mark.parametrize(
    ("name", "repeat", "period"),
    [
        ("cartpole-swingup", None, 80),
        ("cartpole-swingup", 1, 10),
        ("walker-walk", None, 50),
        ("cheetah-run", None, 40),
        ("HalfCheetah-v5", None, 50),
        ("HalfCheetah-v5", 2, 100),
        ("Pendulum-v1", None, 50),
        ("MountainCarContinuous-v0", None, None),
    ],
)
def test_the_control_period_counts_the_repeat(
    name: str, repeat: int | None, period: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time between two decisions is the environment's step times the action repeat, None where it does not tell."""
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves MUJOCO_LOG.TXT where it warns about HalfCheetah
    assert describe(name, action_repeat=repeat, terminates=False).control_period_ms == period


@pytest.mark.parametrize("name", ["cartpole-swingup", "reacher-easy", "humanoid-run", "quadruped-walk", "Hopper-v5"])
def test_the_layout_fills_the_observation(name: str) -> None:
    """The sensors of the layout make up the observation, which is what the environment returns."""
    spec = describe(name, terminates=False)
    assert sum(math.prod(shape) for _, shape in spec.observation_layout) == spec.observation_dim
    with closing(make_env(name)) as env:
        observation, _ = env.reset(seed=0)
        assert observation.shape == (spec.observation_dim,) == env.observation_space.shape
        assert observation.dtype == env.observation_space.dtype == np.float32
        assert env.action_space == Box(-1, 1, (spec.action_dim,), np.float32)


def test_the_layout_names_the_sensors() -> None:
    """Sensors keep their names; a bare vector is called observation."""
    assert describe("cartpole-swingup", terminates=False).observation_layout == (("position", (3,)), ("velocity", (2,)))
    assert describe("Pendulum-v1").observation_layout == (("observation", (3,)),)


# ----------------------------------------------------------------------------------------------------------- many lanes


@pytest.mark.parametrize("name", ["InvertedPendulum-v5", "Hopper-v5", "Pendulum-v1"])
def test_lanes_are_independent_environments(name: str) -> None:
    """Lanes that end at different times give what single ones give, bit for bit: no step crosses an end of episode."""
    actions = random_actions(name, 210, lanes=3)
    with closing(Environments(name, num_envs=3, seed=4)) as lanes:
        before, seen = lanes.reset(), []
        for action in actions:
            after = lanes.step(action)
            seen.append((before, *after))
            before = lanes.begin(after.terminated | after.truncated)
        assert (lanes.episodes > 0).all()
    for lane in range(3):
        with closing(make_env(name)) as env:
            expected = single_lane(env, actions[:, lane], 4, lane)
            assert all(
                same([part[lane] for part in parts], single) for parts, single in zip(seen, expected, strict=True)
            )


def single_lane(env: gym.Env, actions: np.ndarray, seed: int, lane: int) -> Iterator[tuple[Any, ...]]:
    """The transitions of one environment, episode after episode, written without any vector environment."""
    episode, ended, before = -1, True, np.zeros(0)
    for action in actions:
        if ended:
            episode += 1
            before, _ = env.reset(seed=episode_seed(seed, lane, episode))
        after, reward, terminated, truncated, _ = env.step(action)
        yield before, after, np.float32(reward), np.bool_(terminated), np.bool_(truncated)
        before, ended = after, terminated or truncated


def test_an_ended_lane_must_begin_before_it_goes_on(register: Callable[..., str]) -> None:
    """A step with a lane that ended, or never began, is refused, and so are actions of the wrong shape."""
    register(lambda **options: Toy(lasts=1))
    with closing(Environments(TOY, num_envs=2)) as lanes:
        with pytest.raises(RuntimeError, match=r"lanes \[0, 1\]: call begin"):
            lanes.step(np.zeros((2, 1), np.float32))
        lanes.reset()
        with pytest.raises(ValueError, match=r"shape \(2, 1\), got \(3, 1\)"):
            lanes.step(np.zeros((3, 1), np.float32))
        lanes.step(np.zeros((2, 1), np.float32))
        lanes.begin(np.array([True, False]))
        with pytest.raises(RuntimeError, match=r"lanes \[1\]: call begin"):
            lanes.step(np.zeros((2, 1), np.float32))


def test_a_lane_begins_alone(register: Callable[..., str]) -> None:
    """Beginning an episode in one lane leaves the others where they are; lanes that never began do begin."""
    register(lambda **options: Toy(lasts=9))
    with closing(Environments(TOY, num_envs=2)) as lanes:
        first = lanes.begin(np.array([False, True]))
        assert lanes.episodes.tolist() == [0, 0]
        assert np.array_equal(lanes.begin(np.array([False, False])), first)
        second = lanes.begin(np.array([False, True]))
        assert lanes.episodes.tolist() == [0, 1]
        assert np.array_equal(first[0], second[0])
        assert not np.array_equal(first[1], second[1])
        assert np.array_equal(lanes.reset(), first)


def test_infos_of_any_shape_do_no_harm(register: Callable[..., str]) -> None:
    """Lanes whose infos cannot be stacked step together all the same."""

    class Talkative(Toy):
        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            return *super().step(action)[:-1], {"contacts": np.zeros(int(self.np_random.integers(99)))}

    register(lambda **options: Talkative(lasts=9))
    with closing(Environments(TOY, num_envs=3)) as lanes:
        lanes.reset()
        assert lanes.step(np.zeros((3, 1), np.float32)).rewards.tolist() == [1, 1, 1]


def test_what_was_handed_out_does_not_change(register: Callable[..., str]) -> None:
    """A transition keeps its observations, and a description of episodes its numbers, when the lanes go on."""
    register(lambda **options: Toy(lasts=2))
    with closing(Environments(TOY, num_envs=2)) as lanes:
        lanes.reset()
        episodes, transition = lanes.episodes, lanes.step(np.ones((2, 1), np.float32))
        copies = [part.copy() for part in transition]
        lanes.step(np.zeros((2, 1), np.float32))
        lanes.begin(np.ones(2, np.bool_))
        assert same(transition, copies)
        assert episodes.tolist() == [0, 0]
        assert lanes.episodes.tolist() == [1, 1]


# --------------------------------------------------------------------------------------------------------------- seeds


@pytest.mark.parametrize("name", ["reacher-easy", "Hopper-v5"])
def test_the_seed_decides_and_nothing_else_does(name: str) -> None:
    """Lanes with one seed are identical whatever the global generators do; lanes with another seed differ."""

    def play(seed: int) -> list[np.ndarray]:
        with closing(Environments(name, num_envs=2, seed=seed)) as lanes:
            observations = [lanes.reset()]
            for action in actions:
                np.random.random()  # noqa: NPY002 - a neighbour that draws from the global generator
                observations.append(lanes.step(action).observations)
        return observations

    actions = random_actions(name, 5, lanes=2)
    first = play(seed=1)
    np.random.seed(99)  # noqa: NPY002
    assert same(first, play(seed=1))
    assert not same(first, play(seed=2))
    assert not np.array_equal(first[0][0], first[0][1])


def test_every_episode_has_a_seed_of_its_own() -> None:
    """Seeds differ by run, lane and episode, are 31 bits long, and never change between versions of this code."""
    seeds = {episode_seed(run, lane, episode) for run in range(5) for lane in range(5) for episode in range(40)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert episode_seed(0, 0, 0) == 1941048836


# ------------------------------------------------------------------------------------------------------------- restore


def play(
    make: Callable[[], Environments], actions: np.ndarray, *, abandon_at: int, interrupt_at: int | None = None
) -> list[tuple[np.ndarray, ...]]:
    """All that the lanes give. Lane 0 gives up one episode; an interruption goes on in other lanes, restored."""
    lanes, seen = make(), []
    lanes.reset()
    past, begins = [actions[:0, lane] for lane in range(lanes.num_envs)], np.zeros(lanes.num_envs, np.bool_)
    for number, action in enumerate(actions):
        if number == interrupt_at:
            episodes = lanes.episodes
            lanes.close()
            lanes = make()
            lanes.reset()
            lanes.step(action)  # they did something else before
            lanes.restore(episodes, past)
        begins[0] |= number == abandon_at
        observations = lanes.begin(begins)
        past = [np.vstack([old[: 0 if new else None], one]) for old, new, one in zip(past, begins, action, strict=True)]
        transition = lanes.step(action)
        seen.append((observations, lanes.episodes, *transition))
        begins = transition.terminated | transition.truncated
    lanes.close()
    return seen


@pytest.mark.parametrize("name", ["cartpole-swingup", "reacher-easy", "walker-walk", "Hopper-v5", "Pendulum-v1"])
def test_a_restored_episode_goes_on_bit_for_bit(name: str) -> None:
    """From the numbers of the episodes and the actions so far, other lanes go on exactly like the first ones."""
    actions = random_actions(name, 24, lanes=2)
    make = partial(Environments, name, num_envs=2, seed=3)
    whole, interrupted = (play(make, actions, abandon_at=3, interrupt_at=at) for at in (None, 14))
    assert all(same(*steps) for steps in zip(whole, interrupted, strict=True))


@settings(max_examples=40)
@given(moment=st.integers(0, 20), abandon_at=st.integers(0, 20), num_envs=st.integers(1, 3), repeat=st.integers(1, 3))
def test_any_moment_can_be_restored(moment: int, abandon_at: int, num_envs: int, repeat: int) -> None:
    """Whenever the interruption comes, also at the start or the end of an episode, the future is the same."""
    gym.registry.pop(TOY, None)
    gym.register(TOY, entry_point=Toy)
    actions = np.random.default_rng(moment).uniform(-1, 1, (25, num_envs, 1)).astype(np.float32)
    make = partial(Environments, TOY, num_envs=num_envs, seed=moment, action_repeat=repeat)
    whole, interrupted = (play(make, actions, abandon_at=abandon_at, interrupt_at=at) for at in (None, moment))
    assert all(same(*steps) for steps in zip(whole, interrupted, strict=True))


def test_an_impossible_past_is_refused(register: Callable[..., str]) -> None:
    """A past that goes on after the end of its episode, or that lacks a lane, is refused."""
    register(lambda **options: Toy(lasts=2))
    with closing(Environments(TOY, num_envs=2)) as lanes:
        long, short = np.zeros((3, 1), np.float32), np.zeros((1, 1), np.float32)
        with pytest.raises(ValueError, match="lane 1: the episode ended after 2 of 3 recorded actions"):
            lanes.restore(np.zeros(2, np.int64), [short, long])
        with pytest.raises(ValueError, match="expected 2 lanes, got 2 episodes, 1 actions"):
            lanes.restore(np.zeros(2, np.int64), [short])


# ----------------------------------------------------------------------------------------------------------- rendering


def test_dm_control_is_imported_on_demand_and_quietly() -> None:
    """Without dm_control until one of its tasks is asked for, then without a word of displays and nothing printed."""
    program = (
        "import sys, os; from tdmpc.envs import make_env, resolve\n"
        "make_env('Pendulum-v1').close(); assert 'dm_control' not in sys.modules and 'MUJOCO_GL' not in os.environ\n"
        "sys.modules['labmaze'] = None  # as on Python 3.13\n"
        "make_env('cartpole-swingup').close(); assert os.environ['MUJOCO_GL'] in ('egl', 'off')\n"
    )
    headless = {key: os.environ[key] for key in os.environ if key not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run([sys.executable, "-c", program], env=headless, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "DISPLAY" not in done.stderr


def test_a_renderer_that_does_not_work_is_said() -> None:
    """Where MUJOCO_GL names a renderer that breaks dm_control, the error says so and how to do without."""
    program = (
        "from tdmpc.envs import UnsupportedEnvironment, resolve\n"
        "try: resolve('cartpole-swingup')\n"
        "except UnsupportedEnvironment as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"MUJOCO_GL": "magic"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "MUJOCO_GL=off" in done.stdout


def test_no_way_to_render_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for pictures where MuJoCo has no renderer fails when the environment is made, with what to install."""
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(UnsupportedEnvironment, match="libegl1"):
        make_env("Hopper-v5", render=True)


def test_an_environment_without_pictures_is_said(register: Callable[..., str]) -> None:
    """Asking for pictures of an environment that draws none is one error."""
    with pytest.raises(UnsupportedEnvironment, match="no render mode 'rgb_array'"):
        make_env(register(Toy), render=True)


@pytest.mark.skipif(os.environ.get("MUJOCO_GL") != "egl", reason="needs EGL")
@pytest.mark.parametrize("name", ["cartpole-swingup", "Hopper-v5"])
def test_pictures_are_colour_images(name: str) -> None:
    """With render=True an environment returns its picture."""
    with closing(make_env(name, render=True)) as env:
        env.reset(seed=0)
        picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.std() > 0

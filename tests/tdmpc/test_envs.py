"""Laws of one environment: spaces, actions, ends of episodes, and what it tells of itself."""

import math
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary
from hypothesis import given, settings
from hypothesis import strategies as st

from tdmpc import envs
from tdmpc.env_names import UnsupportedEnvironment, resolve
from tdmpc.envs import default_action_repeat, describe, make_bare_env, make_env
from tdmpc.random_play import Seen
from tdmpc.vector_env import Environments
from tests.tdmpc.conftest import TOY, registered
from tests.tdmpc.env_toys import Toy

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
        ({"sensors": Dict({})}, ["nothing in", "at least one sensor"]),
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


def test_a_constructor_that_fails_is_named(register: Callable[..., str]) -> None:
    """Whatever an environment raises when it is made is one error, with its kind and its place."""

    def make(**options: Any) -> gym.Env:
        raise FileNotFoundError(2, "No such file", "robot.xml")

    with pytest.raises(UnsupportedEnvironment, match=r"Toy-v0 cannot be made: FileNotFoundError: .*robot.xml.*py:\d+"):
        make_env(register(make))


def test_numbers_are_checked() -> None:
    """An action repeat, a time limit or a number of lanes below 1 is refused."""
    with pytest.raises(UnsupportedEnvironment, match="action_repeat must be at least 1, got 0"):
        make_env("Pendulum-v1", action_repeat=0)
    with pytest.raises(UnsupportedEnvironment, match="max_episode_steps must be at least 1, got -1"):
        make_bare_env("Pendulum-v1", max_episode_steps=-1)
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
    bounds = Box(low, low + span, (1,), dtype)
    with registered(lambda **options: Toy(bounds)), closing(make_env(TOY)) as env:
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


@pytest.mark.parametrize(
    ("name", "limit", "decisions"),
    [
        ("Pendulum-v1", 50, 50),
        ("Pendulum-v1", 333, 333),
        ("cartpole-swingup", 100, 13),
        ("cartpole-swingup", 1000, 125),
    ],
)
def test_a_time_limit_can_be_set(name: str, limit: int, decisions: int) -> None:
    """However it is made, an environment is cut after the steps that the user gave, fewer than its own or more."""
    spec = describe(name, terminates=False, max_episode_steps=limit)
    assert (spec.episode_steps, spec.max_episode_steps) == (decisions, limit)
    for make in (make_env, make_bare_env):
        with closing(make(name, **spec.options)) as env:
            env.reset(seed=0)
            action = np.zeros(env.action_space.shape, env.action_space.dtype)
            ends = [env.step(action)[2:4] for _ in range(decisions)]
        assert ends == [(False, False)] * (decisions - 1) + [(False, True)]


def test_an_own_time_limit_cannot_be_lengthened(register: Callable[..., str]) -> None:
    """A limit beyond the one that an environment keeps by itself is refused, with both numbers."""
    register(lambda **options: gym.wrappers.TimeLimit(Toy(lasts=99), 30))
    assert describe(TOY, terminates=False).episode_steps == 30
    for name, own, asked in [("cartpole-swingup", 1000, 1001), (TOY, 30, 31)]:
        for ask in (make_env, make_bare_env, describe, Environments):
            with pytest.raises(UnsupportedEnvironment, match=f"after {own} steps.*--max-episode-steps .* got {asked}"):
                ask(name, max_episode_steps=asked)


@pytest.mark.parametrize("terminates", [None, False])
def test_episodes_that_never_end_are_refused(register: Callable[..., str], terminates: bool | None) -> None:
    """Without a time limit and without any end in random play an environment is refused, unless it is given a limit."""
    register(lambda **options: Toy(lasts=10**9))
    with pytest.raises(UnsupportedEnvironment, match=r"Toy-v0 .*no time limit.*--max-episode-steps"):
        describe(TOY, terminates=terminates)
    assert describe(TOY, terminates=terminates, max_episode_steps=40, action_repeat=3).episode_steps == 14


class Truncating(Toy):
    """Ends by a truncation of its own."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        seen, reward, ended, _, info = super().step(action)
        return seen, reward, False, ended, info


@pytest.mark.parametrize(
    ("toy", "lasts", "terminates", "limit"),
    [(Toy, 9, None, 1000), (Toy, 10**9, True, 1000), (Truncating, 9, False, 1000), (Truncating, 2400, None, 2400)],
)
def test_episodes_that_may_last_for_ever_are_capped(
    register: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    toy: type[Toy],
    lasts: int,
    terminates: bool | None,
    limit: int,
) -> None:
    """Where episodes end but nothing limits them, they are cut after 1,000 steps or the longest one that random play
    saw, and that is said.
    """
    register(lambda **options: toy(lasts=lasts))
    spec = describe(TOY, terminates=terminates, action_repeat=2)
    assert (spec.episode_steps, spec.options) == (limit // 2, {"action_repeat": 2, "max_episode_steps": limit})
    assert "--max-episode-steps" in caplog.text and f"{limit:,}" in caplog.text


def test_a_late_termination_is_found(register: Callable[..., str]) -> None:
    """Random play looks far enough to see what happens only after thousands of decisions."""
    register(lambda **options: Toy(lasts=9000))
    assert describe(TOY, max_episode_steps=20_000).terminates


def test_what_a_task_says_spares_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dm_control task whose class knows no termination is not played; one that has any is."""
    played: list[str] = []
    monkeypatch.setattr(envs, "probe", lambda env, *_, **__: (played.append(env.spec.id), PROBED)[1])
    for name in ("cartpole-swingup", "dog-run", "reach_site_features"):
        assert not describe(name).terminates
    assert played == []
    monkeypatch.setattr("dm_control.suite.cartpole.Balance.get_termination", lambda *_: None, raising=False)
    assert describe("cartpole-swingup").terminates and len(played) == 1


PROBED = Seen(terminated=True)


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


def test_a_refused_space_of_many_numbers_is_one_line(register: Callable[..., str]) -> None:
    """Where an environment cannot be learned, its space is told in one line, however long its bounds are."""
    bounds = np.arange(40.0)
    toy = register(lambda **_: Toy(actions=Box(bounds, bounds, dtype=np.float64)))
    with pytest.raises(UnsupportedEnvironment, match="State the actuators' limits") as caught:
        make_env(toy)
    assert "\n" not in str(caught.value)

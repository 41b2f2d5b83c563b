"""Laws of what goes wrong inside an environment: a divergence ends its episode, a fault of the program is one line."""

import math
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from tdmpc.env_faults import DIVERGED, CheckedEnv, EnvironmentFault
from tdmpc.envs import make_bare_env, make_env
from tests.tdmpc.conftest import TOY, Toy
from tests.tdmpc.env_toys import Sled

HOLD = np.zeros(1, np.float32)
Register = Callable[..., str]


def spoilt(spoil: Callable[..., Any], *, at: int = 4) -> Callable[..., Toy]:
    """Toys in whose step ``at`` something else comes out: ``spoil(observation, reward)``."""

    def tamper(toy: Toy, observation: np.ndarray, reward: float, terminated: bool) -> tuple[Any, Any, bool]:
        return (*spoil(observation, reward), terminated) if toy.time == at else (observation, reward, terminated)

    return lambda **options: Toy(tamper, **options)


def raising(error: BaseException) -> Callable[..., Toy]:
    def spoil(*_: Any) -> Any:
        raise error

    return spoilt(spoil)


def after(env: gym.Env, steps: int) -> tuple[Any, ...]:
    """What the last of some steps gives."""
    env.reset(seed=0)
    return [env.step(HOLD) for _ in range(steps)][-1]


# -------------------------------------------------------------------------------------------------------- divergences

DIVERGING = {
    "a physics error": (raising(RuntimeError("bad\nQACC")), r"RuntimeError: bad QACC \(.*test_env_faults.py:\d+\)"),
    "an overflow": (raising(OverflowError("math range")), "OverflowError: math range"),
    "a singular matrix": (raising(np.linalg.LinAlgError("Singular")), "LinAlgError: Singular"),
    "a nan": (spoilt(lambda seen, pay: (seen * [1, math.nan], pay)), "observation is not finite: element 1 is nan"),
    "an infinity": (spoilt(lambda seen, pay: ([-math.inf, 0], pay)), "observation is not finite: element 0 is -inf"),
    "more than float32": (
        spoilt(lambda seen, pay: ([0, 1e39], pay)),
        "observation is not finite: element 1 is 1e",
    ),
    "a nan reward": (spoilt(lambda seen, pay: (seen, math.nan)), "reward is not finite: nan"),
    "an infinite reward": (spoilt(lambda seen, pay: (seen, math.inf)), "reward is not finite: inf"),
}


@pytest.mark.parametrize("make", [make_env, make_bare_env])
@pytest.mark.parametrize(("toys", "says"), DIVERGING.values(), ids=DIVERGING.keys())
def test_a_divergence_ends_the_episode(
    register: Register, make: Callable[..., gym.Env], toys: Callable[..., Toy], says: str
) -> None:
    """A step in which the simulation diverges truncates the episode at the last good observation, pays nothing, and
    tells what happened in one line; the next episode is as if nothing had been.
    """
    register(toys)
    with closing(make(TOY)) as env:
        good = after(env, 3)[0]
        sensed, reward, terminated, truncated, info = env.step(HOLD)
        assert np.array_equal(sensed, good) and (reward, terminated, truncated) == (0, False, True)
        with pytest.raises(EnvironmentFault, match=says):
            raise EnvironmentFault(info[DIVERGED])
        assert "\n" not in info[DIVERGED]
        assert np.array_equal(after(env, 3)[0], good) and DIVERGED not in after(env, 3)[4]


def test_a_decision_that_diverges_halfway_gives_nothing(register: Register) -> None:
    """Where one of the repeated steps diverges, the whole decision is none: no part of its reward is paid."""
    register(raising(RuntimeError("gone")))
    with closing(make_env(TOY, action_repeat=3)) as env:
        good = after(env, 1)[0]
        sensed, reward, _, truncated, info = env.step(HOLD)
        assert np.array_equal(sensed, good) and (reward, truncated) == (0, True) and "gone" in info[DIVERGED]


def test_dm_control_forgets_a_divergence() -> None:
    """After a physics error of dm_control the next episode is, bit for bit, that of a simulation that had none."""
    with closing(make_env("cartpole-swingup")) as fresh, closing(make_env("cartpole-swingup")) as env:
        env.reset(seed=1)
        env.step(HOLD)
        env.unwrapped.get_wrapper_attr("physics").data.qpos[:] = 1e20
        sensed, _, _, truncated, info = env.step(HOLD)
        assert truncated and "PhysicsError" in info[DIVERGED] and np.isfinite(sensed).all()
        assert np.array_equal(after(env, 5)[0], after(fresh, 5)[0])


@pytest.mark.filterwarnings("ignore:.*share an object")
def test_the_last_good_observation_is_kept_from_its_environment(register: Register) -> None:
    """An environment that writes into the array that it handed out does not change what the episode is cut at."""

    class Reusing(Toy):
        def step(self, action: np.ndarray) -> Any:
            buffer, (seen, *rest) = self.point, super().step(action)
            buffer[:] = seen if self.time < 3 else math.nan
            self.point = buffer
            return buffer, *rest

    register(Reusing)
    with closing(make_bare_env(TOY)) as env:
        good = after(env, 2)[0].copy()
        sensed, _, _, truncated, _ = env.step(HOLD)
        assert truncated and np.array_equal(sensed, good)


# ------------------------------------------------------------------------------------------------- faults of a program


@pytest.mark.parametrize("make", [make_env, make_bare_env])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad\ngear"),
        OSError(5, "no port"),
        KeyError("arm"),
        TypeError(),
        AssertionError("never"),
        SystemExit(3),
    ],
)
def test_a_fault_of_the_program_is_one_line(
    register: Register, make: Callable[..., gym.Env], error: BaseException
) -> None:
    """Any other exception names environment, decision, kind, message and place in one line, and is chained."""
    register(raising(error))
    with closing(make(TOY)) as env, pytest.raises(EnvironmentFault) as caught:
        after(env, 4)
    message = " ".join(str(error).split())
    told = f"Toy-v0 failed in decision 4 of an episode: {type(error).__name__}{message and f': {message}'} ("
    assert str(caught.value).startswith(told) and "test_env_faults.py:" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("reward", [None, "much", [1.0, 2.0], np.ones(2), {}])
def test_a_reward_that_is_no_number_is_a_fault(register: Register, reward: Any) -> None:
    """A reward that is no number is named as such, with what came."""
    register(spoilt(lambda seen, pay: (seen, reward)))
    with closing(make_env(TOY)) as env, pytest.raises(EnvironmentFault, match=r"4 .*the reward must be a number"):
        after(env, 4)


@pytest.mark.parametrize("reward", [2, np.float32(2), np.array([2.0]), np.array(2)])
def test_whatever_is_one_number_is_a_reward(register: Register, reward: Any) -> None:
    """A reward may be any kind of number, an array of one among them."""
    register(spoilt(lambda seen, pay: (seen, reward)))
    with closing(make_env(TOY)) as env:
        assert after(env, 4)[1] == 2


class Odd(gym.Wrapper):
    """Ends its episodes and informs as it was told to."""

    def __init__(self, env: gym.Env, ended: Any = False, info: Any = None) -> None:
        super().__init__(env)
        self._ended, self._info = ended, info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        observation, reward, *_ = self.env.step(action)
        return observation, reward, self._ended, self._ended, self._info


@pytest.mark.parametrize(
    ("ended", "info", "says"),
    [
        ("yes", {}, "terminated must be true or false, got 'yes'"),
        (None, {}, "terminated must be true or false, got None"),
        (False, None, "info must be a dictionary, got None"),
    ],
)
def test_an_odd_end_or_info_is_a_fault(ended: Any, info: Any, says: str) -> None:
    """An end that is no truth value, and an info that is no dictionary, are named with what came."""
    env = CheckedEnv(Odd(gym.make("Pendulum-v1"), ended, info), "Odd-v0")
    env.reset(seed=0)
    with pytest.raises(EnvironmentFault, match=f"Odd-v0 failed in decision 1 of an episode: {says}"):
        env.step(env.action_space.sample())


@pytest.mark.parametrize("picture", [None, np.zeros((8, 8)), np.zeros((8, 8, 4), np.uint8)])
def test_a_picture_that_is_none_is_a_fault(picture: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an environment draws is a picture in colours, or it is named with what came."""
    inner = Odd(gym.make("Pendulum-v1"))
    monkeypatch.setattr(inner, "render", lambda: picture)
    with pytest.raises(EnvironmentFault, match="Odd-v0 must render a picture, uint8"):
        CheckedEnv(inner, "Odd-v0").render()


def test_an_environment_that_cannot_close_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure to free the simulator is told, and goes no further."""
    inner = Odd(gym.make("Pendulum-v1"))
    monkeypatch.setattr(inner, "close", lambda: 1 / 0)
    CheckedEnv(inner, "Odd-v0").close()
    assert "Odd-v0 failed to close: ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("ended", [True, np.True_, np.array([True])])
def test_whatever_is_one_truth_value_ends_an_episode(ended: Any) -> None:
    """An end of numpy's is Python's own from there on: JSON takes no other."""
    env = CheckedEnv(Odd(gym.make("Pendulum-v1"), ended, {}), "Odd-v0")
    env.reset(seed=0)
    assert env.step(env.action_space.sample())[2:4] == (True, True) and env.step(np.zeros(1))[2] is True


@pytest.mark.parametrize(
    ("observation", "says"),
    [
        (np.zeros(3), r"observation must have shape \(2,\), got \(3,\)"),
        (np.zeros((1, 2)), r"observation must have shape \(2,\), got \(1, 2\)"),
        (0.0, r"observation must have shape \(2,\), got 0.0"),
        (None, r"observation must have shape \(2,\), got None"),
        (["left", "right"], r"observation must have shape \(2,\), got \['left', 'right'\]"),
        ([[1], [2, 3]], r"observation must have shape \(2,\), got \[\[1\], \[2, 3\]\]"),
    ],
)
def test_an_observation_unlike_its_space_is_a_fault(register: Register, observation: Any, says: str) -> None:
    """An observation that is not what its space says is named with what was expected and what came."""
    register(spoilt(lambda seen, pay: (observation, pay)))
    for make in (make_env, make_bare_env):
        with closing(make(TOY)) as env, pytest.raises(EnvironmentFault, match=f"decision 4 .*{says}"):
            after(env, 4)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda sensed: sensed["arm"].pop("grip"), "lacks 'arm/grip'"),
        (lambda sensed: sensed.update(wind=(np.zeros(1),)), "lacks 'wind/1'"),
        (lambda sensed: sensed.update(arm=None), "lacks 'arm/grip'"),
        (lambda sensed: sensed["arm"].update(joints=np.zeros(4)), r"'arm/joints' must have shape \(2, 2\), got \(4,\)"),
    ],
    ids=["a key", "an index", "a branch", "a shape"],
)
def test_a_sensor_is_named(register: Register, change: Callable[..., Any], says: str) -> None:
    """In a nested observation the sensor that is missing or misshapen is named."""

    class Broken(Sled):
        def sense(self, action: float) -> Any:
            sensed = super().sense(action)
            if self.time == 4:
                change(sensed)
            return sensed

    register(lambda **options: Broken())
    with closing(make_env(TOY)) as env, pytest.raises(EnvironmentFault, match=f"decision 4 .*{says}"):
        after(env, 4)


@pytest.mark.parametrize(
    ("start", "says"),
    [
        (lambda: np.array([0, math.nan]), "observation is not finite: element 1 is nan"),
        (lambda: np.zeros(5), r"must have shape \(2,\), got \(5,\)"),
        (lambda: [][0], "IndexError: list index out of range"),
        (lambda: np.linalg.inv(np.zeros((2, 2))), "LinAlgError: Singular matrix"),
    ],
)
def test_a_reset_has_no_episode_to_cut(register: Register, start: Callable[[], np.ndarray], says: str) -> None:
    """What goes wrong at a reset, a divergence too, is a fault: there is no good observation to go back to."""

    class Stillborn(Toy):
        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed, options=options)
            return (start() if begun else self.point), {}

    begun: list[int] = []
    register(Stillborn)
    with closing(make_env(TOY)) as env:
        after(env, 1)
        begun.append(1)
        with pytest.raises(EnvironmentFault, match=f"Toy-v0 failed at a reset: .*{says}"):
            env.reset(seed=1)


def test_ctrl_c_passes(register: Register) -> None:
    """Ctrl-C inside an environment is no fault of it."""
    register(raising(KeyboardInterrupt()))
    with closing(make_env(TOY)) as env, pytest.raises(KeyboardInterrupt):
        after(env, 4)


def test_a_reading_beyond_its_space_is_told_once(register: Register, caplog: pytest.LogCaptureFixture) -> None:
    """A sensor that reads what its space does not have is named once, with both: degrees for radians show so."""

    class Degrees(Toy):
        observation_space = Dict({"joints": Dict({"position": Box(-4, 4, (2,)), "speed": Box(-4, 4, ())})})

        def reset(self, **options: Any) -> Any:
            super().reset(**options)
            return self.sense(), {}

        def step(self, action: Any) -> Any:
            return self.sense(), *super().step(action)[1:]

        def sense(self) -> Any:
            return {"joints": {"position": np.float32([1, 57.3]), "speed": np.float32(0)}}

    register(Degrees)
    with closing(make_env(TOY)) as env:
        env.reset(seed=0)
        for _ in range(3):
            env.step(np.zeros(1, np.float32))
    (said,) = [record.getMessage() for record in caplog.records if record.name == "tdmpc.env_faults"]
    assert (
        said
        == f"{TOY}: the observation 'joints/position' reads 57.3, outside of its space, -4 to 4; is it in another unit?"
    )

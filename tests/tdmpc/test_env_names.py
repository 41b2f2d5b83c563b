"""Laws of the names of environments."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from tdmpc.env_names import UnsupportedEnvironment, available, resolve
from tdmpc.envs import describe, make_env
from tests.tdmpc.env_toys import Sled


@pytest.fixture
def sled_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, register: Callable[..., str]) -> Iterator[str]:
    """A module of the user's that registers ``Sled-v0`` when it is imported."""
    (tmp_path / "sledge.py").write_text(
        "import gymnasium\ndef make(**options):\n    return gymnasium.make('Toy-v0').unwrapped\n"
        "gymnasium.register('Sled-v0', entry_point=make, max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    register(Sled)
    gym.registry.pop("Sled-v0", None)  # another test may have registered its own
    yield "sledge"
    sys.modules.pop("sledge", None)
    gym.registry.pop("Sled-v0", None)


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


@pytest.mark.parametrize("line", ["raise RuntimeError('no driver')", "1 / 0", "import sys; sys.exit(3)", "def"])
def test_a_module_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Whatever a module raises when it is imported is one line with the module, what it was and where."""
    (tmp_path / "faulty.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UnsupportedEnvironment, match=r"^faulty:A-v0: module 'faulty' fails .*: .*\(.*:\d+\)$"
    ) as caught:
        resolve("faulty:A-v0")
    assert "\n" not in str(caught.value)


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

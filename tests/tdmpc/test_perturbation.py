"""Laws of perturbations: an episode's are drawn from its seed alone, none leaves anything behind, off is as it was."""

import dataclasses
from collections.abc import Callable
from contextlib import closing
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from tdmpc.config import PerturbConfig
from tdmpc.env_names import UnsupportedEnvironment
from tdmpc.envs import NOMINAL, make_env
from tdmpc.perturbation import PerturbedDynamics, PerturbedSignals
from tests.tdmpc.conftest import TOY, Toy

ALL = PerturbConfig(
    observation_delay=2,
    observation_noise=0.1,
    dropped_sensors=0.1,
    stuck_sensors=0.2,
    fault_decisions=3,
    action_noise=0.2,
    masses=0.3,
    friction=0.3,
    damping=0.3,
    gains=0.3,
)
FIELDS = ["body_mass", "body_inertia", "geom_friction", "dof_damping", "actuator_gainprm", "body_subtreemass"]
ROBOTS = ["cartpole-swingup", "walker-walk", "Hopper-v5"]


def only(strength: str, value: float) -> PerturbConfig:
    return dataclasses.replace(NOMINAL, **{strength: value})


def model_of(env: gym.Env) -> mujoco.MjModel:
    bare: Any = env.unwrapped
    return bare.physics.model.ptr if hasattr(bare, "physics") else bare.model


def copies(env: gym.Env) -> dict[str, np.ndarray]:
    return {name: getattr(model_of(env), name).copy() for name in FIELDS}


def played(env: gym.Env, seed: int, decisions: int = 8, size: float = 1.0) -> np.ndarray:
    """The observations of an episode's begin; the actions are always the same."""
    random = np.random.default_rng(0)
    observations = [env.reset(seed=seed)[0]]
    for _ in range(decisions):
        action = size * random.uniform(-1, 1, env.action_space.shape or ())
        observations.append(env.step(action.astype(np.float32))[0])
    return np.stack(observations)


@pytest.mark.parametrize("name", ROBOTS)
def test_an_episode_is_its_seeds(name: str) -> None:
    """With everything perturbed, a seed's episode has the same bits whatever was played before; another's differs."""
    with closing(make_env(name, perturb=ALL)) as fresh, closing(make_env(name, perturb=ALL)) as used:
        expected = played(fresh, 2)
        played(used, 1)
        found = played(used, 2)
        assert np.array_equal(found, expected) and found.dtype == np.float32
        assert not np.array_equal(played(used, 3), expected)


@pytest.mark.parametrize("name", ROBOTS)
def test_an_episode_begins_with_the_nominal_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each draw starts from the nominal model: what a reset meets is the unperturbed model, derived masses included."""
    met = []
    with closing(make_env(name)) as plain, closing(make_env(name, perturb=ALL)) as env:
        nominal = copies(plain)
        reset = env.unwrapped.reset

        def watched(*, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            met.append(copies(env))
            return reset(seed=seed, options=options)

        monkeypatch.setattr(env.unwrapped, "reset", watched)
        for seed in range(3):
            env.reset(seed=seed)
            drawn = copies(env)
            assert not np.array_equal(drawn["body_mass"], nominal["body_mass"])
            assert not np.array_equal(drawn["body_subtreemass"], nominal["body_subtreemass"])
    assert len(met) == 3
    assert all(np.array_equal(each[field], nominal[field]) for each in met for field in FIELDS)


@pytest.mark.parametrize(
    ("strength", "field", "several"),
    [
        ("masses", "body_mass", True),
        ("friction", "geom_friction", False),
        ("damping", "dof_damping", True),
        ("gains", "actuator_gainprm", True),
    ],
)
def test_factors_lie_within_the_spread(strength: str, field: str, several: bool) -> None:
    """What is asked for, and nothing else, is multiplied by factors from [1 - x, 1 + x]: one for friction, for the
    others one each; half as strong, they are half as far from 1.
    """
    deviations = []
    for spread in (0.2, 0.4):
        with closing(make_env("walker-walk", perturb=only(strength, spread))) as env:
            nominal = copies(env)
            env.reset(seed=0)
            drawn = copies(env)
        moves = nominal[field] != 0
        deviation = drawn[field][moves] / nominal[field][moves] - 1
        assert 0 < abs(deviation).max() <= spread
        assert (len(set(deviation.round(9))) > 1) == several
        own = {field, "body_inertia", "body_subtreemass"} if strength == "masses" else {field}
        assert all(np.array_equal(drawn[name], nominal[name]) for name in {*FIELDS} - own)
        deviations.append(deviation)
    np.testing.assert_allclose(2 * deviations[0], deviations[1], atol=1e-12)


@pytest.mark.parametrize("strength", ["masses", "friction", "damping", "gains"])
def test_what_has_no_model_is_refused(strength: str) -> None:
    """Where there is no MuJoCo model, a perturbation of it is refused by its name, and the others are not."""
    says = f"Pendulum-v1 has no MuJoCo model, which --perturb.{strength} would change"
    with pytest.raises(UnsupportedEnvironment, match=says):
        make_env("Pendulum-v1", perturb=only(strength, 0.1))
    make_env("Pendulum-v1", perturb=PerturbConfig(observation_noise=0.1)).close()


def test_off_is_as_it_was() -> None:
    """Without perturbations no wrapper is there, and a perturbation of strength 0 beside others changes no bit."""
    with closing(make_env("Hopper-v5")) as plain:
        expected, wrappers = played(plain, 1), []
        env = plain
        while isinstance(env, gym.Wrapper):
            wrappers.append(type(env))
            env = env.env
    assert not {PerturbedSignals, PerturbedDynamics} & set(wrappers)
    with closing(PerturbedSignals(make_env("Hopper-v5"), NOMINAL)) as env:
        assert np.array_equal(played(env, 1), expected)


def perturbed_toy(register: Callable[..., str], **strengths: Any) -> tuple[np.ndarray, np.ndarray]:
    """Observations of an episode of the toy as it is, and perturbed."""
    with closing(make_env(register(Toy))) as plain, closing(make_env(TOY, perturb=PerturbConfig(**strengths))) as env:
        return played(plain, 4), played(env, 4)


def test_observations_come_late(register: Callable[..., str]) -> None:
    """With a delay of two decisions, the first observation is seen three times, and each other two decisions later."""
    true, seen = perturbed_toy(register, observation_delay=2)
    assert np.array_equal(seen, true[[0, 0, 0, 1, 2, 3, 4, 5, 6]])


def test_noise_has_its_deviation(register: Callable[..., str]) -> None:
    """Noise on readings and actions is as strong as asked for; that on actions reaches what they move."""
    true, seen = perturbed_toy(register, observation_noise=0.5)
    assert 0.3 < (seen - true).std() < 0.7
    true, seen = perturbed_toy(register, action_noise=0.5)
    assert not np.array_equal(seen[:, 0], true[:, 0]) and np.array_equal(seen[:, 1], true[:, 1])


def test_sensors_drop_and_stick(register: Callable[..., str]) -> None:
    """A dropped reading is 0, a stuck one what it was last, for so many decisions as asked for."""
    true, seen = perturbed_toy(register, dropped_sensors=0.2, fault_decisions=2)
    dropped = seen == 0
    assert dropped.any() and np.array_equal(seen[~dropped], true[~dropped])
    true, seen = perturbed_toy(register, stuck_sensors=0.3)
    stuck = seen != true
    assert stuck.any() and not stuck.all() and np.array_equal(seen[1:][stuck[1:]], seen[:-1][stuck[1:]])


def test_strengths_meet_the_same_draws(register: Callable[..., str]) -> None:
    """Twice the strength is the same noise, twice as large, whatever else is perturbed: strengths are paired."""
    true, once = perturbed_toy(register, observation_noise=0.1)
    _, twice = perturbed_toy(register, observation_noise=0.2)
    np.testing.assert_allclose(twice - true, 2 * (once - true), atol=1e-6)


def test_every_setting_is_covered() -> None:
    """The laws above perturb all that can be perturbed."""
    assert all(getattr(ALL, each.name) != each.default for each in dataclasses.fields(PerturbConfig))

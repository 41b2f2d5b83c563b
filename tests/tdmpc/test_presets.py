"""Laws of the presets: settings follow from what an environment tells."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from tdmpc.config import Linear, to_json
from tdmpc.config_checks import check
from tdmpc.envs import describe
from tdmpc.presets import MANY_ACTUATORS, MANY_SENSORS, discount, preset
from tdmpc.spec import EnvSpec
from tests.tdmpc.test_config import PUBLISHED, with_setting


@pytest.fixture
def walker(make_spec: Callable[..., EnvSpec]) -> EnvSpec:
    """What walker-walk tells, as far as presets look at it."""
    return dataclasses.replace(make_spec(24, 6), id=PUBLISHED.env, episode_steps=500)


def test_reference_is_the_published_setting(walker: EnvSpec) -> None:
    """Preset reference is the published table to the letter."""
    written_out = with_setting(PUBLISHED, "--loss.consistency-width", None)
    assert to_json(preset("reference", walker)) == to_json(written_out)


@pytest.mark.parametrize(
    ("env_id", "latent", "iterations", "batch_size"),
    [
        ("cartpole-swingup", 50, 6, 512),
        ("quadruped-walk", 50, 6, 512),
        ("Ant-v5", 50, 6, 512),
        ("humanoid-run", 100, 12, 512),
        ("humanoid_CMU-run", 100, 12, 512),
        ("dog-walk", 100, 8, 2048),
        ("Humanoid-v5", 100, 12, 512),
    ],
)
def test_large_bodies(env_id: str, latent: int, iterations: int, batch_size: int) -> None:
    """Bodies of many actuators or sensors have the published settings for such bodies, others the default's own."""
    reference, default = (preset(name, describe(env_id, terminates=False)) for name in ("reference", "default"))
    found = (reference.model.latent, reference.planner.iterations, reference.batch_size)
    assert found == (latent, iterations, batch_size)
    assert default.model.latent == latent
    assert default.planner.iterations == (iterations if latent == 100 else 3)


@pytest.mark.parametrize(("sensors", "actuators"), [(MANY_SENSORS, 3), (3, MANY_ACTUATORS)])
def test_a_robot_of_one_s_own(sensors: int, actuators: int, make_spec: Callable[..., EnvSpec]) -> None:
    """A user's large robot explores as long, and is as wide, as published; one sensor or actuator fewer is not."""
    large, small = (preset("default", make_spec(sensors - less, actuators - less)) for less in (0, 1))
    assert (large.model.dynamics, large.random_steps, large.planner.std) == ((512, 512), 5_000, PUBLISHED.planner.std)
    assert (small.model.dynamics, small.random_steps, small.planner.std.steps) == ((128, 128), 500, 5_000)
    assert (large.threads, small.threads) == (0, 1)


@pytest.mark.parametrize(
    ("decisions", "expected"), [(None, 0.99), (125, 0.99), (500, 0.99), (800, 0.99375), (1000, 0.995), (9999, 0.995)]
)
def test_long_episodes_look_further_ahead(decisions: int | None, expected: float, walker: EnvSpec) -> None:
    """From 500 decisions on the discount grows with the episode, up to 0.995."""
    assert discount(decisions) == pytest.approx(expected)
    assert preset("default", dataclasses.replace(walker, episode_steps=decisions)).loss.discount == discount(decisions)


def test_exploration_lasts_where_goals_move(walker: EnvSpec) -> None:
    """The default explores for 5,000 decisions; on reacher, whose goals move, for 25,000, with a lower discount."""
    reacher, walker = (
        preset("default", dataclasses.replace(walker, id=id)) for id in ("dm_control/reacher-hard-v0", walker.id)
    )
    assert (reacher.planner.std, reacher.loss.discount) == (PUBLISHED.planner.std, 0.95)
    assert (walker.planner.std, walker.loss.discount) == (Linear(0.5, 0.05, 5_000), 0.99)


def test_default_takes_any_units(walker: EnvSpec) -> None:
    """The default preset scales rewards and normalises observations."""
    model = preset("default", walker).model
    assert model.scale_rewards and model.normalize_observations


@pytest.mark.parametrize("name", ["default", "reference"])
def test_presets_pass_their_check(name: Any, walker: EnvSpec) -> None:
    """Every preset can be started, with an environment named or not."""
    check(preset(name, walker))
    check(preset(name))

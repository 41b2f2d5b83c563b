"""Presets: settings chosen by what an environment tells of itself.

``reference`` is the published setting of TD-MPC (arXiv 2203.04955). ``default`` learns faster per minute on a CPU: what
it changes was measured (docs/training.md), what was not measured stays as published.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

from tdmpc.config import Linear, LossConfig, ModelConfig, PlannerConfig, TrainConfig
from tdmpc.spec import EnvSpec

PresetName = Literal["default", "reference"]

MANY_ACTUATORS, MANY_SENSORS = 20, 200
"""A body with as many of either is large: humanoid (21 actuators), dog, Gymnasium's Humanoid (348 sensors)."""

PUBLISHED_DOG = "dm_control/dog-"
"""The one body whose published settings do not follow from its size."""

MOVING_GOALS = "dm_control/reacher-"
"""Each episode has another goal, without a reward far from it: exploration is needed for as long as published, and a
lower discount, with which values rise steeply towards goals not met before (docs/training.md)."""


def preset(name: PresetName, spec: EnvSpec | None = None) -> TrainConfig:
    """The settings of a preset for an environment; those for a small body when none is given."""
    if spec is None:
        return PRESETS[name](SMALL)
    return dataclasses.replace(PRESETS[name](spec), env=spec.id)


def is_large(spec: EnvSpec) -> bool:
    """Whether a body needs the larger latent and the longer search that are published for humanoid and dog."""
    return spec.action_dim >= MANY_ACTUATORS or spec.observation_dim >= MANY_SENSORS


def discount(episode_steps: int | None) -> float:
    """0.99 as published; for episodes of more than 500 decisions more, by TD-MPC2's rule (arXiv 2310.16828).

    The rule looks a fifth of an episode ahead: 1 - 5 / steps, at most 0.995. 1,000 decisions -> 0.995, 250 -> 0.99.
    """
    return 0.99 if episode_steps is None else min(max(1 - 5 / episode_steps, 0.99), 0.995)


def _reference(spec: EnvSpec) -> TrainConfig:
    large, dog = is_large(spec), spec.id.startswith(PUBLISHED_DOG)
    return TrainConfig(
        env=spec.id,
        random_steps=5_000,
        batch_size=2048 if dog else 512,
        model=ModelConfig(latent=100 if large else 50, scale_rewards=False, normalize_observations=False),
        planner=PlannerConfig(iterations=8 if dog else 12 if large else 6),
        loss=LossConfig(learning_rate=3e-4 if dog else 1e-3),
    )


def _default(spec: EnvSpec) -> TrainConfig:
    config = _any_units(_reference(spec), spec)
    return config if is_large(spec) else _quick(config, spec)


def _any_units(config: TrainConfig, spec: EnvSpec) -> TrainConfig:
    """Sensors and rewards in units of their own, episodes of any length."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, scale_rewards=True, normalize_observations=True),
        loss=dataclasses.replace(config.loss, discount=discount(spec.episode_steps)),
    )


def _quick(config: TrainConfig, spec: EnvSpec) -> TrainConfig:
    """Narrower layers, shorter horizons, smaller batches, fewer samples, an earlier end of exploration.

    One thread: compiled, a second one saves nothing at these widths, and threads that wait for each other crawl where
    anything else runs (docs/performance.md).
    """
    width, goal_moves = (128, 128), spec.id.startswith(MOVING_GOALS)
    std = config.planner.std if goal_moves else Linear(0.5, 0.05, 5_000)
    return dataclasses.replace(
        config,
        threads=1,
        random_steps=500,
        batch_size=128,
        model=dataclasses.replace(
            config.model, dynamics=width, reward=width, termination=width, policy=width, value=width
        ),
        planner=dataclasses.replace(
            config.planner,
            samples=128,
            elites=16,
            iterations=3,
            horizon=3,
            std=std,
            horizon_schedule=Linear(3, 3, 0),
        ),
        loss=dataclasses.replace(config.loss, horizon=3, discount=0.95 if goal_moves else config.loss.discount),
    )


PRESETS: dict[PresetName, Callable[[EnvSpec], TrainConfig]] = {"default": _default, "reference": _reference}

SMALL = EnvSpec(
    id="",
    observation_dim=1,
    action_dim=1,
    action_low=(-1.0,),
    action_high=(1.0,),
    action_repeat=1,
    terminates=False,
    episode_steps=None,
    control_period_ms=None,
    observation_layout=(("observation", (1,)),),
)
"""Stands for an environment that has not been named."""

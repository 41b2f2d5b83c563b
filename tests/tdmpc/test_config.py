"""Laws of the settings: presets, schedules, JSON and the check before a run."""

import dataclasses
import json
from math import inf as INFINITY
from math import nan as NAN
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tdmpc.config import (
    ConfigError,
    Linear,
    LossConfig,
    ModelConfig,
    PlannerConfig,
    ReplayConfig,
    TrainConfig,
    from_json,
    to_json,
)
from tdmpc.config_checks import check

WALKER = "dm_control/walker-walk-v0"
PUBLISHED = TrainConfig(
    env=WALKER,
    random_steps=5000,
    pretrain_updates=None,
    updates_per_step=1.0,
    batch_size=512,
    action_repeat=None,
    model=ModelConfig(
        latent=50,
        encoder=(256,),
        dynamics=(512, 512),
        reward=(512, 512),
        policy=(512, 512),
        value=(512, 512),
        value_heads=2,
        scale_rewards=False,
        normalize_observations=False,
    ),
    planner=PlannerConfig(
        horizon=5,
        samples=512,
        policy_trajectories=25,
        elites=64,
        iterations=6,
        temperature=0.5,
        momentum=0.1,
        max_std=2.0,
        std=Linear(0.5, 0.05, 25_000),
        horizon_schedule=Linear(1, 5, 25_000),
        policy_std=0.05,
        policy_noise_clip=0.3,
    ),
    loss=LossConfig(
        discount=0.99,
        horizon=5,
        rho=0.5,
        consistency=2.0,
        reward=0.5,
        value=0.1,
        learning_rate=1e-3,
        gradient_clip=10.0,
        target_rate=0.01,
        target_period=2,
        consistency_width=50,
    ),
    replay=ReplayConfig(alpha=0.6, beta=0.4),
)
"""The table of arXiv 2203.04955 and its code, written out."""


def with_setting(config: Any, flag: str, value: Any) -> Any:
    """``--planner.elites`` is ``config.planner.elites``."""
    name, _, rest = flag.removeprefix("--").replace("-", "_").partition(".")
    return dataclasses.replace(config, **{name: with_setting(getattr(config, name), rest, value) if rest else value})


# --------------------------------------------------------------------------------------------------------- kinds


def test_settings_are_frozen() -> None:
    """No setting can be changed in flight, at any depth."""
    config = PUBLISHED
    for owner in (config, config.model, config.planner, config.planner.std, config.loss, config.replay):
        field = dataclasses.fields(owner)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(owner, field, 1)


# ---------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(("step", "value"), [(-5, 0.5), (0, 0.5), (25, 0.4), (50, 0.3), (100, 0.1), (1000, 0.1)])
def test_linear_schedule(step: int, value: float) -> None:
    """A schedule is its start until step 0, its end from its last step on, and a straight line between."""
    assert Linear(0.5, 0.1, 100)(step) == pytest.approx(value)


def test_schedule_without_steps() -> None:
    """A schedule of no steps is at its end at once."""
    assert Linear(1, 5, 0)(0) == 5


@settings(max_examples=30)
@given(
    st.floats(-10, 10), st.floats(-10, 10), st.integers(1, 1000), st.lists(st.integers(0, 2000), min_size=2, max_size=9)
)
def test_schedule_never_turns_back(start: float, end: float, steps: int, at: list[int]) -> None:
    """A schedule moves one way only and stays between its ends."""
    schedule = Linear(min(start, end), max(start, end), steps)
    values = [schedule(step) for step in sorted(at)]
    assert values == sorted(values)
    assert all(min(start, end) - 1e-9 <= value <= max(start, end) + 1e-9 for value in values)


# --------------------------------------------------------------------------------------------------------- JSON

WIDTHS = st.lists(st.integers(1, 1024), min_size=1, max_size=3).map(tuple)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
LINES = st.builds(Linear, NUMBERS, NUMBERS, st.integers(0, 10**6))
CONFIGS = st.builds(
    TrainConfig,
    env=st.text(),
    seed=st.integers(0, 2**40),
    pretrain_updates=st.none() | st.integers(0, 100),
    terminates=st.none() | st.booleans(),
    precision=st.sampled_from(["auto", "float32", "bfloat16"]),
    model=st.builds(ModelConfig, encoder=WIDTHS, value=WIDTHS, scale_rewards=st.booleans()),
    planner=st.builds(PlannerConfig, std=LINES, horizon_schedule=LINES, temperature=POSITIVE),
    loss=st.builds(LossConfig, consistency=POSITIVE),
    replay=st.builds(ReplayConfig, alpha=POSITIVE),
)


@settings(max_examples=50)
@given(CONFIGS)
def test_json_round_trip(config: TrainConfig) -> None:
    """Settings written as JSON text and read back are equal, widths and schedules included."""
    assert from_json(TrainConfig, json.loads(json.dumps(to_json(config)))) == config


def test_json_of_an_older_version() -> None:
    """A setting that a file does not know yet gets its default, at any depth."""
    values = to_json(PUBLISHED)
    del values["num_envs"], values["model"]["value_heads"], values["replay"]
    assert from_json(TrainConfig, values) == PUBLISHED


def test_json_of_another_version(caplog: pytest.LogCaptureFixture) -> None:
    """A setting that this version does not have is left out, but not silently."""
    values = to_json(PUBLISHED)
    values["planner"] |= {"sampler": "sobol"}
    assert from_json(TrainConfig, values) == PUBLISHED
    assert "ignored: sampler of PlannerConfig" in caplog.text


# -------------------------------------------------------------------------------------------------------- check

BAD: list[tuple[str, Any]] = [
    ("--env-steps", 0),
    ("--batch-size", 0),
    ("--num-envs", 0),
    ("--checkpoint-every", 0),
    ("--eval-episodes", 0),
    ("--eval-every", -1),
    ("--random-steps", 4),
    ("--pretrain-updates", -1),
    ("--updates-per-step", -1.0),
    ("--updates-per-step", INFINITY),
    ("--action-repeat", 0),
    ("--max-episode-steps", 0),
    ("--threads", -1),
    ("--delay", (-1,)),
    ("--delay", (2, 1)),
    ("--delay", ()),
    ("--threads", 1.5),
    ("--seed", -1),
    ("--seed", 2**70),
    ("--precision", "float16"),
    ("--planner.horizon", 0),
    ("--planner.horizon-schedule", Linear(0, 5, 25_000)),
    ("--planner.samples", 0),
    ("--planner.policy-trajectories", -1),
    ("--planner.iterations", 0),
    ("--planner.elites", 0),
    ("--planner.elites", 538),
    ("--planner.momentum", 1.5),
    ("--planner.temperature", -0.5),
    ("--planner.temperature", NAN),
    ("--planner.std", Linear(-0.5, 0.05, 25_000)),
    ("--planner.std.steps", -5),
    ("--planner.std.end", NAN),
    ("--planner.max-std", 0.0),
    ("--planner.max-change", 0.0),
    ("--perturb.observation-noise", -0.1),
    ("--perturb.dropped-sensors", 1.1),
    ("--perturb.fault-decisions", 0),
    ("--perturb.masses", 1.0),
    ("--planner.max-std", 0.4),
    ("--loss.horizon", 0),
    ("--loss.target-period", 0),
    ("--loss.learning-rate", 0.0),
    ("--loss.learning-rate", INFINITY),
    ("--loss.discount", 0.0),
    ("--loss.discount", 1.0),
    ("--loss.value", -1.0),
    ("--loss.consistency-width", 0),
    ("--loss.gradient-clip", 0.0),
    ("--loss.target-rate", 1.5),
    ("--loss.rho", -0.5),
    ("--model.latent", 0),
    ("--model.dynamics", (512, 0)),
    ("--model.value-heads", 0),
    ("--model.value", ()),
    ("--replay.capacity", 3),
    ("--replay.alpha", -1.0),
]


@pytest.mark.parametrize(("flag", "value"), BAD)
def test_check_names_a_bad_setting(flag: str, value: Any) -> None:
    """A setting that cannot work is refused before the start, by its name on the command line."""
    with pytest.raises(ConfigError, match=f"^{flag} "):
        check(with_setting(PUBLISHED, flag, value))


def test_check_names_every_problem() -> None:
    """All bad settings are named at once."""
    config = with_setting(
        with_setting(with_setting(PUBLISHED, "--threads", -1), "--batch-size", 0), "--model.value", ()
    )
    with pytest.raises(ConfigError) as refusal:
        check(config)
    assert all(flag in str(refusal.value) for flag in ("--threads", "--batch-size", "--model.value"))


@pytest.mark.parametrize(("setting", "value"), [("seed", "5"), ("model", 3), ("env_steps", None), ("compile", 1)])
def test_json_of_another_type(setting: str, value: Any) -> None:
    """A value of another type in a file is refused by the setting's name."""
    with pytest.raises(ConfigError, match=f"^--{setting.replace('_', '-')} must"):
        from_json(TrainConfig, {**to_json(PUBLISHED), setting: value})

"""Settings in place of defaults, and what they must not be together, found before anything is started."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from tdmpc.config import ConfigError, TrainConfig, from_json, to_json
from tdmpc.spec import EnvSpec

T = TypeVar("T")


def check(config: TrainConfig) -> None:
    """Refuse settings that cannot work, before anything is started.

    Raises:
        ConfigError: every problem, by the setting's name on the command line.
    """
    problems = list(_contradictions(config))
    try:
        from_json(TrainConfig, to_json(config))
    except ConfigError as error:
        problems.insert(0, str(error))
    if problems:
        raise ConfigError("; ".join(problems))


def check_delay(config: TrainConfig, spec: EnvSpec) -> None:
    """Refuse a delay after which an episode is over.

    Raises:
        ConfigError: it is as long as an episode, or longer.
    """
    delays = {"--delay": max(config.delay), "--perturb.observation-delay": config.perturb.observation_delay}
    for name, delay in delays.items():
        if spec.episode_steps is not None and delay >= spec.episode_steps:
            raise ConfigError(f"{name} must be less than the {spec.episode_steps} decisions of an episode, got {delay}")


def _contradictions(config: TrainConfig) -> Iterator[str]:
    """What is wrong between settings that are possible each on its own."""
    planner, window = config.planner, config.loss.horizon
    if config.random_steps < window:
        yield f"--random-steps must be at least the {window} of --loss.horizon, got {config.random_steps}"
    if config.replay.capacity < window * config.num_envs:
        yield (
            f"--replay.capacity must be at least {window * config.num_envs}, a window of --loss.horizon for each of "
            f"--num-envs, got {config.replay.capacity}"
        )
    if list(config.delay) != sorted(config.delay):
        yield f"--delay must be the least and then the largest, got {config.delay}"
    candidates = planner.samples + planner.policy_trajectories
    if planner.elites > candidates:
        yield f"--planner.elites must be at most the {candidates} candidates of a plan, got {planner.elites}"
    if min(planner.horizon_schedule.start, planner.horizon_schedule.end) < 1:
        yield f"--planner.horizon-schedule must stay at 1 or more, got {planner.horizon_schedule}"
    least_std, largest_std = sorted((planner.std.start, planner.std.end))
    if least_std < 0:
        yield f"--planner.std must stay at 0 or more, got {planner.std}"
    if planner.max_std < largest_std:
        yield f"--planner.max-std must be at least the {largest_std} that --planner.std reaches, got {planner.max_std}"


def overridden(default: T, settings: Mapping[str, Any]) -> T:
    """A config with some settings in place of its own; those of a part are in a mapping, or the part itself.

    Raises:
        ConfigError: a setting does not exist, or cannot have its value.
    """
    return from_json(type(default), _merged(to_json(default), settings, ""))


def _merged(values: Mapping[str, Any], settings: Mapping[str, Any], above: str) -> dict[str, Any]:
    for name, value in settings.items():
        if name not in values:
            close = difflib.get_close_matches(name, values, n=1)
            hint = f"did you mean {above}{close[0]}?" if close else f"there are {', '.join(values)}"
            raise ConfigError(f"there is no setting {above}{name}: {hint}")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            settings = {**settings, name: to_json(value)}
        elif isinstance(values[name], Mapping) and isinstance(value, Mapping):
            settings = {**settings, name: _merged(values[name], value, f"{above}{name}.")}
    return {**values, **settings}

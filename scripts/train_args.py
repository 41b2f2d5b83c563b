"""The arguments of ``tdmpc train``: defaults by preset, environment or earlier run; and what of them cannot be."""

import argparse
import dataclasses
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tdmpc import compiling, runs
from tdmpc.compression.config import PruneConfig, check_ladder, resolved
from tdmpc.compression.config import check as check_pruning
from tdmpc.compression.tdmpc_agent.groups import agent_groups
from tdmpc.config import ConfigError, ModelConfig, TrainConfig, to_json
from tdmpc.config_checks import check, check_delay, overridden
from tdmpc.device import find_device, resolve_precision
from tdmpc.env_names import resolve
from tdmpc.envs import NOMINAL, describe, make_env
from tdmpc.presets import PRESETS, PresetName, preset
from tdmpc.spec import EnvOptions, EnvSpec
from tdmpc.wandb_sink import WandbMode

CHANGEABLE = {
    *("env_steps", "eval_every", "eval_episodes", "curve_episodes", "checkpoint_every", "threads", "device", "compile")
}
"""Settings that may differ when a run goes on; the others are part of what it learned."""


@dataclass(frozen=True)
class TrackArgs:
    """Weights & Biases and TensorBoard, beside the files in the run folder. A run that goes on keeps these settings."""

    mode: Annotated[WandbMode, tyro.conf.arg(name="wandb")] = "disabled"
    """Whether and where to log."""
    files: Annotated[Literal["none", "tensorboard"], tyro.conf.arg(name="track")] = "none"
    """Also write event files for TensorBoard, into ``tensorboard/`` of the run folder."""
    project: Annotated[str, tyro.conf.arg(name="wandb-project")] = "tdmpc"
    """Project of Weights & Biases."""
    group: Annotated[str | None, tyro.conf.arg(name="wandb-group")] = None
    """Runs that belong together, for example the seeds of one experiment."""
    tags: Annotated[tuple[str, ...], tyro.conf.arg(name="wandb-tags")] = ()
    """Words to find the run by."""


SETTINGS_FILES = (".toml", ".json")
"""What a file of settings may end with; no environment does."""

CURVE_POINTS, CURVE_LEAST = 10, 2_000
"""Evaluations of one episode that make the curve of a run, and environment steps between them at least."""
LONGER = 5
"""Decisions, at most, by which a delay makes the windows of an update longer."""


@dataclass(frozen=True)
class TrainArgs:
    """Train a TD-MPC agent. Every setting below can be set here; the defaults shown are the preset's."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    preset: PresetName = "default"
    """Values of all settings that are not given: ``default`` for a CPU, ``reference`` as published."""
    run_dir: Path | None = None
    """New folder for the run; runs/ENV-SEED when not given."""
    resume: Path | None = None
    """Go on with this run instead of a new one. ENV is not needed then."""
    video: bool = False
    """Film the first episode of the final evaluation."""
    prune: PruneConfig = field(default_factory=PruneConfig)
    track: Annotated[TrackArgs, tyro.conf.arg(name="")] = field(default_factory=TrackArgs)


Ask = Callable[[TrainArgs], TrainArgs]
"""What a user asks for, given the defaults of all that is left open."""


def parse(arguments: list[str]) -> tuple[TrainArgs, EnvSpec]:
    """What the command line asks for, in ENV's place perhaps with a file of settings below it."""
    given, words = _parse(arguments, TrainArgs(preset(_preset_named(arguments)))), arguments
    settings: Mapping[str, Any] = {}
    if Path(given.config.env).suffix in SETTINGS_FILES:
        settings = read_settings(Path(given.config.env))
        words = [word for word in arguments if word != given.config.env]
    return settled(lambda default: _parse(words, with_settings(default, settings)))


def settled(ask: Ask) -> tuple[TrainArgs, EnvSpec]:
    """Several passes: the preset and the environment, or the run to go on with, decide the defaults of the rest."""
    args = ask(TrainArgs(preset("default")))
    if args.resume is not None:
        if args.run_dir is not None or args.preset != "default":
            raise ConfigError(
                "--resume goes on in the same folder with the same preset: leave out --run-dir and --preset"
            )
        track = runs.settings(args.resume, "track", TrackArgs, TrackArgs())
        saved = TrainArgs(runs.config(args.resume), prune=started_with(args.resume), track=track)
        args, spec = _resolved(ask(saved)), runs.spec(args.resume)
        _refuse_changes(saved, args)
    else:
        if not args.config.env:
            raise ConfigError("which environment? For example: tdmpc train cartpole-swingup ('tdmpc envs' lists them)")
        asked = ask(TrainArgs(preset(args.preset))).config
        check(asked)
        options = EnvOptions(action_repeat=asked.action_repeat, max_episode_steps=asked.max_episode_steps)
        if asked.perturb != NOMINAL:  # what cannot be is refused before minutes of random play
            make_env(asked.env, perturb=asked.perturb, **options).close()
        spec = describe(asked.env, terminates=asked.terminates, **options)
        args = _resolved(ask(TrainArgs(_suited(preset(args.preset, spec), asked, spec))))
        check_delay(args.config, spec)
    check(args.config)
    return _on_this_machine(args), spec


def with_settings(default: TrainArgs, settings: Mapping[str, Any]) -> TrainArgs:
    """Arguments with settings in place of defaults.

    Args:
        default: what counts where nothing is said.
        settings: of ``TrainConfig`` and ``TrainArgs`` by name; those of a part in a mapping of its own, as
            ``{"env_steps": 5000, "planner": {"samples": 64}, "prune": {"target": 0.75}}``.

    Raises:
        ConfigError: a setting does not exist, or cannot have its value.
    """
    rest = {field.name for field in dataclasses.fields(TrainArgs)} - {"config"}
    config = {name: value for name, value in settings.items() if name not in rest}
    given = {name: value for name, value in settings.items() if name in rest}
    return overridden(dataclasses.replace(default, config=overridden(default.config, config)), given)


def read_settings(path: Path) -> Mapping[str, Any]:
    """The settings in a TOML file, or those of a run by its ``config.json``.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        if path.suffix == ".toml":
            return tomllib.loads(path.read_text())
        parts = json.loads(path.read_text())
        return {**parts["config"], "prune": parts.get("prune", {})}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no settings ({type(error).__name__}: {error}). Give a TOML file with names as in "
            "docs/training.md, or the config.json of a run"
        ) from error


def _preset_named(arguments: list[str]) -> PresetName:
    """The preset that the arguments ask for, so that ``--preset reference --help`` shows its defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="default")
    name = parser.parse_known_args(arguments)[0].preset
    return name if name in PRESETS else "default"


def _parse(arguments: list[str], default: TrainArgs) -> TrainArgs:
    return tyro.cli(TrainArgs, args=arguments, default=default, prog="tdmpc train")


def _resolved(args: TrainArgs) -> TrainArgs:
    return dataclasses.replace(args, config=dataclasses.replace(args.config, env=resolve(args.config.env)))


def _suited(config: TrainConfig, asked: TrainConfig, spec: EnvSpec) -> TrainConfig:
    """A preset's settings, for what else was asked.

    Compiled where that makes a run of such a length quicker. A model that has to predict through a delay, and then what
    is planned, learns from windows that are as much longer, up to where ``loss.rho`` leaves little of an error.
    """
    updates = asked.env_steps / spec.action_repeat * asked.updates_per_step
    loss = dataclasses.replace(config.loss, horizon=config.loss.horizon + min(max(asked.delay), LONGER))
    config = dataclasses.replace(config, compile=compiling.pays(updates, asked.device), loss=loss)
    every = asked.env_steps // CURVE_POINTS
    if every < CURVE_LEAST or asked.eval_every:
        return config
    return dataclasses.replace(config, eval_every=every, curve_episodes=1)


def _on_this_machine(args: TrainArgs) -> TrainArgs:
    """With the precision that ``auto`` stands for here, so that the run goes on in the same one elsewhere."""
    precision = resolve_precision(args.config, find_device(args.config.device))
    return dataclasses.replace(args, config=dataclasses.replace(args.config, precision=precision))


def _refuse_changes(saved: TrainArgs, args: TrainArgs) -> None:
    before, after = ({**to_json(one.config), "prune": to_json(one.prune)} for one in (saved, args))
    changed = sorted(name for name in before if before[name] != after[name] and name not in CHANGEABLE)
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} cannot change when a run goes on; only {', '.join(sorted(CHANGEABLE))} can. "
            f"Start a new run instead of --resume {args.resume}"
        )


def started_with(folder: Path) -> PruneConfig:
    """How a run is pruned; not at all where it was made before pruning was there."""
    return runs.settings(folder, "prune", PruneConfig, PruneConfig())


def with_pruning(args: TrainArgs, spec: EnvSpec, current: ModelConfig, *, first_update: int) -> TrainArgs:
    """The arguments with every setting of pruning filled in and checked.

    Args:
        args: of a run that is about to start; its config has the dense widths.
        spec: the environment.
        current: widths that it starts with.
        first_update: environment step from which on it learns.
    """
    config, ladder = args.config, args.prune.ladder
    if ladder:
        check_ladder(args.prune)
        top = dataclasses.replace(args, prune=args.prune.rung(ladder[-1]))
        with_pruning(top, spec, current, first_update=first_update)  # what cannot be reached is told before it begins
    if not args.prune.active:
        return args
    span = {"first_update": first_update, "length": config.env_steps}
    prune = resolved(args.prune, **span)
    dense, now = (agent_groups(model, spec, config.planner) for model in (config.model, current))
    check_pruning(prune, dense, now, **span)
    return dataclasses.replace(args, prune=prune)

"""``tdmpc train``: from an environment id to a run folder with an agent."""

import argparse
import dataclasses
import json
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from compression.config import PruneConfig, resolved
from compression.config import check as check_pruning
from compression.tdmpc_agent.groups import agent_groups
from compression.tdmpc_agent.hook import AgentPruner
from scripts.report.command import write_report
from tdmpc import checkpoint, compiling, runs
from tdmpc.agent import device, resolve_precision
from tdmpc.config import ConfigError, ModelConfig, TrainConfig, check, check_delay, to_json
from tdmpc.console import ConsoleSink
from tdmpc.env_names import resolve
from tdmpc.envs import NOMINAL, describe, make_env
from tdmpc.evaluation import Evaluation, frame_rate
from tdmpc.files import going_on
from tdmpc.metrics import JsonlSink, Metrics, Sink, read_rows
from tdmpc.presets import PRESETS, PresetName, is_large, preset
from tdmpc.pruner import NoPruning
from tdmpc.rows import evaluation_row
from tdmpc.spec import EnvOptions, EnvSpec
from tdmpc.trainer import Trainer
from tdmpc.video import write_video
from tdmpc.wandb_sink import WandbMode, WandbSink

log = logging.getLogger("tdmpc")

CHANGEABLE = {"env_steps", "eval_every", "eval_episodes", "checkpoint_every", "threads", "device", "compile"}
"""Settings that may differ when a run goes on; the others are part of what it learned."""


@dataclass(frozen=True)
class TrackArgs:
    """Weights & Biases; files in the run folder are written in any case."""

    mode: Annotated[WandbMode, tyro.conf.arg(name="wandb")] = "disabled"
    """Whether and where to log."""
    project: Annotated[str, tyro.conf.arg(name="wandb-project")] = "tdmpc"
    group: Annotated[str | None, tyro.conf.arg(name="wandb-group")] = None
    """Runs that belong together, for example the seeds of one experiment."""
    tags: Annotated[tuple[str, ...], tyro.conf.arg(name="wandb-tags")] = ()


@dataclass(frozen=True)
class TrainArgs:
    """Train a TD-MPC agent. Every setting below can be set here; the defaults shown are the preset's."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    preset: PresetName = "default"
    """Where the settings start: ``default`` for a CPU, ``reference`` as published."""
    run_dir: Path | None = None
    """New folder for the run; runs/ENV-SEED when not given."""
    resume: Path | None = None
    """Go on with this run instead; ENV is not needed then."""
    video: bool = False
    """Film the first episode of the final evaluation."""
    prune: PruneConfig = field(default_factory=PruneConfig)
    track: Annotated[TrackArgs, tyro.conf.arg(name="")] = field(default_factory=TrackArgs)


def main(arguments: list[str]) -> int:
    """Parse, then train or resume."""
    args, spec = parse(arguments)
    if args.resume is None:
        start(args, spec)
    else:
        resume(args, args.resume)
    return 0


def parse(arguments: list[str]) -> tuple[TrainArgs, EnvSpec]:
    """Several passes: the preset and the environment, or the run to go on with, decide the defaults of the rest."""
    args = _parse(arguments, TrainArgs(preset(_preset_named(arguments))))
    if args.resume is not None:
        if args.run_dir is not None or args.preset != "default":
            raise ConfigError(
                "--resume goes on in the same folder with the same preset: leave out --run-dir and --preset"
            )
        saved = TrainArgs(runs.config(args.resume), prune=started_with(args.resume))
        args, spec = _resolved(_parse(arguments, saved)), runs.spec(args.resume)
        _refuse_changes(saved, args)
    else:
        if not args.config.env:
            raise ConfigError("which environment? For example: tdmpc train cartpole-swingup ('tdmpc envs' lists them)")
        check(args.config)
        asked = args.config
        options = EnvOptions(action_repeat=asked.action_repeat, max_episode_steps=asked.max_episode_steps)
        if asked.perturb != NOMINAL:  # what cannot be is refused before minutes of random play
            make_env(asked.env, perturb=asked.perturb, **options).close()
        spec = describe(asked.env, terminates=asked.terminates, **options)
        args = _resolved(_parse(arguments, TrainArgs(_quickest(preset(args.preset, spec), asked, spec))))
        check_delay(args.config, spec)
    check(args.config)
    return _on_this_machine(args), spec


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


def _quickest(config: TrainConfig, asked: TrainConfig, spec: EnvSpec) -> TrainConfig:
    """A preset's settings, compiled where that makes a run of the asked length quicker."""
    updates = asked.env_steps / spec.action_repeat * asked.updates_per_step
    return dataclasses.replace(config, compile=compiling.pays(updates, asked.device))


def _on_this_machine(args: TrainArgs) -> TrainArgs:
    """With the precision that ``auto`` stands for here, so that the run goes on in the same one elsewhere."""
    precision = resolve_precision(args.config, device(args.config.device))
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
    config = args.config
    if not args.prune.active:
        return args
    span = {"first_update": first_update, "length": config.env_steps}
    prune = resolved(args.prune, **span)
    dense, now = (agent_groups(model, spec, config.planner) for model in (config.model, current))
    check_pruning(prune, dense, now, **span)
    return dataclasses.replace(args, prune=prune)


def start(args: TrainArgs, spec: EnvSpec) -> dict[str, Any]:
    """A new run: make its folder, train, evaluate. Returns the summary."""
    args = with_pruning(args, spec, args.config.model, first_update=args.config.random_steps * spec.action_repeat)
    short = spec.id.rpartition("/")[2].rpartition(":")[2]
    folder = args.run_dir or runs.unused(Path("runs"), f"{short}-{args.config.seed}")
    ending = ", or terminate before" if spec.terminates else ""
    with runs.new(folder):
        log.info(
            "%s into %s: %d observations, %d actions, action repeat %d; episodes last %d decisions%s",
            *(spec.id, folder, spec.observation_dim, spec.action_dim, spec.action_repeat, spec.episode_steps, ending),
        )
        log.info("%s", _chosen(args, spec))
        return _train(args, spec, folder)


def _chosen(args: TrainArgs, spec: EnvSpec) -> str:
    """What was chosen for this environment, in a sentence."""
    config, body = args.config, "large" if is_large(spec) else "small"
    return (
        f"preset {args.preset} for a {body} body: latent {config.model.latent}, dynamics {config.model.dynamics}, "
        f"{config.planner.iterations} planner iterations of {config.planner.samples} samples, {config.random_steps:,} "
        f"random decisions, exploration until decision {config.planner.std.steps:,}, discount {config.loss.discount}"
    )


def resume(args: TrainArgs, folder: Path) -> dict[str, Any]:
    """Go on with a run exactly where its last checkpoint left it. Returns the summary."""
    with runs.locked(folder):
        return go_on(args, folder)


def go_on(args: TrainArgs, folder: Path) -> dict[str, Any]:
    """The same with a run that this process has locked already."""
    spec = runs.spec(folder)
    if spec.episode_steps is None:  # it began with a version that did not ask
        log.warning(
            "no time limit of %s is known: if its evaluation never ends, begin anew with --max-episode-steps", spec.id
        )
    return _train(args, spec, folder)


def _write_config(args: TrainArgs, spec: EnvSpec, folder: Path) -> None:
    parts = {name: to_json(part) for name, part in (("config", args.config), ("spec", spec), ("prune", args.prune))}
    runs.write_settings(folder, {**parts, "revision": _revision(folder)})


def _revision(folder: Path) -> str | None:
    """The commit that a run begins with, and each other one that it goes on with: ``1a2b3c4, then 5d6e7f8``."""
    now, path = runs.revision(), folder / runs.CONFIG
    before = json.loads(path.read_text()).get("revision") if path.exists() else None
    if before is None or now is None:
        return before or now
    return before if before.split(", then ")[-1] == now else f"{before}, then {now}"


def _train(args: TrainArgs, spec: EnvSpec, folder: Path) -> dict[str, Any]:
    trainer = _opened(args, spec, folder)  # reads and checks everything; from here on the folder is written to
    start_env_steps = trainer.env_steps
    _write_config(args, spec, folder)
    with (
        going_on(f"tdmpc train --resume {folder}"),
        ConsoleSink(
            args.config.env_steps, start_env_steps=start_env_steps, action_repeat=spec.action_repeat
        ) as console,
        JsonlSink(folder / runs.METRICS, resume_at=start_env_steps) as rows,
        _wandb(args, folder) as wandb,
    ):
        trainer.sink = Metrics([console, rows, wandb])
        with _stop_on_interrupt(trainer):
            trainer.run()
            result = trainer.evaluate(args.config.eval_episodes, record=args.video)
        return _conclude(trainer, result)


def _opened(args: TrainArgs, spec: EnvSpec, folder: Path) -> Trainer:
    """A trainer where the last checkpoint of a run left it, or at its start."""
    if (folder / runs.METRICS).exists():
        read_rows(folder / runs.METRICS)
    saved = checkpoint.load(folder) if runs.has_checkpoint(folder) else None
    if saved is not None:
        _refuse_shorter(args, folder, made=saved.meta["env_steps"])
    pruner = AgentPruner(args.prune, args.config.model, folder) if args.prune.active else NoPruning()
    trainer = Trainer(args.config, spec, folder, Sink(), pruner)
    if saved is not None:
        log.info(trainer.restore(saved))
    elif (folder / runs.CONFIG).exists():
        log.info("%s was stopped before its first checkpoint; it starts again from step 0", folder)
    return trainer


def _refuse_shorter(args: TrainArgs, folder: Path, *, made: int) -> None:
    asked = args.config.env_steps
    if asked < made and asked != runs.config(folder).env_steps:  # a run's own end may lie within its last decision
        raise ConfigError(
            f"--env-steps must be at least the {made} that {folder} has made, got {asked}: it cannot become shorter"
        )


def _conclude(trainer: Trainer, result: Evaluation) -> dict[str, Any]:
    """Write what a finished run shows: row, curve, film; the summary, which says that it is finished; and the page."""
    folder, spec, sink = trainer.folder, trainer.spec, trainer.sink
    sink.log(evaluation_row(trainer, result))
    runs.write_curve(folder / runs.CURVE_TABLE, read_rows(folder / runs.METRICS))
    if result.frames:
        write_video(folder / runs.VIDEO, result.frames, frame_rate(spec))
        sink.video(folder / runs.VIDEO, trainer.env_steps)
    meta = {name: getattr(trainer, name) for name in ("env_steps", "agent_steps", "wall_s", "cpu_s")}
    summary = runs.summary(trainer.agent, result, meta=meta, dense=trainer.config.model)
    runs.write_json(folder / runs.SUMMARY, summary)
    for picture in write_report(folder):
        sink.image(f"report/{picture.path.stem}", picture.path, trainer.env_steps)
    log.info("return %.1f +- %.1f over %d episodes", result.return_mean, result.return_std, len(result.returns))
    return summary


def _wandb(args: TrainArgs, folder: Path) -> Sink:
    return WandbSink(
        args.track.mode,
        project=args.track.project,
        config=to_json(args.config),
        run_dir=folder,
        name=folder.name,
        group=args.track.group,
        tags=args.track.tags,
    )


@contextmanager
def _stop_on_interrupt(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) saves and stops; a second one stops at once."""

    def stop(*_: object) -> None:
        trainer.stop_requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""``tdmpc train``: from an environment id to a run folder with an agent."""

import json
import logging
import math
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tdmpc import checkpoint, machine, runs
from tdmpc.compression.tdmpc_agent.hook import AgentPruner
from tdmpc.config import ConfigError, TrainConfig, to_json
from tdmpc.console import ConsoleSink
from tdmpc.evaluation import Evaluation
from tdmpc.files import going_on
from tdmpc.metrics import JsonlSink, Metrics, Sink, read_rows
from tdmpc.presets import is_large
from tdmpc.pruner import NoPruning
from tdmpc.rows import evaluation_row
from tdmpc.scripts.film import write_film
from tdmpc.scripts.ladder import climb
from tdmpc.scripts.report.command import write_report
from tdmpc.scripts.train_args import (
    SETTINGS_FILES,
    TrainArgs,
    parse,
    read_settings,
    settled,
    with_pruning,
    with_settings,
)
from tdmpc.spec import EnvSpec
from tdmpc.trainer import Trainer
from tdmpc.wandb_sink import WandbSink

log = logging.getLogger("tdmpc")

RUNG = 0.2
"""Steps of each rung of a ladder, as a share of the run's."""


def main(arguments: list[str]) -> int:
    """Parse, then train or resume."""
    _run(*parse(arguments))
    return 0


def train(env: str | Path | TrainConfig = "", /, **settings: Any) -> Path:
    """Train an agent; what ``tdmpc train`` does.

    Args:
        env: an environment's name, a file of settings (``.toml``, or the ``config.json`` of a run), or all settings of
            a run. Without the last, the preset decides what is not given.
        settings: of ``TrainConfig``, by name, those of a part in a mapping: ``env_steps=5000``,
            ``planner={"samples": 64}``, ``prune={"target": 0.75}``. Also ``preset``, ``run_dir``, ``video``, ``track``,
            and ``resume``, the folder of a run to go on with.

    Returns:
        the run folder: checkpoint, metrics, curves, summary and page.

    Raises:
        ConfigError: a setting does not exist, or cannot have its value.
        UnsupportedEnvironment: the environment is not one that an agent can learn.
        RunError: the run folder cannot be used.
    """
    if isinstance(env, TrainConfig):
        settings = {**to_json(env), **settings}
    elif Path(env).suffix in SETTINGS_FILES:
        settings = {**read_settings(Path(env)), **settings}
    elif env:
        settings = {"env": env, **settings}
    return _run(*settled(partial(with_settings, settings=settings)))


def _run(args: TrainArgs, spec: EnvSpec) -> Path:
    return start(args, spec) if args.resume is None else resume(args, args.resume)


def start(args: TrainArgs, spec: EnvSpec) -> Path:
    """A new run: make its folder, train, evaluate. Returns the folder."""
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
        if spec.control_period_ms is None:
            log.warning(
                "%s tells no control period, so its controller cannot tell old observations, nor real time: give "
                "the environment an attribute dt, the seconds of one of its steps",
                spec.id,
            )
        _train(args, spec, folder)
        _climb(args, folder)
        return folder


def _climb(args: TrainArgs, folder: Path) -> None:
    """The ladder above a finished run, if one was asked for."""
    steps = max(round(RUNG * args.config.env_steps), 1)
    climb(folder, args, steps=steps, name=folder, go_on=go_on, again=f"tdmpc train --resume {folder}")


def _chosen(args: TrainArgs, spec: EnvSpec) -> str:
    """What was chosen for this environment, in a sentence."""
    config, body = args.config, "large" if is_large(spec) else "small"
    return (
        f"preset {args.preset} for a {body} body: latent {config.model.latent}, dynamics {config.model.dynamics}, "
        f"{config.planner.iterations} planner iterations of {config.planner.samples} samples, {config.random_steps:,} "
        f"random decisions, exploration until decision {config.planner.std.steps:,}, discount {config.loss.discount}"
    )


def resume(args: TrainArgs, folder: Path) -> Path:
    """Go on with a run exactly where its last checkpoint left it. Returns its folder."""
    with runs.locked(folder):
        go_on(args, folder)
        _climb(args, folder)
        return folder


def go_on(args: TrainArgs, folder: Path) -> Path:
    """The same with a run that this process has locked already."""
    spec = runs.spec(folder)
    if spec.episode_steps is None:  # it began with a version that did not ask
        log.warning(
            "no time limit of %s is known: if its evaluation never ends, begin anew with --max-episode-steps", spec.id
        )
    return _train(args, spec, folder)


def _write_config(args: TrainArgs, spec: EnvSpec, folder: Path) -> None:
    named = {"config": args.config, "spec": spec, "prune": args.prune, "track": args.track}
    parts = {name: to_json(part) for name, part in named.items()}
    path = folder / runs.CONFIG
    before = json.loads(path.read_text()) if path.exists() else {}
    preset = before.get("preset", args.preset)  # a run that goes on has left it where it was
    runs.write_settings(folder, {**parts, "preset": preset, "revision": _revision(before.get("revision"))})


def _revision(before: str | None) -> str | None:
    """The commit that a run begins with, and each other one that it goes on with: ``1a2b3c4, then 5d6e7f8``."""
    now = runs.revision()
    if before is None or now is None:
        return before or now
    return before if before.split(", then ")[-1] == now else f"{before}, then {now}"


def _train(args: TrainArgs, spec: EnvSpec, folder: Path) -> Path:
    trainer = _opened(args, spec, folder)  # reads and checks everything; from here on the folder is written to
    start_env_steps = trainer.env_steps
    _write_config(args, spec, folder)
    with (
        going_on(f"tdmpc train --resume {folder}"),
        ConsoleSink(
            args.config.env_steps,
            start_env_steps=start_env_steps,
            action_repeat=spec.action_repeat,
            learns_from=args.config.random_steps * spec.action_repeat,
        ) as console,
        JsonlSink(folder / runs.METRICS, resume_at=start_env_steps) as rows,
        _wandb(args, folder) as wandb,
        _tensorboard(args, folder, start_env_steps) as tensorboard,
    ):
        trainer.sink = Metrics([console, rows, wandb, tensorboard])
        with _stop_on_interrupt(trainer):
            trainer.run()
            result = trainer.evaluate(args.config.eval_episodes, record=args.video)
        _conclude(trainer, result)
    return folder


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


def _conclude(trainer: Trainer, result: Evaluation) -> None:
    """Write what a finished run shows: row, curve, film; the summary, which says that it is finished; and the page."""
    folder, spec, sink = trainer.folder, trainer.spec, trainer.sink
    sink.log(evaluation_row(trainer, result))
    runs.write_curve(folder / runs.CURVE_TABLE, read_rows(folder / runs.METRICS))
    if result.frames:
        write_film(folder / runs.VIDEO, result, trainer.config, spec)
        sink.video(folder / runs.VIDEO, trainer.env_steps)
    meta = {name: getattr(trainer, name) for name in ("env_steps", "agent_steps", "wall_s", "cpu_s")}
    summary = runs.summary(trainer.agent, result, meta=meta, dense=trainer.config.model)
    runs.write_json(folder / runs.SUMMARY, {**summary, "sensors": _sensors(trainer)})
    for picture in write_report(folder):
        sink.image(f"report/{picture.path.stem}", picture.path, trainer.env_steps)
    log.info("return %.1f +- %.1f over %d episodes", result.return_mean, result.return_std, len(result.returns))


def _sensors(trainer: Trainer) -> dict[str, list[list[float]]]:
    """Least and largest value of each reading of a sensor in the replay."""
    low, high = (ends.tolist() for ends in trainer.replay.observation_range())
    ranges, start = {}, 0
    for name, shape in trainer.spec.observation_layout:
        end = start + math.prod(shape)
        ranges[name] = [list(ends) for ends in zip(low[start:end], high[start:end], strict=True)]
        start = end
    return ranges


def _wandb(args: TrainArgs, folder: Path) -> Sink:
    return WandbSink(
        args.track.mode,
        project=args.track.project,
        config=_all_settings(folder),
        run_dir=folder,
        name=folder.name,
        group=args.track.group,
        tags=args.track.tags,
    )


def _all_settings(folder: Path) -> dict[str, Any]:
    """What a run is grouped by: all of its settings, and what it was made with and on."""
    parts = json.loads((folder / runs.CONFIG).read_text())
    more = {name: parts[name] for name in ("prune", "preset", "revision")}
    return {**parts["config"], **more, "processor": machine.processor()}


def _tensorboard(args: TrainArgs, folder: Path, start_env_steps: int) -> Sink:
    if args.track.files == "none":
        return Sink()
    from tdmpc.tensorboard_sink import TensorBoardSink  # it needs tensorboard

    return TensorBoardSink(folder / "tensorboard", config=_all_settings(folder), resume_at=start_env_steps)


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

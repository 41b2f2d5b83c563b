"""A ladder of agents: each rung is pruned from the one before and trained on, in an ordinary run folder of its own."""

import dataclasses
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from tdmpc import checkpoint, runs
from tdmpc.checkpoint import CheckpointError
from tdmpc.config import ModelConfig, from_json, to_json
from tdmpc.metrics import read_rows
from tdmpc.scripts.train_args import CHANGEABLE, TrainArgs, started_with, with_pruning
from tdmpc.trainer import Interrupted

log = logging.getLogger("tdmpc")

GoOn = Callable[[TrainArgs, Path], Path]
"""Train a run to its end, from its last checkpoint."""


def pruned_on(run: Path, args: TrainArgs, *, steps: int) -> TrainArgs:
    """The arguments with which a finished run is pruned and trained on for so many environment steps.

    Args:
        run: the finished run.
        args: its own settings, and how it is to be pruned; what it is called and shown with.
        steps: environment steps of further training.

    Raises:
        PruneError: it cannot be pruned so.
        CheckpointError, MetricsError: what cannot be read of it.
    """
    saved = checkpoint.load(run, prefixes=("agent/",))
    if (run / runs.METRICS).exists():
        read_rows(run / runs.METRICS)
    done, current = saved.meta["env_steps"], from_json(ModelConfig, saved.meta["config"]["model"])
    longer = dataclasses.replace(args, config=dataclasses.replace(args.config, env_steps=done + steps))
    return with_pruning(longer, runs.spec(run), current, first_update=done)


def start_from(run: Path, folder: Path) -> None:
    """Copy what a resumed run starts from: settings, record, and a checkpoint that knows of no earlier pruning.

    Raises:
        RunError: it could not be written; nothing of it is left.
    """
    saved = checkpoint.load(run)
    tensors = {name: tensor for name, tensor in saved.tensors.items() if not name.startswith("pruner/")}
    try:
        for name in (runs.CONFIG, runs.METRICS):
            if (run / name).exists():
                shutil.copy(run / name, folder / name)
        checkpoint.save(folder, tensors, {**saved.meta, "pruner": {}})
    except (OSError, CheckpointError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise runs.RunError(
            f"cannot copy {run} to {folder}: {error.__cause__ or error}. Free some space, or choose another --run-dir"
        ) from error


def climb(run: Path, args: TrainArgs, *, steps: int, name: Path, go_on: GoOn, again: str) -> list[Path]:
    """Prune a finished run rung by rung; rungs that are there already stay, and one that was stopped goes on.

    Args:
        run: the finished run.
        args: its settings, and the ladder.
        steps: environment steps of each rung.
        name: rung 0.5 is the folder ``name`` with ``-0.5`` behind it.
        go_on: trains.
        again: the command that goes on with the ladder.

    Returns:
        The rungs' folders.

    Raises:
        RunError: one of them is another run.
        Interrupted: the user asked to stop; everything has been saved.
    """
    rungs, before = [], run
    for rung in args.prune.ladder:
        folder = name.with_name(f"{name.name}-{rung:g}")
        rung_args = pruned_on(before, dataclasses.replace(args, prune=args.prune.rung(rung)), steps=steps)
        with runs.locked(folder) if (folder / runs.CONFIG).exists() else runs.new(folder):
            if _is_new(before, folder, rung_args):
                start_from(before, folder)
            if not (folder / runs.SUMMARY).exists():
                log.info("rung %g of the ladder: %s", rung, folder)
                try:
                    go_on(rung_args, folder)
                except Interrupted:
                    raise Interrupted(f"stopped and saved. Go on with: {again}") from None
        rungs.append(folder)
        before = folder
    return rungs


def _is_new(before: Path, folder: Path, args: TrainArgs) -> bool:
    """Whether nothing of a rung is there yet, or not more than a copy that was not finished.

    Raises:
        RunError: the folder is another run.
    """
    if not (folder / runs.CONFIG).exists():
        return True
    found, wanted = (
        {key: value for key, value in to_json(config).items() if key not in CHANGEABLE}
        for config in (runs.config(folder), args.config)
    )
    if found != wanted or started_with(folder) not in (args.prune, started_with(before)):
        raise runs.RunError(
            f"{folder} is another run than this rung of the ladder, and is never overwritten: move it away, or "
            "choose another --run-dir"
        )
    return not runs.has_checkpoint(folder)

"""``tdmpc prune``: make the agent of a finished run smaller, in a new run folder, and train on."""

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from tdmpc import checkpoint, runs
from tdmpc.checkpoint import CheckpointError
from tdmpc.compression.config import PruneConfig, PruneError
from tdmpc.config import ModelConfig, from_json
from tdmpc.config_checks import overridden
from tdmpc.metrics import read_rows
from tdmpc.scripts.evaluate import show
from tdmpc.scripts.train import go_on
from tdmpc.scripts.train_args import TrackArgs, TrainArgs, with_pruning


@dataclass(frozen=True)
class PruneArgs:
    """Prune a finished run while it trains on. The run itself stays as it is. Steps count from the run's start."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    prune: Annotated[PruneConfig, tyro.conf.arg(name="")]
    finetune_steps: int = 5_000
    """Environment steps of further training. The pruning events lie in these steps."""
    run_dir: Path | None = None
    """New folder; RUN-pruned when not given."""
    threads: int | None = None
    """Threads of the tensor library; the run's own when not given."""
    video: bool = False
    """Film the first episode of the final evaluation."""
    track: Annotated[TrackArgs, tyro.conf.arg(name="")] = field(default_factory=TrackArgs)


def main(arguments: list[str]) -> int:
    """Parse, prune, show what came out."""
    args = tyro.cli(PruneArgs, args=arguments, default=PruneArgs(Path(), PruneConfig(target=0.75)), prog="tdmpc prune")
    folder = _pruned(args)
    show(json.loads((folder / runs.SUMMARY).read_text()), title=str(folder))
    return 0


def prune(run: Path | str, **settings: Any) -> Path:
    """Prune a finished run while it trains on; what ``tdmpc prune`` does.

    Args:
        run: a run folder; it stays as it is.
        settings: of ``PruneConfig``, by name, as ``target=0.9``; and ``finetune_steps``, ``run_dir``, ``threads``,
            ``video``, ``track``.

    Returns:
        the folder of the new run.

    Raises:
        ConfigError: a setting does not exist, or cannot have its value.
        PruneError: such pruning cannot be.
        CheckpointError: there is no finished run.
    """
    rest = {field.name for field in dataclasses.fields(PruneArgs)}
    pruning = {name: value for name, value in settings.items() if name not in rest}
    own = {name: value for name, value in settings.items() if name in rest}
    return _pruned(overridden(PruneArgs(Path(run), overridden(PruneConfig(target=0.75), pruning)), own))


def _pruned(args: PruneArgs) -> Path:
    if args.finetune_steps < 1:
        raise PruneError(f"--finetune-steps must be positive, got {args.finetune_steps}")
    if not args.prune.target:
        raise PruneError("--target must be above 0: nothing would be pruned")
    saved = checkpoint.load(args.run)
    if (args.run / runs.METRICS).exists():
        read_rows(args.run / runs.METRICS)
    config, done = runs.config(args.run), saved.meta["env_steps"]
    threads = config.threads if args.threads is None else args.threads
    config = dataclasses.replace(config, env_steps=done + args.finetune_steps, threads=threads)
    current = from_json(ModelConfig, saved.meta["config"]["model"])
    train = TrainArgs(config, prune=args.prune, video=args.video, track=args.track)
    try:
        train = with_pruning(train, runs.spec(args.run), current, first_update=done)
    except PruneError as error:
        raise PruneError(str(error).replace("--prune.", "--")) from error  # here they are this command's own
    folder = args.run_dir or runs.unused(args.run.parent, f"{args.run.name}-pruned")
    with runs.new(folder):
        _copy(args.run, folder, saved)
        del saved  # gigabytes, where the replay is large
        return go_on(train, folder)


def _copy(run: Path, folder: Path, saved: checkpoint.Checkpoint) -> None:
    """What a resumed run starts from: settings, record, and a checkpoint that knows nothing of an earlier pruning.

    Raises:
        RunError: it could not be written; nothing of it is left.
    """
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

"""``tdmpc prune``: make the agent of a finished run smaller, in a new run folder, and train on."""

import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from tdmpc import runs
from tdmpc.compression.config import PruneConfig, PruneError
from tdmpc.config_checks import overridden
from tdmpc.scripts.evaluate import show
from tdmpc.scripts.ladder import climb, pruned_on, start_from
from tdmpc.scripts.train import go_on
from tdmpc.scripts.train_args import TrackArgs, TrainArgs

TARGET = 0.75
"""Share of the budget that goes when neither a target nor a ladder is given."""


@dataclass(frozen=True)
class PruneArgs:
    """Prune a finished run while it trains on. The run itself stays as it is. Steps count from the run's start."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    prune: Annotated[PruneConfig, tyro.conf.arg(name="")]
    finetune_steps: int = 5_000
    """Environment steps of further training, in which the pruning events lie; of each rung, where there is a ladder."""
    run_dir: Path | None = None
    """New folder; RUN-pruned when not given. The rungs of a ladder have their share behind its name: RUN-0.75."""
    threads: int | None = None
    """Threads of the tensor library; the run's own when not given."""
    video: bool = False
    """Film the first episode of the final evaluation."""
    track: Annotated[TrackArgs, tyro.conf.arg(name="")] = field(default_factory=TrackArgs)


def main(arguments: list[str]) -> int:
    """Parse, prune, show what came out."""
    args = tyro.cli(
        PruneArgs, args=arguments, default=PruneArgs(Path(), PruneConfig(target=TARGET)), prog="tdmpc prune"
    )
    for folder in _folders(args, again=shlex.join(["tdmpc", "prune", *arguments])):
        show(json.loads((folder / runs.SUMMARY).read_text()), title=str(folder))
    return 0


def prune(run: Path | str, **settings: Any) -> Path:
    """Prune a finished run while it trains on; what ``tdmpc prune`` does.

    Args:
        run: a run folder; it stays as it is.
        settings: of ``PruneConfig``, by name, as ``target=0.9``; and ``finetune_steps``, ``run_dir``, ``threads``,
            ``video``, ``track``.

    Returns:
        the folder of the new run; of the last rung where there is a ladder.

    Raises:
        ConfigError: a setting does not exist, or cannot have its value.
        PruneError: such pruning cannot be.
        CheckpointError: there is no finished run.
    """
    rest = {field.name for field in dataclasses.fields(PruneArgs)}
    pruning = {name: value for name, value in settings.items() if name not in rest}
    own = {name: value for name, value in settings.items() if name in rest}
    args = overridden(PruneArgs(Path(run), overridden(PruneConfig(target=TARGET), pruning)), own)
    return _folders(args, again="the same call of tdmpc.prune")[-1]


def _folders(args: PruneArgs, *, again: str) -> list[Path]:
    """Check, prune, once or rung by rung; the new runs."""
    if args.finetune_steps < 1:
        raise PruneError(f"--finetune-steps must be positive, got {args.finetune_steps}")
    config = runs.config(args.run)
    threads = config.threads if args.threads is None else args.threads
    config = dataclasses.replace(config, threads=threads)
    train = TrainArgs(config, prune=args.prune, video=args.video, track=args.track)
    try:
        return _ladder(args, train, again) if args.prune.ladder else [_pruned(args, train)]
    except PruneError as error:
        raise PruneError(str(error).replace("--prune.", "--")) from error  # here they are this command's own


def _pruned(args: PruneArgs, train: TrainArgs) -> Path:
    """The run pruned once, in a new folder."""
    if not args.prune.target:
        raise PruneError("--target must be above 0: nothing would be pruned")
    train = pruned_on(args.run, train, steps=args.finetune_steps)
    folder = args.run_dir or runs.unused(args.run.parent, f"{args.run.name}-pruned")
    with runs.new(folder):
        start_from(args.run, folder)
        go_on(train, folder)
    return folder


def _ladder(args: PruneArgs, train: TrainArgs, again: str) -> list[Path]:
    """The run pruned rung by rung."""
    if args.prune.target == TARGET:  # nobody asked for another one, which is refused beside a ladder
        train = dataclasses.replace(train, prune=dataclasses.replace(args.prune, target=0.0))
    pruned_on(args.run, train, steps=args.finetune_steps)  # what is wrong with the ladder is told at once
    name = args.run_dir or args.run
    return climb(args.run, train, steps=args.finetune_steps, name=name, go_on=go_on, again=again)

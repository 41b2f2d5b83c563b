"""``tdmpc prune``: make the agent of a finished run smaller, in a new run folder, and train on."""

import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from compression.config import PruneConfig, PruneError
from scripts.evaluate import show
from scripts.ladder import climb, pruned_on, start_from
from scripts.train import go_on
from scripts.train_args import TrackArgs, TrainArgs
from tdmpc import runs

TARGET = 0.75
"""Share of the budget that goes when neither a target nor a ladder is given."""


@dataclass(frozen=True)
class PruneArgs:
    """Prune a finished run while it trains on; the run itself stays as it is. Steps count from the run's start."""

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
    """Parse, copy the run, go on with the copy."""
    args = tyro.cli(
        PruneArgs, args=arguments, default=PruneArgs(Path(), PruneConfig(target=TARGET)), prog="tdmpc prune"
    )
    if args.finetune_steps < 1:
        raise PruneError(f"--finetune-steps must be positive, got {args.finetune_steps}")
    config = runs.config(args.run)
    threads = config.threads if args.threads is None else args.threads
    config = dataclasses.replace(config, threads=threads)
    train = TrainArgs(config, prune=args.prune, video=args.video, track=args.track)
    try:
        folders = _ladder(args, train, arguments) if args.prune.ladder else [_pruned(args, train)]
    except PruneError as error:
        raise PruneError(str(error).replace("--prune.", "--")) from error  # here they are this command's own
    for folder in folders:
        show(json.loads((folder / runs.SUMMARY).read_text()), title=str(folder))
    return 0


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


def _ladder(args: PruneArgs, train: TrainArgs, arguments: list[str]) -> list[Path]:
    """The run pruned rung by rung."""
    if args.prune.target == TARGET:  # nobody asked for another one, which is refused beside a ladder
        train = dataclasses.replace(train, prune=dataclasses.replace(args.prune, target=0.0))
    pruned_on(args.run, train, steps=args.finetune_steps)  # what is wrong with the ladder is told at once
    again = shlex.join(["tdmpc", "prune", *arguments])
    name = args.run_dir or args.run
    return climb(args.run, train, steps=args.finetune_steps, name=name, go_on=go_on, again=again)

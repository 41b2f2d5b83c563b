"""``tdmpc autoencoder``: a second user of the compression code; how well images survive, by criterion and size."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from tdmpc import runs
from tdmpc.compression.config import PruneConfig, check, resolved
from tdmpc.compression.importance import CRITERIA, CriterionName
from tdmpc.compression.pruner import OnlinePruner
from tdmpc.compression.records import EVENTS, IMPORTANCE, read
from tdmpc.config import ConfigError, to_json
from tdmpc.files import write_whole
from tdmpc.scripts import ranges
from tdmpc.scripts.autoencoder_model import Autoencoder, Shape, Training, count, psnr, scratch_shape
from tdmpc.scripts.csv_tables import write_table
from tdmpc.scripts.digits import Images, digits, mnist
from tdmpc.scripts.report.comparison import gallery, tradeoff
from tdmpc.scripts.report.page import page, saved
from tdmpc.scripts.report.pruning import importance, losses, outcome, units, widths

DENSE, SCRATCH = "dense", "scratch"
"""Not pruned; and of about a pruned model's size from the start, the reference that pruning has to beat."""
STEP = "updates"
TABLE = "results.csv"
ROUNDED = {"parameters_left": 4, "psnr": 3}
"""Digits behind the point, in the table."""


@dataclass(frozen=True)
class AutoencoderArgs:
    """Train an autoencoder on images of digits and prune it while it trains, by each criterion to each target.

    The images are scikit-learn's bundled digits (1,797 of 8 x 8), or MNIST's.
    """

    criteria: tuple[CriterionName, ...] = tuple(CRITERIA)
    """Criteria to compare."""
    targets: tuple[float, ...] = (0.5, 0.75, 0.9)
    """Shares of the parameters to remove."""
    seeds: tuple[int, ...] = (0,)
    """Each trains all of them anew."""
    steps: int = 2000
    """Updates of each training."""
    batch_size: int = 128
    """Pictures in an update."""
    learning_rate: float = 1e-3
    """Of the optimiser."""
    shape: Shape = field(default_factory=Shape)
    """Widths before pruning."""
    prune: PruneConfig = field(default_factory=lambda: PruneConfig(budget="parameters", min_width=2, guard=False))
    """Targets and criteria come from the options above. The guard is off, so that every criterion reaches every target.
    With observe, the dense training also records the scores by all criteria."""
    mnist: Path | None = None
    """Folder with MNIST's IDX files, packed (.gz) or not. Nothing is downloaded."""
    run_dir: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = Path("runs/autoencoder")
    """New folder for tables, pictures and report.html."""
    threads: int = 1
    """Threads of the tensor library."""


# Experiments -----------------------------------------------------------------------------------------------------


def train(
    args: AutoencoderArgs, shape: Shape, images: Images, seed: int, prune: PruneConfig | None, folder: Path
) -> tuple[Autoencoder, list[dict[str, Any]]]:
    """Train one model, pruned or not; returns it and a row of what it reached in regular distances."""
    torch.manual_seed(seed)
    training = Training(shape, images, args.learning_rate)
    pruner = OnlinePruner(prune, training.groups, folder, seed=seed) if prune else None
    rows = []
    for step in range(1, args.steps + 1):
        training.update(images.train[torch.randint(len(images.train), (args.batch_size,))], pruner)
        if pruner:
            training = pruner.advance(training, step=step)
        if step % max(args.steps // 60, 1) == 0:
            row = pruner.row() if pruner else {}
            rows.append({"kind": "eval", "env_steps": step, "psnr": psnr(training.model, images.held_out), **row})
    return training.model, rows


class Run(NamedTuple):
    """One training."""

    method: str
    """A criterion, ``dense`` or ``scratch``."""
    target: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.method}-{self.target:g}-{self.seed}"


def every_run(args: AutoencoderArgs) -> list[Run]:
    """Every training, seed by seed."""
    return [
        Run(method, target, seed)
        for seed in args.seeds
        for method, targets in [(DENSE, (0.0,)), *((name, args.targets) for name in (SCRATCH, *args.criteria))]
        for target in targets
    ]


def pruning(args: AutoencoderArgs, run: Run) -> PruneConfig:
    """How a run is pruned, or a dense one watched, with everything filled in."""
    criterion: Any = args.prune.criterion if run.method == DENSE else run.method
    prune = dataclasses.replace(args.prune, target=run.target, criterion=criterion)
    return resolved(prune, first_update=0, length=args.steps)


def main(arguments: list[str]) -> int:
    """Train them all; write table, pictures and page."""
    args = tyro.cli(AutoencoderArgs, args=arguments, prog="tdmpc autoencoder")
    torch.set_num_threads(args.threads)
    logging.getLogger("compression").setLevel(logging.WARNING)  # events are in the records
    images = mnist(args.mnist) if args.mnist else digits()
    pixels, runs_to_do = images.train.shape[1], every_run(args)
    _check(args, pixels)
    folder = runs.create(args.run_dir)
    table, models, curves = [], {}, {}
    for number, run in enumerate(runs_to_do, start=1):
        shape = scratch_shape(args.shape, pixels, run.target) if run.method == SCRATCH else args.shape
        watched = run.method == DENSE and args.prune.observe
        prune = pruning(args, run) if run.method in args.criteria or watched else None
        (folder / run.name).mkdir()
        models[run], curves[run] = train(args, shape, images, run.seed, prune, folder / run.name)
        left = count(models[run].shape, pixels) / count(args.shape, pixels)
        table.append({**run._asdict(), "parameters_left": left, "psnr": psnr(models[run], images.test)})
        print(f"{number}/{len(runs_to_do)} {run.name}: {left:.1%} of the parameters, {table[-1]['psnr']:.2f} dB")
    rounded = [{**row, **{name: f"{row[name]:.{digits}f}" for name, digits in ROUNDED.items()}} for row in table]
    write_table(folder / TABLE, rounded)
    _report(args, folder, table, models, curves, images)
    _show(table, args)
    print(folder / "report.html")
    return 0


def _check(args: AutoencoderArgs, pixels: int) -> None:
    """Refuse what cannot work before the first training; raises ConfigError or PruneError."""
    ranges.check(
        args, ConfigError, positive=["steps", "batch_size", "threads", "learning_rate"], not_negative=["seeds"]
    )
    lengths = {"--criteria": len(args.criteria), "--targets": len(args.targets), "--seeds": len(args.seeds)}
    problems = [f"{flag} needs at least one" for flag, length in lengths.items() if not length]
    if problems:
        raise ConfigError("; ".join(problems))
    groups = Autoencoder(args.shape, pixels).groups
    for target in args.targets:
        prune = pruning(args, Run(args.criteria[0], target, 0))
        check(prune, groups, groups, first_update=0, length=args.steps)
        scratch_shape(args.shape, pixels, target)


def _show(table: Sequence[Mapping[str, Any]], args: AutoencoderArgs) -> None:
    means = _means(table)
    shown = Table("method", *(f"-{target:.0%}" for target in args.targets), title="PSNR of test pictures, dB")
    shown.add_row(DENSE, *[f"{means[DENSE, 0.0]:.2f}"] * len(args.targets))
    for method in (SCRATCH, *args.criteria):
        shown.add_row(method, *(f"{means[method, target]:.2f}" for target in args.targets))
    Console().print(shown)


def _means(table: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float], float]:
    """Mean PSNR over the seeds, by method and target."""
    return pd.DataFrame(table).groupby(["method", "target"])["psnr"].mean().to_dict()


# Report ----------------------------------------------------------------------------------------------------------


def _report(
    args: AutoencoderArgs,
    folder: Path,
    table: list[dict[str, Any]],
    models: Mapping[Run, Autoencoder],
    curves: Mapping[Run, list[dict[str, Any]]],
    images: Images,
) -> None:
    """Pictures and page; what happens inside a run is shown for the first criterion at the largest target."""
    target, seed = max(args.targets), args.seeds[0]
    shown = Run(args.criteria[0], target, seed)
    events, snapshots = (read(folder / shown.name / name) for name in (EVENTS, IMPORTANCE))
    pictures = []

    def add(*picture: Any) -> None:
        pictures.append(saved(folder, *picture))

    add(
        *("psnr", tradeoff(pd.DataFrame(table), dense=DENSE, scratch=SCRATCH), "Quality against size"),
        f"Test pictures, mean of {len(args.seeds)} seed(s). Scratch: evenly narrower from the start.",
    )
    rows = {"pictures": images.test[:10], **_reconstructions(models, images, seed, args)}
    add("reconstructions", gallery(rows, images.side), "Reconstructions", "The first ten test pictures.")
    for criterion in args.criteria:
        records = [read(folder / Run(criterion, target, seed).name / name) for name in (IMPORTANCE, EVENTS)]
        add(
            *(f"importance-{criterion}", importance(*records, step=STEP), f"Importance by {criterion}"),
            f"On the way to {target:.0%} fewer parameters. Mean score of the units that a layer has at the time, "
            "against its own mean over the run (at the right). Marks above: pruning events.",
        )
    about = f"{shown.method}, on the way to {target:.0%} fewer parameters. "
    add("units", units(snapshots, step=STEP), "Importance of units", f"{about}White from where it was removed.")
    add(
        *("widths", widths(snapshots, events, last=args.steps, step=STEP), "Widths"),
        f"{about}Dense width, arrow, width at the end.",
    )
    if events:
        names = {"label": "PSNR of held-out pictures, dB", "cost": "multiply-adds", "step": STEP}
        shrinking = outcome(curves[shown], train="psnr", evaluation="", **names)
        add("outcome", shrinking, "Quality while it shrinks", f"{about}Time goes to the right.")
        add("events", losses(events, step=STEP), "Events", f"{about}On held-out pictures.")
    text = page(
        title="Autoencoder, pruned while it trains",
        lead=f"{'MNIST' if args.mnist else 'digits'}, {len(images.train):,} pictures, {args.steps:,} updates",
        results={folder.name: _result(table, args)},
        pictures=pictures,
        events=events,
        step=STEP,
        unpruned="every target was refused by the guard",
        settings=json.dumps(to_json(args), indent=1, default=str),
    )
    write_whole(folder / "report.html", text.encode())


def _reconstructions(
    models: Mapping[Run, Autoencoder], images: Images, seed: int, args: AutoencoderArgs
) -> dict[str, Tensor]:
    chosen = {DENSE: Run(DENSE, 0.0, seed)}
    chosen |= {f"{args.criteria[0]}, -{target:.0%}": Run(args.criteria[0], target, seed) for target in args.targets}
    with torch.no_grad():
        return {label: models[run](images.test[:10]) for label, run in chosen.items()}


def _result(table: Sequence[Mapping[str, Any]], args: AutoencoderArgs) -> dict[str, str]:
    means = _means(table)
    lines = {DENSE: f"{means[DENSE, 0.0]:.2f} dB"}
    for target in args.targets:
        ranked = sorted((means[name, target] for name in args.criteria), reverse=True)
        best = [name for name in args.criteria if means[name, target] == ranked[0]]
        scratch = means[SCRATCH, target]
        lines[f"{target:.0%} fewer"] = f"best {ranked[0]:.2f} dB ({best[0]}), scratch {scratch:.2f} dB"
    return lines

"""What watched trainings (``--prune.observe``) say: ``python -m tdmpc.scripts.experiments.observed TASK RUN...``.

    agreement.csv  rank correlation of two criteria over the units of an axis, at the end; the mean over the axes
    moving.csv     rank correlation of a criterion with itself, between neighbouring snapshots and from early to late
    levels.csv     importance of each component, layer and of what is shared, over training

A method is a criterion. The trainings cut nothing, so that every unit is there from the first snapshot to the last.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional

from tdmpc.compression import records
from tdmpc.compression.observer import WATCHED
from tdmpc.scripts.collect_pruning import rank_correlation, snapshots_of
from tdmpc.scripts.csv_tables import add_rows

Snapshot = Mapping[str, Any]


@dataclass(frozen=True)
class ObservedArgs:
    """Make tables of watched trainings, one run a seed; rows of other tasks stay."""

    task: Annotated[Positional[str], tyro.conf.arg(metavar="TASK")]
    """What the rows are called by."""
    runs: Positional[tuple[Path, ...]]
    """Folders, of seed 0, 1, ..."""
    out: Path = Path("results/observed")
    """Folder of the tables."""


def agreement(last: Snapshot) -> Iterator[dict[str, Any]]:
    """One row for each pair of criteria."""
    for one, other in combinations(WATCHED, 2):
        yield {"method": one, "other": other, "rank": _rank(last, one, last, other)}


def moving(snapshots: Sequence[Snapshot]) -> Iterator[dict[str, Any]]:
    """One row for each criterion; the first snapshots know little, so that early means a fifth into the training."""
    early, last = snapshots[len(snapshots) // 5], snapshots[-1]
    for name in WATCHED:
        steps = [_rank(one, name, other, name) for one, other in pairwise(snapshots)]
        yield {
            "method": name,
            "neighbours": float(np.median(steps)),
            "least": min(steps),
            "early_late": _rank(early, name, last, name),
        }


def levels(snapshots: Sequence[Snapshot]) -> Iterator[dict[str, Any]]:
    """One row for each criterion, snapshot and level."""
    for snapshot in snapshots:
        for name in WATCHED:
            for level, value in snapshot["levels"][name].items():
                yield {"method": name, "env_steps": snapshot["env_steps"], "level": level, "importance": value}


def _rank(one: Snapshot, criterion: str, other: Snapshot, criterion_then: str) -> float:
    """The mean over the axes; where all scores of an axis are the same, it tells nothing and is left out."""
    found = [
        rank_correlation(
            *(
                {"units": snapshot["axes"][axis]["units"], "scores": snapshot["criteria"][name][axis]}
                for snapshot, name in ((one, criterion), (other, criterion_then))
            )
        )
        for axis in one["axes"]
    ]
    known = [rank for rank in found if rank is not None]
    return float(np.mean(known)) if known else float("nan")


def main(arguments: list[str]) -> int:
    """Parse, read, write."""
    args = tyro.cli(ObservedArgs, args=arguments, prog="python -m tdmpc.scripts.experiments.observed")
    tables: dict[str, list[dict[str, Any]]] = {"agreement": [], "moving": [], "levels": []}
    for seed, run in enumerate(args.runs):
        snapshots = snapshots_of(run / records.IMPORTANCE)
        found = {"agreement": agreement(snapshots[-1]), "moving": moving(snapshots), "levels": levels(snapshots)}
        for name, rows in found.items():
            tables[name] += [{"task": args.task, "seed": seed, **_short(row)} for row in rows]
    args.out.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        add_rows(args.out / f"{name}.csv", rows)
    return 0


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in row.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""``tdmpc report``: what a run did and what pruning did to it, as pictures and as one page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from tdmpc import runs
from tdmpc.compression.records import EVENTS, IMPORTANCE, read
from tdmpc.files import write_whole
from tdmpc.metrics import read_rows
from tdmpc.scripts.report import pruning
from tdmpc.scripts.report.page import Picture, page, saved
from tdmpc.scripts.report.style import Figure
from tdmpc.scripts.report.training import PUBLISHED, learning_curve, training_panels

PAGE = "report.html"
STEP = "environment steps"
CAPTIONS = {
    "importance": (
        "Importance of components and layers",
        "Mean score of the units that a layer has at the time, against its own mean over the run (at the right). Marks "
        "above: pruning events.",
    ),
    "units": (
        "Importance of units",
        "Each line is a unit, white from where it was removed; of the value, units of all heads.",
    ),
    "widths": ("Widths", "Dense width, arrow, width at the end."),
    "outcome": (
        "Return against what is left",
        "Every training episode at the size that the agent had when it ended; time goes to the right.",
    ),
    "events": (
        "Events",
        "Losses on windows from the replay, before and after each cut, and the value of plans in units of reward.",
    ),
}
"""Title and caption of the pictures of pruning."""


@dataclass(frozen=True)
class ReportArgs:
    """Write pictures and report.html into the folder of a run, finished or not, pruned or not."""

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""


def main(arguments: list[str]) -> int:
    """Read, draw, say where."""
    args = tyro.cli(ReportArgs, args=arguments, prog="tdmpc report")
    for picture in write_report(args.run):
        print(picture.path)
    print(args.run / PAGE)
    return 0


def write_report(folder: Path) -> list[Picture]:
    """Draw the pictures of a run and write its page; returns the pictures, each with its path.

    Raises:
        RunError: this is not a run folder.
    """
    spec, config = runs.spec(folder), runs.config(folder)
    rows = read_rows(folder / runs.METRICS) if (folder / runs.METRICS).exists() else []
    events = read(folder / EVENTS)
    learning_curve({spec.id: rows}, folder / runs.CURVE, title=spec.id, published=PUBLISHED.get(spec.id))
    training_panels(rows, folder / runs.PANELS, title=spec.id)
    pictures = [
        Picture(
            folder / runs.CURVE, "Return", "Return of training episodes, and of the evaluation without exploration."
        ),
        Picture(folder / runs.PANELS, "Training", "What the update reports; strong lines are running means."),
        *_pruning(folder, rows, events),
    ]
    text = page(
        title=f"{spec.id}, seed {config.seed}",
        lead=_lead(folder, rows),
        result=_result(folder),
        pictures=pictures,
        events=events,
        step=STEP,
        unpruned=_unpruned(folder),
        settings=(folder / runs.CONFIG).read_text(),
        video=folder / runs.VIDEO if (folder / runs.VIDEO).exists() else None,
    )
    write_whole(folder / PAGE, text.encode())
    return pictures


def _pruning(folder: Path, rows: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[Picture]:
    """The pictures of pruning, as far as there are records for them."""
    figures: dict[str, Figure] = {}
    snapshots = read(folder / IMPORTANCE)
    if snapshots:
        last = max(row["env_steps"] for row in [*rows, *snapshots])
        figures["importance"] = pruning.importance(snapshots, events, step=STEP)
        figures["units"] = pruning.units(snapshots, step=STEP)
        figures["widths"] = pruning.widths(snapshots, events, last=last, step=STEP)
    if events:
        figures["outcome"] = _outcome(rows)
        figures["events"] = pruning.losses(events, step=STEP)
    return [saved(folder, name, figure, *CAPTIONS[name]) for name, figure in figures.items()]


def _outcome(rows: list[dict[str, Any]]) -> Figure:
    left = 1.0
    sized = []
    for row in rows:  # evaluations do not tell the size that training left
        left = row.get("prune/macs_left", left)
        sized.append({**row, "prune/macs_left": left})
    return pruning.outcome(
        sized,
        train="return",
        evaluation="return_mean",
        label="return per episode",
        cost="multiply-adds of a plan",
        step=STEP,
    )


def _lead(folder: Path, rows: list[dict[str, Any]]) -> str:
    done = max([row["env_steps"] for row in rows], default=0)
    state = "finished" if (folder / runs.SUMMARY).exists() else "not finished"
    return f"{done:,} {STEP}, {state}; {folder.name}"


def _unpruned(folder: Path) -> str:
    target = json.loads((folder / runs.CONFIG).read_text()).get("prune", {}).get("target", 0)
    return f"no event yet on the way to {target:.0%}" if target else "the run was started without --prune.target"


def _result(folder: Path) -> dict[str, str]:
    """What came out, in words and units."""
    if not (folder / runs.SUMMARY).exists():
        return {"state": "the run has not come to its end yet"}
    summary = json.loads((folder / runs.SUMMARY).read_text())
    counts = {"multiply-adds of a plan": "planning_macs", "parameters": "parameters"}
    return {
        "return": f"{summary['return_mean']:.1f} ± {summary['return_std']:.1f} over {summary['episodes']} episodes",
        "environment steps": f"{summary['env_steps']:,}",
        **{name: _share(summary[key], summary.get(f"{key}_dense", summary[key])) for name, key in counts.items()},
        "time for a decision": f"{summary['ms_per_plan_p50']:.1f} ms, median; {summary['threads']} thread(s), "
        f"{summary['precision']}, load {summary['load_average']}",
        "training": f"{summary['wall_s'] / 60:.1f} min",
        "processor": summary["processor"],
    }


def _share(now: int, dense: int) -> str:
    return f"{now:,} of {dense:,} ({now / dense:.1%})" if now != dense else f"{now:,}"

"""``tdmpc report``: what a run did and what pruning did to it, as pictures and as one page."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from tdmpc import runs
from tdmpc.compression.records import EVENTS, IMPORTANCE, read
from tdmpc.deploy import timing
from tdmpc.files import write_whole
from tdmpc.metrics import read_rows
from tdmpc.runs import RunError
from tdmpc.scripts.protocol import CERTIFICATE
from tdmpc.scripts.report import pruning
from tdmpc.scripts.report.latency import label
from tdmpc.scripts.report.page import Picture, page, saved
from tdmpc.scripts.report.style import Figure
from tdmpc.scripts.report.training import PUBLISHED, learning_curve, training_panels

PAGE = "report.html"
STEP = "environment steps"
TIMES = "latency.json"
COLUMNS = {"p50_ms": "p50, ms", "p99_ms": "p99", "p999_ms": "p99.9", "max_ms": "max"}
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
    dense: Path | None = None
    """Run without pruning to show beside it; RUN-dense where there is one, as ``tdmpc demo`` leaves it."""
    latency: Path | None = None
    """What ``tdmpc latency --json`` wrote; latency.json in the run folder where there is one."""


def main(arguments: list[str]) -> int:
    """Read, draw, say where."""
    args = tyro.cli(ReportArgs, args=arguments, prog="tdmpc report")
    for picture in write_report(args.run, dense=args.dense, latency=args.latency):
        print(picture.path)
    print(args.run / PAGE)
    return 0


def write_report(folder: Path, *, dense: Path | None = None, latency: Path | None = None) -> list[Picture]:
    """Draw the pictures of a run and write its page; returns the pictures, each with its path.

    Args:
        folder: of the run.
        dense: the run to show beside it; RUN-dense when not given.
        latency: what ``tdmpc latency --json`` wrote; that in the run folder when not given.

    Raises:
        RunError: this is not a run folder, nor is the other one; the times cannot be read.
    """
    beside = _beside(folder, dense)
    spec, config = runs.spec(folder), runs.config(folder)
    rows = read_rows(folder / runs.METRICS) if (folder / runs.METRICS).exists() else []
    events = read(folder / EVENTS)
    curves = {folder.name if beside else spec.id: rows, **{run.name: read_rows(run / runs.METRICS) for run in beside}}
    learning_curve(curves, folder / runs.CURVE, title=spec.id, published=PUBLISHED.get(spec.id))
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
        results={run.name: _result(run) for run in (folder, *beside)},
        sensors=_summary(folder).get("sensors", {}),
        latency=_latency(folder, latency),
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


def _beside(folder: Path, dense: Path | None) -> list[Path]:
    """The run to show beside another one, if there is one that is finished."""
    if dense is not None and not (dense / runs.SUMMARY).exists():
        raise RunError(f"{dense} has no {runs.SUMMARY}: give --dense a finished run")
    run = folder.with_name(f"{folder.name}-dense") if dense is None else dense
    return [run] if (run / runs.SUMMARY).exists() else []


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / runs.SUMMARY
    return json.loads(path.read_text()) if path.exists() else {}


def _latency(folder: Path, given: Path | None) -> list[dict[str, str]]:
    """A row for each controller that was timed, in milliseconds."""
    path = folder / TIMES if given is None else given
    if given is None and not path.exists():
        return []
    with timing.read(path) as rows:
        return [
            {
                "controller": label(row),
                **{name: "-" if row[key] is None else f"{row[key]:.2f}" for key, name in COLUMNS.items()},
                "late": f"{row['misses']} of {row['periods']}" if row["mode"] == "periodic" else "-",
                "processor": row["processor"],
            }
            for row in rows
        ]


def _result(folder: Path) -> dict[str, str]:
    """What came out, in words and units."""
    return {**_outcome_of(folder), **_certificate(folder)}


def _certificate(folder: Path) -> dict[str, str]:
    """What ``tdmpc certify`` found of this run as a candidate."""
    path = folder / f"{CERTIFICATE}.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    protocol = found["protocol"]
    known = f"at most {found['loss_upper']:.1%} below {protocol['reference']['path']} on average"
    how = f"{protocol['confidence']:.0%} confidence, {found['pairs']} pairs"
    return {"certificate": f"{found['verdict']}: {known}, {how}"}


def _outcome_of(folder: Path) -> dict[str, str]:
    summary = _summary(folder)
    if not summary:
        return {"state": "the run has not come to its end yet"}
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

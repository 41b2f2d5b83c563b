"""What the runs of a suite left in their folders, as small tables.

    runs        one row a run: how it was made, what came out, what it cost
    curves      returns of training episodes and evaluations, by environment steps
    events      one row a pruning event: how it was decided, losses around it, training returns around it
    importance  how the ranking of units moves: rank correlations between snapshots, by axis
    latency     one row a measurement of ``tdmpc latency``, with the return in closed loop where it was validated

A run records the commit of the checkout that made it; where there was none, whoever collects says it.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from tdmpc import runs
from tdmpc.scripts.collect_pruning import events, importance
from tdmpc.scripts.csv_tables import read_table
from tdmpc.scripts.suite_entries import Entry, entries, mean, read_json, reading, training_rows

RUNS, CURVES, EVENTS, IMPORTANCE, LATENCY = (
    f"{name}.csv" for name in ("runs", "curves", "events", "importance", "latency")
)
Table = list[dict[str, Any]]

PARTS = ("plan", "update", "environment", "replay", "prune")
PER_UPDATE = ("update", "replay")
"""Parts of the loop whose logged time is that of an update; of the others it is that of a decision."""
LAST = 5
"""Training episodes at the end of a run over which its decision rate is averaged."""
OF_SUMMARY = (
    *("return_mean", "return_std", "episodes", "env_steps", "agent_steps", "planning_macs", "planning_macs_dense"),
    *("parameters", "parameters_dense", "wall_s", "ms_per_plan_p50"),
)
OF_MACHINE = ("precision", "threads", "load_average", "processor", "torch")
COLUMNS = (
    *("task", "method", "seed", "status", *OF_SUMMARY, "decisions_per_s", "decisions_per_s_last"),
    *(*(f"share_{part}" for part in PARTS), *OF_MACHINE, "compiled"),
)
"""Of the table of runs, before revision and command."""
OF_LATENCY = (
    *("backend", "language", "precision", "threads", "mode", "calls", "p50_ms", "p99_ms", "max_ms", "period_ms"),
    *("periods", "misses", "miss_rate_upper95", "macs", "contended", "load_before", "load_after", "cores"),
    "processor",
)


def collect(suite: Path, *, revision: str = "") -> dict[str, Table]:
    """The tables of a suite by file name; those without rows are left out.

    Args:
        suite: its folder, as ``tdmpc suite`` left it; it may have been moved.
        revision: of the program that made the runs, for those that do not record it.

    Raises:
        ResultsError: this is no suite's folder, or a finished run lacks a file or has one that cannot be read.
    """
    every = entries(suite)
    finished = [entry for entry in every if entry.status == "finished"]
    tables = {
        RUNS: [_run_row(entry, revision) for entry in every],
        CURVES: [row for entry in finished for row in _curve(entry)],
        EVENTS: [row for entry in finished for row in events(entry)],
        IMPORTANCE: [row for entry in finished for row in importance(entry)],
        LATENCY: [row for entry in finished for row in _latency(entry)],
    }
    return {name: [_short(row) for row in table] for name, table in tables.items() if table}


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Six digits of a number, nothing for what is not known."""
    return {
        name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        for name, value in row.items()
    }


# Runs and curves -------------------------------------------------------------------------------------------------


def _run_row(entry: Entry, revision: str) -> dict[str, Any]:
    """A run; one that is not finished has its command and nothing that came out."""
    known = {**entry.name, "status": entry.status}
    if entry.status == "finished":
        known |= _outcome(entry)
    revision = known.get("revision") or revision
    return {**dict.fromkeys(COLUMNS), **known, "revision": revision, "command": entry.command}


def _outcome(entry: Entry) -> dict[str, Any]:
    """The figures of a finished run."""
    with reading(entry.folder / runs.METRICS):  # the rows may lack what the times are counted by
        spent = speed(training_rows(entry))
    with reading(entry.folder / runs.SUMMARY) as path:
        summary = read_json(path)
        # An agent that was never pruned is its own dense one; the first summaries did not say so.
        dense = {name: summary[name.removesuffix("_dense")] for name in OF_SUMMARY if name.endswith("_dense")}
        found = {**dense, **summary}
        figures = {name: found[name] for name in (*OF_SUMMARY, *OF_MACHINE)}
    with reading(entry.folder / runs.CONFIG) as path:
        settings = read_json(path)
        revision = settings.get("revision") or summary.get("revision")  # some runs told it when they ended
        return {**figures, **spent, "compiled": settings["config"]["compile"], "revision": revision}


def speed(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Decisions a second over a training and at its end, and the shares of its time; None where it is not logged.

    Of a run that prunes a finished one, both trainings are in its metrics, and so in these figures.
    """
    table = pd.DataFrame(rows, columns=None if rows else ["updates", "agent_steps", "decisions_per_s"])
    made = table[["updates", "agent_steps"]].diff().fillna(table)  # before the first row there was nothing
    calls = {part: made["updates" if part in PER_UPDATE else "agent_steps"] for part in PARTS}
    times = table.reindex(columns=[f"time/{part}_ms" for part in PARTS]).astype(float).fillna(0.0) / 1000
    seconds = {part: float((calls[part] * times[f"time/{part}_ms"]).sum()) for part in PARTS}
    total = sum(seconds.values())
    last = table.tail(LAST).get("decisions_per_s", pd.Series(dtype=float)).dropna()
    return {
        "decisions_per_s": float(made["agent_steps"].sum()) / total if total else None,
        "decisions_per_s_last": mean(last.tolist()),
        **{f"share_{part}": time / total if total else None for part, time in seconds.items()},
    }


def _curve(entry: Entry) -> Table:
    rows = read_table(entry.folder / runs.CURVE_TABLE, "kind", "env_steps", "return")
    return [{**entry.name, **row} for row in rows.to_dict("records")]


# Deployment ------------------------------------------------------------------------------------------------------


def _latency(entry: Entry) -> Table:
    validated: dict[tuple[str, ...], float] = {}
    agent: tuple[int, float] = (0, read_json(entry.folder / runs.SUMMARY)["return_mean"])
    for path in _steps(entry, "validate"):
        with reading(path):
            found = read_json(path)
            validated[_key(found)] = found["bundle_return_mean"]
            agent = max(agent, (found["episodes"], found["torch_return_mean"]), key=itemgetter(0))
    table = []
    for path in _steps(entry, "latency"):
        with reading(path):
            rows = read_json(path)
            if not isinstance(rows, list):
                raise TypeError("tdmpc latency --json prints a list")
            table += [{**entry.name, **_latency_row(row, validated, agent[1])} for row in rows]
    return table


def _steps(entry: Entry, step: str) -> list[Path]:
    """What the steps of a kind left: latency.json, latency-int8.json, ..."""
    return sorted(entry.folder.glob(f"{step}*.json"))


def _key(found: Mapping[str, Any]) -> tuple[str, ...]:
    return Path(found["bundle"]).name, found["backend"], found["precision"]


def _latency_row(row: Mapping[str, Any], validated: Mapping[tuple[str, ...], float], agent: float) -> dict[str, Any]:
    """A measurement with the return in closed loop, if it was validated.

    That of the agent is of the longest validation, where it meets the same episodes, or else of its run.
    """
    is_agent = row["backend"] == "torch"
    return {
        "bundle": "" if is_agent else Path(row["bundle"]).name,
        **{name: row.get(name) for name in OF_LATENCY},
        "return_mean": agent if is_agent else validated.get(_key(row)),
    }

"""What the runs of a suite left in their folders, as small tables.

    runs        one row a run: how it was made, what came out, what it cost
    curves      returns of training episodes and evaluations, by environment steps
    events      one row a pruning event: how it was decided, losses around it, training returns around it
    importance  how the ranking of units moves: rank correlations between snapshots, by axis
    latency     one row a measurement of ``tdmpc latency``, with the return in closed loop where it was validated

A run records the commit of the checkout that made it; where there was none, whoever collects says it.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compression import records
from scripts.csv_tables import read_table
from scripts.errors import ResultsError
from scripts.estimates import correlation
from scripts.suite import SUMMARY
from tdmpc import runs
from tdmpc.metrics import read_rows

RUNS, CURVES, EVENTS, IMPORTANCE, LATENCY = (
    f"{name}.csv" for name in ("runs", "curves", "events", "importance", "latency")
)
Table = list[dict[str, Any]]

PARTS = ("plan", "update", "environment", "replay", "prune")
PER_UPDATE = ("update", "replay")
"""Parts of the loop whose logged time is that of an update; of the others it is that of a decision."""
EPISODES = 3
"""Training episodes before an event, and after it, over which returns are averaged."""
LAST = 5
"""Training episodes at the end of a run over which its decision rate is averaged."""
SNAPSHOTS = 12
"""Of the importance, evenly spaced over a run: neighbouring ones tell the same."""

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


@dataclass(frozen=True)
class Entry:
    """A run as its suite's summary names it."""

    task: str
    method: str
    seed: int
    status: str
    """finished, failed, or not finished."""
    command: str
    folder: Path

    @property
    def name(self) -> dict[str, Any]:
        """The first columns of every table."""
        return {"task": self.task, "method": self.method, "seed": self.seed}


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
        EVENTS: [row for entry in finished for row in _events(entry)],
        IMPORTANCE: [row for entry in finished for row in _importance(entry)],
        LATENCY: [row for entry in finished for row in _latency(entry)],
    }
    return {name: [_short(row) for row in table] for name, table in tables.items() if table}


def entries(suite: Path) -> list[Entry]:
    """The runs of a suite, by its summary; raises as ``collect``."""
    path = suite / SUMMARY
    if not path.exists():
        raise ResultsError(f"{suite} is no suite's folder: there is no {SUMMARY}. tdmpc suite makes one")
    table = read_table(path, "task", "method", "seed", "status", "command")
    with _reading(path):
        return [_entry(row, suite) for row in table.to_dict("records")]


def _entry(row: Mapping[str, str], suite: Path) -> Entry:
    folder = suite / row["task"] / f"{row['method']}-{row['seed']}"
    # A run may have ended since the summary was written, or be under way again.
    status = "finished" if (folder / runs.SUMMARY).exists() else row["status"]
    return Entry(
        task=row["task"],
        method=row["method"],
        seed=int(row["seed"]),
        status=status if status in ("finished", "failed") else "not finished",
        command=_portable(row["command"], suite.resolve().name),
        folder=folder,
    )


def _portable(command: str, suite: str) -> str:
    """A command with its run folders where a suite of this name has them, not where they were on one machine."""
    words = command.split()
    if "--run-dir" not in words:
        return command
    made_in = Path(words[words.index("--run-dir") + 1]).parents[1]
    return command.replace(str(made_in), f"runs/suites/{suite}")


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Six digits of a number, nothing for what is not known."""
    return {
        name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        for name, value in row.items()
    }


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Have whatever is wrong with a file be one line that names it."""
    try:
        yield path
    except ResultsError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def _json(path: Path) -> Any:
    with _reading(path):
        return json.loads(path.read_text())


def _training(entry: Entry) -> list[dict[str, Any]]:
    """The rows of training episodes."""
    with _reading(entry.folder / runs.METRICS) as path:
        return [row for row in read_rows(path) if row["kind"] == "train"]


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
    with _reading(entry.folder / runs.METRICS):  # the rows may lack what the times are counted by
        spent = speed(_training(entry))
    with _reading(entry.folder / runs.SUMMARY) as path:
        summary = _json(path)
        # An agent that was never pruned is its own dense one; the first summaries did not say so.
        dense = {name: summary[name.removesuffix("_dense")] for name in OF_SUMMARY if name.endswith("_dense")}
        found = {**dense, **summary}
        figures = {name: found[name] for name in (*OF_SUMMARY, *OF_MACHINE)}
    with _reading(entry.folder / runs.CONFIG) as path:
        settings = _json(path)
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
        "decisions_per_s_last": _mean(last.tolist()),
        **{f"share_{part}": time / total if total else None for part, time in seconds.items()},
    }


def _curve(entry: Entry) -> Table:
    rows = read_table(entry.folder / runs.CURVE_TABLE, "kind", "env_steps", "return")
    return [{**entry.name, **row} for row in rows.to_dict("records")]


# Pruning ---------------------------------------------------------------------------------------------------------


def _events(entry: Entry) -> Table:
    if not (entry.folder / records.EVENTS).exists():
        return []
    episodes = _training(entry)
    with _reading(entry.folder / records.EVENTS) as path:
        pairs = zip(records.flat_events(path), records.read(path), strict=True)
        return [{**entry.name, **_event_row(flat, event, episodes)} for flat, event in pairs]


def _event_row(
    flat: Mapping[str, Any], event: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    worst = max(event["worsening"], key=event["worsening"].__getitem__)
    before, after = returns_around(event["env_steps"], episodes)
    return {
        **{name.replace(" ", "_"): value for name, value in flat.items()},
        "widths": ", ".join(f"{name} {width}" for name, width in event["widths"].items()),
        "worsening": event["worsening"][worst],
        "worst": worst,
        "return_before": before,
        "return_after": after,
    }


def returns_around(step: int, episodes: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Mean return of the last episodes that ended by a step, and of the first that began after it.

    The episode that goes on at the step was played by the agents before and after it, and counts for neither. So with
    episodes that end at 100, 200, 300, 400 and an event at 150, those are 100; and 300, 400.
    """
    ended = [episode["return"] for episode in episodes if episode["env_steps"] <= step]
    later = [episode["return"] for episode in episodes if episode["env_steps"] > step][1:]
    return _mean(ended[-EPISODES:]), _mean(later[:EPISODES])


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _importance(entry: Entry) -> Table:
    with _reading(entry.folder / records.IMPORTANCE) as path:
        every = records.read(path)
        chosen = np.linspace(0, len(every) - 1, min(SNAPSHOTS, len(every))).round().astype(int)
        snapshots = [every[index] for index in chosen]
        return [
            {**entry.name, **row}
            for before, snapshot in pairwise(snapshots)
            for row in _movement(before, snapshot, snapshots[-1])
        ]


def _movement(
    before: Mapping[str, Any], snapshot: Mapping[str, Any], last: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for name, axis in snapshot["axes"].items():
        yield {
            "component": name.partition(".")[0],
            "axis": name,
            "env_steps": snapshot["env_steps"],
            "event": snapshot["event"],
            "units": len(axis["units"][0]),
            "rank_previous": rank_correlation(before["axes"][name], axis),
            "rank_last": rank_correlation(axis, last["axes"][name]),
        }


def rank_correlation(one: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """Spearman's, of the scores of the units that two snapshots of an axis have both; the mean over its heads.

    None where a head has too few of them, or where all its scores are the same.
    """
    heads = [[pd.Series(*head) for head in zip(axis["scores"], axis["units"], strict=True)] for axis in (one, other)]
    pairs = [pd.concat(pair, axis=1, join="inner").to_numpy().T.tolist() for pair in zip(*heads, strict=True)]
    found = [correlation(*pair) for pair in pairs]
    return None if None in found else float(np.mean([each.statistic for each in found]))


# Deployment ------------------------------------------------------------------------------------------------------


def _latency(entry: Entry) -> Table:
    validated: dict[tuple[str, ...], float] = {}
    agent: tuple[int, float] = (0, _json(entry.folder / runs.SUMMARY)["return_mean"])
    for path in _steps(entry, "validate"):
        with _reading(path):
            found = _json(path)
            validated[_key(found)] = found["bundle_return_mean"]
            agent = max(agent, (found["episodes"], found["torch_return_mean"]), key=itemgetter(0))
    table = []
    for path in _steps(entry, "latency"):
        with _reading(path):
            rows = _json(path)
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

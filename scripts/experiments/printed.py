"""Tables of what commands printed with ``--json``; a file has one command's objects, or those of several.

And of what ``slowdown`` wrote.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from tdmpc.scripts.csv_tables import read_table
from tdmpc.scripts.errors import ResultsError
from tdmpc.scripts.experiments.tables import markdown, without_empty

SLOWDOWN = "slowdown.csv"


@contextmanager
def _printed_by(command: str, path: Path) -> Iterator[list[dict[str, Any]]]:
    """The objects in a file; whatever is wrong with them becomes one line."""
    try:
        yield json.loads(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ResultsError(f"{path} is not what {command} prints: {type(error).__name__}: {error}") from error


def bench(path: Path) -> str:
    """Milliseconds of a plan, of an update, also with its gradients watched, and of a pruning event."""
    times = {"plan": "plan, ms", "update": "update", "watched_update": "watched update", "event": "pruning event"}
    with _printed_by("tdmpc bench --json", path) as rows:
        lines = [
            {
                "setting": f"`{row['setting']}`",
                "precision": row["precision"],
                "compiled": "yes" if row["compiled"] else "",
                "threads": str(row["threads"]),
                **{header: f"{row[f'{part}_ms_p50']:.1f}" for part, header in times.items()},
                "decisions/s": f"{row['decisions_per_s']:.1f}",
                "load average": f"{row['load_before']:g} to {row['load_after']:g}",
                "processor": row["processor"],
                "torch": row["torch"],
            }
            for row in rows
        ]
    return markdown(without_empty(lines))


def timings(path: Path) -> str:
    """How long decisions took: one after the other, or late at a period; medians beside the PyTorch agent's."""
    times = {"p50_ms": "p50, ms", "p99_ms": "p99", "p999_ms": "p99.9", "max_ms": "max"}
    with _printed_by("tdmpc latency --json", path) as rows:
        agent = next((row["p50_ms"] for row in rows if row["backend"] == "torch"), None)
        lines = [
            {
                "controller": Path(row["bundle"]).name,
                "runtime": f"{row['backend']} {row['precision']}",
                "multiply-adds": f"{row['macs'] / 1e9:.3g} G",
                **{header: "-" if row[time] is None else f"{row[time]:.1f}" for time, header in times.items()},
                "of the agent's": f"1/{agent / row['p50_ms']:.3g}" if agent else "",
                "late": _late(row),
                "deadline, ms": "" if row["deadline_ms"] is None else f"{row['deadline_ms']:g}",
                "priority": "" if row["priority"] is None else str(row["priority"]),
                "awake": "yes" if row["awake"] else "",
                "load average": f"{row['load_before']:.2g}",
                "stolen, ms": "-" if row["stolen_ms"] is None else f"{row['stolen_ms']:g}",
                "contended": "yes" if row["contended"] else "",
            }
            for row in rows
        ]
        machines = {f"{row['processor']}, {row['cores']} cores, threads: {row['threads']}" for row in rows}
        if not machines:
            raise ValueError("no rows")
    return f"{markdown(without_empty(lines))}\n\n{'; '.join(sorted(machines))}."


def slowdown(path: Path) -> str:
    """Return in real time by slowdown, the mean over seeds; in brackets the delay, or where it varies the delays."""
    rows = read_table(path, "task", "method", numbers=("slowdown", "return_mean", "delay"))
    cells = rows.groupby(["task", "method", "slowdown"], sort=False).agg({"return_mean": "mean", "delay": list})
    names = {0: "waits"} | {number: f"{number:g} x" for number in sorted(rows["slowdown"].unique()) if number}
    lines = []
    for (task, method), some in cells.groupby(level=["task", "method"], sort=False):
        mine = some.droplevel(["task", "method"])
        seeds = str(rows[(rows["task"] == task) & (rows["method"] == method)]["seed"].nunique())
        found = {name: _cell(mine.loc[number]) if number in mine.index else "" for number, name in names.items()}
        lines.append({"task": task, "controller": method, "seeds": seeds, **found})
    return markdown(without_empty(lines))


def _cell(found: pd.Series) -> str:
    delays = sorted({int(delay) for delay in found["delay"]})
    return f"{found['return_mean']:.0f}" + (f" ({'-'.join(map(str, delays))})" if delays[-1] else "")


def _late(row: dict[str, Any]) -> str:
    """Of the decisions at a period."""
    if row["mode"] == "single":
        return ""
    return f"{row['misses']:,} of {row['periods']:,} at {row['period_ms']:g} ms"

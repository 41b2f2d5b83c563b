"""Tables of what commands printed with ``--json``; a file has one command's objects, or those of several."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scripts.experiments.archive import ResultsError
from scripts.experiments.pages import markdown, without_empty

Printed = list[dict[str, Any]]


@contextmanager
def _printed_by(command: str, path: Path) -> Iterator[Printed]:
    """The objects in a file; whatever is wrong with them becomes one line."""
    try:
        yield json.loads(path.read_text())
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ResultsError(f"{path} is not what {command} prints: {type(error).__name__}: {error}") from error


BENCHED = ("plan_ms_p50", "update_ms_p50", "watched_update_ms_p50", "event_ms_p50")


def bench(path: Path) -> str:
    """Milliseconds of a plan, of an update, also with its gradients watched, and of a pruning event."""
    with _printed_by("tdmpc bench --json", path) as rows:
        lines = [
            (
                *(f"`{row['setting']}`", row["precision"], "yes" if row["compiled"] else "", str(row["threads"])),
                *(f"{row[name]:.1f}" for name in BENCHED),
                *(f"{row['decisions_per_s']:.1f}", f"{row['load_before']:g} to {row['load_after']:g}"),
                *(row["processor"], row["torch"]),
            )
            for row in rows
        ]
    header = ("setting", "precision", "compiled", "threads", "plan, ms", "update", "watched update", "pruning event")
    return markdown(*without_empty((*header, "decisions/s", "load average", "processor", "torch"), lines))


TIMES = ("p50_ms", "p99_ms", "p999_ms", "max_ms")


def timings(path: Path) -> str:
    """How long decisions took: one after the other, or late at a period; medians beside the PyTorch agent's."""
    with _printed_by("tdmpc latency --json", path) as rows:
        agent = next((row["p50_ms"] for row in rows if row["backend"] == "torch"), None)
        lines = [
            (
                *(Path(row["bundle"]).name, f"{row['backend']} {row['precision']}", f"{row['macs'] / 1e9:.3g} G"),
                *("-" if row[time] is None else f"{row[time]:.1f}" for time in TIMES),
                *(f"1/{agent / row['p50_ms']:.3g}" if agent else "", _late(row)),
                *("" if row[name] is None else f"{row[name]:g}" for name in ("deadline_ms", "priority")),
                *("yes" if row["awake"] else "", f"{row['load_before']:.2g}", _stolen(row)),
                "yes" if row["contended"] else "",
            )
            for row in rows
        ]
        machines = {f"{row['processor']}, {row['cores']} cores, threads: {row['threads']}" for row in rows}
        if not machines:
            raise ValueError("no rows")
    header = (
        *("controller", "runtime", "multiply-adds", "p50, ms", "p99", "p99.9", "max", "of the agent's", "late"),
        *("deadline, ms", "priority", "awake", "load average", "stolen, ms", "contended"),
    )
    return f"{markdown(*without_empty(header, lines))}\n\n{'; '.join(sorted(machines))}."


def _stolen(row: dict[str, Any]) -> str:
    return "-" if row["stolen_ms"] is None else f"{row['stolen_ms']:g}"


def _late(row: dict[str, Any]) -> str:
    """Of the decisions at a period."""
    if row["mode"] == "single":
        return ""
    return f"{row['misses']:,} of {row['periods']:,} at {row['period_ms']:g} ms"

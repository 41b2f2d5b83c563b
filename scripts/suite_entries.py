"""The runs that a suite left: where they are, and how their files are read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc import runs
from tdmpc.metrics import read_rows
from tdmpc.scripts.csv_tables import read_table
from tdmpc.scripts.errors import ResultsError
from tdmpc.scripts.suite import SUMMARY


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


def entries(suite: Path) -> list[Entry]:
    """The runs of a suite, by its summary; raises as ``collect``."""
    path = suite / SUMMARY
    if not path.exists():
        raise ResultsError(f"{suite} is no suite's folder: there is no {SUMMARY}. tdmpc suite makes one")
    table = read_table(path, "task", "method", "seed", "status", "command")
    with reading(path):
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


@contextmanager
def reading(path: Path) -> Iterator[Path]:
    """Have whatever is wrong with a file be one line that names it."""
    try:
        yield path
    except ResultsError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(f"{path} cannot be read: {type(error).__name__}: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises as ``reading``."""
    with reading(path):
        return json.loads(path.read_text())


def training_rows(entry: Entry) -> list[dict[str, Any]]:
    """The rows of training episodes."""
    with reading(entry.folder / runs.METRICS) as path:
        return [row for row in read_rows(path) if row["kind"] == "train"]


def mean(values: Sequence[float]) -> float | None:
    """Of no values there is none."""
    return float(np.mean(values)) if values else None

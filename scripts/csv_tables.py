"""Tables in CSV files: text as it stands there, figures as numbers."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import pandas as pd
except ImportError as error:
    raise ImportError("tables need pandas: pip install 'tdmpc[train]'") from error

from tdmpc.files import write_whole
from tdmpc.scripts.errors import ResultsError


def read_table(path: Path, *needed: str, numbers: Sequence[str] = ()) -> pd.DataFrame:
    """All rows of a table.

    Args:
        path: a CSV file.
        needed: columns of text that it must have; other ones are text, too.
        numbers: columns of figures that it must have; where one is not known, it is not a number.

    Raises:
        ResultsError: it cannot be read, or is no such table.
    """
    try:
        with path.open(newline="") as file:
            header, *rows = filter(None, csv.reader(file, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from error
    missing = sorted({*needed, *numbers} - set(header))
    if missing:
        raise ResultsError(f"{path} has no column {', '.join(missing)}")
    if any(len(row) != len(header) for row in rows):  # pandas' own reader would take a table that is cut short
        raise ResultsError(f"{path} cannot be read: a row has more or fewer cells than the header")
    table = pd.DataFrame(rows, columns=header)
    for name in numbers:
        try:
            table[name] = table[name].replace("", "nan").astype(float)
        except ValueError as error:
            raise ResultsError(f"{path}: {name} is no number: {error}") from error
    return table


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as CSV, all columns that any of them has; a reader sees the old file or the new one."""
    table = pd.DataFrame(rows, dtype=object)  # as they are: whole numbers stay whole where others are not known
    write_whole(path, table.to_csv(index=False, lineterminator="\r\n").encode())


def add_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows into a table, in the place of earlier ones of the same tasks."""
    new = {row["task"] for row in rows}
    earlier = read_table(path, "task").to_dict("records") if path.exists() else []
    write_table(path, [*(row for row in earlier if row["task"] not in new), *rows])

"""The tables that results are kept in: results/NAME/{runs,curves,events,importance,latency}.csv."""

import csv
from pathlib import Path

RUNS, CURVES, EVENTS, IMPORTANCE, LATENCY = (
    f"{name}.csv" for name in ("runs", "curves", "events", "importance", "latency")
)

Row = dict[str, str]
"""A row of a table as it was written; a figure that is not known is empty."""


class ResultsError(ValueError):
    """Results cannot be read, or shown where a page asks for them; the message says what to do."""


def read_table(path: Path, *needed: str) -> list[Row]:
    """All rows of a table.

    Args:
        path: a CSV file.
        needed: columns that it must have.

    Raises:
        ResultsError: it cannot be read, or is no such table.
    """
    try:
        with path.open(newline="") as file:
            table = csv.DictReader(file, strict=True)
            missing = sorted(set(needed) - set(table.fieldnames or ()))
            if missing:
                raise ResultsError(f"{path} has no column {', '.join(missing)}")
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResultsError(f"{path} cannot be read: {error}") from error
    if any(None in row or None in row.values() for row in rows):
        raise ResultsError(f"{path} cannot be read: a row has more or fewer cells than the header")
    return rows


def number(row: Row, column: str) -> float:
    """A figure that a row must have.

    Raises:
        ResultsError: it has none, or something else in its place.
    """
    try:
        return float(row[column])
    except (KeyError, ValueError) as error:
        where = " ".join(row.get(name, "") for name in ("task", "method", "seed"))
        raise ResultsError(f"{column} of {where} is no number: {row.get(column, '')!r}") from error

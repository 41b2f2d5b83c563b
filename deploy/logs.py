"""Logs of a robot: named columns, a row for each decision, and the transitions that they hold.

A ``.npz`` or ``.csv`` has a column for each sensor under its name, or one for each of its numbers (``joints/0``, or
``joints/shoulder`` where the bundle knows names). So it has for ``action``, in the actuators' units, as it was applied.
``time``, in seconds, and ``episode``, any number that changes with it, are optional: no decision follows one of another
episode. A controller's own record, ``.mcap``, has all of these.
"""

import csv
import difflib
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from tdmpc.deploy import bundle
from tdmpc.deploy.bundle import Bundle, BundleError

LEAST = 100
"""Decisions, below which a log says nothing."""

Columns = Mapping[str, np.ndarray]


def read(path: Path, described: Bundle) -> dict[str, np.ndarray]:
    """Read the columns of a log of a bundle's robot.

    Raises:
        BundleError: it cannot be read, or a column holds no numbers.
    """
    if path.suffix == ".mcap":
        return of_record(path, described)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        values = np.array(rows, np.float64).reshape(len(rows), len(header))
        return {name.strip(): values[:, number] for number, name in enumerate(header)}
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): give a log in .csv, .npz or .mcap") from error
    except ValueError as error:
        raise BundleError(f"{path} is no log, a table of numbers under named columns: {error}") from error


def of_record(path: Path, described: Bundle) -> dict[str, np.ndarray]:
    """The columns of a controller's record; ``action`` is the one that was given.

    Raises:
        BundleError: as ``recording.read``.
    """
    from tdmpc.deploy import recording  # it needs mcap

    _, rows = recording.read(path)
    readings = {
        each.name: [recording.reading(row["/sensors"], each.name) for row in rows] for each in described.sensors
    }
    decisions = {name: [row["/decision"][name] for row in rows] for name in ("time", "episode")}
    table = {**readings, "action": [row["/action"]["given"] for row in rows], **decisions}
    return {name: np.array(values) for name, values in table.items()}


def names(described: Bundle) -> list[str]:
    """One column for each number of the sensors, then of the action."""
    return [name for part in _layout(described) for name in _parts(*part)]


def sensors(described: Bundle) -> list[tuple[int, ...]]:
    """The columns of each sensor, then of the action, as ``names`` has them."""
    ends = np.cumsum([0, *(math.prod(shape) for _, shape, _ in _layout(described))]).tolist()
    return [tuple(range(begin, end)) for begin, end in pairwise(ends)]


def _layout(described: Bundle) -> list[tuple[str, list[int], list[str] | None]]:
    """Name, shape and names of the numbers: of each sensor, then of the action."""
    sensors = [(item["name"], item["shape"], item.get("names")) for item in described.manifest["observation"]]
    return [*sensors, ("action", [described.action_dim], described.manifest["action"][0].get("names"))]


def transitions(described: Bundle, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Readings with the action in [-1, 1], ``Float64[N D]``, and readings one decision later, ``Float64[N O]``.

    Raises:
        BundleError: a sensor is missing, the log is too short, or its rows are farther apart than decisions.
    """
    tables = []
    for part in _layout(described):
        if (table := _table(columns, *part)) is None:
            wanted = _parts(*part)
            lacking = [name for name in wanted if name not in columns] or wanted
            close = dict.fromkeys(each for name in lacking for each in difflib.get_close_matches(name, columns, 1))
            hint = f"; it has {', '.join(map(repr, close or columns))}"
            raise BundleError(f"the log has no {', '.join(map(repr, lacking))}{hint}")
        tables.append(table)
    if len({len(table) for table in tables}) > 1:
        raise BundleError("the columns of the log differ in length")
    rows = np.concatenate(tables, axis=1)
    actions = rows[:, -described.action_dim :]
    actions[:] = bundle.deactuate(actions, described.low.astype(np.float64), described.high.astype(np.float64))
    chosen, follows = _decisions(described, columns, len(rows))
    rows = rows[chosen]
    follows &= np.isfinite(rows[:-1]).all(1) & np.isfinite(rows[1:]).all(1)
    if follows.sum() < LEAST:
        raise BundleError(f"the log has {follows.sum()} decisions that follow each other, at least {LEAST} are needed")
    return rows[:-1][follows], rows[1:, : -described.action_dim][follows]


def _parts(name: str, shape: Sequence[int], elements: Sequence[str] | None) -> list[str]:
    """``joints/shoulder`` for each number of a sensor, its own name where it has one number without axis."""
    if not shape:
        return [name]
    if elements is None or len(set(elements)) < len(elements):  # a joint's position and velocity share its name
        elements = [str(number) for number in range(math.prod(shape))]
    return [f"{name}/{element}" for element in elements]


def _table(columns: Columns, name: str, shape: Sequence[int], elements: Sequence[str] | None) -> np.ndarray | None:
    """The numbers of a sensor, ``Float64[T n]``; None where some are missing."""
    count = math.prod(shape)
    if name in columns and columns[name].size == len(columns[name]) * count:
        return columns[name].reshape(len(columns[name]), count).astype(np.float64)
    for labels in (_parts(name, shape, elements), _parts(name, shape, None)):
        if all(label in columns for label in labels):
            return np.stack([columns[label].astype(np.float64).ravel() for label in labels], axis=1)
    return None


def _decisions(described: Bundle, columns: Columns, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are a decision apart, and which of them the next one follows."""
    chosen = np.arange(count)
    period, time = described.control_period_ms, columns.get("time")
    if time is not None and period is not None and count > 1:
        step = 1000 * float(np.median(np.diff(time)))
        if not 0 < step < 1.5 * period:
            raise BundleError(f"the log has a row every {step:g} ms, the bundle decides every {period:g} ms")
        if step < 0.75 * period:
            due = np.arange(time[0], time[-1], period / 1000)
            chosen = np.unique(np.searchsorted(time, due - 1e-6))
    follows = np.ones(len(chosen) - 1, bool)
    if time is not None and period is not None:
        follows &= np.abs(1000 * np.diff(time[chosen]) - period) < 0.5 * period
    if (episode := columns.get("episode")) is not None:
        follows &= np.diff(episode[chosen]) == 0
    return chosen, follows

"""What pruning leaves in a run folder: two files of JSON lines, from which reports are made.

``events.jsonl`` has one object for each pruning event, kept or undone:

    event        its number; events that had nothing to remove are left out
    env_steps    when, in steps of the training loop; and ``updates``, the gradient steps until then
    criterion, allocation, budget      how it was decided
    goal         share of the budget that was to have been removed after it
    decision     "kept" or "undone"; ``reason`` says why it was undone; ``blamed`` names the component that rests for it
    rested       components that were left alone in this event
    axes         for each axis that it takes something of: component, layer, width ``before`` and ``after`` (the cut,
                 also where it was undone), ``kept`` and ``removed`` unit numbers by head, and of the ``scores`` the
                 min, median, max, largest_removed and least_kept
    widths       of all axes, as training goes on
    losses       {"before": {...}, "after": {...}}: each loss, and the value of the plan, on the same windows
    worsening    what the guard compares with its tolerance, by name
    cost         {"macs": {"dense", "before", "after"}, "parameters": {...}}
    seconds      how long it took

``importance.jsonl`` has snapshots of the importance, in regular distances and right before each event:

    env_steps, updates, criterion; ``event``, the number of the last event
    axes         for each axis, by head: ``units``, their numbers, and ``scores``, beside each other
    criteria     where all criteria are watched: the scores by each, by axis and head, beside the same ``units``
    levels       likewise: the importance of each layer, each component and what they share, by criterion (``levels``)

An axis is named COMPONENT.LAYER, or ``latent`` for what components share. Units keep the numbers that they had when
pruning began. Both files only grow; a resumed run first drops the lines that were written after its checkpoint.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tdmpc.compression.groups import Axis

EVENTS = "events.jsonl"
IMPORTANCE = "importance.jsonl"


class RecordError(ValueError):
    """Records cannot be read; the message says what to do."""


class Journal:
    """A file of JSON lines that a resumed run can go on with exactly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one object as a line."""
        self._write(self.path, "a" if self.lines else "w", json.dumps(record) + "\n")
        self.lines += 1

    def resume(self, lines: int) -> None:
        """Keep the first lines and drop the rest, a line cut short by a kill included."""
        there = _lines(self.path)
        kept = there[:lines]
        if kept != there:
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            self._write(temporary, "w", "".join(kept))
            temporary.replace(self.path)
        self.lines = len(kept)

    def _write(self, path: Path, mode: str, text: str) -> None:
        try:
            with path.open(mode) as file:
                file.write(text)
        except OSError as error:
            error.filename = str(self.path)  # a write that fails tells none
            raise


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a file; none where there is no file.

    Raises:
        RecordError: a whole line is no object.
    """
    return [_record(path, number, line) for number, line in enumerate(_lines(path), start=1) if line.endswith("\n")]


def _lines(path: Path) -> list[str]:
    # A flipped bit may leave bytes that are no text: then the line is told, not the byte.
    return path.read_bytes().decode(errors="replace").splitlines(keepends=True) if path.exists() else []


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("an object was expected")
    except ValueError as error:
        raise RecordError(
            f"{path}, line {number}: this is no record of pruning ({error}). Mend or remove that line, and try again"
        ) from error
    return record


def axis_record(
    axis: Axis, numbers: Int[Tensor, "E W"], stay: Int[Tensor, "E K"], scores: Float[Tensor, "E W"]
) -> dict[str, Any]:
    """What an event takes of an axis.

    Args:
        axis: as it was before.
        numbers: of its units, as they were when pruning began.
        stay: the units that stay.
        scores: of all units before the event.
    """
    stays = torch.zeros(scores.shape, dtype=torch.bool).scatter_(1, stay, True)
    return {
        "component": axis.component,
        "layer": axis.layer,
        "before": axis.size,
        "after": stay.shape[1],
        "kept": [row[mask].tolist() for row, mask in zip(numbers, stays, strict=True)],
        "removed": [row[~mask].tolist() for row, mask in zip(numbers, stays, strict=True)],
        "scores": {
            "min": scores.min().item(),
            "median": scores.median().item(),
            "max": scores.max().item(),
            "largest_removed": scores[~stays].max().item(),
            "least_kept": scores[stays].min().item(),
        },
    }


def rounded(scores: Float[Tensor, "E W"]) -> list[list[float]]:
    """To four digits, by head."""
    return [[float(f"{score:.4g}") for score in head] for head in scores.tolist()]


def flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as a row of a table: one number or text in each place."""
    plain = {name: value for name, value in event.items() if isinstance(value, int | float | str)}
    cut = ", ".join(f"{name} {axis['before']}->{axis['after']}" for name, axis in event["axes"].items())
    left = {f"{budget}_left": cost["after"] / cost["dense"] for budget, cost in event["cost"].items()}
    losses = {f"{name} {when}": value for when, parts in event["losses"].items() for name, value in parts.items()}
    return {**plain, "cut": cut, **left, **losses}


def sentence(record: Mapping[str, Any]) -> str:
    """An event for the eye."""
    cost = record["cost"][record["budget"]]
    cut = ", ".join(f"{name} {axis['before']} -> {axis['after']}" for name, axis in record["axes"].items())
    outcome = f"undone ({record['reason']}; {record['blamed']} rests)" if record["reason"] else "kept"
    left = f"{cost['after'] / cost['dense']:.1%} of the {record['budget']} left"
    return f"event {record['event']} at {record['env_steps']:,} steps: {cut}; {outcome}; {left}"

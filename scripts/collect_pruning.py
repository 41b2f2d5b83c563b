"""What pruning did in the runs of a suite: its events, and how the ranking of units moved."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tdmpc.compression import records
from tdmpc.scripts.estimates import correlation
from tdmpc.scripts.suite_entries import Entry, mean, reading, training_rows

EPISODES = 3
"""Training episodes before an event, and after it, over which returns are averaged."""
SNAPSHOTS = 12
"""Of the importance, evenly spaced over a run: neighbouring ones tell the same."""


def events(entry: Entry) -> list[dict[str, Any]]:
    """One row a pruning event."""
    if not (entry.folder / records.EVENTS).exists():
        return []
    episodes = training_rows(entry)
    with reading(entry.folder / records.EVENTS) as path:
        return [{**entry.name, **_event_row(event, episodes)} for event in records.read(path)]


def _event_row(event: Mapping[str, Any], episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    worst = max(event["worsening"], key=event["worsening"].__getitem__)
    before, after = returns_around(event["env_steps"], episodes)
    return {
        **{name.replace(" ", "_"): value for name, value in records.flat(event).items()},
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
    return mean(ended[-EPISODES:]), mean(later[:EPISODES])


def importance(entry: Entry) -> list[dict[str, Any]]:
    """Rank correlations between snapshots, by axis."""
    with reading(entry.folder / records.IMPORTANCE) as path:
        snapshots = snapshots_of(path)
        return [
            {**entry.name, **row}
            for before, snapshot in pairwise(snapshots)
            for row in _movement(before, snapshot, snapshots[-1])
        ]


def snapshots_of(path: Path) -> list[dict[str, Any]]:
    """``SNAPSHOTS`` of the snapshots in a record, or all where there are fewer."""
    every = records.read(path)
    chosen = np.linspace(0, len(every) - 1, min(SNAPSHOTS, len(every))).round().astype(int)
    return [every[index] for index in chosen]


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

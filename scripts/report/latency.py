"""Figure of a latency measurement: the distributions, and what quickness costs in return."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc.scripts.report.style import Figure, colours, period_line, plain_log, save, styled


@styled
def draw(rows: Sequence[dict[str, Any]], samples_ms: Sequence[np.ndarray], path: Path) -> None:
    """Two panels: how often a decision takes longer than so much; return against the 99th percentile.

    Args:
        rows: what was measured, as ``tdmpc.deploy.timing.row`` tells it.
        samples_ms: the times behind each row.
        path: figure to write.
    """
    figure = Figure(figsize=(11, 4 + 0.11 * len(rows)))
    tails, worth = figure.subplots(1, 2)
    for row, samples, colour in zip(rows, samples_ms, colours(range(len(rows))).values(), strict=True):
        longer = 1 - np.arange(len(samples)) / len(samples)
        tails.step(np.sort(samples), longer, where="post", color=colour, label=label(row), linewidth=1.3)
        if row["return_mean"] is not None and row["p99_ms"] is not None:
            worth.plot(row["p99_ms"], row["return_mean"], "o", color=colour)
    tails.set(yscale="log", xlabel="time of a decision (ms)", ylabel="share that takes longer")
    worth.set(xlabel="99th percentile (ms)", ylabel="return")
    for axes in (tails, worth):
        plain_log(axes.xaxis)
        axes.grid(True)
    for axes, period in product((tails, worth), sorted({row["period_ms"] for row in rows if "period_ms" in row})):
        period_line(axes, period, f"{period:g} ms")
    figure.legend(*tails.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save(figure, path)


def label(row: dict[str, Any]) -> str:
    """What a row is called: bundle, backend, precision, threads, mode."""
    name = Path(row["bundle"]).name
    mode = "one after the other" if row["mode"] == "single" else f"every {row['period_ms']:g} ms"
    return f"{name}, {row['backend']} {row['precision']} x {row['threads']}, {mode}"

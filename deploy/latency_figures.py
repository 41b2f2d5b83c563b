"""Figures of a latency measurement: the distributions, and what quickness costs in return."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
except ImportError as error:
    raise ImportError("figures need matplotlib: pip install 'tdmpc[train]'") from error

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: for every eye


def draw(rows: Sequence[dict[str, Any]], samples_ms: Sequence[np.ndarray], path: Path) -> None:
    """Two panels: how often a decision takes longer than so much; return against the 99th percentile.

    Args:
        rows: what was measured, as ``deploy.latency.row`` tells it.
        samples_ms: the times behind each row.
        path: figure to write.
    """
    figure = Figure(figsize=(11, 4 + 0.11 * len(rows)), layout="constrained")
    tails, worth = figure.subplots(1, 2)
    for number, (row, samples) in enumerate(zip(rows, samples_ms, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        _tail(tails, samples, label(row), colour)
        if row["return_mean"] is not None and row["p99_ms"] is not None:
            worth.plot(row["p99_ms"], row["return_mean"], "o", color=colour, label=label(row))
    _dress(tails, "time of a decision (ms)", "share that takes longer")
    tails.set_yscale("log")
    _dress(worth, "99th percentile (ms)", "return")
    for axes, period in product((tails, worth), sorted({row["period_ms"] for row in rows if "period_ms" in row})):
        axes.axvline(period, color="#333333", linestyle=":", linewidth=1)
        axes.annotate(f"{period:g} ms", (period, 1), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    figure.legend(*tails.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    try:
        FigureCanvasAgg(figure).print_png(str(path))
    except OSError as error:
        error.filename = str(path)  # a write that fails tells none
        raise


def label(row: dict[str, Any]) -> str:
    """What a row is called: bundle, backend, precision, threads, mode."""
    name = Path(row["bundle"]).name
    mode = "one after the other" if row["mode"] == "single" else f"every {row['period_ms']:g} ms"
    return f"{name}, {row['backend']} {row['precision']} x {row['threads']}, {mode}"


def _tail(axes: Axes, samples: np.ndarray, name: str, colour: str) -> None:
    ordered = np.sort(samples)
    longer = 1 - np.arange(len(ordered)) / len(ordered)
    axes.step(ordered, longer, where="post", color=colour, label=name, linewidth=1.3)


def _dress(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)

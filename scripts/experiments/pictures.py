"""The figures of the pages, from what is kept in results/."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, ScalarFormatter

from compression.figures import INK, MARKERS, PALETTE, STYLE
from scripts.experiments import archive
from scripts.experiments.archive import Row, number, read_table
from scripts.experiments.estimates import mean
from tdmpc.figures import PUBLISHED, save

COLUMNS = 3
"""Panels side by side, at most."""


@dataclass(frozen=True)
class Kind:
    """A kind of figure."""

    table: str
    """The file that it is made of."""
    needed: tuple[str, ...]
    """Columns of it, besides task, method and seed."""
    draw: Callable[[Sequence[Row]], Figure]
    caption: str


def write(kind: Kind, table: Path, tasks: Sequence[str], path: Path) -> None:
    """Draw a figure as a PNG.

    Args:
        kind: of ``KINDS``.
        table: the rows.
        tasks: whose rows are drawn; all when there are none.
        path: of the PNG.

    Raises:
        ResultsError: the table cannot be read.
    """
    rows = [
        row for row in read_table(table, "task", "method", "seed", *kind.needed) if not tasks or row["task"] in tasks
    ]
    with rc_context(STYLE):
        save(kind.draw(rows), path)


# Learning --------------------------------------------------------------------------------------------------------


def curves(rows: Sequence[Row]) -> Figure:
    """Return against environment steps, a panel for each task: running means of every seed, evaluations, published."""
    methods = _distinct(rows, "method")
    figure, panels = _panels(_distinct(rows, "task"))
    for task, axes in panels.items():
        for colour, method in zip(_colours(methods), methods, strict=True):
            for seed in _distinct(rows, "seed"):
                _learning(axes, _where(rows, task=task, method=method, seed=seed), colour)
        last = max(number(row, "env_steps") for row in _where(rows, task=task))
        _published(axes, PUBLISHED.get(f"dm_control/{task}-v0", {}), last)
        axes.set_xlim(0, 1.03 * last)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel="environment steps", ylabel="return")
    entries = [
        Line2D([], [], color=colour, label=name) for name, colour in zip(methods, _colours(methods), strict=True)
    ]
    entries.append(
        Line2D([], [], color="#777777", marker="D", markerfacecolor="white", linestyle="", label="evaluation")
    )
    entries.append(Line2D([], [], color=INK, linestyle="--", marker="s", markersize=3, label="published, 5 seeds"))
    _key(figure, entries)
    return figure


def _learning(axes: Axes, rows: Sequence[Row], colour: str) -> None:
    """A run: the mean of seven training episodes around each, and its evaluations."""
    train, evaluations = _where(rows, kind="train"), _where(rows, kind="eval")
    values = [number(row, "return") for row in train]
    smooth = [np.mean(values[max(i - 3, 0) : i + 4]) for i in range(len(values))]
    axes.plot([number(row, "env_steps") for row in train], smooth, color=colour, linewidth=1.2, alpha=0.8)
    axes.plot(*_points(evaluations, "env_steps", "return"), "D", color=colour, markerfacecolor="white", markersize=4.5)


def _published(axes: Axes, curve: dict[int, float], last: float) -> None:
    shown = [step for step in sorted(curve) if step <= last]
    steps = [*shown, *([last] if curve and last > min(curve) else [])]
    if steps:
        returns = np.interp(steps, sorted(curve), [curve[step] for step in sorted(curve)])
        axes.plot(steps, returns, color=INK, linestyle="--", linewidth=1)
        axes.plot(shown, returns[: len(shown)], "s", color=INK, markersize=3)


# Pruning ---------------------------------------------------------------------------------------------------------


def methods(rows: Sequence[Row]) -> Figure:
    """Return of every seed by method, with the mean and its interval, a panel for each task."""
    rows = _where(rows, status="finished")
    figure, panels = _panels(_distinct(rows, "task"))
    for task, axes in panels.items():
        names = _distinct(_where(rows, task=task), "method")
        for place, (name, colour) in enumerate(zip(names, _colours(names), strict=True)):
            values = [number(row, "return_mean") for row in _where(rows, task=task, method=name)]
            axes.plot([place] * len(values), values, "o", color=colour, alpha=0.5, markersize=4, markeredgewidth=0)
            estimate = mean(values)
            axes.plot([place - 0.25, place + 0.25], [estimate.value] * 2, color=colour, linewidth=1.8)
            if estimate.low is not None and estimate.high is not None:
                axes.plot([place, place], [estimate.low, estimate.high], color=colour, linewidth=1)
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axes.set_ylabel("return")
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    return figure


def steps(rows: Sequence[Row]) -> Figure:
    """Worsening of the losses at an event against the change of the training return around it."""
    rows = [row for row in rows if row["return_before"] and row["return_after"]]
    names = _distinct(rows, "method")
    figure, panels = _panels(_distinct(rows, "task"), width=3.6)
    for task, axes in panels.items():
        for (name, colour), decision in product(zip(names, _colours(names), strict=True), ("kept", "undone")):
            some = _where(rows, task=task, method=name, decision=decision)
            change = [number(row, "return_after") - number(row, "return_before") for row in some]
            face = colour if decision == "kept" else "white"
            worsening = [number(row, "worsening") for row in some]
            axes.plot(worsening, change, "o", color=colour, markerfacecolor=face, markersize=4, alpha=0.8)
        axes.axhline(0, color="#999999", linewidth=0.8)
        axes.set(xlabel="worsening at the event", ylabel="training return after - before")
    _legend(figure, names)
    return figure


def movement(rows: Sequence[Row]) -> Figure:
    """Rank correlation of the importance with that at the end, over training, a panel for each method."""
    rows = [row for row in rows if row["rank_last"]]
    names = _distinct(rows, "component")
    figure, panels = _panels([f"{task}, {method}" for task, method in _pairs(rows)])
    for axes, (task, method) in zip(panels.values(), _pairs(rows), strict=True):
        for name, colour in zip(names, _colours(names), strict=True):
            some = _where(rows, task=task, method=method, component=name)
            when = sorted({number(row, "env_steps") for row in some})
            middle = [
                np.mean([number(row, "rank_last") for row in some if number(row, "env_steps") == at]) for at in when
            ]
            axes.plot(when, middle, color=colour, linewidth=1.4)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel="environment steps", ylabel="rank correlation with the end", ylim=(None, 1.03))
    _legend(figure, names)
    return figure


# Deployment ------------------------------------------------------------------------------------------------------


def latency(rows: Sequence[Row]) -> Figure:
    """Return in closed loop against the 99th percentile of a decision once in a period, with that as a line."""
    shown = [row for row in rows if row["mode"] == "periodic" and row["return_mean"] and row["p99_ms"]]
    names = _distinct(shown, "method")
    runtimes = list(dict.fromkeys((row["backend"], row["precision"]) for row in shown))
    marks = [MARKERS[index % len(MARKERS)] for index in range(len(runtimes))]
    figure, panels = _panels(_distinct(shown, "task"), width=4.2, height=3.0)
    for task, axes in panels.items():
        for (name, colour), (runtime, mark) in product(
            zip(names, _colours(names), strict=True), zip(runtimes, marks, strict=True)
        ):
            some = _where(shown, task=task, method=name, backend=runtime[0], precision=runtime[1])
            axes.plot(*_points(some, "p99_ms", "return_mean"), mark, color=colour, markersize=5, alpha=0.85)
        for period in {number(row, "period_ms") for row in _where(rows, task=task) if row["period_ms"]}:
            axes.axvline(period, color=INK, linestyle=":", linewidth=1)
            axes.annotate(
                f"control period, {period:g} ms",
                (period, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(
            xlabel="99th percentile of a decision, one a period (ms)",
            ylabel="return",
            ylim=_at_least_a_tenth(*axes.get_ylim()),
        )
    entries = [
        Line2D([], [], color=INK, marker=mark, linestyle="", label=" ".join(runtime))
        for runtime, mark in zip(runtimes, marks, strict=True)
    ]
    _legend(figure, names, entries)
    return figure


KINDS = {
    "curves": Kind(archive.CURVES, ("kind", "env_steps", "return"), curves, "Return against environment steps"),
    "methods": Kind(archive.RUNS, ("status", "return_mean"), methods, "Return by method: seeds, mean, 95 % interval"),
    "steps": Kind(
        archive.EVENTS,
        ("decision", "worsening", "return_before", "return_after"),
        steps,
        "Worsening of the losses at a pruning event against the change of the training return; hollow: undone",
    ),
    "movement": Kind(
        archive.IMPORTANCE,
        ("component", "env_steps", "rank_last"),
        movement,
        "Rank correlation of the importance with that at the end of training, by component",
    ),
    "latency": Kind(
        archive.LATENCY,
        ("backend", "precision", "mode", "p99_ms", "period_ms", "return_mean"),
        latency,
        "Return in closed loop against the 99th percentile of a decision, dense and pruned",
    ),
}
"""By name."""


def _at_least_a_tenth(low: float, high: float) -> tuple[float, float]:
    """Bounds that show differences of a hundredth as what they are: (854, 865) -> (816, 903)."""
    middle, reach = (low + high) / 2, max(high - low, 0.1 * max(abs(low), abs(high))) / 2
    return middle - reach, middle + reach


# What figures have in common -------------------------------------------------------------------------------------


def _distinct(rows: Iterable[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _pairs(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["task"], row["method"]) for row in rows))


def _where(rows: Iterable[Row], **values: str) -> list[Row]:
    return [row for row in rows if all(row[column] == value for column, value in values.items())]


def _points(rows: Sequence[Row], x: str, y: str) -> tuple[list[float], list[float]]:
    return [number(row, x) for row in rows], [number(row, y) for row in rows]


def _colours(names: Sequence[str]) -> list[str]:
    """One for each name; beyond the palette, greys."""
    greys = ("#777777", "#000000", "#bbbbbb")
    return [(*PALETTE, *greys)[index % (len(PALETTE) + len(greys))] for index in range(len(names))]


def _panels(titles: Sequence[str], *, width: float = 3.2, height: float = 2.6) -> tuple[Figure, dict[str, Axes]]:
    """Axes by their titles, at most ``COLUMNS`` side by side; at least one, for results that are still empty."""
    names = titles or [""]
    columns = min(len(names), COLUMNS)
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(max(width * columns, 5), height * lines + 0.5))
    panels = {}
    for index, title in enumerate(names, start=1):
        panels[title] = figure.add_subplot(lines, columns, index)
        panels[title].set_title(title)
        panels[title].grid(True)
    return figure, panels if titles else {}


def _legend(figure: Figure, names: Sequence[str], more: Sequence[Line2D] = ()) -> None:
    entries = [
        Line2D([], [], color=colour, linewidth=2.5, label=name)
        for name, colour in zip(names, _colours(names), strict=True)
    ]
    _key(figure, [*entries, *more])


def _key(figure: Figure, entries: Sequence[Line2D]) -> None:
    """Below all panels, as wide as they are."""
    if entries:
        figure.legend(handles=entries, loc="outside lower center", ncols=3 if figure.get_figwidth() < 8 else 6)

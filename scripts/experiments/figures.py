"""The figures of the pages, from the CSVs in results/."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from tdmpc.scripts import collect
from tdmpc.scripts.csv_tables import read_table
from tdmpc.scripts.estimates import mean
from tdmpc.scripts.experiments.printed import SLOWDOWN
from tdmpc.scripts.report import style
from tdmpc.scripts.report.style import (
    HOLLOW,
    INK,
    LINE,
    MUTED,
    Axes,
    Figure,
    colours,
    entry,
    legend,
    markers,
    steps_axis,
    styled,
)
from tdmpc.scripts.report.training import AS_PUBLISHED, PUBLISHED, draw_run, finish


@dataclass(frozen=True)
class Kind:
    """A kind of figure."""

    table: str
    """The file that it is made of."""
    text: tuple[str, ...]
    """Columns of it, besides task, method and seed; and those of figures."""
    numbers: tuple[str, ...]
    draw: Callable[[pd.DataFrame], Figure]
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
    rows = read_table(table, "task", "method", "seed", *kind.text, numbers=kind.numbers)
    style.save(kind.draw(rows[rows["task"].isin(tasks)] if tasks else rows), path)


@styled
def curves(rows: pd.DataFrame) -> Figure:
    """Return against environment steps, a panel for each task: running means of every seed, evaluations, published."""
    hues = colours(rows["method"].unique())
    figure, panels = _panels(rows)
    for (task, some), axes in zip(rows.groupby("task", sort=False), panels, strict=False):
        for (method, _), run in some.groupby(["method", "seed"], sort=False):
            run = run.assign(return_mean=run["return"]).to_dict("records")
            draw_run(axes, run, hues[method], dots=False)
        finish(axes, some["env_steps"].max(), PUBLISHED.get(f"dm_control/{task}-v0"))
        axes.set(xlabel="environment steps", ylabel="return")
    evaluated = entry("evaluation", color=MUTED, linestyle="", **HOLLOW)
    legend(figure, hues.items(), [evaluated, AS_PUBLISHED])
    return figure


@styled
def methods(rows: pd.DataFrame) -> Figure:
    """Return of every seed by method, with the mean and its interval, a panel for each task."""
    rows = rows[rows["status"] == "finished"]
    figure, panels = _panels(rows)
    for (_, some), axes in zip(rows.groupby("task", sort=False), panels, strict=False):
        names = some["method"].unique()
        for place, (name, colour) in enumerate(colours(names).items()):
            values = some.loc[some["method"] == name, "return_mean"].tolist()
            axes.plot([place] * len(values), values, "o", color=colour, alpha=0.5, markersize=4, markeredgewidth=0)
            estimate = mean(values)
            axes.plot([place - 0.25, place + 0.25], [estimate.value] * 2, color=colour, linewidth=1.8)
            if estimate.low is not None and estimate.high is not None:
                axes.plot([place, place], [estimate.low, estimate.high], color=colour, linewidth=1)
        axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
        axes.set(ylabel="return", ylim=(min(0.0, axes.get_ylim()[0]), None))
    return figure


@styled
def steps(rows: pd.DataFrame) -> Figure:
    """Worsening of the losses at an event against the change of the training return around it."""
    rows = rows.assign(change=rows["return_after"] - rows["return_before"]).dropna(subset="change")
    hues = colours(rows["method"].unique())
    figure, panels = _panels(rows, width=3.6)
    for (_, some), axes in zip(rows.groupby("task", sort=False), panels, strict=False):
        for (method, decision), events in some.groupby(["method", "decision"], sort=False):
            face = hues[method] if decision == "kept" else "white"
            look = {"color": hues[method], "markerfacecolor": face, "markersize": 4, "alpha": 0.8}
            axes.plot(events["worsening"], events["change"], "o", **look)
        axes.axhline(0, color=LINE, linewidth=0.8)
        axes.set(xlabel="worsening at the event", ylabel="training return after - before")
    legend(figure, hues.items())
    return figure


@styled
def movement(rows: pd.DataFrame) -> Figure:
    """Rank correlation of the importance with that at the end, over training, a panel for each method."""
    rows = rows.dropna(subset="rank_last").assign(panel=lambda known: known["task"] + ", " + known["method"])
    hues = colours(rows["component"].unique())
    figure, panels = _panels(rows, by="panel")
    for (_, some), axes in zip(rows.groupby("panel", sort=False), panels, strict=False):
        for component, middle in some.groupby("component", sort=False):
            axes.plot(middle.groupby("env_steps")["rank_last"].mean(), color=hues[component], linewidth=1.4)
        steps_axis(axes, "environment steps")
        axes.set(ylabel="rank correlation with the end", ylim=(None, 1.03))
    legend(figure, hues.items())
    return figure


@styled
def latency(rows: pd.DataFrame) -> Figure:
    """Return in closed loop against the 99th percentile of a decision once in a period, with that as a line."""
    rows = rows.assign(runtime=rows["backend"] + " " + rows["precision"])
    shown = rows[rows["mode"] == "periodic"].dropna(subset=["return_mean", "p99_ms"])
    hues, marks = colours(shown["method"].unique()), markers(shown["runtime"].unique())
    figure, panels = _panels(shown, width=4.2, height=3.0)
    for (task, some), axes in zip(shown.groupby("task", sort=False), panels, strict=False):
        for method, runtime in product(hues, marks):
            found = some[(some["method"] == method) & (some["runtime"] == runtime)]
            look = {"color": hues[method], "markersize": 5, "alpha": 0.85}
            axes.plot(found["p99_ms"], found["return_mean"], marks[runtime], **look)
        for period in rows.loc[rows["task"] == task, "period_ms"].dropna().unique():
            style.period_line(axes, period, f"control period, {period:g} ms")
        style.plain_log(axes.xaxis, subs=(1.0, 2.0, 3.0, 5.0))
        axes.set(xlabel="99th percentile of a decision, one a period (ms)", ylabel="return")
        axes.set_ylim(*_at_least_a_tenth(*axes.get_ylim()))
    legend(
        figure,
        hues.items(),
        [entry(runtime, color=INK, marker=mark, linestyle="") for runtime, mark in marks.items()],
    )
    return figure


@styled
def slowdown(rows: pd.DataFrame) -> Figure:
    """Return in real time against the slowdown of the processor: means of seeds, bars from the least to the largest."""
    real = rows[rows["slowdown"] > 0]
    hues = colours(real["method"].unique())
    figure, panels = _panels(rows, width=4.2, height=3.0)
    for (task, some), axes in zip(real.groupby("task", sort=False), panels, strict=False):
        for method, mine in some.groupby("method", sort=False):
            seeds = mine.groupby("slowdown")["return_mean"].agg(["mean", "min", "max"])
            bars = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
            look = {"color": hues[method], "marker": "o", "markersize": 4, "linewidth": 1.6, "capsize": 2}
            axes.errorbar(seeds.index, seeds["mean"], bars, **look)
        waiting = rows[(rows["task"] == task) & (rows["slowdown"] == 0)]["return_mean"].mean()
        axes.axhline(waiting, color=MUTED, linewidth=1, linestyle="--")
        axes.set_xscale("log")
        style.plain_log(axes.xaxis)
        axes.set(xlabel="slowdown of the processor", ylabel="return in real time", ylim=(0, None))
    legend(figure, hues.items(), [entry("the simulator waits", color=MUTED, linestyle="--")])
    return figure


def _at_least_a_tenth(low: float, high: float) -> tuple[float, float]:
    """Bounds that show differences of a hundredth as what they are: (854, 865) -> (816, 903)."""
    middle, reach = (low + high) / 2, max(high - low, 0.1 * max(abs(low), abs(high))) / 2
    return middle - reach, middle + reach


def _panels(
    rows: pd.DataFrame, *, by: str = "task", width: float = 3.2, height: float = 2.6
) -> tuple[Figure, list[Axes]]:
    """A panel for each task, at most three side by side; an empty one for results that are still empty."""
    titles = list(rows[by].unique()) or [""]
    figure, panels = style.panels(len(titles), columns=3, width=width, height=height)
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
    return figure, panels


KINDS = {
    "curves": Kind(collect.CURVES, ("kind",), ("env_steps", "return"), curves, "Return against environment steps"),
    "methods": Kind(
        collect.RUNS, ("status",), ("return_mean",), methods, "Return by method: seeds, mean, 95 % interval"
    ),
    "steps": Kind(
        *(collect.EVENTS, ("decision",), ("worsening", "return_before", "return_after"), steps),
        "Worsening of the losses at a pruning event against the change of the training return; hollow: undone",
    ),
    "movement": Kind(
        *(collect.IMPORTANCE, ("component",), ("env_steps", "rank_last"), movement),
        "Rank correlation of the importance with that at the end of training, by component",
    ),
    "slowdown": Kind(
        *(SLOWDOWN, (), ("slowdown", "return_mean"), slowdown),
        "Return in real time against the slowdown of the processor, dense and pruned",
    ),
    "latency": Kind(
        *(collect.LATENCY, ("backend", "precision", "mode"), ("p99_ms", "period_ms", "return_mean"), latency),
        "Return in closed loop against the 99th percentile of a decision, dense and pruned",
    ),
}
"""By name."""

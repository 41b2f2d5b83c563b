"""Pictures of pruning, from the records that it leaves (``tdmpc.compression.records``) and the rows of a run's metrics.

Functions return figures; the caller saves them. ``step`` is what the steps of the records are called.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import PercentFormatter

from tdmpc.scripts.report.style import (
    HOLLOW,
    INK,
    KEPT,
    MUTED,
    UNDONE,
    Axes,
    EngFormatter,
    Figure,
    FuncFormatter,
    MaxNLocator,
    entry,
    is_number,
    panels,
    share_axis,
    steps_axis,
    styled,
    value_axis,
)

Records = Sequence[Mapping[str, Any]]


# Importance ------------------------------------------------------------------------------------------------------


@styled
def importance(snapshots: Records, events: Records, *, step: str) -> Figure:
    """How the importance of every component and layer moves: its mean over the units, against its own mean over time.

    Criteria do not compare across layers, so each row has its own unit, which stands at its right end.
    """
    means = mean_scores(snapshots)
    logs = np.ma.log2(means.to_numpy())  # masked where nothing has a logarithm
    middle = logs.mean(axis=1, keepdims=True)
    relative = logs - middle
    reach = max(np.quantile(np.abs(relative.compressed()), 0.98), 0.5) if relative.count() else 0.5
    figure = Figure(figsize=(7.6, 1.5 + 0.3 * len(means)))
    axes = figure.add_subplot()
    mesh = _heatmap(axes, means.columns, relative, cmap="PuOr_r", vmin=-reach, vmax=reach)
    axes.set_yticks(np.arange(len(means)) + 0.5, means.index)
    axes.tick_params(axis="y", length=0)
    beside: Any = {"transform": axes.get_yaxis_transform(), "fontsize": 7, "va": "center"}
    axes.text(1.01, -0.35, "mean", **beside)
    for row, value in enumerate((2 ** middle[:, 0]).filled(0)):
        axes.text(1.01, row + 0.5, f"{value:.1e}", **beside)
    steps_axis(axes, step)
    _event_marks(axes, events)
    bar = figure.colorbar(mesh, ax=axes, pad=0.11, fraction=0.04, extend="both", label="times its mean over the run")
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{2**value:.2g}"))
    bar.outline.set_visible(False)
    axes.set_title(f"criterion: {snapshots[0]['criterion']}", pad=14)
    if events:
        figure.legend(loc="outside upper right", ncols=2, fontsize=7)
    return figure


def mean_scores(snapshots: Records) -> pd.DataFrame:
    """Mean score of the units of each axis (a row) at each step (a column), of which the last snapshot counts."""
    return pd.DataFrame(
        {
            snapshot["env_steps"]: {
                name: np.mean(np.concatenate(axis["scores"])) for name, axis in snapshot["axes"].items()
            }
            for snapshot in snapshots
        }
    )


@styled
def units(snapshots: Records, *, step: str) -> Figure:
    """The rank of every unit inside its layer over training; a unit that was removed leaves white behind it."""
    names = list(snapshots[0]["axes"])
    figure, places = panels(len(names), columns=4, width=2.4, height=1.75, extra=0.7, sharex=True)
    for axes, name in zip(places, names, strict=True):
        ranks = unit_ranks(snapshots, name)
        _heatmap(axes, ranks.columns, ranks, cmap="cividis", vmin=0, vmax=1)
        axes.grid(False)
        axes.set_title(f"{name}: {len(ranks)} → {ranks.iloc[:, -1].count()}")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        steps_axis(axes)
    figure.supxlabel(step, fontsize=8)
    figure.supylabel("units, the longest kept first", fontsize=8)
    bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "cividis"), ax=figure.axes, fraction=0.02, aspect=40)
    bar.set_label("rank of its importance inside the layer")
    bar.set_ticks([0, 1], labels=["least", "most"])
    bar.outline.set_visible(False)
    return figure


def unit_ranks(snapshots: Records, name: str) -> pd.DataFrame:
    """Rank from 0 to 1 of each unit of an axis, a row (head, unit), at each step, a column; none once it is gone.

    Rows are sorted: units that stay longest first, and of these the most important.
    """
    axes = {snapshot["env_steps"]: snapshot["axes"][name] for snapshot in snapshots}
    ranks = pd.DataFrame({step: pd.concat(dict(enumerate(_head_ranks(axis)))) for step, axis in axes.items()})
    order = pd.DataFrame({"stay": ranks.count(axis=1), "mean": ranks.mean(axis=1)})
    return ranks.loc[order.sort_values(["stay", "mean"], ascending=False).index]


def _head_ranks(axis: Mapping[str, Any]) -> list[pd.Series]:
    heads = [pd.Series(*head) for head in zip(axis["scores"], axis["units"], strict=True)]
    return [(scores.rank(method="first") - 1) / max(len(scores) - 1, 1) for scores in heads]


def _heatmap(axes: Axes, steps: pd.Index, values: Any, **look: Any) -> Any:
    """Cells around their steps, the first row on top."""
    mesh = axes.pcolormesh(cell_edges(steps), np.arange(len(values) + 1), values, rasterized=True, **look)
    axes.invert_yaxis()
    return mesh


def cell_edges(steps: Any) -> np.ndarray:
    """Borders halfway between the steps: 10, 20, 40 -> 5, 15, 30, 50; a single step gets one of width 1."""
    steps = np.asarray(steps, float)
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[2 * steps[0] - middle[0]], middle, [2 * steps[-1] - middle[-1]]])


def _event_marks(axes: Axes, events: Records) -> None:
    """A mark above the axes where an event was: a triangle where it was kept, a cross where it was undone."""
    for decision, marker, colour in (("kept", "v", KEPT), ("undone", "X", UNDONE)):
        at = [event["env_steps"] for event in events if event["decision"] == decision]
        place: Any = {"transform": axes.get_xaxis_transform(), "clip_on": False}
        label = f"event, {decision}" if at else None
        axes.plot(at, [1.03] * len(at), marker, color=colour, markersize=5, label=label, **place)


# Size ------------------------------------------------------------------------------------------------------------


@styled
def widths(snapshots: Records, events: Records, *, last: float, step: str) -> Figure:
    """What is left of the whole and the width of every layer over training, up to the step ``last``."""
    dense = {name: len(axis["units"][0]) for name, axis in snapshots[0]["axes"].items()}
    kept = [event for event in events if event["decision"] == "kept"]
    steps = [0, *(event["env_steps"] for event in kept), last]
    width = pd.DataFrame([dense, *(event["widths"] for event in kept)], columns=list(dense))
    components = list(dict.fromkeys(name.partition(".")[0] for name in dense))
    figure, (whole, *others) = panels(len(components) + 1, columns=4, width=2.3, height=1.8, extra=0.4, sharex=True)
    for budget, name, line in (("macs", "multiply-adds", "-"), ("parameters", "parameters", "--")):
        costs = [event["cost"][budget] for event in kept]
        left = [1.0, *(cost["after"] / cost["dense"] for cost in costs)]
        whole.plot(steps, [*left, left[-1]], line, color=INK, drawstyle="steps-post", label=name)
    whole.yaxis.set_major_formatter(PercentFormatter(1))
    whole.set(title="left of the whole", ylim=(0, 1.05))
    whole.legend(fontsize=7)
    for axes, component in zip(others, components, strict=True):
        layers = [name for name in dense if name.partition(".")[0] == component]
        for name, line in zip(layers, cycle(("-", "--", ":", "-.")), strict=False):
            label = f"layer {int(name.split('.')[1]) + 1}" if "." in name else None
            values = width[name].tolist()
            axes.plot(steps, [*values, values[-1]], line, color=KEPT, drawstyle="steps-post", label=label)
        before, after = (", ".join(map(str, width[layers].iloc[row])) for row in (0, -1))
        axes.set(title=f"{component}: {before} → {after}", ylim=(0, 1.05 * max(dense[name] for name in layers)))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        if len(layers) > 1:
            axes.legend(fontsize=7)
    for axes in (whole, *others):
        axes.set_xlim(0, last)
        steps_axis(axes)
    figure.supxlabel(step, fontsize=8)
    figure.supylabel("width", fontsize=8)
    return figure


@styled
def outcome(rows: Records, *, train: str, evaluation: str, label: str, cost: str, step: str) -> Figure:
    """What the agent reaches against the share of its cost that is left.

    Args:
        rows: of the metrics; those of pruned runs have ``prune/macs_left``.
        train: key of the outcome in training rows.
        evaluation: key of the outcome in evaluation rows.
        label: of the outcome, with its unit.
        cost: what the multiply-adds are of.
        step: what steps are called.
    """
    shown, final = (_outcomes(rows, key) for key in (train, evaluation))
    figure, (axes,) = panels(1, columns=1, width=6.4, height=3.8, extra=0)
    dots = axes.scatter(
        shown["left"], shown["value"], c=shown["step"], cmap="cividis", s=16, alpha=0.8, linewidths=0, zorder=3
    )
    axes.plot(shown.groupby("left")["value"].median(), color=INK, linewidth=1.2, zorder=2)
    axes.plot(final["left"], final["value"], linestyle="", color=UNDONE, markeredgewidth=1.6, zorder=4, **HOLLOW)
    share_axis(axes, min([*shown["left"], *final["left"], 1.0]))
    axes.set(xlabel=f"{cost} left", ylabel=label, ylim=(min(0, axes.get_ylim()[0]), None))
    handles = [
        entry("in training", marker="o", linestyle="", markersize=4, color=MUTED),
        entry("median at a size", color=INK, linewidth=1.2),
        entry("evaluation", linestyle="", color=UNDONE, **HOLLOW),
    ]
    figure.legend(handles=handles if len(final) else handles[:2], loc="outside upper left", ncols=3)
    bar = figure.colorbar(dots, ax=axes, format=EngFormatter(sep=""), pad=0.02, label=step)
    bar.outline.set_visible(False)
    return figure


def _outcomes(rows: Records, key: str) -> pd.DataFrame:
    known = [row for row in rows if is_number(row.get("prune/macs_left")) and is_number(row.get(key))]
    return pd.DataFrame(
        [(row["prune/macs_left"], row[key], row["env_steps"]) for row in known],
        columns=["left", "value", "step"],
        dtype=float,
    )


# Events ----------------------------------------------------------------------------------------------------------


@styled
def losses(events: Records, *, step: str) -> Figure:
    """Every event with its losses before and after the cut, on the same data."""
    names = list(events[0]["losses"]["before"])
    figure, places = panels(len(names), columns=2, width=3.8, height=1.9, extra=0.7, sharex=True)
    for axes, name in zip(places, names, strict=True):
        pairs = [[event["losses"][when][name] for when in ("before", "after")] for event in events]
        for event, pair in zip(events, pairs, strict=True):
            colour, mark = (KEPT, "o") if event["decision"] == "kept" else (UNDONE, "X")
            axes.plot([event["env_steps"]] * 2, pair, color=colour, linewidth=1.2)
            axes.plot(event["env_steps"], pair[0], "o", markersize=7, color=colour, markerfacecolor="white")
            axes.plot(event["env_steps"], pair[1], mark, markersize=4.5, color=colour)
        value_axis(axes, [value for pair in pairs for value in pair])
        axes.set_title(name.replace("_", " ") + ("" if name in ("plan_value", "psnr") else " loss"))
        steps_axis(axes)
    figure.supxlabel(step, fontsize=8)
    occurring = {event["decision"] for event in events}
    marks = {"kept": entry("after it, kept", marker="o", color=KEPT)}
    marks |= {"undone": entry("after it, undone", marker="X", color=UNDONE)}
    before = entry("before the cut", marker="o", linestyle="", color=INK, markerfacecolor="white")
    handles = [before, *(mark for decision, mark in marks.items() if decision in occurring)]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure

"""Pictures of pruning, from the records that it leaves (``records``) and the rows of a run's metrics.

Functions return figures; the caller saves them. ``step`` is what the steps of the records are called.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import (
        EngFormatter,
        FixedLocator,
        FuncFormatter,
        LogLocator,
        MaxNLocator,
        NullFormatter,
        NullLocator,
        PercentFormatter,
    )
except ImportError as error:
    raise ImportError("figures need matplotlib: pip install 'tdmpc[train]'") from error

Records = Sequence[Mapping[str, Any]]

KEPT, UNDONE, INK = "#0072B2", "#D55E00", "#333333"  # blue and vermilion of Okabe and Ito: for every eye
STYLE: Any = {
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


# Importance ------------------------------------------------------------------------------------------------------


def importance(snapshots: Records, events: Records, *, step: str) -> Figure:
    """How the importance of every component and layer moves: its mean over the units, against its own mean over time.

    Criteria do not compare across layers, so each row has its own unit, which stands at its right end.
    """
    steps, names, means = mean_scores(snapshots)
    logs = np.ma.log2(means)  # masked where nothing has a logarithm
    middle = logs.mean(axis=1, keepdims=True)
    relative = logs - middle
    reach = max(np.quantile(np.abs(relative.compressed()), 0.98), 0.5) if relative.count() else 0.5
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.5 + 0.3 * len(names)))
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(
            _edges(steps), np.arange(len(names) + 1), relative, cmap="PuOr_r", vmin=-reach, vmax=reach, rasterized=True
        )
        axes.set_yticks(np.arange(len(names)) + 0.5, names)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        beside: Any = {"transform": axes.get_yaxis_transform(), "fontsize": 7, "va": "center"}
        axes.text(1.01, -0.35, "mean", **beside)
        for row, value in enumerate((2 ** middle[:, 0]).filled(0)):
            axes.text(1.01, row + 0.5, f"{value:.1e}", **beside)
        _steps_axis(axes, step)
        _event_marks(axes, events)
        bar = figure.colorbar(mesh, ax=axes, pad=0.11, fraction=0.04, extend="both")
        bar.set_label("times its mean over the run")
        bar.ax.yaxis.set_major_locator(MaxNLocator(5))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{2**value:.2g}"))
        bar.outline.set_visible(False)
        axes.set_title(f"criterion: {snapshots[0]['criterion']}", pad=14)
        if events:
            figure.legend(loc="outside upper right", ncols=2, fontsize=7)
    return figure


def mean_scores(snapshots: Records) -> tuple[Float[np.ndarray, "T"], list[str], Float[np.ndarray, "X T"]]:
    """Steps, axes, and the mean score of the units that each axis had at each step."""
    by_step = {snapshot["env_steps"]: snapshot["axes"] for snapshot in snapshots}  # the last one of a step counts
    names = list(next(iter(by_step.values())))
    means = [[np.mean(np.concatenate(axes[name]["scores"])) for axes in by_step.values()] for name in names]
    return np.array(list(by_step), dtype=float), names, np.array(means, dtype=float)


def units(snapshots: Records, *, step: str) -> Figure:
    """The rank of every unit inside its layer over training; a unit that was removed leaves white behind it."""
    names = list(snapshots[0]["axes"])
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.3 * columns + 0.6, 0.7 + 1.75 * lines))
        for axes, name in zip(_panels(figure, lines, columns, len(names)), names, strict=True):
            steps, ranks = unit_ranks(snapshots, name)
            axes.pcolormesh(
                _edges(steps), np.arange(len(ranks) + 1), ranks, cmap="cividis", vmin=0, vmax=1, rasterized=True
            )
            axes.invert_yaxis()
            axes.set_title(f"{name}: {len(ranks)} → {int(np.isfinite(ranks[:, -1]).sum())}")
            axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            _steps_axis(axes, "")
        figure.supxlabel(step, fontsize=8)
        figure.supylabel("units, the longest kept first", fontsize=8)
        bar = figure.colorbar(ScalarMappable(Normalize(0, 1), "cividis"), ax=figure.axes, fraction=0.02, aspect=40)
        bar.set_label("rank of its importance inside the layer")
        bar.set_ticks([0, 1], labels=["least", "most"])
        bar.outline.set_visible(False)
    return figure


def unit_ranks(snapshots: Records, name: str) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "U T"]]:
    """Steps, and of each unit of an axis (of all heads) its rank from 0 to 1, not a number once it is gone.

    Rows are sorted: units that stay longest first, and of these the most important.
    """
    by_step = {snapshot["env_steps"]: snapshot["axes"][name] for snapshot in snapshots}
    rows = {
        (head, unit): row
        for row, (head, unit) in enumerate(
            (head, unit) for head, numbers in enumerate(snapshots[0]["axes"][name]["units"]) for unit in numbers
        )
    }
    ranks = np.full((len(rows), len(by_step)), np.nan)
    for column, axis in enumerate(by_step.values()):
        for head, (numbers, scores) in enumerate(zip(axis["units"], axis["scores"], strict=True)):
            places = [rows[head, unit] for unit in numbers]
            ranks[places, column] = np.argsort(np.argsort(scores)) / max(len(scores) - 1, 1)
    present = np.isfinite(ranks)
    mean = np.where(present, ranks, 0).sum(1) / np.maximum(present.sum(1), 1)
    return np.array(list(by_step), dtype=float), ranks[np.lexsort((-mean, -present.sum(1)))]


# Size ------------------------------------------------------------------------------------------------------------


def widths(snapshots: Records, events: Records, *, last: float, step: str) -> Figure:
    """What is left of the whole and the width of every layer over training, up to the step ``last``."""
    dense = {name: len(axis["units"][0]) for name, axis in snapshots[0]["axes"].items()}
    kept = [event for event in events if event["decision"] == "kept"]
    steps = [0, *(event["env_steps"] for event in kept), last]
    components = list(dict.fromkeys(name.split(".")[0] for name in dense))
    columns = min(4, len(components) + 1)
    lines = -(-(len(components) + 1) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.3 * columns, 0.4 + 1.8 * lines))
        whole, *others = _panels(figure, lines, columns, len(components) + 1)
        for budget, name, line in (("macs", "multiply-adds", "-"), ("parameters", "parameters", "--")):
            left = [1.0, *(event["cost"][budget]["after"] / event["cost"][budget]["dense"] for event in kept)]
            whole.plot(steps, [*left, left[-1]], line, color=INK, drawstyle="steps-post", label=name)
        whole.yaxis.set_major_formatter(PercentFormatter(1))
        whole.set_title("left of the whole")
        whole.set_ylim(0, 1.05)
        whole.legend(fontsize=7)
        for axes, component in zip(others, components, strict=True):
            layers = [name for name in dense if name.split(".")[0] == component]
            for name, line in zip(layers, ("-", "--", ":", "-.") * len(layers), strict=False):
                width = [dense[name], *(event["widths"][name] for event in kept)]
                label = f"layer {int(name.split('.')[1]) + 1}" if "." in name else None
                axes.plot(steps, [*width, width[-1]], line, color=KEPT, drawstyle="steps-post", label=label)
            axes.set_title(f"{component}: {_change([(dense[name], _last(kept, name, dense)) for name in layers])}")
            axes.set_ylim(0, 1.05 * max(dense[name] for name in layers))
            axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
            if len(layers) > 1:
                axes.legend(fontsize=7)
        for axes in (whole, *others):
            axes.grid(True)
            axes.set_xlim(0, last)
            _steps_axis(axes, "")
        figure.supxlabel(step, fontsize=8)
        figure.supylabel("width", fontsize=8)
    return figure


def _last(kept: Records, name: str, dense: Mapping[str, int]) -> int:
    return kept[-1]["widths"][name] if kept else dense[name]


def _change(pairs: Sequence[tuple[int, int]]) -> str:
    """[(128, 60), (128, 45)] -> ``128, 128 → 60, 45``."""
    before, after = (", ".join(str(pair[side]) for pair in pairs) for side in (0, 1))
    return f"{before} → {after}"


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
    shown = [row for row in rows if _known(row, "prune/macs_left") and _known(row, train)]
    final = [row for row in rows if _known(row, "prune/macs_left") and _known(row, evaluation)]
    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8))
        axes = figure.add_subplot()
        left, reached, when = (np.array([row[key] for row in shown]) for key in ("prune/macs_left", train, "env_steps"))
        dots = axes.scatter(left, reached, c=when, cmap="cividis", s=16, alpha=0.8, linewidths=0, zorder=3)
        levels = sorted(set(left.tolist()))
        medians = [np.median(reached[left == level]) for level in levels]
        axes.plot(levels, medians, color=INK, linewidth=1.2, zorder=2)
        axes.scatter(
            *([row[key] for row in final] for key in ("prune/macs_left", evaluation)),
            marker="D", s=36, facecolors="white", edgecolors=UNDONE, linewidths=1.6, zorder=4,
        )  # fmt: skip
        smallest = min([*levels, *(row["prune/macs_left"] for row in final), 1.0])
        _share_axis(axes, smallest)
        axes.set_xlabel(f"{cost} left")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        axes.grid(True)
        handles = [
            Line2D([], [], marker="o", linestyle="", markersize=4, color="#777777", label="in training"),
            Line2D([], [], color=INK, linewidth=1.2, label="median at a size"),
            Line2D(
                [], [], marker="D", linestyle="", markerfacecolor="white", markeredgecolor=UNDONE, label="evaluation"
            ),
        ]
        figure.legend(handles=handles[: 3 if final else 2], loc="outside upper left", ncols=3)
        bar = figure.colorbar(dots, ax=axes, format=EngFormatter(sep=""), pad=0.02)
        bar.set_label(step)
        bar.outline.set_visible(False)
    return figure


PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito
MARKERS = "osD^vP"


def tradeoff(table: Records, *, dense: str, scratch: str) -> Figure:
    """Quality against the parameters left, a line for each method: mean over the seeds, least and largest as a bar.

    Args:
        table: rows with ``method``, ``target``, ``parameters_left`` and ``psnr``.
        dense: the method that is not pruned: a horizontal line.
        scratch: the method that is small from the start: dashed.
    """
    methods = [name for name in dict.fromkeys(row["method"] for row in table) if name not in (dense, scratch)]
    with rc_context(STYLE):
        figure = Figure(figsize=(6.8, 4.2))
        axes = figure.add_subplot()
        whole = float(np.mean([row["psnr"] for row in table if row["method"] == dense]))
        axes.axhline(whole, color=INK, linewidth=1, linestyle=":", label=dense)
        _method(axes, table, scratch, color=INK, linestyle="--", marker="x")
        for number, name in enumerate(methods):
            hue, line = PALETTE[number % len(PALETTE)], "-" if number < len(PALETTE) else "-."
            _method(axes, table, name, color=hue, linestyle=line, marker=MARKERS[number % len(MARKERS)])
        _share_axis(axes, min(row["parameters_left"] for row in table))
        axes.set_xlabel("parameters left")
        axes.set_ylabel("PSNR, dB")
        axes.grid(True)
        figure.legend(loc="outside right upper")
    return figure


def _method(axes: Axes, table: Records, name: str, **style: Any) -> None:
    """One method: its means, with bars where there are several seeds."""
    rows = [row for row in table if row["method"] == name]
    groups = [[row for row in rows if row["target"] == target] for target in sorted({row["target"] for row in rows})]
    left = [np.mean([row["parameters_left"] for row in group]) for group in groups]
    ratios = [[row["psnr"] for row in group] for group in groups]
    mean = np.array([np.mean(values) for values in ratios])
    spread = [mean - [min(values) for values in ratios], [max(values) for values in ratios] - mean]
    axes.errorbar(left, mean, spread, label=name, linewidth=1.3, markersize=4, elinewidth=0.8, **style)


def gallery(rows: Mapping[str, Float[Any, "N X"]], side: int) -> Figure:
    """Square pictures side by side, a labelled row of them for each entry."""
    count = len(next(iter(rows.values())))
    with rc_context(STYLE):
        figure = Figure(figsize=(0.62 * count + 1.4, 0.66 * len(rows)))
        grid = figure.subplots(len(rows), count, squeeze=False)
        for line, (label, pictures) in zip(grid, rows.items(), strict=True):
            for axes, picture in zip(line, pictures, strict=True):
                axes.imshow(np.asarray(picture).reshape(side, side), cmap="gray", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
            line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


# Events ----------------------------------------------------------------------------------------------------------


def losses(events: Records, *, step: str) -> Figure:
    """Every event with its losses before and after the cut, on the same data."""
    names = list(events[0]["losses"]["before"])
    columns = min(2, len(names))
    lines = -(-len(names) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.8 * columns, 0.7 + 1.9 * lines))
        for axes, name in zip(_panels(figure, lines, columns, len(names)), names, strict=True):
            for event in events:
                _dumbbell(axes, event, name)
            values = [event["losses"][when][name] for event in events for when in ("before", "after")]
            _value_axis(axes, [value for value in values if _is_number(value)])
            axes.set_title(name.replace("_", " ") + ("" if name in ("plan_value", "psnr") else " loss"))
            axes.grid(True)
            _steps_axis(axes, "")
        figure.supxlabel(step, fontsize=8)
        figure.legend(handles=_event_legend(events), loc="outside upper left", ncols=3)
    return figure


def _dumbbell(axes: Axes, event: Mapping[str, Any], name: str) -> None:
    pair = [event["losses"][when][name] for when in ("before", "after")]
    colour = KEPT if event["decision"] == "kept" else UNDONE
    axes.plot([event["env_steps"]] * 2, pair, color=colour, linewidth=1.2)
    axes.plot(event["env_steps"], pair[0], "o", markersize=7, **_hollow(colour))
    axes.plot(event["env_steps"], pair[1], "o" if colour == KEPT else "X", markersize=4.5, color=colour)


def _value_axis(axes: Axes, values: Iterable[float]) -> None:
    """Logarithmic where values are positive and span more than a factor of five, else from zero."""
    values = list(values)
    if values and min(values) > 0 and max(values) > 5 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if max(values) > 1000 * min(values) else (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif values and min(values) >= 0:
        axes.set_ylim(0, 1.1 * max(values) or 1)


def _event_legend(events: Records) -> list[Line2D]:
    """Marks that occur among the events."""
    decisions = {event["decision"] for event in events}
    hollow = Line2D(
        [], [], marker="o", linestyle="", markerfacecolor="white", markeredgecolor=INK, label="before the cut"
    )
    kept = Line2D([], [], marker="o", color=KEPT, label="after it, kept")
    undone = Line2D([], [], marker="X", color=UNDONE, label="after it, undone")
    return [hollow, *([kept] if "kept" in decisions else []), *([undone] if "undone" in decisions else [])]


def _hollow(colour: str) -> dict[str, Any]:
    return {"markerfacecolor": "white", "markeredgecolor": colour}


# Shared ----------------------------------------------------------------------------------------------------------


def _panels(figure: Figure, lines: int, columns: int, count: int) -> list[Axes]:
    """The first ``count`` panels of a grid; steps stand below the lowest one of each column."""
    panels = list(figure.subplots(lines, columns, squeeze=False, sharex=True).flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[max(count - columns, 0) : count]:
        axes.tick_params(labelbottom=True)
    return panels[:count]


def _event_marks(axes: Axes, events: Records) -> None:
    """A mark above the axes where an event was: a triangle where it was kept, a cross where it was undone."""
    for decision, marker, colour in (("kept", "v", KEPT), ("undone", "X", UNDONE)):
        at = [event["env_steps"] for event in events if event["decision"] == decision]
        label = f"event, {decision}"
        axes.plot(
            at, [1.03] * len(at), marker, color=colour, markersize=5, transform=axes.get_xaxis_transform(),
            clip_on=False, linestyle="", label=label if at else None,
        )  # fmt: skip


def _steps_axis(axes: Axes, label: str) -> None:
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel(label)


def _share_axis(axes: Axes, smallest: float) -> None:
    """What is left of the whole, from 100 % at the left down to the smallest share, in even factors."""
    axes.set_xscale("log")
    axes.set_xlim(1.08, smallest / 1.08)
    axes.xaxis.set_major_locator(FixedLocator([share for share in SHARES if share >= smallest / 1.08]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_minor_locator(NullLocator())


SHARES = (1, 0.75, 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)


def _edges(steps: Float[np.ndarray, "T"]) -> Float[np.ndarray, "S"]:
    """Borders halfway between the steps: 10, 20, 40 -> 5, 15, 30, 50; a single step gets one of width 1."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middle = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[2 * steps[0] - middle[0]], middle, [2 * steps[-1] - middle[-1]]])


def _known(row: Mapping[str, Any], key: str) -> bool:
    return _is_number(row.get(key))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))

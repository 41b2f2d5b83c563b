"""Curves of a run as PNG, from the rows of its metrics file.

Figures are built through matplotlib's object interface: no pyplot, no backend, no global state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

try:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
except ImportError as error:
    raise ImportError("figures need matplotlib: pip install 'tdmpc[train]'") from error

PUBLISHED: dict[str, dict[int, float]] = {
    "dm_control/cartpole-swingup-v0": {20_000: 98, 40_000: 574, 60_000: 825, 100_000: 859, 200_000: 873, 500_000: 879},
    "dm_control/reacher-easy-v0": {20_000: 536, 40_000: 710, 60_000: 904, 100_000: 893, 200_000: 974, 500_000: 976},
    "dm_control/walker-walk-v0": {20_000: 447, 40_000: 954, 60_000: 964, 100_000: 963, 200_000: 969, 500_000: 977},
    "dm_control/cheetah-run-v0": {20_000: 94, 40_000: 402, 60_000: 456, 100_000: 603, 200_000: 561, 500_000: 814},
}
"""TD-MPC's returns by environment steps, means of 5 seeds (arXiv 2203.04955), by canonical environment id."""

Rows = Sequence[Mapping[str, Any]]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: for every eye
_INK = "#333333"
_DPI = 200
_DOTS: dict[str, Any] = {"marker": "o", "markersize": 3.2, "markeredgewidth": 0, "alpha": 0.3, "linestyle": ""}
_MEAN: dict[str, Any] = {"linewidth": 1.8}
_EVALUATION: dict[str, Any] = {
    "linewidth": 0.9,
    "marker": "D",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgewidth": 1.4,
}
_PUBLISHED: dict[str, Any] = {
    "color": _INK,
    "linestyle": (0, (5, 3)),
    "linewidth": 1.3,
    "marker": "s",
    "markersize": 3.5,
}


# ------------------------------------------------------------------------------------------ learning curve


def learning_curve(
    runs: Mapping[str, Rows],
    path: str | Path,
    *,
    title: str = "",
    published: Mapping[int, float] | None = None,
    threshold: float | None = None,
    window: int = 7,
) -> None:
    """Draw return against environment steps as a PNG of 1400 x 920 pixels.

    Training episodes are faint dots with their running mean, evaluations a line with markers and
    a bar of one standard deviation between episodes. The steps shown are those of the runs.

    Args:
        runs: label of each run (a seed, a preset) and its rows.
        path: the PNG.
        title: above the axes.
        published: return by environment steps to compare with, dashed; see ``PUBLISHED``.
        threshold: a return to reach, drawn as a thin dotted line.
        window: episodes in the running mean.
    """
    figure = Figure(figsize=(7, 4.6), dpi=_DPI, layout="constrained")
    axes = figure.add_subplot()
    for index, rows in enumerate(runs.values()):
        _draw_run(axes, rows, _colour(index), window)
    if published:
        axes.plot(*_curve(published), **_PUBLISHED, zorder=2)
    if threshold is not None:
        axes.axhline(threshold, color=_INK, linewidth=0.9, linestyle=":", zorder=1)
    _dress(axes, title, "Return per episode", size=10)
    axes.set_xlabel("Environment steps, action repeat included", color=_INK)
    _set_limits(axes, [row for rows in runs.values() for row in rows], published, threshold)
    handles = _legend_entries(runs, published, threshold, window)
    if handles:
        columns = 3 if len(handles) != 4 else 2
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5)
    save(figure, path)


def _draw_run(axes: Axes, rows: Rows, colour: str, window: int) -> None:
    steps, returns = _series(rows, "return", kind="train")
    axes.plot(steps, returns, **_DOTS, color=colour, zorder=3)
    axes.plot(steps, _running_mean(returns, window), **_MEAN, **_lone_marker(steps), color=colour, zorder=4)
    evaluations = [row for row in rows if row.get("kind") == "eval"]
    steps, means = _series(evaluations, "return_mean")
    deviations = [row.get("return_std") or 0.0 for row in evaluations if _finite(row.get("return_mean"))]
    axes.errorbar(steps, means, deviations, color=colour, elinewidth=0.9, capsize=2.5, zorder=5, **_EVALUATION)


def _legend_entries(
    runs: Mapping[str, Rows], published: Mapping[int, float] | None, threshold: float | None, window: int
) -> list[Artist]:
    """One entry for each run where there are several, then what the marks mean, as far as they occur."""
    several = len(runs) > 1
    colour = "#777777" if several else _colour(0)
    kinds = {row.get("kind") for rows in runs.values() for row in rows}
    entries: list[Artist] = []
    if several:
        entries += [Line2D([], [], color=_colour(i), linewidth=2.5, label=label) for i, label in enumerate(runs)]
    if "train" in kinds:
        entries.append(Line2D([], [], color=colour, **_DOTS, label="training episode"))
        entries.append(Line2D([], [], color=colour, **_MEAN, label=f"running mean, {window} episodes"))
    if "eval" in kinds:
        entries.append(Line2D([], [], color=colour, **_EVALUATION, label="evaluation, mean ± sd"))
    if published:
        entries.append(Line2D([], [], **_PUBLISHED, label="TD-MPC as published, 5 seeds"))
    if threshold is not None:
        entries.append(
            Line2D([], [], color=_INK, linewidth=0.9, linestyle=":", label=f"target {threshold:g}".replace("-", "−"))
        )
    return entries


def _set_limits(axes: Axes, rows: Rows, published: Mapping[int, float] | None, threshold: float | None) -> None:
    """Steps of the runs; returns of what those steps show, and zero where none is negative."""
    last = max([row["env_steps"] for row in rows], default=max(published or {1: 0.0}))
    shown = [*_series(rows, "return", kind="train")[1], *_series(rows, "return_mean", kind="eval")[1]]
    if published:
        steps, returns = _curve(published)
        shown += [*returns[steps <= last], np.interp(last, steps, returns)]
    if threshold is not None:
        shown.append(threshold)
    axes.set_xlim(0, max(last, 1) * 1.02)
    low, high = min(shown, default=0.0), max(shown, default=1.0)
    margin = 0.06 * (max(high, 0.0) - min(low, 0.0) or 1.0)
    if low >= 0:
        axes.set_ylim(0, high + margin)
    else:
        axes.set_ylim(low - margin, high + margin)


def _curve(published: Mapping[int, float]) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array(sorted(published))
    return steps, np.array([published[step] for step in steps], dtype=float)


# ---------------------------------------------------------------------------------------- training panels


@dataclass(frozen=True)
class _Panel:
    """Quantities that share a pair of axes; each line is a key of the rows and its name in the legend."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    log: bool = False
    right: tuple[str, str] | None = None
    """Key and unit of a quantity on an axis of its own at the right."""
    steps: bool = False
    """The values are schedules: whole numbers, drawn as steps, never smoothed."""


_PANELS = (
    _Panel("Consistency loss", "squared latent error", (("loss/consistency", ""),), log=True),
    _Panel("Reward loss", "squared error", (("loss/reward", "reward"), ("loss/termination", "termination")), log=True),
    _Panel("Value loss", "squared TD error", (("loss/value", ""),), log=True),
    _Panel("Policy loss", "minus value", (("loss/policy", ""),)),
    _Panel(
        "Gradient norm before clipping",
        "norm",
        (("grad_norm/model", "model"), ("grad_norm/policy", "policy")),
        log=True,
    ),
    _Panel("Decision rate", "decisions per second", (("decisions_per_s", ""),), log=True),
    _Panel("Time per call", "milliseconds", (("time/plan_ms", "plan"), ("time/update_ms", "update"))),
    _Panel("Planning schedules", "horizon, steps", (("horizon", ""),), right=("std", "least deviation"), steps=True),
)


def training_panels(rows: Rows, path: str | Path, *, title: str = "", window: int = 7) -> None:
    """Draw how training went: a panel for each quantity that the rows have, three side by side.

    Faint lines are what was logged, strong ones their running mean. The PNG is 2000 pixels wide
    and 440 pixels high for each row of panels.
    """
    rows = [row for row in rows if row.get("kind") == "train"]
    panels = [panel for panel in _PANELS if any(_series(rows, key)[0].size for key in _keys(panel))]
    columns, lines = min(max(len(panels), 1), 3), max(-(-len(panels) // 3), 1)
    figure = Figure(figsize=(10, 2.2 * lines), dpi=_DPI, layout="constrained")
    if title:
        figure.suptitle(title, fontsize=11, color=_INK)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(lines, columns, index + 1)
        _draw_panel(axes, panel, rows, window)
        if index + columns >= len(panels):
            axes.set_xlabel("environment steps", fontsize=8, color=_INK)
    if not panels:
        figure.text(0.5, 0.5, "no training rows yet", ha="center", color=_INK)
    save(figure, path)


def _keys(panel: _Panel) -> list[str]:
    return [key for key, _ in panel.lines] + ([panel.right[0]] if panel.right else [])


def _draw_panel(axes: Axes, panel: _Panel, rows: Rows, window: int) -> None:
    drawn = [series for key, label in panel.lines if (series := _draw_line(axes, panel, rows, key, label, window)).size]
    _dress(axes, panel.title, panel.unit, size=8)
    axes.set_xlim(0, max(row["env_steps"] for row in rows) * 1.02 or 1)
    values = np.concatenate([*drawn, np.empty(0)])
    if panel.log and values.size and values.min() > 0 and values.max() > 5 * values.min():
        _set_log_scale(axes, values.max() / values.min())
    elif values.size and values.min() >= 0:
        axes.set_ylim(0, values.max() * 1.08 or 1)
    if panel.steps:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(drawn) > 1:
        axes.legend(fontsize=7, frameon=False)
    if panel.right:
        _draw_right(axes, rows, *panel.right)


def _draw_line(axes: Axes, panel: _Panel, rows: Rows, key: str, label: str, window: int) -> np.ndarray:
    """Draw one quantity; returns its values."""
    steps, values = _series(rows, key)
    colour = _colour([line[0] for line in panel.lines].index(key))
    style: dict[str, Any] = {"color": colour, "linewidth": 1.6, "label": label, **_lone_marker(steps)}
    if panel.steps:
        axes.plot(steps, values, drawstyle="steps-post", **style)
    else:
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
        axes.plot(steps, _running_mean(values, window), **style)
    return values


def _draw_right(axes: Axes, rows: Rows, key: str, unit: str) -> None:
    """A second quantity with an axis of its own; each axis has the colour of its line."""
    steps, values = _series(rows, key)
    if not steps.size:
        return
    right = axes.twinx()
    right.plot(steps, values, color=_colour(1), linewidth=1.6, **_lone_marker(steps))
    right.set_ylim(0, values.max() * 1.08 or 1)
    right.set_ylabel(unit, fontsize=8, color=_colour(1))
    right.tick_params(labelsize=7, colors=_colour(1), color="#999999")
    right.spines[["top", "left", "bottom"]].set_visible(False)
    right.spines["right"].set_color("#999999")
    axes.yaxis.label.set_color(_colour(0))
    axes.tick_params(axis="y", labelcolor=_colour(0))


def _set_log_scale(axes: Axes, ratio: float) -> None:
    """Powers of ten where the values span some, else 1, 2, 5 between them; 0.02 rather than 2 x 10^-2."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if ratio > 1000 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


# ------------------------------------------------------------------------------------------------- shared


def _series(rows: Rows, key: str, *, kind: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps and values of the rows that have a finite value, in order of steps."""
    pairs = [
        (row["env_steps"], row[key])
        for row in rows
        if (kind is None or row.get("kind") == kind) and _finite(row.get(key))
    ]
    pairs.sort(key=lambda pair: pair[0])
    table = np.array(pairs, dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a window centred on each value, shorter at both ends: [1, 3, 8], 3 gives [2, 4, 5.5]."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    here = np.arange(values.size)
    starts, ends = np.maximum(here - window // 2, 0), np.minimum(here + window // 2 + 1, values.size)
    return (total[ends] - total[starts]) / (ends - starts)


def _lone_marker(steps: np.ndarray) -> dict[str, Any]:
    """A single point has no line to be seen by."""
    return {"marker": "o", "markersize": 4} if steps.size == 1 else {}


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _dress(axes: Axes, title: str, ylabel: str, *, size: float) -> None:
    """Quiet axes: two spines, a light grid, 20k instead of 20000."""
    axes.set_title(title, fontsize=size + 1, color=_INK, loc="left")
    axes.set_ylabel(ylabel, fontsize=size, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=size - 1, colors=_INK, color="#999999", which="both")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def save(figure: Figure, path: str | Path) -> None:
    """Write the PNG whole or not at all."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    FigureCanvasAgg(figure)
    try:
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor="white")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

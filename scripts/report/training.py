"""Curves of runs, from the rows of their metrics: returns, and how training went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tdmpc.scripts.report.style import (
    HOLLOW,
    INK,
    LINE,
    MUTED,
    PALETTE,
    Artist,
    Axes,
    MaxNLocator,
    colours,
    entry,
    is_number,
    legend,
    panels,
    save,
    steps_axis,
    styled,
    value_axis,
)

PUBLISHED: dict[str, dict[int, float]] = {
    "dm_control/cartpole-swingup-v0": {20_000: 98, 40_000: 574, 60_000: 825, 100_000: 859, 200_000: 873, 500_000: 879},
    "dm_control/reacher-easy-v0": {20_000: 536, 40_000: 710, 60_000: 904, 100_000: 893, 200_000: 974, 500_000: 976},
    "dm_control/walker-walk-v0": {20_000: 447, 40_000: 954, 60_000: 964, 100_000: 963, 200_000: 969, 500_000: 977},
    "dm_control/cheetah-run-v0": {20_000: 94, 40_000: 402, 60_000: 456, 100_000: 603, 200_000: 561, 500_000: 814},
}
"""TD-MPC's returns by environment steps, means of 5 seeds (arXiv 2203.04955), by canonical environment id."""
WINDOW = 7
"""Values in a running mean."""

Rows = Sequence[Mapping[str, Any]]

_DOTS: dict[str, Any] = {"marker": "o", "markersize": 3.2, "markeredgewidth": 0, "alpha": 0.3, "linestyle": ""}
_EVALUATION: dict[str, Any] = {**HOLLOW, "markersize": 5, "markeredgewidth": 1.4, "linewidth": 0.9}
_PUBLISHED: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1.3}
AS_PUBLISHED = entry("TD-MPC as published, 5 seeds", marker="s", markersize=3.5, **_PUBLISHED)
"""In a legend."""


# Learning curves -------------------------------------------------------------------------------------------------


@styled
def learning_curve(
    runs: Mapping[str, Rows], path: str | Path, *, title: str = "", published: Mapping[int, float] | None = None
) -> None:
    """Draw return against environment steps as a PNG of 1400 x 920 pixels.

    Training episodes are faint dots with their running mean, evaluations a line with markers and
    a bar of one standard deviation between episodes. The steps shown are those of the runs.

    Args:
        runs: label of each run (a seed, a preset) and its rows.
        path: the PNG.
        title: above the axes.
        published: return by environment steps to compare with, dashed; see ``PUBLISHED``.
    """
    figure, (axes,) = panels(1, columns=1, width=7, height=4.6, extra=0)
    hues = colours(list(runs))
    for label, rows in runs.items():
        draw_run(axes, rows, hues[label])
    every = [row for rows in runs.values() for row in rows]
    finish(axes, max((row["env_steps"] for row in every), default=0), published)
    axes.set(title=title, xlabel="Environment steps, action repeat included", ylabel="Return per episode")
    legend(figure, hues.items() if len(runs) > 1 else (), _meanings({row.get("kind") for row in every}, published))
    save(figure, path)


def draw_run(axes: Axes, rows: Rows, colour: str, *, dots: bool = True) -> None:
    """Training episodes with their running mean, and evaluations."""
    train = series([row for row in rows if row.get("kind") == "train"], "return")
    if dots:
        axes.plot(train.index, train, **_DOTS, color=colour, zorder=3)
    axes.plot(train.index, running_mean(train), **_line(train), color=colour, zorder=4)
    tested = [row for row in rows if row.get("kind") == "eval" and is_number(row.get("return_mean"))]
    mean = series(tested, "return_mean")
    deviation = series([{**row, "sd": row.get("return_std") or 0.0} for row in tested], "sd")
    axes.errorbar(mean.index, mean, deviation, color=colour, elinewidth=0.9, capsize=2.5, zorder=5, **_EVALUATION)


def finish(axes: Axes, last: float, published: Mapping[int, float] | None) -> None:
    """The published curve as far as the runs go, and limits: steps of the runs, zero where no return is negative."""
    steps = sorted(published or ())
    shown = [step for step in steps if step <= last]
    ends = [*shown, *([last] if steps and last > steps[0] else [])]
    if published and ends:
        returns = np.interp(ends, steps, [published[step] for step in steps])
        axes.plot(ends, returns, zorder=2, **_PUBLISHED)
        axes.plot(shown, returns[: len(shown)], "s", color=INK, markersize=3.5, zorder=2)
    steps_axis(axes)
    axes.set_xlim(0, 1.02 * max(last, 1))
    if axes.dataLim.y0 >= 0:  # of nothing it is infinite
        axes.set_ylim(bottom=0)


def _meanings(kinds: set[Any], published: Mapping[int, float] | None) -> list[Artist]:
    """What the marks mean, as far as they occur."""
    train = (entry("training episode", color=MUTED, **_DOTS), entry(f"running mean, {WINDOW} episodes", color=MUTED))
    return [
        *(train if "train" in kinds else ()),
        *([entry("evaluation, mean ± sd", color=MUTED, **_EVALUATION)] if "eval" in kinds else ()),
        *([AS_PUBLISHED] if published else ()),
    ]


# How training went -----------------------------------------------------------------------------------------------


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

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self.lines] + ([self.right[0]] if self.right else [])


_NORMS = (("grad_norm/model", "model"), ("grad_norm/policy", "policy"))
_PANELS = (
    _Panel("Consistency loss", "squared latent error", (("loss/consistency", ""),), log=True),
    _Panel("Reward loss", "squared error", (("loss/reward", "reward"), ("loss/termination", "termination")), log=True),
    _Panel("Value loss", "squared TD error", (("loss/value", ""),), log=True),
    _Panel("Policy loss", "minus value", (("loss/policy", ""),)),
    _Panel("Gradient norm before clipping", "norm", _NORMS, log=True),
    _Panel("Decision rate", "decisions per second", (("decisions_per_s", ""),), log=True),
    _Panel("Time per call", "milliseconds", (("time/plan_ms", "plan"), ("time/update_ms", "update"))),
    _Panel("Planning schedules", "horizon, steps", (("horizon", ""),), right=("std", "least deviation"), steps=True),
)


@styled
def training_panels(rows: Rows, path: str | Path, *, title: str = "") -> None:
    """Draw how training went: a panel for each quantity that the rows have, three side by side.

    Faint lines are what was logged, strong ones their running mean. The PNG is 2000 pixels wide
    and 440 pixels high for each row of panels.
    """
    rows = [row for row in rows if row.get("kind") == "train"]
    shown = [panel for panel in _PANELS if any(series(rows, key).size for key in panel.keys)]
    columns = min(max(len(shown), 1), 3)
    figure, places = panels(len(shown), columns=columns, width=10 / columns, height=2.2, extra=0, sharex=True)
    figure.suptitle(title)
    for axes, panel in zip(places, shown, strict=True):
        _draw_panel(axes, panel, rows)
        axes.set_xlim(0, max(row["env_steps"] for row in rows) * 1.02 or 1)
    figure.supxlabel("environment steps" if shown else "no training rows yet", fontsize=8)
    save(figure, path)


def _draw_panel(axes: Axes, panel: _Panel, rows: Rows) -> None:
    steps_axis(axes)
    axes.set(title=panel.title, ylabel=panel.unit)
    drawn = {label: values for key, label in panel.lines if (values := series(rows, key)).size}
    for (label, values), colour in zip(drawn.items(), PALETTE, strict=False):
        style: dict[str, Any] = {"color": colour, "label": label, **_line(values)}
        if panel.steps:
            axes.plot(values.index, values, drawstyle="steps-post", **style)
        else:
            axes.plot(values.index, values, color=colour, alpha=0.3, linewidth=0.8)
            axes.plot(values.index, running_mean(values), **style)
    value_axis(axes, [value for values in drawn.values() for value in values], log=panel.log)
    if panel.steps:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(drawn) > 1:
        axes.legend(fontsize=7)
    if panel.right:
        _draw_right(axes, series(rows, panel.right[0]), panel.right[1])


def _draw_right(axes: Axes, values: pd.Series, unit: str) -> None:
    """A second quantity with an axis of its own; each axis has the colour of its line."""
    if not values.size:
        return
    right = axes.twinx()
    right.plot(values.index, values, color=PALETTE[1], **_line(values))
    value_axis(right, values, log=False)
    right.set_ylabel(unit, color=PALETTE[1])
    right.tick_params(labelcolor=PALETTE[1])
    right.spines["right"].set(visible=True, color=LINE)
    axes.yaxis.label.set_color(PALETTE[0])
    axes.tick_params(axis="y", labelcolor=PALETTE[0])


# What both need --------------------------------------------------------------------------------------------------


def series(rows: Rows, key: str) -> pd.Series:
    """A quantity by environment steps, in their order, without what is no finite number."""
    known = [row for row in rows if is_number(row.get(key))]
    values = pd.Series([row[key] for row in known], index=[row["env_steps"] for row in known], dtype=float)
    return values.sort_index(kind="stable")


def running_mean(values: pd.Series) -> pd.Series:
    """Mean over a window centred on each value, shorter at both ends: with a window of 3, [1, 3, 8] -> [2, 4, 5.5]."""
    return values.rolling(WINDOW, center=True, min_periods=1).mean()


def _line(values: pd.Series) -> dict[str, Any]:
    """A single point has no line to be seen by."""
    return {"linewidth": 1.6, **({"marker": "o", "markersize": 4} if values.size == 1 else {})}

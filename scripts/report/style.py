"""The one style of all figures: colours, fonts and axes, and how a figure becomes a file."""

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

try:
    from matplotlib import rc_context
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
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

from tdmpc.files import write_whole

INK, LINE, GRID, MUTED = "#333333", "#999999", "#e6e6e6", "#777777"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", MUTED, "#000000", "#bbbbbb")
"""Of Okabe and Ito, for every eye; then greys. What is drawn in the n-th place has the n-th colour."""
KEPT, UNDONE = PALETTE[:2]
"""Of pruning events."""
MARKERS = "osD^vP"
HOLLOW: Any = {"marker": "D", "markerfacecolor": "white"}
"""How an evaluation looks among training episodes."""
STYLE: Any = {
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "xtick.labelcolor": INK,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.loc": "upper left",  # to look for the best place takes long, and matplotlib warns of it
    "figure.constrained_layout.use": True,
    "savefig.dpi": 200,
}
styled = rc_context(STYLE)
"""Decorator of whatever draws."""


def colours(names: Sequence[Any]) -> dict[Any, str]:
    """One for each name."""
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(names)}


def markers(names: Sequence[Any]) -> dict[Any, str]:
    """One for each name."""
    return {name: MARKERS[index % len(MARKERS)] for index, name in enumerate(names)}


def panels(
    count: int, *, columns: int, width: float, height: float, extra: float = 0.5, sharex: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels in rows; those of a column may share their steps, which stand below the lowest one.

    Args:
        count: of panels.
        columns: panels side by side, at most.
        width: of a panel, in inches.
        height: of a panel, in inches.
        extra: height of what stands above or below all panels.
        sharex: whether panels have one horizontal axis.
    """
    columns = max(min(columns, count), 1)
    lines = max(-(-count // columns), 1)
    figure = Figure(figsize=(max(width * columns, 5), height * lines + extra))
    every = list(figure.subplots(lines, columns, squeeze=False, sharex=sharex).flat)
    for axes in every[count:]:
        axes.set_visible(False)
    for axes in every[:count]:
        axes.grid(True)
    for axes in every[max(count - columns, 0) : count]:
        axes.tick_params(labelbottom=True)
    return figure, every[:count]


def entry(label: str, **look: Any) -> Line2D:
    """A line or a mark of a legend."""
    return Line2D([], [], label=label, **look)


def legend(figure: Figure, names: Iterable[tuple[str, str]], more: Sequence[Artist] = ()) -> None:
    """Names with their colours, and more entries, below all panels."""
    entries = [*(entry(name, color=colour, linewidth=2.5) for name, colour in names), *more]
    if entries:
        figure.legend(handles=entries, loc="outside lower center", ncols=3 if figure.get_figwidth() < 8 else 6)


def steps_axis(axes: Axes, label: str = "") -> None:
    """20k instead of 20000."""
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.set_xlabel(label)


def plain_log(axis: Axis, *, subs: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """A logarithmic axis with plain numbers: 0.02 rather than 2 x 10^-2."""
    axis.axes.set(**{"xscale" if axis is axis.axes.xaxis else "yscale": "log"})
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def value_axis(axes: Axes, values: Iterable[float], *, log: bool = True) -> None:
    """Logarithmic where values are positive and span more than a factor of five, else from zero if none is negative."""
    finite = [value for value in values if is_number(value)]
    low, high = min(finite, default=-1.0), max(finite, default=1.0)
    if log and low > 0 and high > 5 * low:
        plain_log(axes.yaxis, subs=(1.0,) if high > 1000 * low else (1.0, 2.0, 5.0))
    elif low >= 0:
        axes.set_ylim(0, 1.08 * high or 1)


def share_axis(axes: Axes, smallest: float) -> None:
    """What is left of the whole, from 100 % at the left down to the smallest share, in even factors."""
    axes.set(xscale="log", xlim=(1.08, smallest / 1.08))
    # The numbers at 100 and 75 % would touch where the axis reaches far.
    shares = (1, *([0.75] if smallest > 0.2 else []), 0.5, 0.3, 0.2, 0.1, 0.05, 0.03, 0.02, 0.01)
    axes.xaxis.set_major_locator(FixedLocator([share for share in shares if share >= smallest / 1.08]))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_minor_locator(NullLocator())


def period_line(axes: Axes, period_ms: float, label: str) -> None:
    """Where a control period ends, on an axis of times."""
    axes.axvline(period_ms, color=INK, linestyle=":", linewidth=1)
    axes.annotate(
        label,
        (period_ms, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
    )


def is_number(value: object) -> bool:
    """Whether a value can be drawn."""
    return isinstance(value, int | float) and bool(np.isfinite(value))


@styled
def save(figure: Figure, path: str | Path) -> None:
    """Write the PNG whole or not at all; an error names it."""
    picture = BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(picture, format="png", facecolor="white")
    write_whole(Path(path), picture.getvalue())

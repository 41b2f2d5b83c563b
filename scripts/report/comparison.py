"""Pictures of models that were made smaller in several ways, beside each other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from tdmpc.scripts.report.style import INK, Figure, colours, markers, panels, share_axis, styled


@styled
def tradeoff(table: pd.DataFrame, *, dense: str, scratch: str) -> Figure:
    """Quality against the parameters left, a line for each method: mean over the seeds, least and largest as a bar.

    Args:
        table: columns ``method``, ``target``, ``parameters_left`` and ``psnr``.
        dense: the method that is not pruned: a horizontal line.
        scratch: the method that is small from the start: dashed.
    """
    methods = [name for name in table["method"].unique() if name not in (dense, scratch)]
    hues, marks = colours(methods), markers(methods)
    looks: dict[str, Any] = {name: {"color": hues[name], "marker": marks[name]} for name in methods}
    figure, (axes,) = panels(1, columns=1, width=6.8, height=4.2, extra=0)
    axes.axhline(table.loc[table["method"] == dense, "psnr"].mean(), color=INK, linewidth=1, linestyle=":", label=dense)
    for name, look in {scratch: {"color": INK, "linestyle": "--", "marker": "x"}, **looks}.items():
        targets = table[table["method"] == name].groupby("target")
        psnr = targets["psnr"].agg(["mean", "min", "max"])
        spread = [psnr["mean"] - psnr["min"], psnr["max"] - psnr["mean"]]
        size: Any = {"linewidth": 1.3, "markersize": 4, "elinewidth": 0.8}
        axes.errorbar(targets["parameters_left"].mean(), psnr["mean"], spread, label=name, **size, **look)
    share_axis(axes, table["parameters_left"].min())
    axes.set(xlabel="parameters left", ylabel="PSNR, dB")
    figure.legend(loc="outside right upper")
    return figure


@styled
def gallery(rows: Mapping[str, Any], side: int) -> Figure:
    """Square pictures side by side, a labelled row of them (pictures x pixels) for each entry."""
    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(0.62 * count + 1.4, 0.66 * len(rows)))
    grid = figure.subplots(len(rows), count, squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for line, (label, pictures) in zip(grid, rows.items(), strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(np.asarray(picture).reshape(side, side), cmap="gray", vmin=0, vmax=1)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center")
    return figure

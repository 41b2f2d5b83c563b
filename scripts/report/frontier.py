"""Figure of a search: what each controller returns, against how long it takes to decide."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tdmpc.scripts.report.style import INK, Figure, colours, entry, period_line, plain_log, save, styled

Row = dict[str, Any]


def frontier(rows: Iterable[Row]) -> list[Row]:
    """Those that return more than each quicker one: 1 ms 5, 2 ms 4, 3 ms 6 leaves the first and the last."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda row: (row["p99_ms"], -row["return_mean"])):
        if not found or row["return_mean"] > found[-1]["return_mean"]:
            found.append(row)
    return found


@styled
def draw(rows: Sequence[Row], path: Path, *, limit_ms: float) -> None:
    """Every candidate that was played is a mark: full where it played all episodes, hollow where it was stopped.

    Args:
        rows: ``agent``, ``policy``, ``p99_ms``, ``return_mean``, ``stopped`` and ``chosen`` of each.
        path: figure to write.
        limit_ms: what a decision may take, drawn as a line.
    """
    figure = Figure(figsize=(6.5, 4))
    axes = figure.subplots()
    agents = colours(list(dict.fromkeys(row["agent"] for row in rows)))
    for row in rows:
        colour = agents[row["agent"]]
        look = {"color": colour, "markerfacecolor": "white" if row["stopped"] else colour, "markersize": 5}
        axes.plot(row["p99_ms"], row["return_mean"], "*" if row["policy"] == "prior" else "o", **look)
    best = frontier(row for row in rows if not row["stopped"])
    axes.step([row["p99_ms"] for row in best], [row["return_mean"] for row in best], where="post", color=INK, lw=1)
    for row in [row for row in rows if row["chosen"]]:
        axes.plot(row["p99_ms"], row["return_mean"], "o", markersize=13, color=INK, markerfacecolor="none")
    axes.set(xlabel="99th percentile of a decision (ms)", ylabel="return")
    plain_log(axes.xaxis)
    axes.grid(True)
    period_line(axes, limit_ms, f"{limit_ms:g} ms")
    marks = [entry(agent, color=colour, marker="o", linestyle="") for agent, colour in agents.items()]
    hollow = {"color": INK, "markerfacecolor": "white", "marker": "o", "linestyle": ""}
    marks += [entry("stopped early", **hollow), entry("policy alone", color=INK, marker="*", linestyle="")]
    marks += [entry("frontier", color=INK, linewidth=1), entry("chosen", **hollow, markersize=11)]
    figure.legend(handles=marks, loc="outside lower center", ncols=3)
    save(figure, path)

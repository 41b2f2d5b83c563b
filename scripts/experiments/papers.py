"""Tables and figures of docs/papers.md: what criteria say, and how single weights go."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from tdmpc.scripts import collect
from tdmpc.scripts.csv_tables import read_table
from tdmpc.scripts.estimates import Estimate, correlation, mean
from tdmpc.scripts.experiments.figures import Kind
from tdmpc.scripts.experiments.tables import markdown
from tdmpc.scripts.report import style
from tdmpc.scripts.report.style import Figure, colours, legend, markers, steps_axis, styled

RULES = ("global", "layer", "neuron")
WAYS = {"": "dropped", ", least squares": "least squares", ", iterative": "iterative"}
BOTH = ", least squares, iterative"


# Watched trainings -----------------------------------------------------------------------------------------------


def agreement(path: Path) -> str:
    """Rank correlation of each two criteria, a column for each task."""
    rows = read_table(path, "task", "method", "other", "seed", numbers=("rank",))
    tasks = rows["task"].unique()
    return markdown(
        {
            "criteria": f"{one}, {other}",
            **{task: _interval(mean(pair.loc[pair["task"] == task, "rank"].tolist())) for task in tasks},
        }
        for (one, other), pair in rows.groupby(["method", "other"], sort=False)
    )


def moving(path: Path) -> str:
    """How far the ranking by each criterion moves while nothing is cut."""
    rows = read_table(path, "task", "method", "seed", numbers=("neighbours", "early_late"))
    return markdown(
        {
            **{"task": task, "criterion": name, "seeds": str(len(some))},
            "neighbouring snapshots": _interval(mean(some["neighbours"].tolist())),
            "a fifth into training and its end": _interval(mean(some["early_late"].tolist())),
        }
        for (task, name), some in rows.groupby(["task", "method"], sort=False)
    )


def shares(path: Path) -> str:
    """Importance of each level at the end, by each criterion: 1 is the mean of its component."""
    rows = read_table(path, "task", "method", "seed", "level", numbers=("env_steps", "importance"))
    last = rows[rows["env_steps"] == rows.groupby("task")["env_steps"].transform("max")]
    return markdown(
        {
            **{"task": task, "level": level},
            **{name: f"{some['importance'].mean():.2f}" for name, some in part.groupby("method", sort=False)},
        }
        for (task, level), part in last.groupby(["task", "level"], sort=False)
    )


@styled
def heat(rows: pd.DataFrame) -> Figure:
    """Importance of every level over training, the mean over the seeds, a panel for each criterion."""
    names = list(rows["method"].unique())
    figure, panels = style.panels(len(names), columns=4, width=2.6, height=2.2)
    levels = list(rows["level"].unique())
    for axes, name in zip(panels, names, strict=False):
        some = rows[rows["method"] == name]
        table = some.pivot_table(index="level", columns="env_steps", values="importance", sort=True).loc[levels]
        steps = table.columns.to_numpy(dtype=float)
        picture = axes.pcolormesh(
            steps, range(len(levels)), np.log2(table.to_numpy().clip(1 / 16)), cmap="RdBu_r", vmin=-2, vmax=2
        )
        axes.set_yticks(range(len(levels)), levels)
        axes.invert_yaxis()
        axes.set_title(name)
        steps_axis(axes, "steps")
        axes.grid(False)
        figure.colorbar(picture, ax=axes, label="log2 of importance" if name == names[-1] else "")
    return figure


# Intermediate steps ----------------------------------------------------------------------------------------------


def paired(path: Path) -> str:
    """Return of each method less that of the first one on the same seeds, so that what seeds share drops out."""
    rows = read_table(path, "task", "method", "seed", "status", numbers=("return_mean",)).query("status == 'finished'")
    lines = []
    for task, some in rows.groupby("task", sort=False):
        table = some.pivot(index="seed", columns="method", values="return_mean")
        base = some["method"].iloc[0]
        for method in some["method"].unique():
            change = (table[method] - table[base]).dropna()
            lines.append(
                {
                    **{"task": str(task), "method": str(method), "pairs": str(len(change))},
                    "return": _interval(mean(table[method].dropna().tolist())),
                    f"less that of {base}": "" if method == base or change.empty else _interval(mean(change.tolist())),
                }
            )
    return markdown(lines)


# Single weights --------------------------------------------------------------------------------------------------


def weights(path: Path) -> str:
    """Score by rule and way, mean over the seeds, at each sparsity."""
    rows = _scores(path)
    asked = sorted(rows["asked"].dropna().unique())
    lines = []
    for (task, method), some in rows.groupby(["task", "method"], sort=False):
        if method == "sap":
            continue
        cells = {
            f"{share:.0%} dropped": _interval(mean(part["score"].tolist()))
            if len(part := some[some["asked"] == share] if method != "dense" else some)
            else ""
            for share in asked
        }
        lines.append({"network": task, "rule": method, "seeds": str(some["seed"].nunique()), **cells})
    return markdown(lines)


def sap(path: Path) -> str:
    """Rounds of SAP: what is dropped by then, the PQ index of what is left, and the score."""
    rows = _scores(path)
    rows = rows[rows["method"] == "sap"].copy()
    rows["round"] = rows.groupby(["task", "seed"]).cumcount() + 1
    return markdown(
        {
            **{"network": task, "round": str(turn), "seeds": str(len(some))},
            "dropped": f"{some['sparsity'].mean():.1%}",
            "PQ index": f"{some['pq_index'].mean():.3f}",
            "score": _interval(mean(some["score"].tolist())),
        }
        for (task, turn), some in rows.groupby(["task", "round"], sort=False)
    )


def _scores(path: Path) -> pd.DataFrame:
    rows = read_table(path, "task", "method", "seed", "asked", numbers=("sparsity", "score", "pq_index"))
    return rows.assign(asked=pd.to_numeric(rows["asked"]))


def bounds(path: Path) -> str:
    """How many times what is measured each bound promises, medians; and errors beside what outputs vary by."""
    figures = ("sparsity", "worst_case", "largest", "mean_square", "rms", "of_output")
    rows = read_table(path, "task", "method", "seed", "component", "layer", numbers=figures)
    rows["layers"] = np.where(rows["layer"] == "all", "all", "one")
    loose = rows.assign(worst=rows["worst_case"] / rows["largest"], square=rows["mean_square"] / rows["rms"])
    return markdown(
        {
            **{"network": task, "weights": f"{share:.0%} dropped{', least squares' if way != 'dropped' else ''}"},
            "layers pruned": layers,
            "worst case, times the largest error": f"{some['worst'].median():.3g}",
            "mean square, times the measured": f"{some['square'].median():.3g}",
            "measured, of what the output varies by": f"{some['of_output'].median():.2g}",
        }
        for (task, share, way, layers), some in loose.groupby(["task", "sparsity", "method", "layers"], sort=False)
    )


def compressible(path: Path) -> str:
    """Rank correlation of each index with the share that can be dropped, over networks of one structure and of all."""
    rows = _cuts(path)
    lines = []
    for name, some in [*rows.groupby(["task", "method"], sort=False), (("all", ""), rows)]:
        line = {"network": " ".join(name).strip(), "networks": str(len(some))}
        for cut, way in (("cut", "dropped"), ("cut_refitted", "least squares")):
            for index in ("soft_sparsity", "pq_index"):
                found = correlation(some[index].tolist(), some[cut].tolist())
                line[f"{index.replace('_', ' ')}, {way}"] = (
                    f"{found.statistic:.2f} (p {found.pvalue:.2g})" if found else ""
                )
        lines.append(line)
    return markdown(lines)


def _cuts(path: Path) -> pd.DataFrame:
    return read_table(
        path, "task", "method", "seed", "moment", numbers=("soft_sparsity", "pq_index", "cut", "cut_refitted")
    )


@styled
def sparsities(rows: pd.DataFrame) -> Figure:
    """Score against the share of weights dropped, a panel for each network; colours are rules, lines the ways."""
    rows = rows.assign(asked=pd.to_numeric(rows["asked"]))
    tasks = list(rows["task"].unique())
    figure, panels = style.panels(len(tasks), columns=3, width=3.4, height=2.8)
    hues = colours([*RULES, "sap"])
    looks = {**dict(zip(WAYS, (":", "--", "-."), strict=True)), BOTH: "-"}
    for axes, task in zip(panels, tasks, strict=True):
        some = rows[rows["task"] == task]
        dense = some.loc[some["method"] == "dense", "score"].mean()
        axes.axhline(dense, color=style.LINE, linewidth=0.8)
        for rule in RULES:
            for way, line in looks.items():
                curve = some[some["method"] == f"{rule}{way}"].groupby("asked")["score"].mean()
                axes.plot(curve.index, curve, line, color=hues[rule], linewidth=1.2, marker="o", markersize=2.5)
        rounds = some[some["method"] == "sap"]
        axes.plot(rounds["sparsity"], rounds["score"], "D", color=hues["sap"], markersize=3)
        axes.set(title=task, xlabel="share of weights dropped", ylabel="score")
        axes.set_ylim(bottom=min(0.0, dense) if dense < 2 else 0.0)
    ways = [
        style.entry(name, color=style.INK, linestyle=line)
        for name, line in zip(WAYS.values(), looks.values(), strict=False)
    ]
    legend(figure, hues.items(), [*ways, style.entry("both", color=style.INK, linestyle="-")])
    return figure


@styled
def scatter(rows: pd.DataFrame) -> Figure:
    """Soft sparsity against the share that can be dropped, without and with least squares."""
    names = (rows["task"] + " " + rows["method"]).unique()
    figure, panels = style.panels(2, columns=2, width=3.6, height=3.0)
    hues, marks = colours(names), markers(rows["moment"].unique())
    for axes, (cut, title) in zip(panels, (("cut", "dropped"), ("cut_refitted", "least squares")), strict=True):
        for (task, name, moment), some in rows.groupby(["task", "method", "moment"], sort=False):
            look = {"color": hues[f"{task} {name}"], "markersize": 4, "alpha": 0.8}
            axes.plot(some["soft_sparsity"], some[cut], marks[moment], **look)
        axes.set(title=title, xlabel="soft sparsity, mean over neurons", ylabel="share that can be dropped")
    legend(figure, hues.items())
    return figure


def _interval(estimate: Estimate) -> str:
    value = _digits(estimate.value)
    return (
        value
        if estimate.low is None or estimate.high is None
        else (f"{value} [{_digits(estimate.low)}, {_digits(estimate.high)}]")
    )


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 2 else f"{value:.2f}"


TABLES: dict[str, tuple[str, Callable[[Path], str]]] = {
    "agreement": ("agreement.csv", agreement),
    "moving": ("moving.csv", moving),
    "shares": ("levels.csv", shares),
    "paired": (collect.RUNS, paired),
    "weights": ("weights.csv", weights),
    "sap": ("weights.csv", sap),
    "bounds": ("bounds.csv", bounds),
    "compressible": ("compressibility.csv", compressible),
}
KINDS = {
    "heat": Kind(
        *("levels.csv", ("level",), ("env_steps", "importance"), heat),
        "Importance of every level over training, by each criterion: red more, blue less than its component's mean",
    ),
    "sparsities": Kind(
        *("weights.csv", ("asked",), ("sparsity", "score"), sparsities),
        "Score against the share of single weights dropped, by rule; the line: dense",
    ),
    "scatter": Kind(
        *("compressibility.csv", ("moment",), ("soft_sparsity", "cut", "cut_refitted"), scatter),
        "Soft sparsity against the share of weights that can be dropped at an error of a tenth",
    ),
}

"""The tables of the pages, in Markdown, from the CSVs in results/."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd

from tdmpc.deploy.percentiles import upper_bound
from tdmpc.scripts import collect
from tdmpc.scripts.csv_tables import read_table
from tdmpc.scripts.estimates import Estimate, correlation, interquartile_mean, mean
from tdmpc.scripts.report.training import PUBLISHED

BASELINE = "dense"
"""The method that pruned ones are compared with."""


# Learning and pruning --------------------------------------------------------------------------------------------


def returns(path: Path) -> str:
    """What each method learned, over its seeds, beside the published return at as many environment steps."""
    return learned(path) + _unfinished(path)


def learned(path: Path) -> str:
    """The same without what has no result, as a first page has it."""
    rows = _finished(path, numbers=("return_mean", "env_steps"))
    return markdown(
        {
            **{"task": task, "method": method, "environment steps": f"{steps:,.0f}", **_estimates(some["return_mean"])},
            "each seed": ", ".join(map(_figure, some["return_mean"])),
            "published": _figure(PUBLISHED.get(f"dm_control/{task}-v0", {}).get(int(steps))),
        }
        for (task, method, steps), some in rows.groupby(["task", "method", "env_steps"], sort=False)
    )


def commands(path: Path) -> str:
    """How every finished run was made: seeds of one command in one line."""
    told = ("task", "method", "precision", "threads", "processor", "revision")
    rows = _finished(path, *told, "command")
    rows["command"] = [f"`{_template(*row)}`" for row in zip(rows["command"], rows["seed"], strict=True)]
    groups = rows.groupby([*told, "command"], sort=False)["seed"].agg(", ".join).reset_index(name="seeds")
    return markdown(groups[["task", "method", "seeds", *told[2:], "command"]].to_dict("records"))


def _template(command: str, seed: str) -> str:
    """A command with its seed as a word: ``train a --seed SEED --run-dir runs/a/dense-SEED``."""
    return re.sub(rf"(--seed |(?<=\w)-){seed}(?=\s|$)", r"\1SEED", command)


def pruning(path: Path) -> str:
    """What is left of an agent, what it returns, and what its training took, by method."""
    return markdown(_pruning(path)) + _unfinished(path)


def pruned(path: Path) -> str:
    """The same in short, as a first page has it."""
    left_out = ("parameters", "IQM [95 %]", "decisions/s at the end")
    return markdown({name: cell for name, cell in line.items() if name not in left_out} for line in _pruning(path))


def _pruning(path: Path) -> list[dict[str, str]]:
    sizes = ("planning_macs", "planning_macs_dense", "parameters", "parameters_dense")
    rows = _finished(path, numbers=(*sizes, "return_mean", "wall_s", "decisions_per_s_last"))
    groups = dict(list(rows.groupby(["task", "method"], sort=False)))
    lines = []
    for (task, method), some in groups.items():
        dense = groups.get((task, BASELINE), rows[:0])
        estimates = _estimates(some["return_mean"])
        lines.append(
            {
                **{"task": task, "method": method, "seeds": str(len(some))},
                "multiply-adds of a plan": _left(some, dense, "planning_macs"),
                "parameters": _left(some, dense, "parameters"),
                **{name.replace("mean", "return, mean"): cell for name, cell in estimates.items()},
                "of dense, same seeds": _kept(some, dense),
                # Other work on the machine only ever makes a run slower.
                "training of the quickest, min": _figure(some["wall_s"].min() / 60),
                "decisions/s at the end": _figure(some["decisions_per_s_last"].mean()),
            }
        )
    return lines


def _left(rows: pd.DataFrame, dense: pd.DataFrame, name: str) -> str:
    """Size beside the dense method's, else beside what the runs began with."""
    whole = rows[f"{name}_dense"] if dense.empty else dense[name]
    return _share(rows[name].mean() / whole.mean())


def _kept(rows: pd.DataFrame, dense: pd.DataFrame) -> str:
    """Return beside the dense method's, over the seeds that both have."""
    both = rows.merge(dense, on="seed", suffixes=("", "_whole"))[["return_mean", "return_mean_whole"]].sum()
    return _share(both["return_mean"] / both["return_mean_whole"]) if both["return_mean_whole"] > 0 else ""


def steps(path: Path) -> str:
    """What pruning events did: losses at the event against the training return around it."""
    rows = read_table(path, "task", "method", "decision", numbers=("worsening", "return_before", "return_after"))
    rows["change"] = rows["return_after"] - rows["return_before"]
    lines = []
    for (task, method), some in rows.groupby(["task", "method"], sort=False):
        kept = some[some["decision"] == "kept"].dropna(subset="change")
        found = correlation(kept["worsening"].tolist(), kept["change"].tolist())
        lines.append(
            {
                **{"task": task, "method": method, "events": str(len(some))},
                "undone": str((some["decision"] == "undone").sum()),
                "worsening of a kept one, median": _figure(kept["worsening"].median()),
                "change of training return, median": _figure(kept["change"].median()),
                "rank correlation of the two": f"{found.statistic:.2f} (p {found.pvalue:.2g}, n {len(kept)})"
                if found
                else "",
            }
        )
    return markdown(lines)


def movement(path: Path) -> str:
    """How the ranking of units moves while a method trains, by component; ``latent`` is the coupling group."""
    rows = read_table(path, "task", "method", "seed", "component", "axis", numbers=("rank_previous", "rank_last"))
    return markdown(
        {
            **{"task": task, "method": method, "component": component},
            "neighbouring snapshots, median": _fixed(some["rank_previous"].median(), 2),
            "least": _fixed(some["rank_previous"].min(), 2),
            "an early snapshot and the last, median": _fixed(
                some.drop_duplicates(["seed", "axis"])["rank_last"].median(), 2
            ),
        }
        for (task, method, component), some in rows.groupby(["task", "method", "component"], sort=False)
    )


# Speed and deployment --------------------------------------------------------------------------------------------


def deployment(path: Path) -> str:
    """How quick and how good controllers are: medians over seeds of p50, the worst p99, all misses together.

    p50 and p99 are of calls without a pause; once in a period caches and clocks are cold, and a p99 is longer.
    """
    names = ["task", "method", "bundle", "backend", "precision", "threads"]
    numbers = ("p50_ms", "p99_ms", "period_ms", "periods", "misses", "return_mean")
    rows = read_table(path, *names, "mode", "contended", numbers=numbers)
    lines = []
    for name, some in rows.groupby(names, sort=False):
        single, periodic = (some[some["mode"] == mode] for mode in ("single", "periodic"))
        crowded = (some["contended"] == "True").sum()
        lines.append(
            {
                **dict(zip(names, name, strict=True)),
                "seeds": str(len(single)),
                "p50, ms": _fixed(single["p50_ms"].median(), 1),
                "p99, ms": _fixed(single["p99_ms"].max(), 1),
                "p99 at the control period": _fixed(periodic["p99_ms"].max(), 1),
                "misses": _misses(periodic),
                "return": _figure(single["return_mean"].mean()) or "not validated",
                "contended rows": f"{crowded} of {len(some)}" if crowded else "",
            }
        )
    return markdown(without_empty(lines))


def _misses(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    misses, trials = int(rows["misses"].sum()), int(rows["periods"].sum())
    periods = " and ".join(f"{period:g}" for period in rows["period_ms"].unique())
    return f"{misses:,} of {trials:,} at {periods} ms (rate at most {upper_bound(misses, trials):.2g})"


def speed(path: Path) -> str:
    """How quickly training decides, and where its time goes."""
    names = ["task", "method", "precision", "threads"]
    rates = {"decisions_per_s": "decisions/s", "decisions_per_s_last": "at the end"}
    shares = {f"share_{part}": part for part in collect.PARTS}
    rows = _finished(path, *names, numbers=(*rates, *shares))
    means = rows.groupby(names, sort=False)[[*rates, *shares]].mean().dropna(subset="decisions_per_s")
    return markdown(
        {
            **dict(zip(names, name, strict=True)),
            **{header: _figure(line[column]) for column, header in rates.items()},
            **{header.replace("prune", "pruning"): _share(line[column]) for column, header in shares.items()},
        }
        for name, line in means.iterrows()
    )


AUTOENCODER = {
    "scratch": "evenly narrower, trained from scratch",
    "average": "mean rank of bayesian, gradient, fisher",
}
"""Methods of ``tdmpc autoencoder`` whose names do not say what they are; dense and scratch are no prunings."""


def autoencoder(path: Path) -> str:
    """PSNR by method and target, mean and standard deviation over the seeds; the best pruning of a target is bold."""
    rows = read_table(path, "method", "seed", numbers=("target", "psnr"))
    targets = sorted(rows.loc[rows["method"] != "dense", "target"].unique())
    dense = rows[rows["method"] == "dense"]  # is as good whatever others lose
    every = pd.concat([rows, *(dense.assign(target=target) for target in targets)])
    found = every.groupby(["method", "target"], sort=False)["psnr"].agg(["mean", "std"])
    prunings = found[~found.index.isin(["dense", "scratch"], level="method")]
    best = prunings.groupby("target")["mean"].idxmax()

    def cell(method: str, target: float) -> str:
        if (method, target) not in found.index:
            return ""
        average, deviation = found.loc[(method, target)].tolist()
        text = _fixed(average, 2) + ("" if pd.isna(deviation) else f" ± {deviation:.2f}")
        return f"**{text}**" if best[target] == (method, target) else text

    return markdown(
        {
            "": AUTOENCODER.get(str(method), str(method)),
            **{f"{_share(target)} fewer parameters": cell(method, target) for target in targets},
        }
        for method in rows["method"].unique()
    )


# What tables have in common --------------------------------------------------------------------------------------


def markdown(lines: Iterable[Mapping[str, str]]) -> str:
    """A table of lines that have the same names; a bar in a cell is escaped."""
    lines = list(lines)
    if not lines:
        return "No results yet."
    rows = [lines[0].keys(), ["---"] * len(lines[0]), *(line.values() for line in lines)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def without_empty(lines: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Lines without the columns in which none of them says anything."""
    table = pd.DataFrame(lines)
    return table.loc[:, (table != "").any()].to_dict("records")


def _finished(path: Path, *needed: str, numbers: tuple[str, ...] = ()) -> pd.DataFrame:
    """Finished runs, task after task, method after method; in which order, the first of all rows say."""
    rows = read_table(path, "task", "method", "seed", "status", *needed, numbers=numbers)
    methods = [some for _, task in rows.groupby("task", sort=False) for _, some in task.groupby("method", sort=False)]
    return pd.concat([rows[:0], *methods]).query("status == 'finished'")


def _unfinished(path: Path) -> str:
    rows = read_table(path, "task", "method", "seed", "status").query("status != 'finished'")
    left = [
        f"{task}/{method} {', '.join(seeds)} ({status})"
        for (task, method, status), seeds in rows.groupby(["task", "method", "status"], sort=False)["seed"]
    ]
    return f"\n\nSeeds without a result: {'; '.join(left)}." if left else ""


def _estimates(values: pd.Series) -> dict[str, str]:
    return {
        "mean [95 %]": _interval(mean(values.tolist())),
        "IQM [95 %]": _interval(interquartile_mean(values.tolist())),
    }


def _interval(estimate: Estimate) -> str:
    if estimate.low is None:
        return _figure(estimate.value)
    return f"{_figure(estimate.value)} [{_figure(estimate.low)}, {_figure(estimate.high)}]"


def _figure(value: float | None) -> str:
    """Three digits, or all before the point: 7,803; 42.1; 0.0123; nothing for what is not known."""
    if value is None or pd.isna(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _fixed(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def _share(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:.3g} %"


TABLES: dict[str, tuple[str, Callable[[Path], str]]] = {
    "returns": (collect.RUNS, returns),
    "learned": (collect.RUNS, learned),
    "commands": (collect.RUNS, commands),
    "pruning": (collect.RUNS, pruning),
    "pruned": (collect.RUNS, pruned),
    "speed": (collect.RUNS, speed),
    "steps": (collect.EVENTS, steps),
    "movement": (collect.IMPORTANCE, movement),
    "deployment": (collect.LATENCY, deployment),
    "autoencoder": ("", autoencoder),
}
"""By name: the file in the named folder that a table is made of, and how; without a file the name is that of one."""

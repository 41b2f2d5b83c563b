"""The tables of the pages, in Markdown, from what is kept in results/."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from deploy.percentiles import upper_bound
from scripts.experiments import archive, printed
from scripts.experiments.archive import Row, number, read_table
from scripts.experiments.estimates import Estimate, correlation, interquartile_mean, mean
from scripts.experiments.pages import markdown, without_empty
from tdmpc.figures import PUBLISHED

BASELINE = "dense"
"""The method that pruned ones are compared with."""


def returns(path: Path) -> str:
    """What each method learned, over its seeds, beside the published return at as many environment steps."""
    return learned(path) + _unfinished(read_table(path, "task", "method", "seed", "status"))


def learned(path: Path) -> str:
    """The same without what has no result, as a first page has it."""
    rows = read_table(path, "task", "method", "seed", "status", "return_mean", "env_steps")
    lines = [
        (
            *(task, method, f"{int(steps):,}", *_estimates(_numbers(some, "return_mean"))),
            *(", ".join(_figure(value) for value in _numbers(some, "return_mean")), _published(task, int(steps))),
        )
        for (task, method, steps), some in _by(_finished(rows), "task", "method", "env_steps").items()
    ]
    header = ("task", "method", "environment steps", "mean [95 %]", "IQM [95 %]", "each seed", "published")
    return markdown(header, lines)


def commands(path: Path) -> str:
    """How every finished run was made: seeds of one command in one line."""
    columns = ("task", "method", "seed", "status", "revision", "command", "precision", "threads", "processor")
    made = [{**row, "template": _template(row)} for row in _finished(read_table(path, *columns))]
    columns = ("task", "method", "precision", "threads", "processor", "revision", "template")
    lines = [
        (task, method, ", ".join(row["seed"] for row in some), precision, threads, processor, revision, f"`{template}`")
        for (task, method, precision, threads, processor, revision, template), some in _by(made, *columns).items()
    ]
    header = ("task", "method", "seeds", "precision", "threads", "processor", "revision", "command")
    return markdown(header, lines)


def _template(row: Row) -> str:
    """A command with its seed as a word: ``train a --seed SEED --run-dir runs/a/dense-SEED``."""
    return re.sub(rf"(--seed |(?<=\w)-){row['seed']}(?=\s|$)", r"\1SEED", row["command"])


def pruning(path: Path) -> str:
    """What is left of an agent, what it returns, and what its training took, by method."""
    header, *lines = _pruning(path)
    return markdown(header, lines) + _unfinished(read_table(path, "task", "method", "seed", "status"))


def pruned(path: Path) -> str:
    """The same in short, as a first page has it."""
    left_out = ("parameters", "IQM [95 %]", "decisions/s at the end")
    header, *lines = _pruning(path)
    shown = [place for place, name in enumerate(header) if name not in left_out]
    header, *lines = ([line[place] for place in shown] for line in (header, *lines))
    return markdown(header, lines)


def _pruning(path: Path) -> list[Sequence[str]]:
    """Header and lines."""
    rows = read_table(path, "task", "method", "seed", "status", "return_mean", "planning_macs", "planning_macs_dense")
    groups = _by(_finished(rows), "task", "method")
    header = (
        *("task", "method", "seeds", "multiply-adds of a plan", "parameters", "return, mean [95 %]", "IQM [95 %]"),
        *("of dense, same seeds", "training of the quickest, min", "decisions/s at the end"),
    )
    lines = [
        (
            *(task, method, str(len(some)), _left(some, dense := groups.get((task, BASELINE)), "planning_macs")),
            *(_left(some, dense, "parameters"), *_estimates(_numbers(some, "return_mean"))),
            *(_kept(some, dense), _quickest(some), _mean_of(some, DECISIONS[1])),
        )
        for (task, method), some in groups.items()
    ]
    return [header, *lines]


def _left(rows: Sequence[Row], dense: Sequence[Row] | None, name: str) -> str:
    """Size beside the dense method's, else beside what the runs began with."""
    whole = np.mean(_numbers(dense, name) if dense else _numbers(rows, f"{name}_dense"))
    return _share(np.mean(_numbers(rows, name)) / whole)


def _kept(rows: Sequence[Row], dense: Sequence[Row] | None) -> str:
    """Return beside the dense method's, over the seeds that both have."""
    whole = {row["seed"]: number(row, "return_mean") for row in dense or ()}
    both = [row for row in rows if row["seed"] in whole]
    total = sum(whole[row["seed"]] for row in both)
    return _share(sum(_numbers(both, "return_mean")) / total) if total > 0 else ""


def _quickest(rows: Sequence[Row]) -> str:
    """Minutes; other work on the machine only ever makes a run slower."""
    found = _known(rows, "wall_s")
    return _figure(min(found) / 60) if found else ""


def steps(path: Path) -> str:
    """What pruning events did: losses at the event against the training return around it."""
    rows = read_table(path, "task", "method", "decision", "worsening", "return_before", "return_after")
    lines = []
    for (task, method), some in _by(rows, "task", "method").items():
        kept = [row for row in some if row["decision"] == "kept" and row["return_before"] and row["return_after"]]
        worse = _numbers(kept, "worsening")
        change = [number(row, "return_after") - number(row, "return_before") for row in kept]
        undone = sum(row["decision"] == "undone" for row in some)
        medians = (_figure(np.median(worse)), _figure(np.median(change))) if kept else ("", "")
        lines.append((task, method, str(len(some)), str(undone), *medians, _correlation(worse, change)))
    header = (
        *("task", "method", "events", "undone", "worsening of a kept one, median"),
        *("change of training return, median", "rank correlation of the two"),
    )
    return markdown(header, lines)


def _correlation(one: Sequence[float], other: Sequence[float]) -> str:
    """Spearman's, with its p-value and the number of pairs; nothing where it cannot be told."""
    found = correlation(one, other)
    return f"{found.value:.2f} (p {found.p:.2g}, n {len(one)})" if found else ""


def movement(path: Path) -> str:
    """How the ranking of units moves while a method trains, by component; ``latent`` is the coupling group."""
    rows = read_table(path, "task", "method", "seed", "component", "axis", "env_steps", "rank_previous", "rank_last")
    lines = []
    for (task, method, component), some in _by(rows, "task", "method", "component").items():
        neighbours = _known(some, "rank_previous")
        first = _known([axis[0] for axis in _by(some, "seed", "axis").values()], "rank_last")
        told = (f"{np.median(neighbours):.2f}", f"{min(neighbours):.2f}") if neighbours else ("", "")
        lines.append((task, method, component, *told, f"{np.median(first):.2f}" if first else ""))
    header = (
        *("task", "method", "component", "neighbouring snapshots, median", "least"),
        "an early snapshot and the last, median",
    )
    return markdown(header, lines)


def deployment(path: Path) -> str:
    """How quick and how good controllers are: medians over seeds of p50, the worst p99, all misses together.

    p50 and p99 are of calls without a pause; once in a period caches and clocks are cold, and a p99 is longer.
    """
    rows = read_table(
        path, "task", "method", "backend", "precision", "threads", "mode", "p50_ms", "p99_ms", "contended"
    )
    lines = []
    for name, some in _by(rows, "task", "method", "bundle", "backend", "precision", "threads").items():
        single = [row for row in some if row["mode"] == "single"]
        periodic = [row for row in some if row["mode"] == "periodic"]
        p50, p99, late = _known(single, "p50_ms"), _known(single, "p99_ms"), _known(periodic, "p99_ms")
        result, crowded = _known(single, "return_mean"), [row for row in some if row["contended"] == "True"]
        lines.append(
            (
                *(*name, str(len(single)), f"{np.median(p50):.1f}" if p50 else "", f"{max(p99):.1f}" if p99 else ""),
                *(
                    f"{max(late):.1f}" if late else "",
                    _misses(periodic),
                    _figure(np.mean(result)) if result else "not validated",
                ),
                f"{len(crowded)} of {len(some)}" if crowded else "",
            )
        )
    header = (
        *("task", "method", "bundle", "backend", "precision", "threads", "seeds", "p50, ms", "p99, ms"),
        *("p99 at the control period", "misses", "return", "contended rows"),
    )
    return markdown(*without_empty(header, lines))


def _misses(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    misses, trials = (int(sum(_numbers(rows, name))) for name in ("misses", "periods"))
    periods = " and ".join(f"{float(value):g}" for value in dict.fromkeys(row["period_ms"] for row in rows))
    return f"{misses:,} of {trials:,} at {periods} ms (rate at most {upper_bound(misses, trials):.2g})"


DECISIONS = ("decisions_per_s", "decisions_per_s_last")
SHARES = tuple(f"share_{part}" for part in ("plan", "update", "environment", "replay", "prune"))


def speed(path: Path) -> str:
    """How quickly training decides, and where its time goes."""
    rows = read_table(path, "task", "method", "precision", "threads", *DECISIONS, *SHARES)
    lines = [
        (
            *name,
            *(_mean_of(some, column) for column in DECISIONS),
            *(_share(np.mean(found)) if (found := _known(some, column)) else "" for column in SHARES),
        )
        for name, some in _by(_finished(rows), "task", "method", "precision", "threads").items()
        if _known(some, DECISIONS[0])
    ]
    header = ("task", "method", "precision", "threads", "decisions/s", "at the end")
    return markdown((*header, "plan", "update", "environment", "replay", "pruning"), lines)


AUTOENCODER = {
    "scratch": "evenly narrower, trained from scratch",
    "average": "mean rank of bayesian, gradient, fisher",
}
"""Methods of ``tdmpc autoencoder`` whose names do not say what they are; dense and scratch are no prunings."""


def autoencoder(path: Path) -> str:
    """PSNR by method and target, mean and standard deviation over the seeds; the best pruning of a target is bold."""
    rows = read_table(path, "method", "target", "seed", "psnr")
    found = {name: _numbers(some, "psnr") for name, some in _by(rows, "method", "target").items()}
    targets = sorted({row["target"] for row in rows if row["method"] != "dense"}, key=float)
    best = {
        target: max(
            (np.mean(some), method) for (method, at), some in found.items() if at == target and method != "scratch"
        )
        for target in targets
    }

    def cell(method: str, target: str) -> str:
        some = found.get(("dense", "0.0") if method == "dense" else (method, target), [])
        text = f"{np.mean(some):.2f}" if some else ""
        if len(some) > 1:
            text += f" ± {np.std(some, ddof=1):.2f}"
        return f"**{text}**" if best[target][1] == method else text

    methods = dict.fromkeys(row["method"] for row in rows)
    lines = [(AUTOENCODER.get(method, method), *(cell(method, target) for target in targets)) for method in methods]
    return markdown(("", *(f"{_share(float(target))} fewer parameters" for target in targets)), lines)


TABLES: dict[str, tuple[str, Callable[[Path], str]]] = {
    "returns": (archive.RUNS, returns),
    "learned": (archive.RUNS, learned),
    "commands": (archive.RUNS, commands),
    "pruning": (archive.RUNS, pruning),
    "pruned": (archive.RUNS, pruned),
    "speed": (archive.RUNS, speed),
    "steps": (archive.EVENTS, steps),
    "movement": (archive.IMPORTANCE, movement),
    "deployment": (archive.LATENCY, deployment),
    "bench": ("", printed.bench),
    "timings": ("", printed.timings),
    "autoencoder": ("", autoencoder),
}
"""By name: the file in the named folder that a table is made of, and how; without a file the name is that of one."""


# What tables have in common --------------------------------------------------------------------------------------


def _by(rows: Iterable[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows that agree in some columns, in the order in which they first come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def _finished(rows: Iterable[Row]) -> list[Row]:
    """Task after task, method after method; in which order, the first of their rows say."""
    tasks: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        methods = tasks.setdefault(row["task"], {})
        methods.setdefault(row["method"], []).extend([row] if row["status"] == "finished" else [])
    return [row for methods in tasks.values() for some in methods.values() for row in some]


def _unfinished(rows: Iterable[Row]) -> str:
    open_ones = (row for row in rows if row["status"] != "finished")
    left = [
        f"{task}/{method} {', '.join(row['seed'] for row in some)} ({status})"
        for (task, method, status), some in _by(open_ones, "task", "method", "status").items()
    ]
    return f"\n\nSeeds without a result: {'; '.join(left)}." if left else ""


def _numbers(rows: Iterable[Row], column: str) -> list[float]:
    return [number(row, column) for row in rows]


def _known(rows: Iterable[Row], column: str) -> list[float]:
    """The figures of those rows that have one."""
    return [number(row, column) for row in rows if row[column]]


def _mean_of(rows: Iterable[Row], column: str, divisor: float = 1) -> str:
    found = _known(rows, column)
    return _figure(np.mean(found) / divisor) if found else ""


def _estimates(values: Sequence[float]) -> tuple[str, str]:
    return _interval(mean(values)), _interval(interquartile_mean(values))


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return _figure(estimate.value)
    return f"{_figure(estimate.value)} [{_figure(estimate.low)}, {_figure(estimate.high)}]"


def _figure(value: float | np.floating) -> str:
    """Three digits, or all before the point: 7,803; 42.1; 0.0123."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _share(value: float | np.floating) -> str:
    return f"{100 * value:.3g} %"


def _published(task: str, env_steps: int) -> str:
    """The published return at so many environment steps, where it is known for these."""
    found = PUBLISHED.get(f"dm_control/{task}-v0", {}).get(env_steps)
    return "" if found is None else _figure(found)

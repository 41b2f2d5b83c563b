"""``tdmpc latency``: how long decisions take."""

import gc
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from tdmpc import machine
from tdmpc.deploy import realtime
from tdmpc.deploy.backends import BackendName, Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.timing import Row, Timed, periodic, remarks, row, single_stream, timed_controller
from tdmpc.scripts import ranges

Precision = Literal["float32", "bfloat16"]
TIMES = {"p50_ms": "p50", "p99_ms": "p99", "p999_ms": "p99.9", "max_ms": "max, ms"}


@dataclass(frozen=True)
class TimingArgs:
    """How controllers are timed, in Python and in C++."""

    threads: int = 1
    """Threads of the runtime."""
    precision: Literal["float32", "auto"] = "float32"
    """``auto`` takes bfloat16 where the backend and the processor have it."""
    cores: tuple[int, ...] = ()
    """Cores to which the threads are pinned; none when not given."""
    priority: int | None = None
    """Real-time priority, 2 to 99 (on Linux, with the right to set it)."""
    awake: bool = False
    """Keep the cores out of idle states (on Linux, with the right to do so)."""
    calls: int = 1000
    """Least number of calls of each controller."""
    seconds: float = 10.0
    """Least time spent on each controller."""
    period_ms: float | None = None
    """Also time decisions at this control period."""
    periods: int = 3000
    """Decisions at the period."""
    deadline_ms: float | None = None
    """Make the controllers answer within this time, with as many planner iterations as fit."""
    pipelined: bool = False
    """Make the controllers answer at once and plan in a thread. This needs ``--period-ms`` and bundles with a delay."""


@dataclass(frozen=True)
class LatencyArgs(TimingArgs):
    """Time controllers: call after call, and at a control period with absolute deadlines."""

    bundles: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR...")] = ()
    """Controller bundles. They take turns in rounds."""
    torch: tuple[Path, ...] = ()
    """Runs whose agents are timed too, in PyTorch."""
    torch_horizon: int | None = None
    """Decisions that the agents in PyTorch plan ahead; their full horizon when not given."""
    torch_precision: Precision | None = None
    """Precision of the agents in PyTorch; that of their training when not given."""
    backend: tuple[BackendName, ...] = ("onnxruntime",)
    """Runtimes. Each bundle is timed with each of them."""
    spinning: bool = False
    """Let ONNX Runtime's threads spin while they wait."""
    json: bool = False
    """Print a list of JSON objects instead of a table."""
    out: Path | None = None
    """File to write the same list into; ``tdmpc report`` shows RUN/latency.json."""
    plot: Path | None = None
    """File for a figure of the distributions, and of the return against the 99th percentile."""


def main(arguments: list[str]) -> int:
    """Parse, measure, print."""
    args = tyro.cli(LatencyArgs, args=arguments, prog="tdmpc latency")
    _check(args)
    realtime.settle(cores=args.cores, priority=args.priority, awake=args.awake)
    rows, samples = [], []
    modes = ["single"] * (not args.pipelined) + ["periodic"] * (args.period_ms is not None)
    for mode in modes:
        measured = _measure(args, mode)
        rows += [measured_row for measured_row, _ in measured]
        samples += [times for _, times in measured]
    for each, remark in zip(rows, remarks(rows), strict=True):
        each["remark"] = remark
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1))
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        _show(rows)
    if args.plot is not None:
        from tdmpc.scripts.report.latency import draw

        draw(rows, samples, args.plot)
    return 0


def _check(args: LatencyArgs) -> None:
    if not (args.bundles or args.torch):
        raise BundleError("which bundle? For example: tdmpc latency bundles/cartpole --period-ms 80")
    if args.pipelined and args.period_ms is None:
        raise BundleError("a pipelined controller plans from one release to the next: give --period-ms, too")
    ranges.check(
        args,
        BundleError,
        positive=("threads", "calls", "periods", "torch_horizon", "period_ms", "deadline_ms"),
        not_negative=("seconds", "cores"),
    )


def _measure(args: LatencyArgs, mode: str) -> list[tuple[Row, np.ndarray]]:
    subjects = list(_subjects(args))
    gc.collect()
    gc.freeze()  # as a robot's program does: what is there by now need not be looked through again
    begun = machine.before()
    if mode == "single":
        single_stream(subjects, calls=args.calls, seconds=args.seconds)
        period_ms = None
    else:
        period_ms = args.period_ms
        periodic(subjects, period_s=(period_ms or 0.0) / 1000, periods=args.periods)
    found = {**machine.facts(begun), "awake": realtime.awake()}
    gc.unfreeze()
    return [(row(each.facts, each.times, period_ms=period_ms, machine=found), each.times.every_ms) for each in subjects]


def _subjects(args: LatencyArgs) -> Iterator[Timed]:
    for folder in args.bundles:
        for backend in args.backend:
            runtime = Runtime(
                backend=backend,
                threads=args.threads,
                spinning=args.spinning,
                affinity=args.cores,
                priority=args.priority,
                awake=args.awake,
                precision=args.precision,
            )
            yield timed_controller(folder, runtime, deadline_ms=args.deadline_ms, pipelined=args.pipelined)
    for run in args.torch:
        from tdmpc.scripts.latency_torch import timed_agent  # PyTorch is imported only here

        yield timed_agent(run, threads=args.threads, precision=args.torch_precision, horizon=args.torch_horizon)


def _show(rows: list[Row]) -> None:
    facts = rows[0]
    conditions = ("processor", "cores", "affinity", "load_before", "load_after", "stolen_ms", "priority", "awake")
    table = Table("bundle", *TIMES.values(), "missed", "late plans", "remark", show_lines=True)
    table.title = ", ".join(f"{name} {facts[name]}" for name in conditions if facts[name] is not None)
    for each in rows:
        name = f"{Path(each['bundle']).name}\n{each['backend']} {each['precision']} x {each['threads']}"
        times = ("-" if each[time] is None else f"{each[time]:.2f}" for time in TIMES)
        table.add_row(name, *times, _misses(each), str(each["late_plans"]), each["remark"])
    Console().print(table)


def _misses(measured: Row) -> str:
    if measured["mode"] == "single":
        return ""
    of = f"{measured['misses']} of {measured['periods']} at {measured['period_ms']:g} ms"
    return f"{of}\nrate at most {measured['miss_rate_upper95']:.2g}"

"""How long a decision takes with other settings of the planner: measured at three sizes, and a plane through them.

An export takes seconds, and a search tries dozens of planners. A plan is a start (the policy's trajectories) and then
iterations (the samples). Each of these calls has a cost of its own and is a loop over the horizon, so three exports for
each agent tell what a call, a step and a trajectory cost: medians, because these add up. The smallest bundle for each
delay tells what a controller adds to its graphs, from their medians to its own 99th percentile. What a search ends with
is measured on its own bundle.
"""

import dataclasses
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from scipy.optimize import nnls

from tdmpc.config import PlannerConfig
from tdmpc.deploy import backends, bundle, contract, percentiles, timing
from tdmpc.deploy.assemble import export_graphs
from tdmpc.deploy.backends import Graph, Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.export import export
from tdmpc.deploy.original import ExportConfig, load
from tdmpc.deploy.timing import OWN_SHARE, Timed, Times, single_stream, timed_controller

log = logging.getLogger("tdmpc")

CALLS, SECONDS = 1000, 0.5
"""Of each graph, at least: below a millisecond, a 99th percentile of fewer calls is one hiccup or another."""

ATTEMPTS = 3
"""Times are taken once more where other programs took the processor away."""

BUDGET = ("samples", "iterations", "horizon", "policy_trajectories", "elites")
"""What a candidate may set of its planner."""
PARTS = {bundle.START: "policy_trajectories", bundle.REFINE: "samples"}
"""The graphs of a plan, and which trajectories they imagine."""

Costs = dict[str, dict[str, list[float]]]
"""By runtime and part of a decision: milliseconds for a call, for each step, for each step of each trajectory.

``policy`` is the policy alone, ``delay 2`` what a controller adds to its graphs where the delay is two decisions.
"""


def runtimes(threads: int, priority: int | None) -> dict[str, Runtime]:
    """What can run a bundle here, by name; in bfloat16 only where the processor has it."""
    names: dict[str, Runtime] = {"onnxruntime float32": Runtime(threads=threads, priority=priority)}
    if find_spec("openvino") is not None:
        import openvino

        names["openvino float32"] = Runtime("openvino", threads, priority=priority)
        if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            names["openvino bfloat16"] = Runtime("openvino", threads, priority=priority, precision="auto")
    return names


def costs(run: Path, planner: PlannerConfig, known: Mapping[str, Runtime]) -> Costs:
    """What the parts of a decision cost the agent of a run, from a large planner and from two small ones.

    Args:
        run: the run folder.
        planner: the largest planner that is asked for.
        known: the runtimes.
    """
    sizes = [_smallest(planner), _part_of(planner, 8), _part_of(planner, 1)]
    points = [_times(run, _exported(size), known) for size in sizes]
    found: Costs = {}
    for name in known:
        found[name] = {"policy": [points[0][name][bundle.POLICY]]}
        for part, setting in PARTS.items():
            sides = np.array([_counts(size, setting) for size in sizes], float)
            found[name][part] = nnls(sides, np.array([point[name][part] for point in points]))[0].tolist()
    return found


def overheads(
    run: Path, planner: PlannerConfig, known: Mapping[str, Runtime], parts: Costs, delays: Iterable[int]
) -> Costs:
    """What a controller adds to its graphs, which is the same for all agents of a task.

    Args:
        run: the run folder of an agent.
        planner: the largest planner that is asked for.
        known: the runtimes.
        parts: what the graphs cost this agent.
        delays: of the controllers that are asked for.
    """
    small = _smallest(planner)
    found: Costs = {name: {} for name in known}
    for delay in delays:
        with tempfile.TemporaryDirectory() as folder:
            export(run, Path(folder) / "small", _exported(small, delay))
            for name, runtime in known.items():
                whole_ms = of_bundle(Path(folder) / "small", runtime, policy=False)
                found[name][f"delay {delay}"] = [max(whole_ms - _graphs_ms(parts[name], small), 0.0)]
    return found


def _smallest(planner: PlannerConfig) -> PlannerConfig:
    return dataclasses.replace(_part_of(planner, 8), horizon=1)


def _part_of(planner: PlannerConfig, parts: int) -> PlannerConfig:
    """One iteration with so many times fewer samples and policy trajectories."""
    fewer = {name: max(getattr(planner, name) // parts, 1) for name in ("samples", "policy_trajectories")}
    return dataclasses.replace(planner, iterations=1, elites=1, **fewer)


def _exported(planner: PlannerConfig, delay: int | None = None) -> ExportConfig:
    return ExportConfig(**{name: getattr(planner, name) for name in BUDGET}, delay=delay)


def predicted(parts: Mapping[str, list[float]], planner: PlannerConfig | None, delay: int) -> float:
    """The 99th percentile of a decision, in milliseconds; of the policy alone where there is no planner."""
    return parts["policy"][0] if planner is None else _graphs_ms(parts, planner) + parts[f"delay {delay}"][0]


def _graphs_ms(parts: Mapping[str, list[float]], planner: PlannerConfig) -> float:
    start, refine = (float(np.dot(parts[part], _counts(planner, setting))) for part, setting in PARTS.items())
    return start + planner.iterations * refine


def _counts(planner: PlannerConfig, setting: str) -> tuple[int, int, int]:
    """Of calls, of steps, of steps of all trajectories."""
    return 1, planner.horizon, planner.horizon * getattr(planner, setting)


def _calls_ms(subjects: Mapping[str, Callable[[], object]]) -> dict[str, Mapping[str, float]]:
    """The percentiles of each call, in milliseconds, ``p50`` and ``p99`` among them; the subjects take turns.

    What was loaded for them may have raised this thread's priority; it ends here.
    """
    timed = {name: Timed({}, lambda _, call=call: call()) for name, call in subjects.items()}
    for _ in range(ATTEMPTS):
        for each in timed.values():
            each.times = Times()
        single_stream(list(timed.values()), calls=CALLS, seconds=SECONDS)
        if min(each.times.cpu_share for each in timed.values()) >= OWN_SHARE:
            break
    else:
        log.warning("other programs computed meanwhile, so these times may be too long: let the machine be idle")
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    found = {name: percentiles.summary(each.times.every_ms) for name, each in timed.items()}
    return {name: {point: value for point, value in each.items() if value is not None} for name, each in found.items()}


def _times(run: Path, size: ExportConfig, known: Mapping[str, Runtime]) -> dict[str, dict[str, float]]:
    """By runtime and graph: the median of a call; of the policy, which may decide alone, the 99th percentile."""
    graphs = export_graphs(load(run, size).original, size.opset)
    parts = (bundle.POLICY, bundle.START, bundle.REFINE)
    with tempfile.TemporaryDirectory() as folder:
        for name in parts:
            onnx.save(graphs[name], Path(folder) / name)
        loaded = {
            name: {part: backends.load(Path(folder) / part, each) for part in parts} for name, each in known.items()
        }
    calls = {f"{name}/{part}": _call(graph) for name, each in loaded.items() for part, graph in each.items()}
    times, points = _calls_ms(calls), dict.fromkeys(PARTS, "p50") | {bundle.POLICY: "p99"}
    return {name: {part: times[f"{name}/{part}"][points[part]] for part in parts} for name in known}


def _call(graph: Graph) -> Callable[[], object]:
    random = np.random.default_rng(0)
    inputs = {name: random.standard_normal(shape).astype(np.float32) for name, shape in graph.shapes.items()}
    return lambda: graph(inputs)


def of_bundle(folder: Path, runtime: Runtime, *, policy: bool) -> float:
    """The 99th percentile of a bundle's decisions, as a robot asks for them; or of its policy alone."""
    if policy:
        return _calls_ms({"it": _call(contract.load(bundle.read(folder), bundle.POLICY, runtime))})["it"]["p99"]
    timed = timed_controller(folder, runtime)
    return _calls_ms({"it": lambda: timed.decide(None)})["it"]["p99"]


def slowdowns(path: Path, known: Mapping[str, Runtime]) -> dict[str, float]:
    """How many times slower a board is than this machine, by runtime: what it measured, against the same bundle here.

    Args:
        path: what ``tdmpc latency --json`` printed on the board; its bundles lie where they lay there, or beside it.
        known: the runtimes; those that were not measured on the board are left out.

    Raises:
        BundleError: it is no such file, holds nothing of these runtimes, or a bundle is not here.
    """
    found: dict[str, float] = {}
    with timing.read(path) as rows:
        measured = [
            (f"{row['backend']} {row['precision']}", Path(row["bundle"]), row["model"], row["threads"], row["p99_ms"])
            for row in rows
            if row["mode"] == "single"
        ]
    for name, there, model, threads, p99 in measured:
        if name not in known or threads != known[name].threads or p99 is None:
            continue
        places = [place for place in (there, path.parent / there.name) if (place / bundle.MANIFEST).exists()]
        here = next((place for place in places if bundle.read(place).model_id == model), None)
        if here is None:
            raise BundleError(
                f"{path} tells of the bundle {there}, which is not here: put a copy of it beside the file"
            )
        found[name] = max(found.get(name, 0.0), p99 / of_bundle(here, known[name], policy=False))
    if not found:
        threads = next(iter(known.values())).threads
        raise BundleError(
            f"{path} holds no times of {' or '.join(known)} with {threads} threads, call after call: measure a bundle "
            f"on the board by tdmpc latency BUNDLE --threads {threads} --json"
        )
    return found

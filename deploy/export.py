"""``export``: from a run folder to a controller bundle.

The graphs are built from ``tdmpc.planner`` itself, and compared with it before anything is kept: a bundle that plans
otherwise than its agent is not written.
"""

import dataclasses
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deploy import backends, bundle
from deploy.backends import Runtime
from deploy.bundle import Arrays, BundleError
from deploy.graphs import BundleGraph, PolicyGraph, RefineGraph, Start, StartGraph, in_rows, in_tiles
from deploy.manifest import describe
from deploy.parity import TOLERANCE, Cases, Parity, Planner, Regret, case, is_decided, parity, plan_cases, regret
from deploy.subject import COMPARED, ExportConfig, Subject, load_subject
from tdmpc import runs
from tdmpc.files import naming
from tdmpc.planner import PlanNoise

try:
    import onnx
    from onnxscript import optimizer

    from deploy.assemble import bake, finished, unroll, with_quick_elu
    from deploy.quantization import quantized
except ImportError as error:
    raise ImportError("exporting needs ONNX: pip install 'tdmpc[train,export]'") from error

GOLDEN_PLANS = 3
DECISION = ("action", "new_mean", "value")
"""Outputs of the planner's graph."""

LARGE = 2**30

Graphs = dict[str, onnx.ModelProto]


def export(run: Path, out: Path, config: ExportConfig) -> dict[str, Any]:
    """Write a bundle, and tell its manifest.

    Args:
        run: a run folder.
        out: a new folder for the bundle.
        config: what to make of it.

    Raises:
        BundleError: the folder exists, there is nothing to compare on, or the graphs plan otherwise than the agent.
        CheckpointError: the run has no checkpoint that can be read.
        ConfigError: the planner cannot be set so.
    """
    subject = load_subject(run, config)
    with _staged(out) as folder:
        model, settings = subject.agent.model, subject.settings
        action_dim = subject.spec.action_dim
        cases = plan_cases(model, settings, subject.observations, action_dim=action_dim, seed=config.seed)
        graphs = export_graphs(subject, config.opset)
        _save(folder, graphs)
        compared = _compare(folder, subject, cases, seed=config.seed)
        loss = None
        if config.precision == "int8":
            graphs |= _in_int8(folder, graphs, subject, cases)
            loss = _judge(folder, subject, cases, config)
        choice = chain([cases], _more_cases(subject, config.seed))
        if config.noise == "baked":
            draws = case(cases, 0, 0)[2]
            graphs, choice = _baked(graphs, draws), (_with_draws(others, draws) for others in choice)
        manifest = describe(subject, config, parity=compared, regret=loss, return_mean=_return(run))
        manifest["golden"] = _golden(folder, graphs, subject, choice)
        metadata = {"manifest": json.dumps(manifest)}
        _clear(folder, {*graphs, bundle.GOLDEN})
        _save(folder, {name: finished(graph, metadata) for name, graph in graphs.items()})
        manifest["files"] = _hashes(folder)
        runs.write_json(folder / bundle.MANIFEST, manifest)
        return json.loads((folder / bundle.MANIFEST).read_text())


# Graphs ----------------------------------------------------------------------------------------------------------


def export_graphs(subject: Subject, opset: int) -> Graphs:
    """The bundle's graphs, by file name."""
    spec, settings = subject.spec, subject.settings
    model = in_rows(in_tiles(subject.agent.model, spec))
    config, action_dim = settings.planner, subject.spec.action_dim
    horizon, proposals = config.horizon, config.policy_trajectories
    plan, proposed = (horizon, action_dim), (horizon, proposals, action_dim)
    state = dict(
        zip(Start._fields, ((subject.agent.config.model.latent,), proposed, (proposals,), plan, plan), strict=True)
    )
    start = _exported(
        StartGraph(model, spec, settings), subject.sensors, {"previous_mean": plan, "noise_policy": proposed}, opset
    )
    refine = _exported(
        RefineGraph(model, spec, settings), {}, {**state, "noise": (horizon, config.samples, action_dim)}, opset
    )
    return {
        bundle.START: start,
        bundle.REFINE: refine,
        bundle.PLANNER: unroll(start, refine, iterations=config.iterations, outputs=DECISION),
        bundle.POLICY: _exported(PolicyGraph(model, spec, settings), subject.sensors, {}, opset),
    }


def _exported(module: BundleGraph, sensors: bundle.Shapes, others: bundle.Shapes, opset: int) -> onnx.ModelProto:
    """A module as a graph; it takes its sensors as one tuple, if it has any, and the others one by one."""
    # A tensor for each: one that is given twice would become one input.
    example = [torch.zeros(shape) for shape in others.values()]
    grouped = [tuple(torch.zeros(shape) for shape in sensors.values())] if sensors else []
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (*grouped, *example),
            dynamo=True,
            input_names=[*sensors, *others],
            output_names=[*module.outputs],
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        # Constants of any size are folded: the heads of the ensemble are slices, and only constants are quantised.
        optimizer.optimize_ir(program.model, input_size_limit=LARGE, output_size_limit=LARGE)
    return with_quick_elu(program.model_proto)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' running commentary, and what PyTorch finds outdated in its own code."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)


def _in_int8(folder: Path, graphs: Graphs, subject: Subject, cases: Cases) -> Graphs:
    """Start, iteration and planner with products in eight bits; the files are replaced too."""
    feeds = _calibration(folder, subject, cases)
    with _quiet():
        small = {name: quantized(folder / name, feeds[name]) for name in (bundle.START, bundle.REFINE)}
    iterations = subject.settings.planner.iterations
    small[bundle.PLANNER] = unroll(small[bundle.START], small[bundle.REFINE], iterations=iterations, outputs=DECISION)
    _save(folder, small)
    return small


def _baked(graphs: Graphs, draws: PlanNoise) -> Graphs:
    """The graphs of a controller that draws nothing; one iteration alone cannot know which draws are its own."""
    values = {"noise_samples": draws.samples.numpy(), "noise_policy": draws.policy.numpy()}
    return {bundle.PLANNER: bake(graphs[bundle.PLANNER], values), bundle.POLICY: graphs[bundle.POLICY]}


# Comparison ------------------------------------------------------------------------------------------------------


def _compare(folder: Path, subject: Subject, cases: Cases, *, seed: int) -> Parity:
    """On the cases, and on others until enough plans could be compared."""
    model, settings, planner = subject.agent.model, subject.settings, planner_of(folder / bundle.PLANNER, subject)
    found = parity(model, settings, cases, planner)
    more = _more_cases(subject, seed)
    while found.compared < COMPARED and (others := next(more, None)):
        found = found.joined(parity(model, settings, others, planner))
    policy = _policy_difference(folder, subject)
    if found.compared < COMPARED:
        raise BundleError(
            f"{found.undecided} of {found.plans} plans depend on how numbers are rounded: the agent values most "
            "actions alike. Nothing was written; train it longer"
        )
    if not max(found.mean, policy) <= TOLERANCE:
        raise BundleError(
            f"the graphs plan otherwise than the agent: by {found.mean:.1e}, its policy by {policy:.1e}, allowed are "
            f"{TOLERANCE}. Nothing was written; try another --opset, or report this with the versions of torch and onnx"
        )
    return dataclasses.replace(found, policy=policy)


def _more_cases(subject: Subject, seed: int) -> Iterator[Cases]:
    """Plans on other windows, each batch with its own noise."""
    model, settings, action_dim = subject.agent.model, subject.settings, subject.spec.action_dim
    for number, observations in enumerate(subject.more.split(subject.observations.shape[1], dim=1), start=1):
        yield plan_cases(model, settings, observations, action_dim=action_dim, seed=seed + number)


def _with_draws(cases: Cases, draws: PlanNoise) -> Cases:
    """The same places, every plan on the same noise."""
    alike = PlanNoise(*(each.unsqueeze(-3).expand_as(other) for each, other in zip(draws, cases.noise[0], strict=True)))
    return cases._replace(noise=[alike] * len(cases.noise))


def planner_of(path: Path, subject: Subject) -> Planner:
    """A planner's graph as ``deploy.parity`` sees it."""
    graph = backends.load(path, Runtime())

    def plan(observation: Tensor, previous: Tensor, noise: PlanNoise) -> tuple[Tensor, Tensor]:
        outputs = graph(_planner_inputs(subject, observation, previous, noise))
        return torch.from_numpy(outputs["new_mean"]), torch.from_numpy(outputs["value"])

    return plan


def _planner_inputs(subject: Subject, observation: Tensor, previous: Tensor, noise: PlanNoise) -> Arrays:
    """In the order in which the golden file has them."""
    inputs = {"previous_mean": previous, "noise_policy": noise.policy, "noise_samples": noise.samples}
    return _sensed(subject, observation) | {name: value.contiguous().numpy() for name, value in inputs.items()}


def _sensed(subject: Subject, observation: Tensor) -> Arrays:
    return {name: part.numpy() for name, part in zip(subject.sensors, subject.split(observation), strict=True)}


@torch.no_grad()
def _policy_difference(folder: Path, subject: Subject) -> float:
    graph, model, spec = backends.load(folder / bundle.POLICY, Runtime()), subject.agent.model, subject.spec
    low, high = np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32)
    observations = subject.observations.flatten(0, 1)
    expected = bundle.actuate(model.pi(model.encode(observations)).numpy(), low, high)
    actions = np.stack([graph(_sensed(subject, observation))["action"] for observation in observations])
    return float((np.abs(actions - expected) / ((high - low) / 2)).max())


def _judge(folder: Path, subject: Subject, cases: Cases, config: ExportConfig) -> Regret:
    planner = planner_of(folder / bundle.PLANNER, subject)
    loss = regret(subject.agent.model, subject.settings, cases, planner, seed=config.seed + 1)
    if not loss.mean <= max(loss.policy, loss.other_noise):
        raise BundleError(
            f"in eight bits plans lose {loss.mean:.3g} of {loss.value:.3g}; the policy, which costs nothing, loses "
            f"{loss.policy:.3g}: export with --precision fp32"
        )
    return loss


def _calibration(folder: Path, subject: Subject, cases: Cases) -> dict[str, list[Arrays]]:
    """What start and iteration are given while the float graphs plan from replayed observations."""
    start, refine = (backends.load(folder / name, Runtime()) for name in (bundle.START, bundle.REFINE))
    starts, refines = [], []
    for step, window in np.ndindex(*cases.observations.shape[:2]):
        inputs = _planner_inputs(subject, *case(cases, step, window))
        draws = inputs.pop("noise_samples")
        starts.append(inputs)
        state = start(inputs)
        for noise in draws:
            refines.append({**state, "noise": noise})
            refined = refine(refines[-1])
            state |= {"mean": refined["new_mean"], "std": refined["new_std"]}
    return {bundle.START: starts, bundle.REFINE: refines}


# Golden plans ----------------------------------------------------------------------------------------------------


def _golden(folder: Path, graphs: Graphs, subject: Subject, choice: Iterable[Cases]) -> dict[str, Any]:
    """Write consecutive plans as every runtime should make them, and tell how they lie in the file."""
    _save(folder, graphs)
    graph = backends.load(folder / bundle.PLANNER, Runtime())
    cases, window = _decided_window(subject, choice)
    plans = []
    for step in range(min(GOLDEN_PLANS, len(cases.plans))):
        inputs = _planner_inputs(subject, *case(cases, step, window))
        inputs = {name: value for name, value in inputs.items() if name in graph.shapes}
        plans.append((inputs, graph(inputs)))
    arrays = [array for inputs, outputs in plans for array in (*inputs.values(), *(outputs[name] for name in DECISION))]
    (folder / bundle.GOLDEN).write_bytes(b"".join(array.astype("<f4").tobytes() for array in arrays))
    inputs, outputs = plans[0]
    return {
        "plans": len(plans),
        "inputs": {name: list(value.shape) for name, value in inputs.items()},
        "outputs": {name: list(outputs[name].shape) for name in DECISION},
    }


def _decided_window(subject: Subject, batches: Iterable[Cases]) -> tuple[Cases, int]:
    """The first window in which no golden plan is a matter of rounding.

    Raises:
        BundleError: there is none.
    """
    model, settings = subject.agent.model, subject.settings
    for cases in batches:
        steps = range(min(GOLDEN_PLANS, len(cases.plans)))
        for window in range(cases.observations.shape[1]):
            if all(is_decided(model, settings, *case(cases, step, window)) for step in steps):
                return cases, window
    raise BundleError("rounding decides some of any consecutive plans. Nothing was written; train the agent longer")


# Files -----------------------------------------------------------------------------------------------------------


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder that gets its name when everything in it is right."""
    if out.exists():
        raise BundleError(f"{out} exists and is never overwritten: choose another --out, or remove it")
    folder = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(folder, ignore_errors=True)  # what a kill left there
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BundleError(f"cannot write into {out.parent} ({error.strerror}): choose another --out") from error
    try:
        with naming(out):
            yield folder
            os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(folder: Path, graphs: Mapping[str, onnx.ModelProto]) -> None:
    for name, graph in graphs.items():
        onnx.save(graph, folder / name)


def _clear(folder: Path, kept: set[str]) -> None:
    """Take away the graphs that were only compared."""
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()


def _hashes(folder: Path) -> dict[str, Any]:
    return {
        path.name: {"sha256": bundle.sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.iterdir())
        if path.name != bundle.MANIFEST
    }


def _return(run: Path) -> float | None:
    """What the run's final evaluation found, where it has come so far."""
    try:
        return json.loads((run / runs.SUMMARY).read_text())["return_mean"]
    except FileNotFoundError:
        return None

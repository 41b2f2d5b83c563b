"""``export``: from a run folder to a controller bundle.

The graphs are built from ``tdmpc.planner`` itself, and compared with it before anything is kept: a bundle that does not
plan as its agent is not written.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc import runs
from tdmpc.deploy import backends, bundle, leapp, plausibility
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import Arrays, BundleError
from tdmpc.deploy.cases import Cases, case, corner_cases, plan_cases
from tdmpc.deploy.golden import write_golden
from tdmpc.deploy.manifest import describe
from tdmpc.deploy.original import ExportConfig, Original, load
from tdmpc.deploy.parity import Difference, Parity, Planner, differences, parity, value_scale
from tdmpc.deploy.regret import Regret, loss, regret
from tdmpc.files import naming
from tdmpc.planner import PlanNoise, draw_noise

try:
    import onnx

    from tdmpc.deploy import probe
    from tdmpc.deploy.assemble import Graphs, bake, export_graphs, finished, quiet, unroll
    from tdmpc.deploy.quantization import quantized
except ImportError as error:
    raise ImportError("exporting needs ONNX: pip install 'tdmpc[train,export]'") from error

CORNERS = 4
"""Observations from which plans are made that reach the planner's bounds."""


def export(run: Path, out: Path, config: ExportConfig) -> dict[str, Any]:
    """Write a bundle, and tell its manifest.

    Args:
        run: a run folder.
        out: a new folder for the bundle.
        config: what to make of it.

    Raises:
        BundleError: the folder exists, or the graphs do not plan as the agent does.
        CheckpointError: the run has no checkpoint that can be read.
        ConfigError: the planner cannot be set so, or there is no such version of ONNX's operators.
        RunError: there is nothing to compare on.
    """
    source = load(run, config)
    original, observations = source.original, source.observations
    with _staged(out) as folder:
        draws = _draws(original, config.seed) if config.noise == "baked" else None
        cases = plan_cases(original, observations, seed=config.seed, noise=draws)
        graphs = export_graphs(original, config.opset)
        _save(folder, graphs)
        compared = _compare(folder, original, cases, seed=config.seed)
        lost = None
        if config.precision == "int8":
            graphs |= _in_int8(folder, original, cases)
            lost = _judge(folder, original, cases, seed=config.seed + 1)
        if draws is not None:
            graphs = _baked(graphs, draws)
            _save(folder, graphs)
        manifest = describe(source, config, parity=compared.parity, regret=lost, return_mean=_return(run))
        manifest["golden"] = write_golden(folder, original, cases, compared.differences, scale=compared.scale)
        metadata = {backends.METADATA: json.dumps(manifest)}
        now, actions, after = source.transitions
        plausibility.write(folder / bundle.LAW, plausibility.learn(np.concatenate([now, actions], 1), after))
        _clear(folder, {*graphs, bundle.GOLDEN, bundle.LAW})
        _save(folder, {name: finished(graph, metadata) for name, graph in graphs.items()})
        leapp.write(folder, manifest, backends.load(folder / bundle.PLANNER, Runtime()))
        manifest["files"] = _hashes(folder)
        runs.write_json(folder / bundle.MANIFEST, manifest)
        return json.loads((folder / bundle.MANIFEST).read_text())


def _in_int8(folder: Path, original: Original, cases: Cases) -> Graphs:
    """Start, iteration and planner with products in eight bits; the files are replaced too."""
    feeds = _calibration(folder, original, cases)
    with quiet():
        small = {name: quantized(folder / name, feeds[name]) for name in (bundle.START, bundle.REFINE)}
    iterations = original.settings.planner.iterations
    small[bundle.PLANNER] = unroll(small[bundle.START], small[bundle.REFINE], iterations=iterations)
    _save(folder, small)
    return small


def _baked(graphs: Graphs, draws: PlanNoise) -> Graphs:
    """The graphs of a controller that draws nothing; one iteration alone cannot know which draws are its own."""
    values = {"noise_samples": draws.samples.numpy(), "noise_policy": draws.policy.numpy()}
    return {bundle.PLANNER: bake(graphs[bundle.PLANNER], values), bundle.POLICY: graphs[bundle.POLICY]}


# Comparison ------------------------------------------------------------------------------------------------------


class _Compared(NamedTuple):
    parity: Parity
    differences: list[Difference]
    """Of each case."""
    scale: float
    """Of values."""


def _compare(folder: Path, original: Original, cases: Cases, *, seed: int) -> _Compared:
    """Compare on the cases, and on plans that reach the planner's bounds.

    Raises:
        BundleError: the graphs are not the agent's.
    """
    planner = planner_of(folder / bundle.PLANNER, original)

    def compared(cases: Cases) -> _Compared:
        found = differences(original, cases, planner)
        scale = value_scale(original, cases.observations[0], cases.noise[0].samples[0])
        return _Compared(parity(original, found, scale), found, scale)

    ordinary = compared(cases)
    policy = _policy_difference(folder, original, cases.observations.flatten(0, 1))
    ordinary = ordinary._replace(parity=dataclasses.replace(ordinary.parity, policy=policy))
    corners = compared(corner_cases(original, cases.observations[0, :CORNERS], seed=seed))
    if failures := [*ordinary.parity.failures(), *corners.parity.failures(worth=False)]:
        raise BundleError(
            f"the graphs do not plan as the agent does; they differ in {'; '.join(failures)}. Nothing was written; try "
            "another --opset, or report this with the versions of torch and onnx"
        )
    return ordinary


def _draws(original: Original, seed: int) -> PlanNoise:
    """Noise of one plan, to be baked in."""
    config = original.settings.planner
    generator = torch.Generator().manual_seed(seed)
    drawn = draw_noise(generator, config=config, horizon=config.horizon, batch=1, action_dim=original.spec.action_dim)
    return PlanNoise(drawn.samples[:, :, 0], drawn.policy[:, 0])


def planner_of(path: Path, original: Original) -> Planner:
    """A planner's graph as ``tdmpc.deploy.parity`` sees it."""
    graph = probe.load(path, Runtime())
    return lambda inputs: probe.trace(graph(original.feed(inputs)))


@torch.no_grad()
def _policy_difference(folder: Path, original: Original, observations: Float[Tensor, "M O"]) -> float:
    graph, (model, _, spec) = backends.load(folder / bundle.POLICY, Runtime()), original
    low, high = np.array(spec.action_low, np.float32), np.array(spec.action_high, np.float32)
    expected = bundle.actuate(model.pi(model.encode(observations)).numpy(), low, high)
    actions = np.stack([graph(original.readings(observation))["action"] for observation in observations])
    return float((np.abs(actions - expected) / ((high - low) / 2)).max())


def _judge(folder: Path, original: Original, cases: Cases, *, seed: int) -> Regret:
    planner, generator = planner_of(folder / bundle.PLANNER, original), torch.Generator().manual_seed(seed)
    losses = [
        loss(
            *(original, inputs := case(cases, step, window), planner(inputs).mean),
            *(cases.plans[step].mean[:, window], generator),
        )
        for step, window in np.ndindex(*cases.observations.shape[:2])
    ]
    lost = regret(original, losses)
    if not lost.acceptable:
        raise BundleError(
            f"in eight bits plans lose {lost.mean:.3g} of {lost.value:.3g}; the policy, which costs nothing, loses "
            f"{lost.policy:.3g}: export with --precision float32"
        )
    return lost


def _calibration(folder: Path, original: Original, cases: Cases) -> dict[str, list[Arrays]]:
    """What start and iteration are given while the float graphs plan from replayed observations."""
    start, refine = (backends.load(folder / name, Runtime()) for name in (bundle.START, bundle.REFINE))
    starts, refines = [], []
    for step, window in np.ndindex(*cases.observations.shape[:2]):
        inputs = original.feed(case(cases, step, window))
        draws = inputs.pop("noise_samples")
        starts.append(inputs)
        state = start(inputs)
        for noise in draws:
            refines.append({**state, "noise": noise})
            refined = refine(refines[-1])
            state |= {"mean": refined["new_mean"], "std": refined["new_std"]}
    return {bundle.START: starts, bundle.REFINE: refines}


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

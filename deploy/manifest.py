"""What a bundle says of itself; ``tdmpc.deploy.bundle`` reads it."""

import dataclasses
import platform
from importlib.metadata import version
from typing import Any

from tdmpc.config import to_json
from tdmpc.deploy import bundle
from tdmpc.deploy.graphs import tiled
from tdmpc.deploy.original import ExportConfig, Original, Source, sensor_input
from tdmpc.deploy.parity import Parity
from tdmpc.deploy.regret import Regret
from tdmpc.macs import planning_macs

VERSIONED = ("tdmpc", "torch", "onnx", "onnxruntime", "numpy")


def describe(
    source: Source, config: ExportConfig, *, parity: Parity, regret: Regret | None, return_mean: float | None
) -> dict[str, Any]:
    """The manifest, all but golden plans and hashes.

    Args:
        source: what was exported.
        config: how.
        parity: what the comparison with the agent found.
        regret: what eight bits lose.
        return_mean: what the training's final evaluation found.
    """
    original = source.original
    model, settings, spec = original
    components, run = model.components.items(), tiled(model.config)
    return {
        "format_version": bundle.FORMAT_VERSION,
        "environment": {
            "id": spec.id,
            "control_period_ms": spec.control_period_ms,
            "action_repeat": spec.action_repeat,
            "episode_steps": spec.episode_steps,
            "max_episode_steps": spec.max_episode_steps,
            "terminates": spec.terminates,
            "delay": settings.delay,
        },
        "observation": _observation(source),
        "action": [
            {
                "name": "action",
                "shape": [spec.action_dim],
                "low": list(spec.action_low),
                "high": list(spec.action_high),
            }
        ],
        "planner": _planner(original),
        "noise": {"kind": config.noise, "seed": config.seed, "inputs": _noise(original, config)},
        "precision": config.precision,
        "widths": to_json(model.config),
        "parameters": {name: sum(p.numel() for p in component.parameters()) for name, component in components},
        "macs": planning_macs(model.config, spec, settings.planner),
        "as_run": {"widths": to_json(run), "macs": planning_macs(run, spec, settings.planner)},
        "training": {**source.training, "return_mean": return_mean},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}},
        "parity": dataclasses.asdict(parity),
        "regret": None if regret is None else dataclasses.asdict(regret),
    }


def _observation(source: Source) -> list[dict[str, Any]]:
    """Each sensor, and the range in which the comparison's observations lay: outside it the agent knows little."""
    original, seen = source.original, source.observations.flatten(0, 1)
    low, high = original.split(seen.amin(0)), original.split(seen.amax(0))
    return [
        {
            "name": name,
            "input": sensor_input(name),
            "shape": list(shape),
            "seen_low": low[sensor_input(name)].tolist(),
            "seen_high": high[sensor_input(name)].tolist(),
        }
        for name, shape in original.spec.observation_layout
    ]


def _planner(original: Original) -> dict[str, Any]:
    """The settings in force; schedules are numbers here."""
    settings = original.settings
    schedules = {"std", "horizon_schedule"}
    fixed = {name: value for name, value in to_json(settings.planner).items() if name not in schedules}
    return {**fixed, "min_std": settings.min_std, "discount": settings.discount}


def _noise(original: Original, config: ExportConfig) -> dict[str, list[int]]:
    """Shapes of the draws that the planner takes."""
    planner, action_dim = original.settings.planner, original.spec.action_dim
    if config.noise == "baked":
        return {}
    return {
        "noise_policy": [planner.horizon, planner.policy_trajectories, action_dim],
        "noise_samples": [planner.iterations, planner.horizon, planner.samples, action_dim],
    }

"""What a bundle says of itself; ``tdmpc.deploy.bundle`` reads it."""

import dataclasses
import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from tdmpc.config import to_json
from tdmpc.deploy import bundle
from tdmpc.deploy.graphs import tiled
from tdmpc.deploy.original import ExportConfig, Original, Source, Transitions, sensor_input
from tdmpc.deploy.parity import Parity
from tdmpc.deploy.regret import Regret
from tdmpc.macs import planning_macs
from tdmpc.spec import Channel, EnvSpec

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
        "observation": observation(spec, source.transitions),
        "action": [action(spec)],
        "pose": dict(spec.pose),
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


def observation(spec: EnvSpec, transitions: Transitions) -> list[dict[str, Any]]:
    """Each sensor: what its numbers are, the range that training saw, and whether it ever gave the same twice."""
    (now, _, after), sensors, begin = transitions, [], 0
    for name, shape in spec.observation_layout:
        part = slice(begin, begin := begin + math.prod(shape))
        low, high = (seen.reshape(shape).tolist() for seen in (now[:, part].min(0), now[:, part].max(0)))
        sensors.append(
            {
                **{"name": name, "input": sensor_input(name), "shape": list(shape)},
                **_channels(spec.readings[part]),
                **{"seen_low": low, "seen_high": high, "repeats": bool((now == after)[:, part].all(1).any())},
            }
        )
    return sensors


def _channels(channels: Sequence[Channel]) -> dict[str, Any]:
    """Names, units and bounds of a sensor's numbers, or of the actuators; nothing where the run did not ask."""
    fields = {"names": "name", "units": "unit", "low": "low", "high": "high"}
    return {key: [getattr(each, name) for each in channels] for key, name in fields.items()} if channels else {}


def action(spec: EnvSpec) -> dict[str, Any]:
    """The actuators; an action in [-1, 1] is multiplied by ``scale``, then ``offset`` is added."""
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    return {
        **{"name": "action", "shape": [spec.action_dim], **_channels(spec.actuators)},
        **{"low": low.tolist(), "high": high.tolist()},
        **{"scale": ((high - low) / 2).tolist(), "offset": ((high + low) / 2).tolist()},
    }


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

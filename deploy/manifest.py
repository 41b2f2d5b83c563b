"""What a bundle says of itself; ``deploy.bundle`` reads it."""

import dataclasses
import platform
from importlib.metadata import version
from typing import Any

from deploy import bundle
from deploy.parity import Parity
from deploy.regret import Regret
from deploy.subject import ExportConfig, Subject, sensor_input
from tdmpc.config import to_json
from tdmpc.planner import planning_macs

VERSIONED = ("tdmpc", "torch", "onnx", "onnxruntime", "numpy")


def describe(
    subject: Subject, config: ExportConfig, *, parity: Parity, regret: Regret | None, return_mean: float | None
) -> dict[str, Any]:
    """The manifest, all but golden plans and hashes.

    Args:
        subject: what was exported.
        config: how.
        parity: what the comparison with the agent found.
        regret: what eight bits lose.
        return_mean: what the training's final evaluation found.
    """
    spec, trained = subject.spec, subject.agent.config
    components = subject.agent.model.components.items()
    return {
        "format_version": bundle.FORMAT_VERSION,
        "environment": {
            "id": spec.id,
            "control_period_ms": spec.control_period_ms,
            "action_repeat": spec.action_repeat,
            "episode_steps": spec.episode_steps,
            "terminates": spec.terminates,
        },
        "observation": _observation(subject),
        "action": [
            {
                "name": "action",
                "shape": [spec.action_dim],
                "low": list(spec.action_low),
                "high": list(spec.action_high),
            }
        ],
        "planner": _planner(subject),
        "noise": {"kind": config.noise, "seed": config.seed, "inputs": _noise(subject, config)},
        "precision": config.precision,
        "widths": to_json(trained.model),
        "parameters": {name: sum(p.numel() for p in component.parameters()) for name, component in components},
        "macs": planning_macs(trained.model, spec, subject.settings.planner),
        "training": {
            "run": subject.meta["run"],
            "seed": trained.seed,
            "env_steps": subject.meta["env_steps"],
            "agent_steps": subject.meta["agent_steps"],
            "return_mean": return_mean,
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in VERSIONED}},
        "parity": dataclasses.asdict(parity),
        "regret": None if regret is None else dataclasses.asdict(regret),
    }


def _observation(subject: Subject) -> list[dict[str, Any]]:
    """Each sensor, and the range in which the comparison's observations lay: outside it the agent knows little."""
    seen = subject.observations.flatten(0, 1)
    low, high = subject.split(seen.amin(0)), subject.split(seen.amax(0))
    return [
        {
            "name": name,
            "input": sensor_input(name),
            "shape": list(shape),
            "seen_low": low[index].tolist(),
            "seen_high": high[index].tolist(),
        }
        for index, (name, shape) in enumerate(subject.spec.observation_layout)
    ]


def _planner(subject: Subject) -> dict[str, Any]:
    """The settings in force; schedules are numbers here."""
    settings = subject.settings
    schedules = {"std", "horizon_schedule"}
    fixed = {name: value for name, value in to_json(settings.planner).items() if name not in schedules}
    return {**fixed, "min_std": settings.min_std, "discount": settings.discount}


def _noise(subject: Subject, config: ExportConfig) -> dict[str, list[int]]:
    """Shapes of the draws that the planner takes."""
    planner, action_dim = subject.settings.planner, subject.spec.action_dim
    if config.noise == "baked":
        return {}
    return {
        "noise_policy": [planner.horizon, planner.policy_trajectories, action_dim],
        "noise_samples": [planner.iterations, planner.horizon, planner.samples, action_dim],
    }

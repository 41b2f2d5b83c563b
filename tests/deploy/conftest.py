"""Controllers without a trained agent: a manifest by hand, graphs that tests script; and small runs to export."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy import bundle
from deploy.bundle import Bundle
from deploy.controller import Controller

HORIZON, ITERATIONS, ACTIONS = 3, 2, 2
LOW, HIGH = [-1.0, 0.5], [3.0, 2.5]
PLAN = np.array([[0.5, -0.5], [0.25, 0.75], [-1.0, 1.0]], np.float32)
"""What a scripted planner plans, in [-1, 1]."""
MANIFEST: dict[str, Any] = {
    "format_version": bundle.FORMAT_VERSION,
    "environment": {"id": "Toy-v0", "control_period_ms": 20.0},
    "observation": [
        {"name": "joint", "input": "observation/joint", "shape": [2]},
        {"name": "body/height", "input": "observation/body/height", "shape": []},
    ],
    "action": [{"name": "action", "shape": [ACTIONS], "low": LOW, "high": HIGH}],
    "planner": {"horizon": HORIZON, "iterations": ITERATIONS},
    "noise": {
        "kind": "input",
        "inputs": {"noise_policy": [HORIZON, 1, ACTIONS], "noise_samples": [ITERATIONS, HORIZON, 4, ACTIONS]},
    },
    "precision": "fp32",
    "macs": {"dynamics": 600, "reward": 400},
    "widths": {},
    "training": {"return_mean": 7.0},
    "golden": {"plans": 0, "inputs": {}, "outputs": {}},
    "files": {},
}


class Scripted:
    """A graph that answers what a test says, and keeps what it was given."""

    precision = "fp32"
    shapes: Mapping[str, tuple[int, ...]] = {}

    def __init__(self, answer: Callable[[dict[str, np.ndarray]], dict[str, Any]]) -> None:
        self.answer = answer
        self.given: list[dict[str, np.ndarray]] = []

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.given.append({name: value.copy() for name, value in inputs.items()})
        return {name: np.asarray(value, np.float32) for name, value in self.answer(dict(inputs)).items()}


def planned(mean: np.ndarray = PLAN) -> dict[str, Any]:
    """What a planner's graph puts out for a plan."""
    action = bundle.actuate(mean[0], np.array(LOW), np.array(HIGH))
    return {"action": action, "new_mean": mean, "new_std": np.ones_like(mean), "value": 5.0}


@pytest.fixture
def described(tmp_path: Path) -> Bundle:
    """A bundle that has only a manifest."""
    (tmp_path / bundle.MANIFEST).write_text(json.dumps(MANIFEST))
    return bundle.read(tmp_path)


@pytest.fixture
def observation() -> dict[str, Any]:
    """What the robot of the manifest senses, nested as its environment has it."""
    return {"joint": np.array([0.1, -0.2]), "body": {"height": 1.5}}


@pytest.fixture
def control(described: Bundle) -> Callable[..., tuple[Controller, Scripted]]:
    """``control(on_fault="zero")``: a controller whose planner and policy are scripted, and the planner."""

    def make(answer: Callable[..., dict[str, Any]] = lambda _: planned(), **settings: Any) -> Any:
        planner = Scripted(answer)
        policy = Scripted(lambda _: {"action": [1.25, 1.75]})
        return Controller(described, {bundle.PLANNER: planner, bundle.POLICY: policy}, **settings), planner

    return make

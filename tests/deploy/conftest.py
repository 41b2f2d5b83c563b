"""Controllers without a trained agent: a manifest by hand, graphs that tests script; and small runs to export."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict

from tdmpc import runs
from tdmpc.config import ModelConfig, ReplayConfig
from tdmpc.deploy import bundle
from tdmpc.deploy.bundle import Bundle
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.export import export
from tdmpc.deploy.original import ExportConfig
from tdmpc.envs import describe
from tdmpc.metrics import JsonlSink
from tdmpc.presets import PresetName, preset
from tdmpc.trainer import Trainer
from tdmpc.world_model import WorldModel
from tests.conftest import Shared
from tests.tdmpc.conftest import Toy

HORIZON, ITERATIONS, ACTIONS = 3, 2, 2
LOW, HIGH = [-1.0, 0.5], [3.0, 2.5]
PLAN = np.array([[0.5, -0.5], [0.25, 0.75], [-1.0, 1.0]], np.float32)
"""What a scripted planner plans, in [-1, 1]."""
MANIFEST: dict[str, Any] = {
    "format_version": bundle.FORMAT_VERSION,
    "environment": {"id": "Toy-v0", "control_period_ms": 20.0, "action_repeat": 1},
    "observation": [
        {"name": "joint", "input": "observation/joint", "shape": [2]},
        {"name": "body/height", "input": "observation/body/height", "shape": []},
    ],
    "action": [{"name": "action", "shape": [ACTIONS], "low": LOW, "high": HIGH}],
    "planner": {"horizon": HORIZON, "iterations": ITERATIONS, "min_std": 0.05, "discount": 0.99},
    "noise": {
        "kind": "input",
        "inputs": {"noise_policy": [HORIZON, 1, ACTIONS], "noise_samples": [ITERATIONS, HORIZON, 4, ACTIONS]},
    },
    "precision": "float32",
    "macs": {"dynamics": 500, "reward": 300},
    "as_run": {"widths": {}, "macs": {"dynamics": 600, "reward": 400}},
    "widths": {},
    "training": {"run": "runs/toy", "agent_steps": 40, "return_mean": 7.0},
    "golden": {
        "plans": 1,
        "inputs": {
            "observation/joint": [2],
            "observation/body/height": [],
            "previous_mean": [HORIZON, ACTIONS],
            "noise_policy": [HORIZON, 1, ACTIONS],
            "noise_samples": [ITERATIONS, HORIZON, 4, ACTIONS],
        },
        "outputs": {"action": [ACTIONS], "new_mean": [HORIZON, ACTIONS], "value": []},
    },
    "files": {},
}


class Scripted:
    """A graph that answers what a test says, and keeps what it was given."""

    precision = "float32"
    manifest = None
    shapes: Mapping[str, tuple[int, ...]] = {}
    outputs: Mapping[str, tuple[int, ...]] = {}

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


# Runs small enough to export in seconds ------------------------------------------------------------------------------


class Arm(gym.Env):
    """Joints that actions push; as many actuators as asked for, each with bounds of its own; nested sensors."""

    dt = 0.02

    def __init__(self, actuators: int) -> None:
        self.action_space = Box(-np.arange(1.0, actuators + 1), np.full(actuators, 2.0), dtype=np.float64)
        wide = {"low": -np.inf, "high": np.inf, "dtype": np.float64}
        tool = Dict({"force": Box(shape=(2, 2), **wide), "heat": Box(shape=(), **wide)})
        self.observation_space = Dict({"joint": Box(shape=(actuators,), **wide), "tool": tool})
        self.joint, self.time = np.zeros(actuators), 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.joint, self.time = self.np_random.normal(size=self.joint.shape), 0
        return self.sense(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action in self.action_space
        self.joint, self.time = 0.8 * self.joint + 0.3 * action, self.time + 1
        return self.sense(), -float(np.square(self.joint).sum()), bool(self.joint[0] > 1.5), self.time == 12, {}

    def sense(self) -> dict[str, Any]:
        force = np.outer([1.0, -1.0], [self.joint.sum(), 5.0])
        return {"joint": self.joint, "tool": {"force": force, "heat": np.array(float(self.time))}}


@dataclass(frozen=True)
class Case:
    """What kind of agent is exported, and how."""

    preset: PresetName
    terminates: bool
    widths: ModelConfig
    env: str
    export: ExportConfig
    max_change: float | None = None


DENSE = ModelConfig(
    latent=8, encoder=(8,), dynamics=(12, 12), reward=(12, 12), termination=(12, 12), policy=(12, 12), value=(12, 12)
)
PRUNED = ModelConfig(
    latent=5, encoder=(7,), dynamics=(3, 9), reward=(6,), termination=(4, 5), policy=(7, 3), value=(8, 5, 4)
)
CASES = {
    "default": Case("default", False, DENSE, "deploy/Toy-v0", ExportConfig()),
    "reference-terminates": Case("reference", True, DENSE, "deploy/Arm3-v0", ExportConfig(delay=1), max_change=0.25),
    "default-pruned-terminates": Case(
        "default", True, PRUNED, "deploy/Arm6-v0", ExportConfig(iterations=3, elites=5, delay=2)
    ),
    "reference-pruned": Case(
        "reference", False, PRUNED, "deploy/Arm2-v0", ExportConfig(horizon=4, samples=20), max_change=0.3
    ),
}


class Exported(NamedTuple):
    """A run and its bundle; tests read them only."""

    case: Case
    run: Path
    folder: Path
    manifest: dict[str, Any]


@pytest.fixture(scope="session")
def register_robots() -> Iterator[None]:
    """The environments of ``CASES``."""
    known = dict(gym.registry)
    gym.register("deploy/Toy-v0", entry_point=Toy)
    for actuators in (2, 3, 6):
        gym.register(f"deploy/Arm{actuators}-v0", entry_point=Arm, kwargs={"actuators": actuators})
    yield
    gym.registry.clear()
    gym.registry.update(known)


def train(case: Case, folder: Path, teach: Callable[[WorldModel], object] = lambda model: None) -> Path:
    """A run that has acted at random; its weights are no longer those of the start, where all values are zero."""
    spec = describe(case.env, terminates=case.terminates)
    config = preset(case.preset, spec)
    model = dataclasses.replace(
        case.widths,
        scale_rewards=config.model.scale_rewards,
        normalize_observations=config.model.normalize_observations,
    )
    small = {"samples": 24, "elites": 6, "iterations": 2, "policy_trajectories": 4, "max_change": case.max_change}
    planner = dataclasses.replace(config.planner, **small)
    config = dataclasses.replace(
        config,
        **{"env_steps": 40, "random_steps": 40, "pretrain_updates": 0, "batch_size": 8, "threads": 1},
        **{"model": model, "planner": planner, "replay": ReplayConfig(capacity=100)},
    )
    folder.mkdir(parents=True)
    with JsonlSink(folder / runs.METRICS) as sink:
        trainer = Trainer(config, spec, folder, sink)
        trainer.run()
        with torch.no_grad():
            for parameter in trainer.agent.model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
            teach(trainer.agent.model)
        trainer.save()
        trainer.envs.close()
    return folder


@pytest.fixture(scope="session")
def export_case(register_robots: None, shared: Shared) -> Callable[[str], Exported]:
    """``export_case("default")``: the run and the bundle of a case, made once."""

    @cache
    def exported(name: str) -> Exported:
        case, told = CASES[name], "told.json"

        def make(folder: Path) -> None:
            torch.manual_seed(1)
            run = train(case, folder / "run")
            (folder / told).write_text(json.dumps(export(run, folder / "bundle", case.export)))

        folder = shared(f"case-{name}", make)
        return Exported(case, folder / "run", folder / "bundle", json.loads((folder / told).read_text()))

    return exported


@pytest.fixture(params=CASES)
def exported(request: pytest.FixtureRequest, export_case: Callable[[str], Exported]) -> Exported:
    """Each case in turn."""
    return export_case(request.param)


@pytest.fixture
def copied(export_case: Callable[[str], Exported], tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(export_case("default").folder, tmp_path / "bundle"))

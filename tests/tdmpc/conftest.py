"""A toy environment and runs small enough to train in a second."""

import dataclasses
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from tdmpc import checkpoint, runs
from tdmpc.agent import Agent
from tdmpc.config import Linear, LossConfig, ModelConfig, PlannerConfig, ReplayConfig, TrainConfig
from tdmpc.envs import describe
from tdmpc.metrics import JsonlSink
from tdmpc.spec import Batch, EnvSpec
from tdmpc.trainer import Trainer
from tdmpc.world_model import WorldModel

TOY = "Toy-v0"
SMALL = ModelConfig(
    latent=8, encoder=(8,), dynamics=(12,), reward=(8,), termination=(8,), policy=(8,), value=(8, 8), value_heads=2
)


class Toy(gym.Env):
    """A point that actions push about; an episode lasts 9 steps. ``tamper`` may change what a step gives."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as Gymnasium has it
    observation_space = Box(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, tamper: Callable[..., Any] = lambda toy, *step: step, render_mode: str | None = None):
        self.tamper, self.render_mode = tamper, render_mode
        self.time, self.point = 0, np.zeros(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.point = 0, self.np_random.normal(size=2)
        return self.point, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.point = 0.9 * self.point + 0.1 * np.array([action[0], 1])
        return *self.tamper(self, self.point, -abs(float(self.point[0])), False), self.time == 9, {}

    def render(self) -> np.ndarray:
        return np.full((8, 8, 3), self.time, np.uint8)


@contextmanager
def registered(make: Callable[..., gym.Env] = Toy) -> Iterator[None]:
    """Let Gymnasium know the toy for as long as this lasts: workers run tests in any order."""
    gym.register(TOY, entry_point=make)
    try:
        yield
    finally:
        del gym.registry[TOY]


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    """Register a toy for one test."""
    with ExitStack() as stack:

        def add(make: Callable[..., gym.Env] = Toy) -> str:
            stack.close()
            stack.enter_context(registered(make))
            return TOY

        yield add


def tiny(env: str, **changes: Any) -> TrainConfig:
    """A run of 60 agent steps with networks of a few hundred weights."""
    settings: dict[str, Any] = {
        "env_steps": 60,
        "random_steps": 20,
        "pretrain_updates": 8,
        "batch_size": 16,
        "checkpoint_every": 25,
        "eval_episodes": 1,
        "threads": 1,
        "precision": "float32",
        "model": SMALL,
        "planner": PlannerConfig(
            horizon=3,
            samples=16,
            policy_trajectories=4,
            elites=4,
            iterations=2,
            std=Linear(0.5, 0.1, 50),
            horizon_schedule=Linear(1, 3, 50),
        ),
        "loss": LossConfig(horizon=3, consistency_width=8),
        "replay": ReplayConfig(capacity=1000),
    }
    return TrainConfig(env, **settings | changes)


def train_row(env_steps: int, **values: Any) -> dict[str, Any]:
    """What a training episode logs."""
    return {"kind": "train", "env_steps": env_steps, "return": env_steps / 10, "loss/value": 0.5} | values


def spec_of(config: TrainConfig) -> EnvSpec:
    """What the environment tells; whether it terminates is known here, to spare the probe."""
    return _described(config.env, config.action_repeat, "Inverted" in config.env)


@cache
def _described(env: str, action_repeat: int | None, terminates: bool) -> EnvSpec:
    return describe(env, action_repeat=action_repeat, terminates=terminates)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes: to a program, that is a disk that fills up."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


OPENED: list[Trainer] = []


def open_run(config: TrainConfig, folder: Path, kind: type[Trainer] = Trainer) -> Trainer:
    """A trainer on a run folder, new or where its last checkpoint left it, as the command line makes it."""
    saved = checkpoint.load(folder) if runs.has_checkpoint(folder) else None
    sink = JsonlSink(folder / runs.METRICS, resume_at=0 if saved is None else saved.meta["env_steps"])
    trainer = kind(config, spec_of(config), folder, sink)
    OPENED.append(trainer)
    if saved is not None:
        trainer.restore(saved)
    return trainer


@pytest.fixture(autouse=True)
def close_runs() -> Iterator[None]:
    """Free what the runs of a test have opened."""
    yield
    while OPENED:
        trainer = OPENED.pop()
        trainer.sink.close()
        trainer.envs.close()


# The core without an environment: models and batches of three sensors and two actuators -----------------------

MODEL = ModelConfig(
    latent=6, encoder=(8,), dynamics=(9, 8), reward=(8, 9), termination=(8,), policy=(9, 8), value=(8, 9)
)
PLANNER = PlannerConfig(
    horizon=3, samples=24, policy_trajectories=4, elites=8, iterations=2, horizon_schedule=Linear(3, 3, 0)
)
LOSS = LossConfig(horizon=3, consistency_width=6)


@pytest.fixture(scope="session")
def make_spec() -> Callable[..., EnvSpec]:
    """``make_spec(terminates=True)``: what an environment that nobody steps would tell."""

    def make(observation_dim: int = 3, action_dim: int = 2, *, terminates: bool = False) -> EnvSpec:
        return EnvSpec(
            id=TOY,
            observation_dim=observation_dim,
            action_dim=action_dim,
            action_low=(-1.0,) * action_dim,
            action_high=(1.0,) * action_dim,
            action_repeat=1,
            terminates=terminates,
            episode_steps=None,
            control_period_ms=None,
            observation_layout=(("sensors", (observation_dim,)),),
        )

    return make


@pytest.fixture(scope="session")
def make_config() -> Callable[..., TrainConfig]:
    """``make_config(model={"latent": 7}, seed=3)``: tiny settings with changes, sections given as mappings."""
    sections = {"model": MODEL, "planner": PLANNER, "loss": LOSS}

    def make(**changes: Any) -> TrainConfig:
        changed = {name: dataclasses.replace(section, **changes.pop(name, {})) for name, section in sections.items()}
        return TrainConfig(env=TOY, **{"precision": "float32", **changed, **changes})

    return make


@pytest.fixture(scope="session")
def make_model(make_config: Callable[..., TrainConfig], make_spec: Callable[..., EnvSpec]) -> Callable[..., WorldModel]:
    """``make_model(terminates=True, latent=7)``: a model none of whose layers is zero, as after training."""

    def make(*, terminates: bool = False, **changes: Any) -> WorldModel:
        model = WorldModel(make_config(model=changes).model, make_spec(terminates=terminates))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        return model

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """``make_batch(ends={1: 0})``: windows of random transitions, here the second ending for good in its step 0."""

    def make(steps: int = 3, size: int = 8, *, ends: dict[int, int] | None = None, scale: float = 1.0) -> Batch:
        terminated = torch.zeros(steps, size, dtype=torch.bool)
        mask = torch.ones(steps, size)
        for window, step in (ends or {}).items():
            terminated[step:, window] = True
            mask[step + 1 :, window] = 0
        return Batch(
            observations=torch.randn(steps + 1, size, 3),
            actions=torch.rand(steps, size, 2) * 2 - 1,
            rewards=torch.rand(steps, size) * scale,
            terminated=terminated,
            mask=mask,
            weights=torch.linspace(0.2, 1.0, size),
            indices=np.arange(size),
        )

    return make


@pytest.fixture(scope="session")
def make_agent(make_config: Callable[..., Any], make_spec: Callable[..., EnvSpec]) -> Callable[..., Agent]:
    """``make_agent(terminates=True, seed=1, precision="bfloat16")``: seeded as the trainer does it."""

    def make(*, terminates: bool = True, **changes: Any) -> Agent:
        config = make_config(**changes)
        torch.manual_seed(config.seed)
        return Agent(config, make_spec(terminates=terminates))

    return make

"""A bundle in its environment, beside the agent that it was made of."""

import dataclasses
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deploy.backends import Runtime
from deploy.bundle import PLANNER, Arrays, Bundle, BundleError
from deploy.controller import Controller, draw_noise, golden_deviation
from deploy.graphs import Settings
from deploy.parity import TOLERANCE, is_decided, plan
from deploy.sensing import sense
from tdmpc.agent import Agent
from tdmpc.config import Linear, PlannerConfig, from_json
from tdmpc.envs import make_bare_env
from tdmpc.evaluation import EVALUATION_STREAM, evaluate
from tdmpc.guard import DIVERGED
from tdmpc.lanes import episode_seed
from tdmpc.planner import PlanNoise
from tdmpc.trainer import load_agent

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Validation:
    """What was found."""

    precision: str
    """In which the bundle was computed."""
    bundle_returns: tuple[float, ...]
    torch_returns: tuple[float, ...]
    """Of the agent with the bundle's planner settings, on the same episodes with other noise."""
    decisions: int
    """Compared with the agent's, for the same observation, noise and plan before."""
    max_action_difference: float
    """In [-1, 1]."""
    undecided: int
    """Decisions left out of it: rounding decides them, see ``deploy.parity``."""
    golden_deviation: float
    """Largest difference to the golden actions, in half widths of the actuators' range."""


def validate(folder: Path, runtime: Runtime, *, run: Path | None, episodes: int, seed: int | None = None) -> Validation:
    """Play episodes with a bundle, asking its agent about every decision; then with the agent alone.

    Args:
        folder: the bundle.
        runtime: what runs it.
        run: the run that it was exported from, if it is no longer where it was.
        episodes: how many, of each.
        seed: of episodes and noise; the run's evaluation seed when not given.

    Raises:
        BundleError: the bundle is damaged, or the run has gone on since.
        CheckpointError: the run cannot be read.
    """
    controller = Controller.load(folder, runtime, on_fault="raise")
    agent, step = matching_agent(controller.bundle, run)
    seed = agent.config.seed + EVALUATION_STREAM if seed is None else seed
    witness = _Witness(agent, controller, seed)
    returns = [_episode(controller, witness, agent, episode_seed(seed, 0, number)) for number in range(episodes)]
    alone = evaluate(agent, step=step, episodes=episodes, seed=seed)
    return Validation(
        precision=controller.precision,
        bundle_returns=tuple(returns),
        torch_returns=alone.returns,
        decisions=controller.counters.decisions,
        max_action_difference=witness.largest,
        undecided=witness.undecided,
        golden_deviation=golden_deviation(controller.bundle, runtime),
    )


def matching_agent(described: Bundle, run: Path | None) -> tuple[Agent, int]:
    """The agent of a bundle in single precision, with the bundle's planner settings, and its step."""
    trained = described.manifest["training"]
    run = Path(trained["run"]) if run is None else run
    agent, meta = load_agent(run, device="cpu", precision="float32", compile=False)
    step = meta["agent_steps"]
    if step != trained["agent_steps"] or agent.spec.id != described.manifest["environment"]["id"]:
        raise BundleError(
            f"{described.folder} was exported from step {trained['agent_steps']:,} of a run of "
            f"{described.manifest['environment']['id']}; {run} is at step {step:,} of {agent.spec.id}: "
            "export it again, or name the right one with --run"
        )
    agent.config = dataclasses.replace(agent.config, planner=planner_config(described))
    return agent, step


def planner_config(described: Bundle) -> PlannerConfig:
    """The planner of a bundle; what were schedules are constants."""
    fixed = {name: value for name, value in described.manifest["planner"].items() if name != "discount"}
    horizon, std = fixed["horizon"], fixed.pop("min_std")
    config = from_json(PlannerConfig, fixed)
    return dataclasses.replace(config, horizon_schedule=Linear(horizon, horizon, 0), std=Linear(std, std, 0))


class _Witness:
    """The agent, asked what it would do in the controller's place, on the same noise."""

    def __init__(self, agent: Agent, controller: Controller, seed: int) -> None:
        described = controller.bundle
        planner = agent.config.planner
        self.agent, self.controller = agent, controller
        self.settings = Settings(planner, planner.std(0), agent.config.loss.discount)
        self.noise: Arrays = {
            name: np.zeros(shape, np.float32) for name, shape in described.noise_shapes.items()
        } or _baked(described)
        self.drawn = described.noise_shapes
        self.random = np.random.default_rng(seed)
        self.largest, self.undecided = 0.0, 0
        controller.reset(seed=seed)

    def act(self, observation: Any) -> np.ndarray:
        """The controller's action; the agent's is compared with it."""
        before = self.controller.plan
        action = self.controller.act(observation)
        planned = self.controller.plan
        assert planned is not None
        previous = torch.from_numpy(np.zeros_like(planned) if before is None else before)
        self._compare(self._flat(observation), previous, torch.from_numpy(planned))
        return action

    @torch.no_grad()
    def _compare(self, observation: Tensor, previous: Tensor, planned: Tensor) -> None:
        if self.drawn:
            draw_noise(self.random, self.noise)
        noise = PlanNoise(torch.tensor(self.noise["noise_samples"]), torch.tensor(self.noise["noise_policy"]))
        model, settings = self.agent.model, self.settings
        batched = PlanNoise(noise.samples[:, :, None], noise.policy[:, None])
        expected = plan(model, settings, model.encode(observation[None]), previous[:, None], batched)
        difference = (planned[0] - expected.mean[0, 0]).abs().max().item()
        exact = self.controller.precision == "fp32"
        if exact and difference > TOLERANCE and not is_decided(model, settings, observation, previous, noise):
            self.undecided += 1
        else:
            self.largest = max(self.largest, difference)

    def _flat(self, observation: Any) -> Tensor:
        sensed = sense(observation, self.controller.bundle.sensors)
        return torch.from_numpy(np.concatenate([reading.ravel() for reading in sensed.values()]))


def _baked(described: Bundle) -> Arrays:
    """The draws inside a planner's graph."""
    from onnx import load, numpy_helper

    constants = load(described.file(PLANNER)).graph.initializer
    return {each.name: numpy_helper.to_array(each) for each in constants if each.name.startswith("noise_")}


def _episode(controller: Controller, witness: _Witness, agent: Agent, seed: int) -> float:
    """The return of one episode."""
    controller.reset()
    total, ended = 0.0, False
    with closing(make_bare_env(agent.spec.id, **agent.spec.options)) as env:
        observation, _ = env.reset(seed=seed)
        while not ended:
            action = witness.act(observation).reshape(env.action_space.shape or ())
            observation, reward, terminated, truncated, info = env.step(action.astype(env.action_space.dtype))
            total, ended = total + float(reward), terminated or truncated
            if DIVERGED in info:
                log.warning("an episode of the bundle ends where the simulation diverged: %s", info[DIVERGED])
    return total

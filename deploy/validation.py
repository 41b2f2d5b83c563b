"""A bundle in its environment, beside the agent that it was made of."""

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tdmpc.agent import Agent
from tdmpc.config import Linear, PlannerConfig, from_json
from tdmpc.deploy import probe
from tdmpc.deploy.backends import Graph, Runtime
from tdmpc.deploy.bundle import COMMITTED, PLANNER, SINGLE_PRECISION, Arrays, Bundle, BundleError, read
from tdmpc.deploy.contract import GoldenPlan, golden_plans
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.original import Inputs, Original, Settings
from tdmpc.deploy.parity import SCALED, Difference, Parity, difference, parity, value_scale
from tdmpc.deploy.regret import Loss, Regret, loss, regret
from tdmpc.env_faults import DIVERGED
from tdmpc.envs import make_bare_env
from tdmpc.evaluation import EVALUATION_STREAM, evaluate
from tdmpc.planner import PlanNoise
from tdmpc.runs import load_agent
from tdmpc.vector_env import episode_seed

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
    """Between plans, in [-1, 1]. In single precision both plan with the same elites."""
    parity: Parity | None
    """In single precision."""
    regret: Regret | None
    """In any other."""
    golden: tuple[GoldenPlan, ...]

    @property
    def golden_deviation(self) -> float:
        """Largest difference to the golden actions, in half widths of the actuators' range."""
        return max(golden.action for golden in self.golden)

    def failures(self) -> list[str]:
        """Why the bundle is not the agent's; empty where it is."""
        if self.parity is None:
            assert self.regret is not None
            lost = f"in {self.precision} plans lose {self.regret.mean:.3g} of {self.regret.value:.3g}"
            return [] if self.regret.acceptable else [f"{lost}, the policy alone loses {self.regret.policy:.3g}"]
        failed = sum(not golden.holds for golden in self.golden)
        golden = [f"{failed} of {len(self.golden)} golden plans come out otherwise"] if failed else []
        return [f"bundle and agent differ in {failure}" for failure in self.parity.failures()] + golden

    def remarks(self) -> list[str]:
        """What was not compared number by number, and what was asked instead."""
        if self.parity is None:
            return [
                f"In {self.precision}, plans were not compared number by number. They were judged by what they are "
                "worth in the agent's own model."
            ]
        loose = [golden for golden in self.golden if golden.allowed_action > SINGLE_PRECISION]
        remarks = []
        if self.parity.ties:
            remarks.append(
                f"Elites tied in {self.parity.ties} of {self.decisions} decisions: the worst elite and the best "
                "non-elite had equal value up to rounding, and bundle and agent chose different ones. Actions may "
                "differ there and were not compared. The values of all candidates were, and so was what follows from "
                "the bundle's own elites, and what the plans are worth."
            )
        if loose:
            remarks.append(
                f"Elites tie in {len(loose)} of {len(self.golden)} golden plans. There another runtime may differ by "
                f"{max(golden.allowed_action for golden in loose):.1g} half widths of the actuators' range."
            )
        return remarks


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
    described = read(folder)
    golden = golden_plans(described, runtime)
    planner = _Watched(probe.load(described.file(PLANNER), runtime))
    controller = Controller(described, {PLANNER: planner}, on_fault="raise")
    agent, step = matching_agent(described, run)
    seed = agent.config.seed + EVALUATION_STREAM if seed is None else seed
    witness = _Witness(agent, controller, planner, seed)
    returns = [_episode(controller, witness, agent, episode_seed(seed, 0, number)) for number in range(episodes)]
    alone = evaluate(agent, step=step, episodes=episodes, seed=seed)
    exact = controller.precision == "float32"
    compared = witness.parity() if exact else None
    return Validation(
        precision=controller.precision,
        bundle_returns=tuple(returns),
        torch_returns=alone.returns,
        decisions=controller.counters.decisions,
        max_action_difference=witness.largest if compared is None else compared.mean,
        parity=compared,
        regret=None if exact else regret(witness.original, witness.losses),
        golden=tuple(golden),
    )


def matching_agent(described: Bundle, run: Path | None) -> tuple[Agent, int]:
    """The agent of a bundle in single precision, with the bundle's planner settings, and its step.

    Both play the nominal environment, whatever the agent was trained in: a bundle holds no perturbations.
    """
    trained = described.manifest["training"]
    run = Path(trained["run"]) if run is None else run
    agent, meta = load_agent(run, device="cpu", precision="float32", compile=False, perturb={})
    step = meta["agent_steps"]
    if step != trained["agent_steps"] or agent.spec.id != described.manifest["environment"]["id"]:
        raise BundleError(
            f"{described.folder} was exported from step {trained['agent_steps']:,} of a run of "
            f"{described.manifest['environment']['id']}; {run} is at step {step:,} of {agent.spec.id}: "
            "export it again, or name the right one with --run"
        )
    delay = (described.delay, described.delay)
    agent.config = dataclasses.replace(agent.config, planner=planner_config(described), delay=delay)
    return agent, step


def planner_config(described: Bundle) -> PlannerConfig:
    """The planner of a bundle; what were schedules are constants."""
    fixed = {name: value for name, value in described.manifest["planner"].items() if name != "discount"}
    horizon, std = fixed["horizon"], fixed.pop("min_std")
    config = from_json(PlannerConfig, fixed)
    return dataclasses.replace(config, horizon_schedule=Linear(horizon, horizon, 0), std=Linear(std, std, 0))


class _Watched:
    """A planner's graph that keeps what it was given last, and what it made of it."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.shapes, self.outputs = graph.shapes, graph.outputs
        self.precision, self.manifest = graph.precision, graph.manifest
        self.given: Mapping[str, np.ndarray] = {}
        self.made: Arrays = {}

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        self.given, self.made = inputs, self._graph(inputs)
        return self.made


class _Witness:
    """The agent, asked what it would do in the controller's place, on the same noise."""

    def __init__(self, agent: Agent, controller: Controller, planner: _Watched, seed: int) -> None:
        config, described = agent.config, controller.bundle
        settings = Settings(config.planner, config.planner.std(0), config.loss.discount, described.delay)
        self.original = Original(agent.model, settings, agent.spec)
        self.controller, self.planner = controller, planner
        self.exact = controller.precision == "float32"
        self.baked = {} if described.noise_shapes else _baked(described)
        self.other = torch.Generator().manual_seed(seed + 1)
        self.found: list[Difference] = []
        self.losses: list[Loss] = []
        self.first: list[Inputs] = []
        """Of the decisions that tell the scale of values."""
        self.largest = 0.0
        controller.reset(seed=seed)

    def act(self, observation: Any) -> np.ndarray:
        """The controller's action; its plan is compared with the agent's."""
        action = self.controller.act(observation)
        inputs, made = self._inputs(), probe.trace(self.planner.made)
        own = self._own(inputs)
        if self.exact:
            self.found.append(difference(self.original, inputs, made, own))
        else:
            self.losses.append(loss(self.original, inputs, made.mean, own, self.other))
        self.largest = max(self.largest, (made.mean[0] - own[0]).abs().max().item())
        if len(self.first) < SCALED:
            self.first.append(inputs)
        return action

    def parity(self) -> Parity:
        """All decisions together."""
        observations = torch.stack([each.observation for each in self.first])
        samples = torch.stack([each.noise.samples[0] for each in self.first], dim=1)
        return parity(self.original, self.found, value_scale(self.original, observations, samples))

    def _inputs(self) -> Inputs:
        given = {
            name: torch.from_numpy(np.array(value)) for name, value in {**self.planner.given, **self.baked}.items()
        }
        observation = torch.cat([given[sensor.input].ravel() for sensor in self.controller.bundle.sensors])
        noise = PlanNoise(given["noise_samples"], given["noise_policy"])
        nothing = torch.zeros(1, self.original.spec.action_dim)
        return Inputs(observation, given["previous_mean"], noise, given.get(COMMITTED, nothing))

    @torch.no_grad()
    def _own(self, inputs: Inputs) -> Tensor:
        batched = PlanNoise(inputs.noise.samples[:, :, None], inputs.noise.policy[:, None])
        begun = inputs.observation[None], inputs.previous[:, None], batched, inputs.committed[:, None]
        return self.original.plan(*begun).mean[:, 0]


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

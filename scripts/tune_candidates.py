"""What a search chooses between: the agents of runs, each with any planner up to its own; and what they return."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from optuna.trial import BaseTrial, FixedTrial
from scipy.stats import wilcoxon

from tdmpc.agent import Agent
from tdmpc.config import PlannerConfig, Precision
from tdmpc.deploy.original import ExportConfig
from tdmpc.evaluation import evaluate
from tdmpc.macs import planning_macs
from tdmpc.runs import config as config_of
from tdmpc.runs import load_agent, load_agents
from tdmpc.scripts.tune_latency import BUDGET, Costs, predicted

DOUBT = 0.15
"""A candidate is stopped when its episodes would be as bad, beside those of the best that is no slower, with less than
this chance if it were as good (Wilcoxon's signed ranks): when three of three are worse, or most of more."""
POLICY_ALONE = 0
"""The number of samples that stands for no planner: one candidate of an agent, so not half of all that is tried."""


@dataclass(frozen=True)
class Candidate:
    """One controller."""

    agent: str
    policy: Literal["planner", "prior"]
    precision: Precision
    delay: int
    samples: int = 0
    iterations: int = 0
    horizon: int = 0
    policy_trajectories: int = 0
    elites: int = 0

    def __str__(self) -> str:
        late = f", delay {self.delay}" if self.delay else ""
        if self.policy == "prior":
            return f"{self.agent}, policy alone, {self.precision}{late}"
        plan = f"{self.samples} x {self.iterations}, horizon {self.horizon}, {self.elites} elites"
        return f"{self.agent}, {plan}, {self.policy_trajectories} policy trajectories, {self.precision}{late}"

    @property
    def budget(self) -> dict[str, Any]:
        """The planner's settings; none for the policy alone."""
        return {} if self.policy == "prior" else {name: getattr(self, name) for name in BUDGET}

    @property
    def export(self) -> ExportConfig:
        """What its bundle is made of."""
        return ExportConfig(**self.budget, delay=self.delay)


class Subject:
    """The agent of a run, to be played with any planner."""

    def __init__(self, run: Path, agent: Agent, step: int) -> None:
        self.run, self.agent, self.step = run, agent, step
        own = max(agent.config.delay)
        # A plan for a delay of one decision has no more time than one without delay.
        self.delays = own, max(own, 1) + 1
        """The agent's own, and a longer one."""
        self.planner = dataclasses.replace(
            self.agent.config.planner, horizon=self.agent.config.planner.horizon_at(self.step)
        )
        sizes = [
            planning_macs(model, self.agent.spec, self.planner)
            for model in (self.agent.config.model, config_of(run).model)
        ]
        now, dense = (sum(size.values()) for size in sizes)
        self.left = now / dense
        """Share of a plan's multiply-adds that pruning has left."""
        self._agents: dict[str, Agent] = {"float32": self.agent}

    def play(self, candidate: Candidate, *, seed: int) -> float:
        """The return of one episode; the same seed starts it alike for every candidate."""
        if candidate.precision not in self._agents:
            self._agents[candidate.precision] = load_agent(
                self.run, device="cpu", precision=candidate.precision, compile=False
            )[0]
        agent = self._agents[candidate.precision]
        planner = dataclasses.replace(self.planner, **candidate.budget)
        agent.config = dataclasses.replace(agent.config, planner=planner, delay=(candidate.delay,) * 2)
        return evaluate(agent, step=self.step, episodes=1, seed=seed, policy=candidate.policy).returns[0]


def subjects_of(folders: Sequence[Path]) -> dict[str, Subject]:
    """The agents of runs, by name. Raises as ``load_agents``."""
    example = "tdmpc tune runs/demo runs/demo-dense --period-ms 20 --out bundle"
    loaded = load_agents(folders, example=example, device="cpu", precision="float32", compile=False)
    return {name: Subject(*each) for name, each in loaded.items()}


@dataclass(frozen=True)
class Space:
    """All candidates, as Optuna takes them: from every agent's own planner down."""

    subjects: Mapping[str, Subject]
    precisions: tuple[Precision, ...]

    def suggest(self, trial: BaseTrial) -> Candidate:
        """A candidate."""
        planners = [subject.planner for subject in self.subjects.values()]
        agent = trial.suggest_categorical("agent", list(self.subjects))
        precision: Precision = (
            "bfloat16" if trial.suggest_categorical("precision", self.precisions) == "bfloat16" else "float32"
        )
        own, longer = self.subjects[agent].delays
        samples = trial.suggest_categorical("samples", [*halves(planner.samples for planner in planners), POLICY_ALONE])
        if samples == POLICY_ALONE:
            return Candidate(agent, "prior", precision, own)
        delay = own if trial.suggest_categorical("delay", ["own", "longer"]) == "own" else longer
        chosen = {
            "samples": samples,
            "iterations": trial.suggest_int("iterations", 1, max(planner.iterations for planner in planners)),
            "horizon": trial.suggest_int("horizon", 1, max(planner.horizon for planner in planners)),
            "policy_trajectories": trial.suggest_categorical(
                "policy_trajectories", halves((planner.policy_trajectories for planner in planners), 2)
            ),
            "elites": trial.suggest_categorical("elites", halves(planner.elites for planner in planners)),
        }
        chosen["elites"] = min(chosen["elites"], chosen["samples"] + chosen["policy_trajectories"])
        return Candidate(agent, "planner", precision, delay, **chosen)

    def starts(self, load: Callable[[Candidate], float]) -> list[dict[str, Any]]:
        """What is tried first: of every agent the policy alone, two small planners, its own, and the largest that fit.

        Args:
            load: part of its time that a candidate takes.
        """
        usual = [
            {"agent": name, "precision": self.precisions[0], **choice}
            for parts in (None, 8, 4, 1)
            for name, subject in self.subjects.items()
            for choice in [{"samples": POLICY_ALONE} if parts is None else _part(subject.planner, parts)]
        ]
        return [*usual, *(choice for choice in self._largest(load) if choice not in usual)]

    def _largest(self, load: Callable[[Candidate], float]) -> list[dict[str, Any]]:
        """For every agent, precision, delay and horizon, the planner that uses most of its time and still fits."""
        found: dict[Any, tuple[float, dict[str, Any]]] = {}
        for name, subject in self.subjects.items():
            for precision, delay, horizon, iterations, trajectories, halvings in product(
                self.precisions,
                ("own", "longer"),
                range(1, subject.planner.horizon + 1),
                range(1, subject.planner.iterations + 1),
                halves([subject.planner.policy_trajectories], 2),
                range(len(halves([subject.planner.samples]))),
            ):
                choice = {"agent": name, "precision": precision, "delay": delay, "horizon": horizon}
                choice |= {"iterations": iterations, "policy_trajectories": trajectories}
                choice |= _halved(subject.planner, halvings)
                part = load(self.suggest(FixedTrial(choice)))
                key = name, precision, delay, horizon
                if part <= 1 and part > found.get(key, (0.0, choice))[0]:
                    found[key] = part, choice
        return [choice for _, choice in found.values()]


def _part(planner: PlannerConfig, parts: int) -> dict[str, Any]:
    """A planner with so many times fewer samples, at most, and fewer iterations."""
    halvings = parts.bit_length() - 1
    return {
        "delay": "own",
        **_halved(planner, halvings),
        "iterations": max(planner.iterations // max(halvings, 1), 1),
        "horizon": planner.horizon,
        "policy_trajectories": planner.policy_trajectories,
    }


def _halved(planner: PlannerConfig, halvings: int) -> dict[str, int]:
    """Samples and elites, halved so often, as far as they can be."""
    return {name: halves([getattr(planner, name)])[: halvings + 1][-1] for name in ("samples", "elites")}


def halves(most: Any, steps: int = 5) -> list[int]:
    """Each number, and its halves: 50 is 50, 25, 12, 6, 3."""
    return sorted({number >> step for number in most for step in range(steps) if number >> step}, reverse=True) or [0]


def quickest(candidate: Candidate, subject: Subject, costs: Costs, slower: Mapping[str, float]) -> tuple[float, str]:
    """The 99th percentile of its decisions by what was measured of their parts, and in which runtime.

    Args:
        candidate: the controller.
        subject: its agent.
        costs: of the agent, by runtime.
        slower: how many times slower the board is, by runtime.
    """
    planner = dataclasses.replace(subject.planner, **candidate.budget) if candidate.budget else None
    fit = [name for name in slower if name.endswith(candidate.precision)]
    return min((slower[name] * predicted(costs[name], planner, candidate.delay), name) for name in fit)


def worse(returns: Sequence[float], best: Mapping[int, float]) -> bool:
    """Whether another candidate's episodes of the same numbers return more, beyond chance."""
    more = [best[episode] - own for episode, own in enumerate(returns)]
    return any(more) and wilcoxon(more, zero_method="zsplit", alternative="greater").pvalue < DOUBT

"""The one file that knows how TD-MPC is wired: its groups, how an agent shrinks, and how a smaller one is judged.

Component-specific groups are the hidden units of encoder, dynamics, reward, termination, policy and value (stacked
value heads keep one width, each chooses its own units). Coupling groups are the latent coordinates: what encoder and
dynamics put out and what every component reads. Observations, actions and the outputs of heads are on no axis.
"""

import dataclasses
import logging
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from compression.absorb import Inputs, Watch, absorbed
from compression.config import PruneConfig
from compression.groups import Axis, Groups, Keep, Slice
from compression.pruner import OnlinePruner
from compression.records import EVENTS, flat_events
from compression.shrink import shrink
from compression.subject import Judgement
from tdmpc.agent import Agent
from tdmpc.checkpoint import below
from tdmpc.config import ModelConfig, PlannerConfig, TrainConfig
from tdmpc.losses import Targets, model_loss, targets, temporal_weights
from tdmpc.planner import draw_noise, imagine, mppi, planning_macs
from tdmpc.pruner import Pruner
from tdmpc.replay import Replay
from tdmpc.spec import Batch, EnvSpec
from tdmpc.trainer import Trainer
from tdmpc.world_model import WorldModel, parameter_shapes

log = logging.getLogger(__name__)

LATENT = "latent"
FLOOR = 1e-4
"""What a constant leaves unexplained, or planning gains, counts as at least this much."""
WATCHED_WINDOWS = 128
"""Windows on which units that stay learn what the others did."""
WATCHED_STEPS = 2
"""Random actions that are imagined from each of their observations, as a planner does at first."""
JUDGED_WINDOWS = 256
"""Windows on which losses are judged."""
JUDGED_PLANS, FEWER_SAMPLES = 8, 8
"""Observations from which plans are judged, and how many times fewer samples such a plan takes."""


# The table -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def agent_groups(model: ModelConfig, spec: EnvSpec, planner: PlannerConfig) -> Groups:
    """The groups of a world model of these widths; multiply-adds are those of one plan."""
    shapes = parameter_shapes(model, spec)
    axes = [Axis(LATENT, None, model.latent, tuple(_latent_slices(model, spec)))]
    for component in _perceptrons(spec):
        axes += [
            Axis(component, layer, width, _hidden_unit(component, layer))
            for layer, width in enumerate(getattr(model, component))
        ]
    axes += [
        Axis("value", layer, width, _value_unit(layer), heads=model.value_heads)
        for layer, width in enumerate(model.value)
    ]
    return Groups(tuple(axes), shapes, _calls(model, spec, planner, shapes))


def _perceptrons(spec: EnvSpec) -> list[str]:
    return ["encoder", "dynamics", "reward", *(["termination"] if spec.terminates else []), "policy"]


def _weight(component: str, layer: int) -> str:
    """Linear layers of a perceptron have the even places, activations lie between them."""
    return f"components.{component}.{2 * layer}.weight"


def _bias(component: str, layer: int) -> str:
    return f"components.{component}.{2 * layer}.bias"


def _hidden_unit(component: str, layer: int) -> tuple[Slice, ...]:
    return (
        Slice(_weight(component, layer), 0),
        Slice(_bias(component, layer), 0),
        Slice(_weight(component, layer + 1), 1),
    )


def _value_unit(layer: int) -> tuple[Slice, ...]:
    """Dimension 0 is the head; LayerNorm follows the first layer."""
    value = "components.value"
    norm = (Slice(f"{value}.norm_weight", 1), Slice(f"{value}.norm_bias", 1)) if layer == 0 else ()
    return (
        Slice(f"{value}.weights.{layer}", 1),
        Slice(f"{value}.biases.{layer}", 1),
        *norm,
        Slice(f"{value}.weights.{layer + 1}", 2),
    )


def _latent_slices(model: ModelConfig, spec: EnvSpec) -> list[Slice]:
    """Everything that a latent coordinate ties together; where actions are read too, they come behind the latent."""
    last = {"encoder": len(model.encoder), "dynamics": len(model.dynamics)}
    readers = [component for component in _perceptrons(spec) if component != "encoder"]
    return [
        *(Slice(part(name, layer), 0, component=name) for name, layer in last.items() for part in (_weight, _bias)),
        *(Slice(_weight(component, 0), 1, component=component) for component in readers),
        Slice("components.value.weights.0", 2, component="value"),
    ]


def _calls(
    model: ModelConfig, spec: EnvSpec, planner: PlannerConfig, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int]:
    """Rows that each weight multiplies in one plan."""
    calls = {}
    for component, macs in planning_macs(model, spec, planner).items():
        weights = [name for name in shapes if name.startswith(f"components.{component}.") and ".weight" in name]
        rows = macs // sum(int(np.prod(shapes[name])) for name in weights)
        calls |= dict.fromkeys(weights, rows)
    return calls


# Shrinking -------------------------------------------------------------------------------------------------------


def with_widths(model: ModelConfig, widths: Mapping[str, int]) -> ModelConfig:
    """The model's settings with other widths; axes that are not named keep theirs."""
    layers = {
        field.name: tuple(widths.get(f"{field.name}.{layer}", width) for layer, width in enumerate(value))
        for field in dataclasses.fields(model)
        if isinstance(value := getattr(model, field.name), tuple)
    }
    return dataclasses.replace(model, latent=widths.get(LATENT, model.latent), **layers)


def shrink_agent(
    config: TrainConfig, spec: EnvSpec, state: Mapping[str, Tensor], keep: Keep
) -> tuple[TrainConfig, dict[str, Tensor]]:
    """What a checkpoint holds of an agent, cut down: its settings, networks, target network and moments.

    Args:
        config: settings that the state belongs to.
        spec: the environment.
        state: of ``Agent.state``.
        keep: the units that stay; raises ``ValueError`` as ``shrink``.
    """
    groups = agent_groups(config.model, spec, config.planner)
    smaller = with_widths(config.model, groups.kept(keep).widths)
    return dataclasses.replace(config, model=smaller), shrink(state, groups, keep)


# An agent as the pruner sees it ----------------------------------------------------------------------------------


class AgentSubject:
    """What a checkpoint holds of an agent in training, with the replay that its cuts are judged on.

    A smaller one is built as an agent only if it is to be one: judging takes its networks alone, in single precision.
    """

    def __init__(
        self, config: TrainConfig, spec: EnvSpec, state: Mapping[str, Tensor], replay: Replay, *, step: int
    ) -> None:
        self.config, self.spec, self.state, self.replay, self.step = config, spec, state, replay, step
        self.model, self.target = (_network(config.model, spec, below(part, state)) for part in ("model", "target"))
        self._references: dict[int, Reference] = {}
        self._inputs: dict[str, Inputs] = {}

    @staticmethod
    def of(agent: Agent, replay: Replay, *, step: int) -> "AgentSubject":
        """The subject that shares an agent's tensors.

        Args:
            agent: the agent, which stays as it is.
            replay: its data.
            step: agent step, for the planner's schedules.
        """
        return AgentSubject(agent.config, agent.spec, agent.state(), replay, step=step)

    @property
    def groups(self) -> Groups:
        """The table of the agent as it is."""
        return agent_groups(self.config.model, self.spec, self.config.planner)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The world model's parameters by name."""
        return dict(self.model.named_parameters())

    def shrunk(self, keep: Keep) -> "AgentSubject":
        """What a checkpoint would hold of the smaller agent."""
        config, state = shrink_agent(self.config, self.spec, self.state, keep)
        return AgentSubject(config, self.spec, state, self.replay, step=self.step)

    def absorbed(self, keep: Keep) -> "AgentSubject":
        """The agent with all readers of what will go, those of the target network too, reading the rest for it."""
        state = absorbed(self.state, self.groups, keep, self.inputs())
        return AgentSubject(self.config, self.spec, state, self.replay, step=self.step)

    @torch.no_grad()
    def inputs(self) -> dict[str, Inputs]:
        """What reaches each layer on windows of the replay, and on random actions from their observations."""
        if not self._inputs:
            rng = np.random.default_rng((self.config.seed, self.step))
            batch = self.replay.sample(WATCHED_WINDOWS, rng=rng).to(next(self.model.parameters()).device)
            starts = batch.observations[:-1].flatten(0, 1)
            draws = rng.uniform(-1, 1, (WATCHED_STEPS, len(starts), self.spec.action_dim)).astype(np.float32)
            with Watch(self.parameters()) as watch:
                run_all(self.model, batch.observations[0], batch.actions)
                run_all(self.model, starts, torch.from_numpy(draws).to(starts.device))
            self._inputs = watch.inputs()
        return self._inputs

    def with_fresh_optimizer(self) -> "AgentSubject":
        """The same agent, both optimisers as at the beginning of training."""
        state = {name: tensor for name, tensor in self.state.items() if not name.startswith("optimizer/")}
        return AgentSubject(self.config, self.spec, state, self.replay, step=self.step)

    def agent(self) -> Agent:
        """The agent, built as on resume."""
        agent = Agent(self.config, self.spec)
        agent.load_state(dict(self.state))
        return agent

    @torch.no_grad()
    def judge(self, before: "AgentSubject", draw: int) -> Judgement:
        """Losses on windows drawn from the replay for this alone, and plans as the larger agent values them."""
        known = before.reference(draw)
        fit, plan_value = known.fit_of(self), known.value_of_plan(self)
        worsening = {name: fit.unexplained[name] - known.fit.unexplained[name] for name in fit.unexplained}
        gain = max(known.plan_value - known.chance_value, FLOOR)
        return Judgement(
            before={**known.fit.losses, "plan_value": known.plan_value},
            after={**fit.losses, "plan_value": plan_value},
            worsening={**worsening, "plan": (known.plan_value - plan_value) / gain},
        )

    def reference(self, draw: int) -> "Reference":
        """What smaller agents are compared with, on the data of a draw."""
        if draw not in self._references:
            self._references[draw] = Reference(self, draw)
        return self._references[draw]


def _network(config: ModelConfig, spec: EnvSpec, state: Mapping[str, Tensor]) -> WorldModel:
    """A world model around tensors that are there already."""
    with torch.device("meta"):
        model = WorldModel(config, spec)
    model.load_state_dict(dict(state), assign=True)
    return model


def run_all(model: WorldModel, observations: Float[Tensor, "B O"], actions: Float[Tensor, "T B A"]) -> None:
    """Imagine actions and put every component to work on the way, for who wants to watch them."""
    latents = [model.encode(observations)]
    for action in actions:
        latents.append(model.next(latents[-1], action))
    reached = torch.stack(latents)
    model.reward(reached[:-1], actions)
    model.q(reached[:-1], actions)
    model.q(reached, model.pi(reached))
    if model.can_terminate:
        model.terminates(reached)


class Fit(NamedTuple):
    """How well networks explain data."""

    losses: dict[str, float]
    unexplained: dict[str, float]
    """Each loss as a share of what the best constant would have."""


class Reference:
    """An agent on windows of its replay: the values that smaller ones are measured by, and how well it does itself."""

    def __init__(self, subject: AgentSubject, draw: int) -> None:
        config, device = subject.config, next(subject.model.parameters()).device
        self.larger = subject
        windows = subject.replay.sample(JUDGED_WINDOWS, rng=np.random.default_rng((config.seed, draw)))
        self.batch = windows.to(device)
        generator = torch.Generator(device).manual_seed(draw)
        self.noise = torch.randn(self.batch.actions.shape, generator=generator, device=device)
        self.values = self._targets(subject).values
        self.fit = self.fit_of(subject)
        self.observations = self.batch.observations[0, :JUDGED_PLANS]
        self.start = subject.model.encode(self.observations)
        full = config.planner
        self.planner = dataclasses.replace(
            full, samples=-(-full.samples // FEWER_SAMPLES), elites=-(-full.elites // FEWER_SAMPLES)
        )
        self.plan_noise = draw_noise(
            generator,
            config=self.planner,
            horizon=min(full.horizon, int(full.horizon_schedule(subject.step))),
            batch=len(self.observations),
            action_dim=subject.spec.action_dim,
        )
        self.plan_value = self.value_of_plan(subject)
        """Return of its plans, in units of the environment."""
        self.chance_value = self._value(self.plan_noise.samples[0].clamp(-1, 1))
        """Return of random actions."""

    def fit_of(self, subject: AgentSubject) -> Fit:
        """Losses of an agent against its own target network's latents and the larger agent's values."""
        goal = self._targets(subject)._replace(values=self.values)
        parts = model_loss(subject.model, self.batch, goal, config=subject.config.loss).parts
        losses = {name: value.item() for name, value in parts.items()}
        constant = _constant_losses(subject, self.batch, goal)
        return Fit(losses, {name: loss / max(constant[name], FLOOR) for name, loss in losses.items()})

    def value_of_plan(self, subject: AgentSubject) -> float:
        """What the larger agent thinks of an agent's plans."""
        horizon, batch, *_ = self.plan_noise.policy.shape
        plan = mppi(
            subject.model,
            subject.model.encode(self.observations),
            self.noise.new_zeros(horizon, batch, subject.spec.action_dim),
            self.plan_noise,
            config=self.planner,
            discount=subject.config.loss.discount,
            min_std=subject.config.planner.std(subject.step),
        )
        return self._value(plan.mean[:, :, None])

    def _targets(self, subject: AgentSubject) -> Targets:
        config = subject.config
        return targets(subject.model, subject.target, self.batch, self.noise, loss=config.loss, planner=config.planner)

    def _value(self, actions: Float[Tensor, "H B N A"]) -> float:
        model = self.larger.model
        returns = imagine(model, self.start, actions, discount=self.larger.config.loss.discount)
        return (returns.mean() * model.reward_scale).item()


def _constant_losses(subject: AgentSubject, batch: Batch, goal: Targets) -> dict[str, float]:
    """What each loss would be if the best constant were predicted."""
    config = subject.config
    rho = temporal_weights(batch, config=config.loss)

    def around_mean(values: Float[Tensor, "T B *X"]) -> Float[Tensor, "T B"]:
        return (values - values.mean((0, 1))).square().flatten(2).sum(-1)

    ended = batch.terminated.float()
    elementwise = {
        "consistency": around_mean(goal.latents) / (config.loss.consistency_width or goal.latents.shape[-1]),
        "reward": around_mean((batch.rewards / subject.model.reward_scale)[..., None]),
        "value": config.model.value_heads * around_mean(goal.values[..., None]),
        "termination": F.binary_cross_entropy(ended.mean().expand_as(ended), ended, reduction="none"),
    }
    return {name: (rho * loss).sum(0).mean().item() for name, loss in elementwise.items()}


# In the training loop --------------------------------------------------------------------------------------------


class AgentPruner(Pruner):
    """Prunes the agent of a training run."""

    def __init__(self, config: PruneConfig, dense: ModelConfig, folder: Path) -> None:
        """Nothing is attached yet.

        Args:
            config: ``resolved`` and checked settings.
            dense: widths of the agent before any pruning, which targets and limits refer to.
            folder: the run folder.
        """
        self.config, self.dense, self.folder = config, dense, folder
        self.pruner: OnlinePruner

    def attach(self, agent: Agent) -> None:
        groups = agent_groups(agent.config.model, agent.spec, agent.config.planner)
        if not hasattr(self, "pruner") or groups.widths != self.pruner.groups.widths:
            dense = agent_groups(self.dense, agent.spec, agent.config.planner)
            self.pruner = OnlinePruner(
                self.config, groups, self.folder, dense=dense, seed=agent.config.seed, device=agent.device
            )
        agent.watch = self.pruner.observe

    def between_updates(self, trainer: Trainer) -> None:
        if self.pruner.due(trainer.env_steps):
            self._advance(trainer)
        if trainer.env_steps >= trainer.config.env_steps and (fault := self.pruner.shortfall()):
            log.warning("%s", fault)

    def _advance(self, trainer: Trainer) -> None:
        events = self.pruner.journal.lines
        with trainer.window.timer("prune"):
            subject = AgentSubject.of(trainer.agent, trainer.replay, step=trainer.agent_steps)
            chosen = self.pruner.advance(subject, step=trainer.env_steps)
            if chosen is not subject:
                trainer.replace_agent(chosen.agent())
        for name, axis in self.pruner.snapshot["axes"].items():
            trainer.sink.histogram(f"importance/{name}", list(chain(*axis["scores"])), trainer.env_steps)
        if self.pruner.journal.lines > events:
            trainer.sink.table("prune/events", flat_events(self.folder / EVENTS), trainer.env_steps)

    def row(self) -> dict[str, float]:
        return self.pruner.row()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.pruner.state()

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.pruner.load_state(tensors, meta, self.pruner.groups)

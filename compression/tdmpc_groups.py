"""The one file that knows how TD-MPC is wired: its groups, how an agent shrinks, and how a smaller one is judged.

Component-specific groups are the hidden units of encoder, dynamics, reward, termination, policy and value (stacked
value heads keep one width, each chooses its own units). Coupling groups are the latent coordinates: what encoder and
dynamics put out and what every component reads. Observations, actions and the outputs of heads are on no axis.
"""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from compression.config import PruneConfig
from compression.groups import Axis, Groups, Keep, Slice
from compression.pruner import Judgement, OnlinePruner
from compression.records import EVENTS, flat_events
from compression.shrink import shrink
from tdmpc.agent import Agent
from tdmpc.config import ModelConfig, PlannerConfig, TrainConfig
from tdmpc.losses import Targets, model_loss, targets, temporal_weights
from tdmpc.planner import draw_noise, imagine, mppi, planning_macs
from tdmpc.pruner import NullPruner
from tdmpc.replay import Replay
from tdmpc.spec import Batch, EnvSpec
from tdmpc.trainer import Trainer
from tdmpc.world_model import parameter_shapes

LATENT = "latent"
FLOOR = 1e-4
"""What a constant leaves unexplained, or planning gains, counts as at least this much."""
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
    written = [part(component, layer) for component, layer in last.items() for part in (_weight, _bias)]
    readers = [component for component in _perceptrons(spec) if component != "encoder"]
    return [
        *(Slice(name, 0) for name in written),
        *(Slice(_weight(component, 0), 1) for component in readers),
        Slice("components.value.weights.0", 2),
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
    """An agent in training, with the replay that its cuts are judged on."""

    def __init__(self, agent: Agent, replay: Replay, *, step: int) -> None:
        self.agent, self.replay, self.step = agent, replay, step

    def parameters(self) -> dict[str, nn.Parameter]:
        """The world model's parameters by name."""
        return dict(self.agent.model.named_parameters())

    def shrunk(self, keep: Keep) -> Self:
        """An agent rebuilt from the smaller state, exactly as on resume."""
        config, state = shrink_agent(self.agent.config, self.agent.spec, self.agent.state(), keep)
        agent = Agent(config, self.agent.spec)
        agent.load_state(state)
        return type(self)(agent, self.replay, step=self.step)

    @property
    def groups(self) -> Groups:
        """The table of the agent as it is."""
        return agent_groups(self.agent.config.model, self.agent.spec, self.agent.config.planner)

    @torch.no_grad()
    def judge(self, before: Self, draw: int) -> Judgement:
        """Losses on windows drawn from the replay for this alone, and plans as the larger agent values them."""
        config = self.agent.config
        windows = self.replay.sample(JUDGED_WINDOWS, rng=np.random.default_rng((config.seed, draw)))
        batch = windows.to(self.agent.device)
        larger, smaller = (_fit(agent, before.agent, batch, draw) for agent in (before.agent, self.agent))
        plans = _plan_values(before.agent, self.agent, batch.observations[0, :JUDGED_PLANS], self.step, draw)
        worsening = {name: smaller.unexplained[name] - larger.unexplained[name] for name in larger.unexplained}
        gain = max(plans.before - plans.by_chance, FLOOR)
        return Judgement(
            before={**larger.losses, "plan_value": plans.before},
            after={**smaller.losses, "plan_value": plans.after},
            worsening={**worsening, "plan": (plans.before - plans.after) / gain},
        )


class Fit(NamedTuple):
    """How well an agent explains data."""

    losses: dict[str, float]
    unexplained: dict[str, float]
    """Each loss as a share of what the best constant would have."""


def _fit(agent: Agent, larger: Agent, batch: Batch, draw: int) -> Fit:
    """Losses of an agent; the larger one sets the values that both are measured by."""
    config = agent.config.loss
    noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(draw)).to(agent.device)
    with agent.autocast():
        own, common = (
            targets(one.model, one.target, batch, noise, loss=config, planner=agent.config.planner)
            for one in (agent, larger)
        )
        goal = own._replace(values=common.values)
        parts = model_loss(agent.model, batch, goal, config=config).parts
    constant = _constant_losses(batch, goal, agent)
    losses = {name: value.item() for name, value in parts.items()}
    return Fit(losses, {name: loss / max(constant[name], FLOOR) for name, loss in losses.items()})


def _constant_losses(batch: Batch, goal: Targets, agent: Agent) -> dict[str, float]:
    """What each loss would be if the best constant were predicted."""
    rho = temporal_weights(batch, config=agent.config.loss)

    def around_mean(values: Float[Tensor, "T B *X"]) -> Float[Tensor, "T B"]:
        return (values - values.mean((0, 1))).square().flatten(2).sum(-1)

    ended = batch.terminated.float()
    elementwise = {
        "consistency": around_mean(goal.latents) / agent.config.loss.consistency_width,
        "reward": around_mean((batch.rewards / agent.model.reward_scale)[..., None]),
        "value": agent.config.model.value_heads * around_mean(goal.values[..., None]),
        "termination": F.binary_cross_entropy(ended.mean().expand_as(ended), ended, reduction="none"),
    }
    return {name: (rho * loss).sum(0).mean().item() for name, loss in elementwise.items()}


class PlanValues(NamedTuple):
    """Returns of plans as the larger agent sees them, in units of the environment."""

    before: float
    after: float
    by_chance: float


def _plan_values(larger: Agent, smaller: Agent, observations: Float[Tensor, "B O"], step: int, draw: int) -> PlanValues:
    """What the plans of both agents, and random actions, are worth to the larger one."""
    full = larger.config.planner
    config = dataclasses.replace(
        full, samples=-(-full.samples // FEWER_SAMPLES), elites=-(-full.elites // FEWER_SAMPLES)
    )
    horizon = min(full.horizon, int(full.horizon_schedule(step)))
    generator = torch.Generator(larger.device).manual_seed(draw)
    actions, discount = larger.spec.action_dim, larger.config.loss.discount
    noise = draw_noise(generator, config=config, horizon=horizon, batch=len(observations), action_dim=actions)
    judge = larger.planning_model()
    start = judge.encode(observations)
    nowhere = torch.zeros(horizon, len(observations), actions, device=larger.device)

    def plan(agent: Agent) -> Float[Tensor, "H B 1 A"]:
        model = agent.planning_model()
        z = model.encode(observations)
        found = mppi(model, z, nowhere, noise, config=config, discount=discount, min_std=full.std(step))
        return found.mean[:, :, None]

    def value(candidates: Float[Tensor, "H B N A"]) -> float:
        return (imagine(judge, start, candidates, discount=discount).mean() * larger.model.reward_scale).item()

    return PlanValues(value(plan(larger)), value(plan(smaller)), value((noise.samples[0]).clamp(-1, 1)))


# In the training loop --------------------------------------------------------------------------------------------


class AgentPruner(NullPruner):
    """Prunes the agent of a training run."""

    def __init__(self, config: PruneConfig, dense: ModelConfig, folder: Path) -> None:
        """Nothing is followed yet.

        Args:
            config: ``resolved`` and checked settings.
            dense: widths of the agent before any pruning, which targets and limits refer to.
            folder: the run folder.
        """
        self.config, self.dense, self.folder = config, dense, folder
        self.pruner: OnlinePruner

    def follow(self, agent: Agent) -> None:
        groups = agent_groups(agent.config.model, agent.spec, agent.config.planner)
        if not hasattr(self, "pruner") or groups.widths != self.pruner.groups.widths:
            dense = agent_groups(self.dense, agent.spec, agent.config.planner)
            self.pruner = OnlinePruner(self.config, groups, self.folder, dense=dense, seed=agent.config.seed)
        names = {id(parameter): name for name, parameter in agent.model.named_parameters()}
        agent.watch = lambda parameters: self.pruner.observe({names[id(one)]: one for one in parameters})

    def between_updates(self, trainer: Trainer) -> None:
        if not self.pruner.due(trainer.env_steps):
            return
        events = self.pruner.journal.lines
        with trainer.window.timer("prune"):
            subject = AgentSubject(trainer.agent, trainer.replay, step=trainer.agent_steps)
            chosen = self.pruner.advance(subject, step=trainer.env_steps)
            if chosen is not subject:
                trainer.adopt(chosen.agent)
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

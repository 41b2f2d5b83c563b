"""What pruning costs an agent: watching the gradients of an update, and an event."""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from tdmpc.agent import Agent
from tdmpc.compression.allocation import allocate
from tdmpc.compression.config import PruneConfig, resolved
from tdmpc.compression.pruner import OnlinePruner
from tdmpc.compression.tdmpc_agent.agent import PrunableAgent
from tdmpc.compression.tdmpc_agent.groups import agent_groups, with_widths
from tdmpc.compression.tdmpc_agent.hook import AgentPruner
from tdmpc.config import ReplayConfig, TrainConfig
from tdmpc.replay import Replay
from tdmpc.spec import EnvSpec

Watch = Literal["nothing", "criterion", "all"]
TRANSITIONS = 2_000
"""In the replay that events are judged on."""


def pruned(config: TrainConfig, spec: EnvSpec, target: float) -> TrainConfig:
    """The settings of an agent that has lost this share of a plan's multiply-adds, all units scored alike."""
    groups = agent_groups(config.model, spec, config.planner)
    keep = allocate(
        {axis.name: torch.ones(axis.heads, axis.size) for axis in groups.axes},
        groups,
        method="global",
        budget="macs",
        goal=(1 - target) * groups.cost("macs"),
        limits=PruneConfig().limits(groups),
    )
    return dataclasses.replace(config, model=with_widths(config.model, groups.kept(keep).widths))


class PruningBench:
    """An agent whose gradients can be watched, and that can go through an event without being changed."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.replay = synthetic_replay(agent)
        self.settings = resolved(PruneConfig(target=0.5, start=0, end=400, events=4), first_update=0, length=1000)
        observing = dataclasses.replace(self.settings, target=0.0, observe=True)
        # Both write nothing: no step is ever told.
        self.hooks, self.observing = (
            AgentPruner(settings, agent.config.model, Path()) for settings in (self.settings, observing)
        )
        self.watches: dict[Watch, Callable[[Mapping[str, nn.Parameter]], None]] = {"nothing": agent.watch}
        for hooks in (self.hooks, self.observing):
            hooks.attach(agent)
        self.watches |= {"criterion": self.hooks.pruner.observe, "all": self.observing.pruner.observe}
        self.watch("nothing")

    def watch(self, what: Watch) -> None:
        """Have the next update watched for what a run prunes by, for all criteria, or not at all.

        All criteria look at every ``WATCHED_EVERY``-th update only; the next one is one of these.
        """
        self.agent.watch = self.watches[what]
        self.observing.pruner.updates = 0

    def event(self) -> None:
        """The second of four events on the way to a half, from scores to record; its agent is dropped again."""
        prunable = PrunableAgent.of(self.agent, self.replay, step=0)
        with tempfile.TemporaryDirectory() as folder:
            pruner = OnlinePruner(self.settings, prunable.groups, Path(folder), device=self.agent.device)
            pruner.decider.statistics = self.hooks.pruner.decider.statistics
            chosen = pruner.advance(prunable, step=200)
        if chosen is not prunable:
            chosen.agent()


def synthetic_replay(agent: Agent) -> Replay:
    """Transitions of no environment."""
    spec, horizon = agent.spec, agent.config.loss.horizon
    dims = {"observation_dim": spec.observation_dim, "action_dim": spec.action_dim}
    replay = Replay(ReplayConfig(capacity=TRANSITIONS), **dims, horizon=horizon)
    rng = np.random.default_rng(0)
    for _ in range(TRANSITIONS):
        now, then = rng.normal(size=(2, 1, spec.observation_dim)).astype(np.float32)
        action = rng.uniform(-1, 1, (1, spec.action_dim)).astype(np.float32)
        never = np.zeros(1, dtype=bool)
        replay.add(now, action, rng.random(1).astype(np.float32), never, never, then)
    return replay

"""What prunes the agent of a training run: the online pruner, hooked into the training loop."""

import logging
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor

from tdmpc.agent import Agent
from tdmpc.compression.config import PruneConfig
from tdmpc.compression.pruner import OnlinePruner
from tdmpc.compression.records import EVENTS, flat, read
from tdmpc.compression.tdmpc_agent.agent import PrunableAgent
from tdmpc.compression.tdmpc_agent.groups import agent_groups
from tdmpc.config import ModelConfig
from tdmpc.pruner import Pruner
from tdmpc.trainer import Trainer

log = logging.getLogger(__name__)


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
        with trainer.tally.timer("prune"):
            agent = PrunableAgent.of(trainer.agent, trainer.replay, step=trainer.agent_steps)
            chosen = self.pruner.advance(agent, step=trainer.env_steps)
            if chosen is not agent:
                trainer.replace_agent(chosen.agent())
        for name, axis in self.pruner.snapshot["axes"].items():
            trainer.sink.histogram(f"importance/{name}", list(chain(*axis["scores"])), trainer.env_steps)
        if self.pruner.journal.lines > events:
            rows = list(map(flat, read(self.folder / EVENTS)))
            trainer.sink.table("prune/event_table", rows, trainer.env_steps)

    def row(self) -> dict[str, float]:
        return self.pruner.row()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.pruner.state()

    def load_state(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        self.pruner.load_state(tensors, meta, self.pruner.groups)

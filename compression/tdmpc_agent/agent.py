"""An agent in training as the pruner sees it."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from tdmpc.agent import Agent
from tdmpc.compression.absorb import Inputs, Watch, absorbed
from tdmpc.compression.groups import Groups, Keep
from tdmpc.compression.prunable import Judgement
from tdmpc.compression.tdmpc_agent.groups import agent_groups, shrink_agent
from tdmpc.compression.tdmpc_agent.judge import Reference
from tdmpc.compression.tdmpc_agent.networks import Networks, run_all
from tdmpc.config import TrainConfig
from tdmpc.replay import Replay
from tdmpc.spec import EnvSpec

WATCHED_WINDOWS = 128
"""Windows on which units that stay learn what the others did."""
WATCHED_STEPS = 2
"""Random actions that are imagined from each of their observations, as a planner does at first."""


class PrunableAgent(Networks):
    """What a checkpoint holds of an agent in training, with the replay that its cuts are judged on.

    A smaller one is built as an agent only if it is to be one: judging takes its networks alone, in single precision.
    """

    def __init__(
        self, config: TrainConfig, spec: EnvSpec, state: Mapping[str, Tensor], replay: Replay, *, step: int
    ) -> None:
        super().__init__(config, spec, state, step=step)
        self.state, self.replay = state, replay
        self._references: dict[int, Reference] = {}
        self._inputs: dict[str, Inputs] = {}

    @staticmethod
    def of(agent: Agent, replay: Replay, *, step: int) -> "PrunableAgent":
        """The one that shares an agent's tensors.

        Args:
            agent: the agent, which stays as it is.
            replay: its data.
            step: agent step, for the planner's schedules.
        """
        return PrunableAgent(agent.config, agent.spec, agent.state(), replay, step=step)

    @property
    def groups(self) -> Groups:
        """The table of the agent as it is."""
        return agent_groups(self.config.model, self.spec, self.config.planner)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The world model's parameters by name."""
        return dict(self.model.named_parameters())

    def shrunk(self, keep: Keep) -> "PrunableAgent":
        """What a checkpoint would hold of the smaller agent."""
        config, state = shrink_agent(self.config, self.spec, self.state, keep)
        return PrunableAgent(config, self.spec, state, self.replay, step=self.step)

    def absorbed(self, keep: Keep) -> "PrunableAgent":
        """The agent with all readers of what will go, those of the target network too, reading the rest for it."""
        state = absorbed(self.state, self.groups, keep, self.inputs())
        return PrunableAgent(self.config, self.spec, state, self.replay, step=self.step)

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

    def with_fresh_optimizer(self) -> "PrunableAgent":
        """The same agent, both optimisers as at the beginning of training."""
        state = {name: tensor for name, tensor in self.state.items() if not name.startswith("optimizer/")}
        return PrunableAgent(self.config, self.spec, state, self.replay, step=self.step)

    def agent(self) -> Agent:
        """The agent, built as on resume."""
        agent = Agent(self.config, self.spec)
        agent.load_state(dict(self.state))
        return agent

    @torch.no_grad()
    def judge(self, before: "PrunableAgent", draw: int) -> Judgement:
        """Losses on windows drawn from the replay for this alone, and plans as the larger agent values them."""
        if draw not in before._references:
            before._references[draw] = Reference(before, before.replay, draw)
        return before._references[draw].judge(self)

"""The core without an environment, as the tests of ``tdmpc`` have it, and cuts of it."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from tdmpc.agent import Agent
from tdmpc.compression.groups import Groups
from tdmpc.compression.tdmpc_agent.groups import agent_groups
from tests.tdmpc.conftest import close_runs, make_batch, make_config, make_model, make_spec  # noqa: F401 - fixtures

MakeAgent = Callable[..., Agent]


@pytest.fixture(scope="session")
def make_agent(make_config: Callable[..., object], make_spec: Callable[..., object]) -> MakeAgent:  # noqa: F811
    """``make_agent(terminates=True, seed=3)``: an agent none of whose layers is zero, as after training."""

    def make(*, terminates: bool = False, **changes: object) -> Agent:
        agent = Agent(make_config(**changes), make_spec(terminates=terminates))
        with torch.no_grad():
            for slow, fast in zip(agent.target.parameters(), agent.model.parameters(), strict=True):
                fast += 0.3 * torch.randn_like(fast)
                slow.copy_(fast + 0.1 * torch.randn_like(fast))
        return agent

    return make


def groups_of(agent: Agent) -> Groups:
    return agent_groups(agent.config.model, agent.spec, agent.config.planner)


def random_keep(groups: Groups, counts: Mapping[str, int]) -> dict[str, Tensor]:
    """So many random units of each axis, in each head others."""
    return {
        name: torch.stack([torch.randperm(axis.size)[:count].sort().values for _ in range(axis.heads)])
        for name, count in counts.items()
        for axis in [groups[name]]
    }

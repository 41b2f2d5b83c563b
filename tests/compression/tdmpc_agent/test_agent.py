"""Laws of an agent as the pruner sees it."""

from pathlib import Path

import torch

from tdmpc.compression.tdmpc_agent.agent import PrunableAgent
from tests.tdmpc.conftest import open_run, tiny


def test_moments_are_carried_or_begin_afresh(tmp_path: Path) -> None:
    """After an event Adam's moments are those of the units that stay; asked for, both optimisers begin afresh."""
    trainer = open_run(tiny("Pendulum-v1", env_steps=24), tmp_path)
    trainer.run()
    dense = PrunableAgent.of(trainer.agent, trainer.replay, step=24)
    smaller = dense.shrunk({"dynamics.0": torch.tensor([[0, 2]])})
    carried, fresh = smaller.agent(), smaller.with_fresh_optimizer().agent()
    moment = "optimizer/components.dynamics.0.weight/exp_avg"
    assert torch.equal(carried.state()[moment], dense.state[moment][[0, 2]])
    assert carried.model_optimizer.state and carried.policy_optimizer.state
    assert not fresh.model_optimizer.state and not fresh.policy_optimizer.state
    assert all(torch.equal(*pair) for pair in zip(carried.model.parameters(), fresh.model.parameters(), strict=True))

"""Laws of the judge of smaller agents."""

from pathlib import Path

import torch

from tdmpc.compression.tdmpc_agent.agent import PrunableAgent
from tests.tdmpc.conftest import open_run, tiny


def test_a_judge_draws_the_same_windows_again(tmp_path: Path) -> None:
    """The same draw judges on the same data, another on others; an agent is no worse than itself."""
    trainer = open_run(tiny("Pendulum-v1"), tmp_path)
    trainer.run()
    before = trainer.replay.state()["rng"].copy()
    agent = PrunableAgent.of(trainer.agent, trainer.replay, step=60)
    first, again, other = (agent.judge(agent, draw) for draw in (1, 1, 2))
    assert first == again and first.before != other.before
    assert set(first.worsening.values()) == {0.0}
    assert (trainer.replay.state()["rng"] == before).all()


def test_a_useless_agent_is_judged_useless(tmp_path: Path) -> None:
    """An agent whose reward head has been emptied explains nothing of the rewards."""
    trainer = open_run(tiny("Pendulum-v1", env_steps=150), tmp_path)
    trainer.run()
    agent = PrunableAgent.of(trainer.agent, trainer.replay, step=60)
    groups = agent.groups
    same = agent.shrunk({axis.name: torch.arange(axis.size).expand(axis.heads, -1) for axis in groups.axes})
    with torch.no_grad():
        for parameter in same.model.components["reward"].parameters():
            parameter.zero_()
    judgement = same.judge(agent, 1)
    assert judgement.after["reward"] > judgement.before["reward"] and judgement.worsening["reward"] > 0.1
    assert judgement.after["value"] == judgement.before["value"] and judgement.worsening["value"] == 0

"""Laws of acting: plans start from the one before, exploration draws an elite, an evaluation is deterministic."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tdmpc import actor as actor_module
from tdmpc.actor import Actor
from tdmpc.config import Linear
from tdmpc.planner import Plan, PlanNoise
from tests.tdmpc.lives import MakeAgent, MakeBatch, copied, differing, identical, live


def fixed_plan(**parts: Tensor) -> Plan:
    """A plan of one step for two lanes: two elites, at -0.5 and 0.5."""
    elites = torch.tensor([-0.5, 0.5]).reshape(1, 1, 2, 1).expand(1, 2, 2, 2)
    default = {"mean": torch.full((1, 2, 2), 0.2), "std": torch.full((1, 2, 2), 0.1), "elites": elites}
    return Plan(**{**default, "weights": torch.tensor([[0.25, 0.75]] * 2), "value": torch.zeros(2), **parts})


class Spy:
    """Stands in for ``mppi``: notes what it is asked and answers with plans that are all ``value``."""

    def __init__(self) -> None:
        self.means: list[Tensor] = []
        self.min_stds: list[float] = []
        self.value = 0.0

    def __call__(self, model: nn.Module, z: Tensor, mean: Tensor, noise: PlanNoise, **settings: Any) -> Plan:
        self.means.append(mean.clone())
        self.min_stds.append(settings["min_std"])
        horizon, lanes, width = mean.shape
        steps = torch.arange(1.0, horizon + 1)[:, None, None].expand(horizon, lanes, width)
        return Plan(
            mean=self.value + steps,
            std=torch.ones_like(mean),
            elites=torch.zeros(horizon, lanes, 1, width),
            weights=torch.ones(lanes, 1),
            value=torch.zeros(lanes),
        )


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(actor_module, "mppi", spy)
    return spy


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_actions_stay_inside(make_agent: MakeAgent, precision: str) -> None:
    """Exploring or not, actions are single precision numbers in [-1, 1], also where the noise is large."""
    agent = make_agent(precision=precision, planner={"std": Linear(2.0, 2.0, 0)})
    actor = Actor(agent, lanes=16, seed=0)
    for explore in (True, False):
        actions = actor.act(torch.randn(16, 3), step=0, explore=explore)
        assert actions.shape == (16, 2) and actions.dtype == torch.float32
        assert actions.abs().max() <= 1
        assert explore == bool((actions.abs() == 1).any())


def test_evaluation_takes_the_mean(make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without exploration the action is the plan's mean, nothing random is added."""
    monkeypatch.setattr(actor_module, "mppi", lambda *_, **__: fixed_plan())
    actor = Actor(make_agent(planner={"horizon": 1}), lanes=2, seed=0)
    for _ in range(2):
        assert torch.equal(actor.act(torch.zeros(2, 3), step=0, explore=False), torch.full((2, 2), 0.2))


def test_evaluation_is_deterministic(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """Actors of the same seed act the same in evaluation, and acting changes nothing of the agent."""
    agent = make_agent()
    live(agent, [make_batch()])
    before = copied(agent.state())
    observations = torch.randn(3, 2, 3)

    def actions(seed: int) -> list[Tensor]:
        actor = Actor(agent, lanes=2, seed=seed)
        return [actor.act(observation, step=1, explore=False) for observation in observations]

    first = actions(5)
    assert identical(first, actions(5))
    assert not identical(first, actions(6))
    assert differing(agent.state(), before) == []


def test_exploration_draws_an_elite(make_agent: MakeAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exploring takes an elite as often as its weight says, and adds noise of the plan's deviation."""
    monkeypatch.setattr(actor_module, "mppi", lambda *_, **__: fixed_plan())
    actor = Actor(make_agent(planner={"horizon": 1}), lanes=2, seed=0)
    actions = torch.stack([actor.act(torch.zeros(2, 3), step=0, explore=True) for _ in range(300)])
    chosen = actions.mean(-1, keepdim=True).sign()
    assert (chosen > 0).float().mean() == pytest.approx(0.75, abs=0.05)
    assert (actions - 0.5 * chosen).std() == pytest.approx(0.1, abs=0.01)
    assert abs(torch.corrcoef(chosen[:, :, 0].T)[0, 1]) < 0.15, "each lane draws its own elite"


def test_schedules_follow_the_agent_step(make_agent: MakeAgent, spy: Spy) -> None:
    """The planning horizon and the least deviation are those of their schedules at the agent step."""
    actor = Actor(
        make_agent(planner={"horizon": 3, "horizon_schedule": Linear(1, 5, 40), "std": Linear(0.5, 0.1, 40)}),
        lanes=2,
        seed=0,
    )
    for step in (0, 9, 10, 20, 39, 100):
        actor.act(torch.zeros(2, 3), step=step, explore=False)
    assert [len(mean) for mean in spy.means] == [1, 1, 2, 3, 3, 3]
    assert spy.min_stds == pytest.approx([0.5, 0.41, 0.4, 0.3, 0.11, 0.1])


def test_plans_start_from_the_one_before(make_agent: MakeAgent, spy: Spy) -> None:
    """A plan starts from the one before without its first action, its last step from zero, also as horizons grow."""
    actor = Actor(make_agent(planner={"horizon": 3, "horizon_schedule": Linear(2, 3, 1)}), lanes=2, seed=0)
    for step in (0, 0, 1, 1):
        actor.act(torch.zeros(2, 3), step=step, explore=False)
        spy.value += 10
    assert [mean[:, 1, 0].tolist() for mean in spy.means] == [[0, 0], [2, 0], [12, 0, 0], [22, 23, 0]]


def test_forget_is_for_ended_lanes(make_agent: MakeAgent, spy: Spy) -> None:
    """A lane whose episode ended plans from zero, the others go on from where they were."""
    actor = Actor(make_agent(), lanes=3, seed=0)
    actor.act(torch.zeros(3, 3), step=0, explore=False)
    actor.forget(torch.tensor([False, True, False]))
    actor.act(torch.zeros(3, 3), step=0, explore=False)
    assert spy.means[1][:, :, 0].T.tolist() == [[2, 3, 0], [0, 0, 0], [2, 3, 0]]

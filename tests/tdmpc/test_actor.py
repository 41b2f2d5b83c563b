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
        self.latents: list[Tensor] = []
        self.means: list[Tensor] = []
        self.min_stds: list[float] = []
        self.value = 0.0

    def __call__(self, model: nn.Module, z: Tensor, mean: Tensor, noise: PlanNoise, **settings: Any) -> Plan:
        self.latents.append(z)
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


def test_reset_is_for_lanes_that_begin(make_agent: MakeAgent, spy: Spy) -> None:
    """A lane whose episode begins plans from zero with nothing pending, the others go on from where they were."""
    actor = Actor(make_agent(delay=(1,)), lanes=3, seed=0)
    spy.value = -0.5
    actor.act(torch.zeros(3, 3), step=0, explore=False)
    actor.reset(torch.tensor([False, True, False]), torch.ones(3, dtype=torch.int64))
    actor.act(torch.zeros(3, 3), step=0, explore=False)
    assert spy.means[1][:, :, 0].T.tolist() == [[1.5, 2.5, 0], [0, 0, 0], [1.5, 2.5, 0]]


# ------------------------------------------------------------------------------------------------------- delay


def decided(actor: Actor, numbers: list[float], delays: list[int]) -> list[list[float]]:
    """What is applied in each lane when these numbers are decided one after the other, from the start of an episode."""
    actor.reset(torch.ones(actor.lanes, dtype=torch.bool), torch.tensor(delays))
    applied = [actor.commit(torch.full((actor.lanes, 2), float(number))) for number in numbers]
    return torch.stack(applied)[:, :, 0].T.tolist()


def test_a_decision_is_applied_after_its_delay(make_agent: MakeAgent) -> None:
    """Each lane applies what was decided as many decisions ago as its delay is, and before that nothing."""
    actor = Actor(make_agent(delay=(0, 3)), lanes=3, seed=0)
    assert decided(actor, [1, 2, 3, 4], [0, 1, 3]) == [[1, 2, 3, 4], [0, 1, 2, 3], [0, 0, 0, 1]]
    assert decided(actor, [5, 6], [2, 0, 1]) == [[0, 0], [5, 6], [0, 5]]


@pytest.mark.parametrize("planned", [True, False])
def test_acting_applies_what_was_decided_before(make_agent: MakeAgent, spy: Spy, planned: bool) -> None:
    """With a delay of two, an actor returns what it decided two decisions before, by planning or by the policy."""
    spy.value = -1.3  # its plans are -0.3, 0.7, 1.7

    def acted(delay: int) -> list[Tensor]:
        actor, observation = Actor(make_agent(delay=(delay,)), lanes=1, seed=0), torch.ones(1, 3)
        if planned:
            return [actor.act(observation, step=0, explore=False) for _ in range(3)]
        return [actor.act_by_policy(observation) for _ in range(3)]

    nothing = torch.zeros(1, 2)
    first = acted(0)[0]
    applied = acted(2)
    assert identical(applied[:2], [nothing, nothing]) and not identical([first], [nothing])
    assert not planned or identical(applied[2:], [first])


def test_a_plan_begins_where_its_first_action_is_applied(
    make_agent: MakeAgent, make_batch: MakeBatch, spy: Spy
) -> None:
    """Plans begin at the latent that the dynamics predict through what is pending, in each lane as far as its delay."""
    agent = make_agent(delay=(0, 2))
    live(agent, [make_batch()])
    actor, observations = Actor(agent, lanes=3, seed=0), torch.randn(3, 3)
    pending = torch.rand(2, 3, 2) - 0.5
    actor.reset(torch.ones(3, dtype=torch.bool), torch.tensor([0, 1, 2]))
    actor.pending = pending.clone()
    actor.act(observations, step=0, explore=False)
    with torch.no_grad():
        now = agent.model.encode(observations)
        soon = agent.model.next(now, pending[0])
        later = agent.model.next(soon, pending[1])
    torch.testing.assert_close(spy.latents[0], torch.stack([now[0], soon[1], later[2]]))


def test_what_is_pending_survives(make_agent: MakeAgent) -> None:
    """An actor that goes on from a saved state applies what was pending then."""
    first, second = (Actor(make_agent(delay=(1, 2)), lanes=2, seed=seed) for seed in (0, 1))
    decided(first, [1, 2], [1, 2])
    second.load_state(copied(first.state()))
    assert first.commit(torch.zeros(2, 2)).tolist() == second.commit(torch.zeros(2, 2)).tolist() == [[2, 2], [1, 1]]


# ---------------------------------------------------------------------------------------------------- smooth actions


@pytest.mark.parametrize("way", ["random", "explore", "plan", "policy"])
def test_actions_change_little(make_agent: MakeAgent, way: str) -> None:
    """Whoever decides, with whatever delay, what is applied begins at most ``max_change`` from rest and goes on so."""
    agent = make_agent(delay=(0, 2), planner={"max_change": 0.1, "std": Linear(2.0, 2.0, 0)})
    actor = Actor(agent, lanes=3, seed=0)
    actor.reset(torch.ones(3, dtype=torch.bool), torch.tensor([0, 1, 2]))
    applied = [torch.zeros(3, 2)]
    for _ in range(12):
        observations = 3 * torch.randn(3, 3)
        if way == "random":
            applied.append(actor.commit(2 * torch.rand(3, 2) - 1))
        elif way == "policy":
            applied.append(actor.act_by_policy(observations))
        else:
            applied.append(actor.act(observations, step=10**6, explore=way == "explore"))
    changes = torch.stack(applied).diff(dim=0).abs()
    assert 0.01 < changes.max() <= 0.1 + 1e-6


def test_the_last_action_survives(make_agent: MakeAgent) -> None:
    """An actor that goes on from a saved state knows what was applied, and an episode that begins starts from rest."""
    agent = make_agent(planner={"max_change": 0.1})
    first, second = (Actor(agent, lanes=2, seed=seed) for seed in (0, 1))
    first.commit(torch.ones(2, 2))
    second.load_state(copied(first.state()))
    second.reset(torch.tensor([False, True]), torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(second.commit(torch.ones(2, 2)), torch.tensor([[0.2, 0.2], [0.1, 0.1]]))


def test_an_action_belongs_to_who_gets_it(make_agent: MakeAgent) -> None:
    """Whatever is written into an action that was handed out, the actor knows what it decided."""
    actor = Actor(make_agent(), lanes=2, seed=0)
    actor.commit(torch.full((2, 2), 0.5)).fill_(9.0)
    assert (actor.state()["applied"] == 0.5).all()

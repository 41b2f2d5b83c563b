"""Laws of playing episodes: the same seed gives the same episodes, nothing of the agent changes."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.env_faults import EnvironmentFault
from tdmpc.evaluation import Evaluation, evaluate, frame_rate
from tests.tdmpc.conftest import TOY, Toy, spec_of, tiny


@pytest.fixture
def agent(register: Callable[..., str]) -> Agent:
    """An agent with something to say: weights that are nowhere zero."""
    register()
    config = tiny(TOY)
    agent = Agent(config, spec_of(config))
    with torch.no_grad():
        for parameter in agent.model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return agent


def play(agent: Agent, **options: Any) -> Evaluation:
    return evaluate(agent, **({"step": 50, "episodes": 3, "seed": 7} | options))


@pytest.mark.parametrize("policy", ["planner", "prior"])
def test_a_seed_decides_the_episodes(agent: Agent, policy: str) -> None:
    """The same seed gives the same returns, whatever was played before; another seed gives others."""
    first = play(agent, policy=policy)
    torch.randn(3), np.random.rand(3)  # noqa: NPY002
    play(agent, policy=policy, seed=8)
    assert play(agent, policy=policy).returns == first.returns
    assert play(agent, policy=policy, seed=8).returns != first.returns
    assert len(set(first.returns)) == 3  # three episodes, not one three times


def test_episodes_do_not_depend_on_how_many_follow(agent: Agent) -> None:
    """Playing more episodes begins with the same ones."""
    assert play(agent, episodes=5).returns[:3] == play(agent).returns


def test_planner_and_prior_differ(agent: Agent) -> None:
    """The planner plans, and the prior is the policy's mean action alone, without planning."""
    assert play(agent, policy="planner").returns != play(agent, policy="prior").returns


def test_the_prior_is_the_policy(agent: Agent, register: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the prior each action is the policy's mean action in the latent of the observation."""
    monkeypatch.setattr(Actor, "act", None)  # whoever plans fails
    seen: list[np.ndarray] = []
    step = Toy.step

    def spy(self: Toy, action: np.ndarray) -> Any:
        seen.append(np.concatenate([self.point, action]))
        return step(self, action)

    monkeypatch.setattr(Toy, "step", spy)
    play(agent, policy="prior", episodes=1)
    table = torch.from_numpy(np.array(seen, np.float32))
    with torch.no_grad():
        expected = agent.model.pi(agent.model.encode(table[:, :2]))
    assert torch.allclose(table[:, 2:], expected, atol=1e-6) and len(seen) == 9


def test_evaluation_explores_nothing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each action is the plan's mean at the agent's step, and no episode starts from the plan of the one before."""
    asked, starts = [], []
    act = Actor.act

    def spy(self: Actor, observations: Tensor, *, step: int, explore: bool) -> Tensor:
        asked.append((step, explore))
        starts.append(bool(self.mean.any()))
        return act(self, observations, step=step, explore=explore)

    monkeypatch.setattr(Actor, "act", spy)
    play(agent, step=123)
    assert set(asked) == {(123, False)}
    assert [number for number, warm in enumerate(starts) if not warm] == [0, 9, 18]


@pytest.mark.parametrize("policy", ["planner", "prior"])
def test_playing_changes_nothing(agent: Agent, policy: str) -> None:
    """The agent's whole state, and torch's random numbers, are the same before and after."""
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    stream = torch.get_rng_state()
    play(agent, policy=policy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())
    assert torch.equal(torch.get_rng_state(), stream)


def test_returns_and_lengths_are_those_of_the_episodes(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Returns are undiscounted sums of the rewards, lengths count decisions, and every decision is timed."""
    monkeypatch.setattr(Toy, "step", paying := spying_on_rewards())
    result = play(agent)
    assert result.lengths == (9, 9, 9) and len(result.decision_ms) == 27
    assert result.returns == pytest.approx([sum(paying.rewards[start : start + 9]) for start in (0, 9, 18)])
    assert result.return_mean == pytest.approx(np.mean(result.returns))
    assert result.return_std == pytest.approx(np.std(result.returns))
    assert min(result.decision_ms) <= result.decision_ms_p50 <= max(result.decision_ms)


def spying_on_rewards() -> Any:
    """``Toy.step`` that keeps the rewards it pays."""
    step, rewards = Toy.step, []

    def spy(self: Toy, action: np.ndarray) -> Any:
        result = step(self, action)
        rewards.append(result[1])
        return result

    spy.rewards = rewards  # pyright: ignore[reportFunctionMemberAccess]
    return spy


def test_terminations_end_an_episode(agent: Agent, register: Callable[..., str]) -> None:
    """An episode ends with its termination too."""
    register(lambda **options: Toy(lambda toy, *step: (*step[:2], toy.time == 4), **options))
    assert play(agent).lengths == (4, 4, 4)


def test_a_divergence_ends_an_episode(
    agent: Agent, register: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """An episode whose simulation diverges ends there: its return so far counts, it is told and counted."""
    whole = play(agent, episodes=1)
    resets = itertools.count()

    class Fragile(Toy):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            self.breaks = next(resets) == 1
            return super().reset(seed=seed, options=options)

    def tamper(toy: Any, point: np.ndarray, reward: float, terminated: bool) -> tuple[Any, float, bool]:
        if toy.breaks and toy.time == 6:
            raise RuntimeError("bad QACC")
        return point, reward, terminated

    register(lambda **options: Fragile(tamper, **options))
    result = play(agent, record=True)
    assert (result.lengths, result.diverged) == ((9, 5, 9), 1) and whole.diverged == 0
    assert len(result.frames) == 9 and result.returns[0] == whole.returns[0]
    (line,) = [record.message for record in caplog.records]
    assert "episode 2 " in line and "after 5 decisions" in line and "RuntimeError: bad QACC" in line


def test_an_evaluation_keeps_the_time_limit_of_the_run(agent: Agent) -> None:
    """Episodes are cut where those of the training were."""
    agent.spec = dataclasses.replace(agent.spec, max_episode_steps=4)
    assert play(agent).lengths == (4, 4, 4)


def test_the_first_episode_is_filmed(agent: Agent) -> None:
    """Recording keeps one picture for each decision of the first episode and changes no return."""
    plain, filmed = play(agent), play(agent, record=True)
    assert [int(frame[0, 0, 0]) for frame in filmed.frames] == list(range(1, 10))
    assert all(frame.shape == (8, 8, 3) and frame.dtype == np.uint8 for frame in filmed.frames)
    assert filmed.returns == plain.returns and plain.frames == ()


@pytest.mark.filterwarnings("ignore:.*RGB-array rendering should return a numpy array")
@pytest.mark.parametrize(("picture", "says"), [(lambda _: [][0], "IndexError: list index"), (lambda _: "", "got str")])
def test_a_picture_that_fails_is_a_fault(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, picture: Callable[[Toy], Any], says: str
) -> None:
    """An environment that cannot be filmed is one line, as any other fault of it."""
    monkeypatch.setattr(Toy, "render", picture)
    with pytest.raises(EnvironmentFault, match=says):
        play(agent, record=True)


def test_a_caller_can_stop(agent: Agent) -> None:
    """What is called between decisions may raise, and is called after each of them."""
    calls = itertools.count(1)

    def stop() -> None:
        if next(calls) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(agent, between_decisions=stop)
    assert next(calls) == 13


def test_films_run_in_real_time(agent: Agent) -> None:
    """A film has as many pictures a second as the agent makes decisions, 30 where the environment does not tell."""
    assert frame_rate(agent.spec) == 30
    assert frame_rate(spec_of(tiny("Pendulum-v1"))) == pytest.approx(20)

"""Laws of the planner: it finds the optimum of a linear system, batches are single plans, its cost is known."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_are
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tdmpc.config import ConfigError, ModelConfig, PlannerConfig
from tdmpc.macs import planning_macs
from tdmpc.planner import PlanNoise, draw_noise, imagine, mppi, perturb, propose, refit, shift
from tdmpc.presets import preset
from tdmpc.spec import EnvSpec
from tdmpc.world_model import WorldModel

MakeModel = Callable[..., WorldModel]
MakeSpec = Callable[..., EnvSpec]

DISCOUNT = 0.95
A = np.array([[1.0, 0.2], [0.1, 0.9]])
B = np.array([[0.1], [0.5]])
Q = np.diag([1.0, 0.3])
R = np.array([[0.2]])
P = solve_discrete_are(DISCOUNT**0.5 * A, DISCOUNT**0.5 * B, Q, R)
K = np.linalg.solve(R + DISCOUNT * B.T @ P @ B, DISCOUNT * B.T @ P @ A)
"""The best action is -K z; the cost from z on is z'Pz."""
STARTS = torch.tensor([[0.5, 0.0], [-0.5, 0.4], [0.2, -0.5], [0.0, 0.0], [-0.6, 0.2]])


class LinearQuadratic(WorldModel):
    """z' = Az + Ba at the cost z'Qz + a'Ra; at the end z'Pz; the policy is given by its gain."""

    can_terminate = False

    def __init__(self, *, terminal: np.ndarray = P, gain: np.ndarray = 0 * K) -> None:
        nn.Module.__init__(self)
        self.A, self.B, self.Q, self.R, self.P, self.K = (
            torch.tensor(matrix, dtype=torch.float32) for matrix in (A, B, Q, R, terminal, gain)
        )

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        return z @ self.A.T + action @ self.B.T

    def reward(self, z: Tensor, action: Tensor) -> Tensor:
        return -((z @ self.Q * z).sum(-1) + (action @ self.R * action).sum(-1))

    def value(self, z: Tensor, action: Tensor) -> Tensor:
        return -(z @ self.P * z).sum(-1)

    def pi(self, z: Tensor) -> Tensor:
        return -z @ self.K.T


class Scripted(WorldModel):
    """The latent is the number of steps made; rewards, termination logits and the value are written down."""

    can_terminate = True

    def __init__(self, *, rewards: list[float], logits: list[float], value: float) -> None:
        nn.Module.__init__(self)
        self.rewards, self.logits, self.final = torch.tensor(rewards), torch.tensor(logits), value

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        return z + 1

    def reward(self, z: Tensor, action: Tensor) -> Tensor:
        return (self.rewards[z.long()] * action).squeeze(-1)

    def terminates(self, z: Tensor) -> Tensor:
        return self.logits[z.long().squeeze(-1) - 1]

    def value(self, z: Tensor, action: Tensor) -> Tensor:
        return torch.full(z.shape[:-1], self.final)

    def pi(self, z: Tensor) -> Tensor:
        return torch.zeros_like(z)


SEARCH = PlannerConfig(
    samples=512, policy_trajectories=0, elites=48, iterations=10, temperature=5.0, momentum=0.1, max_std=1.0
)


def plan(model: WorldModel, z: Tensor, horizon: int, *, seed: int = 0, min_std: float = 0.01, **changes: Any):
    """A plan of the linear-quadratic system from scratch."""
    config = dataclasses.replace(SEARCH, **changes)
    generator = torch.Generator().manual_seed(seed)
    noise = draw_noise(generator, config=config, horizon=horizon, batch=len(z), action_dim=1)
    mean = torch.zeros(horizon, len(z), 1)
    return mppi(model, z, mean, noise, config=config, discount=DISCOUNT, min_std=min_std)


def regret(z: Tensor, actions: Tensor) -> float:
    """What action sequences cost more than the best ones, which cost z'Pz, averaged over where they start."""
    returns = imagine(LinearQuadratic(), z, actions[:, :, None], discount=DISCOUNT)[:, 0]
    return (-(z @ torch.tensor(P, dtype=torch.float32) * z).sum(-1) - returns).mean().item()


# ------------------------------------------------------------------------------------ the optimum of a known system


@pytest.mark.parametrize("horizon", [1, 3, 5])
def test_first_action_is_that_of_the_riccati_gain(horizon: int) -> None:
    """With the Riccati cost at its end a plan of any horizon starts with the action of the Riccati gain."""
    best = LinearQuadratic(gain=K).pi(STARTS)
    assert best.abs().max() < 0.95, "the bounds must not matter here"
    assert best.abs().max() > 0.3, "the answer must not be zero"
    torch.testing.assert_close(plan(LinearQuadratic(), STARTS, horizon).mean[0], best, atol=0.03, rtol=0)


def test_longer_horizons_need_no_terminal_value() -> None:
    """Without a value at its end a plan comes the closer to the Riccati action the longer it is."""
    blind = LinearQuadratic(terminal=0 * P)
    best = LinearQuadratic(gain=K).pi(STARTS)
    errors = [
        (plan(blind, STARTS, horizon, iterations=20).mean[0] - best).abs().max().item() for horizon in (1, 2, 4, 12)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3
    assert errors[-1] < 0.06


def test_actions_at_the_bounds() -> None:
    """Where the Riccati action lies outside of [-1, 1], the plan takes the bound."""
    far = torch.tensor([[8.0, 8.0], [-8.0, -8.0]])
    torch.testing.assert_close(
        plan(LinearQuadratic(), far, 2).mean[0], torch.tensor([[-1.0], [1.0]]), atol=0.01, rtol=0
    )


def test_more_work_makes_better_plans() -> None:
    """Neither more iterations nor more samples lower the return of the planned actions on a smooth problem."""
    by_iterations = [regret(STARTS, plan(LinearQuadratic(), STARTS, 4, iterations=n).mean) for n in (1, 2, 4, 8)]
    by_samples = [
        regret(STARTS, plan(LinearQuadratic(), STARTS, 4, samples=n, elites=n // 8).mean) for n in (16, 64, 256)
    ]
    for regrets in (by_iterations, by_samples):
        assert regrets == sorted(regrets, reverse=True)
        assert regrets[-1] < regrets[0] / 2


def test_a_warm_start_saves_work() -> None:
    """One iteration from the plan before, shifted by the decision made, is better than one from nothing."""
    before = plan(LinearQuadratic(), STARTS, 5).mean
    z = LinearQuadratic().next(STARTS, before[0])
    config = dataclasses.replace(SEARCH, samples=64, elites=8, iterations=1, max_std=0.1)
    noise = draw_noise(torch.Generator().manual_seed(1), config=config, horizon=5, batch=len(z), action_dim=1)
    warm, cold = (
        mppi(LinearQuadratic(), z, mean, noise, config=config, discount=DISCOUNT, min_std=0.05).mean
        for mean in (shift(before), torch.zeros_like(before))
    )
    assert regret(z, warm) < regret(z, cold) / 3


def test_proposals_of_a_good_policy_win() -> None:
    """Where the policy is optimal, a few of its plans make a better plan than many random ones."""
    model = LinearQuadratic(gain=K)
    little = {"samples": 64, "elites": 4, "iterations": 1, "momentum": 0.0, "policy_std": 0.0}
    alone = plan(model, STARTS, 5, policy_trajectories=0, **little)
    helped = plan(model, STARTS, 5, policy_trajectories=4, **little)
    assert regret(STARTS, helped.mean) < regret(STARTS, alone.mean) / 3
    torch.testing.assert_close(helped.mean[0], model.pi(STARTS))


# -------------------------------------------------------------------------------------------------- what a plan is


@pytest.mark.parametrize("terminates", [False, True])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_batched_is_single(
    make_model: MakeModel, make_config: Callable[..., Any], lanes: int, terminates: bool
) -> None:
    """Plans made together are those made one by one from their share of the noise."""
    model, config = make_model(terminates=terminates), make_config().planner
    z, mean = torch.randn(lanes, 6), torch.rand(3, lanes, 2) - 0.5
    noise = draw_noise(torch.Generator().manual_seed(0), config=config, horizon=3, batch=lanes, action_dim=2)
    settings = {"config": config, "discount": 0.9, "min_std": 0.1}
    together = mppi(model, z, mean, noise, **settings)
    for lane in range(lanes):
        one = slice(lane, lane + 1)
        share = PlanNoise(noise.samples[:, :, one], noise.policy[:, one])
        alone = mppi(model, z[one], mean[:, one], share, **settings)
        torch.testing.assert_close(alone.mean, together.mean[:, one])
        torch.testing.assert_close(alone.std, together.std[:, one])
        torch.testing.assert_close(alone.elites, together.elites[:, one])
        torch.testing.assert_close(alone.weights, together.weights[one])
        torch.testing.assert_close(alone.value, together.value[one])


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    horizon=st.integers(1, 4),
    size=st.floats(0.1, 100),
    min_std=st.floats(0.0, 0.3),
    max_std=st.floats(0.3, 2.0),
    temperature=st.floats(0, 50),
)
def test_plans_stay_inside(
    make_model: MakeModel, seed: int, horizon: int, size: float, min_std: float, max_std: float, temperature: float
) -> None:
    """Every action considered is in [-1, 1], deviations stay between their limits and weights sum to one."""
    torch.manual_seed(seed)
    model = make_model(terminates=bool(seed % 2))
    config = PlannerConfig(
        samples=16, policy_trajectories=3, elites=6, iterations=2, temperature=temperature, max_std=max_std
    )
    noise = draw_noise(torch.Generator().manual_seed(seed), config=config, horizon=horizon, batch=2, action_dim=2)
    valued: list[Tensor] = []

    def evaluate(model: WorldModel, z: Tensor, actions: Tensor, *, discount: float) -> Tensor:
        valued.append(actions)
        return size * imagine(model, z, actions, discount=discount)

    mean = torch.rand(horizon, 2, 2) * 2 - 1
    settings = {"config": config, "discount": 0.99, "min_std": min_std, "evaluate": evaluate}
    found = mppi(model, size * torch.randn(2, 6), mean, noise, **settings)
    assert all(actions.abs().max() <= 1 for actions in (*valued, found.elites, found.mean))
    assert min_std - 1e-6 <= found.std.min() and found.std.max() <= max_std + 1e-6
    assert found.weights.min() >= 0
    torch.testing.assert_close(found.weights.sum(-1), torch.ones(2))
    assert [tuple(part.shape) for part in found] == [(horizon, 2, 2), (horizon, 2, 2), (horizon, 2, 6, 2), (2, 6), (2,)]


def test_iterations_value_what_they_draw(make_model: MakeModel, make_config: Callable[..., Any]) -> None:
    """Samples lie at the mean plus the deviation times their draw, bounded; the function that is given values them."""
    model, config = make_model(), make_config().planner
    noise = draw_noise(torch.Generator().manual_seed(0), config=config, horizon=3, batch=2, action_dim=2)
    valued: list[Tensor] = []

    def evaluate(model: WorldModel, z: Tensor, actions: Tensor, *, discount: float) -> Tensor:
        valued.append(actions)
        return actions.sum((0, 3))

    settings = {"discount": 0.9, "min_std": 0.1, "evaluate": evaluate}
    z, mean = torch.randn(2, 6), torch.rand(3, 2, 2) - 0.5
    mppi(model, z, mean, noise, config=config, **settings)
    once = mppi(model, z, mean, PlanNoise(noise.samples[:1], noise.policy), config=config, **settings)
    assert len(valued) == config.iterations + 1 == 3
    for found, middle, deviation, draws in zip(
        valued, (mean, once.mean), (torch.full_like(mean, config.max_std), once.std), noise.samples, strict=False
    ):
        torch.testing.assert_close(found, (middle[:, :, None] + deviation[:, :, None] * draws).clamp(-1, 1))


def test_noise_is_all_the_randomness(make_model: MakeModel, make_config: Callable[..., Any]) -> None:
    """The same noise gives the same plan bit for bit, other noise another one, and no global generator is touched."""
    model, config = make_model(), make_config().planner
    z, mean, before = torch.randn(2, 6), torch.zeros(3, 2, 2), torch.get_rng_state()

    def mean_from(seed: int) -> Tensor:
        noise = draw_noise(torch.Generator().manual_seed(seed), config=config, horizon=3, batch=2, action_dim=2)
        return mppi(model, z, mean, noise, config=config, discount=0.9, min_std=0.1).mean

    assert torch.equal(mean_from(0), mean_from(0))
    assert not torch.equal(mean_from(0), mean_from(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_standard_normal() -> None:
    """Noise has one standard normal number for each action of each sample of each iteration and of each policy plan."""
    config = PlannerConfig(samples=100, policy_trajectories=50, iterations=4)
    noise = draw_noise(torch.Generator().manual_seed(0), config=config, horizon=5, batch=2, action_dim=3)
    assert noise.samples.shape == (4, 5, 2, 100, 3) and noise.policy.shape == (5, 2, 50, 3)
    for draws in noise:
        assert abs(draws.mean()) < 0.1 and abs(draws.std() - 1) < 0.1
        assert len(draws.unique()) > 0.99 * draws.numel(), "no draw is used twice"


@pytest.mark.parametrize("horizon", [1, 2])
def test_a_shorter_horizon_is_a_shorter_plan(
    make_model: MakeModel, make_config: Callable[..., Any], horizon: int
) -> None:
    """The first steps of a previous plan start a plan of that many steps, the setting for the full horizon aside."""
    model, mean = make_model(), torch.rand(3, 2, 2) - 0.5
    plans = []
    for config in (make_config().planner, make_config(planner={"horizon": horizon}).planner):
        noise = draw_noise(torch.Generator().manual_seed(0), config=config, horizon=horizon, batch=2, action_dim=2)
        plans.append(mppi(model, torch.ones(2, 6), mean[:horizon], noise, config=config, discount=0.9, min_std=0.1))
    assert plans[0].mean.shape == (horizon, 2, 2)
    assert torch.equal(plans[0].mean, plans[1].mean)


def test_shift_is_one_decision_later() -> None:
    """A shifted plan starts with the second action, and its last one is zero."""
    mean = torch.arange(1.0, 7.0).reshape(3, 2, 1)
    assert torch.equal(shift(mean), torch.tensor([[3.0, 4.0], [5.0, 6.0], [0.0, 0.0]])[..., None])
    assert not shift(mean[:1]).any()


# ------------------------------------------------------------------------------------------ refitting to the elites


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), elites=st.integers(1, 12), momentum=st.floats(0, 1), temperature=st.floats(0, 5))
def test_refit_by_hand(seed: int, elites: int, momentum: float, temperature: float) -> None:
    """Elites are the best-valued plans; mean and deviation are weighted by exp(temperature x value)."""
    rng = np.random.default_rng(seed)
    mean, actions, values = rng.uniform(-1, 1, (2, 3, 2)), rng.uniform(-1, 1, (2, 3, 12, 2)), rng.normal(size=(3, 12))
    config = PlannerConfig(elites=elites, momentum=momentum, temperature=temperature)
    tensors = (torch.tensor(array, dtype=torch.float32) for array in (mean, actions, values))
    found = refit(*tensors, config=config, min_std=0.2)
    for lane in range(3):
        best = np.argsort(-values[lane])[:elites]
        weights = np.exp(temperature * (values[lane, best] - values[lane].max()))
        weights /= weights.sum()
        fitted = sum(w * actions[:, lane, i] for w, i in zip(weights, best, strict=True))
        variance = sum(w * (actions[:, lane, i] - fitted) ** 2 for w, i in zip(weights, best, strict=True))
        for part, expected in {
            "elites": actions[:, lane, best],
            "mean": momentum * mean[:, lane] + (1 - momentum) * fitted,
            "std": np.clip(np.sqrt(variance), 0.2, 2.0),
        }.items():
            np.testing.assert_allclose(getattr(found, part)[:, lane], expected, atol=1e-4, err_msg=part)
        np.testing.assert_allclose(found.weights[lane], weights, atol=1e-5)
        np.testing.assert_allclose(found.value[lane], weights @ values[lane, best], atol=1e-4)


def test_returns_of_any_size_can_be_weighted() -> None:
    """Values in the thousands overflow no weight: the best plan takes all."""
    actions = torch.tensor([-1.0, 0.5, 1.0]).reshape(1, 1, 3, 1)
    values = torch.tensor([[-9000.0, 9000.0, 8000.0]])
    found = refit(torch.zeros(1, 1, 1), actions, values, config=PlannerConfig(elites=3, momentum=0.0), min_std=0.05)
    assert found.weights.tolist() == [[1.0, 0.0, 0.0]]
    assert found.mean.item() == 0.5


# ------------------------------------------------------------------------------------------------------- imagining


@pytest.mark.parametrize("terminates", [False, True])
def test_imagine_by_hand(make_model: MakeModel, terminates: bool) -> None:
    """A return is the discounted sum of rewards and of the final value, each times the chance of getting there."""
    model = make_model(terminates=terminates)
    z, actions = torch.randn(2, 6), torch.rand(3, 2, 4, 2) * 2 - 1
    found = imagine(model, z, actions, discount=0.9)
    for lane in range(2):
        for sample in range(4):
            latent, total, chance = z[lane], 0.0, 1.0
            for step in range(3):
                action = actions[step, lane, sample]
                total += chance * 0.9**step * model.reward(latent, action).item()
                latent = model.next(latent, action)
                if terminates:
                    chance *= 1 - torch.sigmoid(model.terminates(latent)).item()
            total += chance * 0.9**3 * model.value(latent, model.pi(latent)).item()
            assert found[lane, sample].item() == pytest.approx(total, rel=1e-4, abs=1e-5)


def test_nothing_is_earned_after_a_termination() -> None:
    """A plan through a certain termination earns the reward of that transition and nothing after it."""
    never, surely = -100.0, 100.0
    actions = torch.ones(3, 1, 1, 1)

    def value_of(*logits: float) -> float:
        model = Scripted(rewards=[1.0, 10.0, 100.0], logits=list(logits), value=1000.0)
        return imagine(model, torch.zeros(1, 1), actions, discount=0.5).item()

    assert value_of(never, never, never) == 1 + 5 + 25 + 125
    assert value_of(never, never, surely) == 1 + 5 + 25
    assert value_of(never, surely, never) == 1 + 5
    assert value_of(surely, never, never) == 1
    assert value_of(never, 0.0, never) == 1 + 5 + (25 + 125) / 2


def test_plans_avoid_a_termination() -> None:
    """The planner gives up reward now where taking it would end the episode."""

    class Cliff(Scripted):
        """Actions above zero pay and end the episode."""

        def next(self, z: Tensor, action: Tensor) -> Tensor:
            return z + action

        def reward(self, z: Tensor, action: Tensor) -> Tensor:
            return action.squeeze(-1)

        def terminates(self, z: Tensor) -> Tensor:
            return 1000 * (z.squeeze(-1) - 0.01)

    greedy, careful = (
        plan(Cliff(rewards=[], logits=[], value=value), torch.zeros(1, 1), 2).mean[0].item() for value in (0.0, 100.0)
    )
    assert greedy > 0.5
    assert careful < 0.05


# --------------------------------------------------------------------------------------------------- policy plans


def test_proposals_follow_the_policy(make_model: MakeModel, make_config: Callable[..., Any]) -> None:
    """A proposal takes in every step the policy's action for where the steps before led, and is valued as any plan."""
    model, config = make_model(), make_config(planner={"policy_std": 0.2}).planner
    z, noise = torch.randn(2, 6), torch.randn(3, 2, 4, 2)
    proposals = propose(model, z, noise, config=config, discount=0.9)
    torch.testing.assert_close(proposals.values, imagine(model, z, proposals.actions, discount=0.9))
    for lane in range(2):
        for index in range(4):
            latent = z[lane]
            for step in range(3):
                jitter = (0.2 * noise[step, lane, index]).clamp(-0.3, 0.3)
                action = (model.pi(latent) + jitter).clamp(-1, 1)
                torch.testing.assert_close(proposals.actions[step, lane, index], action)
                latent = model.next(latent, action)


def test_perturb_is_clipped_twice() -> None:
    """Noise is scaled, clipped at 0.3, and the sum is clipped to [-1, 1]."""
    action, noise = torch.tensor([0.0, 0.0, 0.0, 0.9, -0.9]), torch.tensor([1.0, 10.0, -10.0, 4.0, -10.0])
    found = perturb(action, noise, config=PlannerConfig(policy_std=0.05, policy_noise_clip=0.3))
    torch.testing.assert_close(found, torch.tensor([0.05, 0.3, -0.3, 1.0, -1.0]))


def test_the_bounds_let_the_gradient_through() -> None:
    """A perturbed action moves as its action does, inside the bounds as beyond them."""
    action = torch.tensor([0.0, 0.5, 0.9, -0.9], requires_grad=True)
    noise = torch.tensor([1.0, -10.0, 4.0, -10.0])
    perturb(action, noise, config=PlannerConfig(policy_std=0.05, policy_noise_clip=0.3)).sum().backward()
    assert action.grad is not None and action.grad.tolist() == [1, 1, 1, 1]


def test_plans_without_proposals(make_model: MakeModel, make_config: Callable[..., Any]) -> None:
    """A planner without policy trajectories plans with its samples alone."""
    model, config = make_model(), make_config(planner={"policy_trajectories": 0}).planner
    noise = draw_noise(torch.Generator().manual_seed(0), config=config, horizon=3, batch=2, action_dim=2)
    found = mppi(model, torch.zeros(2, 6), torch.zeros(3, 2, 2), noise, config=config, discount=0.9, min_std=0.1)
    assert torch.isfinite(found.mean).all()


# ----------------------------------------------------------------------------------------------------------- costs

WIDTHS = st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple)
SIZES = st.builds(
    ModelConfig,
    latent=st.integers(1, 9),
    encoder=WIDTHS,
    dynamics=WIDTHS,
    reward=WIDTHS,
    termination=WIDTHS,
    policy=WIDTHS,
    value=WIDTHS,
    value_heads=st.integers(1, 3),
)
PLANNERS = st.builds(
    PlannerConfig,
    horizon=st.integers(1, 4),
    samples=st.integers(4, 9),
    policy_trajectories=st.integers(0, 3),
    elites=st.just(3),
    iterations=st.integers(1, 3),
)


@settings(max_examples=8)
@given(sizes=SIZES, config=PLANNERS, terminates=st.booleans())
def test_planning_macs_are_those_counted(
    make_spec: MakeSpec, sizes: ModelConfig, config: PlannerConfig, terminates: bool
) -> None:
    """The multiply-adds said of each component are those that torch counts while a plan is made."""
    spec = make_spec(terminates=terminates)
    model = WorldModel(sizes, spec)
    noise = draw_noise(torch.Generator(), config=config, horizon=config.horizon, batch=1, action_dim=spec.action_dim)
    mean = torch.zeros(config.horizon, 1, spec.action_dim)
    counted = dict.fromkeys(model.components, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for name, part in model.components.items():
            # Two floating-point operations make a multiply-add. What a component costs is what it adds to the count.
            part.register_forward_pre_hook(partial(book, counted, name, counter, -0.5))
            part.register_forward_hook(partial(book, counted, name, counter, 0.5))
        mppi(model, model.encode(torch.zeros(1, 3)), mean, noise, config=config, discount=0.9, min_std=0.1)
    assert planning_macs(sizes, spec, config) == counted


def book(counted: dict[str, float], name: str, counter: FlopCounterMode, share: float, *_: Any) -> None:
    counted[name] += share * counter.get_total_flops()


def test_published_planning_cost(make_spec: MakeSpec) -> None:
    """On cartpole a plan of the reference costs 12.05 G multiply-adds; with all plans anew, as published, 12.6 G."""
    config, spec = preset("reference"), make_spec(5, 1)
    assert round(sum(planning_macs(config.model, spec, config.planner).values()) / 1e9, 2) == 12.05
    # Published: proposals are valued in all of the 6 iterations, and their rollout computes rewards that nobody reads.
    published = planning_macs(
        config.model, spec, dataclasses.replace(config.planner, samples=537, policy_trajectories=0)
    )
    for name, inputs, outputs in (("dynamics", 51, 50), ("reward", 51, 1), ("policy", 50, 1)):
        published[name] += 25 * 5 * (inputs * 512 + 512 * 512 + 512 * outputs)
    total = sum(published.values())
    assert round(total / 1e9, 1) == 12.6
    shares = {name: 100 * macs / total for name, macs in published.items()}
    assert shares == pytest.approx({"encoder": 0, "dynamics": 40, "reward": 37, "policy": 7, "value": 15}, abs=1)


# ---------------------------------------------------------------------------------------------------- smooth actions


@pytest.mark.parametrize("max_change", [0.05, 0.3])
def test_plans_are_smooth(make_model: MakeModel, max_change: float) -> None:
    """With a limit, all that is imagined, the elites, the plan itself and those of the policy keep it from the action
    before on, also where the previous plan does not.
    """
    model, before, seen = make_model(), torch.tensor([[0.9, -0.9], [0.0, 0.5]]), []
    config = PlannerConfig(samples=32, policy_trajectories=4, elites=8, iterations=3, max_change=max_change)
    noise = draw_noise(torch.Generator().manual_seed(0), config=config, horizon=4, batch=2, action_dim=2)

    def watched(model: WorldModel, z: Tensor, actions: Tensor, **settings: Any) -> Tensor:
        seen.append(actions)
        return imagine(model, z, actions, **settings)

    mean = 2 * torch.rand(4, 2, 2) - 1
    settings: dict[str, Any] = {"config": config, "discount": 0.9, "before": before}
    found = mppi(model, torch.randn(2, 6), mean, noise, min_std=0.5, evaluate=watched, **settings)
    seen += [found.elites, found.mean[:, :, None], propose(model, torch.randn(2, 6), noise.policy, **settings).actions]
    for actions in seen:
        whole = torch.cat([before[None, :, None].expand_as(actions[:1]), actions])
        assert whole.diff(dim=0).abs().max() <= max_change + 1e-6
        assert whole.abs().max() <= 1


def test_a_limit_beyond_the_range_changes_nothing(make_model: MakeModel) -> None:
    """A limit of the whole range plans the same bits as none."""
    model, z, mean = make_model(), torch.randn(2, 6), torch.zeros(3, 2, 2)
    config = PlannerConfig(samples=32, policy_trajectories=4, elites=8, iterations=3)
    noise = draw_noise(torch.Generator().manual_seed(0), config=config, horizon=3, batch=2, action_dim=2)
    free, wide = (
        mppi(model, z, mean, noise, config=each, discount=0.9, min_std=0.1)
        for each in (config, dataclasses.replace(config, max_change=2.0))
    )
    assert all(torch.equal(a, b) for a, b in zip(free, wide, strict=True))


def test_a_limit_needs_the_action_before(make_model: MakeModel) -> None:
    """Who proposes plans under a limit without the action before, as bundles do, is refused in one line."""
    config = PlannerConfig(max_change=0.1)
    with pytest.raises(ConfigError, match=r"--planner\.max-change limits the change from the action before"):
        propose(make_model(), torch.randn(1, 6), torch.zeros(3, 1, 4, 2), config=config, discount=0.9)

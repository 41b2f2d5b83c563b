"""Laws of the losses: what the paper's equations give in plain loops, and gradients only where they belong."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tdmpc.config import LossConfig, PlannerConfig
from tdmpc.losses import ModelLoss, Targets, model_loss, policy_loss, rollout, targets, temporal_weights
from tdmpc.spec import Batch
from tdmpc.world_model import WorldModel

MakeModel = Callable[..., WorldModel]
MakeBatch = Callable[..., Batch]

LOSS = LossConfig(
    discount=0.9, horizon=2, rho=0.5, consistency=2.0, reward=0.5, value=0.1, termination=0.7, consistency_width=6
)
PLANNER = PlannerConfig(policy_std=0.2, policy_noise_clip=0.3)
SCALE = 4.0

ENDS = [{}, {1: 0}, {0: 1}, {0: 0, 1: 1}]
"""No window terminates; the second in its first step, so that its second is masked; the first in its last; both."""


@pytest.fixture
def models(make_model: MakeModel) -> tuple[WorldModel, WorldModel]:
    """An online and a target network that differ, with a reward scale of 4."""
    online, target = make_model(terminates=True), make_model(terminates=True)
    for model in (online, target):
        model.grow_reward_scale(SCALE)
    return online, target


def losses(
    model: WorldModel, target: WorldModel, batch: Batch, noise: Tensor, config: LossConfig = LOSS
) -> tuple[Targets, ModelLoss]:
    goal = targets(model, target, batch, noise, loss=config, planner=PLANNER)
    return goal, model_loss(model, batch, goal, config=config)


def noisy_action(model: WorldModel, z: Tensor, noise: Tensor) -> Tensor:
    return (model.pi(z) + (0.2 * noise).clamp(-0.3, 0.3)).clamp(-1, 1)


def q_values(model: WorldModel, z: Tensor, action: Tensor) -> list[Tensor]:
    return list(model.q(z, action))


# ------------------------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_targets_by_hand(models: tuple[WorldModel, WorldModel], make_batch: MakeBatch, ends: dict[int, int]) -> None:
    """A value target is r + discount x min Q'(z', pi(z') + noise) at the online z', or r alone at a termination."""
    online, target = models
    batch, noise = make_batch(steps=2, size=2, ends=ends), torch.randn(2, 2, 2)
    goal = targets(online, target, batch, noise, loss=LOSS, planner=PLANNER)
    for step in range(2):
        for window in range(2):
            following = batch.observations[step + 1, window]
            z = online.encode(following)
            best = min(q_values(target, z, noisy_action(online, z, noise[step, window])))
            expected = batch.rewards[step, window] / SCALE
            if not batch.terminated[step, window]:
                expected = expected + 0.9 * best
            torch.testing.assert_close(goal.values[step, window], expected)
            torch.testing.assert_close(goal.latents[step, window], target.encode(following))


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_model_loss_by_hand(models: tuple[WorldModel, WorldModel], make_batch: MakeBatch, ends: dict[int, int]) -> None:
    """Losses and priorities are those of the equations: rho^t, weights, coefficients, 1/horizon, no masked step."""
    online, target = models
    batch = make_batch(steps=2, size=2, ends=ends)
    goal, found = losses(online, target, batch, torch.randn(2, 2, 2))
    total, parts = torch.zeros(()), dict.fromkeys(("consistency", "reward", "value", "termination"), torch.zeros(()))
    for window in range(2):
        z = online.encode(batch.observations[0, window])
        own, priority = dict.fromkeys(parts, torch.zeros(())), torch.zeros(())
        for step in range(2):
            action, over = batch.actions[step, window], bool(batch.terminated[step, window])
            reward, heads = online.reward(z, action), q_values(online, z, action)
            z = online.next(z, action)
            chance = torch.sigmoid(online.terminates(z))
            if batch.mask[step, window] == 0:
                continue
            y = goal.values[step, window]
            errors = {
                "consistency": ((z - goal.latents[step, window]) ** 2).mean(),
                "reward": (reward - batch.rewards[step, window] / SCALE) ** 2,
                "value": sum((q - y) ** 2 for q in heads),
                "termination": -torch.log(chance if over else 1 - chance),
            }
            own = {name: own[name] + 0.5**step * error for name, error in errors.items()}
            priority = priority + 0.5**step * sum(abs(q - y) for q in heads)
        loss = 2 * own["consistency"] + 0.5 * own["reward"] + 0.1 * own["value"] + 0.7 * own["termination"]
        total = total + batch.weights[window] * loss / 2 / LOSS.horizon
        parts = {name: parts[name] + own[name] / 2 for name in parts}
        torch.testing.assert_close(found.priorities[window], priority.detach())
    torch.testing.assert_close(found.total, total)
    assert found.parts.keys() == parts.keys()
    for name, part in parts.items():
        torch.testing.assert_close(found.parts[name], part.detach())


@pytest.mark.parametrize("ends", ENDS, ids=str)
def test_policy_loss_by_hand(
    models: tuple[WorldModel, WorldModel], make_batch: MakeBatch, ends: dict[int, int]
) -> None:
    """The policy minimises -rho^t x min Q(z_t, pi(z_t) + noise) over the T+1 latents where the episode goes on."""
    online, _ = models
    batch, noise = make_batch(steps=2, size=2, ends=ends), torch.randn(3, 2, 2)
    latents = rollout(online, batch).detach()
    found = policy_loss(online, latents, batch.alive, noise, loss=LOSS, planner=PLANNER)
    expected = torch.zeros(())
    for window in range(2):
        for step in range(3):
            if step and (batch.mask[step - 1, window] == 0 or batch.terminated[step - 1, window]):
                continue
            z = latents[step, window]
            expected = expected - 0.5**step * min(q_values(online, z, noisy_action(online, z, noise[step, window]))) / 2
    torch.testing.assert_close(found, expected)


def test_rollout_is_open_loop(models: tuple[WorldModel, WorldModel], make_batch: MakeBatch) -> None:
    """The rollout sees the first observation only, and then the actions."""
    online, _ = models
    batch = make_batch(steps=2, size=2)
    z0 = online.encode(batch.observations[0])
    z1 = online.next(z0, batch.actions[0])
    expected = torch.stack([z0, z1, online.next(z1, batch.actions[1])])
    torch.testing.assert_close(rollout(online, batch), expected)
    elsewhere = batch._replace(observations=torch.cat([batch.observations[:1], torch.randn(2, 2, 3)]))
    assert torch.equal(rollout(online, elsewhere), rollout(online, batch))


def test_temporal_weights(make_batch: MakeBatch) -> None:
    """Step t weighs rho^t, up to and with the termination, and nothing behind it."""
    batch = make_batch(steps=3, size=3, ends={1: 1, 2: 0})
    expected = [[1.0, 1.0, 1.0], [0.5, 0.5, 0.0], [0.25, 0.0, 0.0]]
    assert temporal_weights(batch, config=LOSS).tolist() == expected


# --------------------------------------------------------------------------------------------- what does not count


def test_what_lies_behind_a_termination_does_not_count(
    models: tuple[WorldModel, WorldModel], make_batch: MakeBatch
) -> None:
    """Whatever stands behind a termination changes no loss, no priority, no gradient."""
    online, target = models
    batch, noise = make_batch(steps=3, size=2, ends={0: 0}), torch.randn(3, 2, 2)
    garbage = batch._replace(
        observations=batch.observations.index_put((torch.tensor([2, 3]), torch.tensor([0, 0])), torch.tensor(9.0)),
        actions=batch.actions.index_put((torch.tensor([1, 2]), torch.tensor([0, 0])), torch.tensor(0.7)),
        rewards=batch.rewards.index_put((torch.tensor([1, 2]), torch.tensor([0, 0])), torch.tensor(-50.0)),
    )
    results = []
    for data in (batch, garbage):
        _, found = losses(online, target, data, noise)
        gradients = torch.autograd.grad(found.total, list(online.parameters()), allow_unused=True)
        numbers = (found.total, found.priorities, *found.parts.values())
        results.append([*numbers, *(gradient for gradient in gradients if gradient is not None)])
    for clean, dirty in zip(*results, strict=True):
        torch.testing.assert_close(clean, dirty)


def test_targets_ignore_the_future_of_a_termination(
    models: tuple[WorldModel, WorldModel], make_batch: MakeBatch
) -> None:
    """Where the episode ended for good, the value target does not depend on the observation there."""
    online, target = models
    batch, noise = make_batch(steps=2, size=2, ends={0: 1}), torch.randn(2, 2, 2)
    moved = batch._replace(observations=batch.observations + torch.tensor([0.0, 0, 5]).reshape(3, 1, 1))
    first, second = (targets(online, target, data, noise, loss=LOSS, planner=PLANNER).values for data in (batch, moved))
    changed = (first != second).tolist()
    assert changed == [[False, False], [False, True]]


def test_without_terminations_there_is_no_termination_loss(make_model: MakeModel, make_batch: MakeBatch) -> None:
    """A model without a termination head has the three published losses."""
    online, target = make_model(), make_model()
    _, found = losses(online, target, make_batch(steps=2, size=2), torch.randn(2, 2, 2))
    assert list(found.parts) == ["consistency", "reward", "value"]


# ----------------------------------------------------------------------------------------------------- proportions


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"horizon": 4}, {"consistency": 0.5, "reward": 0.5, "value": 0.5, "termination": 0.5}),
        ({"consistency": 6.0}, {"consistency": 3.0}),
        ({"consistency_width": 3}, {"consistency": 2.0}),
        ({"consistency_width": None}, {}),  # today's width, which is the same
        ({"reward": 1.5}, {"reward": 3.0}),
        ({"value": 0.3}, {"value": 3.0}),
        ({"termination": 2.1}, {"termination": 3.0}),
    ],
    ids=str,
)
def test_settings_weigh_their_part(
    models: tuple[WorldModel, WorldModel], make_batch: MakeBatch, change: dict[str, Any], factor: dict[str, float]
) -> None:
    """A coefficient multiplies its part of the total alone; the horizon and the latent width divide."""
    online, target = models
    batch, noise = make_batch(steps=2, size=2)._replace(weights=torch.ones(2)), torch.randn(2, 2, 2)
    _, found = losses(online, target, batch, noise)
    _, changed = losses(online, target, batch, noise, dataclasses.replace(LOSS, **change))
    share = {name: getattr(LOSS, name) * part / LOSS.horizon for name, part in found.parts.items()}
    torch.testing.assert_close(found.total, sum(share.values()))
    torch.testing.assert_close(changed.total, sum(factor.get(name, 1) * part for name, part in share.items()))


def test_windows_count_by_their_importance(models: tuple[WorldModel, WorldModel], make_batch: MakeBatch) -> None:
    """The total is the mean over windows of weight times loss; priorities and the parts told do not use the weights."""
    online, target = models
    batch, noise = make_batch(steps=2, size=2), torch.randn(2, 2, 2)

    def weighted(*weights: float) -> ModelLoss:
        return losses(online, target, batch._replace(weights=torch.tensor(weights)), noise)[1]

    first, second, both = weighted(1.0, 0.0), weighted(0.0, 1.0), weighted(0.3, 1.0)
    torch.testing.assert_close(both.total, 0.3 * first.total + second.total)
    assert torch.equal(both.priorities, first.priorities)
    assert both.parts == first.parts


def test_a_monstrous_window_is_capped(models: tuple[WorldModel, WorldModel], make_batch: MakeBatch) -> None:
    """A part of a window's loss beyond 10,000 counts as that, as published, and pulls at nothing; so its priority."""
    online, target = models
    batch, noise = make_batch(steps=2, size=2), torch.randn(2, 2, 2)
    monstrous = batch._replace(
        rewards=batch.rewards.index_put((torch.tensor([0]), torch.tensor([0])), torch.tensor(1e6))
    )
    weights = torch.tensor([1.0, 0.0])
    _, found = losses(online, target, monstrous._replace(weights=weights), noise)
    gradients = torch.autograd.grad(found.total, list(online.components["reward"].parameters()))
    assert not any(gradient.any() for gradient in gradients)
    assert found.priorities[0] == 1e4
    assert found.total.item() == pytest.approx((0.5 + 0.1) * 1e4 / 2 / LOSS.horizon, rel=0.01)


# ------------------------------------------------------------------------------------------------------- gradients


def test_gradients_stay_in_the_world_model(models: tuple[WorldModel, WorldModel], make_batch: MakeBatch) -> None:
    """The world model's loss reaches all of the online model but the policy, and nothing of the target network."""
    online, target = models
    target.requires_grad_(True)
    goal, found = losses(online, target, make_batch(steps=2, size=2), torch.randn(2, 2, 2))
    found.total.backward()
    reached = {name for name, part in online.components.items() if any(p.grad is not None for p in part.parameters())}
    assert reached == {"encoder", "dynamics", "reward", "value", "termination"}
    assert all(p.grad is None for p in target.parameters())
    assert not any(tensor.requires_grad for tensor in (*goal, found.latents, found.priorities, *found.parts.values()))


def test_a_late_reward_teaches_the_encoder(models: tuple[WorldModel, WorldModel], make_batch: MakeBatch) -> None:
    """Gradients run back through the whole rollout: the last reward alone shapes the encoder too."""
    online, target = models
    alone = dataclasses.replace(LOSS, consistency=0.0, value=0.0, termination=0.0)
    last = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    batch = make_batch(steps=3, size=2)._replace(mask=last)
    losses(online, target, batch, torch.randn(3, 2, 2), alone)[1].total.backward()
    for name in ("encoder", "dynamics", "reward"):
        assert all(p.grad is not None and p.grad.any() for p in online.components[name].parameters())


def test_the_policy_learns_from_all_latents_and_moves_none(
    models: tuple[WorldModel, WorldModel], make_batch: MakeBatch
) -> None:
    """The policy's loss reaches the policy and the value it climbs, neither encoder nor dynamics nor reward."""
    online, target = models
    batch = make_batch(steps=2, size=2)
    _, found = losses(online, target, batch, torch.randn(2, 2, 2))
    policy_loss(online, found.latents, batch.alive, torch.zeros(3, 2, 2), loss=LOSS, planner=PLANNER).backward()
    reached = {name for name, part in online.components.items() if any(p.grad is not None for p in part.parameters())}
    assert reached == {"policy", "value"}


def test_a_policy_at_its_bounds_can_come_back(models: tuple[WorldModel, WorldModel]) -> None:
    """The clip to [-1, 1] lets the gradient through, as published: it is that of the value at the clipped action."""
    online, _ = models
    last = online.components["policy"][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([2.0, -2.0]))
    # tanh(2) is 0.96: noise of 0.2 away from zero is clipped.
    noise, latents = torch.tensor([1.0, -1.0]).expand(3, 2, 2), torch.randn(3, 2, 6)
    policy_loss(online, latents, torch.ones(2, 2), noise, loss=LOSS, planner=PLANNER).backward()
    action = torch.tensor([1.0, -1.0]).expand(3, 2, 2).clone().requires_grad_()
    rho = torch.tensor([1.0, 0.5, 0.25])[:, None]
    (-rho * online.value(latents, action)).mean(1).sum().backward()
    assert last.bias.grad is not None and action.grad is not None
    slope = 1 - torch.tanh(last.bias.detach()) ** 2
    torch.testing.assert_close(last.bias.grad, slope * action.grad.sum((0, 1)))

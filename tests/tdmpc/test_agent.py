"""Laws of the agent: updates repeat and resume bit for bit, no unit of reward matters, faults change nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tdmpc.actor import Actor
from tdmpc.agent import NonFiniteError
from tdmpc.device import resolve_precision
from tdmpc.presets import preset
from tdmpc.spec import Batch
from tests.tdmpc.lives import MakeAgent, MakeBatch, State, copied, differing, identical, live

ENDS = {0: 0, 3: 1, 5: 2}


# ------------------------------------------------------------------------------------------- repeating and resuming


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_seed_is_a_life(make_agent: MakeAgent, make_batch: MakeBatch, precision: str) -> None:
    """Agents of the same seed act and learn the same bit for bit, those of another seed do not."""
    batches = [make_batch(ends=ENDS) for _ in range(4)]
    agents = [make_agent(seed=seed, precision=precision) for seed in (0, 0, 1)]
    first, same, other = (live(agent, batches, Actor(agent, lanes=2, seed=5)) for agent in agents)
    assert identical(first, same)
    assert differing(agents[0].state(), agents[1].state()) == []
    assert not identical(first, other)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_resumed_is_uninterrupted(make_agent: MakeAgent, make_batch: MakeBatch, precision: str) -> None:
    """An agent and an actor that take over a saved state go on bit for bit as those that it was taken from."""
    before, after = ([make_batch(ends=ENDS, scale=scale) for _ in range(3)] for scale in (1.0, 7.0))
    agent, resumed = make_agent(seed=0, precision=precision), make_agent(seed=1, precision=precision)
    actor, resumed_actor = Actor(agent, lanes=2, seed=5), Actor(resumed, lanes=2, seed=6)
    live(agent, before, actor)
    resumed.load_state(copied(agent.state()))
    resumed_actor.load_state(copied(actor.state()))
    # Before anything is observed anew: what is saved has to do.
    first, second = (one.act(after[0].observations[0, :2], step=0, explore=True) for one in (actor, resumed_actor))
    assert torch.equal(first, second)
    assert identical(live(agent, after, actor), live(resumed, after, resumed_actor))
    assert differing(agent.state(), resumed.state()) == []
    assert differing(actor.state(), resumed_actor.state()) == []


def test_a_state_holds_all(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """A state has both networks, units, statistics, the moments of every parameter, the generator and the counters."""
    agent = make_agent()
    live(agent, [make_batch()])
    parameters = [name for name, _ in agent.model.named_parameters()]
    expected = {f"{network}/{name}" for network in ("model", "target") for name in agent.model.state_dict()}
    expected |= {f"optimizer/{name}/{moment}" for name in parameters for moment in ("step", "exp_avg", "exp_avg_sq")}
    expected |= {"moments/count", "moments/mean", "moments/squares", "generator", "updates", "reward_counts"}
    assert agent.state().keys() == expected


def test_agents_share_nothing(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """What an agent does after it took over another's state leaves the other as it was."""
    agent, other = make_agent(seed=0), make_agent(seed=1)
    live(agent, [make_batch()])
    before = copied(agent.state())
    other.load_state(agent.state())
    live(other, [make_batch()])
    assert differing(agent.state(), before) == []


def test_going_back_to_the_start(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """The state of an agent that has not learnt yet makes an experienced one new again, optimisers included."""
    agent, batch = make_agent(), make_batch()
    start = copied(agent.state())
    live(agent, [batch])
    agent.load_state(copied(start))
    assert differing(agent.state(), start) == []


def test_a_stream_of_another_device_starts_anew(make_agent: MakeAgent) -> None:
    """A random stream of another kind of device, whose state has another size, keeps no state from loading."""
    agent = make_agent()
    expected = agent.generator.get_state()
    agent.load_state(copied(agent.state()) | {"generator": torch.zeros(16, dtype=torch.uint8)})
    assert torch.equal(agent.generator.get_state(), expected)


# --------------------------------------------------------------------------------------------------------- learning


def test_losses_fall(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """Fifty updates on one batch lower every loss of the world model."""
    agent, batch = make_agent(terminates=True, loss={"learning_rate": 1e-2}), make_batch(ends=ENDS)
    updates = [agent.update(batch).metrics for _ in range(50)]
    losses = [f"loss/{name}" for name in ("total", "consistency", "reward", "value", "termination")]
    assert {name for name in losses if not updates[-1][name] < 0.7 * updates[0][name]} == set()
    assert all(torch.isfinite(value) for metrics in updates for value in metrics.values())


def test_the_policy_climbs_the_value(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """Updates make the policy's actions worth more to the value that it has then."""
    agent, batch = make_agent(), make_batch()
    live(agent, [batch] * 20)
    before = copied(agent.model.components["policy"].state_dict())
    live(agent, [batch] * 20)
    z = agent.model.encode(batch.observations[0])

    def worth() -> float:
        with torch.no_grad():
            return agent.model.value(z, agent.model.pi(z)).mean().item()

    now = worth()
    agent.model.components["policy"].load_state_dict(before)
    assert now > worth() + 1e-3


def test_target_follows_every_second_update(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """The target network stays for an update and moves a share of tau towards the online network in the next."""
    agent, batch = make_agent(loss={"target_rate": 0.3, "target_period": 2}), make_batch()
    for update in range(1, 5):
        before = [parameter.clone() for parameter in agent.target.parameters()]
        agent.update(batch)
        share = 0.3 if update % 2 == 0 else 0.0
        for old, new, online in zip(before, agent.target.parameters(), agent.model.parameters(), strict=True):
            torch.testing.assert_close(new, old + share * (online - old))
            assert share or torch.equal(new, old)
    assert not any(parameter.requires_grad for parameter in agent.target.parameters())


def test_every_parameter_has_one_optimiser(make_agent: MakeAgent) -> None:
    """Together the optimisers hold every parameter of the model once, the policy's in one of its own."""
    agent = make_agent()
    held = [
        {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        for optimizer in (agent.model_optimizer, agent.policy_optimizer)
    ]
    policy = {id(parameter) for parameter in agent.model.components["policy"].parameters()}
    assert held == [{id(parameter) for parameter in agent.model.parameters()} - policy, policy]


def test_each_gradient_is_of_its_own_loss(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """After an update every parameter's gradient is that of the loss that trains it: the policy's loss adds nothing."""
    agents, batch = [make_agent(loss={"gradient_clip": 1e9}) for _ in range(2)], make_batch()
    live(agents[0], [make_batch()] * 3)
    agents[1].load_state(copied(agents[0].state()))
    eager = agents[1]._policy_loss
    agents[1]._policy_loss = lambda *args, **settings: 3 * eager(*args, **settings)
    for agent in agents:
        agent.update(batch)
    for (name, one), other in zip(agents[0].model.named_parameters(), agents[1].model.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(other.grad, (3 if "policy" in name else 1) * one.grad, msg=name)


def test_gradients_are_clipped(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """Each optimiser's gradients together are no longer than the clip; the norm that is told is the one before it."""
    agent = make_agent(loss={"gradient_clip": 1e-3})
    live(agent, [make_batch(scale=10.0)] * 2)
    metrics = agent.update(make_batch(scale=10.0)).metrics
    for name, parameters in (("model", agent.model_parameters), ("policy", agent.policy_parameters)):
        norm = sum(p.grad.square().sum() for p in parameters.values() if p.grad is not None) ** 0.5
        assert norm == pytest.approx(1e-3, rel=1e-2)
        assert metrics[f"grad_norm/{name}"] > 2e-3


def test_every_policy_action_has_its_own_noise(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """Targets and policy loss perturb each action with a new draw, in this update and the next."""
    agent, batch, drawn = make_agent(), make_batch(), []
    eager_targets, eager_policy = agent._targets, agent._policy_loss

    def spy_targets(model: nn.Module, target: nn.Module, batch: Batch, noise: Tensor, **settings: Any) -> Any:
        drawn.append(noise)
        return eager_targets(model, target, batch, noise, **settings)

    def spy_policy(model: nn.Module, latents: Tensor, mask: Tensor, noise: Tensor, **settings: Any) -> Tensor:
        drawn.append(noise)
        return eager_policy(model, latents, mask, noise, **settings)

    agent._targets, agent._policy_loss = spy_targets, spy_policy
    for _ in range(2):
        agent.update(batch)
    assert [len(noise) for noise in drawn] == [3, 4, 3, 4]
    draws = torch.cat([noise.flatten() for noise in drawn])
    assert len(draws.unique()) == len(draws)


def test_an_update_tells(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """An update tells all losses, both gradient norms and a priority for each window, none holding on to its graph."""
    update = make_agent(terminates=True).update(make_batch())
    losses = ("total", "consistency", "reward", "value", "termination", "policy")
    assert update.metrics.keys() == {*(f"loss/{name}" for name in losses), "grad_norm/model", "grad_norm/policy"}
    assert update.priorities.shape == (8,)
    assert not any(tensor.requires_grad for tensor in (update.priorities, *update.metrics.values()))


# ----------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("field", "named"),
    [
        ("rewards", "the reward, value loss"),
        ("observations", "the consistency, value loss"),
        ("actions", "the consistency, reward, value, termination loss"),
    ],
)
def test_a_fault_is_named_and_changes_nothing(
    make_agent: MakeAgent, make_batch: MakeBatch, field: str, named: str, number: float
) -> None:
    """A number in a batch that is not finite is told by the losses it spoils; weights and optimisers stay."""
    # Without normalisation: standardised observations are clipped, infinite ones too.
    agent, batch = make_agent(model={"normalize_observations": False}), make_batch()
    agent.update(batch)
    before = copied(agent.state())
    getattr(batch, field)[1, 2] = number
    with pytest.raises(NonFiniteError, match=f"{named} is not finite at update 1"):
        agent.update(batch)
    assert differing(agent.state(), before) in ([], ["generator"])


@pytest.mark.parametrize(
    "number",
    [
        float("inf"),
        float("nan"),
    ],
)
def test_a_gradient_is_blamed_on_its_component(make_agent: MakeAgent, make_batch: MakeBatch, number: float) -> None:
    """Where the losses are finite and a gradient is not, the component it belongs to is named, and no other."""
    agent = make_agent()
    agent.update(make_batch())
    before = copied(agent.state())
    agent.model.components["dynamics"][0].weight.register_hook(lambda gradient: gradient * number)
    with pytest.raises(NonFiniteError, match="the gradient of dynamics is not finite at update 1"):
        agent.update(make_batch())
    assert differing(agent.state(), before) == ["generator"]


def test_a_fault_of_the_policy_leaves_the_policy(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """Where only the policy's loss is not finite, it is named; the policy, its moments and the target stay."""
    agent = make_agent()
    live(agent, [make_batch()])
    before, eager = copied(agent.state()), agent._policy_loss
    agent._policy_loss = lambda *args, **settings: float("nan") * eager(*args, **settings)
    with pytest.raises(NonFiniteError, match="the policy loss is not finite at update 1"):
        agent.update(make_batch())
    changed = differing(agent.state(), before)
    assert not [name for name in changed if ".policy." in name or name.startswith("target/") or name == "updates"]


def test_a_plan_that_is_not_finite_is_refused(make_agent: MakeAgent) -> None:
    """No action is taken from a plan that is not finite; the agent step is told."""
    actor = Actor(make_agent(), lanes=2, seed=0)
    observations = torch.tensor([[0.0, 0, 0], [0, float("nan"), 0]])
    with pytest.raises(NonFiniteError, match="plan is not finite at agent step 7"):
        actor.act(observations, step=7, explore=False)


# ------------------------------------------------------------------------------------------------------------ units


@pytest.mark.parametrize("power", [-7, 1, 12])
def test_the_unit_of_reward_does_not_matter(make_agent: MakeAgent, make_batch: MakeBatch, power: int) -> None:
    """With all rewards times a power of two, every action is the same bit for bit, growing scales included."""
    # The first rewards are a hundred times smaller than the last: the scale grows while the agent learns.
    batches = [make_batch(ends=ENDS, scale=scale) for scale in (0.03, 0.1, 0.5, 0.4, 3.0, 2.0)]
    agents = [make_agent(seed=0), make_agent(seed=0)]
    actors = [Actor(agent, lanes=2, seed=5) for agent in agents]
    factors = (1.0, 2.0**power)
    records = [live(a, batches, actor, reward=f) for a, actor, f in zip(agents, actors, factors, strict=True)]
    assert identical(*records)
    assert agents[0].model.reward_scale * 2.0**power == agents[1].model.reward_scale
    assert 1.0 < agents[0].model.reward_scale <= 4.0


def test_the_reference_knows_one_unit(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """With the model settings of preset reference, no unit is learnt, and other rewards give other actions."""
    reference = preset("reference").model
    off = {name: getattr(reference, name) for name in ("scale_rewards", "normalize_observations")}
    batches = [make_batch(ends=ENDS) for _ in range(4)]
    agents = [make_agent(seed=0, model=off), make_agent(seed=0, model=off)]
    actors = [Actor(agent, lanes=2, seed=5) for agent in agents]
    records = [live(a, batches, actor, reward=f) for a, actor, f in zip(agents, actors, (1.0, 8.0), strict=True)]
    assert not identical(*records)
    for agent in agents:
        assert agent.model.reward_scale == 1
        assert not agent.model.observation_mean.any() and (agent.model.observation_std == 1).all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_units_reach_all_networks(make_agent: MakeAgent, make_batch: MakeBatch, precision: str) -> None:
    """Online, target and planning network always agree about the units of observations and rewards."""
    agent, data = make_agent(precision=precision), 3 + 2 * torch.randn(64, 3)
    agent.observe(data[:40], torch.linspace(0.1, -5.0, 40))
    agent.update(make_batch())
    agent.observe(data[40:], torch.full((24,), -9.0))
    for model in (agent.model, agent.target, agent.planning_model()):
        torch.testing.assert_close(model.observation_mean, data.mean(0))
        torch.testing.assert_close(model.observation_std, data.std(0, correction=0))
        assert model.reward_scale == 16


def test_growth_of_the_scale_is_told(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """Observing tells by what factor the reward scale has grown: one where it stays, or where it is not learned."""
    agent, fixed = make_agent(), make_agent(model={"scale_rewards": False})
    growths = []
    for reward in (5.0, -3.0, 30.0):
        growths.append(agent.observe(torch.zeros(1, 3), torch.tensor([reward])))
        agent.update(make_batch())
        assert fixed.observe(torch.zeros(1, 3), torch.tensor([reward])) == 1
    assert growths == [8, 1, 4]


@pytest.mark.parametrize("rewards", [[0.0, 0.0], [0.3, -0.1], [-1.0, 1.0]])
def test_the_scale_stays_for_what_it_covers(make_agent: MakeAgent, make_batch: MakeBatch, rewards: list[float]) -> None:
    """Rewards within the scale change nothing."""
    agent = make_agent(model={"normalize_observations": False})
    agent.observe(torch.zeros(1, 3), torch.ones(1))
    agent.update(make_batch())
    before = copied(agent.state())
    agent.observe(torch.zeros(2, 3), torch.tensor(rewards))
    assert set(differing(agent.state(), before)) <= {"reward_counts"}


def grown(make_agent: MakeAgent, batch: Batch) -> tuple[State, State]:
    """Adam's moments with the scale grown after an update, and with the same predictions in that scale all along.

    The learning rate is next to nothing, so that both made their update at the same predictions; no clip.
    """
    still = {"learning_rate": 1e-12, "gradient_clip": 1e9}
    agents = [make_agent(seed=0, loss=still) for _ in range(2)]
    with torch.no_grad():
        # Outputs that are not zero, as after some training, or most gradients would vanish.
        for parameter in agents[0].model.scaled_parameters():
            parameter.normal_()
    agents[0].target.load_state_dict(agents[0].model.state_dict())
    agents[1].load_state(copied(agents[0].state()))
    late, early = agents
    early.observe(batch.observations[0], torch.full((8,), 8.0))
    late.observe(batch.observations[0], torch.zeros(8))
    for agent in agents:
        agent.update(batch)
    late.observe(batch.observations[0], torch.full((8,), 8.0))
    assert late.model.reward_scale == early.model.reward_scale == 8
    late_moments, early_moments = (
        {name: tensor for name, tensor in agent.state().items() if "exp_avg" in name} for agent in agents
    )
    return late_moments, early_moments


def test_a_growing_scale_takes_the_moments_along(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """In the output layers, Adam's moments after a growth are those that the same gradients leave in that scale."""
    late, early = grown(make_agent, make_batch())
    outputs = [name for name in late if any(part in name for part in ("reward.4", "value.weights.2", "value.biases.2"))]
    assert len(outputs) == 8
    for name in outputs:
        torch.testing.assert_close(late[name], early[name], msg=name, atol=0, rtol=1e-3)


def test_a_growing_scale_takes_all_moments_along(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """In all of reward, value and policy, Adam's moments after a growth are those that the gradients leave in it."""
    late, early = grown(make_agent, make_batch())
    names = [name for name in late if any(part in name for part in (".reward.", ".value.", ".policy."))]
    ratios = {name: (late[name].norm() / early[name].norm()).item() for name in names}
    assert ratios == pytest.approx(dict.fromkeys(names, 1.0), rel=1e-2)


# ---------------------------------------------------------------------------------------- precision and compilation


def test_bfloat16_learns_what_float32_learns(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """The first updates in bfloat16 have the losses of those in float32 to the precision that it has."""
    batches = [make_batch(ends=ENDS) for _ in range(5)]
    records = {}
    for precision in ("float32", "bfloat16"):
        agent = make_agent(seed=0, precision=precision)
        agent.observe(batches[0].observations[0], torch.ones(8))
        records[precision] = [agent.update(batch).metrics for batch in batches]
        assert all(parameter.dtype == torch.float32 for parameter in agent.model.parameters())
    for exact, rough in zip(*records.values(), strict=True):
        for name in exact:
            torch.testing.assert_close(rough[name], exact[name], rtol=0.03, atol=0.02, msg=name)
        assert exact["loss/consistency"] != rough["loss/consistency"]


def test_plans_use_the_newest_weights(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """In bfloat16 planning uses a rounded copy of the weights as they are now."""
    agent = make_agent(precision="bfloat16")
    for _ in range(2):
        agent.update(make_batch())
        copies = agent.planning_model().parameters()
        assert all(
            torch.equal(copy, weight.bfloat16()) for copy, weight in zip(copies, agent.model.parameters(), strict=True)
        )


def test_bfloat16_plans_like_float32(make_agent: MakeAgent, make_batch: MakeBatch) -> None:
    """Planning in bfloat16 takes about the actions that float32 takes with the same weights and noise."""
    exact, rough = make_agent(seed=0), make_agent(seed=0, precision="bfloat16")
    live(exact, [make_batch() for _ in range(5)])
    rough.load_state(copied(exact.state()))
    observations = torch.randn(32, 3)
    actions = [Actor(agent, lanes=32, seed=1).act(observations, step=0, explore=False) for agent in (exact, rough)]
    assert (actions[0] - actions[1]).abs().mean() < 0.05
    assert not torch.equal(*actions)


@pytest.mark.parametrize("computes", [True, False])
def test_precision_is_resolved(
    make_agent: MakeAgent, make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, computes: bool
) -> None:
    """A precision that is asked for is given; auto is bfloat16 where the device computes in it and it is quicker."""
    cpu, fastest = torch.device("cpu"), "bfloat16" if computes else "float32"
    for precision in ("float32", "bfloat16"):
        assert resolve_precision(make_config(precision=precision), cpu) == precision
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: computes)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not computes)
    wide = {"precision": "auto", "model": {"value": (256, 8)}}
    assert resolve_precision(make_config(**wide), torch.device("cuda")) == fastest
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: not computes)
    for amx, avx in ((computes, False), (False, computes)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        assert make_agent(**wide).precision == fastest
        assert make_agent(precision="auto").precision == "float32"
        assert resolve_precision(make_config(precision="auto", compile=True), cpu) == fastest


@pytest.mark.parametrize(("given", "found"), [(None, 7), (50, 50)])
def test_the_latent_error_is_a_mean(make_agent: MakeAgent, given: int | None, found: int) -> None:
    """The consistency loss is divided by the first latent width, however an agent is made, or by what was asked for."""
    agent = make_agent(model={"latent": 7}, loss={"consistency_width": given})
    assert agent.config.loss.consistency_width == found

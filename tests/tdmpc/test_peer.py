"""Parity with the authors' code: on the same inputs ours returns the numbers that theirs did.

``peer/README.md`` tells how the numbers were made and where we differ on purpose.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.checkpoint import below
from tdmpc.config import ReplayConfig
from tdmpc.losses import targets
from tdmpc.planner import imagine, improve, propose, shift
from tdmpc.presets import preset
from tdmpc.replay import Replay
from tdmpc.spec import Batch, EnvSpec
from tdmpc.world_model import WorldModel

State = dict[str, Tensor]

NUMBERS = load_file(Path(__file__).parent / "peer" / "numbers.safetensors")
PLAN, REPLAY, SCHEDULE = (below(part, NUMBERS) for part in ("plan", "replay", "schedule"))
UPDATES = [below(f"update/{number}", NUMBERS) for number in (1, 2)]
"""Two updates in a row: policy clipped, model not; model clipped and a sequence's loss capped, policy not."""

REFERENCE = preset("reference")
WIDTHS = dict.fromkeys(("dynamics", "reward", "policy", "value"), (8, 8))
CONFIG = dataclasses.replace(
    REFERENCE,
    model=dataclasses.replace(REFERENCE.model, latent=6, encoder=(7,), **WIDTHS),
    planner=dataclasses.replace(
        REFERENCE.planner, horizon=3, samples=16, policy_trajectories=4, elites=5, iterations=2
    ),
    loss=dataclasses.replace(REFERENCE.loss, horizon=3, consistency_width=6, learning_rate=1e-2),
)
STEP = 20_000
"""Agent step of the plans: a horizon of 3, the cap, and a least deviation of 0.14."""
SEARCH = {"config": CONFIG.planner, "discount": CONFIG.loss.discount}

MODULES = {"encoder": "_encoder", "dynamics": "_dynamics", "reward": "_reward", "policy": "_pi"}
VALUE_LAYERS = {"weights.0": "0.weight", "biases.0": "0.bias", "norm_weight": "1.weight", "norm_bias": "1.bias"}
VALUE_LAYERS |= {"weights.1": "3.weight", "biases.1": "3.bias", "weights.2": "5.weight", "biases.2": "5.bias"}


def theirs(name: str, tensors: State) -> Tensor:
    """Their tensor for our parameter ``components.policy.0.weight``; they keep Q1 and Q2 apart, we stack them."""
    _, component, rest = name.split(".", 2)
    if component == "value":
        return torch.stack([tensors[f"_Q{head}.{VALUE_LAYERS[rest]}"] for head in (1, 2)])
    return tensors[f"{MODULES[component]}.{rest}"]


def hold(actual: Tensor, expected: Tensor) -> None:
    """No number is further off than 1e-5 of the largest one in its array."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def hold_all(actual: State, expected: State) -> None:
    for name, tensor in actual.items():
        hold(tensor, theirs(name, expected))


@pytest.fixture
def agent(make_spec: Callable[..., EnvSpec]) -> Agent:
    """An agent with their weights, online and target."""
    agent = Agent(CONFIG, make_spec(5, 2))
    for network, model in (("online", agent.model), ("target", agent.target)):
        for name, parameter in model.named_parameters():
            parameter.data.copy_(theirs(name, below(f"weights/{network}", NUMBERS)))
    return agent


@pytest.fixture
def model(agent: Agent) -> WorldModel:
    return agent.model.requires_grad_(False)


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What ``torch.randn`` returns instead of random numbers, in this order."""
    waiting: list[Tensor] = []

    def randn(*shape: int | tuple[int, ...], **_: object) -> Tensor:
        return waiting.pop(0).reshape(*shape)

    monkeypatch.setattr(torch, "randn", randn)
    return waiting


def start(model: WorldModel) -> Tensor:
    return model.encode(PLAN["observation"][None])


def lane(tensor: Tensor) -> Tensor:
    """Steps x plans x actions, for the one lane that they plan for."""
    return tensor[:, None]


# --------------------------------------------------------------------------------------------------------- planning


def test_values_of_plans(model: WorldModel) -> None:
    """Given action sequences have the values of their ``estimate_value`` without noise at the end of a plan."""
    values = imagine(model, start(model), lane(PLAN["sequences"]), discount=CONFIG.loss.discount)
    hold(values[0], PLAN["sequence_values"])


def test_plans_of_the_policy(model: WorldModel) -> None:
    """From the same draws the policy proposes their action sequences."""
    proposals = propose(model, start(model), lane(PLAN["policy_draws"]), **SEARCH)
    hold(proposals.actions[:, 0], PLAN["policy_actions"])


@pytest.mark.parametrize("iteration", [1, 2])
def test_an_iteration(model: WorldModel, iteration: int) -> None:
    """From their mean, deviation and draws one iteration ends with their elites, shares, mean and deviation."""
    before, after = (below(str(number), PLAN) for number in (iteration - 1, iteration))
    mean = before["mean"] if before else shift(PLAN["previous_mean"])
    std = before["std"] if before else torch.full_like(mean, 2.0)
    z = start(model)
    plan = improve(
        *(model, z, lane(mean), lane(std), lane(PLAN["sample_draws"][iteration - 1])),
        propose(model, z, lane(PLAN["policy_draws"]), **SEARCH),
        **SEARCH,
        min_std=CONFIG.planner.std(STEP),
    )
    hold(plan.elites[:, 0], after["elites"])
    hold(plan.weights[0], after["weights"])
    hold(plan.mean[:, 0], after["mean"])
    hold(plan.std[:, 0], after["std"])
    hold(plan.value[0], after["weights"] @ after["values"].topk(5).values)


@pytest.mark.parametrize("explore", [True, False])
def test_a_decision(agent: Agent, draws: list[Tensor], monkeypatch: pytest.MonkeyPatch, explore: bool) -> None:
    """A warm-started plan leads to their action in training, but clipped to [-1, 1]; in evaluation to their mean."""
    draws += [PLAN["sample_draws"], PLAN["policy_draws"], PLAN["explore_draw"]]
    monkeypatch.setattr(torch, "multinomial", lambda *_, **__: PLAN["pick"].reshape(1, 1))
    actor = Actor(agent, lanes=1, seed=0)
    actor.mean = lane(shift(PLAN["previous_mean"]))
    action = actor.act(PLAN["observation"][None], step=STEP, explore=explore)[0]
    hold(action, PLAN["explored"].clamp(-1, 1) if explore else PLAN["2/mean"][0])
    hold(actor.mean, lane(shift(PLAN["2/mean"])))
    assert PLAN["explored"].max() > 1, "the bound must matter here"


def test_schedules() -> None:
    """Least deviation and planning horizon of the published setting are theirs at every agent step looked at."""
    planner, steps = REFERENCE.planner, SCHEDULE["steps"].tolist()
    hold(torch.tensor([planner.std(step) for step in steps]), SCHEDULE["std"])
    horizons = [min(planner.horizon, int(planner.horizon_schedule(step))) for step in steps]
    assert horizons == SCHEDULE["horizon"].tolist()


# --------------------------------------------------------------------------------------------------------- learning


class Learned(NamedTuple):
    """What an update of ours tells, and what it leaves behind."""

    metrics: State
    priorities: Tensor
    gradients: State
    online: State
    moments: State
    target: State


def window(numbers: State) -> Batch:
    observations, actions, rewards = (numbers[name] for name in ("observations", "actions", "rewards"))
    return Batch(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminated=torch.zeros_like(rewards, dtype=torch.bool),
        mask=torch.ones_like(rewards),
        weights=numbers["weights"],
        indices=np.arange(rewards.shape[1]),
    )


def learn(agent: Agent, numbers: State, draws: list[Tensor]) -> Learned:
    """One update from their batch and draws; none is used for the first latent, which is no target."""
    gradients: State = {}

    def watch(parameters: Mapping[str, torch.nn.Parameter]) -> None:
        gradients.update({name: p.grad.clone() for name, p in parameters.items() if p.grad is not None})

    agent.watch = watch
    draws += [torch.cat([torch.zeros(1, 4, 2), numbers["target_draws"]]), numbers["policy_draws"]]
    metrics, priorities = agent.update(window(numbers))
    state = {name: value.clone() for name, value in agent.state().items()}
    online, target = (
        {name: value for name, value in below(network, state).items() if name in gradients}
        for network in ("model", "target")
    )
    moments = {name: state[f"optimizer/{name}/exp_avg"] for name in gradients}
    return Learned(metrics, priorities, gradients, online, moments, target)


@pytest.fixture
def learned(agent: Agent, draws: list[Tensor]) -> list[Learned]:
    """Both updates, one after the other."""
    return [learn(agent, numbers, draws) for numbers in UPDATES]


both_updates = pytest.mark.parametrize("update", [0, 1])


def test_targets(agent: Agent) -> None:
    """Before anything is learnt, targets are their ``_td_target`` from the same draws."""
    numbers = UPDATES[0]
    goal = targets(
        *(agent.model, agent.target, window(numbers), numbers["target_draws"]),
        loss=CONFIG.loss,
        planner=CONFIG.planner,
    )
    hold(goal.values, numbers["td_targets"])


@both_updates
@pytest.mark.parametrize("part", ["consistency", "reward", "value", "policy"])
def test_parts_of_the_loss(learned: list[Learned], update: int, part: str) -> None:
    """Each part of the loss is theirs."""
    told = "pi" if part == "policy" else part
    hold(learned[update].metrics[f"loss/{part}"], UPDATES[update][f"told/{told}_loss"])


@both_updates
def test_total_loss(learned: list[Learned], update: int) -> None:
    """The model's loss is theirs after their gradient is scaled: what they report is larger by the horizon."""
    hold(3 * learned[update].metrics["loss/total"], UPDATES[update]["told/weighted_loss"])


@both_updates
def test_priorities(learned: list[Learned], update: int) -> None:
    """New priorities are theirs, at most 10,000."""
    hold(learned[update].priorities, UPDATES[update]["priorities"])


@both_updates
def test_gradients(agent: Agent, learned: list[Learned], update: int) -> None:
    """Every parameter has their gradient, the policy's of the policy loss and all others of the model's."""
    assert learned[update].gradients.keys() == dict(agent.model.named_parameters()).keys()
    hold_all(learned[update].gradients, below("gradients", UPDATES[update]))
    hold(learned[update].metrics["grad_norm/model"], UPDATES[update]["told/grad_norm"])


@both_updates
def test_optimiser_steps(learned: list[Learned], update: int) -> None:
    """After the steps of both optimisers every parameter is theirs, and so is its mean of clipped gradients."""
    hold_all(learned[update].online, below("online", UPDATES[update]))
    hold_all(learned[update].moments, below("moments", UPDATES[update]))


@both_updates
def test_target_network(learned: list[Learned], update: int) -> None:
    """The target network is theirs after the first update, which does not move it, and after the second, which does."""
    hold_all(learned[update].target, below("target", UPDATES[update]))


def test_replay() -> None:
    """Windows but the last of an episode have their shares of a draw, a new episode's too, and make their batch."""
    episodes = [REPLAY[name].numpy() for name in ("observations", "actions", "rewards")]
    replay, no = Replay(ReplayConfig(), observation_dim=5, action_dim=2, horizon=3), np.array([False])

    def rows(windows: Tensor) -> np.ndarray:
        """Behind the 8 transitions of an episode we keep a row for its last observation: their 8 is our 9."""
        return (windows + windows // 8).numpy()

    for number, (observations, actions, rewards) in enumerate(zip(*episodes, strict=True)):
        if number == 2:
            replay.update_priorities(rows(REPLAY["updated"]), REPLAY["priorities"].numpy())
        for t, (action, reward) in enumerate(zip(actions, rewards, strict=True)):
            step = (observations[[t]], action[None], reward[None], no, np.array([t == 7]), observations[[t + 1]])
            replay.add(*step)

    leaves = torch.from_numpy(replay.state()["leaves"].copy())
    theirs = REPLAY["probabilities"].nonzero()[:, 0]
    shares = leaves[rows(theirs)]
    hold((shares / shares.sum()).float(), REPLAY["probabilities"][theirs])

    drawn, ends = rows(REPLAY["drawn"]), leaves.cumsum(0)
    rng = Mock(spec=np.random.Generator)
    rng.random.return_value = ((ends - leaves / 2) / ends[-1])[drawn].numpy()
    batch = replay.sample(4, rng=rng)
    assert batch.indices.tolist() == drawn.tolist()
    hold(batch.weights, REPLAY["weights"])
    for name, expected in below("batch", REPLAY).items():
        assert torch.equal(getattr(batch, name), expected)

"""Laws of shrinking: what follows, that dead units change nothing, and that sequences of cuts are one cut."""

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tdmpc.actor import Actor
from tdmpc.agent import Agent
from tdmpc.compression.groups import Axis, Groups, Slice, all_units
from tdmpc.compression.shrink import composed, load_training_state, shrink, training_state
from tdmpc.compression.tdmpc_agent.groups import shrink_agent
from tdmpc.world_model import parameter_shapes
from tests.compression.conftest import MakeAgent, groups_of, random_keep

EXACT = 1e-6
NORMED = "value.0"
"""The axis with a LayerNorm on it, where a dead unit still moves the mean and the variance."""


def shrunk(agent: Agent, keep: dict[str, Tensor]) -> Agent:
    """The agent rebuilt from the smaller state, as on resume."""
    config, state = shrink_agent(agent.config, agent.spec, agent.state(), keep)
    smaller = Agent(config, agent.spec)
    smaller.load_state(state)
    return smaller


def kill(agent: Agent, keep: dict[str, Tensor]) -> None:
    """Set everything of the units that do not stay to zero: networks, target network, moments."""
    for name, axis in ((name, groups_of(agent)[name]) for name in keep):
        dead = torch.ones(axis.heads, axis.size, dtype=torch.bool).scatter_(1, keep[name], False)
        for tensor_name, tensor in agent.state().items():
            for piece in axis.slices:
                if piece.parameter in tensor_name.split("/") and tensor.dim() > 0:
                    _zero(tensor, piece, dead)


def _zero(tensor: Tensor, piece: Slice, dead: Tensor) -> None:
    for head, gone in enumerate(dead):
        part = tensor[head].detach() if len(dead) > 1 else tensor.detach()
        along = part.movedim(piece.dim - (len(dead) > 1), 0)
        along[piece.start : piece.start + len(gone)][gone] = 0


def half(groups: Groups, *, but: tuple[str, ...] = ()) -> dict[str, Tensor]:
    return random_keep(groups, {name: width // 2 for name, width in groups.widths.items() if name not in but})


# ------------------------------------------------------------------------------------------------- the pure function


def test_what_has_a_parameter_s_name_and_shape_is_cut() -> None:
    """A small case by hand: rows, bias and columns go, also in copies and moments; counters and strangers stay."""
    axis = Axis("net", 0, 3, (Slice("0.weight", 0), Slice("0.bias", 0), Slice("2.weight", 1, start=1)))
    groups = Groups((axis,), {"0.weight": (3, 2), "0.bias": (3,), "2.weight": (1, 5)}, {})
    state = {
        "model/0.weight": torch.tensor([[1, 2], [3, 4], [5, 6]]),
        "optimizer/0.bias/exp_avg": torch.tensor([7, 8, 9]),
        "optimizer/0.bias/step": torch.tensor(4),
        "target/2.weight": torch.tensor([[0, 10, 11, 12, 99]]),
        "model/0.weight_norm": torch.zeros(3),
    }
    cut = shrink(state, groups, {"net.0": torch.tensor([[0, 2]])})
    assert {name: tensor.tolist() for name, tensor in cut.items()} == {
        "model/0.weight": [[1, 2], [5, 6]],
        "optimizer/0.bias/exp_avg": [7, 9],
        "optimizer/0.bias/step": 4,
        "target/2.weight": [[0, 10, 12, 99]],
        "model/0.weight_norm": [0, 0, 0],
    }
    assert state["model/0.weight"].shape == (3, 2)


def test_heads_choose_their_own_units() -> None:
    """In stacked networks each head loses the units that it chose."""
    groups = Groups((Axis("value", 0, 3, (Slice("w", 1),), heads=2),), {"w": (2, 3, 2)}, {})
    w = torch.arange(12).view(2, 3, 2)
    cut = shrink({"w": w}, groups, {"value.0": torch.tensor([[0, 1], [1, 2]])})["w"]
    assert cut.tolist() == [[[0, 1], [2, 3]], [[8, 9], [10, 11]]]


@pytest.mark.parametrize(
    "keep",
    [
        {"nobody.0": [[0]]},
        {"net.0": [[0, 3]]},
        {"net.0": [[-1, 0]]},
        {"net.0": [[1, 0]]},
        {"net.0": [[0, 0]]},
        {"net.0": [[]]},
        {"net.0": [[0], [1]]},
    ],
)
def test_units_that_there_are_not_are_refused(keep: dict[str, list[list[int]]]) -> None:
    """An unknown axis, a unit outside it, an order that is not ascending, nothing at all: each is named."""
    groups = Groups((Axis("net", 0, 3, (Slice("w", 0),)),), {"w": (3,)}, {})
    units = {name: torch.tensor(rows, dtype=torch.long) for name, rows in keep.items()}
    with pytest.raises(ValueError, match=next(iter(keep))):
        shrink({"w": torch.zeros(3)}, groups, units)


@settings(max_examples=25)
@given(st.data())
def test_cuts_in_sequence_are_one_cut(make_agent: MakeAgent, data: st.DataObject) -> None:
    """Any sequence of cuts leaves the tensors and settings that the one cut with the composed units leaves."""
    agent = make_agent(terminates=True)
    config, state, groups = agent.config, agent.state(), groups_of(agent)
    whole = {axis.name: all_units(axis) for axis in groups.axes if data.draw(st.booleans())}
    for _ in range(data.draw(st.integers(1, 3))):
        names = data.draw(st.lists(st.sampled_from(sorted(groups.widths)), unique=True))
        keep = random_keep(groups, {name: data.draw(st.integers(1, groups.widths[name])) for name in names})
        config, state = shrink_agent(config, agent.spec, state, keep)
        whole, groups = composed(whole, keep), groups.kept(keep)
    at_once, same = shrink_agent(agent.config, agent.spec, agent.state(), whole)
    assert config == at_once and state.keys() == same.keys()
    assert all(torch.equal(state[name], same[name]) for name in state)


# ------------------------------------------------------------------------------------------------------------ agents


def test_all_that_belongs_to_an_agent_follows(make_agent: MakeAgent, make_batch: Callable) -> None:
    """Networks, target network and moments get the smaller shapes; all else is handed on; the agent stays whole."""
    agent = make_agent(terminates=True)
    agent.update(make_batch())
    before = {name: tensor.clone() for name, tensor in agent.state().items()}
    smaller = shrunk(agent, half(groups_of(agent)))
    shapes = parameter_shapes(smaller.config.model, agent.spec)
    assert smaller.config.model.dynamics == (4, 4) and smaller.config.model.latent == 3
    for name, tensor in smaller.state().items():
        owner = next((part for part in name.split("/") if part in shapes), None)
        if owner is None or name.endswith("/step"):
            assert torch.equal(tensor, before[name]), name
        else:
            assert tensor.shape == shapes[owner], name
    assert smaller.state().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.state().items())


@pytest.mark.parametrize("terminates", [False, True])
def test_dead_units_leave_no_gap(make_agent: MakeAgent, terminates: bool) -> None:
    """Without units that are dead, every function of the model and a whole plan are the same to 1e-6."""
    agent = make_agent(terminates=terminates)
    keep = half(groups_of(agent), but=(NORMED,))
    kill(agent, keep)
    smaller = shrunk(agent, keep)
    observation, action = torch.randn(9, 3), torch.rand(9, 2) * 2 - 1
    functions = ["reward", "q"] + (["terminates"] if terminates else [])
    found = []
    for model in (agent.model, smaller.model):
        z = model.encode(observation)
        z = model.next(z, action)
        joint = {"reward": (z, action), "q": (z, action), "terminates": (z,)}
        found.append([getattr(model, name)(*joint[name]) for name in functions] + [model.pi(z)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=EXACT, rtol=EXACT)
    actions = [Actor(a, lanes=9, seed=3).act(observation, step=0, explore=False) for a in (agent, smaller)]
    torch.testing.assert_close(*actions, atol=1e-5, rtol=1e-5)


def test_the_consistency_loss_keeps_its_scale(make_agent: MakeAgent, make_batch: Callable) -> None:
    """Without dead latent coordinates, every loss and priority of an update is the same to 1e-6."""
    agent = make_agent()
    keep = half(groups_of(agent), but=(NORMED,))
    kill(agent, keep)
    smaller, batch = shrunk(agent, keep), make_batch()
    updates = [one.update(batch) for one in (agent, smaller)]
    assert smaller.config.loss.consistency_width == agent.config.loss.consistency_width == 6
    torch.testing.assert_close(updates[0].metrics, updates[1].metrics, atol=EXACT, rtol=1e-5)
    torch.testing.assert_close(updates[0].priorities, updates[1].priorities, atol=EXACT, rtol=1e-5)


def test_training_goes_on_as_with_a_mask(make_agent: MakeAgent, make_batch: Callable) -> None:
    """After a cut with live moments, 50 updates are those of the dense agent with the lost units held at zero."""
    agent = make_agent(terminates=True, loss={"learning_rate": 1e-4})
    for _ in range(5):
        agent.update(make_batch())
    keep = half(groups_of(agent), but=(NORMED,))
    kill(agent, keep)
    smaller = shrunk(agent, keep)
    for _ in range(50):
        batch = make_batch(ends={0: 0, 3: 1})
        for one in (agent, smaller):
            one.update(batch)
    _, expected = shrink_agent(agent.config, agent.spec, agent.state(), keep)
    for name, tensor in smaller.state().items():
        torch.testing.assert_close(tensor, expected[name], atol=EXACT, rtol=1e-4, msg=name)


class Normed(nn.Module):
    """A value head as its authors wrote it, small: linear, LayerNorm, tanh, linear, ELU, linear."""

    def __init__(self, inputs: int, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.layers = nn.Sequential(
            nn.Linear(inputs, first), nn.LayerNorm(first), nn.Tanh(), nn.Linear(first, second), nn.ELU()
        )
        self.out = nn.Linear(second, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.layers(x))


def test_behind_a_norm_training_goes_on_as_in_a_model_built_small(make_agent: MakeAgent) -> None:
    """Where a LayerNorm lies on the axis, 50 Adam steps of the cut heads are those of small heads built by hand."""
    agent = make_agent()
    value = agent.model.components["value"]
    warm = torch.randn(32, 8)
    optimizer = torch.optim.Adam(value.parameters(), lr=1e-3)
    for _ in range(3):
        step(optimizer, value(warm).square().sum(0).mean())
    for name, parameter in agent.model.named_parameters():
        if ".value." in name:
            agent.model_optimizer.state[parameter] = optimizer.state[parameter]
    keep = random_keep(groups_of(agent), {"value.0": 3, "value.1": 5})
    smaller = shrunk(agent, keep)
    cut = smaller.model.components["value"]
    heads = [by_hand(value, optimizer, keep, head) for head in range(2)]
    ours = torch.optim.Adam(cut.parameters(), lr=1e-3)
    ours.state.update({p: smaller.model_optimizer.state[p] for p in cut.parameters()})
    for _ in range(50):
        x, y = torch.randn(32, 8), torch.randn(32, 1)
        step(ours, sum((q - y).square().mean() for q in cut(x)))
        for head, theirs in heads:
            step(theirs, (head(x) - y).square().mean())
    x = torch.randn(32, 8)
    torch.testing.assert_close(cut(x), torch.stack([head(x) for head, _ in heads]), atol=EXACT, rtol=1e-5)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def by_hand(
    value: nn.Module, optimizer: torch.optim.Optimizer, keep: dict[str, Tensor], head: int
) -> tuple[Normed, torch.optim.Optimizer]:
    """One small head with the kept rows and columns, and Adam with their moments."""
    first, second = keep["value.0"][head], keep["value.1"][head]
    small = Normed(8, (len(first), len(second)))
    theirs = torch.optim.Adam(small.parameters(), lr=1e-3)
    picks = [
        (small.layers[0].weight, value.weights[0], (first, slice(None))),
        (small.layers[0].bias, value.biases[0], (first,)),
        (small.layers[1].weight, value.norm_weight, (first,)),
        (small.layers[1].bias, value.norm_bias, (first,)),
        (small.layers[3].weight, value.weights[1], (second[:, None], first)),
        (small.layers[3].bias, value.biases[1], (second,)),
        (small.out.weight, value.weights[2], (slice(None), second)),
        (small.out.bias, value.biases[2], (slice(None),)),
    ]
    for mine, stacked, place in picks:
        moments = optimizer.state[stacked]
        mine.data = stacked.data[head][place].clone()
        theirs.state[mine] = {
            "step": moments["step"].clone(),
            **{key: moments[key][head][place].clone() for key in ("exp_avg", "exp_avg_sq")},
        }
    return small, theirs


@pytest.mark.compiles
@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled_functions_follow(make_agent: MakeAgent, make_batch: Callable) -> None:
    """A compiled agent acts and learns like the eager one, to the round-off of another order of summation, and does so
    when both were cut alike.
    """
    short = {"loss": {"horizon": 2}, "planner": {"horizon": 2}, "seed": 0}
    agents = []
    for compiled in (False, True):
        torch.manual_seed(0)
        agents.append(make_agent(compile=compiled, terminates=True, **short))
    keep = half(groups_of(agents[0]))
    batches = [make_batch(steps=2, ends={0: 0, 3: 1}, scale=scale) for scale in (0.5, 5.0, 1.0)]
    found = []
    for agent in agents:
        record = []
        for batch in batches:
            record.append(agent.update(batch).priorities)
            record.append(Actor(agent, lanes=2, seed=1).act(batch.observations[0, :2], step=0, explore=False))
            agent = shrunk(agent, keep) if len(record) == 2 else agent
        found.append(record)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------------------------ any other module


def chain() -> tuple[nn.Sequential, Groups]:
    """Two hidden layers of any module."""
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    axes = (
        Axis("net", 0, 8, (Slice("0.weight", 0), Slice("0.bias", 0), Slice("2.weight", 1))),
        Axis("net", 1, 6, (Slice("2.weight", 0), Slice("2.bias", 0), Slice("4.weight", 1))),
    )
    return net, Groups(axes, {name: tuple(p.shape) for name, p in net.named_parameters()}, {})


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(count):
        yield torch.randn(16, 3), torch.randn(16, 2)


@pytest.mark.parametrize("layout", [{"fused": True}, {"foreach": True}, {"foreach": False, "fused": False}])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_moments_of_every_layout_follow(kind: type[torch.optim.Optimizer], layout: dict[str, bool]) -> None:
    """Fused, foreach and plain optimisers go on after a cut as the dense module with a mask does."""
    net, groups = chain()
    options = layout | ({"momentum": 0.9, "lr": 1e-2} if kind is torch.optim.SGD else {"lr": 1e-3})
    dense = kind(net.parameters(), **options)
    for x, y in batches(5):
        step(dense, (net(x) - y).square().mean())
    keep = random_keep(groups, {"net.0": 3, "net.1": 4})
    masks = masked(groups, keep)
    state = shrink(training_state(net, dense), groups, keep)
    small = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = kind(small.parameters(), **options)
    load_training_state(small, optimizer, state)
    for name, parameter in net.named_parameters():
        for tensor in (parameter.data, *dense.state[parameter].values()):
            if torch.is_tensor(tensor) and tensor.dim():
                tensor *= masks[name]
    for x, y in batches(50):
        step(optimizer, (small(x) - y).square().mean())
        dense.zero_grad()
        (net(x) - y).square().mean().backward()
        for name, parameter in net.named_parameters():
            parameter.grad *= masks[name]
        dense.step()
    x = torch.randn(16, 3)
    torch.testing.assert_close(small(x), net(x), atol=EXACT, rtol=1e-5)


def test_what_is_loaded_replaces_all_moments() -> None:
    """An optimiser that takes up a state without moments forgets those that it had."""
    net, _ = chain()
    optimizer = torch.optim.Adam(net.parameters())
    state = training_state(net, optimizer)
    step(optimizer, net(torch.randn(16, 3)).square().mean())
    assert optimizer.state
    load_training_state(net, optimizer, state)
    assert not optimizer.state


def masked(groups: Groups, keep: dict[str, Tensor]) -> dict[str, Tensor]:
    """1 for every entry of every parameter that stays."""
    masks = {name: torch.ones(shape) for name, shape in groups.shapes.items()}
    for axis in groups.axes:
        gone = sorted(set(range(axis.size)) - set(keep[axis.name][0].tolist()))
        for piece in axis.slices:
            masks[piece.parameter].movedim(piece.dim, 0)[gone] = 0
    return masks

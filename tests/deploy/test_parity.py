"""Laws of parity: every agent's own graphs are its own, however many of its elites tie, and no other graph is."""

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import tdmpc.deploy.export
from tdmpc.agent import Agent
from tdmpc.config import ModelConfig
from tdmpc.deploy import backends, bundle, probe
from tdmpc.deploy.assemble import unroll
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.cases import case, plan_cases
from tdmpc.deploy.contract import golden_plans
from tdmpc.deploy.export import Graphs, export, export_graphs
from tdmpc.deploy.original import ExportConfig, Inputs, Original, Settings, Source
from tdmpc.deploy.parity import Parity, difference, parity, value_scale
from tdmpc.deploy.probe import Iteration, Trace
from tdmpc.layers import Ensemble
from tdmpc.planner import candidates, propose, refit, shift
from tdmpc.presets import preset
from tdmpc.spec import EnvSpec
from tdmpc.world_model import WorldModel
from tests.conftest import Shared

SPEC = EnvSpec(
    id="robot",
    observation_dim=2,
    action_dim=2,
    action_low=(-1.0, -2.0),
    action_high=(1.0, 3.0),
    action_repeat=1,
    terminates=False,
    episode_steps=None,
    control_period_ms=None,
    observation_layout=(("joint", (1,)), ("speed", (1,))),
)
HIDDEN = (8, 8)
LEARNED = ModelConfig(latent=6, encoder=(8,), dynamics=HIDDEN, reward=HIDDEN, policy=HIDDEN, value=HIDDEN)
POINT = ModelConfig(latent=2, encoder=(), dynamics=(), reward=(4,), policy=(8,), value=(8,))
PLATEAU = 0.3
"""How far from the target the reward is still the whole one."""


@torch.no_grad()
def arrive(model: WorldModel) -> None:
    """A point that actions push, with the same reward wherever it is near enough: the agent has learnt to stay there.

    Near the target all plans are worth the same up to rounding; most that leave it lie in the first iteration.
    """
    identity, side = torch.eye(2), torch.cat([torch.eye(2), -torch.eye(2)])
    (encoder,), (dynamics,) = model.components["encoder"], model.components["dynamics"]
    near, _, reward = model.components["reward"]
    encoder.weight.copy_(identity)
    dynamics.weight.copy_(torch.cat([identity, 0.2 * identity], dim=1))
    # ELU is -1 far below zero: 100 (|z| - 0.3) is there for every |z| below 0.1.
    near.weight.copy_(torch.cat([100 * side, torch.zeros(4, 2)], dim=1))
    near.bias.fill_(-100 * PLATEAU)
    reward.weight.fill_(-0.01)
    reward.bias.fill_(0.96)
    value = model.components["value"]
    assert isinstance(value, Ensemble)
    value.weights[-1].copy_(1e-7 * torch.randn(value.weights[-1].shape))
    value.biases[-1].fill_(10.0)
    model.components["policy"][-1].weight.mul_(0.1)


@torch.no_grad()
def learn(model: WorldModel) -> None:
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn_like(parameter)
    model.reward_scale.fill_(2.0)


AGENTS: dict[str, tuple[ModelConfig, Callable[[WorldModel], None], float]] = {
    "untrained": (LEARNED, lambda model: None, 1.0),
    "arrived": (POINT, arrive, 0.1),
    "learned": (LEARNED, learn, 1.0),
}
"""Widths, weights, and how far from the target the robot is seen."""


def source_of(name: str, windows: int = 26) -> Source:
    widths, teach, spread = AGENTS[name]
    torch.manual_seed(0)
    config = dataclasses.replace(preset("default"), env="robot-v0")
    planner = dataclasses.replace(config.planner, samples=48, elites=8, iterations=3, policy_trajectories=4)
    agent = Agent(dataclasses.replace(config, model=widths, planner=planner), SPEC)
    teach(agent.model)
    training = {"run": "runs/robot", "seed": 0, "env_steps": 1, "agent_steps": 1}
    observations = spread * torch.rand(4, windows, 2) - spread / 2
    now, after = (part.reshape(-1, 2).numpy() for part in (observations[:-1], observations[1:]))
    transitions = now, np.zeros((len(now), SPEC.action_dim), np.float32), after
    return Source(Original(agent.model, Settings(planner, 0.05, 0.99), SPEC), training, observations, transitions)


@pytest.fixture(scope="session")
def graphs_of(shared: Shared) -> Callable[[str], Graphs]:
    """The graphs of an agent, made once."""

    @cache
    def graphs(name: str) -> Graphs:
        def make(folder: Path) -> None:
            for file, graph in export_graphs(source_of(name).original, 18).items():
                onnx.save(graph, folder / file)

        return {path.name: onnx.load(path) for path in shared(f"graphs-{name}", make).iterdir()}

    return graphs


class Exports(NamedTuple):
    """Exports an agent with graphs that need not be its own."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, source: Source, graphs: Graphs, **settings: object) -> Path:
        self.monkeypatch.setattr(tdmpc.deploy.export, "load", lambda *_: source)
        self.monkeypatch.setattr(tdmpc.deploy.export, "export_graphs", lambda *_: dict(graphs))
        export(self.folder / "run", self.folder / "bundle", ExportConfig(**settings))
        return self.folder / "bundle"


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exports:
    return Exports(tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["input", "baked"])
@pytest.mark.parametrize("name", AGENTS)
def test_no_agent_is_refused(name: str, noise: str, graphs_of: Callable[[str], Graphs], exports: Exports) -> None:
    """An agent that has learnt nothing, or has arrived and stays, is exported as any other, golden plans included."""
    folder = exports(source_of(name), graphs_of(name), noise=noise)
    found = Parity(**json.loads((folder / bundle.MANIFEST).read_text())["parity"])
    assert found.plans >= 100 and found.failures() == []
    assert max(found.start, found.mean, found.std, found.policy) <= 1e-5 and found.values <= 5e-6
    for backend in ("onnxruntime", "openvino"):
        golden = golden_plans(bundle.read(folder), Runtime(backend=backend))
        assert len(golden) == 3 and all(plan.holds for plan in golden)


@pytest.mark.slow
def test_an_agent_that_stays_has_something_to_gain(graphs_of: Callable[[str], Graphs], exports: Exports) -> None:
    """Where elites tie, the loss is judged against what acting at random would cost, which is not nothing."""
    folder = exports(source_of("arrived"), graphs_of("arrived"))
    found = Parity(**json.loads((folder / bundle.MANIFEST).read_text())["parity"])
    assert found.ties > 10 and found.gain > 0.01 and abs(found.regret) <= 1e-4 * found.gain


# Planted faults --------------------------------------------------------------------------------------------------

Fault = Callable[[Original, Graphs], tuple[Original, Graphs]]


def other_planner(**settings: object) -> Fault:
    """Graphs of a planner that is set otherwise than the agent's."""

    def plant(original: Original, graphs: Graphs) -> tuple[Original, Graphs]:
        planner = dataclasses.replace(original.settings.planner, **settings)
        return original._replace(settings=dataclasses.replace(original.settings, planner=planner)), graphs

    return plant


def other_settings(**settings: float) -> Fault:
    return lambda original, graphs: (
        original._replace(settings=dataclasses.replace(original.settings, **settings)),
        graphs,
    )


def other_bounds(original: Original, graphs: Graphs) -> tuple[Original, Graphs]:
    return original._replace(spec=dataclasses.replace(SPEC, action_high=(1.01, 3.0))), graphs


def operated(name: str, operate: Callable[[onnx.GraphProto], object]) -> Fault:
    """Graphs of which one was changed; the planner is made of start and iteration."""

    def plant(original: Original, graphs: Graphs) -> tuple[Original, Graphs]:
        changed = onnx.ModelProto()
        changed.CopyFrom(graphs[name])
        operate(changed.graph)
        parts = {**graphs, name: changed}
        planner = unroll(parts[bundle.START], parts[bundle.REFINE], iterations=3)
        return original, parts if name == bundle.PLANNER else {**parts, bundle.PLANNER: planner}

    return plant


def nodes(graph: onnx.GraphProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == kind]


def pass_through(node: onnx.NodeProto, kind: str = "Identity") -> None:
    """Make an operator one of its first input alone."""
    node.op_type = kind
    del node.input[1:], node.attribute[:]


def constant(graph: onnx.GraphProto, name: str, value: np.ndarray) -> None:
    """Give a constant another value."""
    for each in graph.initializer:
        if each.name == name:
            each.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def value_of(graph: onnx.GraphProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(each).copy() for each in graph.initializer if each.name == name)


def wrong_weight(graph: onnx.GraphProto) -> None:
    """One weight of the reward's last layer."""
    name = [each.name for each in graph.initializer if "reward" in each.name and each.name.endswith("weight")][-1]
    weights = value_of(graph, name)
    weights[0, 0] += 0.01
    constant(graph, name, weights)


def unclamped_samples(graph: onnx.GraphProto) -> None:
    pass_through(nodes(graph, "Clip")[0])


def unclipped_sensors(graph: onnx.GraphProto) -> None:
    pass_through(nodes(graph, "Clip")[0])


def swapped_steps(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        node.input[:] = ["swapped" if name == "noise" else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array([1, 0, 2]), "order"))
    graph.node.insert(0, helper.make_node("Gather", ["noise", "order"], ["swapped"], axis=0))


def no_policy_plans(graph: onnx.GraphProto) -> None:
    (choice,) = nodes(graph, "TopK")
    joined = next(node for node in graph.node if node.output[0] == choice.input[0])
    graph.initializer.append(numpy_helper.from_array(np.full((1, 4), -1e9, np.float32), "nothing"))
    joined.input[1] = "nothing"


def wrong_activation(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "Max"):
        if node.input[1].endswith("curve"):
            pass_through(node, "Relu")


def no_shift(graph: onnx.GraphProto) -> None:
    (node,) = (node for node in graph.node if node.output[0] == "mean")
    node.input[0] = "previous_mean"
    pass_through(node)


def worst_elites(graph: onnx.GraphProto) -> None:
    (choice,) = nodes(graph, "TopK")
    (largest,) = (each for each in choice.attribute if each.name == "largest")
    largest.i = 0


def left_out_iteration(graph: onnx.GraphProto) -> None:
    """The last iteration begins where the one before it began."""
    for node in graph.node:
        if node.output[0].startswith("iteration_2/") or node.output[0] in bundle.DECISION:
            node.input[:] = [name.replace("iteration_1/new_", "iteration_0/new_") for name in node.input]


FAULTS: dict[str, tuple[Fault, str]] = {
    "a wrong weight": (operated(bundle.REFINE, wrong_weight), "a value"),
    "a wrong discount": (other_settings(discount=0.99 * 1.01), "a value"),
    "no clamp of the samples": (operated(bundle.REFINE, unclamped_samples), "the mean after an iteration"),
    "no clip of the sensors": (operated(bundle.START, unclipped_sensors), "the latent or the policy's plans"),
    "an elite too few": (other_planner(elites=9), "inf"),
    "wrong momentum": (other_planner(momentum=0.105), "the mean after an iteration"),
    "a wrong least deviation": (other_settings(min_std=0.051), "the deviation after an iteration"),
    "swapped steps": (operated(bundle.REFINE, swapped_steps), "the mean after an iteration"),
    "no policy plans": (operated(bundle.REFINE, no_policy_plans), "a value"),
    "a wrong activation": (operated(bundle.START, wrong_activation), "the latent or the policy's plans"),
    "no shift": (operated(bundle.START, no_shift), "the mean after an iteration"),
    "the worst elites": (operated(bundle.REFINE, worst_elites), "the value of the worst elite"),
    "an iteration left out": (operated(bundle.PLANNER, left_out_iteration), "the mean after an iteration"),
    "wrong bounds": (other_bounds, "the mean after an iteration"),
    "a wrong temperature": (other_planner(temperature=0.55), "the mean after an iteration"),
    "a wrong first deviation": (other_planner(max_std=1.9), "the mean after an iteration"),
    "wrong noise of the policy": (other_planner(policy_std=0.051), "the latent or the policy's plans"),
    "a wrong clip of that noise": (other_planner(policy_noise_clip=0.29), "the latent or the policy's plans"),
}
"""What is wrong with the graphs, and where that is found."""
WITHOUT_EFFECT = {
    ("untrained", "a wrong discount"),
    ("untrained", "the worst elites"),
    ("untrained", "a wrong temperature"),
    ("arrived", "a wrong temperature"),
}
"""Where all values are the same, these change nothing."""
PLANTED = [(agent, fault) for agent in AGENTS for fault in FAULTS if (agent, fault) not in WITHOUT_EFFECT]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "fault"), PLANTED)
def test_a_wrong_graph_is_refused(name: str, fault: str, graphs_of: Callable[[str], Graphs], exports: Exports) -> None:
    """Whatever is wrong with a graph, it is found in every agent to which it makes a difference."""
    plant, where = FAULTS[fault]
    source = source_of(name, windows=4)
    original, graphs = plant(source.original, graphs_of(name))
    with pytest.raises(BundleError, match=rf"do not plan as the agent does; .*{where}"):
        exports(source._replace(original=original), graphs)
    assert list(exports.folder.iterdir()) == []


# One plan --------------------------------------------------------------------------------------------------------


@pytest.fixture
def original() -> Original:
    """An agent whose candidates all differ in value."""
    return source_of("learned").original


@pytest.fixture
def inputs(original: Original) -> Inputs:
    return case(plan_cases(original, torch.randn(1, 1, 2), seed=0), 0, 0)


@torch.no_grad()
def planned(
    original: Original, inputs: Inputs, choose: Callable[[torch.Tensor], torch.Tensor], off: float = 0.0
) -> Trace:
    """A plan as a graph would make it that chooses its elites so, and whose values are off by so much."""
    model, settings, _ = original
    observation, previous, noise, _ = inputs
    z = model.encode(observation[None])
    proposals = propose(model, z, noise.policy[:, None], config=settings.planner, discount=settings.discount)
    mean, made = shift(previous)[:, None], []
    std = torch.full_like(mean, settings.planner.max_std)
    for draws in noise.samples:
        actions, values = candidates(model, z, mean, std, draws[:, None], proposals, discount=settings.discount)
        values = values + off
        elites = choose(values[0].sort(descending=True).indices)
        plan = refit(mean, actions[:, :, elites], values[:, elites], config=settings.planner, min_std=settings.min_std)
        mean, std = plan.mean, plan.std
        made.append(Iteration(values[0], elites, mean[:, 0], std[:, 0], plan.value[0] * model.reward_scale))
    action = bundle.actuate(mean[0, 0].numpy(), np.array(SPEC.action_low), np.array(SPEC.action_high))
    return Trace(z[0], proposals.actions[:, 0], made, torch.from_numpy(action))


def compared(original: Original, inputs: Inputs, trace: Trace) -> list[str]:
    own = planned(original, inputs, lambda ranked: ranked[:8]).mean
    found = [difference(original, inputs, trace, own)]
    scale = value_scale(original, inputs.observation[None], inputs.noise.samples[0][:, None])
    return parity(original, found, scale).failures(worth=False)


def test_the_agent_is_itself(original: Original, inputs: Inputs) -> None:
    """A plan of the agent's own differs in nothing."""
    assert compared(original, inputs, planned(original, inputs, lambda ranked: ranked[:8])) == []


def test_elites_in_any_order_are_the_same(original: Original, inputs: Inputs) -> None:
    """A graph may tell its elites in another order."""
    assert compared(original, inputs, planned(original, inputs, lambda ranked: ranked[:8].flip(0))) == []


def test_the_best_non_elite_is_no_elite(original: Original, inputs: Inputs) -> None:
    """Where the worst elite is worth more than the best non-elite, taking that instead is a difference."""
    trace = planned(original, inputs, lambda ranked: ranked[[*range(7), 8]])
    (found,) = compared(original, inputs, trace)
    assert "the value of the worst elite" in found


@torch.no_grad()
def test_where_they_tie_either_is_an_elite(original: Original, inputs: Inputs) -> None:
    """Where all values are equal up to rounding, any elites are right, and what follows from them is still compared."""
    for parameter in original.model.scaled_parameters():
        parameter *= 1e-9
    (*_, bias) = original.model.components["reward"].parameters()
    bias.fill_(1.0)
    trace = planned(original, inputs, lambda ranked: ranked[20:28])
    assert compared(original, inputs, trace) == []
    moved = [each._replace(mean=each.mean + 1e-3) for each in trace.iterations]
    assert any("the mean after" in found for found in compared(original, inputs, trace._replace(iterations=moved)))


def test_the_same_elite_twice_is_one_too_few(original: Original, inputs: Inputs) -> None:
    """Elites are different candidates."""
    trace = planned(original, inputs, lambda ranked: ranked[[*range(7), 6]])
    assert "a value by inf" in " ".join(compared(original, inputs, trace))


def test_all_iterations_are_there(original: Original, inputs: Inputs) -> None:
    """A graph that plans fewer iterations differs in everything."""
    trace = planned(original, inputs, lambda ranked: ranked[:8])
    assert len(compared(original, inputs, trace._replace(iterations=trace.iterations[:-1]))) == 5


@pytest.mark.parametrize("off", [1e-3, float("nan"), float("inf")])
def test_values_are_compared_as_such(original: Original, inputs: Inputs, off: float) -> None:
    """Values that are all off by the same, or are no numbers, are a difference, though the elites be the same."""
    trace = planned(original, inputs, lambda ranked: ranked[:8], off=off)
    assert any("a value" in found for found in compared(original, inputs, trace))


@pytest.mark.slow
def test_a_probe_changes_no_bit(graphs_of: Callable[[str], Graphs], tmp_path: Path) -> None:
    """In ONNX Runtime, a graph with probes plans what the graph without them does."""
    source, path = source_of("learned"), tmp_path / bundle.PLANNER
    original, observations = source.original, source.observations
    onnx.save(graphs_of("learned")[bundle.PLANNER], path)
    given = original.feed(case(plan_cases(original, observations[:1, :1], seed=0), 0, 0))
    bare, probed = (load(path, Runtime())(given) for load in (backends.load, probe.load))
    assert all(np.array_equal(bare[name], probed[name]) for name in bundle.DECISION)

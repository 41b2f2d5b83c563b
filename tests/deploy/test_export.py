"""Laws of exported bundles: they plan as their agents do, say what they are, and no wrong one is written."""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

import tdmpc.deploy.export
from tdmpc.actor import Actor
from tdmpc.config import ConfigError
from tdmpc.deploy import backends, bundle
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.contract import golden_plans
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.export import _staged, export
from tdmpc.deploy.graphs import TILE, in_tiles
from tdmpc.deploy.original import ExportConfig, Source, load
from tdmpc.deploy.plan_runner import draw_noise
from tdmpc.deploy.validation import matching_agent, validate
from tdmpc.envs import NOMINAL, make_bare_env, make_env
from tdmpc.macs import planning_macs
from tdmpc.planner import PlanNoise, shift
from tdmpc.runs import load_agent
from tdmpc.world_model import WorldModel
from tests.deploy.conftest import CASES, Exported, train
from tests.tdmpc.conftest import Toy, file_limit

pytestmark = pytest.mark.slow
ONE = Runtime()
ExportCase = Callable[[str], Exported]


def value_all_alike(model: WorldModel) -> None:
    """Every plan is worth the same, up to the smallest differences that single precision knows."""
    for parameter in model.scaled_parameters():
        parameter *= 1e-9
    (*_, bias) = model.components["reward"].parameters()
    bias.fill_(1.0)


def walk(exported: Exported, decisions: int) -> list[tuple[Any, np.ndarray]]:
    """Observations of an episode of random actions, as the environment has them and as the agent does."""
    bare, flat = (make(exported.case.env, action_repeat=1) for make in (make_bare_env, make_env))
    (sensed, _), (observation, _) = bare.reset(seed=5), flat.reset(seed=5)
    pairs, random = [], np.random.default_rng(0)
    for _ in range(decisions):
        pairs.append((sensed, observation))
        share = random.uniform(-1, 1, flat.action_space.shape or ())
        space = bare.action_space
        driven = (space.high + space.low) / 2 + (space.high - space.low) / 2 * share
        sensed, observation = bare.step(driven)[0], flat.step(share.astype(np.float32))[0]
    return pairs


def test_a_bundle_is_compared_without_perturbations(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundle and agent play the same environment, the nominal one, though the agent was trained in others."""

    def trained_so(run: Path, **options: Any) -> Any:
        return load_agent(run, **{"perturb": {"action_noise": 0.5}, **options})

    monkeypatch.setattr("tdmpc.deploy.validation.load_agent", trained_so)
    agent, _ = matching_agent(bundle.read(exported.folder), exported.run)
    assert agent.config.perturb == NOMINAL


def test_a_bundle_plans_as_its_agent(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a robot's own sensors to its own actuators, decision by decision, the controller does what the actor does,
    whatever the delay and the limit on the change of an action.
    """
    controller = Controller.load(exported.folder, on_fault="raise")
    controller.reset(seed=3)
    described = controller.bundle
    agent, step = matching_agent(described, exported.run)
    drawn = np.random.default_rng(3)

    def same_noise(*_: Any, **__: Any) -> PlanNoise:
        noise = {name: np.zeros(shape, np.float32) for name, shape in described.noise_shapes.items()}
        draws = {name: torch.from_numpy(values) for name, values in draw_noise(drawn, noise).items()}
        return PlanNoise(draws["noise_samples"][:, :, None], draws["noise_policy"][:, None])

    monkeypatch.setattr("tdmpc.actor.draw_noise", same_noise)
    actor = Actor(agent, lanes=1, seed=0)
    for sensed, observation in walk(exported, 6):
        action = actor.act(torch.from_numpy(observation)[None], step=step, explore=False)
        expected = bundle.actuate(action[0].numpy(), described.low, described.high)
        assert controller.act(sensed) == pytest.approx(expected, abs=2e-5)
        assert controller.plan is not None
        assert shift(torch.from_numpy(controller.plan)).numpy() == pytest.approx(actor.mean[:, 0].numpy(), abs=1e-5)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.export.delay])
def test_a_pipeline_that_is_quick_enough_does_the_same(export_case: ExportCase, name: str) -> None:
    """A pipelined controller whose plans are ready in time answers as one that waits for them."""
    exported = export_case(name)
    waiting, ahead = (Controller.load(exported.folder, pipelined=each) for each in (False, True))
    for sensed, _ in walk(exported, 6):
        assert ahead.act(sensed).tolist() == waiting.act(sensed).tolist()
        while not ahead._plan_runner.is_free(0.0):
            time.sleep(0.001)
    assert ahead.counters.late == waiting.counters.late == 0
    ahead.close()


@torch.no_grad()
def test_the_policy_is_the_agents(exported: Exported) -> None:
    """``policy.onnx`` takes the sensors and gives the policy's mean action in the actuators' units."""
    described = bundle.read(exported.folder)
    policy = backends.load(described.file(bundle.POLICY), ONE)
    agent, _ = matching_agent(described, exported.run)
    for sensed, observation in walk(exported, 3):
        from tdmpc.deploy import faults

        expected = agent.model.pi(agent.model.encode(torch.from_numpy(observation))).numpy()
        given = policy(faults.read(sensed, described.sensors))["action"]
        assert given == pytest.approx(bundle.actuate(expected, described.low, described.high), abs=1e-5)


def test_with_time_enough_anytime_planning_is_planning(exported: Exported) -> None:
    """Start and iterations, run one by one, plan what the whole graph plans."""
    whole = Controller.load(exported.folder)
    piecewise = Controller.load(exported.folder, deadline_ms=600_000.0)
    for sensed, _ in walk(exported, 4):
        assert piecewise.act(sensed) == pytest.approx(whole.act(sensed), abs=1e-5)
    assert piecewise.counters == whole.counters
    piecewise.close()


def test_parity_is_measured_on_enough_plans(exported: Exported) -> None:
    """At least 100 replayed observations, consecutive ones among them, were compared, and agree to 1e-5."""
    found = exported.manifest["parity"]
    assert found["plans"] >= 100 and found["ties"] <= 0.05 * found["plans"]
    assert max(found[part] for part in ("start", "mean", "std", "policy", "values", "elites")) <= 1e-5
    assert abs(found["regret"]) <= 1e-4 * found["gain"]


def test_golden_plans_are_replayed(exported: Exported) -> None:
    """Golden inputs give the golden actions again, in ONNX Runtime and in OpenVINO."""
    described = bundle.read(exported.folder)
    assert len(list(described.golden())) == described.manifest["golden"]["plans"] > 1
    for backend in ("onnxruntime", "openvino"):
        assert max(plan.action for plan in golden_plans(described, Runtime(backend=backend))) <= 1e-4


def test_a_manifest_says_what_the_bundle_is(exported: Exported) -> None:
    """Environment, sensors, bounds, settings in force, sizes and training are those of the run; nothing is rounded."""
    manifest = json.loads((exported.folder / bundle.MANIFEST).read_text())
    assert manifest == exported.manifest
    agent, step = matching_agent(bundle.read(exported.folder), exported.run)
    spec, asked = agent.spec, exported.case.export
    assert manifest["environment"]["id"] == spec.id
    assert [(item["name"], tuple(item["shape"])) for item in manifest["observation"]] == list(spec.observation_layout)
    assert manifest["action"][0]["low"] == list(spec.action_low) and manifest["action"][0]["high"] == list(
        spec.action_high
    )
    filled = in_tiles(agent.model, spec).config
    assert manifest["macs"] == planning_macs(agent.config.model, spec, agent.config.planner)
    assert manifest["as_run"]["macs"] == planning_macs(filled, spec, agent.config.planner)
    running = bundle.read(exported.folder).macs
    assert sum(manifest["macs"].values()) < running == sum(manifest["as_run"]["macs"].values())
    assert sum(manifest["parameters"].values()) == sum(p.numel() for p in agent.model.parameters())
    assert manifest["training"]["agent_steps"] == step == 40
    assert manifest["planner"]["horizon"] == asked.horizon or {"default": 3, "reference": 1}[exported.case.preset]
    assert manifest["planner"]["iterations"] == (asked.iterations or 2)
    for item in manifest["observation"]:
        assert np.all(np.array(item["seen_low"]) <= np.array(item["seen_high"]))


def test_every_graph_carries_the_manifest(exported: Exported) -> None:
    """ONNX metadata hold the manifest but for the hashes, and graphs nothing of the machine they were made on."""
    stated = {name: value for name, value in exported.manifest.items() if name != "files"}
    for path in exported.folder.glob("*.onnx"):
        graph = onnx.load(path)
        (metadata,) = graph.metadata_props
        assert json.loads(metadata.value) == stated
        assert b".py" not in graph.graph.SerializeToString()
    assert exported.manifest["files"].keys() == {path.name for path in exported.folder.iterdir()} - {bundle.MANIFEST}


def test_weights_are_stored_once(exported: Exported) -> None:
    """However many iterations a planner has, it holds each weight once, in whole tiles."""
    graph = onnx.load(exported.folder / bundle.PLANNER).graph
    model, _, spec = load(exported.run, exported.case.export).original
    parameters = sum(each.numel() for each in in_tiles(model, spec).parameters())
    numbers = sum(int(np.prod(each.dims)) for each in graph.initializer if each.data_type == onnx.TensorProto.FLOAT)
    assert numbers < 2 * parameters


def test_hidden_layers_are_in_whole_tiles(export_case: ExportCase) -> None:
    """No width that pruning left stands in the planner's products, but the one under the value's LayerNorm."""
    exported = export_case("default-pruned-terminates")
    graph, widths = onnx.load(exported.folder / bundle.PLANNER).graph, exported.manifest["widths"]
    shapes = {each.name: tuple(each.dims) for each in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    found = {
        size for node in products for name in node.input for size in shapes.get(name, ()) if len(shapes[name]) == 2
    }
    left = {size for name in ("dynamics", "reward", "termination", "policy") for size in widths[name]}
    left -= {widths["latent"], exported.manifest["action"][0]["shape"][0]}  # these are sizes of inputs, too
    assert left and TILE in found and not left & found


def cached_graphs(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export with the graphs that are there already: what PyTorch makes of the modules is tested above."""
    graphs = {path.name: onnx.load(path) for path in exported.folder.glob("*.onnx")}
    for graph in graphs.values():
        del graph.metadata_props[:]
    monkeypatch.setattr(tdmpc.deploy.export, "export_graphs", lambda *_: dict(graphs))


def test_graphs_of_another_agent_are_refused(
    export_case: ExportCase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A bundle that plans otherwise than its agent is not written, nor any part of it."""
    exported = export_case("default")
    cached_graphs(exported, monkeypatch)

    def tampered(*args: Any) -> Source:
        source = load(*args)
        with torch.no_grad():
            for parameter in source.original.model.components["reward"].parameters():
                parameter *= -1.5
        return source

    monkeypatch.setattr(tdmpc.deploy.export, "load", tampered)
    with pytest.raises(BundleError, match="do not plan as the agent does"):
        export(exported.run, tmp_path / "bundle", ExportConfig())
    assert list(tmp_path.iterdir()) == []


def test_baked_noise_is_the_same_in_every_plan(
    export_case: ExportCase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With baked noise the seed is nothing to the planner, and planning within deadlines is refused."""
    exported = export_case("default")
    cached_graphs(exported, monkeypatch)
    manifest = export(exported.run, tmp_path / "bundle", ExportConfig(noise="baked"))
    controller = Controller.load(tmp_path / "bundle")
    (sensed, _), *_ = walk(exported, 1)
    actions = []
    for seed in (1, 2):
        controller.reset(seed=seed)
        actions.append(controller.act(sensed).tolist())
    assert actions[0] == actions[1]
    assert manifest["noise"]["inputs"] == {}
    assert max(plan.action for plan in golden_plans(controller.bundle, ONE)) <= 1e-5
    with pytest.raises(BundleError, match="export with --noise input to plan within deadlines"):
        Controller.load(tmp_path / "bundle", deadline_ms=5.0)
    found = validate(tmp_path / "bundle", ONE, run=exported.run, episodes=1)
    assert found.max_action_difference <= 1e-5 and found.failures() == []


def test_eight_bits_are_judged_by_what_they_lose(
    export_case: ExportCase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An int8 bundle computes its wide products in eight bits and tells its loss beside two yardsticks."""
    exported = export_case("default")
    cached_graphs(exported, monkeypatch)
    monkeypatch.setattr("tdmpc.deploy.quantization.NARROW", 2)
    manifest = export(exported.run, tmp_path / "bundle", ExportConfig(precision="int8"))
    operators = {node.op_type for node in onnx.load(tmp_path / "bundle" / bundle.PLANNER).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    assert manifest["regret"]["plans"] == manifest["parity"]["plans"]
    assert manifest["regret"]["mean"] <= max(manifest["regret"]["policy"], manifest["regret"]["other_noise"])
    controller = Controller.load(tmp_path / "bundle")
    assert controller.precision == "int8"
    assert max(plan.action for plan in golden_plans(controller.bundle, ONE)) <= 1e-5
    assert controller.bundle.model_id == bundle.read(exported.folder).model_id


def test_eight_bits_that_lose_too_much_are_refused(
    export_case: ExportCase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where eight bits cost more than planning gains over the policy, no bundle is written."""
    exported = export_case("default")
    cached_graphs(exported, monkeypatch)
    monkeypatch.setattr(tdmpc.deploy.export, "regret", lambda *_, **__: dataclasses.replace(REGRET, mean=2.0))
    with pytest.raises(BundleError, match=r"lose 2 of 9; the policy, which costs nothing, loses 1: export .* float32"):
        export(exported.run, tmp_path / "bundle", ExportConfig(precision="int8"))
    assert list(tmp_path.iterdir()) == []


REGRET = tdmpc.deploy.export.Regret(plans=1, mean=0.0, worst=0.0, other_noise=0.5, policy=1.0, value=9.0)


def test_what_cannot_work_is_refused_at_once(export_case: ExportCase, tmp_path: Path) -> None:
    """A folder that exists is never overwritten, and a planner that cannot work is named by its setting."""
    exported = export_case("default")
    before = {path: path.read_bytes() for path in exported.folder.iterdir()}
    with pytest.raises(BundleError, match="never overwritten"):
        export(exported.run, exported.folder, ExportConfig())
    assert {path: path.read_bytes() for path in exported.folder.iterdir()} == before
    with pytest.raises(ConfigError, match=r"^--elites must be at most the 28 candidates"):
        export(exported.run, tmp_path / "bundle", ExportConfig(elites=999))


def test_validation_compares_every_decision(exported: Exported, caplog: pytest.LogCaptureFixture) -> None:
    """In its own environment a bundle decides as its agent does, and returns are those of whole episodes."""
    found = validate(exported.folder, ONE, run=exported.run, episodes=2)
    assert not caplog.records, "a bundle of this version has no settings of another one"
    assert found.max_action_difference <= 1e-5 and found.failures() == []
    assert found.parity is not None and found.parity.plans == found.decisions
    assert found.parity.ties <= 0.05 * found.decisions and len(found.remarks()) == (found.parity.ties > 0)
    assert found.precision == "float32" and found.golden_deviation <= 1e-5
    assert len(found.bundle_returns) == len(found.torch_returns) == 2
    assert found.bundle_returns == pytest.approx(found.torch_returns, rel=0.5)


def test_validation_cuts_episodes_where_training_did(export_case: ExportCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time limit of the run holds for its bundle too."""
    exported = export_case("default")

    def cut(run: Path, **options: Any) -> Any:
        agent, meta = load_agent(run, **options)
        agent.spec = dataclasses.replace(agent.spec, max_episode_steps=4)
        return agent, meta

    monkeypatch.setattr("tdmpc.deploy.validation.load_agent", cut)
    assert validate(exported.folder, ONE, run=exported.run, episodes=2).decisions == 2 * 4


def test_a_divergence_ends_an_episode_of_a_bundle(
    export_case: ExportCase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the simulation diverges an episode of the bundle ends, and that is told."""
    exported, step = export_case("default"), Toy.step

    def diverge(self: Toy, action: np.ndarray) -> Any:
        if self.time == 4:
            raise RuntimeError("bad QACC")
        return step(self, action)

    monkeypatch.setattr(Toy, "step", diverge)
    found = validate(exported.folder, ONE, run=exported.run, episodes=1)
    assert found.decisions == 5 and math.isfinite(found.bundle_returns[0])
    lines = [record.message for record in caplog.records if "the simulation diverged" in record.message]
    assert len(lines) == 2 and all("RuntimeError: bad QACC" in line for line in lines)


def rewrite_planner(folder: Path, operate: Callable[[onnx.GraphProto], object]) -> None:
    """Change a planner and let the manifest say so, as if it had been exported like this."""
    path = folder / bundle.PLANNER
    graph = onnx.load(path)
    operate(graph.graph)
    onnx.save(graph, path)
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    manifest["files"][bundle.PLANNER]["sha256"] = bundle.sha256(path)
    (folder / bundle.MANIFEST).write_text(json.dumps(manifest))


def test_a_planner_that_is_not_its_agents_fails(export_case: ExportCase, copied: Path) -> None:
    """A wrong momentum is found by validation, which names what differs, golden plans among it."""

    def operate(graph: onnx.GraphProto) -> None:
        for each in graph.initializer:
            value = numpy_helper.to_array(each)
            if value.shape == () and value.dtype == np.float32 and np.isclose(value, 0.1):
                each.CopyFrom(numpy_helper.from_array(np.float32(0.11), each.name))

    rewrite_planner(copied, operate)
    failures = " ".join(validate(copied, ONE, run=export_case("default").run, episodes=1).failures())
    assert "the mean after an iteration" in failures and "golden plans come out otherwise" in failures


def test_ties_are_told(export_case: ExportCase, tmp_path: Path) -> None:
    """A bundle of an agent whose elites all tie passes, and validation says what was compared there instead."""
    run = train(CASES["default"], tmp_path / "run", teach=value_all_alike)
    export(run, tmp_path / "bundle", ExportConfig())
    found = validate(tmp_path / "bundle", ONE, run=run, episodes=1)
    assert found.failures() == [] and found.parity is not None and found.parity.ties > 0
    assert "the worst elite and the best non-elite had equal value up to rounding" in found.remarks()[0]
    assert "golden plans" in found.remarks()[1]


def test_reduced_precision_is_judged_by_worth(export_case: ExportCase) -> None:
    """In bfloat16 plans are not compared number by number; validation says so, and what they lose."""
    exported = export_case("default")
    found = validate(exported.folder, Runtime("openvino", precision="auto"), run=exported.run, episodes=1)
    if found.precision == "float32":
        pytest.skip("this processor computes in single precision only")
    assert found.parity is None and found.regret is not None and found.failures() == []
    assert "not compared number by number" in found.remarks()[0]


def test_a_run_that_went_on_is_not_compared(export_case: ExportCase) -> None:
    """A bundle is validated against the agent it was made of, not against a later one or another's."""
    with pytest.raises(BundleError, match=r"was exported from step 40 of a run of deploy/Toy-v0.*Arm3-v0"):
        validate(export_case("default").folder, ONE, run=export_case("reference-terminates").run, episodes=1)


def test_the_cases_cover_what_they_should() -> None:
    """Both presets, with and without termination, pruned and dense, one to six actuators, with and without delay and
    limit of change are exported.
    """
    cases = CASES.values()
    assert {(case.preset, case.terminates) for case in cases} == {
        (preset, terminates) for preset in ("default", "reference") for terminates in (False, True)
    }
    assert len({case.widths for case in cases}) == 2 and len({case.env for case in cases}) == 4
    assert {(bool(case.export.delay), case.max_change is not None) for case in cases} == {
        (delayed, smooth) for delayed in (False, True) for smooth in (False, True)
    }


def test_opset_is_the_one_asked_for(exported: Exported) -> None:
    """The graphs are valid ONNX of the version of operators that was asked for."""
    for path in exported.folder.glob("*.onnx"):
        graph = onnx.load(path)
        onnx.checker.check_model(graph, full_check=True)
        assert [each.version for each in graph.opset_import if not each.domain] == [exported.case.export.opset]
    assert onnxruntime.__version__ == exported.manifest["versions"]["onnxruntime"]


def test_a_bundle_that_finds_no_room_is_named(tmp_path: Path) -> None:
    """Whatever of a bundle cannot be written, the error names the bundle, and nothing of it stays."""
    out = tmp_path / "bundle"
    with file_limit(100), pytest.raises(OSError, match="File too large") as caught, _staged(out) as folder:
        (folder / "planner.onnx").write_bytes(bytes(1000))
    assert caught.value.filename == str(out) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("delay", "says"), [(-1, "at least 0"), (9999, "less than the 1000 decisions of an episode")])
def test_a_delay_that_cannot_be_is_refused(export_case: ExportCase, tmp_path: Path, delay: int, says: str) -> None:
    """A delay below nought, or after which the episode is over, is one line, and nothing is written."""
    with pytest.raises(ConfigError, match=f"--delay must be {says}"):
        export(export_case("reference-pruned").run, tmp_path / "bundle", ExportConfig(delay=delay))
    assert not list(tmp_path.iterdir())

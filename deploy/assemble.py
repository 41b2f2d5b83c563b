"""The ONNX graphs of a bundle: start, iteration and policy as PyTorch exports them, and the planner made out of them.

Start and iteration are exported once from ``tdmpc.planner``. Repeating the iteration here, over one copy of the
weights, gives what an export of the unrolled loop would, several times sooner.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, compose, helper, numpy_helper
from onnxscript import optimizer

from tdmpc.config import ConfigError
from tdmpc.deploy import bundle
from tdmpc.deploy.graphs import BundleGraph, PolicyGraph, RefineGraph, Start, StartGraph, in_rows, in_tiles
from tdmpc.deploy.original import Original

LARGE = 2**30

Graphs = dict[str, ModelProto]

NEXT = {"mean": "new_mean", "std": "new_std"}
"""Inputs of an iteration, and the outputs of the one before that they are."""


def export_graphs(original: Original, opset: int) -> Graphs:
    """The bundle's graphs, by file name.

    Raises:
        ConfigError: PyTorch does not export this version of ONNX's operators.
    """
    model, spec, config = original.model, original.spec, original.settings.planner
    quick, sensors = original._replace(model=in_rows(in_tiles(model, spec))), original.sensors
    proposals = config.policy_trajectories
    plan, proposed = (config.horizon, spec.action_dim), (config.horizon, proposals, spec.action_dim)
    latent, actions = (model.config.latent,), (spec.action_dim,)
    given: bundle.Shapes = {"previous_mean": plan, "noise_policy": proposed}
    state: bundle.Shapes = dict(zip(Start._fields, (latent, proposed, (proposals,), plan, plan), strict=False))
    state["noise"] = (config.horizon, config.samples, *actions)
    if original.settings.takes_committed:
        given[bundle.COMMITTED] = (original.settings.delay + 1, *actions)
    if config.max_change is not None:
        state["before"] = actions
    start = _exported(StartGraph(quick), sensors, given, opset)
    refine = _exported(RefineGraph(quick), {}, state, opset)
    return {
        bundle.START: start,
        bundle.REFINE: refine,
        bundle.PLANNER: unroll(start, refine, iterations=config.iterations),
        bundle.POLICY: _exported(PolicyGraph(quick), sensors, {}, opset),
    }


def _exported(module: BundleGraph, sensors: bundle.Shapes, others: bundle.Shapes, opset: int) -> ModelProto:
    """A module as a graph; it takes its sensors as one tuple, if it has any, and the others one by one."""
    # A tensor for each: one that is given twice would become one input.
    example = [torch.zeros(shape) for shape in others.values()]
    grouped = [tuple(torch.zeros(shape) for shape in sensors.values())] if sensors else []
    with quiet():
        program = torch.onnx.export(
            module.eval(),
            (*grouped, *example),
            dynamo=True,
            input_names=[*sensors, *others],
            output_names=[*module.names],
            opset_version=opset,
            optimize=False,
            verbose=False,
        )
        assert program is not None
        versions = {each.version for each in program.model_proto.opset_import if not each.domain}
        if versions != {opset}:
            raise ConfigError(f"--opset {opset} is not to be had from this version of torch: try --opset 18")
        # Constants of any size are folded: the heads of the ensemble are slices, and only constants are quantised.
        optimizer.optimize_ir(program.model, input_size_limit=LARGE, output_size_limit=LARGE)
    return with_quick_elu(program.model_proto)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' running commentary, and what PyTorch finds outdated in its own code."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)


def unroll(start: ModelProto, refine: ModelProto, *, iterations: int) -> ModelProto:
    """One graph of a start and several iterations, with the outputs of the last one that make a decision.

    Args:
        start: its outputs are inputs of every iteration, by name.
        refine: one iteration; its input ``noise`` becomes a slice of the new graph's input ``noise_samples``.
        iterations: how many.
    """
    inputs = {value.name: value.name for value in start.graph.input}
    nodes, constants = _scoped(start.graph, "start", inputs)
    state = {value.name: f"start/{value.name}" for value in start.graph.output}
    for number in range(iterations):
        scope = f"iteration_{number}"
        index = numpy_helper.from_array(np.array(number), f"{scope}/number")
        nodes.append(helper.make_node("Gather", ["noise_samples", index.name], [f"{scope}/noise"], axis=0))
        added, weights = _scoped(refine.graph, scope, {**state, "noise": f"{scope}/noise"})
        nodes, constants = nodes + added, [*constants, index, *weights]
        state |= {taken: f"{scope}/{given}" for taken, given in NEXT.items()}
    _rename(nodes, {f"iteration_{iterations - 1}/{name}": name for name in bundle.DECISION})
    graph = helper.make_graph(
        nodes,
        "planner",
        [*start.graph.input, _noise_samples(refine.graph, iterations)],
        [value for value in refine.graph.output if value.name in bundle.DECISION],
        _share(nodes, constants),
    )
    return helper.make_model(graph, opset_imports=start.opset_import, ir_version=start.ir_version)


def with_quick_elu(model: ModelProto) -> ModelProto:
    """The graph with ELU as max(x, exp(min(x, 0)) - 1).

    ONNX Runtime's ELU takes nearly as long as the products; the four operators here take half of that. OpenVINO, which
    compiles either, is as quick with both.
    """
    quick = ModelProto()
    quick.CopyFrom(model)
    del quick.graph.node[:]
    quick.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("elu/zero", 0), ("elu/one", 1))
    )
    for node in model.graph.node:
        quick.graph.node.extend(_quick_elu(node) if node.op_type == "Elu" else [node])
    return quick


def _quick_elu(node: NodeProto) -> list[NodeProto]:
    (x,), (y,) = node.input, node.output
    return [
        helper.make_node("Min", [x, "elu/zero"], [f"{y}/negative"]),
        helper.make_node("Exp", [f"{y}/negative"], [f"{y}/exp"]),
        helper.make_node("Sub", [f"{y}/exp", "elu/one"], [f"{y}/curve"]),
        helper.make_node("Max", [x, f"{y}/curve"], [y]),
    ]


def bake(model: ModelProto, values: Mapping[str, np.ndarray]) -> ModelProto:
    """The graph with some of its inputs made constants."""
    baked = ModelProto()
    baked.CopyFrom(model)
    for value in [value for value in baked.graph.input if value.name in values]:
        baked.graph.input.remove(value)
    baked.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    return baked


def finished(model: ModelProto, metadata: Mapping[str, str]) -> ModelProto:
    """The graph with metadata and without what the exporter noted of its own: files and lines of this machine.

    Raises:
        onnx.checker.ValidationError: the graph is not a valid one.
    """
    clean = ModelProto()
    clean.CopyFrom(model)
    del clean.metadata_props[:], clean.graph.metadata_props[:], clean.graph.value_info[:]
    for part in (*clean.graph.node, *clean.graph.input, *clean.graph.output, *clean.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    helper.set_model_props(clean, dict(metadata))
    onnx.checker.check_model(clean, full_check=True)
    return clean


def _scoped(graph: GraphProto, scope: str, known: Mapping[str, str]) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and constants under names of their own, but for those that come from elsewhere."""
    scoped = compose.add_prefix_graph(graph, f"{scope}/")
    nodes = list(scoped.node)
    _rename(nodes, {f"{scope}/{name}": elsewhere for name, elsewhere in known.items()})
    return nodes, list(scoped.initializer)


def _share(nodes: Sequence[NodeProto], constants: Sequence[TensorProto]) -> list[TensorProto]:
    """One constant for each value; the nodes are led to it."""
    kept: dict[tuple[int, tuple[int, ...], bytes], TensorProto] = {}
    names: dict[str, str] = {}
    for constant in constants:
        value = numpy_helper.to_array(constant)
        names[constant.name] = kept.setdefault((constant.data_type, value.shape, value.tobytes()), constant).name
    _rename(nodes, names)
    return list(kept.values())


def _rename(nodes: Sequence[NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        node.input[:] = [names.get(old, old) for old in node.input]
        node.output[:] = [names.get(old, old) for old in node.output]


def _noise_samples(refine: GraphProto, iterations: int) -> onnx.ValueInfoProto:
    (noise,) = (value for value in refine.input if value.name == "noise")
    shape = [size.dim_value for size in noise.type.tensor_type.shape.dim]
    return helper.make_tensor_value_info("noise_samples", TensorProto.FLOAT, [iterations, *shape])

"""Surgery on ONNX graphs: the whole planner out of its start and one iteration.

Both are exported once from ``tdmpc.planner``. Repeating the iteration here, over one copy of the weights, gives what an
export of the unrolled loop would, several times sooner.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

NEXT = {"mean": "new_mean", "std": "new_std"}
"""Inputs of an iteration, and the outputs of the one before that they are."""


def unroll(start: ModelProto, refine: ModelProto, *, iterations: int, outputs: Sequence[str]) -> ModelProto:
    """One graph of a start and several iterations.

    Args:
        start: its outputs are inputs of every iteration, by name.
        refine: one iteration; its input ``noise`` becomes a slice of the new graph's input ``noise_samples``.
        iterations: how many.
        outputs: which outputs of the last iteration the new graph has.
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
    _rename(nodes, {f"iteration_{iterations - 1}/{name}": name for name in outputs})
    graph = helper.make_graph(
        nodes,
        "planner",
        [*start.graph.input, _noise_samples(refine.graph, iterations)],
        [value for value in refine.graph.output if value.name in outputs],
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

    def name(old: str) -> str:
        return known.get(old, f"{scope}/{old}") if old else ""  # an input that is left out has no name

    nodes, constants = [], []
    for node in graph.node:
        copied = NodeProto()
        copied.CopyFrom(node)
        copied.name = f"{scope}/{node.name}" if node.name else ""
        copied.input[:] = map(name, node.input)
        copied.output[:] = [f"{scope}/{output}" if output else "" for output in node.output]
        nodes.append(copied)
    for constant in graph.initializer:
        copied = TensorProto()
        copied.CopyFrom(constant)
        copied.name = name(constant.name)
        constants.append(copied)
    return nodes, constants


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

"""Products in eight bits, with scales calibrated on what a graph is given in use."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from tdmpc.deploy.bundle import Arrays

PRODUCTS = ["Gemm", "MatMul"]
NARROW = 16
"""Products with fewer outputs stay in single precision: they cost little, and are numbers rather than features."""


class _Feeds(CalibrationDataReader):
    """Inputs, one after the other, as the calibration asks for them."""

    def __init__(self, feeds: Sequence[Arrays]) -> None:
        self._feeds: Iterator[Arrays] = iter(feeds)

    def get_next(self) -> Arrays | None:  # pyright: ignore[reportIncompatibleMethodOverride] - its documented end
        return next(self._feeds, None)


def quantized(path: Path, feeds: Sequence[Arrays]) -> onnx.ModelProto:
    """A graph with its products in eight bits, a scale for each output column of a weight.

    Args:
        path: the graph in single precision.
        feeds: inputs to calibrate the ranges of activations on.
    """
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / path.name
        quantize_static(
            path,
            small,
            _Feeds(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=PRODUCTS,
            nodes_to_exclude=_narrow(onnx.load(path).graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(small)


def _narrow(graph: onnx.GraphProto) -> list[str]:
    """Names of the products with few outputs: a weight is stored as outputs x inputs."""
    outputs = {weight.name: weight.dims[0] for weight in graph.initializer if len(weight.dims) == 2}
    products = (node for node in graph.node if node.op_type in PRODUCTS)
    return [node.name for node in products if outputs.get(node.input[1], NARROW) < NARROW]

"""Products in eight bits, with scales calibrated on what a graph is given in use."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from deploy.bundle import Arrays

PRODUCTS = ["Gemm", "MatMul"]


class _Feeds(CalibrationDataReader):
    """Inputs, one after the other, as the calibration asks for them."""

    def __init__(self, feeds: Sequence[Arrays]) -> None:
        self._feeds: Iterator[Arrays] = iter(feeds)

    def get_next(self) -> Arrays | None:
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
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(small)

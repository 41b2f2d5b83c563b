"""Laws of the runtimes: what loading a graph leaves as it was."""

import ctypes
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tdmpc.deploy import backends
from tdmpc.deploy.backends import BACKENDS, BackendName, Runtime


def signal_stack() -> bytes:
    """This thread's stack for signal handlers: address, flags, size."""
    found = ctypes.create_string_buffer(24)
    assert ctypes.CDLL(None).sigaltstack(None, found) == 0
    return found.raw


@pytest.mark.skipif(sys.platform != "linux", reason="stack_t has another layout")
@pytest.mark.parametrize("backend", BACKENDS)
def test_ctrl_c_meets_no_stack_of_a_runtime(backend: BackendName, tmp_path: Path) -> None:
    """A loaded graph leaves no stack for signal handlers behind: freed with the graph, it would crash on Ctrl-C."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "toy", value[:1], value[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "toy.onnx"
    )
    before = signal_stack()
    loaded = backends.load(tmp_path / "toy.onnx", Runtime(backend))
    assert signal_stack() == before, loaded

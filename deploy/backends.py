"""What runs a graph: ONNX Runtime, or OpenVINO. Both are imported only when they are asked for."""

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from tdmpc.deploy import realtime

METADATA = "manifest"
"""Under which name a graph's file keeps the manifest."""

BackendName = Literal["onnxruntime", "openvino"]


@dataclass(frozen=True)
class Runtime:
    """How a graph is run. State it beside every timing."""

    backend: BackendName = "onnxruntime"
    threads: int = 1
    """More threads than free cores make every plan wait for the slowest one."""
    spinning: bool = False
    """Threads of ONNX Runtime that wait busily: quicker to start, and a core is lost to everything else."""
    affinity: tuple[int, ...] = ()
    """Cores to stay on, for this thread and those it starts (Linux); empty leaves the choice to the system."""
    priority: int | None = None
    """Real-time priority, 2 to 99, for this thread and those it starts (Linux, SCHED_FIFO): nothing without one comes
    between. The process needs the right to it; None leaves it to the system."""
    awake: bool = False
    """Keep the cores out of idle states (Linux, /dev/cpu_dma_latency): waking from one takes up to milliseconds. Costs
    power, and the process needs the right to it."""
    precision: Literal["float32", "auto"] = "float32"
    """``auto``: bfloat16 with OpenVINO where the processor has it. Plans differ then: validate them."""

    def below(self) -> "Runtime":
        """For a thread that plans, one priority below: who answers is woken in time even where all share a core."""
        return self if self.priority is None else replace(self, priority=self.priority - 1)


@runtime_checkable
class Graph(Protocol):
    """A loaded graph."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of the inputs, by name."""
        ...

    @property
    def outputs(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the outputs, by name."""
        ...

    manifest: str | None
    """What the file says of itself, as JSON, where it says anything."""
    precision: str
    """In which the backend computes what the graph has in single precision: ``float32`` or ``bfloat16``."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        ...


def load(path: Path, runtime: Runtime) -> Graph:
    """Load a graph.

    Raises:
        ImportError: the backend is not installed; the message says how to.
        BundleError: the cores do not exist, or what else is asked of the system is not to be had.
    """
    realtime.settle(cores=runtime.affinity, priority=runtime.priority, awake=runtime.awake)
    with _same_signal_stack():
        return BACKENDS[runtime.backend](path, runtime)


class OnnxRuntimeGraph:
    """A graph in ONNX Runtime, on the processor."""

    precision = "float32"

    def __init__(self, path: Path, runtime: Runtime) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("controllers need ONNX Runtime: pip install 'tdmpc[deploy]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = runtime.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(runtime.spinning)))
        self._session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
        self.shapes = {value.name: tuple(value.shape) for value in self._session.get_inputs()}
        self.outputs = {value.name: tuple(value.shape) for value in self._session.get_outputs()}
        self.manifest = self._session.get_modelmeta().custom_metadata_map.get(METADATA)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results: Any = self._session.run(list(self.outputs), inputs)
        return dict(zip(self.outputs, results, strict=True))


class OpenVinoGraph:
    """A graph in OpenVINO, on the processor."""

    def __init__(self, path: Path, runtime: Runtime) -> None:
        try:
            import openvino
        except ImportError as error:
            raise ImportError("--backend openvino needs OpenVINO: pip install 'tdmpc[openvino]'") from error
        core = openvino.Core()
        native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bfloat16" if native and runtime.precision == "auto" else "float32"
        settings = {
            "INFERENCE_NUM_THREADS": runtime.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bfloat16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # where to run is `affinity`'s to say
        }
        graph = core.read_model(os.fspath(path))
        # Names of before: a compiled graph may have several for one port.
        self.shapes = {port.get_any_name(): tuple(port.shape) for port in graph.inputs}
        self.outputs = {port.get_any_name(): tuple(port.shape) for port in graph.outputs}
        stated = ["framework", METADATA]
        self.manifest = graph.get_rt_info(stated).astype(str) if graph.has_rt_info(stated) else None
        self._request = core.compile_model(graph, "CPU", settings).create_infer_request()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = self._request.infer(dict(inputs))  # copied: a reading may be read-only
        return {name: results[number] for number, name in enumerate(self.outputs)}


@contextmanager
def _same_signal_stack() -> Iterator[None]:
    """Leave this thread's stack for signal handlers as it was.

    OpenVINO installs one of its own and frees it with the graph, in whichever thread that happens. Python's handlers
    would then run on freed memory: Ctrl-C would end in a segmentation fault.
    """
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(24)  # stack_t: address, flags, size
    known = hasattr(libc, "sigaltstack") and libc.sigaltstack(None, before) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(before, None)


BACKENDS: dict[BackendName, Callable[[Path, Runtime], Graph]] = {
    "onnxruntime": OnnxRuntimeGraph,
    "openvino": OpenVinoGraph,
}

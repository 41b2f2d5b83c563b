"""What runs a graph: ONNX Runtime, or OpenVINO. Both are imported only when they are asked for."""

import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, Protocol, runtime_checkable

import numpy as np

from deploy.bundle import BundleError

METADATA = "manifest"
"""Under which name a graph's file keeps the manifest."""

BackendName = Literal["onnxruntime", "openvino"]
WAKING_LATENCY = Path("/dev/cpu_dma_latency")
"""Where Linux takes wishes for how soon a core is to be awake."""


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
    precision: Literal["fp32", "auto"] = "fp32"
    """``auto``: bfloat16 with OpenVINO where the processor has it. Plans differ then: validate them."""


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
    """In which the backend computes what the graph has in single precision: ``fp32`` or ``bf16``."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name."""
        ...


def load(path: Path, runtime: Runtime) -> Graph:
    """Load a graph.

    Raises:
        ImportError: the backend is not installed; the message says how to.
        BundleError: the cores do not exist, or what else is asked of the system is not to be had.
    """
    pin(runtime.affinity)
    if runtime.awake:
        stay_awake()
    prioritise(runtime.priority)
    return BACKENDS[runtime.backend](path, runtime)


def pin(cores: tuple[int, ...]) -> None:
    """Stay on these cores, with every thread that is started from here on.

    Raises:
        BundleError: the system has no such core, or cannot pin.
    """
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except (AttributeError, OSError, OverflowError, ValueError) as error:
        raise BundleError(f"cannot stay on cores {', '.join(map(str, cores))}: {error}") from error


def prioritise(priority: int | None) -> None:
    """Run at a real-time priority, with every thread that is started from here on.

    Raises:
        BundleError: there is no such priority, or this process may not have it.
    """
    if priority is None:
        return
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError, OverflowError) as error:
        raise BundleError(
            f"cannot run at real-time priority {priority}: {error}. On Linux 2 to 99 are to be had with CAP_SYS_NICE "
            "or an rtprio limit (ulimit -r)"
        ) from error


def stay_awake() -> None:
    """Have all cores answer at once, for as long as this process lives.

    Raises:
        BundleError: the system cannot, or this process may not ask it to.
    """
    try:
        _no_latency()
    except OSError as error:
        raise BundleError(
            f"cannot keep the cores awake: {error}. On Linux this takes the right to write to {WAKING_LATENCY}"
        ) from error


def awake() -> bool:
    """Whether this process keeps the cores awake."""
    return _no_latency.cache_info().currsize > 0


@cache
def _no_latency() -> IO[bytes]:
    """The wish to be woken within 0 us; the system forgets it when the file is closed, so it is kept."""
    file = open(os.open(WAKING_LATENCY, os.O_WRONLY), "wb", buffering=0)  # noqa: SIM115 - never makes a file of its own
    file.write(struct.pack("i", 0))
    return file


class OnnxRuntimeGraph:
    """A graph in ONNX Runtime, on the processor."""

    precision = "fp32"

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
        self.precision = "bf16" if native and runtime.precision == "auto" else "fp32"
        settings = {
            "INFERENCE_NUM_THREADS": runtime.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
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


BACKENDS: dict[BackendName, Callable[[Path, Runtime], Graph]] = {
    "onnxruntime": OnnxRuntimeGraph,
    "openvino": OpenVinoGraph,
}

"""A planner's graph with what it computes on the way as outputs: what a comparison with the agent looks at.

The nodes stay as they are; only their results are handed out. So the graph that is compared is the one that is shipped.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tdmpc.deploy import backends
from tdmpc.deploy.backends import Graph, Runtime
from tdmpc.deploy.bundle import Arrays

try:
    import onnx
    from onnx import ModelProto, TensorProto, helper
except ImportError as error:
    raise ImportError("comparing a bundle with its agent needs ONNX: pip install 'tdmpc[train,export]'") from error

PROBE = "probe/"


class Iteration(NamedTuple):
    """What one iteration of a graph made of the mean and the deviation before it."""

    values: Float[Tensor, "M"]
    """Of its candidates, in model units: the samples, then the policy's plans."""
    elites: Int[Tensor, "K"]
    """Which of them it chose."""
    mean: Float[Tensor, "H A"]
    std: Float[Tensor, "H A"]
    value: Float[Tensor, ""]
    """Of the plan, in the environment's units."""


class Trace(NamedTuple):
    """One plan of a graph, from the latent to the actuators."""

    latent: Float[Tensor, "Z"]
    proposals: Float[Tensor, "H P A"]
    iterations: list[Iteration]
    action: Float[Tensor, "A"]
    """In the actuators' units."""

    @property
    def mean(self) -> Float[Tensor, "H A"]:
        """The plan, in [-1, 1]."""
        return self.iterations[-1].mean


def load(path: Path, runtime: Runtime) -> Graph:
    """A planner's graph with probes; ``trace`` reads them."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        onnx.save(probed(onnx.load(path)), copy)
        return backends.load(copy, runtime)


def trace(outputs: Arrays) -> Trace:
    """The plan that a graph with probes has made."""
    found = {name: torch.from_numpy(value) for name, value in outputs.items()}
    count = sum(name.endswith("/elites") for name in found)
    iterations = [
        Iteration(*(found[f"{PROBE}{number}/{part}"] for part in Iteration._fields)) for number in range(count)
    ]
    return Trace(
        latent=found[f"{PROBE}latent"],
        proposals=found[f"{PROBE}proposals"],
        iterations=[each._replace(values=each.values[0], elites=each.elites[0]) for each in iterations],
        action=found["action"],
    )


def probed(planner: ModelProto) -> ModelProto:
    """The graph with a probe at its latent and its proposals, and at all that an iteration makes."""
    graph = ModelProto()
    graph.CopyFrom(planner)
    choices = [node for node in graph.graph.node if node.op_type == "TopK"]  # one in each iteration
    taps = {"latent": "start/latent", "proposals": "start/proposals"}
    for number, node in enumerate(choices):
        scope = f"iteration_{number}/"
        last = "" if number + 1 == len(choices) else scope  # outputs of the planner
        parts = (node.input[0], node.output[1], f"{last}new_mean", f"{scope}new_std", f"{last}value")
        taps |= {f"{number}/{part}": name for part, name in zip(Iteration._fields, parts, strict=True)}
    for probe, name in taps.items():
        kind = TensorProto.INT64 if probe.endswith("/elites") else TensorProto.FLOAT
        graph.graph.node.append(helper.make_node("Identity", [name], [PROBE + probe]))
        graph.graph.output.append(helper.make_tensor_value_info(PROBE + probe, kind, None))
    return graph

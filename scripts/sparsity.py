"""``tdmpc sparsity``: how compressible the layers of an agent are, and what theory lets go."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from torch import nn
from tyro.conf import Positional

from tdmpc import runs
from tdmpc.compression.error_bounds import Probe, Stage, assess, carry
from tdmpc.compression.tdmpc_agent.networks import run_all
from tdmpc.config import ConfigError
from tdmpc.runs import load_agent, load_replay
from tdmpc.scripts import ranges
from tdmpc.spec import Batch
from tdmpc.world_model import WorldModel

COLUMNS = (
    *("layer", "PQ\nindex", "soft\nspars.", "weights\nleft", "SAP\ndrops", "suffi-\ncient", "needed"),
    *("inputs\nleft", "needed", "output\noff by"),
)


@dataclass(frozen=True)
class SparsityArgs:
    """Measure how compressible each layer is (PQ index, soft sparsity), and how many weights a tolerance needs.

    The bounds hold for inputs no larger than those on replayed windows of the run. These inputs are observations, the
    latents that the dynamics predict from them, the actions taken, and the policy's actions.
    """

    run: Annotated[Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder."""
    tolerance: float = 0.1
    """Largest error of any output of a linear layer, in that layer's own units."""
    pq: tuple[float, float] = (0.5, 1.0)
    """p and q of the PQ index. The other published pair is 1 2."""
    soft_q: float = 0.5
    """q of the soft sparsity, between 0 and 1."""
    windows: int = 2048
    """Number of replayed windows."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(arguments: list[str]) -> int:
    """Parse, look, print."""
    args = tyro.cli(SparsityArgs, args=arguments, prog="tdmpc sparsity")
    ranges.check(args, ConfigError, positive=["tolerance", "windows"])
    _check(args)
    agent, _ = load_agent(args.run, compile=False, device="cpu")
    stages = observe(agent.model, load_replay(args.run, agent).sample(args.windows))
    dense = WorldModel(runs.config(args.run).model, agent.spec)
    report = {
        "env": agent.spec.id,
        **dataclasses.asdict(args),
        "run": str(args.run),
        "components": {name: _component(args, chain, dense.components[name]) for name, chain in stages.items()},
    }
    del report["json"]
    if args.json:
        print(json.dumps(report))
    else:
        _show(report)
    return 0


def _check(args: SparsityArgs) -> None:
    p, q = args.pq
    wrong = {
        f"--pq must be two numbers with 0 < p < q, got {p:g} {q:g}": not 0 < p < q,
        f"--soft-q must be between 0 and 1, got {args.soft_q}": not 0 < args.soft_q < 1,
    }
    problems = [message for message, is_wrong in wrong.items() if is_wrong]
    if problems:
        raise ConfigError("; ".join(problems))


@torch.no_grad()
def observe(model: WorldModel, batch: Batch) -> dict[str, list[Stage]]:
    """The layers of every component with what reaches them on a batch."""
    with Probe(dict(model.components.items())) as probe:
        run_all(model, batch.observations[0], batch.actions)
    return probe.stages()


def _component(args: SparsityArgs, stages: list[Stage], dense: nn.Module) -> dict[str, Any]:
    """The layers of a component, beside their dense shapes, and how far its output is off when all of them are."""
    shapes = {name: parameter.shape for name, parameter in dense.named_parameters()}
    layers = [
        {
            **dataclasses.asdict(layer),
            "inputs_dense": shapes[layer.name][-1],
            "weights_dense": shapes[layer.name].numel(),
        }
        for layer in assess(stages, args.tolerance, p=args.pq[0], q=args.pq[1], soft_q=args.soft_q)
    ]
    return {"layers": layers, "output_error": carry(stages, [args.tolerance] * len(stages)).max().item()}


def _show(report: dict[str, Any]) -> None:
    table = Table(
        *(Column(header, no_wrap=True, justify="left" if header == "layer" else "right") for header in COLUMNS),
        title=f"{report['run']}: what keeps every output of a layer within {report['tolerance']:g}",
        caption="Shares of the weights of a layer as it is; left: of the dense one. SAP: in one round, by neuron. "
        "Sufficient: by soft sparsity alone; needed: by sorting. Output: of the component, off by at most.",
        box=SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    for component, judged in report["components"].items():
        for number, layer in enumerate(judged["layers"], start=1):
            table.add_row(
                f"{component} {number}",
                f"{layer['pq_index']:.2f}",
                f"{layer['soft_sparsity']:.3f}",
                f"{layer['weights'] / layer['weights_dense']:.0%}",
                *(
                    f"{layer[count] / layer['weights']:.0%}"
                    for count in ("sap_neuron", "weights_sufficient", "weights_needed")
                ),
                f"{layer['inputs']}/{layer['inputs_dense']}",
                "-" if layer["inputs_needed"] is None else str(layer["inputs_needed"]),
                f"{layer['output_error']:.2g}",
            )
        table.add_row("all of them", *[""] * 8, f"{judged['output_error']:.2g}", end_section=True)
    Console().print(table)

"""Golden plans: inputs and outputs that a bundle carries, so that any runtime can be held against the export's.

Where elites tie in every plan of an agent, a correct runtime may choose others. So each golden plan is stored with how
far rounding may move it; most are stored with the tolerance of single precision.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tdmpc.deploy import backends, bundle
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.cases import Cases, case
from tdmpc.deploy.original import Inputs, Original
from tdmpc.deploy.parity import TOLERANCE, VALUE_TOLERANCE, Difference
from tdmpc.planner import PlanNoise, Proposals, imagine, propose

GOLDEN_PLANS = 3
COPIES = 8


def write_golden(
    folder: Path, original: Original, cases: Cases, found: Sequence[Difference], *, scale: float
) -> dict[str, Any]:
    """Write the plans that rounding can move least; tell how they lie in the file, and how far it may move them.

    Args:
        folder: of the bundle; its planner plans them.
        original: the agent.
        cases: the plans to choose from.
        found: what their comparison found.
        scale: of values.
    """
    graph = backends.load(folder / bundle.PLANNER, Runtime())
    firmest = sorted(range(len(found)), key=lambda number: -found[number].gap)[:GOLDEN_PLANS]
    places = [divmod(number, cases.observations.shape[1]) for number in firmest]
    plans, allowed = [], []
    for given in (case(cases, *place) for place in places):
        inputs = {name: value for name, value in original.feed(given).items() if name in graph.shapes}
        plans.append((inputs, graph(inputs)))
        allowed.append(movement(original, given, scale=scale))
    parts = [array for inputs, outputs in plans for array in (*inputs.values(), *map(outputs.get, bundle.DECISION))]
    (folder / bundle.GOLDEN).write_bytes(b"".join(part.astype("<f4").tobytes() for part in parts))
    inputs, outputs = plans[0]
    return {
        "plans": len(plans),
        "inputs": {name: list(value.shape) for name, value in inputs.items()},
        "outputs": {name: list(outputs[name].shape) for name in bundle.DECISION},
        "tolerance": [{"action": action, "value": value} for action, value in allowed],
    }


@torch.no_grad()
def movement(original: Original, inputs: Inputs, *, scale: float, seed: int = 0) -> tuple[float, float]:
    """How far rounding may move a plan: its action, in [-1, 1], and its value, in the environment's units.

    The values of all candidates are moved at random, by as much as a graph's may differ, in copies of the plan.
    """
    observation, previous, noise, committed = inputs
    generator = torch.Generator().manual_seed(seed)
    size = VALUE_TOLERANCE * (scale or 1.0)

    def moved(values: Float[Tensor, "D N"]) -> Float[Tensor, "D N"]:
        return values + size * torch.randn(values.shape, generator=generator)

    def proposed(*args: Any, **kwargs: Any) -> Proposals:
        proposals = propose(*args, **kwargs)
        return proposals._replace(values=moved(proposals.values))

    def evaluate(*args: Any, **kwargs: Any) -> Tensor:
        return moved(imagine(*args, **kwargs))

    def expanded(each: Tensor) -> Tensor:
        return each.unsqueeze(-3).expand(*each.shape[:-2], COPIES, -1, -1)

    plans = original.plan(
        observation.expand(COPIES, -1),
        previous[:, None].expand(-1, COPIES, -1),
        PlanNoise(*map(expanded, noise)),
        committed[:, None].expand(-1, COPIES, -1),
        propose=proposed,
        evaluate=evaluate,
    )
    action, value = (4 * (each - each.mean(0)).abs().max().item() for each in (plans.mean[0], plans.value))
    units = original.model.reward_scale.item()
    return max(TOLERANCE, action), units * max(size, value)

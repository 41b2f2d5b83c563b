"""The graphs of a bundle, held against its manifest and its golden plans: what it says of them is what they are."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tdmpc.deploy import backends, bundle
from tdmpc.deploy.backends import Graph, Runtime
from tdmpc.deploy.bundle import Bundle, BundleError, Shapes

UNSAID = ("files", "certificate", "tuning")
"""Parts of a manifest that no graph carries: the first holds their hashes, the others come after them."""


def load(described: Bundle, name: str, runtime: Runtime) -> Graph:
    """Load one of a bundle's graphs.

    Raises:
        BundleError: the file is damaged, or the manifest describes another graph.
        ImportError: the backend is not installed.
    """
    graph = backends.load(described.file(name), runtime)
    check(described, name, graph)
    return graph


def check(described: Bundle, name: str, graph: Graph) -> None:
    """Hold a graph's inputs, outputs and own copy of the manifest against the manifest.

    Raises:
        BundleError: they differ; the message names the part.
    """
    taken, given = described.interface(name)
    _compare(described, name, "input", taken, graph.shapes, whole=name != bundle.REFINE)
    _compare(described, name, "output", given, graph.outputs, whole=False)
    if graph.manifest is not None:
        stated = {part: value for part, value in described.manifest.items() if part not in UNSAID}
        if place := _difference(stated, json.loads(graph.manifest)):
            raise BundleError(
                f"{described.folder / bundle.MANIFEST} is not the one of {name}: {place}. Copy the bundle again, or "
                "export it again: what a manifest says of a graph cannot be changed by hand"
            )


def check_pipeline(described: Bundle, deadline_ms: float | None) -> None:
    """Refuse a pipeline that has no delay to plan in.

    Raises:
        BundleError: the bundle has none, or a deadline is asked for, too.
    """
    if deadline_ms is not None:
        raise BundleError("a pipelined controller answers at once: give deadline_ms or pipelined, not both")
    if not described.delay:
        raise BundleError(
            f"{described.folder} plans for the moment of the observation, and a pipeline answers before it plans. "
            "Export it with --delay 1, or more where a plan takes longer than a control period"
        )


def _compare(
    described: Bundle, name: str, side: str, said: Shapes, found: Mapping[str, tuple[int, ...]], *, whole: bool
) -> None:
    names = [*said, *(found if whole else ())]
    for port in names:
        if said.get(port) != found.get(port):
            shapes = [f"of shape {list(s[port])}" if port in s else "missing" for s in (said, found)]
            raise BundleError(
                f"{described.folder / bundle.MANIFEST} does not fit {name}: {side} {port!r} is {shapes[0]} in the "
                f"manifest and {shapes[1]} in the graph. Copy the bundle again, or export it again"
            )


def _difference(said: Any, carried: Any, place: str = "") -> str | None:
    """The first place where the two differ, with what each has there."""
    if type(said) is type(carried) and isinstance(said, dict | list):
        pairs = _items(said), _items(carried)
        for key in [*pairs[0], *pairs[1]]:
            inside = f"{place}[{key}]" if isinstance(key, int) else f"{place}.{key}".lstrip(".")
            if found := _difference(pairs[0].get(key), pairs[1].get(key), inside):
                return found
        return None
    return None if said == carried or said != said else f"it says {place} is {said!r}, the graph has {carried!r}"


def _items(value: dict[str, Any] | list[Any]) -> dict[Any, Any]:
    return value if isinstance(value, dict) else dict(enumerate(value))


class GoldenPlan(NamedTuple):
    """How far a golden plan comes out from where it was when the bundle was exported, and how far it may."""

    action: float
    """In half widths of the actuators' range."""
    value: float
    """In the environment's units."""
    allowed_action: float
    allowed_value: float

    @property
    def holds(self) -> bool:
        """Whether the runtime plans it, up to rounding."""
        return self.action <= self.allowed_action and self.value <= self.allowed_value


def golden_plans(described: Bundle, runtime: Runtime) -> list[GoldenPlan]:
    """Plan a bundle's golden plans again.

    Raises:
        BundleError: the bundle is damaged.
    """
    graph = load(described, bundle.PLANNER, runtime)
    half = (described.high - described.low) / 2
    found = []
    for (inputs, outputs), allowed in zip(described.golden(), described.golden_tolerances, strict=True):
        made = graph(inputs)
        action, value = (np.abs(made[name] - outputs[name]) for name in ("action", "value"))
        found.append(GoldenPlan(float((action / half).max()), float(value), *allowed))
    return found

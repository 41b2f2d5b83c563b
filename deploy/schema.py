"""What a manifest must hold, part by part: whatever reads a bundle may then rely on it."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple


class Leaf(NamedTuple):
    """A part without parts."""

    expected: str
    holds: Callable[[Any], bool]


class Each(NamedTuple):
    """A mapping with any names, whose parts are all of one kind."""

    kind: Any


class Optional(NamedTuple):
    """A part that older bundles do not have."""

    kind: Any


LARGE = 2**31
"""No count is as large."""


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


TEXT = Leaf("a text", lambda value: isinstance(value, str))
COUNT = Leaf("a whole number of at least 1", lambda value: _whole(value, 1) and value < LARGE)
LIMIT = Leaf("a whole number of at least 1 or null", lambda value: value is None or _whole(value, 1))
STEPS = Leaf("a whole number of at least 0", lambda value: _whole(value, 0))
NUMBER = Leaf("a number", _finite)
MAYBE = Leaf("a number or null", lambda value: value is None or isinstance(value, float) or _finite(value))
PERIOD = Leaf("a positive number or null", lambda value: value is None or (_finite(value) and value > 0))
NUMBERS = Leaf("a list of numbers", lambda value: isinstance(value, list) and bool(value) and all(map(_finite, value)))
TEXTS = Leaf(
    "a list of texts or nulls",
    lambda value: isinstance(value, list) and all(each is None or isinstance(each, str) for each in value),
)
BOUNDS = Leaf(
    "a list of numbers or nulls",
    lambda value: isinstance(value, list) and all(each is None or _finite(each) for each in value),
)
FLAG = Leaf("true or false", lambda value: isinstance(value, bool))
SHAPE = Leaf(
    "a list of whole numbers", lambda value: isinstance(value, list) and all(_whole(size, 0) for size in value)
)
PRECISION = Leaf("float32 or int8", lambda value: value in ("float32", "int8", "fp32"))  # fp32 in format 1
OBJECT = Leaf("an object", lambda value: isinstance(value, dict))

MANIFEST: Mapping[str, Any] = {
    "environment": {
        "id": TEXT,
        "control_period_ms": PERIOD,
        "action_repeat": COUNT,
        "max_episode_steps": Optional(LIMIT),
        "delay": Optional(STEPS),
    },
    "observation": [
        {
            **{"name": TEXT, "input": TEXT, "shape": SHAPE},
            **{"names": Optional(TEXTS), "units": Optional(TEXTS), "low": Optional(BOUNDS), "high": Optional(BOUNDS)},
            "repeats": Optional(FLAG),
        }
    ],
    "action": [{"low": NUMBERS, "high": NUMBERS, "names": Optional(TEXTS), "units": Optional(TEXTS)}],  # one item
    "pose": Optional(Each(NUMBER)),
    "planner": {
        "horizon": COUNT,
        "iterations": COUNT,
        "min_std": NUMBER,
        "discount": NUMBER,
        "max_change": Optional(PERIOD),
    },
    "noise": {"inputs": Each(SHAPE)},
    "precision": PRECISION,
    "widths": OBJECT,
    "macs": Each(NUMBER),
    "as_run": Optional({"macs": Each(NUMBER)}),
    "training": {"run": TEXT, "agent_steps": STEPS, "return_mean": MAYBE},
    "golden": {
        "plans": COUNT,
        "inputs": Each(SHAPE),
        "outputs": Each(SHAPE),
        "tolerance": Optional([{"action": NUMBER, "value": NUMBER}]),
    },
    "certificate": Optional(OBJECT),
    "files": Each({"sha256": TEXT, "bytes": STEPS}),
}
"""Whatever else it holds is for people to read."""


def faults(value: Any, kind: Any = MANIFEST, place: str = "") -> Iterator[str]:
    """What is wrong with a manifest: ``planner.horizon must be a whole number of at least 1, got 0``."""
    if isinstance(kind, Leaf):
        if not kind.holds(value):
            yield f"{place} must be {kind.expected}, got {_short(value)}"
    elif isinstance(kind, list):
        if not isinstance(value, list) or not value:
            yield f"{place} must be a list with something in it, got {_short(value)}"
        else:
            for number, item in enumerate(value):
                yield from faults(item, kind[0], f"{place}[{number}]")
    elif not isinstance(value, dict):
        yield f"{place or 'it'} must be an object, got {_short(value)}"
    else:
        wanted = dict.fromkeys(value, kind.kind) if isinstance(kind, Each) else kind
        for name, part in wanted.items():
            inside = f"{place}.{name}" if place else name
            if name in value:
                yield from faults(value[name], part.kind if isinstance(part, Optional) else part, inside)
            elif not isinstance(part, Optional):
                yield f"{inside} is missing"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."

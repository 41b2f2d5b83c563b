"""Decisions about normal, odd and hostile observations, under each fault policy: at once, within deadlines, pipelined.

The law: an action is single precision, finite and within the bounds of the actuators, or with the policy ``raise`` a
``ControlFault``; nothing else comes out, and the decision after it is as good as any.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc.deploy.bundle import Sensor
from tdmpc.deploy.controller import Controller
from tdmpc.deploy.faults import ControlFault
from tests.attack import native_controller
from tests.attack.cases import Case, dice, scaled
from tests.attack.subject import subject

CALLS = 92_000
BATCH = 500
POLICIES = ("hold", "zero", "prior", "raise")
WAYS: dict[str, dict[str, Any]] = {
    "no-deadline": {},
    **{f"{deadline_ms:g}-ms-deadline": {"deadline_ms": deadline_ms} for deadline_ms in (1e-3, 0.3, 50.0)},
    "pipelined": {"pipelined": True},
}
"""How a controller plans: name, and what ``load`` is told."""


class Rude:
    """Answers no question that one may have about it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("do not touch")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no array")

    def __float__(self) -> float:
        raise ZeroDivisionError

    def __len__(self) -> int:
        raise OSError("gone")

    __getitem__ = __iter__ = __len__


class RudeDict(dict):
    """A mapping that loses its keys when asked for them."""

    def __getitem__(self, key: Any) -> Any:
        raise RuntimeError("the bus is busy")


class RudeArray(np.ndarray):
    """An array that is none."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise MemoryError


HOSTILE: list[Callable[[], Any]] = [
    *(
        partial(lambda value: value, value)
        for value in (None, "", "left", b"\x00", True, 1 + 2j, ..., {}, [], (), set())
    ),
    *(partial(lambda value: value, value) for value in (math.nan, -math.inf, 1e39, 10**400, -(2**70), object, 5e-324)),
    *(
        partial(np.datetime64, "nat"),
        partial(np.timedelta64, 3, "s"),
        partial(np.array, None),
        partial(np.float64, "nan"),
    ),
    *(Rude, RudeDict, lambda: np.zeros(2).view(RudeArray), lambda: [[]], lambda: [[1, 2], [3]], lambda: iter([1, 2])),
    *(lambda: np.ma.masked_array([1.0, 2.0], [True, False]), lambda: memoryview(b"abcdefgh"), lambda: range(2)),
    *(
        lambda: np.array([1, 2], object),
        lambda: np.array(["1", "2"]),
        lambda: np.array([b"1", b"2"]),
        lambda: nested(200),
    ),
    *(lambda: np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]), lambda: np.zeros((0, 3)), lambda: np.zeros(10_000)),
    *(
        lambda: np.array([1 + 1j, 2]),
        lambda: (x for x in "ab"),
        lambda: {"a": {"b": {}}},
        lambda: lambda: 1,
        time.monotonic,
    ),
]


def nested(depth: int) -> Any:
    """A list in a list in a list ..."""
    inner: Any = 1.0
    for _ in range(depth):
        inner = [inner]
    return inner


def cases(seed: int, scale: float) -> Iterator[Case]:
    """Batches of calls, each with a controller of its own; then the controller in C++."""
    for number in range(scaled(CALLS / BATCH, scale)):
        policy, way = POLICIES[number % len(POLICIES)], list(WAYS)[number // len(POLICIES) % len(WAYS)]
        yield Case(f"{policy}-{way}-{number}", partial(batch, policy, way, (seed, number)), BATCH)
    yield from native_controller.cases(seed, scale)


def batch(policy: Any, way: str, words: tuple[object, ...], folder: Path) -> Iterator[str]:
    """A controller's life among observations that the dice choose."""
    chosen, told = dice(*words, policy), set[str]()
    folder = subject().delayed if way == "pipelined" else subject().bundle
    controller = Controller.load(folder, on_fault=policy, max_age_ms=20.0, **WAYS[way])
    try:
        for call in range(BATCH):
            if chosen.random() < 0.02:
                controller.reset(seed=chosen.choice([None, 0, 7]))
            observation, times = observed(controller.bundle.sensors, chosen), clocks(chosen)
            if (fault := outcome(controller, policy, observation, times)) and fault not in told:
                told.add(fault)
                yield f"call {call} of {policy}, {way}, {shown(observation)}, {times}: {fault}"
    finally:
        controller.close()


def outcome(controller: Controller, policy: str, observation: Any, times: dict[str, float]) -> str:
    """What is wrong with a decision; empty where nothing is."""
    try:
        action = controller.act(observation, **times)
    except ControlFault as fault:
        return "" if policy == "raise" else f"ControlFault: {fault}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    low, high = controller.bundle.low, controller.bundle.high
    if not (isinstance(action, np.ndarray) and action.dtype == np.float32 and action.shape == low.shape):
        return f"no action of shape {low.shape} in single precision: {action!r}"
    if not np.isfinite(action).all():
        return f"the action is not finite: {action}"
    return "" if ((low <= action) & (action <= high)).all() else f"the action {action} is beyond {low} to {high}"


def observed(sensors: tuple[Sensor, ...], chosen: random.Random) -> Any:
    """An observation: as it should be, as a board might garble it, or as an enemy would make it."""
    kind = chosen.random()
    if kind < 0.05:
        return chosen.choice(HOSTILE)()
    observation: Any = {}
    for sensor in sensors:
        place, *keys = reversed(sensor.name.split("/"))
        part = observation
        for key in reversed(keys):
            part = part.setdefault(key, {})
        part[place] = reading(sensor.shape, chosen, odd=0.0 if kind < 0.4 else 0.15)
    if kind > 0.97:
        observation.pop(chosen.choice(list(observation)))
    return observation


def reading(shape: tuple[int, ...], chosen: random.Random, odd: float) -> Any:
    """What a sensor gives."""
    values = np.random.default_rng(chosen.getrandbits(32)).normal(size=shape) * chosen.choice(
        [1, 1, 1, 1e-30, 1e6, 1e38]
    )
    if chosen.random() >= odd:
        return chosen.choice(
            [lambda x: x, np.float32, np.ndarray.tolist, lambda x: x.astype(">f8"), np.asfortranarray]
        )(np.asarray(values))
    if chosen.random() < 0.5:
        return chosen.choice(HOSTILE)()
    if chosen.random() < 0.5:
        return chosen.choice([values[None], values.ravel()[:-1], values[..., None], np.repeat(values, 2)])
    return np.where(np.random.default_rng(chosen.getrandbits(32)).random(shape) < 0.5, chosen.choice(BAD), values)


BAD = [math.nan, math.inf, -math.inf, 1e300, 3.4028235e38, -3.4028235e38]


def clocks(chosen: random.Random) -> dict[str, float]:
    """When it was measured and when it was due: now, late, in the future, or at no time at all."""
    now = time.monotonic()
    times = [now, now, now - 0.01, now - 0.5, now + 5, 0.0, -1e300, math.nan, math.inf, -math.inf]
    names = [name for name in ("measured_at", "released_at") if chosen.random() < 0.4]
    return {name: chosen.choice(times[: 3 if chosen.random() < 0.6 else None]) for name in names}


def shown(observation: Any) -> str:
    """An observation in a few words; some do not let themselves be shown."""
    try:
        return " ".join(repr(observation).split())[:200]
    except Exception as error:
        return f"{type(error).__name__} when shown"

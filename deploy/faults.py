"""What can be wrong with a decision, the fault policy, and the reading of sensors, where most faults show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import numpy as np

from tdmpc.deploy.bundle import Arrays, Sensor


class Fault(StrEnum):
    """What can be wrong with a decision."""

    SHAPE = "shape"
    """A sensor is missing, has another shape, or gives no numbers."""
    NONFINITE = "nonfinite"
    """A sensor gives NaN, infinity, or what single precision cannot hold."""
    STALE = "stale"
    """The observation is older than allowed."""
    PLAN = "plan"
    """The plan itself is not finite."""
    RANGE = "range"
    """A sensor reads far outside of what training saw; only where ``Safety.range_margin`` asks."""
    STUCK = "stuck"
    """A sensor repeats itself; only where ``Safety.stuck_ms`` asks."""
    LATE = "late"
    """The deadline passed, and no earlier plan reaches as far as this decision."""


FaultPolicy = Literal["hold", "zero", "prior", "raise"]
"""What a controller does about a fault, its ``on_fault``; ``tdmpc.deploy.controller.Controller`` explains each."""


@dataclass
class Counters:
    """What has happened since a controller was loaded."""

    decisions: int = 0
    iterations: int = 0
    """Of the planner, in plans that were ready in time."""
    late: int = 0
    """Decisions for which no new plan was ready in time."""
    faults: dict[Fault, int] = field(default_factory=lambda: dict.fromkeys(Fault, 0))


class ControlFault(ValueError):
    """Nothing can be planned. A controller raises it only with ``on_fault="raise"``."""

    def __init__(self, fault: Fault, message: str, *, sensor: str | None = None) -> None:
        super().__init__(message)
        self.fault, self.sensor = fault, sensor


def fallback_action(
    policy: FaultPolicy, held: np.ndarray | None, nought: np.ndarray, prior: Callable[[], np.ndarray | None]
) -> np.ndarray:
    """The action that takes the place of a planned one, ``Float32[A]`` in the actuators' units.

    Args:
        policy: ``raise`` holds too, for whoever goes on after the exception.
        held: the action before, if there is one.
        nought: zero, or the bound nearest to it.
        prior: gives the policy's action where there are readings; asked with ``prior`` only, and used where finite.
    """
    if policy == "prior":
        action = prior()
        if action is not None and np.isfinite(action).all():
            return action
    return nought if policy == "zero" or held is None else held


def read(observation: Any, sensors: Sequence[Sensor]) -> Arrays:
    """The inputs of a graph for an observation.

    Args:
        observation: an array, or a mapping or tuple of arrays, nested or by the names of the sensors; anything else of
            it is left alone.
        sensors: what the graph was exported for.

    Raises:
        ControlFault: a sensor is missing, mis-shaped or not finite.
    """
    return {sensor.input: _reading(observation, sensor) for sensor in sensors}


def check_age(now: float, measured_at: float | None, most_ms: float | None) -> None:
    """Refuse what was measured too long ago, in seconds; whatever is not given is not asked.

    Raises:
        ControlFault: it is too old, or was measured at no time at all.
    """
    if measured_at is None or most_ms is None:
        return
    age_ms = 1000 * (now - measured_at)
    if not age_ms <= most_ms:  # NaN is stale too
        raise ControlFault(Fault.STALE, f"the observation is {age_ms:.1f} ms old, allowed are {most_ms}")


def _reading(observation: Any, sensor: Sensor) -> np.ndarray:
    try:
        given = _part(observation, sensor.name) if isinstance(observation, Mapping | tuple) else observation
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told below
            numbers = np.asarray(given)
            if numbers.dtype.kind == "c":
                raise TypeError("complex numbers are no reading")
            reading = numbers.astype(np.float32)
    except ControlFault:
        raise
    except Exception as error:  # whatever an object does on its way to an array
        message = f"sensor {sensor.name!r} gives no array of numbers: {error}"
        raise ControlFault(Fault.SHAPE, message, sensor=sensor.name) from error
    if reading.shape != sensor.shape:
        message = f"sensor {sensor.name!r} must have shape {sensor.shape}, got {reading.shape}"
        raise ControlFault(Fault.SHAPE, message, sensor=sensor.name)
    if not np.isfinite(reading).all():
        message = f"sensor {sensor.name!r} is not finite: {reading.ravel()[:8].tolist()}"
        raise ControlFault(Fault.NONFINITE, message, sensor=sensor.name)
    return reading


def _part(observation: Any, name: str) -> Any:
    """``outer/1`` of ``{"outer": (a, b)}`` is ``b``, and so it is of ``{"outer/1": b}``."""
    if isinstance(observation, Mapping) and name in observation:
        return observation[name]
    part = observation
    for key in name.split("/"):
        try:
            part = part[key] if isinstance(part, Mapping) else part[int(key)]
        except Exception as error:  # whatever an object does when it is asked for a part
            raise ControlFault(Fault.SHAPE, f"the observation has no sensor {name!r}", sensor=name) from error
    return part

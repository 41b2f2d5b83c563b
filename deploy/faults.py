"""What can be wrong with a decision, and the reading of sensors, where most of it shows."""

from collections.abc import Mapping, Sequence
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
    LATE = "late"
    """The deadline passed, and no earlier plan reaches as far as this decision."""


FaultPolicy = Literal["hold", "zero", "prior", "raise"]
"""What a controller does about a fault: its ``on_fault``; ``deploy.controller.Controller`` says what each one does."""


class ControlFault(ValueError):
    """Nothing can be planned. A controller raises it only with ``on_fault="raise"``."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


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
        raise ControlFault(Fault.SHAPE, f"sensor {sensor.name!r} gives no array of numbers: {error}") from error
    if reading.shape != sensor.shape:
        raise ControlFault(Fault.SHAPE, f"sensor {sensor.name!r} must have shape {sensor.shape}, got {reading.shape}")
    if not np.isfinite(reading).all():
        raise ControlFault(Fault.NONFINITE, f"sensor {sensor.name!r} is not finite: {reading.ravel()[:8].tolist()}")
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
            raise ControlFault(Fault.SHAPE, f"the observation has no sensor {name!r}") from error
    return part

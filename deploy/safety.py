"""What a controller adds to its fault policy: suspicious readings, faults that last, blending in, logging."""

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tdmpc.deploy.bundle import Arrays, Bundle, BundleError, actuate
from tdmpc.deploy.faults import ControlFault, Fault

log = logging.getLogger(__name__)

FIRST_S, LONGEST_S = 1.0, 60.0
"""A fault that goes on is logged again after a second, then after twice as long each time, up to a minute."""

Callback = Callable[[ControlFault], object]


@dataclass(frozen=True)
class Safety:
    """What a controller adds to its fault policy (``faults.fallback_action``). Times are rounded up to decisions."""

    hold_ms: float | None = None
    """How long the fault policy goes on while every decision is faulty; None is for ever."""
    on_hold_timeout: Literal["zero"] | tuple[float, ...] = "zero"
    """The action that follows then: nought in the actuators' units or the bound nearest to it, or one that is given."""
    range_margin: float | None = None
    """By how many widths of the range seen in training a reading may lie outside it, before it is a fault."""
    stuck_ms: float | None = None
    """How long a sensor may repeat a reading exactly that never repeated in training, before it is a fault."""
    blend_ms: float = 0.0
    """How long plans come in, in growing parts, after the start of an episode and after a fault."""


class Watch:
    """Whether readings can be, which action is applied, and what is told: all that has to remember faults."""

    def __init__(
        self,
        described: Bundle,
        settings: Safety,
        *,
        callback: Callback | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch a controller.

        Raises:
            BundleError: a setting is out of range, or is in time and the bundle does not tell its period.
        """
        self._settings, self._callback, self._clock = settings, callback, clock
        self._sensors = described.manifest["observation"]
        self._hold, self._stuck, self._blend = (
            _decisions(described, name, getattr(settings, name)) for name in ("hold_ms", "stuck_ms", "blend_ms")
        )
        if settings.range_margin is not None and not settings.range_margin >= 0:
            raise BundleError(f"range_margin must be 0 or more, got {settings.range_margin}")
        low, high = described.low, described.high
        self.nought = np.clip(np.zeros_like(low), low, high)
        """In the actuators' units, or the bound nearest to it."""
        self.safe_action = self.nought if settings.on_hold_timeout == "zero" else _given(described, settings)
        self._middle = actuate(np.zeros_like(low), low, high)
        self._reach = None if described.max_change is None else described.max_change * (high - low) / 2
        self._told: dict[tuple[object, ...], tuple[float, float, float, int]] = {}
        self.reset()

    def reset(self) -> None:
        """An episode begins."""
        self._faulty = self._good = 0
        self._origin = self.safe_action
        self._last: dict[str, tuple[np.ndarray, int]] = {}

    def examine(self, readings: Arrays) -> None:
        """Look at readings that are finite.

        Raises:
            ControlFault: one is out of range or stuck, where that was asked for.
        """
        for sensor in self._sensors:
            reading, name = readings[sensor["input"]], sensor["name"]
            if self._settings.range_margin is not None and "seen_low" in sensor:
                _check_range(name, reading, sensor, self._settings.range_margin)
            if self._stuck is not None and sensor.get("repeats") is False:
                before, count = self._last.get(name, (None, 0))
                count = count + 1 if np.array_equal(reading, before) else 0  # type: ignore[arg-type]
                self._last[name] = reading, count
                if count and count >= self._stuck:
                    message = f"sensor {name!r} has given the same in {count + 1} decisions: is it stuck?"
                    raise ControlFault(Fault.STUCK, message, sensor=name)

    def applied(self, due: np.ndarray, before: np.ndarray | None, *, faulty: bool) -> np.ndarray:
        """What is applied where an action is due; ``before`` is what was, if anything was."""
        action = self._eased(due, before, faulty=faulty)
        if self._reach is None:
            return action
        origin = self._middle if before is None else before
        return np.clip(action, origin - self._reach, origin + self._reach)

    def _eased(self, due: np.ndarray, before: np.ndarray | None, *, faulty: bool) -> np.ndarray:
        """The safe action where faults last, and part of the way where plans come in."""
        if faulty:
            self._faulty, self._good = self._faulty + 1, 0
            return self.safe_action if self._hold is not None and self._faulty > self._hold else due
        if not self._good:
            self._origin = self.safe_action if before is None else before
        self._faulty, self._good = 0, self._good + 1
        return self._origin + np.float32(self.ratio) * (due - self._origin) if self.ratio < 1 else due

    @property
    def ratio(self) -> float:
        """Part of the action that is the plan's, 0 to 1."""
        return min(self._good / self._blend, 1.0) if self._blend else float(self._good > 0)

    def tell(self, found: Iterable[ControlFault]) -> None:
        """Log faults, the first of its kind at once and others at growing intervals; call back for each."""
        for fault in found:
            self.note(fault.fault, fault.sensor, text=str(fault))
            try:
                if self._callback is not None:
                    self._callback(fault)
            except Exception as error:  # a robot goes on whatever its log keeper does
                self.note("callback", text=f"the callback on faults failed: {type(error).__name__}: {error}")

    def note(self, *key: object, text: str) -> None:
        """Log a text, unless one of its key was logged just before."""
        now = self._clock()
        last, due, interval, count = self._told.get(key, (-math.inf, 0.0, FIRST_S, 0))
        if now - last > LONGEST_S:  # it was over
            due, interval, count = now, FIRST_S, 0
        count += 1
        if now >= due:
            log.warning("%s%s", text, f" ({count:,} times so far)" if count > 1 else "")
            due, interval = now + interval, min(2 * interval, LONGEST_S)
        self._told[key] = now, due, interval, count


def _check_range(name: str, reading: np.ndarray, sensor: dict[str, object], margin: float) -> None:
    low, high = (np.asarray(sensor[key], np.float32) for key in ("seen_low", "seen_high"))
    room = np.float32(margin) * (high - low)
    if beyond := np.flatnonzero((reading < low - room) | (reading > high + room)).tolist():
        at = beyond[0]
        place = f"sensor {name!r}" + (f", number {at}," if reading.ndim else "")
        message = f"{place} reads {reading.flat[at]:g}, in training it read {low.flat[at]:g} to {high.flat[at]:g}"
        raise ControlFault(Fault.RANGE, message, sensor=name)


def _decisions(described: Bundle, name: str, ms: float | None) -> int | None:
    if ms is None:
        return None
    if not (ms >= 0 and math.isfinite(ms)):
        raise BundleError(f"{name} must be 0 or more, got {ms}")
    if ms and described.control_period_ms is None:
        raise BundleError(f"{name} is in milliseconds, and {described.folder} does not say how long a decision lasts")
    return math.ceil(ms / described.control_period_ms - 1e-9) if described.control_period_ms else 0


def _given(described: Bundle, settings: Safety) -> np.ndarray:
    low, high, given = described.low, described.high, settings.on_hold_timeout
    action = np.asarray(given, np.float32)
    if action.shape != low.shape or not ((action >= low) & (action <= high)).all():
        raise BundleError(f"on_hold_timeout must be {len(low)} numbers, from {low} to {high}, got {given}")
    return action

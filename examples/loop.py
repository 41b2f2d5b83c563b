"""The loop of a robot: ``python examples/loop.py bundle``. Here the arm's simulation stands in for the robot."""

import gc
import logging
import sys
import time
from typing import Any

import numpy as np

from tdmpc.deploy import Controller, Runtime


class Robot:
    """What to write for a robot of one's own; this one is simulated, and stops after some decisions."""

    def __init__(self, decisions: int = 500) -> None:
        from arm import Arm

        self.simulation, self.left = Arm(), decisions
        self.simulation.reset(seed=1)

    def is_running(self) -> bool:
        """Whether to go on."""
        self.left -= 1
        return self.left >= 0

    def sense(self) -> tuple[dict[str, Any], float]:
        """Readings by the names of the sensors, and when they were measured."""
        return self.simulation.sense(), time.monotonic()

    def actuate(self, torques: np.ndarray) -> None:
        """Give the motors what they are to do, in N m."""
        self.simulation.step(torques)


def control(robot: Any, bundle: str, record: str = "flight.mcap", priority: int | None = None) -> Any:
    """Decide at the bundle's period until the robot says stop, show the counters each second, record all of it."""
    controller = Controller.load(bundle, Runtime(priority=priority), on_fault="hold", pipelined=True, record=record)
    period = controller.bundle.control_period_ms / 1000
    controller.reset(seed=0)
    gc.collect()
    gc.freeze()  # nothing that is there by now is looked through again
    release = shown = time.monotonic()
    try:
        while robot.is_running():
            readings, measured_at = robot.sense()
            robot.actuate(controller.act(readings, measured_at=measured_at))
            if release - shown >= 1:
                shown = release
                print(f"\r{controller.counters}", end="", flush=True)
            release = max(release + period, time.monotonic() - period)  # what was missed is not made up for
            time.sleep(max(release - time.monotonic(), 0.0))
    finally:
        controller.close()  # also writes the record
    return controller.counters


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(control(Robot(), sys.argv[1]))

"""The loop of a robot: ``python loop.py BUNDLE``. It needs ``tdmpc[deploy,record]``, and neither PyTorch nor MuJoCo."""

import gc
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tdmpc.deploy import Controller, Runtime, Safety

DT = 0.02


class Robot:
    """What to write for a robot of one's own. Here two joints that torques turn stand in for the hardware."""

    def __init__(self, decisions: int = 500) -> None:
        self.position, self.velocity, self.left = np.zeros(2), np.zeros(2), decisions

    def is_running(self) -> bool:
        """Whether to go on."""
        self.left -= 1
        return self.left >= 0

    def sense(self) -> tuple[dict[str, Any], float]:
        """Readings by the names of the sensors (rad, rad/s, m), and when they were measured."""
        joints = {"position": self.position, "velocity": self.velocity}
        return {"joints": joints, "mark": np.array([0.25, 0.1])}, time.monotonic()

    def actuate(self, torques: np.ndarray) -> None:
        """Give the motors what they are to do, in N m."""
        self.velocity = self.velocity + DT * (50 * torques - 2 * self.velocity)
        self.position = np.clip(self.position + DT * self.velocity, -2.6, 2.6)


def control(robot: Any, bundle: str, record: str = "flight.mcap", priority: int | None = None) -> Any:
    """Decide at the bundle's period until the robot says stop; show the counters each second, record what happens."""
    controller = Controller.load(
        bundle,
        Runtime(priority=priority),
        pipelined=True,
        record=record,
        expect=Path(__file__).with_name("robot.yaml"),  # another robot than that of training is refused
        on_fault="hold",
        safety=Safety(hold_ms=200, range_margin=1, blend_ms=500),
    )
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
                print(controller.counters, flush=True)
            release = max(release + period, time.monotonic() - period)  # what was missed is not made up for
            time.sleep(max(release - time.monotonic(), 0.0))
    finally:
        controller.close()  # it writes the record, too
    return controller.counters


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(control(Robot(), sys.argv[1]))

"""The law of docs/robot.md: what it shows works as it stands there."""

import re
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tdmpc.scripts.main import main
from tests.conftest import ROOT

QUICK = {
    "train": "--env-steps 700 --random-steps 500 --pretrain-updates 40 --eval-episodes 1 --planner.samples 32 "
    "--planner.elites 8 --batch-size 32 --model.dynamics 32 32 --model.reward 32 32 --model.value 32 32 --threads 1 "
    "--no-video",
    "export": "--iterations 2",
    "validate": "--episodes 1",
}
"""A training short enough for a test; the page has the long one."""


def blocks(language: str) -> list[str]:
    page = (ROOT / "docs" / "robot.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


class Robot:
    """The simulation behind a robot's interface, for a few decisions."""

    def __init__(self, simulation: Any) -> None:
        self.simulation, self.forces = simulation, []
        simulation.reset(seed=0)

    def is_running(self) -> bool:
        return len(self.forces) < 5

    def sense(self) -> tuple[dict[str, np.ndarray], float]:
        return self.simulation.sense(), time.monotonic()

    def actuate(self, force: np.ndarray) -> None:
        self.forces.append(force)
        self.simulation.step(force)


def test_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment trains, its commands run in their order, and its loop controls the robot."""
    environment, loop = blocks("python")
    commands, _ = blocks("sh")
    (tmp_path / "myrobot.py").write_text(environment)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for line in commands.splitlines():
        words = [word for word in shlex.split(line) if word != "PYTHONPATH=."]
        assert words[0] == "tdmpc"
        assert main([*words[1:], *shlex.split(QUICK.get(words[1], ""))]) == 0
    names: dict[str, Any] = {}
    exec(loop, names)
    robot = Robot(__import__("myrobot").Slider())
    counters = names["control"](robot)
    assert counters.decisions == 5 and sum(counters.faults.values()) == 0
    assert all(force.shape == (1,) and abs(force[0]) <= 4 for force in robot.forces)

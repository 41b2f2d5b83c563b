"""The law of docs/robot.md: what it shows works as it stands there."""

import re
import runpy
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from tdmpc.scripts.main import main
from tests.conftest import ROOT

QUICK = {
    "train": "--env-steps 560 --max-episode-steps 40 --random-steps 500 --pretrain-updates 40 --eval-episodes 1 "
    "--planner.samples 32 --planner.elites 8 --batch-size 32 --model.dynamics 32 32 "
    "--model.reward 32 32 --model.value 32 32 --threads 1",
    "play": "--seconds 0.2",
    "export": "--iterations 2",
    "validate": "--episodes 1",
    "latency": "--calls 20 --seconds 0 --periods 10",
}
"""A training short enough for a test, and less of the rest; the page has the long ones."""
EXAMPLES = ROOT / "examples"


def commands() -> list[list[str]]:
    page = (ROOT / "docs" / "robot.md").read_text()
    lines = "".join(re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)).splitlines()
    return [[word for word in shlex.split(line) if word != "PYTHONPATH=."] for line in lines]


def test_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Its commands run in their order, from the arm's description to a recorded loop that replays bit for bit."""
    folder = shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ran = set()
    for program, *words in commands():
        ran.add(f"{program} {words[0]}")
        if program == "tdmpc":
            assert main([*words, *shlex.split(QUICK.get(words[0], ""))]) == 0, words
        elif program == "python":
            monkeypatch.setattr("sys.argv", words)
            runpy.run_path(words[0], run_name="__main__")
    assert {"tdmpc train", "tdmpc export", "tdmpc latency", "python loop.py", "tdmpc replay"} <= ran
    shown = capsys.readouterr().out
    assert "Counters(decisions=500" in shown and "500 decisions in flight.mcap" in shown
    assert shown.count("compared, 0 differ") == 2
    assert (folder / "arm.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_arm_is_another_one_in_each_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed decides an episode of the arm; friction, masses, start and mark of another seed are other ones."""
    monkeypatch.syspath_prepend(EXAMPLES)
    arm = __import__("arm").Arm()
    seen = []
    for seed in (1, 2, 1):
        observation, _ = arm.reset(seed=seed)
        model = arm.model.dof_damping, arm.model.body_mass, arm.model.body_inertia.ravel()
        seen.append(np.concatenate([*observation["joints"].values(), observation["mark"], *model]))
        assert arm.observation_space.contains(observation)
        assert arm.observation_space.contains(arm.step(arm.action_space.sample())[0])
    assert np.array_equal(seen[0], seen[2]) and not np.array_equal(seen[0], seen[1])

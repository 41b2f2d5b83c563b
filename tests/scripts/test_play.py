"""Laws of ``tdmpc play``: a film of each that decides, pushes that push, keys that switch."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest

from tdmpc.envs import make_env
from tdmpc.scripts import play
from tdmpc.scripts.main import main
from tdmpc.scripts.play import Decider, PlayArgs, Stage, draw_fan

INVERTED = "InvertedPendulum-v5"


def test_a_film_shows_each_in_turn(
    trained: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planner and policy of a run, and its bundle, play one after the other, and it is told when."""
    film = tmp_path / "play.mp4"
    options = ["--agents", str(exported), "--decide", "planner", "prior", "--seconds=0.2", f"--video={film}"]
    assert main(["play", str(trained), *options]) == 0
    shown = capsys.readouterr().out
    assert f"from 0 s: the planner of {trained}\nfrom 0.2 s: the policy of {trained}\nfrom 0.4 s: the bundle" in shown
    assert imageio_ffmpeg.count_frames_and_secs(str(film))[0] == 4 * round(0.2 * 30)


def test_what_has_no_model_is_not_pushed(trained: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    """A push of a task without a MuJoCo model is refused before anything is played."""
    assert "has no MuJoCo model" in fails("play", str(trained), "--push=1", f"--video={tmp_path / 'a.mp4'}")
    assert not (tmp_path / "a.mp4").exists()


@pytest.fixture
def stage() -> Any:
    """A pole on a cart that nothing drives, and two that take turns."""
    calls: list[str] = []
    idle: dict[str, Any] = {
        "env_id": INVERTED,
        "options": {},
        "period_s": 0.04,
        "act": lambda _: np.zeros(1, np.float32),
    }
    deciders = [
        Decider(name=name, reset=lambda name=name: calls.append(name), fan=lambda _: np.zeros((0, 2)), **idle)
        for name in "ab"
    ]
    env = make_env(INVERTED)
    yield SimpleNamespace(stage=Stage(env, deciders, PlayArgs(Path(), strength=3.0)), calls=calls)
    env.close()


def test_keys_push_switch_and_start_anew(stage: Any) -> None:
    """Space moves a body for a tenth of a second, Enter has the next one decide, Home begins an episode; all from the
    next decision on, because the viewer calls from a thread of its own."""
    stage, calls = stage.stage, stage.calls
    stage.decide()
    assert calls == ["a"] and not stage.data.xfrc_applied.any()
    stage.key(play.SPACE)
    forces = []
    for _ in range(5):
        forces.append(float(np.linalg.norm(stage.data.xfrc_applied)))
        stage.decide()
    weight = 9.81 * stage.model.body_mass.sum()
    assert forces == pytest.approx([0] + [3 * weight] * 2 + [0] * 2)
    stage.key(play.ENTER)
    assert stage.decider.name == "a"
    stage.decide()
    assert calls[-1] == "b" and stage.decider.name == "b"
    stage.key(play.HOME)
    stage.key(ord("X"))  # other keys are the viewer's own
    before = stage.data.time
    stage.decide()
    assert stage.data.time < before and calls[-1] == "b"


def test_a_fan_rises_with_the_return() -> None:
    """In a fan, a larger return stands higher, the plan is orange, and all outside of the corner is left alone."""
    picture = draw_fan(np.zeros((200, 300, 3), np.uint8), np.array([[0.0, 1.0], [0.0, -1.0]]))
    orange = np.argwhere((picture == (230, 120, 0)).all(-1))
    grey = np.argwhere((picture == (90, 110, 150)).all(-1))
    assert orange[orange[:, 1] > 100, 0].max() < grey[grey[:, 1] > 100, 0].min()
    assert not picture[:59].any() and not picture[:, 141:].any()
    assert not draw_fan(np.zeros((9, 9, 3), np.uint8), np.zeros((0, 2))).any()

"""Laws of a run's film: first the agent as it was, then as it is, in 640 x 480."""

from pathlib import Path

import numpy as np
import pytest

from tdmpc import runs
from tdmpc.envs import make_env
from tdmpc.evaluation import Evaluation, frame_rate
from tdmpc.runs import load_agent
from tdmpc.scripts import film


def test_the_untrained_agent_comes_first(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds, or an episode that is shorter, of an agent with other weights go before the recorded episode."""
    agents, written = [], []
    evaluate = film.evaluate

    def seen(agent: object, **settings: object) -> Evaluation:
        agents.append(agent)
        return evaluate(agent, **settings)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(film, "evaluate", seen)
    monkeypatch.setattr(film, "write_video", lambda path, frames, fps: written.append((frames, fps)))
    monkeypatch.setattr(film, "SECONDS", 0.1)
    spec, recorded = runs.spec(trained), (np.full((8, 8, 3), 200, np.uint8),)
    film.write_film(tmp_path / "film.mp4", Evaluation((1.0,), (1,), (1.0,), recorded), runs.config(trained), spec)
    ((frames, fps),) = written
    assert fps == frame_rate(spec) and len(frames) == 3 + 1 and frames[-1] is recorded[0]
    mine, today = agents[0].model.state_dict(), load_agent(trained)[0].model.state_dict()
    assert any((mine[name] != today[name]).any() for name in mine if name.endswith("weight"))


@pytest.mark.parametrize("env_id", ["reacher-easy", "InvertedPendulum-v5"])
def test_pictures_of_mujoco_are_large(env_id: str) -> None:
    """Pictures of dm_control's and of Gymnasium's MuJoCo tasks have 640 x 480 pixels."""
    env = make_env(env_id, render=True)
    env.reset(seed=0)
    assert env.render().shape == (480, 640, 3)
    env.close()

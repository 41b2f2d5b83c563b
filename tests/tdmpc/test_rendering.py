"""Laws of pictures, and of doing without."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from tdmpc.env_names import UnsupportedEnvironment
from tdmpc.envs import make_env
from tests.tdmpc.env_toys import Toy


def test_dm_control_is_imported_on_demand_and_quietly() -> None:
    """Without dm_control until one of its tasks is asked for, then without a word of displays and nothing printed."""
    program = (
        "import sys, os; from tdmpc.envs import make_env\n"
        "make_env('Pendulum-v1').close(); assert 'dm_control' not in sys.modules and 'MUJOCO_GL' not in os.environ\n"
        "sys.modules['labmaze'] = None  # as on Python 3.13\n"
        "make_env('cartpole-swingup').close(); assert os.environ['MUJOCO_GL'] in ('egl', 'off')\n"
    )
    headless = {key: os.environ[key] for key in os.environ if key not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")}
    done = subprocess.run([sys.executable, "-c", program], env=headless, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "DISPLAY" not in done.stderr and "locomotion" not in done.stderr


def test_a_module_that_imports_mujoco_draws_without_a_screen(tmp_path: Path) -> None:
    """A user's module may import MuJoCo, whose renderer is chosen at that moment: it draws without a display."""
    (tmp_path / "robot.py").write_text(
        "import gymnasium, mujoco\n"
        "model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size=\"1\"/></worldbody></mujoco>')\n"
        "class Robot(gymnasium.Env):\n"
        "    def __init__(self): mujoco.Renderer(model, 8, 8).close()\n"
        "    action_space = observation_space = gymnasium.spaces.Box(-1, 1, (1,))\n"
        "gymnasium.register('Robot-v0', Robot, max_episode_steps=9)\n"
    )
    program = "import os; from tdmpc.envs import make_env; make_env('robot:Robot-v0'); print(os.environ['MUJOCO_GL'])"
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {key: os.environ[key] for key in os.environ if key not in hidden} | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "egl\n", done.stderr


def test_triton_is_loaded_before_a_renderer(tmp_path: Path) -> None:
    """The LLVM of Mesa, which a renderer loads, would crash that of Triton."""
    (tmp_path / "triton.py").write_text("import sys; early = not sys.modules.keys() & {'OpenGL', 'dm_control'}")
    program = (
        "import sys; from tdmpc.envs import make_env; make_env('cartpole-swingup'); import triton; print(triton.early)"
    )
    environment = {key: os.environ[key] for key in os.environ if key != "MUJOCO_GL"} | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_a_renderer_that_does_not_work_is_said() -> None:
    """Where MUJOCO_GL names a renderer that breaks dm_control, the error says so and how to do without."""
    program = (
        "from tdmpc.env_names import UnsupportedEnvironment, resolve\n"
        "try: resolve('cartpole-swingup')\n"
        "except UnsupportedEnvironment as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"MUJOCO_GL": "magic"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "MUJOCO_GL=off" in done.stdout


def test_no_way_to_render_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for pictures where MuJoCo has no renderer fails when the environment is made, with what to install."""
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(UnsupportedEnvironment, match="libegl1"):
        make_env("Hopper-v5", render=True)


def test_an_environment_without_pictures_is_said(register: Callable[..., str]) -> None:
    """Asking for pictures of an environment that draws none is one error."""
    with pytest.raises(UnsupportedEnvironment, match="no render mode 'rgb_array'"):
        make_env(register(Toy), render=True)


@pytest.mark.skipif(os.environ.get("MUJOCO_GL") != "egl", reason="needs EGL")
@pytest.mark.parametrize("name", ["cartpole-swingup", "Hopper-v5"])
def test_pictures_are_colour_images(name: str) -> None:
    """With render=True an environment returns its picture."""
    with closing(make_env(name, render=True)) as env:
        env.reset(seed=0)
        picture = env.render()
    assert isinstance(picture, np.ndarray)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.std() > 0

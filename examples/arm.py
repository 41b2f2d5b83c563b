"""A robot of one's own: a two-link arm described in XML, that is to hold its tip on a mark.

PYTHONPATH=examples tdmpc train arm:Arm-v0 --delay 1
"""

from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

FRAMES = 10
"""Steps of the simulation for each decision."""


def box(size: int, bound: float) -> spaces.Box:
    """Readings, as many as ``size``, within ``-bound`` and ``bound``."""
    return spaces.Box(-bound, bound, (size,), np.float32)


class Arm(gym.Env):
    """Sensors and motors in their own units; friction and masses are other ones in each episode."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 - as Gymnasium has it
    observation_space = spaces.Dict(
        {
            "joints": spaces.Dict({"position": box(2, np.pi), "velocity": box(2, 20)}),  # rad, rad/s
            "mark": box(2, 0.5),  # m, from the shoulder
        }
    )

    def __init__(self, render_mode: str | None = None) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("arm.xml")))
        self.data = mujoco.MjData(self.model)
        self.dt = FRAMES * self.model.opt.timestep  # seconds between two decisions
        low, high = self.model.actuator_ctrlrange.T.astype(np.float32)
        self.action_space = spaces.Box(low, high, dtype=np.float32)  # N m
        self.nominal = [
            values.copy() for values in (self.model.dof_damping, self.model.body_mass, self.model.body_inertia)
        ]
        self.render_mode, self.renderer = render_mode, None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        draw, (damping, mass, inertia) = self.np_random, self.nominal
        heavier = draw.uniform(0.8, 1.2, mass.shape)
        self.model.dof_damping[:] = damping * draw.uniform(0.5, 1.5, damping.shape)
        self.model.body_mass[:], self.model.body_inertia[:] = mass * heavier, inertia * heavier[:, None]
        mujoco.mj_setConst(self.model, self.data)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = draw.uniform(-0.5, 0.5, 2)
        radius, angle = draw.uniform(0.15, 0.35), draw.uniform(-np.pi / 2, np.pi / 2)
        self.data.mocap_pos[0, :2] = self.mark = radius * np.array([np.cos(angle), np.sin(angle)])
        mujoco.mj_forward(self.model, self.data)
        return self.sense(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, FRAMES)
        distance = np.linalg.norm(self.data.site("tip").xpos[:2] - self.mark)
        return self.sense(), float(np.exp(-10 * distance)), False, False, {}

    def sense(self) -> dict[str, Any]:
        """What the encoders read, and where the mark is; noise is ``--perturb.observation-noise``'s business."""
        joints = {"position": self.data.qpos, "velocity": np.clip(self.data.qvel, -20, 20)}
        readings = {name: values.astype(np.float32) for name, values in joints.items()}
        return {"joints": readings, "mark": self.mark.astype(np.float32)}

    def render(self) -> np.ndarray:
        """A picture from above."""
        if self.renderer is None:
            self.renderer = mujoco.Renderer(self.model, 480, 640)
        self.renderer.update_scene(self.data, camera="above")
        return self.renderer.render()


gym.register("Arm-v0", entry_point=Arm, max_episode_steps=200)

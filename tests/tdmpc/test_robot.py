"""Laws of what an environment tells of its numbers: names, units and bounds, whoever built it."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from tdmpc.envs import describe


def test_a_dm_control_task_is_told_by_its_model() -> None:
    """Numbers that are a joint's position, its cosine or its velocity have its name and unit, and its limits."""
    spec = describe("cartpole-swingup", terminates=False)
    told = [(channel.name, channel.unit) for channel in spec.readings]
    assert told == [
        ("slider", "m"),
        ("cos(hinge_1)", "1"),
        ("sin(hinge_1)", "1"),
        ("slider", "m/s"),
        ("hinge_1", "rad/s"),
    ]
    assert (spec.readings[0].low, spec.readings[0].high, spec.readings[3].low) == (-1.8, 1.8, None)
    assert [channel.name for channel in spec.actuators] == ["slide"] and dict(spec.pose)["hinge_1"] == 0


def test_a_gymnasium_task_is_told_by_its_model() -> None:
    """So it is where one array holds positions and velocities, and an actuator without a name has its joint's."""
    spec = describe("Hopper-v5", terminates=True)
    told = [(channel.name, channel.unit) for channel in spec.readings]
    assert told[1:5] == [("rooty", "rad"), ("thigh_joint", "rad"), ("leg_joint", "rad"), ("foot_joint", "rad")]
    assert told[-1] == ("foot_joint", "rad/s")
    assert [channel.name for channel in spec.actuators] == ["thigh_joint", "leg_joint", "foot_joint"]


class Arm(gym.Env):
    """It says what its numbers are."""

    observation_space = Dict({"joints": Box(-3, 3, (2,), np.float32), "load": Box(-np.inf, np.inf, (), np.float32)})
    action_space = Box(-1, 1, (2,), np.float32)

    @property
    def contract(self):
        return {
            "sensors": {"joints": {"names": ["shoulder", "elbow"], "unit": "rad"}, "load": {"unit": "kg", "low": 0.0}},
            "actuators": {"names": ["shoulder", "elbow"], "unit": ["N m", "N"]},
            "pose": {"elbow": 0.5},
        }

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return {"joints": np.zeros(2, np.float32), "load": np.float32(0)}, {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


@pytest.fixture
def arm() -> str:
    gym.register("Arm-v0", entry_point=Arm, max_episode_steps=10)
    yield "Arm-v0"
    del gym.registry["Arm-v0"]


def test_what_an_environment_says_goes_first(arm: str) -> None:
    """An attribute ``contract`` names numbers and units; bounds that it does not tell are those of the space."""
    spec = describe(arm, terminates=False)
    assert [(each.name, each.unit, each.low) for each in spec.readings] == [
        ("shoulder", "rad", -3.0),
        ("elbow", "rad", -3.0),
        ("0", "kg", 0.0),
    ]
    assert [(each.name, each.unit, each.high) for each in spec.actuators] == [
        ("shoulder", "N m", 1.0),
        ("elbow", "N", 1.0),
    ]
    assert spec.pose == (("elbow", 0.5),)

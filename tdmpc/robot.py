"""What an environment calls the numbers of its observations and actions, and in which units they are.

It may say so itself, by an attribute ``contract`` (docs/deployment.md). Otherwise its MuJoCo model tells, whoever built
the environment: a number of an observation that equals a joint's position throughout random play is that position.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

from tdmpc.env_faults import Sensor
from tdmpc.perturbation import physics
from tdmpc.spec import Channel

STEPS = 32
"""Of random play, from which a number of an observation is told."""
UNITS = {
    "m": "RANGEFINDER FRAMEPOS SUBTREECOM TENDONPOS",
    "m/s": "VELOCIMETER FRAMELINVEL SUBTREELINVEL TENDONVEL",
    "m/s^2": "ACCELEROMETER FRAMELINACC",
    "rad/s": "GYRO BALLANGVEL FRAMEANGVEL",
    "rad/s^2": "FRAMEANGACC",
    "N": "TOUCH FORCE",
    "N m": "TORQUE",
    "s": "CLOCK",
}
"""Units of MuJoCo's sensors, by the names of their types."""


class Robot(NamedTuple):
    """As the fields of ``EnvSpec`` have it."""

    readings: tuple[Channel, ...]
    actuators: tuple[Channel, ...]
    pose: tuple[tuple[str, float], ...]


class _Quantity(NamedTuple):
    """What a model calls one of its numbers."""

    channel: Channel
    value: float


def describe(env: gym.Env, sensors: Sequence[Sensor], actuators: Box) -> Robot:
    """Name the numbers of flat observations and actions.

    Args:
        env: with flat observations ``Float32[O]`` and actions in [-1, 1]; a few random steps are made in it.
        sensors: of the bare environment, in the order in which they are flattened.
        actuators: its bare action space.
    """
    readings = [channel for sensor in sensors for channel in _bounded(sensor.space)]
    driven, pose = _bounded(actuators), {}
    model, _ = physics(env)
    if model is not None:
        known = _recognised(env)
        readings = [_merged(channel, known.get(number)) for number, channel in enumerate(readings)]
        if model.nu == len(driven):
            named = [_actuator(model, number) for number in range(model.nu)]
            driven = [replace(own, name=name, unit=unit) for own, (name, unit) in zip(driven, named, strict=True)]
        pose = dict(_pose(model))
    own = getattr(env.unwrapped, "contract", {})
    parts = np.cumsum([0, *(int(np.prod(sensor.space.shape or ())) for sensor in sensors)])
    for sensor, begin, end in zip(sensors, parts, parts[1:], strict=False):
        readings[begin:end] = _as_told(readings[begin:end], own.get("sensors", {}).get(sensor.name, {}))
    driven = _as_told(driven, own.get("actuators", {}))
    pose |= {name: float(value) for name, value in own.get("pose", {}).items()}
    return Robot(tuple(readings), tuple(driven), tuple(pose.items()))


def _bounded(space: Any) -> list[Channel]:
    bounds = zip(np.ravel(space.low).tolist(), np.ravel(space.high).tolist(), strict=True)
    return [Channel(str(number), None, _finite(low), _finite(high)) for number, (low, high) in enumerate(bounds)]


def _finite(value: float) -> float | None:
    return value if abs(value) < 1e30 else None  # some write the largest number for no bound


def _merged(own: Channel, known: Channel | None) -> Channel:
    """The bounds of the space go before those of the model."""
    if known is None:
        return own
    low = known.low if own.low is None else own.low
    return replace(known, low=low, high=known.high if own.high is None else own.high)


def _as_told(channels: list[Channel], told: Mapping[str, Any]) -> list[Channel]:
    """What the environment says of itself goes before everything: ``names``, ``unit``, ``low``, ``high``."""
    fields = {"names": "name"}
    for key, value in told.items():
        values = value if isinstance(value, list | tuple) else [value] * len(channels)
        pairs = zip(channels, values, strict=True)
        channels = [replace(channel, **{fields.get(key, key): each}) for channel, each in pairs]
    return channels


# MuJoCo ----------------------------------------------------------------------------------------------------------


def _recognised(env: gym.Env) -> dict[int, Channel]:
    """The numbers of an observation that are quantities of the model, by their index."""
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    seen, told = [observation], [list(_quantities(*physics(env)))]
    for _ in range(STEPS):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()
        seen.append(observation)
        told.append(list(_quantities(*physics(env))))
    values = np.array([[quantity.value for quantity in step] for step in told])
    same = np.isclose(np.array(seen)[:, :, None], values[:, None], rtol=1e-5, atol=1e-6).all(0)
    same &= values.std(0) > 1e-6  # what stands still could be anything
    return {number: told[0][same[number].argmax()].channel for number in np.flatnonzero(same.any(1)).tolist()}


def _quantities(model: Any, data: Any) -> Iterator[_Quantity]:
    """Positions and velocities of joints, sensors, and places of bodies, in the order in which they are looked for."""
    for number in range(model.njnt):
        yield from _joint(model.joint(number), data)
    for number in range(model.nsensor):
        sensor = model.sensor(number)
        unit = _sensor_unit(model, number)
        values = data.sensordata[sensor.adr[0] : sensor.adr[0] + sensor.dim[0]]
        for place, value in enumerate(values):
            name = sensor.name if len(values) == 1 else f"{sensor.name}/{place}"
            yield _Quantity(Channel(name, unit, None, None), value)
    for number in range(1, model.nbody):
        body, turned = model.body(number).name or f"body {number}", data.xmat[number]
        for axis, value in zip("xyz", data.xpos[number], strict=True):
            yield _Quantity(Channel(f"{body} {axis}", "m", None, None), value)
        for place, value in enumerate(turned):
            yield _Quantity(Channel(f"{body} {'xyz'[place // 3]}{'xyz'[place % 3]}", "1", -1.0, 1.0), value)


def _joint(joint: Any, data: Any) -> Iterator[_Quantity]:
    kind = int(joint.type[0])
    name = joint.name or f"joint {joint.id}"
    positions = data.qpos[joint.qposadr[0] :]
    velocities = data.qvel[joint.dofadr[0] :]
    if kind in (FREE, BALL):
        places = [*(("xyz", "m"),) * (kind == FREE), ("wabc", "1")]
        turns = [*(("xyz", "m/s"),) * (kind == FREE), (("about x", "about y", "about z"), "rad/s")]
        for values, parts in ((positions, places), (velocities, turns)):
            labels = [(label, unit) for letters, unit in parts for label in letters]
            for (label, unit), value in zip(labels, values, strict=False):
                yield _Quantity(Channel(f"{name} {label}", unit, None, None), value)
        return
    unit, limited = "rad" if kind == HINGE else "m", bool(joint.limited[0])
    low, high = joint.range.tolist() if limited else (None, None)
    yield _Quantity(Channel(name, unit, low, high), positions[0])
    yield _Quantity(Channel(name, f"{unit}/s", None, None), velocities[0])
    if kind == HINGE:
        yield _Quantity(Channel(f"cos({name})", "1", -1.0, 1.0), np.cos(positions[0]))
        yield _Quantity(Channel(f"sin({name})", "1", -1.0, 1.0), np.sin(positions[0]))


FREE, BALL, SLIDE, HINGE = range(4)
"""Types of joints, as MuJoCo numbers them."""


def _sensor_unit(model: Any, number: int) -> str | None:
    kind = import_module("mujoco").mjtSensor(int(model.sensor_type[number])).name.removeprefix("mjSENS_")
    if kind in ("JOINTPOS", "JOINTVEL"):
        unit = "rad" if model.jnt_type[model.sensor_objid[number]] == HINGE else "m"
        return unit if kind == "JOINTPOS" else f"{unit}/s"
    return next((unit for unit, kinds in UNITS.items() if kind in kinds.split()), None)


def _actuator(model: Any, number: int) -> tuple[str, str | None]:
    """Name and unit: a motor without gear takes a force, a servo what it holds its joint to."""
    actuator = model.actuator(number)
    if int(actuator.trntype[0]) != 0:  # it drives no joint
        return actuator.name or f"actuator {number}", None
    name = actuator.name or model.joint(actuator.trnid[0]).name or f"actuator {number}"
    turns = model.jnt_type[actuator.trnid[0]] == HINGE
    gain, bias = float(actuator.gainprm[0]), actuator.biasprm[:3].tolist()
    if int(actuator.biastype[0]) == 0:
        return name, ("N m" if turns else "N") if gain * float(actuator.gear[0]) == 1 else None
    if gain and float(actuator.gear[0]) == 1 and bias[1] == -gain:
        return name, "rad" if turns else "m"
    return name, ("rad/s" if turns else "m/s") if gain and bias[1:] == [0, -gain] else None


def _pose(model: Any) -> Iterator[tuple[str, float]]:
    position = model.key_qpos[0] if model.nkey else model.qpos0
    for number in range(model.njnt):
        if model.jnt_type[number] in (SLIDE, HINGE):
            yield model.joint(number).name or f"joint {number}", float(position[model.jnt_qposadr[number]])

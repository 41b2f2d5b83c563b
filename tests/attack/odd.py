"""Environments that do what none should, named ``tests.attack.odd:NAME-v0`` as a user's own would be.

``TAMPERED`` spoil the fourth step of some or all of their episodes; ``CLASSES`` are odd from the start.
``Dice`` are put together at random.
"""

import copy
import math
import os
import random
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Space, Tuple

from tests.deploy.conftest import Arm
from tests.tdmpc.conftest import Toy
from tests.tdmpc.env_toys import Sled

Step = Callable[[Any, float, bool], tuple[Any, Any, Any]]
"""What becomes of observation, reward and termination."""


def spoiling(spoil: Step, when: Callable[[Any], bool] = lambda toy: toy.time == 4) -> Callable[..., Toy]:
    """Toys some of whose steps are spoilt: the fourth of every episode when not said otherwise."""
    return partial(Toy, lambda toy, *step: spoil(*step) if when(toy) else step)


def paying(pay: Callable[[float], Any]) -> Callable[..., Toy]:
    """Toys with another reward, in every step."""
    return spoiling(lambda seen, reward, ended: (seen, pay(reward), ended), lambda toy: True)


def sensing(sense: Callable[[np.ndarray], Any]) -> Callable[..., Toy]:
    """Toys with another observation, in every step but not after a reset."""
    return spoiling(lambda seen, reward, ended: (sense(seen), reward, ended), lambda toy: True)


def raising(error: BaseException) -> Step:
    def spoil(*_: Any) -> Any:
        raise copy.copy(error)  # the traceback of one and the same would grow and grow

    return spoil


def sometimes(toy: Any) -> bool:
    """In the fourth step of about every fourth episode; which of them, the episode's seed tells."""
    return toy.time == 4 and toy.np_random.random() < 0.25


RAISED = {
    "Diverges": RuntimeError("bad QACC"),
    "Overflows": FloatingPointError("overflow in dynamics"),
    "Singular": np.linalg.LinAlgError("singular matrix"),
    "BadValue": ValueError("bad gear\nin two lines"),
    "LostPort": OSError(5, "Input/output error"),
    "NoKey": KeyError("gripper"),
    "NoMemory": MemoryError(),
    "Mute": Exception(),
    "Stops": StopIteration(),
    "Leaves": SystemExit(3),
}
TAMPERED: dict[str, Callable[..., gym.Env]] = {
    **{name: spoiling(raising(error)) for name, error in RAISED.items()},
    **{f"Sometimes{name}": spoiling(raising(RAISED[name]), sometimes) for name in ("Diverges", "BadValue")},
    "NanSensor": spoiling(lambda seen, reward, ended: (seen * math.nan, reward, ended)),
    "SometimesInfiniteReward": spoiling(lambda seen, reward, ended: (seen, math.inf, ended), sometimes),
    "NanReward": spoiling(lambda seen, reward, ended: (seen, math.nan, ended)),
    "NoReward": paying(lambda reward: None),
    "TextReward": paying(lambda reward: "much"),
    "NumberInTextReward": paying(str),
    "ArrayReward": paying(lambda reward: np.array([reward])),
    "WideReward": paying(lambda reward: np.array([reward, reward])),
    "ScalarReward": paying(np.float16),
    "ComplexReward": paying(complex),
    "FractionReward": paying(Fraction),
    "BoolReward": paying(lambda reward: reward < -0.5),
    "HugeReward": paying(lambda reward: 1e30 * reward),
    "LargestReward": paying(lambda reward: math.copysign(3.4e38, reward)),
    "TinyReward": paying(lambda reward: 1e-30 * reward),
    "HugeSensor": sensing(lambda seen: 1e30 * seen),
    "LargestSensor": sensing(lambda seen: np.copysign(3.4e38, seen)),
    "BeyondSinglePrecision": sensing(lambda seen: 1e300 * seen),
    "TinySensor": sensing(lambda seen: 1e-30 * seen),
    "ConstantSensor": sensing(lambda seen: np.full(2, 7.0)),
    "JumpingSensor": sensing(lambda seen: np.array([seen[0], 1e20 * (seen[1] > 0.3)])),
    "ListSensor": sensing(np.ndarray.tolist),
    "TextSensor": sensing(lambda seen: ["1", "2"]),
    "NoSensor": sensing(lambda seen: None),
    "ObjectSensor": sensing(lambda seen: np.array([object(), 1.0], object)),
    "ShorterSensor": sensing(lambda seen: seen[:1]),
    "ColumnSensor": sensing(lambda seen: seen[:, None]),
    "HalfSensor": sensing(np.float16),
    "ComplexSensor": sensing(lambda seen: seen + 1j),
    "NumpyEnd": spoiling(lambda seen, reward, ended: (seen, reward, np.True_)),
    "NoEnd": spoiling(lambda seen, reward, ended: (seen, reward, None)),
    "ArrayEnd": spoiling(lambda seen, reward, ended: (seen, reward, np.array([True]))),
    "TextEnd": spoiling(lambda seen, reward, ended: (seen, reward, "yes")),
    "EndsAtOnce": spoiling(lambda seen, reward, ended: (seen, reward, True), lambda toy: True),
    "EndsLate": spoiling(lambda seen, reward, ended: (seen, reward, True), lambda toy: toy.time == 1000),
}


def with_spaces(actions: Space | None = None, sensors: Space | None = None) -> Callable[..., gym.Env]:
    """Toys with other spaces, from which observations are drawn."""

    class Spaced(Toy):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.action_space = Toy.action_space if actions is None else actions
            self.observation_space = Toy.observation_space if sensors is None else sensors

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            super().reset(seed=seed)
            self.observation_space.seed(seed)
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            assert action in self.action_space, f"{action!r} is not in {self.action_space}"
            _, reward, *rest = super().step(np.ravel(action))
            return self.observation_space.sample(), reward, *rest

    return Spaced


class Changed(Toy):
    """A toy whose methods are changed by a function of the usual result."""

    after_reset: Callable[[Any, Any], Any] = staticmethod(lambda toy, result: result)
    after_step: Callable[[Any, Any], Any] = staticmethod(lambda toy, result: result)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.after_reset(self, super().reset(seed=seed))

    def step(self, action: np.ndarray) -> Any:
        return self.after_step(self, super().step(action))


def changed(**members: Any) -> type[gym.Env]:
    """A class of toys with other members."""
    return type("Odd", (Changed,), {k: staticmethod(v) if k.startswith("after_") else v for k, v in members.items()})


def fail(*_: Any, **__: Any) -> Any:
    raise ValueError("no such device")


def grown(toy: Any, result: Any) -> Any:
    """One sensor more from the third episode on."""
    toy.episode = getattr(toy, "episode", 0) + 1
    return (np.zeros(3), {}) if toy.episode >= 3 else result


def aliased(toy: Any, result: Any) -> Any:
    """Always the same array, written to again and again."""
    toy.buffer = getattr(toy, "buffer", np.zeros(2))
    toy.buffer[:] = result[0]
    return toy.buffer, *result[1:]


def writing(toy: Any, action: np.ndarray) -> Any:
    """Spoils the action that it was given."""
    result = Toy.step(toy, action)
    action[:] = math.nan
    return result


def printing(toy: Any, result: Any) -> Any:
    sys.stdout.write(f"step {toy.time}\n")
    sys.stderr.write("warning: joint 3 is warm\n")
    return result


def shaken(draw: Callable[[], float]) -> Callable[[Any, Any], Any]:
    return lambda toy, result: (result[0] + draw(), *result[1:])


def wide(low: Any, high: Any, dtype: Any = np.float64) -> Box:
    return Box(np.array(low, dtype), np.array(high, dtype), dtype=dtype)


CLASSES: dict[str, Callable[..., gym.Env]] = {
    "Tame": Toy,
    "Sled": Sled,
    "Arm3": partial(Arm, 3),
    "Arm40": partial(Arm, 40),
    "NotMade": fail,
    "NoReset": changed(reset=fail),
    "NanReset": changed(after_reset=lambda toy, result: (result[0] * math.nan, {})),
    "OldReset": changed(after_reset=lambda toy, result: result[0]),
    "SeedlessReset": changed(reset=lambda self: (np.zeros(2), {})),
    "GrowingReset": changed(after_reset=grown),
    "OldStep": changed(after_step=lambda toy, result: (*result[:2], result[2] or result[3], {})),
    "NoInfo": changed(after_step=lambda toy, result: (*result[:4], None)),
    "OddInfo": changed(after_step=lambda toy, result: (*result[:4], {"x": toy.time if toy.time % 2 else "text"})),
    "EndlessStep": changed(after_step=lambda toy, result: (*result[:3], False, {})),
    "CutAtOnce": changed(after_step=lambda toy, result: (*result[:3], True, {})),
    "Aliased": changed(after_step=aliased),
    "WritesActions": changed(step=writing),
    "Prints": changed(after_step=printing, after_reset=printing),
    "GlobalNumpy": changed(after_step=shaken(lambda: np.random.normal())),  # noqa: NPY002 - as such a user does
    "GlobalPython": changed(after_step=shaken(lambda: random.gauss(0, 1))),
    "Entropy": changed(after_step=shaken(lambda: os.urandom(1)[0] / 255)),
    "NoRender": changed(render=fail),
    "EmptyRender": changed(render=lambda self: None),
    "GreyRender": changed(render=lambda self: np.zeros((8, 8), np.float64)),
    "NoClose": changed(close=fail),
    "NanPeriod": changed(dt=math.nan),
    "NegativePeriod": changed(dt=-0.02),
    "TextPeriod": changed(dt="20 ms"),
    "NoMetadata": changed(metadata=None),
    "NoSpaces": changed(observation_space=None, action_space=None),
    "DiscreteActions": with_spaces(actions=Discrete(3)),
    "WholeActions": with_spaces(actions=Box(-2, 2, (2,), np.int64)),
    "DictActions": with_spaces(actions=Dict({"arm": Box(-1, 1, (1,))})),
    "UnboundedActions": with_spaces(actions=Box(-np.inf, np.inf, (1,))),
    "StuckActuator": with_spaces(actions=wide([-1, 0], [1, 0])),
    "NoActuator": with_spaces(actions=Box(-1, 1, (0,))),
    "AsymmetricActions": with_spaces(actions=wide([-3, 0.5, -1e-6], [1e4, 0.75, 1e6])),
    "NarrowActions": with_spaces(actions=wide([1, 1], [np.nextafter(1, 2), 1 + 1e-9])),
    "LargestActions": with_spaces(actions=wide([-1.7e308], [1.7e308])),
    "BareAction": with_spaces(actions=Box(-1, 1, (), np.float32)),
    "SquareActions": with_spaces(actions=Box(-1, 1, (2, 2), np.float16)),
    "WholeSensors": with_spaces(sensors=Box(-9, 9, (3,), np.int8)),
    "ByteSensors": with_spaces(sensors=Box(0, 255, (5,), np.uint8)),
    "Pictures": with_spaces(sensors=Box(0, 255, (8, 8, 3), np.uint8)),
    "Buttons": with_spaces(sensors=MultiBinary(4)),
    "NoSensors": with_spaces(sensors=Dict({})),
    "Nested": with_spaces(sensors=Tuple([Dict({"a/b": Box(-1, 1, ()), "c": Tuple([Box(-1, 1, (2, 1))])}), Box(0, 1)])),
    "ManySensors": with_spaces(sensors=Box(-1, 1, (3000,))),
}
NAMES = [*TAMPERED, *CLASSES]


class Dice(gym.Env):
    """An environment put together at random: spaces, scales, length of episodes, kinds of reward and faults."""

    def __init__(self, seed: int, **_: Any) -> None:
        self.dice = random.Random(seed)
        low = np.array([self.scale() * self.dice.choice([-1, 0, 1e-3]) for _ in range(self.dice.choice([1, 2, 7, 40]))])
        self.action_space = wide(low, low + np.array([self.scale() for _ in low]))
        self.observation_space = self.space(depth=0)
        self.pay = self.dice.choice([float, np.float32, np.float16, lambda reward: np.array([reward]), Fraction])
        self.worth, self.lasts = self.scale(), self.dice.choice([1, 2, 5, 30, 400])
        self.terminates, self.rate = self.dice.random() < 0.5, self.dice.choice([0, 0, 0.02, 0.3])
        self.fault = self.dice.choice(list(RAISED.values())[:5])

    def scale(self) -> float:
        return 10.0 ** self.dice.choice([-12, -3, 0, 0, 0, 2, 6, 12])

    def space(self, depth: int) -> Space:
        kind = self.dice.choice(["box", "box", "dict", "tuple"] if depth < 2 else ["box"])
        if kind == "box":
            shape = tuple(self.dice.randint(1, 3) for _ in range(self.dice.randint(0, 2)))
            size = min(self.scale(), 100.0) if (dtype := self.dice.choice("fdeb")) in "eb" else self.scale()
            return Box(-max(size, 1.0), max(size, 1.0), shape, np.dtype(dtype).type)
        parts = [self.space(depth + 1) for _ in range(self.dice.randint(1, 3))]
        return Tuple(parts) if kind == "tuple" else Dict({f"part {number}": part for number, part in enumerate(parts)})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> Any:
        assert action in self.action_space, f"{action!r} is not in {self.action_space}"
        self.time += 1
        if self.np_random.random() < self.rate:
            raise copy.copy(self.fault)
        over, reward = self.time >= self.lasts, self.pay(self.worth * self.np_random.normal())
        ends = (self.terminates and over, not self.terminates and over)
        return self.observation_space.sample(), reward, *ends, {}


def throw(seed: int) -> str:
    """Register a random environment in this process, and tell its name."""
    name = f"Dice-{seed}-v0"
    if name not in gym.registry:
        gym.register(name, entry_point=partial(Dice, seed))
    return name


for _name, _maker in {**TAMPERED, **CLASSES}.items():
    gym.register(f"{_name}-v0", entry_point=_maker)

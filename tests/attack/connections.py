"""Wrong connections of robots, and right ones: contract or log of a minute name every wrong one, and no right one.

In a wrong one a number, a whole sensor or an actuator is permuted, renamed, scaled, negated or shifted. Half are told
by the robot's contract, where it can tell them; the others show in the log alone. What a log says that it cannot tell
is counted and listed, and is no finding.
"""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tdmpc.config import PerturbConfig
from tdmpc.deploy import bundle, connection, logs, manifest, plausibility
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.envs import describe, make_env
from tests.attack.cases import Case, dice, scaled
from tests.deploy.conftest import MANIFEST

ROBOTS = ["cartpole-swingup", "Pendulum-v1", "reacher-easy", "finger-spin", "cheetah-run"]
CASES, BATCH = 1_000, 50
"""Wrong ones, and as many right ones."""
LOGS, SECONDS, TRAINED = 6, 60, 6_000
KINDS = ["permuted", "renamed", "scaled", "negated", "shifted"]
UNLIKE = PerturbConfig(masses=0.1, friction=0.1, damping=0.1, gains=0.1)
"""How far the robot of a log is from its simulation."""


class Robot(NamedTuple):
    """What a bundle would know, and logs of the robot itself: readings, actions, episodes."""

    described: Bundle
    law: plausibility.Arrays
    logs: list[tuple[np.ndarray, np.ndarray, np.ndarray]]


def cases(seed: int, scale: float) -> Iterator[Case]:
    """Batches of wrong connections, and of right ones, of one robot after the other."""
    for number in range(scaled(CASES / BATCH, scale)):
        robot = ROBOTS[number % len(ROBOTS)]
        for side, batch in (("wrong", wrong), ("right", right)):
            yield Case(f"{side}-{robot}-{number}", partial(batch, robot, (seed, number)), BATCH)


def wrong(name: str, words: tuple[object, ...], folder: Path) -> Iterator[str]:
    """Each is named, but for those of which the log says that it cannot tell."""
    robot, chosen = made(name), dice(*words, "wrong")
    by = dict.fromkeys(("contract", "log", "untold", "missed"), 0)
    for number in range(BATCH):
        case = damage(robot, chosen)
        verdict = named(robot, case)
        by[verdict] += 1
        if verdict == "untold":
            print(f"  untold {number} of {name}: {case.what}")
        elif verdict == "missed":
            yield f"connection {number} of {name}: nobody names that {case.what}"
    print(f"  {name}: of {BATCH} wrong connections, by whom they are named: {by}")


def right(name: str, words: tuple[object, ...], folder: Path) -> Iterator[str]:
    """None is named."""
    robot, chosen = made(name), dice(*words, "right")
    for number in range(BATCH):
        contract = stated(connection.contract(robot.described), chosen)
        if found := connection.differences(robot.described, contract):
            yield f"right contract {number} of {name}: {found}"
        lines, _ = examined(robot, columns(robot.described, *noisy(robot, chosen)))
        if lines:
            yield f"right log {number} of {name}: {lines}"


class Damaged(NamedTuple):
    """A robot's contract and log with one thing wrong."""

    what: str
    kind: str
    numbers: tuple[int, ...]
    shifts: dict[int, float]
    """How far these numbers are shifted, as the bundle counts them."""
    contract: Any
    columns: dict[str, np.ndarray]


def named(robot: Robot, case: Damaged) -> str:
    """Who names what is wrong: contract, log, nobody but untold, or nobody."""
    if connection.differences(robot.described, case.contract):
        return "contract"
    try:
        lines, undecided = examined(robot, case.columns)
    except BundleError:
        return "log"  # it has no such sensor
    if lines:
        return "log"
    alike = {"permuted": "exchanged"}.get(case.kind, case.kind)
    spread = robot.law["spread"]
    hidden = {
        number
        for each in undecided
        if each.kind == alike
        for number in each.columns
        if each.kind != "shifted" or case.shifts.get(number, 0.0) < each.amount * spread[number]
    }
    return "untold" if set(case.numbers) <= hidden else "missed"


def examined(robot: Robot, given: dict[str, np.ndarray]) -> tuple[list[str], tuple[plausibility.Wrong, ...]]:
    verdict = plausibility.examine(robot.law, *logs.transitions(robot.described, given), logs.sensors(robot.described))
    lines, _ = plausibility.told(verdict, logs.names(robot.described), robot.law)
    return lines, verdict.undecided


def damage(robot: Robot, chosen: random.Random) -> Damaged:
    """One thing wrong, in the log and, if the dice say so and it can be said, in the contract."""
    described = robot.described
    contract = deepcopy(connection.contract(described))
    readings, actions, episodes = noisy(robot, chosen)
    table = np.concatenate([readings, actions], axis=1)
    groups, begin = list[tuple[str, dict[str, Any], range]](), 0
    for name, group in (*contract["sensors"].items(), ("action", contract["actuators"])):
        groups.append((name, group, range(begin, begin := begin + len(group["names"]))))
    kind = chosen.choice(KINDS)
    name, group, numbers = chosen.choice([each for each in groups if kind != "permuted" or len(each[2]) > 1] or groups)
    kind = "negated" if kind == "permuted" and len(numbers) == 1 else kind
    touched = list(numbers) if kind == "permuted" or chosen.random() < 0.2 else [chosen.choice(numbers)]
    says, places = chosen.random() < 0.5, [number - numbers[0] for number in touched]
    group["low"], group["high"] = (list(group.get(key, [None] * len(numbers))) for key in ("low", "high"))
    given = columns(described, readings, actions, episodes)
    if kind == "renamed":
        return renamed(name, group, places, touched, contract, given, chosen, says=says)
    if kind == "permuted":
        order = numbers[:]
        while list(order) == list(numbers):
            order = chosen.sample(numbers, len(numbers))
        table[:, list(numbers)] = table[:, order]
        touched = [number for number, other in zip(numbers, order, strict=True) if number != other]
        if says:
            group["names"] = [group["names"][number - numbers[0]] for number in order]
        shifts: dict[int, float] = {}
        what = f"{name} has its numbers in the order {[number - numbers[0] for number in order]}"
    else:
        width = robot.law["high"] - robot.law["low"]
        factor = {"negated": -1.0, "scaled": chosen.choice([57.3, 1 / 57.3, 1e3, 1e-3])}.get(kind, 1.0)
        share = chosen.choice([-1, 1]) * chosen.uniform(0.3, 1) if kind == "shifted" else 0.0
        shifts = {number: abs(share * float(width[number])) for number in touched}
        for number, place in zip(touched, places, strict=True):
            half = (described.high - described.low)[place] / 2 if name == "action" else 1.0
            shift = share * float(width[number]) * float(half)
            table[:, number] = factor * table[:, number] + shift
            bounds = [group[key][place] for key in ("low", "high")]
            if says and None not in bounds:
                group["low"][place], group["high"][place] = sorted(factor * bound + shift for bound in bounds)
        what = f"{name}, {places}, is {kind}: {factor:.3g} x + {share:.2g} widths"
    parts = np.split(table, [readings.shape[1]], axis=1)
    return Damaged(what, kind, tuple(touched), shifts, contract, columns(described, *parts, episodes))


def renamed(
    name: str,
    group: dict[str, Any],
    places: list[int],
    touched: list[int],
    contract: Any,
    given: Any,
    chosen: random.Random,
    *,
    says: bool,
) -> Damaged:
    """A sensor or actuator that is called otherwise: in the contract, or in the log."""
    new = chosen.choice(["speed", "q", f"{name}_raw", f"my_{name}"])
    if says:
        group["names"] = [f"{new}{number}" if number in places else each for number, each in enumerate(group["names"])]
    else:
        given = {
            column.replace(name, new, 1) if column.split("/")[0] == name.split("/")[0] else column: each
            for column, each in given.items()
        }
    return Damaged(f"{name} is called {new}", "renamed", tuple(touched), {}, contract, given)


def stated(contract: dict[str, Any], chosen: random.Random) -> dict[str, Any]:
    """A right contract as somebody might write it: parts left out, sensors in any order, one more, wider limits."""
    sensors = list(deepcopy(contract["sensors"]).items())
    chosen.shuffle(sensors)
    told: dict[str, Any] = {**deepcopy(contract), "sensors": {**dict(sensors), "battery": {"names": ["voltage"]}}}
    spelled = {"rad": "radians", "m": "metres", "N m": "Nm", "m/s": "M/S"}
    for group in (*told["sensors"].values(), told["actuators"]):
        if group.get("unit"):
            group["unit"] = [spelled.get(unit, unit) if chosen.random() < 0.5 else unit for unit in group["unit"]]
        for key in ("names", "unit", "low", "high"):
            if chosen.random() < 0.3:
                group.pop(key, None)
    wider = chosen.uniform(1, 3)
    for key in ("low", "high"):
        if told["actuators"].get(key):
            told["actuators"][key] = [bound * wider for bound in contract["actuators"][key]]
    return {key: part for key, part in told.items() if chosen.random() < 0.8}


def noisy(robot: Robot, chosen: random.Random) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One of the logs, with noise of up to 2 % of what each reading does."""
    readings, actions, episodes = chosen.choice(robot.logs)
    noise = np.random.default_rng(chosen.getrandbits(32)).normal(size=readings.shape)
    return (
        readings + chosen.choice([0, 0.005, 0.02]) * robot.law["spread"][: readings.shape[1]] * noise,
        actions,
        episodes,
    )


def columns(
    described: Bundle, readings: np.ndarray, actions: np.ndarray, episodes: np.ndarray
) -> dict[str, np.ndarray]:
    """A log by the names of its columns."""
    table = np.concatenate([readings, actions], axis=1)
    return {"episode": episodes, **dict(zip(logs.names(described), table.T, strict=True))}


@cache
def made(name: str) -> Robot:
    """What training would leave of a robot, and its logs, both by random play of all strengths."""
    spec = describe(name, terminates=False, max_episode_steps=None)
    readings, actions, episodes = played(spec.id, TRAINED, 0, PerturbConfig())
    follows = np.diff(episodes) == 0
    now, acted, after = readings[:-1][follows], actions[:-1][follows], readings[1:][follows]
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    described = bundle._parse(
        Path(name),
        {
            **json.loads(json.dumps(MANIFEST)),
            "environment": {"control_period_ms": spec.control_period_ms},
            "observation": manifest.observation(spec, (now, acted, after)),
            "action": [manifest.action(spec)],
            "pose": dict(spec.pose),
        },
    )
    law = plausibility.learn(np.concatenate([now, acted], 1).astype(np.float64), after.astype(np.float64))
    count = int(1000 * SECONDS / (spec.control_period_ms or 50))
    perturb = PerturbConfig() if name == "Pendulum-v1" else UNLIKE
    told = [played(spec.id, count, 1 + number, perturb) for number in range(LOGS)]
    return Robot(described, law, [(seen, bundle.actuate(a, low, high), episode) for seen, a, episode in told])


def played(env_id: str, count: int, seed: int, perturb: PerturbConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Readings, actions in [-1, 1] and episodes of smooth random play."""
    random_ = np.random.default_rng(seed)
    with closing(make_env(env_id, perturb=perturb)) as env:
        observation, _ = env.reset(seed=seed)
        rows, actions, episodes, drift, episode = [], [], [], np.zeros(env.action_space.shape or 1), 0
        strength = random_.uniform(0.3, 1.5)
        for _ in range(count):
            drift = 0.8 * drift + 0.6 * random_.normal(size=drift.shape)
            action = np.clip(strength * drift, -1, 1).astype(np.float32)
            rows.append(observation), actions.append(action), episodes.append(episode)
            observation, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                episode, strength = episode + 1, random_.uniform(0.3, 1.5)
                observation, _ = env.reset(seed=seed + 1000 * episode)
    return np.array(rows), np.array(actions), np.array(episodes)

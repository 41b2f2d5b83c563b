"""The contract of a bundle, and what a robot says of itself held against it.

A contract is a mapping, in YAML or of Python; a robot leaves out what it does not know:

    period_ms: 20
    delay: 1
    sensors:
      joints: {names: [shoulder, elbow], unit: rad, low: [-3.1, -2.6], high: [3.1, 2.6]}
    actuators: {names: [shoulder, elbow], unit: N m, low: -1, high: 1}
    pose: {shoulder: 0, elbow: 0.5}

``unit``, ``low`` and ``high`` are one value for all numbers, or a list. Sensors are known by their names, in whatever
order they come; the numbers of a sensor, and actuators, by their place.
"""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tdmpc.deploy.bundle import Bundle, BundleError

PARTS = ("period_ms", "delay", "sensors", "actuators", "pose")
FIELDS = ("names", "unit", "low", "high", "scale", "offset")
SAME_UNIT = {
    **dict.fromkeys(("radian", "radians"), "rad"),
    **dict.fromkeys(("degree", "degrees", "°"), "deg"),
    **dict.fromkeys(("nm", "n*m", "newton metre"), "n m"),
    **dict.fromkeys(("metre", "meter", "metres", "meters"), "m"),
    **dict.fromkeys(("newton", "newtons"), "n"),
    **dict.fromkeys(("m/s²", "m/s**2"), "m/s^2"),
}
"""Other spellings of units, in small letters."""
SLACK = 0.05
"""Part of a range by which a robot's may differ."""
UNLIKELY = 10.0
"""Times a range that a robot's can be wider or narrower before the unit must be another."""

Contract = Mapping[str, Any]


def contract(described: Bundle) -> dict[str, Any]:
    """What a bundle asks of a robot. Older bundles name neither numbers nor units."""
    manifest = described.manifest
    action = {key: value for key, value in manifest["action"][0].items() if key not in ("name", "shape")}
    return {
        "period_ms": described.control_period_ms,
        "delay": described.delay,
        "sensors": {item["name"]: _stated(item, math.prod(item["shape"])) for item in manifest["observation"]},
        "actuators": _stated(action, described.action_dim),
        "pose": manifest.get("pose", {}),
    }


def _stated(item: Mapping[str, Any], count: int) -> dict[str, Any]:
    stated = {"names": item.get("names", [str(number) for number in range(count)]), "unit": item.get("units")}
    return stated | {key: item.get(key) for key in FIELDS[2:] if item.get(key) is not None}


def read(path: Path | str) -> dict[str, Any]:
    """Read a contract from YAML; JSON is YAML, too.

    Raises:
        BundleError: there is no such file, or it holds no mapping.
        ImportError: PyYAML is not installed.
    """
    yaml = _yaml()
    try:
        found = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BundleError(f"{path} is no contract that can be read: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise BundleError(f"{path} is no contract: it must be a mapping with {', '.join(PARTS)}")
    return found


def write(asked: Contract) -> str:
    """A contract in YAML, a line for each list."""
    return _yaml().safe_dump(dict(asked), sort_keys=False, default_flow_style=None, width=120)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("contracts are in YAML: pip install 'tdmpc[deploy]'") from error
    return yaml


def differences(described: Bundle, robot: Contract) -> list[str]:
    """What of a robot's contract is not as the bundle asks, a line for each; nothing where all of it is.

    Raises:
        BundleError: it is no contract: a part, a list or a number is not what it must be.
    """
    asked = contract(described)
    if unknown := [str(name) for name in robot if name not in PARTS]:
        raise BundleError(f"a contract has no part {unknown[0]!r}: it has {', '.join(PARTS)}")
    found = [*_times(asked, robot)]
    given = _mapping(robot.get("sensors", asked["sensors"]), "sensors")
    for name, sensor in asked["sensors"].items():
        if name in given:
            found += _group(f"sensor {name!r}", sensor, given[name], reads=True)
        else:
            spare = [other for other in given if other not in asked["sensors"]]
            found.append(f"sensor {name!r} is missing{_instead(name, spare)}")
    if "actuators" in robot:
        found += _group("the actuators", asked["actuators"], robot["actuators"], reads=False)
    for joint, place in _mapping(robot.get("pose", {}), "pose").items():
        if joint not in asked["pose"]:
            found.append(f"pose: training knows no joint {joint!r}{_instead(joint, list(asked['pose']))}")
        elif abs(_number(place, f"pose of {joint!r}") - asked["pose"][joint]) > 1e-2:
            found.append(f"pose of {joint!r} is {place:g}, in training it was {asked['pose'][joint]:g}")
    return found


def check(described: Bundle, robot: Contract | Path | str) -> None:
    """Refuse a robot that is not as the bundle asks.

    Raises:
        BundleError: it is not; every difference is named.
    """
    if found := differences(described, robot if isinstance(robot, Mapping) else read(robot)):
        raise BundleError(f"the robot is not the one that {described.folder} was made for: {'; '.join(found)}")


def _times(asked: Contract, robot: Contract) -> Iterator[str]:
    period, delay = robot.get("period_ms"), robot.get("delay")
    ours = asked["period_ms"]
    if period is not None and ours is not None and abs(_number(period, "period_ms") / ours - 1) > 1e-2:
        yield f"the robot decides every {period:g} ms, the bundle every {ours:g} ms"
    if delay is not None and delay != asked["delay"]:
        yield f"actions reach the robot {delay} decisions late, the bundle plans for {asked['delay']}"


def _group(place: str, asked: Contract, given: Any, *, reads: bool) -> Iterator[str]:
    """The numbers of a sensor, or all actuators."""
    given, names = _mapping(given, place), asked["names"]
    if unknown := [str(key) for key in given if key not in FIELDS]:
        raise BundleError(f"{place}: a contract says nothing of {unknown[0]!r}, but of {', '.join(FIELDS)}")
    count = len(names)
    if (found := given.get("names")) is not None:
        found = [str(each) for each in (found if isinstance(found, list | tuple) else [found])]
        if found != names:
            yield from _named(place, names, found)
            return
    values = {key: _each(given.get(key), count, f"{place}: {key}") for key in FIELDS[1:]}
    wanted = {key: _each(asked.get(key), count, place) for key in FIELDS[1:]}
    for number, name in enumerate(names):
        at = f"{place}, {name!r}" if count > 1 or name != "0" else place
        mine, theirs = ({key: each[number] for key, each in side.items()} for side in (wanted, values))
        if mine["unit"] and theirs["unit"] and _unit(mine["unit"]) != _unit(theirs["unit"]):
            yield f"{at} is in {theirs['unit']}, the bundle takes {mine['unit']}"
        yield from _range(at, mine, theirs, reads=reads)
        for key in ("scale", "offset"):
            if None in (mine[key], theirs[key]):
                continue
            if not math.isclose(mine[key], _number(theirs[key], at), rel_tol=1e-3, abs_tol=1e-6):
                yield f"{at} has the {key} {theirs[key]:g}, the bundle has {mine[key]:g}"


def _named(place: str, names: Sequence[str], found: Sequence[str]) -> Iterator[str]:
    if sorted(names) == sorted(found):
        yield f"{place} is permuted: the bundle has {', '.join(names)}, the robot {', '.join(found)}"
    elif len(names) != len(found):
        yield f"{place} has {len(found)} numbers, the bundle has {len(names)}: {', '.join(names)}"
    else:
        pairs = [(mine, theirs) for mine, theirs in zip(names, found, strict=True) if mine != theirs]
        yield f"{place} has {', '.join(f'{theirs!r} for {mine!r}' for mine, theirs in pairs)}"


def _range(at: str, mine: Contract, theirs: Contract, *, reads: bool) -> Iterator[str]:
    """A sensor may not read what training had not, an actuator must take all that the bundle asks of it."""
    bounds = [mine["low"], mine["high"], theirs["low"], theirs["high"]]
    if None in bounds:
        return
    low, high, robot_low, robot_high = (_number(bound, at) for bound in bounds)
    inner, outer = ((robot_low, robot_high), (low, high)) if reads else ((low, high), (robot_low, robot_high))
    slack, ratio = SLACK * (outer[1] - outer[0]), (inner[1] - inner[0]) * UNLIKELY
    if inner[0] < outer[0] - slack or inner[1] > outer[1] + slack or ratio < outer[1] - outer[0]:
        verb = "reads" if reads else "takes"
        yield f"{at} {verb} {robot_low:g} to {robot_high:g}, the bundle knows {low:g} to {high:g}: is the unit another?"


def _each(value: Any, count: int, place: str) -> list[Any]:
    if isinstance(value, list | tuple):
        if len(value) != count:
            raise BundleError(f"{place} must be one value or {count}, got {len(value)}")
        return list(value)
    return [value] * count


def _unit(text: Any) -> str:
    plain = " ".join(str(text).lower().split())
    return SAME_UNIT.get(plain, plain)


def _number(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BundleError(f"{place} must be a number, got {value!r}")
    return float(value)


def _mapping(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BundleError(f"{place} must be a mapping, got {value!r}")
    return value


def _instead(name: str, others: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, others, n=1) or list(others)
    return f"; the robot has {', '.join(map(repr, close))}" if close else ""

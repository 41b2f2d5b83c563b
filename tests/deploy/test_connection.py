"""Laws of the contract: every difference of a robot from its bundle is named, and nothing else is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tdmpc.deploy import bundle, connection
from tdmpc.deploy.bundle import Bundle, BundleError
from tdmpc.deploy.controller import Controller
from tdmpc.scripts import check
from tests.deploy.conftest import MANIFEST, Scripted, planned

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle that knows its joints and motors."""
    manifest = json.loads(json.dumps(MANIFEST))
    joints = {"names": ["shoulder", "elbow"], "units": ["rad", "rad"], "low": [-3.0, -2.0], "high": [3.0, None]}
    manifest["observation"][0] |= joints
    manifest["action"][0] |= {
        "names": ["shoulder", "elbow"],
        "units": ["N m", None],
        "scale": [2, 1],
        "offset": [1, 1.5],
    }
    manifest["pose"] = {"shoulder": 0.0, "elbow": 0.5}
    (tmp_path / bundle.MANIFEST).write_text(json.dumps(manifest))
    return tmp_path


WRONG: dict[str, tuple[Edit, str]] = {
    "period": (lambda robot: robot.update(period_ms=10), "the robot decides every 10 ms, the bundle every 20 ms"),
    "delay": (lambda robot: robot.update(delay=1), "actions reach the robot 1 decisions late, the bundle plans for 0"),
    "permuted": (
        lambda robot: robot["sensors"]["joint"].update(names=["elbow", "shoulder"]),
        "sensor 'joint' is permuted: the bundle has shoulder, elbow, the robot elbow, shoulder",
    ),
    "actuators permuted": (
        lambda robot: robot["actuators"].update(names=["elbow", "shoulder"]),
        "the actuators is permuted: the bundle has shoulder, elbow, the robot elbow, shoulder",
    ),
    "renamed": (
        lambda robot: robot["sensors"].update(joints=robot["sensors"].pop("joint")),
        "sensor 'joint' is missing; the robot has 'joints'",
    ),
    "number renamed": (
        lambda robot: robot["sensors"]["joint"].update(names=["hip", "elbow"]),
        "sensor 'joint' has 'hip' for 'shoulder'",
    ),
    "unit": (
        lambda robot: robot["sensors"]["joint"].update(unit=["rad", "degrees"]),
        "sensor 'joint', 'elbow' is in degrees, the bundle takes rad",
    ),
    "range": (
        lambda robot: robot["sensors"]["joint"].update(low=[-180, -2]),
        "sensor 'joint', 'shoulder' reads -180 to 3, the bundle knows -3 to 3: is the unit another?",
    ),
    "too weak": (
        lambda robot: robot["actuators"].update(high=[1, 2.5]),
        "the actuators, 'shoulder' takes -1 to 1, the bundle knows -1 to 3: is the unit another?",
    ),
    "thousandths": (
        lambda robot: robot["actuators"].update(low=[-1000, 0.5], high=[3000, 2.5]),
        "the actuators, 'shoulder' takes -1000 to 3000, the bundle knows -1 to 3: is the unit another?",
    ),
    "scale": (
        lambda robot: robot["actuators"].update(scale=[2, 57.3]),
        "the actuators, 'elbow' has the scale 57.3, the bundle has 1",
    ),
    "pose": (lambda robot: robot["pose"].update(elbow=0), "pose of 'elbow' is 0, in training it was 0.5"),
    "joint": (
        lambda robot: robot["pose"].update(elbo=0),
        "pose: training knows no joint 'elbo'; the robot has 'elbow'",
    ),
    "sensor": (lambda robot: robot["sensors"].pop("body/height"), "sensor 'body/height' is missing"),
}


@pytest.mark.parametrize(("edit", "says"), WRONG.values(), ids=WRONG)
def test_what_differs_is_named(folder: Path, edit: Edit, says: str) -> None:
    """A robot that differs in one thing is told of that thing alone, by name; as it was it is told of nothing."""
    described = bundle.read(folder)
    robot = json.loads(json.dumps(connection.contract(described)))
    assert connection.differences(described, robot) == []
    edit(robot)
    assert connection.differences(described, robot) == [says]


RIGHT: dict[str, Edit] = {
    "nothing": lambda robot: robot.clear(),
    "another spelling": lambda robot: robot["sensors"]["joint"].update(unit="Radians"),
    "stronger": lambda robot: robot["actuators"].update(high=[6, 2.5]),
    "one sensor more": lambda robot: robot["sensors"].update(battery={"unit": "V"}),
    "another order": lambda robot: robot.update(sensors=dict(reversed(robot["sensors"].items()))),
    "no names": lambda robot: robot["sensors"]["joint"].pop("names"),
}


@pytest.mark.parametrize("edit", RIGHT.values(), ids=RIGHT)
def test_what_fits_is_left_alone(folder: Path, edit: Edit) -> None:
    """What a robot leaves out, spells otherwise or has beside is no difference."""
    described = bundle.read(folder)
    robot = json.loads(json.dumps(connection.contract(described)))
    edit(robot)
    assert connection.differences(described, robot) == []


def test_a_controller_refuses_another_robot(folder: Path, tmp_path: Path) -> None:
    """``check`` takes a file or a mapping, and its error has every difference."""
    controller = Controller(bundle.read(folder), {bundle.PLANNER: Scripted(lambda _: planned())})
    path = tmp_path / "robot.yaml"
    path.write_text("period_ms: 10\nactuators: {names: [elbow, shoulder]}\n")
    with pytest.raises(BundleError, match=r"every 10 ms.*permuted"):
        controller.check(path)
    controller.check({"period_ms": 20})


def test_no_contract_is_one_line(described: Bundle, tmp_path: Path) -> None:
    """What is no contract, or says what none does, is refused by name."""
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(BundleError, match=r"list\.yaml is no contract"):
        connection.read(tmp_path / "list.yaml")
    for robot, says in [
        ({"sensor": {}}, "no part 'sensor'"),
        ({"sensors": {"joint": {"units": "m"}}}, "nothing of 'units'"),
    ]:
        with pytest.raises(BundleError, match=says):
            connection.differences(described, robot)


def test_the_command_tells_and_compares(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``tdmpc check`` prints a contract that passes its own check, and fails, by name, one that was changed."""
    assert check.main([str(folder)]) == 0
    said = capsys.readouterr().out
    path = tmp_path / "robot.yaml"
    path.write_text(said)
    assert check.main([str(folder), "--contract", str(path)]) == 0
    path.write_text(yaml.safe_dump({**yaml.safe_load(said), "period_ms": 5}))
    assert check.main([str(folder), "--contract", str(path)]) == 1
    assert "Wrong: the robot decides every 5 ms" in capsys.readouterr().out
